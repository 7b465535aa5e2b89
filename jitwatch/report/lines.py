"""From a file to its lines: in blocks, compressed or not, in bounded memory whatever is in it."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from jitwatch.report.sources import Source, kind_of

_BLOCK: Final = 2**20
#: Longer lines are no events: the event log writes none above 64 KiB.
MAX_LINE: Final = 2**20
_GZIP_MAGIC: Final = b"\x1f\x8b"
#: What some editors put before a text.
_MARK: Final = b"\xef\xbb\xbf"


class NotRegularError(OSError):
    """The file has become something else since it was found."""


class Lines:
    """The lines of one file, without their ends.

    Attributes:
        bytes: How many were read, of a compressed file those that were in it.
        too_long: Numbers of the lines that were longer than `MAX_LINE`, since they were taken last.
        is_damaged: Whether a compressed file ends before its end.

    Args:
        source: What is read.
        raw: The file, from its start.
    """

    def __init__(self, source: Source, raw: BinaryIO) -> None:
        self.bytes = 0
        self.too_long: list[int] = []
        self.is_damaged = False
        self._source = source
        self._raw = raw

    def __iter__(self) -> Iterator[tuple[int, list[bytes], bool]]:
        """The number of the first of some lines, the lines, and whether they are what comes after the last newline."""
        number, rest, is_skipping = 1, b"", False
        for block in self._blocks():
            self.bytes += len(block)
            *lines, rest = (rest + block).split(b"\n")
            if is_skipping and lines:
                del lines[0]  # the end of a line that was too long
                number += 1
                is_skipping = False
            yield number, lines, False
            number += len(lines)
            if len(rest) > MAX_LINE:
                rest = b""
                if not is_skipping:
                    self.too_long.append(number)
                is_skipping = True
        yield number, ([rest] if rest and not is_skipping else []), True

    def _blocks(self) -> Iterator[bytes]:
        first = self._read()
        if not first.startswith(_GZIP_MAGIC):
            first = first.removeprefix(_MARK)
            while first:
                yield first
                first = self._read()
            return
        self._raw.seek(0)
        try:
            with gzip.open(self._raw) as file:
                # Not read(): it gives nothing of the last block where the file was cut off.
                while block := file.read1(_BLOCK):
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.is_damaged = True

    def _read(self) -> bytes:
        block: bytes | None = self._raw.read(_BLOCK)
        if block is None:
            raise BlockingIOError("it has nothing to read now and does not end")
        return block


def opened(source: Source) -> BinaryIO:
    """The file of a source, which is regular, or a pipe that this process was given.

    Raises:
        OSError: It cannot be opened.
        NotRegularError: It is neither.
    """
    # Opening a FIFO without a writer, or some devices, would wait.
    waits = 0 if source.is_pipe else os.O_NONBLOCK
    file = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | waits)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode) and not (source.is_pipe and stat.S_ISFIFO(mode)):
            raise NotRegularError(kind_of(mode))
        return os.fdopen(file, "rb")
    except BaseException:
        os.close(file)
        raise
