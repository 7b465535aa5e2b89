"""The listening port: opening it or the next free one, its address, and waiting for clients or a wake-up.

A job that daemonizes closes descriptors that it does not know (`os.closerange`), and the next file that it opens gets
the same number. A socket is therefore used and closed only while its descriptor still refers to it; otherwise it is
detached, which touches no descriptor.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

from jitwatch.errors import ServerError
from jitwatch.system import shortages

# Poll, not epoll: an epoll has a descriptor of its own, whose number the job could close and reuse for another epoll.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
#: Bound at import: gevent may later replace the class in the module.
_Socket = socket.socket


class NoPortError(ServerError):
    """All ports in the range are taken."""


class DescriptorClosedError(Exception):
    """The job has closed a descriptor of the server."""

    def __init__(self, text: str = "the job has closed the descriptors of the endpoint") -> None:
        super().__init__(text)


def url_of(host: str, bound_to: str, port: int, *, is_tls: bool) -> str:
    """An address that works on this machine, `http://127.0.0.1:10431`, for a requested host and the bound one."""
    with suppress(ValueError):
        address = ipaddress.ip_address(bound_to or host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int, *, backlog: int, search: int = 63) -> socket.socket:
    """Open the first free port of `port` … `port + search`; port 0 lets the system choose.

    Raises:
        NoPortError: All of these ports are taken.
        ServerError: The host is not an address of this machine, or the port may not be opened.
    """
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerError(
            f"host {host!r} cannot be resolved ({error}): use an address of this machine, such as 127.0.0.1"
        ) from error
    last = min(port + search, 65535) if port else 0
    for family, _, _, _, address in found:
        for candidate in range(port, last + 1):
            try:
                return _listen_at(family, (address[0], candidate, *address[2:]), backlog)
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and address != found[-1][4]:
                    break  # 'localhost' may list ::1 first where IPv6 is off
                if error.errno != errno.EADDRINUSE:
                    raise ServerError(
                        f"cannot listen on {host} port {candidate} ({error.strerror}): {_bind_advice(candidate, error)}"
                    ) from error
    raise NoPortError(
        f"ports {port} to {last} of {host} are in use: stop the processes that use them, name another port, "
        "or use port=0 for any free port"
    )


def _listen_at(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        # Linux may accept a bind to a port in use and fail only in listen().
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_advice(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "it is not an address of this machine; use 127.0.0.1 or one that `hostname -I` lists"
    if error.errno in (errno.EACCES, errno.EPERM):
        if 0 < port < 1024:
            return "ports below 1024 need privileges; use a higher port, or port=0 for any free port"
        return "this process is not permitted to open a port; permit it, or continue without the endpoint"
    return shortages.advice(error) if shortages.is_shortage(error) else "use another host or port"


class OwnedSocket:
    """A socket and the identity of its descriptor, which takes half a microsecond to check."""

    __slots__ = ("_identity", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._identity = _identity_of(sock.fileno())

    def is_valid(self) -> bool:
        """Whether the descriptor is open and still refers to this socket."""
        with suppress(OSError):  # the descriptor of a closed socket is -1
            return _identity_of(self.sock.fileno()) == self._identity
        return False

    def close(self) -> None:
        """Close the socket, or detach it if its descriptor refers to something else."""
        with suppress(OSError):
            if self.is_valid():
                self.sock.close()
            else:
                self.sock.detach()

    def abandon(self) -> None:
        """In a forked child: close this process's descriptor; the connection of the parent stays open."""
        if self.is_valid():
            with suppress(OSError):
                socket.close(self.sock.detach())


def _identity_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


class Listener:
    """A listening socket, the selector that its thread waits on, and a socket pair that wakes it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = OwnedSocket(listener)
        wake_in, wake_out = socket.socketpair()
        for sock in (wake_in, wake_out):
            sock.setblocking(False)
        self._wake_in, self._wake_out = OwnedSocket(wake_in), OwnedSocket(wake_out)
        self.selector: selectors.BaseSelector = _Selector()
        #: Waits for the wake-up alone.
        self._wake_selector: selectors.BaseSelector = _Selector()
        for selector in (self.selector, self._wake_selector):
            selector.register(wake_in, selectors.EVENT_READ)
        self.resume()

    def pause(self) -> None:
        """Leave new connections in the backlog."""
        self.selector.unregister(self._listener.sock)

    def resume(self) -> None:
        """Report new connections again."""
        self.selector.register(self._listener.sock, selectors.EVENT_READ)

    def is_listener(self, key: selectors.SelectorKey) -> bool:
        """Whether this selector key is that of the port: a client connects."""
        return key.fileobj is self._listener.sock

    def accept(self) -> socket.socket:
        """Return the next connection; raises as `socket.accept` does."""
        # `accept()` itself would make a socket of the class that is in the module by now.
        descriptor, _ = self._listener.sock._accept()  # type: ignore[attr-defined]
        return _Socket(fileno=descriptor)

    def wake(self) -> None:
        """Wake the thread that waits. Thread-safe."""
        if self._wake_out.is_valid():
            with suppress(OSError):  # full: it wakes up anyway; closed: it has ended
                self._wake_out.sock.send(b"\0")

    def sleep(self, timeout_s: float) -> bool:
        """Sleep until the timeout or `wake`; returns whether it was `wake`."""
        return bool(self._wake_selector.select(timeout_s))

    def clear_wakes(self) -> None:
        """Consume the calls of `wake` so far."""
        with suppress(BlockingIOError):
            self._wake_in.sock.recv(4096)

    def check(self) -> None:
        """Raise DescriptorClosedError if the job has closed a descriptor of the endpoint."""
        if not all(owned.is_valid() for owned in self._owned()):
            raise DescriptorClosedError

    def closers(self) -> tuple[Callable[[], None], ...]:
        """Return the calls that close every part. Each may be called again."""
        return (*(owned.close for owned in self._owned()), self.selector.close, self._wake_selector.close)

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors only."""
        for selector in (self.selector, self._wake_selector):
            with suppress(OSError):  # kqueue descriptors do not survive a fork
                selector.close()
        for owned in self._owned():
            owned.abandon()

    def _owned(self) -> tuple[OwnedSocket, OwnedSocket, OwnedSocket]:
        return self._listener, self._wake_in, self._wake_out
