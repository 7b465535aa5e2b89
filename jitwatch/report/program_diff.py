"""Builds the result of `jitwatch diff` as one JSON object, from two programs, two compiles or two runs.

{"diff": 1, "jitwatch": "0.1.0", "kind": "programs" or "runs",
 "is_equal":    null if the logs do not show it
 "summary":     in one sentence
 "before", "now": {"name", "file", "compile": null or {"function", "nth", "run", "compile_s", "memory", …}},
 "difference":  null without texts, else {"changes": [{"kind", "what", "before", "after", "count"}],
                 "before", "after":  the first differing operations: {"text", "line", "function", "source"},
                 "only_before", "only_after", "same", "old_total", "new_total", "left_out", "is_equal"},
 "sentences":   the changes, a sentence each
 "values":      [{"name", "before", "now", "differs"}]: figures of both compiles from the logs
 "functions":   of two runs, those whose programs differ, as "programs" of a comparison
 "notes":       what could not be compared}
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jitwatch._version import __version__
from jitwatch.programs import Difference, compare_texts
from jitwatch.render import formats
from jitwatch.render import programs as wording
from jitwatch.report import sentences
from jitwatch.report.document import Row
from jitwatch.report.programs import HLO_ADVICE, MEMORY, MIN_BYTES, Compile, differs, row_of, text_of

FORM: Final = 1
#: Seconds after which no more texts of a run's programs are compared.
_LONGEST_S: Final = 60.0
_SECONDS: Final = {"trace_s": "trace", "lower_s": "lower", "compile_s": "compile"}
_KINDS: Final = {**MEMORY, "peak_bytes": "peak"}


@dataclass(slots=True)
class Side:
    """One of two programs.

    Attributes:
        name: What the user gave.
        text: Its StableHLO text; None without one.
        file: Path of the text.
        compile: The compile that made it, if it is from a log.
        missing: Why there is no text, with the next step.
    """

    name: str
    text: str | None = None
    file: str | None = None
    compile: Compile | None = None
    missing: str = ""


@dataclass(slots=True)
class ProgramDiff:
    """The object, and the difference that its text and page show.

    Attributes:
        document: The JSON object.
        found: The difference of the texts; None without them.
    """

    document: Row
    found: Difference | None = None


def of_programs(before: Side, now: Side) -> ProgramDiff:
    """Compare two programs by their texts, or without texts by the records of their compiles."""
    found = compare_texts(before.text, now.text) if before.text is not None and now.text is not None else None
    compiles = (before.compile, now.compile)
    values = _values(compiles[0], compiles[1]) if compiles[0] is not None and compiles[1] is not None else []
    notes = [f"{side.missing}." for side in (before, now) if side.missing]
    notes += [_other_processes(one) for one in compiles if one is not None and one.other_processes]
    is_equal = found.is_equal if found is not None else _is_equal(*compiles)
    document = {
        "diff": FORM,
        "jitwatch": __version__,
        "kind": "programs",
        "is_equal": is_equal,
        "summary": wording.summary(found) if found is not None else _summary(is_equal),
        "before": _side(before),
        "now": _side(now),
        "difference": found.row() if found is not None else None,
        "sentences": wording.changes(found) if found is not None else [],
        "values": values,
        "functions": [],
        "notes": list(dict.fromkeys(notes)),
    }
    return ProgramDiff(document, found)


def of_runs(
    names: Sequence[str],
    rows: list[Row],
    pairs: Sequence[tuple[Row, Row]],
    compiles: Sequence[dict[str, Compile]],
    folders: Sequence[str],
) -> ProgramDiff:
    """Compare the programs of two runs.

    Args:
        names: What the user gave for the earlier and for the later run.
        rows: The rows of the functions whose fingerprints, memory or FLOPs differ.
        pairs: The rows of the functions that both runs have, now and before.
        compiles: The last compile of each function of the earlier and of the later run, by label.
        folders: Folders to search for programs before those that are known from the logs.
    """
    known = {row["function"]: row for row in rows}
    found = []
    unknown: list[str] = []
    until = time.monotonic() + _LONGEST_S
    for new, old in pairs:
        label = new["function"]
        sides = (compiles[0].get(old["function"]), compiles[1].get(label))
        row = known.get(label) or row_of(new, old)
        difference = _of_last(sides[0], sides[1], folders) if time.monotonic() < until else None
        if difference is not None and not difference.is_equal:
            row["difference"] = difference.row()
            row["sentences"].insert(0, f"{label}, last compile: {lowered(wording.summary(difference))}")
        if row["sentences"]:
            found.append(row)
        elif not (row["are_equal"] or difference is not None):
            unknown.append(label)
    is_equal = False if found else None if unknown or not pairs else True
    notes = []
    if unknown:
        one = f"the programs of {formats.listed(unknown, 3)} are not known"
        notes.append(
            f"{sentences.capital(one)}: the logs have no fingerprints, and at least one file is missing. {HLO_ADVICE}."
        )
    document = {
        "diff": FORM,
        "jitwatch": __version__,
        "kind": "runs",
        "is_equal": is_equal,
        "summary": _of_runs(found, len(pairs), unknown),
        "before": {"name": names[0], "file": None, "compile": None},
        "now": {"name": names[1], "file": None, "compile": None},
        "difference": None,
        "sentences": [f"{text}." for row in found for text in row["sentences"]],
        "values": [],
        "functions": found,
        "notes": notes,
    }
    return ProgramDiff(document)


def _of_last(before: Compile | None, now: Compile | None, folders: Sequence[str]) -> Difference | None:
    """The difference between two compiles; None without the files of both."""
    if before is None or now is None:
        return None
    texts = [text_of(one, folders)[0] for one in (before, now)]
    return compare_texts(texts[0], texts[1]) if texts[0] is not None and texts[1] is not None else None


def lowered(text: str) -> str:
    """A sentence as the rest of another one."""
    return text[:1].lower() + text[1:].removesuffix(".")


def _of_runs(rows: list[Row], pairs: int, unknown: list[str]) -> str:
    if not pairs:
        return "The runs have no function in common."
    if rows:
        named = formats.listed([row["function"] for row in rows], 3)
        return f"The programs of {len(rows):,} of {formats.count(pairs, 'function')} differ: {named}."
    if unknown:
        return "No difference in memory and FLOPs, but the logs do not show whether the programs are equal."
    return f"No difference in the programs of {formats.count(pairs, 'function')}."


def _side(side: Side) -> Row:
    return {"name": side.name, "file": side.file, "compile": _compile_row(side.compile) if side.compile else None}


def _compile_row(one: Compile) -> Row:
    event = one.event
    names = ("call_site", "trace_s", "lower_s", "compile_s", "persistent_cache", "constant_bytes", "program", "reason")
    return {
        "function": event.function.label,
        "location": event.function.location,
        "nth": one.nth,
        "of": one.of,
        "run": one.run,
        "process": one.process,
        **{name: getattr(event, name) for name in names},
        "causes": list(event.causes),
        "memory": one.memory,
    }


def _is_equal(before: Compile | None, now: Compile | None) -> bool | None:
    """Whether two compiles had equal programs; None if their records do not show it."""
    if before is None or now is None:
        return None
    if before.event.program and now.event.program:
        return before.event.program == now.event.program
    if before.memory and now.memory:
        sizes = ("argument_bytes", "output_bytes")
        if any(before.memory.get(name) != now.memory.get(name) for name in sizes):
            return False
    return None


def _summary(is_equal: bool | None) -> str:
    if is_equal is None:
        return "The logs do not show whether the programs are equal."
    return "The programs are equal." if is_equal else "The programs differ."


def _values(before: Compile, now: Compile) -> list[Row]:
    """The figures of two compiles from the logs, a row for each figure."""
    rows: list[Row] = []

    def add(name: str, old: Any, new: Any, *, is_compared: bool = True) -> None:
        if old not in (None, "") or new not in (None, ""):
            rows.append({"name": name, "before": old, "now": new, "differs": is_compared and old != new})

    add("fingerprint", before.event.program, now.event.program)
    for name, kind in _KINDS.items():
        old, new = ((one.memory or {}).get(name) for one in (before, now))
        add(kind, old, new, is_compared=differs(old, new, MIN_BYTES))
    old, new = ((one.memory or {}).get("flops") for one in (before, now))
    add("FLOPs", old, new, is_compared=differs(old, new))
    old, new = ((one.memory or {}).get("bytes_accessed") for one in (before, now))
    add("bytes accessed", old, new, is_compared=differs(old, new, MIN_BYTES))
    add("constants", before.event.constant_bytes, now.event.constant_bytes)
    for name, phase in _SECONDS.items():
        add(f"{phase} seconds", getattr(before.event, name), getattr(now.event, name), is_compared=False)
    add("persistent cache", before.event.persistent_cache, now.event.persistent_cache, is_compared=False)
    add("recompiled because", before.event.reason or None, now.event.reason or None, is_compared=False)
    return rows


def _other_processes(one: Compile) -> str:
    others = "another process" if one.other_processes == 1 else f"{one.other_processes:,} other processes"
    return f"{one.name} is a compile of process {one.process}; {others} of the run also compiled the function."
