"""A server over real sockets, and clients of it: what the tests of the endpoint share."""

from __future__ import annotations

import base64
import gc
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

from jitwatch.server.http import Request, Response, Server


def basic(credentials: str) -> str:
    """The header that a browser sends for a user's name, a colon and a password."""
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


def echo(request: Request) -> Response:
    return Response(200, f"{request.method} {request.path}".encode())


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jitwatch-")]


def open_sockets(*, besides: set[str] | None = None) -> set[str]:
    """Sockets and pollers of this process, besides those; garbage is collected only where it may make a difference."""
    left = _open_sockets() - (besides or set())
    if left:
        gc.collect()
        left = _open_sockets() - (besides or set())
    return left


def _open_sockets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the descriptor of the listing itself
            continue
        if link.startswith("socket:") or "eventpoll" in link:
            found.add(link)
    return found


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def receive(sock: socket.socket) -> bytes:
    """Everything up to the end; a reset counts as the end."""
    parts = []
    try:
        while data := sock.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def talk(server: Server, raw: bytes) -> bytes:
    with connect(server) as sock:
        sock.sendall(raw)
        return receive(sock)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def get(
    server: Server, path: str = "/x", *, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    client = (
        http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=context)
        if context
        else http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    )
    try:
        client.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        client.close()


#: Far below every timeout that a blocked answer would wait for, and far above what a busy machine takes.
AT_ONCE_S = 3.0


def scrape_time(server: Server, context: ssl.SSLContext | None = None) -> float:
    started = time.monotonic()
    assert 200 == get(server, context=context)[0]
    return time.monotonic() - started


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificate(folder: Path, name: str) -> tuple[str, str]:
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(cert)),
    )
    return str(cert), str(key)
