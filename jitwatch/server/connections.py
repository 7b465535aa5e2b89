"""The open connections: phases, time limits and bytes of each, and which ones are dropped when there are too many."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Final

from jitwatch.server.limits import Limits
from jitwatch.server.listener import Listener, OwnedSocket
from jitwatch.server.messages import MAX_HEAD_BYTES, take_head

_CHUNK_BYTES: Final = 64 * 1024
_MAX_DRAINED_BYTES: Final = 4 * MAX_HEAD_BYTES


class Phase(IntEnum):
    """What a connection is doing; when there are too many, lower ones are dropped first."""

    DRAINING = 0
    READING = 1
    WRITING = 2
    WORKING = 3
    CLOSED = 4


class Connection(OwnedSocket):
    """A client's socket and state; used by the event loop's thread only.

    `read_head`, `write` and `drain` proceed as far as possible and raise what a non-blocking socket raises when they
    would have to wait.
    """

    __slots__ = ("_limits", "active", "charged_s", "drained", "phase", "received", "since", "tls", "unsent", "watched")

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        super().__init__(sock)
        self._limits = limits
        self.tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.drained = 0
        #: Selector events that are registered for it, and CPU seconds charged for its request on admission.
        self.watched, self.charged_s = 0, 0.0
        self.enter(Phase.READING)

    def enter(self, phase: Phase) -> None:
        """Begin a phase and its time limits."""
        self.phase = phase
        self.since = self.active = time.monotonic()

    def expires(self) -> float:
        """The monotonic time at which the time limit of the phase is over."""
        limits = self._limits
        if self.phase is Phase.WORKING:
            return self.since + limits.handler_s
        if self.phase is Phase.DRAINING:
            return self.since + limits.drain_s
        total_s = limits.read_s if self.phase is Phase.READING else limits.write_s
        return min(self.active + limits.idle_s, self.since + total_s)

    def read_head(self) -> bytes | None:
        """Return the complete request head, or None if the client has closed; RefusedError if it is malformed."""
        if self.tls is not None:
            self.tls.do_handshake()  # returns at once when it is complete
        while data := self.sock.recv(MAX_HEAD_BYTES):
            self.active = time.monotonic()
            self.received += data
            if (head := take_head(self.received)) is not None:
                return head
        return None

    def load(self, response: bytes) -> None:
        """Set the bytes that `write` sends."""
        self.received.clear()
        self.unsent = memoryview(response)
        self.enter(Phase.WRITING)

    def write(self) -> None:
        """Send the response and shut down the sending side; the client closes next."""
        while self.unsent:
            sent = self.sock.send(self.unsent[:_CHUNK_BYTES])
            self.unsent = self.unsent[sent:]
            self.active = time.monotonic()
        if self.tls is not None:
            with suppress(ssl.SSLError):  # the peer has not sent its close_notify yet
                self.tls.unwrap()
        self.sock.shutdown(socket.SHUT_WR)
        self.enter(Phase.DRAINING)

    def drain(self) -> None:
        """Read until the client closes or has sent too much."""
        # Closing a socket with unread bytes resets it, and the client may lose the response.
        while self.drained < _MAX_DRAINED_BYTES and (data := self.sock.recv(MAX_HEAD_BYTES)):
            self.drained += len(data)

    def close(self) -> None:
        """Close the connection in any phase."""
        self.enter(Phase.CLOSED)
        self.unsent = memoryview(b"")
        if self.is_valid():
            with suppress(OSError):
                # A forked child may hold a copy of the descriptor; closing ours alone would not end the connection.
                self.sock.shutdown(socket.SHUT_RDWR)
        super().close()


class Connections:
    """The open connections, oldest first; used by the event loop's thread only."""

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self._listener = listener
        self._limits = limits
        self._open: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._open)

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
        found = min(self._open, key=lambda one: one.phase, default=None)
        if found is None or found.phase is Phase.WORKING:
            return False
        self.drop(found)
        return True

    def drop_expired(self, now: float) -> float:
        """Drop the connections whose time limit is over; returns the monotonic time at which the next one expires."""
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
