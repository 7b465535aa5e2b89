"""The listening port: opening it or the next free one, its address, and waiting for clients or a wake-up."""

from __future__ import annotations

import errno
import ipaddress
import selectors
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from jitwatch.errors import ServerError
from jitwatch.server.descriptors import DescriptorClosedError, OwnedSocket
from jitwatch.system import shortages

#: Ports that are tried after a taken one.
PORT_SEARCH: Final = 63
# Poll, not epoll: an epoll has a descriptor of its own, whose number the job could close and reuse for another epoll.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
#: Bound at import: gevent may later replace the class in the module.
_Socket = socket.socket


class NoPortError(ServerError):
    """All ports in the range are taken."""


def url_of(host: str, bound_to: str, port: int, *, is_tls: bool) -> str:
    """Return an address that works on this machine, `http://127.0.0.1:10431`.

    Args:
        host: Name or address that was asked for.
        bound_to: Address that is listened on; empty before that.
        port: Listener of the address.
        is_tls: Whether the port speaks TLS.
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(bound_to or host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"


def listen(host: str, port: int, *, backlog: int, search: int = PORT_SEARCH) -> socket.socket:
    """Open the first free port of `port` … `port + 63`.

    Args:
        host: Name or address to listen on.
        port: First port to try; 0 lets the system choose.
        backlog: Connections that may wait for acceptance.
        search: Number of ports that are tried after a taken one.

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
                    raise ServerError(_bind_advice(host, candidate, error)) from error
    raise NoPortError(
        f"ports {port} to {last} of {host} are in use: stop the processes that use them, name another port, "
        "or use port=0 for any free port"
    )


def _listen_at(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On Windows this option would let two processes share the port.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        # Linux may accept a bind to a port in use and fail only in listen().
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        advice = "it is not an address of this machine; use 127.0.0.1 or one that `hostname -I` lists"
    elif error.errno in (errno.EACCES, errno.EPERM):
        is_low = 0 < port < 1024
        advice = "ports below 1024 need privileges; " if is_low else "this process is not permitted to open a port; "
        advice += (
            "use a higher port, or port=0 for any free port"
            if is_low
            else "permit it, or continue without the endpoint"
        )
    elif shortages.is_shortage(error):
        advice = shortages.advice(error)
    else:
        advice = "use another host or port"
    return f"cannot listen on {host} port {port} ({error.strerror}): {advice}"


class Listener:
    """A listening socket, the selector that its thread waits on, and a socket pair that wakes it.

    Args:
        listener: The listening socket; closed with the port.
    """

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

    def is_wake(self, key: selectors.SelectorKey) -> bool:
        """Whether this selector key is that of `wake`."""
        return key.fileobj is self._wake_in.sock

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
            raise DescriptorClosedError("the job has closed the descriptors of the endpoint")

    def closers(self) -> tuple[Callable[[], None], ...]:
        """Return the calls that close every part. Each may be called again."""
        sockets = (self._listener.close, self._wake_in.close, self._wake_out.close)
        return (*sockets, self.selector.close, self._wake_selector.close)

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors only."""
        for selector in (self.selector, self._wake_selector):
            with suppress(OSError):  # kqueue descriptors do not survive a fork
                selector.close()
        for owned in self._owned():
            owned.abandon()

    def _owned(self) -> tuple[OwnedSocket, OwnedSocket, OwnedSocket]:
        return self._listener, self._wake_in, self._wake_out
