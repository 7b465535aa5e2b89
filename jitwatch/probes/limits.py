"""Limits of what a probe may cost: how often an operation runs, and how long a source that may hang is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Maximum number of hanging threads, each of which waits for a device.
_MAX_THREADS = 16


class TimeBox(Generic[T]):
    """Collects what a source yields within `timeout_s`, in threads of this name."""

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
        """Call a source in a thread; return what it yields in time, or raise what it raised.

        While an earlier call hangs it is called only if it may overlap, up to a limit.
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


class CostLimiter:
    """Keeps the mean cost of an operation, which is known only afterwards, below a share of the wall clock.

    After a stall of other threads that is longer than `longest_s` the share is a tenth.
    """

    def __init__(self, *, share: float, longest_s: float) -> None:
        self._share = share
        self._longest_s = longest_s
        self._next = float("-inf")

    def is_due(self, now: float) -> bool:
        """Whether the operation may run at `now`, in monotonic seconds."""
        return now >= self._next

    def spent(self, now: float, *, cost_s: float, stall_s: float = 0.0) -> None:
        """Record that the operation ran for `cost_s` of CPU time, and stalled other threads for `stall_s`."""
        share = self._share / 10 if stall_s > self._longest_s else self._share
        self._next = now + cost_s / share
