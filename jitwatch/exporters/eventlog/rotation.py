"""An append-only file of lines that rotates by size and recovers from errors of the disk.

Nothing is buffered in the process, so a killed process loses no line that `append` reported as written, and a forked
child has nothing to flush.

The file belongs to one process. A second writer is detected by the advisory lock of the file or, if the file system has
none, by bytes that this process did not write; it switches to a file of its own.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from jitwatch.system import files
from jitwatch.system.files import UntrustedError
from jitwatch.system.launchers import process_id
from jitwatch.system.threads import TimedCaller

#: How often a process switches to another file because of a second writer.
_MAX_MOVES = 8
#: Maximum length of a file name in bytes.
_MAX_NAME = 255
_MAX_SPARES = 100


class Descriptor:
    """A file descriptor that was just opened, and that the job may close or reuse for a file of its own at any time.

    A job that daemonizes closes all unknown descriptors (`os.closerange`), and the files that it opens next get their
    numbers; `os.dup2` replaces the file behind one. Such a descriptor is neither written to nor closed. The system
    offers no way to prevent that the job closes it between a check and the following write.
    """

    __slots__ = ("_flags", "fd", "identity", "is_regular", "size")

    def __init__(self, fd: int) -> None:
        try:
            status = os.fstat(fd)
            # The inode of a deleted file is reused, but hardly with the same flags.
            self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.identity = files.identity(status)
        self.is_regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size

    def status(self) -> os.stat_result | None:
        """Status of the file; None if the descriptor no longer refers to it."""
        with suppress(OSError):
            status = os.fstat(self.fd)
            if files.identity(status) == self.identity and fcntl.fcntl(self.fd, fcntl.F_GETFL) == self._flags:
                return status
        return None

    def close(self) -> None:
        """Close the file, unless the descriptor refers to another one by now."""
        if self.status() is not None:
            with suppress(OSError):
                os.close(self.fd)

    def lock(self, caller: TimedCaller) -> bool:
        """Acquire the advisory lock; False if another process holds it. Without an answer it counts as free."""
        with suppress(OSError, RuntimeError):  # RuntimeError: no thread can be started
            try:
                caller.call(lambda: fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                return False
        return True


class RotatingFile:
    """Appends lines to `path`, which is renamed to `path.1`, `path.2`, … when it is full. Not thread-safe.

    Attributes:
        path: The file that lines are appended to. It changes if another process turns out to write to it.
        moved: Why it changed the last time; the owner resets it to None.
        rotation_error: Why the last rotation failed, or None. Lines are then appended to the same file.
        ended_lines: Number of complete lines written so far.
    """

    def __init__(
        self,
        path: str,
        *,
        max_bytes: int = 64 * 2**20,
        backups: int = 4,
        is_exclusive: bool = False,
        lock_s: float = 0.5,
    ) -> None:
        """Open the file for appending, and create missing parent folders.

        Args:
            path: File to append to.
            max_bytes: Size at which the file is rotated; 0 for never.
            backups: Number of rotated files to keep; 0 for no rotation.
            is_exclusive: Whether an existing file belongs to another process; then another name is used.
            lock_s: Seconds to wait for the lock server of a network file system.

        Raises:
            OSError: The file cannot be opened.
        """
        self.path = path
        self.moved: str | None = None
        self.rotation_error: OSError | None = None
        self.ended_lines = 0
        self._wanted = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._caller = TimedCaller(lock_s)
        self._file: Descriptor | None = None
        self._known: files.Identity | None = None
        self._moves = 0
        self._is_shared = self._is_rotated = False
        self._limit = max_bytes
        self._size = 0
        self._is_torn = False
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if is_exclusive:
            self._create_first_free(itertools.chain([path], _spares(path)))
        else:
            self._open()

    def append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Write lines, each of which ends with a newline.

        Returns:
            The number of lines written completely, and the error that stopped the others, if any. After an error the
            file is closed, and the next call opens it again.
        """
        before = self.ended_lines
        try:
            self._follow()
            pending = bytearray()
            for line in lines:
                size = self._size + len(pending)
                if self._is_rotated and size and size + len(line) > self._limit:
                    self._write(pending)
                    self._rotate()
                    pending.clear()
                pending += line
            self._write(pending)
        except OSError as error:
            self.close()
            return self.ended_lines - before, error
        except BaseException:
            self.close()  # opening it again determines how much was written
            raise
        return len(lines), None

    def close(self) -> None:
        """Close the descriptor. Nothing is flushed, so a full disk does not delay it."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _follow(self) -> None:
        """Reopen the file if it is no longer open, or no longer what `path` refers to.

        Writes to a deleted file succeed and are lost, so the path is checked. Missing folders are not created: below
        the mount point of an unmounted volume the file would be hidden from its owner.
        """
        status = self._file.status() if self._file is not None else None
        if self._file is None or status is None:
            self._file = None  # the job closed the descriptor or reuses it
            self._open()
            return
        now = None
        with suppress(OSError):
            now = os.stat(self.path)
        if now is None or files.identity(now) != self._file.identity:
            self.close()
            self._open()
        elif not self._is_shared and status.st_size > self._size and self._moves < _MAX_MOVES:
            self._move("another process writes to it")
        else:
            self._size = status.st_size

    def _open(self) -> None:
        """Open the path, or a file of this process if another process or user owns the path."""
        reason = "another process writes to it"
        try:
            if self._take(files.open_to_append(self.path, self._known)):
                return
        except UntrustedError as error:
            reason = f"it {error.strerror}"
        self._move(reason)

    def _move(self, reason: str) -> None:
        """Switch to a file that only this process writes to."""
        self.close()
        self._moves += 1
        self._create_first_free(_spares(self._wanted))
        self.moved = reason

    def _create_first_free(self, paths: Iterable[str]) -> None:
        """Create a file under the first free name."""
        for path in paths:
            with suppress(FileExistsError):
                fd = files.create(path, flags=files.APPEND)
                self.path = path
                self._take(fd)
                return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._wanted)

    def _take(self, fd: int) -> bool:
        """Use this descriptor from now on; False if another process writes to the file."""
        file = Descriptor(fd)
        try:
            # For example /dev/stdout, which refers to a file that the job itself writes to.
            self._is_shared = not file.is_regular or files.is_descriptor(files.resolve(self.path))
        except OSError:
            file.close()
            raise
        if not self._is_shared and not file.lock(self._caller):
            file.close()
            return False
        self._file, self._known = file, file.identity
        # Never rename a device, a pipe such as /dev/stdout, or a symbolic link.
        self._is_rotated = (
            file.is_regular and self._max_bytes > 0 and self._backups > 0 and not os.path.islink(self.path)
        )
        self._limit = self._max_bytes
        self._size = file.size
        self._is_torn = file.is_regular and file.size > 0 and not self._ends_with_newline(file)
        return True

    def _ends_with_newline(self, file: Descriptor) -> bool:
        with suppress(OSError):  # not readable: assume that the last line is complete
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if files.identity(os.fstat(fd)) == file.identity:
                    return os.pread(fd, 1, file.size - 1) == b"\n"
            finally:
                os.close(fd)
        return True

    def _write(self, data: bytes | bytearray) -> None:
        assert self._file is not None
        fd = self._file.fd
        if self._is_torn and data:
            # End a line that a full disk or a crash left incomplete, to keep it apart from the next one.
            self._size += os.write(fd, b"\n")
            self._is_torn = False
        rest = data
        while rest:
            count = os.write(fd, rest)
            self._size += count
            self.ended_lines += rest.count(b"\n", 0, count)
            self._is_torn = rest[count - 1 : count] != b"\n"
            rest = rest[count:]

    def _rotate(self) -> None:
        """Rename the file to `path.1` and open a new one; if that fails, keep using the same file."""
        path, first = self.path, f"{self.path}.1"
        old, self._file = self._file, None
        assert old is not None
        is_renamed = False
        try:
            self._shift_backups()
            with suppress(FileNotFoundError):  # renamed by another program meanwhile
                os.rename(path, first)
                is_renamed = True
            self._open()
        except OSError as error:
            self._file = old
            if is_renamed and not os.path.lexists(path):
                with suppress(OSError):
                    os.rename(first, path)
            self.rotation_error = error
            self._limit = self._size + self._max_bytes
            return
        except BaseException:
            self._file = old
            raise
        self.rotation_error = None
        self._keep_mode(old)
        old.close()

    def _keep_mode(self, old: Descriptor) -> None:
        """Give the new file the permissions of the old one, which may have been changed on purpose."""
        file, status = self._file, old.status()
        if file is not None and file.size == 0 and status is not None:
            with suppress(OSError):
                os.fchmod(file.fd, stat.S_IMODE(status.st_mode))

    def _shift_backups(self) -> None:
        """Free the name `path.1`. Only up to the first gap, so that repeated failures delete nothing."""
        last = 1
        while last < self._backups and os.path.lexists(f"{self.path}.{last}"):
            last += 1
        for number in range(last - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")


def _spares(path: str) -> Iterator[str]:
    """Names next to the path that only this process uses, `events.node7-4711-20250301T120000.123456.jsonl`."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    for number in range(1, _MAX_SPARES):
        rest = f".{process_id()}{f'-{number}' if number > 1 else ''}{suffix}"
        while stem and len(os.fsencode(stem + rest)) > _MAX_NAME:
            stem = stem[:-1]
        yield os.path.join(folder, f"{stem}{rest}")
