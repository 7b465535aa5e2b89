"""Writes the lowered program of every compile to a file, so that two versions can be compared.

Number and bytes of the files of a process are bounded. Each file is written atomically and never replaces another one:
a folder may have files of earlier runs and of other processes. A disk that hangs delays a compile once.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from jitwatch.system import files
from jitwatch.system.launchers import process_id
from jitwatch.system.threads import RLock
from jitwatch.system.timed_call import TimedCaller

MAX_FILES = 1_000
MAX_BYTES = 1 << 30
#: Seconds that a compile waits for the file.
TIMEOUT_S = 2.0
_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_MAX_NAME = 100
_MAX_ATTEMPTS = 20


class ProgramFiles:
    """A folder of StableHLO texts with names such as `train.train_step-0003.mlir`.

    Once such a name is in use by another process or run, the names of this process begin with its identifier:
    `node7-4711-20250301T120000.123456-train.train_step-0003.mlir`.

    Args:
        folder: Created if it does not exist.
        prefix: Start of every name: the rank of a process that shares the folder with others.
        timeout_s: Seconds that a call waits for the disk; while it hangs, later calls do not wait.
        max_files, max_bytes: Maximum number and bytes of the files of a process; further programs are not written.

    Raises:
        OSError: The folder cannot be created.
    """

    def __init__(
        self,
        folder: str,
        prefix: str,
        *,
        timeout_s: float = TIMEOUT_S,
        max_files: int = MAX_FILES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = Path(folder)
        self._prefix = _UNSAFE.sub("_", prefix)[:_MAX_NAME]
        self._max_files, self._max_bytes = max_files, max_bytes
        self._lock = RLock()
        self._written = 0
        self._bytes = 0
        self._caller = TimedCaller(timeout_s)
        with suppress(TimeoutError):  # created when the disk responds; until then no files are written
            self._caller.call(lambda: self.folder.mkdir(parents=True, exist_ok=True))

    def write(self, label: str, text: Callable[[], str]) -> str | None:
        """Write one program and return the name of its file.

        Returns None if the limits are reached, or if the disk hangs; the file may then appear later.

        Raises:
            OSError: It cannot be written; no partial file is left.
        """
        with self._lock:
            if self._written >= self._max_files or self._bytes >= self._max_bytes:
                return None
            self._written += 1
            number = self._written
        # Outside of the lock: rendering a large program takes a while.
        content = text().encode("utf-8", "replace")
        with self._lock:
            if self._bytes + len(content) > self._max_bytes:
                return None
            self._bytes += len(content)
        name = f"{_UNSAFE.sub('_', label)[:_MAX_NAME]}-{number:04d}"
        try:
            return self._caller.call(lambda: self._publish(name, content))
        except TimeoutError:
            return None

    def _publish(self, name: str, content: bytes) -> str:
        """Write the file under the first free name, and return that name."""
        for candidate in self._candidates(name):
            with suppress(FileExistsError):
                files.publish(os.path.join(self.folder, candidate), content)
                return candidate
        raise FileExistsError(errno.EEXIST, f"all names for {name}.mlir are in use", str(self.folder))

    def _candidates(self, name: str) -> Iterator[str]:
        yield f"{self._prefix}{name}.mlir"
        if process_id() not in self._prefix:
            self._prefix += f"{process_id()}-"
        yield f"{self._prefix}{name}.mlir"
        for number in range(2, _MAX_ATTEMPTS):
            yield f"{self._prefix}{name}-{number}.mlir"
