"""Keeps the lowered program of every compile as a file, so that two versions can be compared.

Bounded in number and bytes for a process; each file appears whole or not at all.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

#: Files and bytes that one process writes; what comes later is counted, not written.
MAX_FILES = 1_000
MAX_BYTES = 1 << 30
_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_MAX_NAME = 100


class ProgramFiles:
    """A folder of StableHLO texts, as `train.train_step-0003.mlir`.

    Args:
        folder: Made when it does not exist.
        prefix: Start of every name, to tell processes apart that share a folder.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: str, prefix: str) -> None:
        self.folder = Path(folder)
        self._prefix = _UNSAFE.sub("_", prefix)[:_MAX_NAME]
        self._lock = threading.RLock()
        self._written = 0
        self._bytes = 0
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, label: str, text: Callable[[], str]) -> str | None:
        """Write one program; returns the file's name, or None when the bounds are reached.

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
        name = f"{self._prefix}{_UNSAFE.sub('_', label)[:_MAX_NAME]}-{number:04d}.mlir"
        partial = self.folder / f".{name}.part"
        try:
            partial.write_bytes(content)
            os.replace(partial, self.folder / name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        return name
