"""The open connections: which ones wait for the selector, which have expired, and which are dropped when too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from jitwatch.server.connection import Connection, Phase
from jitwatch.server.limits import Limits
from jitwatch.server.listener import Listener


class Connections:
    """The open connections, oldest first; used by the event loop's thread only.

    Args:
        listener: Its selector waits for them.
        limits: How many there may be, and how many bytes.
    """

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self._listener = listener
        self._limits = limits
        self._open: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._open)

    def use(self, listener: Listener) -> None:
        """Use another listener from now on; there must be no connection."""
        self._listener = listener

    def add(self, connection: Connection) -> None:
        """Add a new connection."""
        self._open[connection] = None

    def watch(self, connection: Connection, events: int) -> None:
        """Register the selector events that a connection waits for; 0 for none."""
        if connection.watched == events:
            return
        selector = self._listener.selector
        if not events:
            selector.unregister(connection.sock)
        elif connection.watched:
            selector.modify(connection.sock, events, connection)
        else:
            selector.register(connection.sock, events, connection)
        connection.watched = events

    def load(self, connection: Connection, response: bytes) -> None:
        """Give a connection its response, unless it has closed; others are dropped if unsent bytes are too many."""
        if connection.phase is Phase.CLOSED:
            return
        connection.load(response)
        writers = sorted((one for one in self._open if one.unsent), key=lambda one: one.active)
        total = sum(len(one.unsent) for one in writers)
        for one in writers:
            if total <= self._limits.unsent_bytes:
                return
            if one is not connection:
                total -= len(one.unsent)
                self.drop(one)

    def drop(self, connection: Connection) -> None:
        """Close a connection. Idempotent."""
        if connection.phase is Phase.CLOSED:
            return
        self._open.pop(connection, None)
        try:
            with suppress(OSError, KeyError, ValueError):
                self.watch(connection, 0)
        finally:
            connection.close()

    def drop_idlest(self) -> bool:
        """Drop the oldest connection in the lowest phase; returns False if all requests are being handled."""
        found: Connection | None = None
        for connection in self._open:
            if connection.phase is Phase.DRAINING:
                found = connection
                break
            if found is None or connection.phase < found.phase:
                found = connection
        if found is None or found.phase is Phase.WORKING:
            return False
        self.drop(found)
        return True

    def drop_expired(self, now: float) -> float:
        """Drop the connections whose time limit is over; returns when the next one expires.

        Args:
            now: Monotonic seconds.
        """
        next_expiry = float("inf")
        for connection in tuple(self._open):
            if (expires := connection.expires()) <= now:
                self.drop(connection)
            else:
                next_expiry = min(next_expiry, expires)
        return next_expiry

    def closers(self) -> tuple[Callable[[], None], ...]:
        """Return the calls that close every connection."""
        return tuple(partial(self.drop, connection) for connection in tuple(self._open))

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors only."""
        for connection in tuple(self._open):
            connection.abandon()
