"""Opening a port, or the next free one, and the address to show for it."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from contextlib import suppress
from typing import Final

from jitwatch.errors import ServerError
from jitwatch.system import shortages

#: How many ports after a taken one are tried.
PORT_SEARCH: Final = 63


class NoPortError(ServerError):
    """Every port that may be taken is taken."""


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


def listen(host: str, port: int, *, backlog: int, search: int = PORT_SEARCH) -> socket.socket:
    """Open the first free port of `port` … `port + 63`.

    Args:
        host: Name or address to listen on.
        port: First port to try; 0 lets the system choose.
        backlog: Connections that may wait to be accepted.
        search: How many ports after a taken one are tried.

    Raises:
        NoPortError: All of them are taken.
        ServerError: The host is none of this machine, or the port may not be opened.
    """
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerError(
            f"host {host!r} cannot be resolved ({error}): give an address of this machine, such as 127.0.0.1"
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
        is_low = 0 < port < 1024
        advice = "ports below 1024 need privileges; " if is_low else "this process may not open a port; "
        advice += "give a higher one, or port=0 for a free one" if is_low else "allow it, or go without the endpoint"
    elif shortages.is_shortage(error):
        advice = shortages.advice(error)
    else:
        advice = "give another host or port"
    return f"cannot listen on {host} port {port} ({error.strerror}): {advice}"
