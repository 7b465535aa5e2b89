"""Lines that wait to be written: a bounded queue in which urgent lines find room when others do not."""

from __future__ import annotations

import itertools
import threading
from queue import Empty, SimpleQueue

#: A rendered line, and who waits until it is written.
Line = tuple[bytes, threading.Event | None]


class Backlog:
    """A queue of lines, in the order in which they came.

    No method takes a lock: each step is one atomic operation of a built-in type, so that `put` may
    be interrupted by a `put` of the same thread (a signal handler, a finalizer) without a deadlock.
    A Condition or queue.Queue may not.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # The queue holds tickets, for nothing can be taken out of the middle of it: one whose line
        # was evicted is passed over. An urgent line waits behind each of those, so they are bounded.
        self._ordinary: dict[int, Line] = {}
        self._urgent: dict[int, Line] = {}
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._tickets = itertools.count()

    def is_full(self) -> bool:
        """Whether as many lines wait as may; threads that put at once may exceed that by one each."""
        return len(self._ordinary) + len(self._urgent) >= self._size

    def evict(self) -> bool:
        """Take the oldest ordinary line away, for an urgent one; False if only urgent ones wait."""
        while self._ordinary:
            try:
                oldest = next(iter(self._ordinary))
            except (RuntimeError, StopIteration):  # changed by another thread meanwhile
                continue
            if self._ordinary.pop(oldest, None) is not None:
                return True
        return False

    def put(self, line: bytes, *, urgent: bool = False, done: threading.Event | None = None) -> None:
        """Add a line, room or not.

        Args:
            line: What to write.
            urgent: Whether it may never be evicted.
            done: Who waits until it is written.
        """
        ticket = next(self._tickets)
        lines = self._urgent if urgent else self._ordinary
        lines[ticket] = line, done
        self._queue.put(ticket)

    def end(self) -> None:
        """Mark the end: what was put before is the last to be taken."""
        self._queue.put(None)

    def take(self, limit: int) -> tuple[list[Line], bool]:
        """Wait for something; return at most `limit` lines, and whether they are the last ones."""
        lines: list[Line] = []
        ticket = self._queue.get()
        while ticket is not None:
            lines += self._claim(ticket)
            if len(lines) == limit:
                return lines, False
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                return lines, False
        return lines, True

    def discard(self) -> int:
        """Forget what waits, and return how many lines that were."""
        count = 0
        while True:
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                return count
            if ticket is not None:
                count += len(self._claim(ticket))

    def _claim(self, ticket: int) -> list[Line]:
        line = self._ordinary.pop(ticket, None) or self._urgent.pop(ticket, None)
        return [line] if line is not None else []
