"""Sockets whose descriptor the job may have closed, and whose number may now be a file of the job's own.

A job that daemonizes closes descriptors that it does not know (`os.closerange`), and the next file that it opens
gets the number of ours. A socket is therefore used and closed only while its descriptor is still the socket that was
made; else it is forgotten, which touches no descriptor.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class LostError(Exception):
    """A descriptor of the server was closed by the job."""


class Owned:
    """A socket and the identity of its descriptor, half a microsecond to check."""

    __slots__ = ("_identity", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._identity = _identity_of(sock.fileno())

    def is_ours(self) -> bool:
        """Whether the descriptor is open and still this socket."""
        try:
            return _identity_of(self.sock.fileno()) == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket, or forget it when its descriptor is no longer this socket."""
        if self.is_ours():
            with suppress(OSError):
                self.sock.close()
        else:
            self.forget()

    def abandon(self) -> None:
        """In a forked child: close this process's descriptor; the connection of the parent goes on."""
        if self.is_ours():
            with suppress(OSError):
                socket.close(self.sock.detach())

    def forget(self) -> None:
        """Let go of the descriptor without closing it."""
        with suppress(OSError):
            self.sock.detach()


def _identity_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)  # raises OSError for -1, which is what a closed socket has
    return found.st_dev, found.st_ino
