"""From files to records: line by line, in blocks, whatever is in them.

A job may have been killed in the middle of a line, a disk may have been full, a log may come from
a newer version or be no log at all. What can be read is read, and the rest is counted.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from jitwatch.errors import ConfigError
from jitwatch.events import SCHEMA
from jitwatch.report.fields import FieldError
from jitwatch.report.folding import Fold
from jitwatch.report.sources import Source

_BLOCK = 2**20
#: Longer lines are no events: the event log writes none above 64 KiB.
_MAX_LINE = 4 * 2**20
#: Names of unknown events that are kept.
_MAX_UNKNOWN = 20
_GZIP_MAGIC = b"\x1f\x8b"

Progress = Callable[[int], None]


@dataclass(slots=True)
class Tally:
    """How much was read, and what was left out.

    Attributes:
        torn: Files whose last line ends in its middle: their jobs were killed, or are writing it just now.
        unreadable: Lines that are no event.
        incomplete: Events without a field that they must have, and those that the agent had to shorten.
        unknown: Events that this version does not know, by name.
        newer: Events of a newer schema; they are counted all the same.
        damaged: Compressed files that end before their end.
    """

    files: int = 0
    bytes: int = 0
    lines: int = 0
    torn: int = 0
    unreadable: int = 0
    incomplete: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    newer: int = 0
    damaged: list[str] = field(default_factory=list)


def read(sources: Sequence[Source], *, on_progress: Progress | None = None) -> tuple[Fold, Tally]:
    """Read files and fold their events together.

    Args:
        sources: Files in the order in which they were written.
        on_progress: Called now and then with the bytes of the files that are behind us.

    Raises:
        ConfigError: A file cannot be read, or no file has an event.
    """
    reader = _Reader(on_progress or (lambda _: None))
    for source in sources:
        reader.file(source)
    names = ", ".join(source.path for source in sources[:3]) + (" …" if len(sources) > 3 else "")
    if not reader.fold.events:
        if not reader.tally.lines:
            raise ConfigError(
                f"there are no events in {names}: the file is empty. The job may not have started, or its log was cut"
            )
        raise ConfigError(
            f"none of the {reader.tally.lines:,} lines in {names} is an event; name the log that `jitwatch run` or "
            "install(event_log=…) wrote"
        )
    return reader.fold, reader.tally


class _Reader:
    def __init__(self, on_progress: Progress) -> None:
        self.fold = Fold()
        self.tally = Tally()
        self._on_progress = on_progress
        self._behind = 0
        self._decode = json.JSONDecoder().raw_decode

    def file(self, source: Source) -> None:
        try:
            with open(source.path, "rb") as raw:
                self.tally.files += 1
                log = self.fold.log(source.log)
                for lines, is_last in self._blocks(source, raw):
                    self._lines(lines, log, is_torn_allowed=is_last)
                    self._on_progress(self._behind + (raw.tell() if raw.seekable() else 0))
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"the event log {source.path!r} cannot be read ({reason}); check its permissions and the disk"
            ) from error
        self._behind += source.size

    def _blocks(self, source: Source, raw: BinaryIO) -> Iterator[tuple[list[bytes], bool]]:
        """Whole lines of a block each; at the end, apart, what comes after the last newline."""
        rest = b""
        is_skipping = False
        for block in self._bytes(source, raw):
            self.tally.bytes += len(block)
            *lines, rest = (rest + block).split(b"\n")
            if is_skipping and lines:
                del lines[0]  # the end of a line that was too long
                is_skipping = False
            if len(rest) > _MAX_LINE:
                rest = b""
                if not is_skipping:
                    self._drop()
                is_skipping = True
            yield lines, False
        yield ([rest] if not is_skipping else []), True

    def _bytes(self, source: Source, raw: BinaryIO) -> Iterator[bytes]:
        first = raw.read(_BLOCK)
        if not first.startswith(_GZIP_MAGIC):
            while first:
                yield first
                first = raw.read(_BLOCK)
            return
        raw.seek(0)
        try:
            with gzip.open(raw) as file:
                # Not read(): it gives nothing of the last block where the file was cut off.
                while block := file.read1(_BLOCK):
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.tally.damaged.append(source.path)

    def _drop(self) -> None:
        self.tally.lines += 1
        self.tally.unreadable += 1

    def _lines(self, lines: list[bytes], log: int, *, is_torn_allowed: bool) -> None:
        decode, add, tally = self._decode, self.fold.add, self.tally
        for line in lines:
            if not line or line.isspace():
                continue
            try:
                text = line.decode("utf-8", "replace").strip()
                record, end = decode(text)
                event = record["event"] if end == len(text) else record[None]
                tally.lines += 1
            except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                tally.lines += 1
                if is_torn_allowed:
                    tally.torn += 1
                else:
                    tally.unreadable += 1
                continue
            schema = record.get("schema")
            if schema != SCHEMA and type(schema) is int and schema > SCHEMA:
                tally.newer += 1
            try:
                if not add(record, log):
                    self._unknown(event)
            except FieldError:
                tally.incomplete += 1

    def _unknown(self, event: Any) -> None:
        name = event[:100] if type(event) is str else "?"
        unknown = self.tally.unknown
        if name not in unknown and len(unknown) >= _MAX_UNKNOWN:
            name = "…"
        unknown[name] = unknown.get(name, 0) + 1
