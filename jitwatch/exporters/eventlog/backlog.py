"""A bounded queue of lines to be written, in which urgent lines displace ordinary ones."""

from __future__ import annotations

import itertools
from contextlib import suppress
from queue import Empty, SimpleQueue

from jitwatch.system.threads import Latch

#: A serialized line, and the event to set once it is written.
Line = tuple[bytes, Latch | None]


class Backlog:
    """A first-in, first-out queue with a maximum number of lines and bytes.

    No method takes a lock: each step is one atomic operation of a built-in type, so that a `put` can be interrupted by
    a `put` of the same thread (a signal handler, a finalizer) without a deadlock, unlike with a Condition or a
    queue.Queue. Concurrent calls may therefore exceed the limits slightly.
    """

    def __init__(self, size: int, max_bytes: int) -> None:
        self._size = size
        self._max_bytes = max_bytes
        # The queue has tickets, since nothing can be removed from its middle: the ticket of an evicted line is
        # skipped. An urgent line waits behind those, so they are bounded.
        self._ordinary: dict[int, Line] = {}
        self._urgent: dict[int, Line] = {}
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._tickets = itertools.count()
        self._bytes = 0
        self._is_ended = False

    def is_full(self) -> bool:
        """Whether a limit is reached."""
        return len(self._ordinary) + len(self._urgent) >= self._size or self._bytes >= self._max_bytes

    def evict(self) -> bool:
        """Remove the oldest ordinary line; False if there are only urgent ones."""
        while self._ordinary:
            try:
                oldest = next(iter(self._ordinary))
            except (RuntimeError, StopIteration):  # changed by another thread meanwhile
                continue
            if self._pop(self._ordinary, oldest) is not None:
                return True
        return False

    def put(self, line: bytes, *, urgent: bool = False, done: Latch | None = None) -> None:
        """Add a line, even to a full queue. It is never evicted if it is urgent; `done` is set once it is written."""
        ticket = next(self._tickets)
        lines = self._urgent if urgent else self._ordinary
        lines[ticket] = line, done
        self._bytes += len(line)
        self._queue.put(ticket)

    def end(self) -> None:
        """Mark the end of the queue: `take` then returns True."""
        self._is_ended = True
        self._queue.put(None)

    def take(self, lines: list[Line], limit: int) -> bool:
        """Wait for lines, and move at most `limit` of them to the list. Return whether they are the last ones.

        The list is an argument, so that the caller has the lines that were moved before an exception.
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
                    self._bytes = 0  # corrects what concurrent calls miscounted
                return False
        return True

    def recover(self) -> None:
        """Requeue lines that a failed `take` may have lost. Each line is still taken once."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        for ticket in sorted([*self._ordinary, *self._urgent]):
            self._queue.put(ticket)
        if self._is_ended:
            self._queue.put(None)

    def discard(self) -> int:
        """Remove all lines, and return their number."""
        return sum(len(self._claim(ticket)) for ticket in [*self._ordinary, *self._urgent])

    def _claim(self, ticket: int) -> list[Line]:
        line = self._pop(self._ordinary, ticket) or self._pop(self._urgent, ticket)
        return [line] if line is not None else []

    def _pop(self, lines: dict[int, Line], ticket: int) -> Line | None:
        line = lines.pop(ticket, None)
        if line is not None:
            self._bytes -= len(line[0])
        return line
