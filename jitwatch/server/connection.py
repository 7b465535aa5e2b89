"""One client: what it is doing, how long it may go on, and its bytes in and out."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from enum import IntEnum
from typing import Final

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


class Connection:
    """One client; only the loop's thread changes it."""

    __slots__ = ("active", "drained", "opened", "phase", "received", "since", "sock", "tls", "unsent", "watched")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.drained = 0
        self.watched = 0
        self.opened = time.monotonic()
        self.enter(Phase.READING)

    def enter(self, phase: Phase) -> None:
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
