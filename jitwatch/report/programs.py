"""Compares the programs of two runs, and finds single compiles in event logs."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jitwatch.errors import ConfigError
from jitwatch.model.cleaning import clean
from jitwatch.model.events import Compiled, ExecutableMeasured, Installed
from jitwatch.render import formats, names
from jitwatch.report.decode import decode
from jitwatch.report.document import Document, Row
from jitwatch.report.lines import Lines, NotRegularError, opened
from jitwatch.report.sources import PROGRAM_FILE, Source
from jitwatch.state.views import program_row

#: The smallest difference that is reported: in memory this number of bytes and this share, in FLOPs this share.
MIN_BYTES: Final = 1 << 20
MIN_SHARE: Final = 0.05
#: Kinds of memory by their name in a row.
MEMORY: Final = {"temporary_bytes": "temporaries", "argument_bytes": "arguments", "output_bytes": "outputs"}
#: Compiles of one function, and bytes of a text, that are read at most.
_MAX_COMPILES: Final = 100_000
MAX_TEXT: Final = 1 << 30
_CHUNK: Final = 1 << 20
_MAX_NAME: Final = 255
HLO_ADVICE: Final = "install(hlo_dir=…) or JITWATCH_HLO_DIR keeps the program of every compile"


# Two runs


def program_rows(pairs: Iterable[tuple[Row | None, Row | None]], now: Document, before: Document) -> list[Row]:
    """The functions of both runs whose programs, memory or FLOPs differ.

    Args:
        pairs: The rows of each function now and before.
        now: The run.
        before: The run that it is compared with.
    """
    under = _under(now, before)
    found = []
    for new, old in pairs:
        if new is None or old is None:
            continue
        row = row_of(new, old)
        row["sentences"] = _sentences(row, under)
        if row["sentences"]:
            found.append(row)
    return sorted(found, key=lambda row: -sum(abs(one["more"]) for one in row["memory"]))


def differs(before: float | None, now: float | None, least: float = 0.0) -> bool:
    """Whether two values differ enough to be reported."""
    if before is None or now is None:
        return False
    return abs(now - before) >= max(least, MIN_SHARE * max(before, now)) and now != before


def row_of(new: Row, old: Row) -> Row:
    """The row of a function of both runs, without sentences."""
    hashes = [side.get("programs") or [] for side in (old, new)]
    used = [side.get("executable") or {} for side in (old, new)]
    memory = []
    for name, kind in MEMORY.items():
        values = [side.get(name) for side in used]
        if values[0] is not None and values[1] is not None:
            is_reported = differs(values[0], values[1], MIN_BYTES)
            one = {"kind": kind, "before": values[0], "now": values[1], "more": values[1] - values[0]}
            memory += [one] if is_reported else []
    return {
        "function": new["function"],
        "location": new["location"],
        "programs_before": hashes[0],
        "programs_now": hashes[1],
        "are_equal": sorted(hashes[0]) == sorted(hashes[1]) if all(hashes) else None,
        "memory": memory,
        "flops_before": used[0].get("flops"),
        "flops_now": used[1].get("flops"),
        "bytes_accessed_before": used[0].get("bytes_accessed"),
        "bytes_accessed_now": used[1].get("bytes_accessed"),
        "compiles_before": old["compiles"],
        "compiles_now": new["compiles"],
        "compile_seconds_before": old["seconds"],
        "compile_seconds_now": new["seconds"],
        "difference": None,
        "sentences": [],
    }


def _sentences(row: Row, under: str) -> list[str]:
    name = row["function"]
    found = []
    for one in row["memory"]:
        more = f"{formats.size(abs(one['more']))} {'more' if one['more'] > 0 else 'less'} for {one['kind']}"
        if one["kind"] == "temporaries":
            more = f"{formats.size(abs(one['more']))} {'more' if one['more'] > 0 else 'fewer'} temporaries"
        found.append(f"{name} needs {more}{under}: {formats.size(one['before'])} → {formats.size(one['now'])}")
    before, now = row["flops_before"], row["flops_now"]
    if differs(before, now):
        change = f"{formats.percent(abs(now - before) / before)} " if before else ""
        found.append(f"{name} needs {change}{'more' if now > before else 'fewer'} FLOPs: {before:.3g} → {now:.3g}")
    before, now = row["bytes_accessed_before"], row["bytes_accessed_now"]
    if differs(before, now, MIN_BYTES):
        verb = "more" if now > before else "fewer"
        found.append(f"{name} accesses {verb} bytes: {formats.size(before)} → {formats.size(now)}")
    if row["are_equal"] is False:
        come = len(set(row["programs_now"]) - set(row["programs_before"]))
        gone = len(set(row["programs_before"]) - set(row["programs_now"]))
        parts = [f"{come:,} only now"] * bool(come) + [f"{gone:,} only before"] * bool(gone)
        found.append(f"{name} compiled different programs: {', '.join(parts)}")
    return found


def _under(now: Document, before: Document) -> str:
    """` under jaxlib 0.12.0` if the versions differ."""
    for name in ("jaxlib", "jax"):
        versions = [side["versions"].get(name, []) for side in (before, now)]
        if versions[0] and versions[1] and versions[0] != versions[1]:
            return f" under {name} {', '.join(versions[1][:2])}"
    return ""


# One compile


@dataclass(slots=True)
class Compile:
    """A compile from an event log.

    Attributes:
        log: Name of the log as the user gave it.
        run, process: Run and process.
        nth: Number of the compile among those of the function in the process.
        event: Its event.
        hlo: Name of the file with its program; empty without one.
        folder: Folder in which that file was written; empty if it is unknown.
        memory: Memory and FLOPs of the program; None if they were not measured.
        of: Number of compiles of the function in the process.
        other_processes: Number of other processes that compiled the function.
    """

    log: str
    run: str
    process: str
    nth: int
    event: Compiled
    hlo: str
    folder: str
    memory: Row | None = None
    of: int = 0
    other_processes: int = 0

    @property
    def name(self) -> str:
        """`LOG:function#3`."""
        return f"{self.log}:{self.event.function.label}#{self.nth}"


def find_compile(sources: Sequence[Source], log: str, function: str, nth: int | None) -> Compile:
    """Find a compile of a function in the logs of a run; raises ConfigError if there is none.

    Args:
        sources: The files.
        log: The log as the user gave it.
        function: The label of the function, or the end of it, or a pattern.
        nth: Number of the compile in its process; None for the last one.
    """
    search = _Search(log, function)
    for source in sources:
        for record in _records(source):
            search.take(record, source)
    return search.found(nth)


def last_compiles(sources: Sequence[Source], log: str) -> dict[str, Compile]:
    """The last compile of each function, by its label, in the first process that compiled it.

    Args:
        sources: The files.
        log: The log as the user gave it.
    """
    search = _Search(log, "*")
    for source in sources:
        for record in _records(source):
            search.take(record, source)
    return search.last()


@dataclass(slots=True)
class _Process:
    folder: str = ""
    compiles: dict[str, list[Compile]] = field(default_factory=dict)


class _Search:
    """Collects the compiles of a function from the records of a run."""

    def __init__(self, log: str, function: str) -> None:
        self._log, self._function = log, function
        self._processes: dict[tuple[str, str, str], _Process] = {}
        self._known: dict[str, Row] = {}
        self._left = _MAX_COMPILES

    def take(self, record: dict[str, Any], source: Source) -> None:
        decoded = decode(record, [])
        header, event = decoded.header, decoded.event
        if not isinstance(event, (Compiled, Installed, ExecutableMeasured)):
            return
        run, process = header.run or "", header.process or source.log
        one = self._processes.setdefault((run, process, source.log), _Process())
        if isinstance(event, Installed):
            one.folder = event.hlo_dir
            return
        label = event.function.label
        row = self._known.setdefault(label, {"function": label, "location": event.function.location})
        if event.function.is_internal or not names.matching(self._function, [row]):
            return
        some = one.compiles.setdefault(label, [])
        if isinstance(event, ExecutableMeasured):
            # The latest program is measured first: the first measurement after a compile belongs to its program.
            if some and some[-1].memory is None:
                some[-1].memory = dict(program_row(event))
        elif self._left > 0:
            self._left -= 1
            number = event.nth if event.nth and event.nth > len(some) else len(some) + 1
            some.append(Compile(self._log, run, process, number, event, _file_of(record), one.folder))

    def last(self) -> dict[str, Compile]:
        found: dict[str, Compile] = {}
        for process in self._processes.values():
            for label, some in process.compiles.items():
                if some:
                    found.setdefault(label, some[-1])
        for one in found.values():
            one.of = one.nth
        return found

    def found(self, nth: int | None) -> Compile:
        label, log = self._label(), self._log
        having = [some for one in self._processes.values() if (some := one.compiles.get(label))]
        for some in having:
            for one in reversed(some):
                if nth is None or one.nth == nth:
                    one.of, one.other_processes = some[-1].nth, len(having) - 1
                    return one
        most = max(some[-1].nth for some in having)
        raise ConfigError(
            f"{label} has no compile #{nth} in {log}: it compiled {formats.count(most, 'time')}; "
            f"give {log}:{label}#{most} for the last one"
        )

    def _label(self) -> str:
        rows = names.matching(self._function, list(self._known.values()))
        compiled = {label for one in self._processes.values() for label, some in one.compiles.items() if some}
        labels = [row["function"] for row in rows if row["function"] in compiled]
        if not labels:
            raise ConfigError(names.unknown(self._function, list(self._known.values()), f"in {self._log}"))
        if len(labels) > 1:
            raise ConfigError(
                f"{self._function!r} matches {formats.listed(labels, 5)} in {self._log}; "
                f"give the whole name of one, such as {self._log}:{labels[0]}"
            )
        return str(labels[0])


def text_of(compile_: Compile, folders: Sequence[str]) -> tuple[str | None, str]:
    """The program of a compile, and the path of its file; otherwise None, and the reason with the next step.

    Args:
        compile_: The compile.
        folders: Folders to search before those that are known from the log.
    """
    if not compile_.hlo:
        return None, f"{compile_.name} has no program file. {HLO_ADVICE}"
    beside = compile_.log if os.path.isdir(compile_.log) else os.path.dirname(compile_.log)
    base = os.path.basename(compile_.folder.rstrip("/\\"))
    tried = [*folders, compile_.folder, beside, os.path.join(beside, base) if base else ""]
    for folder in filter(None, tried):
        path = os.path.join(folder, compile_.hlo)
        if os.path.isfile(path):
            return read_text(path), path
    where = f" is not in {' or '.join(dict.fromkeys(clean(one) for one in tried if one))}" if any(tried) else ""
    return None, f"the file {compile_.hlo} of {compile_.name}{where}; name its folder with --hlo-dir"


def read_text(path: str) -> str:
    """The text of a file, compressed or not; raises ConfigError if it cannot be read."""
    parts: list[bytes] = []
    size = 0
    try:
        with opened(Source(path, path, 0)) as raw:
            is_zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if is_zipped else raw as file:
                while data := file.read(_CHUNK):
                    size += len(data)
                    if size > MAX_TEXT:
                        raise ConfigError(f"{path!r} is larger than {formats.size(MAX_TEXT)}; name a StableHLO text")
                    parts.append(data)
    except NotRegularError as error:
        raise ConfigError(f"{path!r} is {error}; name a file with the StableHLO text of a program") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it is truncated"
        raise ConfigError(f"{path!r} cannot be read ({reason}); check its path and permissions") from error
    return b"".join(parts).decode("utf-8", "replace")


def _records(source: Source) -> Iterable[dict[str, Any]]:
    if source.problem:
        return
    scan = json.JSONDecoder(parse_int=float).raw_decode
    try:
        with opened(source) as raw:
            for _, lines, _ in Lines(raw):
                for line in lines:
                    # Most records are of other events.
                    if b'"jit.' not in line and b'"program.measured"' not in line and b'"agent.installed"' not in line:
                        continue
                    try:
                        record, _ = scan(line.decode("utf-8", "replace").strip(" \t\r\x00"))
                    except (ValueError, RecursionError):
                        continue
                    if type(record) is dict and "event" in record:
                        yield record
    except OSError as error:
        raise ConfigError(
            f"the event log {source.path!r} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _file_of(record: dict[str, Any]) -> str:
    """The name of the file with the program. A log is not trusted: no path."""
    name = record.get("hlo")
    return name if type(name) is str and len(name) <= _MAX_NAME and PROGRAM_FILE.fullmatch(name) else ""
