"""Compares two runs: what became worse, and what became better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TypedDict

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, names
from jitwatch.report.document import Document, Row
from jitwatch.report.programs import program_rows

#: Names in the totals, with the displayed names.
_TOTALS = {
    "compiles": "compiles", "recompiles": "recompiles", "lost_seconds": "seconds lost",
    "compile_seconds": "seconds compiling", "failures": "failed compiles", "pitfalls": "pitfalls", "storms": "storms",
    "steady_violations": "steady-state violations", "donation_violations": "donation violations",
    "out_of_memory": "out-of-memory errors", "leaks": "memory leaks",
}  # fmt: skip
_OF_RUN = ("runs", "started", "wall_seconds", "process_seconds")
#: Seconds vary from run to run: a difference below this, or below this share, is ignored.
_NOISE_S = 0.1
_NOISE_RATIO = 0.1
#: Pitfalls that are not listed if the violation that shows them is listed.
_COVERED_BY = {
    "use_after_donate": ("donation violation", "use_after_donate"),
    "double_donation": ("donation violation", "double_donation"),
    "unusable_donation": ("donation violation", "unusable"),
    "compile_during_steady": ("steady violation", ""),
}
#: Displayed names of kinds of problems that differ from their value in the JSON object.
_SHOWN = {"out of memory": "out-of-memory error", "steady violation": "steady-state violation"}
_LINE_NUMBER = re.compile(r"(@[^:]*):\d+$")


class RunComparison(TypedDict):
    """Two runs: a verdict in sentences, totals, functions and programs that differ, problems that are new or gone."""

    verdict: str
    worse: list[str]
    better: list[str]
    now: Row
    before: Row
    totals: list[Row]
    more_recompiles: int
    more_lost_seconds: float
    functions: list[Row]
    programs: list[Row]
    new: list[Row]
    gone: list[Row]


def compare(now: Document, before: Document) -> RunComparison:
    """Compare two runs.

    Functions are matched by label. A function with a line in its label, such as `train.<lambda>@train.py:88`, is also
    matched with one at another line, if each is the only one in that file without a match.
    """
    pairs = _pairs(now["functions"], before["functions"])
    same = {row["function"]: one["function"] for one, row in pairs if one is not None and row is not None}
    functions = [found for one, row in pairs if (found := _function(one, row)) is not None]
    functions.sort(key=lambda row: (-abs(row["more_recompiles"]), -abs(row["more_lost_seconds"])))
    problems_now, problems_before = _problems(now, {}), _problems(before, same)
    totals, before_totals = now["totals"], before["totals"]
    result: RunComparison = {
        "verdict": "",
        "worse": [],
        "better": [],
        "now": {name: now[name] for name in _OF_RUN},
        "before": {name: before[name] for name in _OF_RUN},
        "totals": [
            {"name": name, "label": label, "is_seconds": name.endswith("_seconds")}
            | {"before": before_totals[name], "now": totals[name]}
            for name, label in _TOTALS.items()
        ],
        "more_recompiles": totals["recompiles"] - before_totals["recompiles"],
        "more_lost_seconds": totals["lost_seconds"] - before_totals["lost_seconds"],
        "functions": functions,
        "programs": program_rows(pairs, now, before),
        "new": [one for key, one in problems_now.items() if key not in problems_before],
        "gone": [one for key, one in problems_before.items() if key not in problems_now],
    }
    _judge(result)
    result["verdict"] = _verdict(result)
    return result


def common_functions(now: Document, before: Document) -> list[tuple[Row, Row]]:
    """The rows of the functions that both runs have, now and before."""
    pairs = _pairs(now["functions"], before["functions"])
    return [(one, row) for one, row in pairs if one is not None and row is not None]


def head_of(comparison: RunComparison) -> list[str]:
    """The verdict, and a note if the lengths of the runs differ."""
    found = [comparison["verdict"]]
    lengths = [side["process_seconds"] for side in (comparison["before"], comparison["now"])]
    if max(lengths) > 1.5 * min(lengths):
        found.append(f"The runs differ in length: {' before, '.join(map(formats.seconds, lengths))} now.")
    return found


def program_sentences(comparison: RunComparison) -> list[str]:
    """Sentences about the differences between the programs of both runs, except for memory."""
    return [text for row in comparison["programs"] for text in row["sentences"][len(row["memory"]) :]]


def shown(row: Row, value: float) -> str:
    """A value of the totals as text."""
    return f"{value:,.2f}" if row["is_seconds"] else f"{value:,}"


def change_of(row: Row) -> str:
    """The change of a total, with its sign."""
    change = row["now"] - row["before"]
    return f"{'+' if change > 0 else ''}{shown(row, change)}" if change else "="


def lost_of(row: Row) -> str:
    """Lost seconds of a function in both runs: `0 s → 2.96 s`."""
    lost = (row["lost_seconds_before"], row["lost_seconds_now"])
    return " → ".join(formats.seconds(one) if one else "0 s" for one in lost)


def _pairs(now: list[Row], before: list[Row]) -> list[tuple[Row | None, Row | None]]:
    """The rows of each function in both runs; None where a run does not have it."""
    old = {row["function"]: row for row in before if row["function"] != JAX_LABEL}
    new = {row["function"]: row for row in now if row["function"] != JAX_LABEL}
    moved_from = {name: label for label, name in _without_lines(old.keys() - new.keys()).items()}
    moved_to = _without_lines(new.keys() - old.keys())
    pairs: list[tuple[Row | None, Row | None]] = []
    for label, row in new.items():
        pairs.append((row, old.pop(label, None) or old.pop(moved_from.get(moved_to.get(label, ""), ""), None)))
    return pairs + [(None, row) for row in old.values()]


def _without_lines(labels: Iterable[str]) -> dict[str, str]:
    """The labels that are unique without their line, each with the label without it."""
    names = {label: name for label in labels if (name := _LINE_NUMBER.sub(r"\1", label)) != label}
    numbers = Counter(names.values())
    return {label: name for label, name in names.items() if numbers[name] == 1}


def _function(now: Row | None, before: Row | None) -> Row | None:
    """The differences of a function; None without any."""
    row = now or before
    assert row is not None
    recompiles = [side["recompiles"] if side else 0 for side in (before, now)]
    lost = [side["lost_seconds"] if side else 0.0 for side in (before, now)]
    causes = [set(side["causes"]) if side else set() for side in (before, now)]
    if recompiles[0] == recompiles[1] and causes[0] == causes[1] and not _differs(lost[1], lost[0]):
        return None
    return {
        "function": row["function"],
        "location": row["location"],
        "recompiles_before": recompiles[0],
        "recompiles_now": recompiles[1],
        "more_recompiles": recompiles[1] - recompiles[0],
        "lost_seconds_before": lost[0],
        "lost_seconds_now": lost[1],
        "more_lost_seconds": lost[1] - lost[0],
        "new_causes": sorted(causes[1] - causes[0]),
        "gone_causes": sorted(causes[0] - causes[1]),
        "is_new": before is None,
        "is_gone": now is None,
    }


def _differs(one: float, other: float) -> bool:
    return abs(one - other) > max(_NOISE_S, _NOISE_RATIO * max(one, other))


def _problems(document: Document, same: dict[str, str]) -> dict[tuple[str, ...], Row]:
    """The problems of a run, by a key that is the same in both runs; `same` has the other run's labels of functions."""
    found: dict[tuple[str, ...], Row] = {}
    memory = document["memory"]
    for kind, rows, fields in (
        ("out of memory", memory["out_of_memory"], ()),
        ("memory leak", memory["leaks"], ("growing",)),
        ("failed compile", document["failures"], ("error",)),
        ("donation violation", document["donation_violations"], ("kind",)),
        ("steady violation", document["steady_violations"], ()),
        ("pitfall", document["pitfalls"], ("pitfall",)),
    ):
        for row in rows:
            function = row.get("function") or ""
            what = " ".join(str(row[name]) for name in fields)
            key = (kind, what, same.get(function, function))
            if kind == "pitfall" and (*_COVERED_BY.get(what, ()), key[2]) in found:
                continue
            name, call_site = formats.short_name(row.get("name") or "", function), row.get("call_site")
            one = {"kind": kind, "what": what, "function": function or None, "name": name, "call_site": call_site}
            found.setdefault(key, one)
    return found


def _judge(result: RunComparison) -> None:
    """Say what became worse and what became better, a text each; problems first, then functions by change."""
    result["worse"] += [_problem(one, "New") for one in result["new"]]
    result["better"] += [_problem(one, "Gone:") for one in result["gone"]]
    for row in result["functions"]:
        more = row["more_recompiles"] or (row["more_lost_seconds"] if _lost_differs(row) else 0)
        if more > 0 or row["new_causes"]:
            result["worse"].append(_change(row))
        elif more < 0 or row["gone_causes"]:
            result["better"].append(_change(row))
    for row in result["programs"]:
        # The first sentences are those about memory.
        for one, text in zip(row["memory"], row["sentences"], strict=False):
            result["worse" if one["more"] > 0 else "better"].append(text)


def _lost_differs(row: Row) -> bool:
    return _differs(row["lost_seconds_now"], row["lost_seconds_before"])


def _problem(one: Row, how: str) -> str:
    who = f" in {one['name']}" if one["name"] else ""
    where = f" at {formats.file_line(one['call_site'])}" if one["call_site"] else ""
    return f"{how} {_SHOWN.get(one['kind'], one['kind'])}{f' ({what})' if (what := one['what']) else ''}{who}{where}"


def _change(row: Row) -> str:
    parts = [f"recompiles {row['recompiles_before']:,} → {row['recompiles_now']:,}"] if row["more_recompiles"] else []
    if _lost_differs(row):
        parts.append(f"lost {lost_of(row)}")
    parts += [f"new cause {cause}" for cause in row["new_causes"]]
    parts += [f"cause {cause} no longer occurs" for cause in row["gone_causes"]]
    return f"{row['function']}: {', '.join(parts)}"


def _verdict(result: RunComparison) -> str:
    """The comparison in one sentence."""
    worse, better = result["worse"], result["better"]
    before = " and ".join(result["before"]["runs"][:2]) or "the other run"
    if not worse and not better:
        other = [formats.short_name(names.last_of(row["function"]), row["function"]) for row in result["programs"]]
        if other:
            return f"Different programs than {before}: {formats.listed(other, 3)}; no other difference."
        return f"No difference from {before}."
    recompiles, lost = result["more_recompiles"], result["more_lost_seconds"]
    totals = {row["name"]: row for row in result["totals"]}["lost_seconds"]
    parts = []
    if recompiles:
        noun = f"{'more' if recompiles > 0 else 'fewer'} recompile"
        parts.append(formats.count(abs(recompiles), noun))
    if _differs(totals["now"], totals["before"]):
        parts.append(f"{formats.seconds(abs(lost))} {'more' if lost > 0 else 'less'} lost")
    for name, problems in (("new", result["new"]), ("gone", result["gone"])):
        kinds = Counter(_SHOWN.get(one["kind"], one["kind"]) for one in problems)
        parts += [formats.count(number, f"{name} {kind}") for kind, number in kinds.items()]
    changed = sum(bool(row["memory"]) for row in result["programs"])
    parts += [f"memory of {formats.count(changed, 'function')} changed"] * bool(changed)
    mark = "Worse" if not better else "Better" if not worse else "Partly worse, partly better"
    return f"{mark} than {before}: {', '.join(parts) or 'see below'}."
