"""Opening a port, or the next free one, and the address to show for it."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from contextlib import suppress
from typing import Final

from jitwatch.errors import ServerError

#: How many ports after a taken one are tried.
PORT_SEARCH: Final = 63


def url_of(host: str, bound_to: str, port: int, *, is_tls: bool) -> str:
    """Return an address that works on this machine, `http://127.0.0.1:10431`.

    Args:
        host: Name or address that was asked for.
        bound_to: Address that is listened on, empty before.
        port: Port of the address.
        is_tls: Whether TLS is spoken there.
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(bound_to or host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"


def listen(host: str, port: int, *, backlog: int) -> socket.socket:
    """Open the first free port of `port` … `port + 63`.

    Args:
        host: Name or address to listen on.
        port: First port to try; 0 lets the system choose.
        backlog: Connections that may wait to be accepted.

    Raises:
        ServerError: The host is none of this machine, or no port could be opened.
    """
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerError(
            f"host {host!r} cannot be resolved ({error}): give an address of this machine, such as 127.0.0.1"
        ) from error
    last = min(port + PORT_SEARCH, 65535) if port else 0
    for family, _, _, _, address in found:
        for candidate in range(port, last + 1):
            try:
                return _listen_at(family, (address[0], candidate, *address[2:]), backlog)
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and address != found[-1][4]:
                    break  # 'localhost' may list ::1 first where IPv6 is off
                if error.errno != errno.EADDRINUSE:
                    raise ServerError(_bind_advice(host, candidate, error)) from error
    raise ServerError(
        f"ports {port} to {last} of {host} are all taken: stop what uses them, give another port, "
        "or port=0 for a free one"
    )


def _listen_at(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On Windows this option would let two processes share the port.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        # Linux may accept a bind to a port that is in use, and refuse to listen on it.
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        advice = "it is no address of this machine; give 127.0.0.1 or one that `hostname -I` lists"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "ports below 1024 need privileges; give a higher one, or port=0 for a free one"
    else:
        advice = "give another host or port"
    return f"cannot listen on {host} port {port} ({error.strerror}): {advice}"
