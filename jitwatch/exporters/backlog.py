"""Lines that wait to be written: a bounded queue in which urgent lines find room when others do not."""

from __future__ import annotations

import itertools
from contextlib import suppress
from queue import Empty, SimpleQueue

from jitwatch.system.threads import Event

#: A rendered line, and who waits until it is written.
Line = tuple[bytes, Event | None]


class Backlog:
    """A queue of lines, in the order in which they came.

    No method takes a lock: each step is one atomic operation of a built-in type, so that `put` may
    be interrupted by a `put` of the same thread (a signal handler, a finalizer) without a deadlock.
    A Condition or queue.Queue may not.

    Args:
        size: Lines that may wait.
        max_bytes: Bytes that may wait; counted without a lock, so that threads which put at once may exceed it a
            little.
    """

    def __init__(self, size: int, max_bytes: int) -> None:
        self._size = size
        self._max_bytes = max_bytes
        # The queue holds tickets, for nothing can be taken out of the middle of it: one whose line
        # was evicted is passed over. An urgent line waits behind each of those, so they are bounded.
        self._ordinary: dict[int, Line] = {}
        self._urgent: dict[int, Line] = {}
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._tickets = itertools.count()
        self._bytes = 0
        self._is_ended = False

    def is_full(self) -> bool:
        """Whether as much waits as may; threads that put at once may exceed that by one line each."""
        return len(self._ordinary) + len(self._urgent) >= self._size or self._bytes >= self._max_bytes

    def evict(self) -> bool:
        """Take the oldest ordinary line away, for an urgent one; False if only urgent ones wait."""
        while self._ordinary:
            try:
                oldest = next(iter(self._ordinary))
            except (RuntimeError, StopIteration):  # changed by another thread meanwhile
                continue
            if self._pop(self._ordinary, oldest) is not None:
                return True
        return False

    def put(self, line: bytes, *, urgent: bool = False, done: Event | None = None) -> None:
        """Add a line, room or not.

        Args:
            line: What to write.
            urgent: Whether it may never be evicted.
            done: Who waits until it is written.
        """
        ticket = next(self._tickets)
        lines = self._urgent if urgent else self._ordinary
        lines[ticket] = line, done
        self._bytes += len(line)
        self._queue.put(ticket)

    def end(self) -> None:
        """Mark the end: what was put before is the last to be taken."""
        self._is_ended = True
        self._queue.put(None)

    def take(self, lines: list[Line], limit: int) -> bool:
        """Wait for something, and move at most `limit` lines into the list; whether they are the last ones.

        The list is the caller's, so that it has what was taken before an exception.
        """
        ticket = self._queue.get()
        while ticket is not None:
            lines += self._claim(ticket)
            if len(lines) >= limit:
                return False
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                if not self._ordinary and not self._urgent:
                    self._bytes = 0  # what threads that counted at once have lost or gained
                return False
        return True

    def recover(self) -> None:
        """After a `take` that failed: queue again what it may have forgotten; each line is still taken once."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        for ticket in sorted([*self._ordinary, *self._urgent]):
            self._queue.put(ticket)
        if self._is_ended:
            self._queue.put(None)

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
        line = self._pop(self._ordinary, ticket) or self._pop(self._urgent, ticket)
        return [line] if line is not None else []

    def _pop(self, lines: dict[int, Line], ticket: int) -> Line | None:
        line = lines.pop(ticket, None)
        if line is not None:
            self._bytes -= len(line[0])
        return line
