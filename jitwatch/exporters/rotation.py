"""An append-only file of lines that rotates by size and survives a disk that does not.

The file is a bare descriptor: nothing of it is buffered in the process, so a killed process
loses no line that `append` reported as written, and a forked child has nothing to flush.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress

#: O_NONBLOCK: a FIFO without a reader is an error at once, instead of a job that hangs.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC


class RotatingFile:
    """Lines appended to `path`, which moves on to `path.1`, `path.2`, … when it is full.

    Not safe for several threads at once; the owner sees to that.

    Attributes:
        path: The file that lines are appended to.
        rotation_error: Why the last rotation failed, or None. The log goes on in the same file.
    """

    def __init__(self, path: str, *, max_bytes: int, backups: int) -> None:
        """Open the file for append and make its missing parent folders.

        Args:
            path: File to append to.
            max_bytes: Size from which the file is rotated; 0 for never.
            backups: How many rotated files are kept; 0 for no rotation.

        Raises:
            OSError: The file cannot be opened.
        """
        self.path = path
        self.rotation_error: OSError | None = None
        self._max_bytes = max_bytes
        self._backups = backups
        self._fd: int | None = None
        self._identity = (0, 0)
        self._is_rotated = False
        self._limit = max_bytes
        self._size = 0
        self._is_torn = False
        self._ended_lines = 0
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self._open()

    def append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Write lines, each of which ends with a newline.

        Returns:
            How many lines are wholly in the file, and the error that stopped the others, if any.
            After an error the file is closed; the next call opens it again.
        """
        before = self._ended_lines
        try:
            self._follow()
            done = 0
            while done < len(lines):
                if self._is_rotated and self._size and self._size + len(lines[done]) > self._limit:
                    self._rotate()
                count = self._count_fitting(lines, done)
                self._write(b"".join(lines[done : done + count]))
                done += count
        except OSError as error:
            self.close()
            return self._ended_lines - before, error
        return len(lines), None

    def close(self) -> None:
        """Close the descriptor. There is nothing to flush, so it does not wait for a disk that is full."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)

    def _follow(self) -> None:
        """Open the file again when `path` is no longer the file that is open.

        Writes to a deleted file succeed and are lost, so only the path can tell. Missing folders
        are not made here: below an unmounted volume that would hide the log from its owner.
        """
        if self._fd is not None:
            with suppress(OSError):
                now = os.stat(self.path)
                if (now.st_dev, now.st_ino) == self._identity:
                    self._size = now.st_size
                    return
            self.close()
        self._open()

    def _open(self) -> None:
        fd = os.open(self.path, _FLAGS, 0o666)
        try:
            status = os.fstat(fd)
            is_regular = stat.S_ISREG(status.st_mode)
            is_torn = is_regular and status.st_size > 0 and not self._ends_with_newline()
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._identity = (status.st_dev, status.st_ino)
        # Never rename a device or a pipe such as /dev/stdout.
        self._is_rotated = is_regular and self._max_bytes > 0 and self._backups > 0
        self._limit = self._max_bytes
        self._size = status.st_size
        self._is_torn = is_torn

    def _ends_with_newline(self) -> bool:
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        except OSError:  # may be written but not read: trust that it is whole
            return True

    def _count_fitting(self, lines: Sequence[bytes], start: int) -> int:
        """Count the lines from `start` that fit in the file: at least one, however long it is."""
        if not self._is_rotated:
            return len(lines) - start
        size = self._size + len(lines[start])
        end = start + 1
        while end < len(lines) and size + len(lines[end]) <= self._limit:
            size += len(lines[end])
            end += 1
        return end - start

    def _write(self, data: bytes) -> None:
        assert self._fd is not None
        if self._is_torn:
            # A full disk or a crash left half a line: end it, so that it takes no other line with it.
            self._size += os.write(self._fd, b"\n")
            self._is_torn = False
        rest = data
        while rest:
            count = os.write(self._fd, rest)
            self._size += count
            self._ended_lines += rest.count(b"\n", 0, count)
            self._is_torn = rest[count - 1 : count] != b"\n"
            rest = rest[count:]

    def _rotate(self) -> None:
        """Move the file to `path.1` and open a new one, or go on with the same one if that fails."""
        first = f"{self.path}.1"
        try:
            self._shift_backups()
            os.rename(self.path, first)
        except OSError as error:
            self._go_on(error)
            return
        old = self._fd
        try:
            self._open()
        except OSError as error:
            with suppress(OSError):
                os.rename(first, self.path)
            self._go_on(error)
            return
        self.rotation_error = None
        if old is not None:
            os.close(old)

    def _shift_backups(self) -> None:
        """Free `path.1`. Only up to the first gap, so that failing again and again deletes nothing."""
        last = 1
        while last < self._backups and os.path.lexists(f"{self.path}.{last}"):
            last += 1
        for number in range(last - 1, 0, -1):
            os.rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")

    def _go_on(self, error: OSError) -> None:
        self.rotation_error = error
        self._limit = self._size + self._max_bytes
