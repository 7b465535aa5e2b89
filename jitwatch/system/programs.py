"""Keeps the lowered program of every compile as a file, so that two versions can be compared.

Bounded in number and bytes for a process; each file appears whole or not at all, and never in the place of another:
a folder may have the files of earlier runs and of other processes. A disk that hangs holds a compile up once.
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
from jitwatch.system.patience import Patience
from jitwatch.system.threads import RLock

#: Files and bytes that one process writes; what comes later is counted, not written.
MAX_FILES = 1_000
MAX_BYTES = 1 << 30
#: Seconds that a compile waits for its file.
PATIENCE_S = 2.0
_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_MAX_NAME = 100
_MAX_ATTEMPTS = 20


class ProgramFiles:
    """A folder of StableHLO texts, as `train.train_step-0003.mlir`.

    Once such a name is taken by another process or run, the names of this process begin with what identifies it:
    `node7-4711-20250301T120000.123456-train.train_step-0003.mlir`.

    Args:
        folder: Made when it does not exist.
        prefix: Start of every name, the rank of a process that shares a folder with others.
        patience_s: Seconds that a call waits for the disk, once until it answers.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: str, prefix: str, *, patience_s: float = PATIENCE_S) -> None:
        self.folder = Path(folder)
        self._prefix = _UNSAFE.sub("_", prefix)[:_MAX_NAME]
        self._lock = RLock()
        self._written = 0
        self._bytes = 0
        self._patience = Patience(patience_s)
        with suppress(TimeoutError):  # it is made when the disk answers, or its files are not
            self._patience.call(lambda: self.folder.mkdir(parents=True, exist_ok=True))

    def write(self, label: str, text: Callable[[], str]) -> str | None:
        """Write one program; returns the file's name.

        None when the bounds are reached, or when the disk does not answer; the file may appear when it does.

        Raises:
            OSError: It cannot be written; nothing is left of it.
        """
        with self._lock:
            if self._written >= MAX_FILES or self._bytes >= MAX_BYTES:
                return None
            self._written += 1
            number = self._written
        # Rendering a large program takes a while; nobody waits for it here.
        content = text().encode("utf-8", "replace")
        with self._lock:
            if self._bytes + len(content) > MAX_BYTES:
                return None
            self._bytes += len(content)
        name = f"{_UNSAFE.sub('_', label)[:_MAX_NAME]}-{number:04d}"
        try:
            return self._patience.call(lambda: self._publish(name, content))
        except TimeoutError:
            return None

    def _publish(self, name: str, content: bytes) -> str:
        """Write the file under the first of its names that is free, and return that."""
        for candidate in self._candidates(name):
            with suppress(FileExistsError):
                files.publish(os.path.join(self.folder, candidate), content)
                return candidate
        raise FileExistsError(errno.EEXIST, f"each name for {name}.mlir is taken", str(self.folder))

    def _candidates(self, name: str) -> Iterator[str]:
        yield f"{self._prefix}{name}.mlir"
        if process_id() not in self._prefix:
            self._prefix += f"{process_id()}-"
        yield f"{self._prefix}{name}.mlir"
        for number in range(2, _MAX_ATTEMPTS):
            yield f"{self._prefix}{name}-{number}.mlir"
