"""A folder of JSON lines that several processes share, on one machine or several, without a lock.

Each process writes its own file atomically and reads the files of all. So no lock is needed, no file is incomplete, and
a process that is killed or hangs does not affect the others. A process that finds many files merges them into one, and
then removes them: a process that still uses one of them writes it again.

The folder may be shared with other users: only files of this user or root are read, and links are not followed.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress

from jitwatch.system import files
from jitwatch.system.launchers import process_id

_PREFIX, _SUFFIX = "jitwatch-cache-", ".index"
#: Maximum number of files that are read (the newest), and of bytes of each file and of all.
_MAX_FILES, _MAX_BYTES, _MAX_TOTAL = 64, 16 << 20, 48 << 20
#: Number of files from which they are merged, and seconds after which the process of a file is assumed to have ended.
_JOIN_FROM, _OLD_S = 8, 60.0
_ATTEMPTS = 3
_numbers = itertools.count(1)


class IndexFiles:
    """The files of one folder.

    Args:
        folder: The folder; created if it does not exist.
        join_from: Number of files from which they are merged.
    """

    def __init__(self, folder: str, *, join_from: int = _JOIN_FROM) -> None:
        self.folder = folder
        self._join_from = join_from
        # Of this agent: that of an earlier one in this process is read like any other.
        self._name = f"{_PREFIX}{process_id()}.{next(_numbers)}"
        self._path = os.path.join(folder, f"{self._name}{_SUFFIX}")
        #: The files that were read, and when each was written.
        self._read: dict[str, float] = {}
        self._is_joined = False

    def read(self) -> list[bytes]:
        """The lines of all files, those of the oldest file first. Files that cannot be read are left out."""
        lines: list[bytes] = []
        for _ in range(_ATTEMPTS):
            lines.clear()
            self._read = {}
            # Another process may have merged files while these were read: their lines are in its file.
            found = [self._add(path, lines) for path in self._paths()]
            if all(found):
                break
        return lines

    def write(self, lines: Iterable[bytes]) -> None:
        """Write the file of this process. Raises OSError."""
        os.makedirs(self.folder, exist_ok=True)
        files.replace(self._path, b"".join(lines), mode=files.PRIVATE)

    def join(self, lines: Iterable[bytes]) -> None:
        """Merge the files that were read if there are many: write these lines to one file, and remove the others."""
        if self._is_joined or len(self._read) < self._join_from:
            return
        self._is_joined = True
        path = os.path.join(self.folder, f"{self._name}-joined{_SUFFIX}")
        files.replace(path, b"".join(lines), mode=files.PRIVATE)
        for old, written in self._read.items():
            with suppress(OSError):
                status = os.lstat(old)
                # A file that was written since has lines that were not read.
                if old != path and status.st_mtime == written and time.time() - written > _OLD_S:
                    os.unlink(old)

    def _paths(self) -> list[str]:
        """The newest files, the oldest of them first."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        found = []
        for name in names:
            path = os.path.join(self.folder, name)
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                with suppress(OSError):
                    found.append((os.lstat(path).st_mtime, path))
        return [path for _, path in sorted(found)[-_MAX_FILES:]]

    def _add(self, path: str, lines: list[bytes]) -> bool:
        """Add the lines of a file; False if it is no longer there."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        with suppress(OSError), open(fd, "rb") as file:
            status = os.fstat(file.fileno())
            total = sum(map(len, lines))
            if stat.S_ISREG(status.st_mode) and files.is_trusted(status.st_uid) and total < _MAX_TOTAL:
                lines += file.read(_MAX_BYTES).split(b"\n")
                self._read[path] = status.st_mtime
        return True
