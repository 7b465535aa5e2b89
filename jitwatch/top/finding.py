"""Finds the jobs of this machine: asks `/healthz` of the ports that agents take.

A port that nobody listens on refuses at once, so that looking costs a few milliseconds; those that are open are
asked side by side. No token is sent to find a job, and afterwards only to a process of the same user: on a machine
that several people use, anybody can listen on a port.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jitwatch.top.timed import timed

_HOST: Final = "127.0.0.1"
#: Ports that an agent tries before it gives up.
PORTS: Final = 64
_CONNECT_S: Final = 0.3
_ANSWER_S: Final = 1.0
_LISTENS: Final = "0A"


@dataclass(frozen=True, slots=True)
class Found:
    """A job of this machine; `is_ours` if its process belongs to the user who looks."""

    url: str
    is_ours: bool


def find(base: int, *, known: Collection[str] = (), ca: ssl.SSLContext | None = None) -> list[Found]:
    """The jobs that answer on `base` and the ports after it, but for those known already.

    Args:
        base: First port that the agents tried.
        known: Addresses that need not be asked again.
        ca: Whom to trust, to find jobs that serve https as well; None to look for http alone.
    """
    watched = {url.rpartition(":")[2] for url in known}
    ports = [port for port in range(base, min(base + PORTS, 65536)) if str(port) not in watched and _is_open(port)]
    if not ports:
        return []
    with ThreadPoolExecutor(len(ports)) as pool:
        schemes = pool.map(lambda port: _scheme_of(port, ca), ports)
        return [
            Found(f"{scheme}://{_HOST}:{port}", owner_of(port) == os.getuid())
            for port, scheme in zip(ports, schemes, strict=True)
            if scheme is not None
        ]


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def _scheme_of(port: int, ca: ssl.SSLContext | None) -> str | None:
    """How a jitwatch answers there; None if none does."""
    if _answers(http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_S)):
        return "http"
    if ca is not None and _answers(http.client.HTTPSConnection(_HOST, port, timeout=_ANSWER_S, context=ca)):
        return "https"
    return None


def _answers(connection: http.client.HTTPConnection) -> bool:
    timely: Any = connection
    timely.response_class = timed(_ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        if answer.status == http.HTTPStatus.UNAUTHORIZED:
            return 'realm="jitwatch"' in (answer.getheader("WWW-Authenticate") or "")
        return answer.status == http.HTTPStatus.OK and answer.read(9) == b"jitwatch "
    except Exception:  # whatever listens there, it is no job
        return False
    finally:
        connection.close()


def owner_of(port: int) -> int | None:
    """User id of the process that listens on this port; None where the system does not say."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                return int(fields[7])
    return None
