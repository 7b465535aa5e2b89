"""Runs a source that may hang in threads that can be abandoned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Maximum number of hanging threads, each of which waits for a device.
_MAX_THREADS = 16


class TimeBox(Generic[T]):
    """Collects what a source yields within a timeout.

    Args:
        name: Name of the threads.
        timeout_s: Seconds to wait for the source.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._threads: list[threading.Thread] = []
        self._since = 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether a call of a source hangs."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return bool(self._threads)

    @property
    def age_s(self) -> float:
        """Seconds since a source was last called."""
        return time.monotonic() - self._since

    def collect(self, source: Callable[[], Iterable[T]], *, may_overlap: bool = False) -> list[T]:
        """What the source yields in time; nothing while an earlier call hangs.

        Args:
            source: Called in a thread.
            may_overlap: Whether to call it even while earlier calls hang, up to a limit.

        Raises:
            Exception: What the source raised.
        """
        if self.is_stuck and not (may_overlap and len(self._threads) < _MAX_THREADS):
            return []
        found: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                for one in source():
                    found.append(one)  # one by one, to have what came before a hang
            except Exception as error:
                errors.append(error)

        self._since = time.monotonic()
        # A daemon thread, so that the process can exit while it hangs.
        thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._threads.append(thread)
        thread.start()
        thread.join(self._timeout_s)
        if errors:
            raise errors[0]
        return list(found)
