"""One client: what it is doing, how long it may go on, and its bytes in and out."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from enum import IntEnum
from typing import Final

from jitwatch.server.descriptors import Owned
from jitwatch.server.messages import MAX_HEAD_BYTES, take_head

#: Seconds without a byte in either direction after which a connection is dropped.
IDLE_TIMEOUT_S = 5.0
#: Seconds for a complete request head, TLS handshake included, however steadily it drips.
READ_TIMEOUT_S = 10.0
HANDLER_TIMEOUT_S = 30.0
WRITE_TIMEOUT_S = 30.0
#: Seconds in which a client may close first, so that it reads the answer and no reset.
DRAIN_TIMEOUT_S = 1.0
_CHUNK_BYTES: Final = 64 * 1024


class Phase(IntEnum):
    """What a connection is doing; when there are too many, lower ones go first."""

    DRAINING = 0
    READING = 1
    WRITING = 2
    WORKING = 3
    CLOSED = 4


class Connection(Owned):
    """A client's socket and state; only the loop's thread changes it.

    `read_head`, `write` and `drain` go as far as they can, and raise what a socket that does not
    block raises when they would have to wait.
    """

    __slots__ = ("active", "charged_s", "drained", "opened", "phase", "received", "since", "tls", "unsent", "watched")

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.drained = 0
        #: CPU seconds that its request was charged when it was let in.
        self.charged_s = 0.0
        #: Selector events that the loop waits for.
        self.watched = 0
        self.opened = time.monotonic()
        self.enter(Phase.READING)

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and its time limits."""
        self.phase = phase
        self.since = self.active = time.monotonic()

    def expires(self) -> float:
        """Return the monotonic time at which this connection has been waited for long enough."""
        if self.phase is Phase.WORKING:
            return self.since + HANDLER_TIMEOUT_S
        if self.phase is Phase.DRAINING:
            return self.since + DRAIN_TIMEOUT_S
        total_s = READ_TIMEOUT_S if self.phase is Phase.READING else WRITE_TIMEOUT_S
        return min(self.active + IDLE_TIMEOUT_S, self.since + total_s)

    def read_head(self) -> bytes | None:
        """Return the complete head of the request, or None if the client has gone.

        Raises:
            RefusedError: What came is no request head, or too long.
        """
        if self.tls is not None:
            self.tls.do_handshake()  # returns at once when it is done already
        while data := self.sock.recv(MAX_HEAD_BYTES):
            self.active = time.monotonic()
            self.received += data
            if (head := take_head(self.received)) is not None:
                return head
        return None

    def load(self, answer: bytes) -> None:
        """Take the bytes that `write` sends."""
        self.received.clear()
        self.unsent = memoryview(answer)
        self.enter(Phase.WRITING)

    def write(self) -> None:
        """Send the answer and say goodbye; then it is the client's turn to close."""
        while self.unsent:
            sent = self.sock.send(self.unsent[:_CHUNK_BYTES])
            self.unsent = self.unsent[sent:]
            self.active = time.monotonic()
        if self.tls is not None:
            with suppress(ssl.SSLError):  # says that the peer has not said goodbye yet
                self.tls.unwrap()
        self.sock.shutdown(socket.SHUT_WR)
        self.enter(Phase.DRAINING)

    def drain(self) -> None:
        """Read on until the client closes, or has sent too much."""
        # Closing a socket with unread bytes resets it, and the client may lose the answer.
        while self.drained < 4 * MAX_HEAD_BYTES:
            data = self.sock.recv(MAX_HEAD_BYTES)
            if not data:
                break
            self.drained += len(data)

    def close(self) -> None:
        """End the connection, whatever it is doing."""
        self.enter(Phase.CLOSED)
        self.unsent = memoryview(b"")
        if self.is_ours():
            with suppress(OSError):
                # A child that was forked meanwhile may hold a copy: closing alone would not end it.
                self.sock.shutdown(socket.SHUT_RDWR)
        super().close()
