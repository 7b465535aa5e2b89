"""Sockets whose descriptor the job may have closed, and whose number may now be a file of the job.

A job that daemonizes closes descriptors that it does not know (`os.closerange`), and the next file that it opens gets
the same number. A socket is therefore used and closed only while its descriptor still refers to it; otherwise the
socket is detached, which touches no descriptor.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class DescriptorClosedError(Exception):
    """The job has closed a descriptor of the server."""


class OwnedSocket:
    """A socket and the identity of its descriptor, which takes half a microsecond to check."""

    __slots__ = ("_identity", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._identity = _identity_of(sock.fileno())

    def is_valid(self) -> bool:
        """Whether the descriptor is open and still refers to this socket."""
        try:
            return _identity_of(self.sock.fileno()) == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket, or detach it if its descriptor refers to something else."""
        if self.is_valid():
            with suppress(OSError):
                self.sock.close()
        else:
            self.detach()

    def abandon(self) -> None:
        """In a forked child: close this process's descriptor; the connection of the parent stays open."""
        if self.is_valid():
            with suppress(OSError):
                socket.close(self.sock.detach())

    def detach(self) -> None:
        """Release the descriptor without closing it."""
        with suppress(OSError):
            self.sock.detach()


def _identity_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)  # raises OSError for -1, the descriptor of a closed socket
    return found.st_dev, found.st_ino
