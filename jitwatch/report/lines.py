"""Reads the lines of a file in blocks, compressed or not, in bounded memory."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from jitwatch.report.sources import Source, kind_of

_BLOCK: Final = 2**20
#: Longer lines are skipped: the event log writes none above 64 KiB.
MAX_LINE: Final = 2**20
_GZIP_MAGIC: Final = b"\x1f\x8b"
#: The byte order mark that some editors write.
_MARK: Final = b"\xef\xbb\xbf"


class NotRegularError(OSError):
    """The path is no longer a regular file."""


class Lines:
    """Iterates over the lines of one file, without their ends.

    Attributes:
        bytes: Number of bytes that were read, after decompression.
        too_long: Numbers of the lines longer than `MAX_LINE`; the caller clears it.
        is_damaged: Whether a compressed file is truncated or corrupt.

    Args:
        raw: The file, opened at its start.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self.bytes = 0
        self.too_long: list[int] = []
        self.is_damaged = False
        self._raw = raw

    def __iter__(self) -> Iterator[tuple[int, list[bytes], bool]]:
        """Yield the number of the first of some lines, the lines, and whether they follow the last newline."""
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
                # Not read(): it returns nothing of the last block of a truncated file.
                while block := file.read1(_BLOCK):
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.is_damaged = True

    def _read(self) -> bytes:
        block: bytes | None = self._raw.read(_BLOCK)
        if block is None:
            raise BlockingIOError("it is in non-blocking mode and has no data")
        return block


def opened(source: Source) -> BinaryIO:
    """Open the file of a source: a regular file, or an open pipe of this process.

    Raises:
        OSError: It cannot be opened.
        NotRegularError: It is neither.
    """
    # Opening a FIFO without a writer, or some devices, blocks otherwise.
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
