"""Misbehaving clients as a process of their own: `abusers.py ATTACK URL`, then lines `on` and `off` on stdin.

Each line is answered with the totals since the start, as JSON. Only 127.0.0.1 is ever contacted.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import sys
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

HOST = b"Host: localhost\r\n"
PATHS = (
    b"/../../etc/passwd",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/page/..%2f..%2fconfig.py",
    b"/page/../../config.py",
    b"//etc/passwd",
    b"/etc/passwd%00.js",
    b"/page/%00",
    b"http://localhost/../../etc/passwd",
    b"file:///etc/passwd",
    b"/page/" + b"../" * 500,
)


class Counts:
    """Totals so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"made": 0, "answered": 0, "refused": 0, "slowest_ms": 0, "leaked": 0}

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def slowest(self, seconds: float) -> None:
        with self._lock:
            self._counts["slowest_ms"] = max(self._counts["slowest_ms"], int(1e3 * seconds))

    def row(self) -> str:
        with self._lock:
            return json.dumps(self._counts)


counts, on = Counts(), threading.Event()
url = urlsplit(sys.argv[2])
assert url.hostname == "127.0.0.1"
is_tls = url.scheme == "https"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def connect(timeout_s: float = 15.0) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", url.port), timeout=timeout_s)
    counts.add("made")
    return sock


def receive(sock: socket.socket) -> bytes:
    parts = []
    with suppress(OSError):
        while data := sock.recv(65536):
            parts.append(data)
    return b"".join(parts)


def talk(raw: bytes, timeout_s: float = 15.0) -> bytes:
    with connect(timeout_s) as plain, context.wrap_socket(plain) if is_tls else plain as sock:
        with suppress(OSError):
            sock.sendall(raw)
        answer = receive(sock)
    if answer.startswith(b"HTTP/1.1 200"):
        counts.add("answered")
    elif answer:
        counts.add("refused")
    if b"root:" in answer:
        counts.add("leaked")
    return answer


def get(path: bytes) -> bytes:
    return talk(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")


def scrape() -> None:
    started = time.monotonic()
    get(b"/metrics")
    counts.slowest(time.monotonic() - started)
    time.sleep(1.0)


def hold(number: int, first: bytes, drip: bytes) -> None:
    """Keep many connections open, sending one byte from time to time, and reconnect when they are dropped."""
    held: list[socket.socket] = []
    try:
        while on.is_set():
            while len(held) < number and on.is_set():
                with suppress(OSError):
                    sock = connect(2.0)
                    held.append(sock)
                    sock.sendall(first)
            for sock in tuple(held):
                try:
                    if drip:
                        sock.send(drip)
                    sock.setblocking(False)
                    if sock.recv(1) == b"":
                        raise ConnectionError
                except BlockingIOError:
                    pass
                except OSError:
                    held.remove(sock)
                    sock.close()
            on_for(0.5)
    finally:
        for sock in held:
            sock.close()


def on_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while on.is_set() and time.monotonic() < until:
        time.sleep(0.05)


def garbage() -> None:
    talk(random.choice((random.randbytes(2000), b"\x16\x03\x01" + random.randbytes(300), b"\r\n" * 50, b"G" * 20000)))


def pipelined() -> None:
    talk((b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 100)


def oversized() -> None:
    talk(
        random.choice(
            (
                b"GET /healthz HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 60000 + b"\r\n\r\n",
                b"GET /" + b"a" * 60000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
                b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 8000 + b"\r\n",
                b"GET /healthz HTTP/1.1\r\n" + HOST + b"A:" + b" " * 16000 + b"\x01\r\n\r\n",
            )
        )
    )


def unread() -> None:
    """Requests a large response, and reads it a little at a time."""
    with connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /api/v1/state HTTP/1.1\r\n" + HOST + b"\r\n")
        with suppress(OSError):
            while on.is_set() and sock.recv(64):
                time.sleep(0.2)


def reset() -> None:
    """Resets connections in the middle of a request or of a response."""
    with connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            sock.sendall(random.choice((b"GET /metr", b"GET /page/parts.js HTTP/1.1\r\n" + HOST + b"\r\n")))
            if random.random() < 0.5:
                sock.recv(100)


ATTACKS = {
    "scrape": (1, scrape),
    "flood-state": (8, lambda: get(b"/api/v1/state")),
    "flood-metrics": (8, lambda: get(b"/metrics")),
    "flood-healthz": (8, lambda: get(b"/healthz")),
    "flood-unknown": (8, lambda: get(b"/%d" % random.randrange(10**9))),
    "idle": (1, lambda: hold(500, b"", b"")),
    "slow": (1, lambda: hold(200, b"GET / HTTP/1.1\r\n" + HOST + b"A: ", b"a")),
    "garbage": (8, garbage),
    "pipelined": (8, pipelined),
    "traversal": (8, lambda: get(random.choice(PATHS))),
    "oversized": (8, oversized),
    "unread": (50, unread),
    "reset": (8, reset),
    "half-open-tls": (1, lambda: hold(200, b"\x16\x03\x01\x02\x00\x01", b"")),
    "handshakes": (8, lambda: get(b"/healthz")),
}


def run(attack: str) -> None:
    while on.wait():
        try:
            ATTACKS[attack][1]()
        except OSError:  # refused, reset or timed out, as expected
            time.sleep(0.01)


def main() -> None:
    for _ in range(ATTACKS[sys.argv[1]][0]):
        threading.Thread(target=run, args=(sys.argv[1],), daemon=True).start()
    print(counts.row(), flush=True)
    for line in sys.stdin:
        if line.strip() == "on":
            on.set()
        else:
            on.clear()
        print(counts.row(), flush=True)


if __name__ == "__main__":
    main()
