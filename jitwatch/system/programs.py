"""Writes the lowered program of every compile to a file, so that two versions can be compared."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jitwatch.system import files
from jitwatch.system.launchers import process_id
from jitwatch.system.threads import RLock, TimedCaller

_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_MAX_NAME = 100
_MAX_ATTEMPTS = 20


class ProgramFiles:
    """A folder of StableHLO texts with names such as `train.train_step-0003.mlir`; created if it does not exist.

    Each file is written atomically and never replaces another one. Once a name is in use by another process or run, the
    names of this process begin with its identifier: `node7-4711-20250301T120000.123456-train.train_step-0003.mlir`.

    Args:
        folder: The folder.
        prefix: Start of every name: the rank of a process that shares the folder with others.
        max_files, max_bytes: Maximum number and bytes of the files of a process; further programs are not written.
        timeout_s: Seconds that a call waits for the disk; while it hangs, later calls do not wait.
    """

    def __init__(
        self, folder: str, prefix: str, *, max_files: int = 1_000, max_bytes: int = 1 << 30, timeout_s: float = 2.0
    ) -> None:
        self.folder = Path(folder)
        self._prefix = _UNSAFE.sub("_", prefix)[:_MAX_NAME]
        self._max_files, self._max_bytes = max_files, max_bytes
        self._lock = RLock()
        self._written = self._bytes = 0
        self._caller = TimedCaller(timeout_s)
        with suppress(TimeoutError):  # created when the disk responds; until then no files are written
            self._caller.call(lambda: self.folder.mkdir(parents=True, exist_ok=True))

    def write(self, label: str, text: Callable[[], str]) -> str | None:
        """Write one program and return the name of its file; None past the limits, or while the disk hangs."""
        with self._lock:
            if self._written >= self._max_files or self._bytes >= self._max_bytes:
                return None
            number = self._written = self._written + 1
        # Outside of the lock: rendering a large program takes a while.
        content = text().encode("utf-8", "replace")
        with self._lock:
            if self._bytes + len(content) > self._max_bytes:
                return None
            self._bytes += len(content)
        name = f"{_UNSAFE.sub('_', label)[:_MAX_NAME]}-{number:04d}"
        with suppress(TimeoutError):
            return self._caller.call(lambda: self._publish(name, content))
        return None

    def _publish(self, name: str, content: bytes) -> str:
        """Write the file under the first free name, and return that name."""
        for number in range(_MAX_ATTEMPTS):
            if number == 1 and process_id() not in self._prefix:
                self._prefix += f"{process_id()}-"
            candidate = f"{self._prefix}{name}{f'-{number}' if number > 1 else ''}.mlir"
            with suppress(FileExistsError):
                files.publish(os.path.join(self.folder, candidate), content)
                return candidate
        raise FileExistsError(errno.EEXIST, f"all names for {name}.mlir are in use", str(self.folder))
