"""CPU time of the agent's own work, by component.

Thread CPU time, not wall-clock time: a thread that waits for the interpreter lock, a lock, a disk or a driver uses no
processor, and on a busy machine waits are most of the wall-clock time. A read of the clock is a system call (0.2 to
1 µs), so what runs in a call of the job (a cached call, a donating call) is not timed; its cost is in
docs/performance.md. What is timed takes at least some ten microseconds: an event, a sample, a response.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class OwnTime:
    """Times parts of the agent's work; a part within another one is counted once, for the inner one.

    Args:
        add: Receives a component and the CPU seconds that it took; without it they are not kept.
        clock: CPU seconds of the calling thread.
    """

    def __init__(
        self,
        add: Callable[[str, float], None] = lambda component, took_s: None,
        *,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._add = add
        self._clock = clock
        self._thread = _Inner()

    def of(self, component: str) -> _Part:
        """Time a `with` block."""
        return _Part(self, component)


class _Inner(threading.local):
    """Seconds of the parts that ended within the one that runs in this thread."""

    seconds = 0.0


class _Part:
    __slots__ = ("_before", "_component", "_own", "_started")

    def __init__(self, own: OwnTime, component: str) -> None:
        self._own = own
        self._component = component

    def __enter__(self) -> None:
        thread = self._own._thread
        self._before, thread.seconds = thread.seconds, 0.0
        self._started = self._own._clock()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        own, thread = self._own, self._own._thread
        took = own._clock() - self._started
        inner, thread.seconds = thread.seconds, self._before + took
        own._add(self._component, max(0.0, took - inner))
