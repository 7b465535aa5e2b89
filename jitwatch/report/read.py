"""Reads event logs: parses and decodes each line, aggregates the events, and counts what cannot be read.

A job may have been killed in the middle of a line, a disk may have been full, a log may be from a newer version or not
be a log at all. Everything that can be read is used, and the rest is counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jitwatch.errors import ConfigError
from jitwatch.model.cleaning import clean
from jitwatch.model.taxonomy import SCHEMA
from jitwatch.report.aggregate import Run
from jitwatch.report.decode import decode
from jitwatch.report.lines import MAX_LINE, Lines, NotRegularError, opened
from jitwatch.report.sources import Source

#: Maximum numbers of names of unknown events, and of problems.
_MAX_UNKNOWN = 20
MAX_PROBLEMS: Final = 10
_MAX_NAME = 100
#: Characters that may surround a record; a crash of the machine leaves null characters.
_EDGES: Final = " \t\r\x00"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that was ignored, wholly or in part.

    Attributes:
        log: Name of the file.
        line: Number of the line, from 1.
        reason: What is wrong with it.
    """

    log: str
    line: int
    reason: str


@dataclass(slots=True)
class Tally:
    """Counts what was read and what was ignored.

    Attributes:
        torn: Files with an incomplete last line: their jobs were killed, or are still writing.
        unreadable: Lines that are not events.
        incomplete: Events without a required field, and events that the agent had to shorten.
        misfits: Fields with an invalid value, which are ignored; the other fields of their events are used.
        unknown: Number of events that this version does not know, by name.
        newer: Events of a newer schema; they are used as far as this version knows them.
        damaged: Compressed files that are truncated or corrupt.
        skipped: Files of a folder that are not regular, with what they are.
        problems: The first lines of which something was ignored.
    """

    files: int = 0
    bytes: int = 0
    lines: int = 0
    torn: int = 0
    unreadable: int = 0
    incomplete: int = 0
    misfits: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    newer: int = 0
    damaged: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_logs(sources: Sequence[Source], *, on_progress: Progress | None = None) -> tuple[Run, Tally]:
    """Read files and aggregate their events.

    Args:
        sources: Files in the order in which they were written.
        on_progress: Called from time to time with the number of bytes read so far.

    Raises:
        ConfigError: A file cannot be read, or no file has an event.
    """
    reader = _Reader(on_progress or (lambda _: None))
    for source in sources:
        reader.file(source)
    tally = reader.tally
    if not reader.run.events:
        names = ", ".join(clean(source.path) for source in sources[:3]) + (" …" if len(sources) > 3 else "")
        if not tally.files:
            raise ConfigError(f"no event log can be read in {names}: {', '.join(tally.skipped[:3])}")
        if not tally.lines:
            raise ConfigError(
                f"there are no events in {names}: the file is empty. The job may not have started, or its log was "
                "truncated"
            )
        first = next((f" ({one.log}:{one.line}: {one.reason})" for one in tally.problems), "")
        raise ConfigError(
            f"none of the {tally.lines:,} lines in {names} is an event{first}; name the log that `jitwatch run` or "
            "install(event_log=…) wrote"
        )
    return reader.run, tally


class _Reader:
    def __init__(self, on_progress: Progress) -> None:
        self.run = Run()
        self.tally = Tally()
        self._on_progress = on_progress
        self._behind = 0
        # All numbers as floats: parsing an integer takes time quadratic in its number of digits.
        decoder: Any = json.JSONDecoder(parse_int=float)
        # Not its method raw_decode, which adds a call.
        self._scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once
        self._name = ""

    def file(self, source: Source) -> None:
        self._name = clean(os.path.basename(source.path), _MAX_NAME)
        if source.problem:
            self.tally.skipped.append(f"{self._name} is {source.problem}")
            return
        try:
            with opened(source) as raw:
                self.tally.files += 1
                log = self.run.log(source.log)
                lines = Lines(raw)
                for number, some, is_last in lines:
                    self._too_long(lines)
                    self._lines(some, number, log, is_last=is_last)
                    self._on_progress(self._behind + (raw.tell() if raw.seekable() else 0))
                self._too_long(lines)
        except NotRegularError as error:
            self.tally.skipped.append(f"{self._name} is {error}")
            return
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"the event log {source.path!r} cannot be read ({reason}); check its permissions and the disk"
            ) from error
        self.tally.bytes += lines.bytes
        if lines.is_damaged:
            self.tally.damaged.append(self._name)
        self._behind += source.size

    def _too_long(self, lines: Lines) -> None:
        for number in lines.too_long:
            self.tally.lines += 1
            self.tally.unreadable += 1
            self._problem(number, f"longer than {MAX_LINE >> 20} MiB")
        lines.too_long.clear()

    def _lines(self, lines: list[bytes], first: int, log: int, *, is_last: bool) -> None:
        for number, line in enumerate(lines, first):
            if not line or line.isspace():
                continue
            self.tally.lines += 1
            try:
                text = line.decode("utf-8", "replace")
                if text[0] != "{" or text[-1] != "}":
                    text = text.strip(_EDGES)
                record, end = self._scan(text, 0)
                is_whole = end == len(text)
            except (ValueError, RecursionError, StopIteration) as error:
                if is_last:
                    self.tally.torn += 1
                else:
                    self.tally.unreadable += 1
                    self._problem(number, _reason(error))
                continue
            if is_whole and type(record) is dict and "event" in record:
                self._record(record, number, log)
                continue
            self.tally.unreadable += 1
            self._problem(number, "not an event" if is_whole else "more than one JSON object")

    def _record(self, record: dict[str, Any], number: int, log: int) -> None:
        misfits: list[str] = []
        decoded = decode(record, misfits)
        self.run.add(decoded, log)
        schema = decoded.header.schema
        if schema is not None and schema > SCHEMA:
            self.tally.newer += 1
        self.tally.misfits += len(misfits)
        if decoded.event is None:
            if not decoded.name:
                self._unknown(record["event"])
            else:
                self.tally.incomplete += 1
                misfits.append(f"no {decoded.missing}")
        if misfits:
            self._problem(number, "; ".join(misfits[:3]))

    def _unknown(self, event: Any) -> None:
        name = clean(event, _MAX_NAME) if type(event) is str else "?"
        unknown = self.tally.unknown
        if name not in unknown and len(unknown) >= _MAX_UNKNOWN:
            name = "…"
        unknown[name] = unknown.get(name, 0) + 1

    def _problem(self, line: int, reason: str) -> None:
        if len(self.tally.problems) < MAX_PROBLEMS:
            self.tally.problems.append(Problem(self._name, line, reason))


def _reason(error: Exception) -> str:
    if isinstance(error, StopIteration):  # nothing that begins a value
        error = json.JSONDecodeError("Expecting value", "", error.value)
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON ({error.msg} at character {error.pos + 1:,})"
    return "nested too deep" if isinstance(error, RecursionError) else "invalid JSON"
