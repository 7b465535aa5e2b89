"""One client connection: its phase, its time limits, and its bytes in and out."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from enum import IntEnum
from typing import Final

from jitwatch.server.descriptors import OwnedSocket
from jitwatch.server.limits import Limits
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
        #: CPU seconds charged for its request on admission.
        self.charged_s = 0.0
        #: Selector events that are registered for it.
        self.watched = 0
        self.enter(Phase.READING)

    def enter(self, phase: Phase) -> None:
        """Begin a phase and its time limits."""
        self.phase = phase
        self.since = self.active = time.monotonic()

    def expires(self) -> float:
        """Return the monotonic time at which the time limit of the phase is over."""
        limits = self._limits
        if self.phase is Phase.WORKING:
            return self.since + limits.handler_s
        if self.phase is Phase.DRAINING:
            return self.since + limits.drain_s
        total_s = limits.read_s if self.phase is Phase.READING else limits.write_s
        return min(self.active + limits.idle_s, self.since + total_s)

    def read_head(self) -> bytes | None:
        """Return the complete request head, or None if the client has closed.

        Raises:
            RefusedError: The bytes are not a request head, or it is too long.
        """
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
        while self.drained < _MAX_DRAINED_BYTES:
            data = self.sock.recv(MAX_HEAD_BYTES)
            if not data:
                break
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
