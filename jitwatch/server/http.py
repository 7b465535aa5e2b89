"""A small HTTP/1.1 server that no client can block.

One thread (`jitwatch-http`) owns every socket: it accepts, shakes TLS hands, reads request heads and
writes answers, all without blocking. Only a complete, permitted request reaches one of at most
8 worker threads, which runs the handler and never touches a socket. So an idle client, one that sends
a byte a second, or one that never reads its answer costs a file descriptor until its time is over, and
nothing else. Every answer closes its connection. With no client, all threads sleep.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import os
import queue
import re
import selectors
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import IntEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, unquote

from jitwatch.errors import ServerError
from jitwatch.server.tls import server_context

MAX_WORKERS: Final = 8
#: Complete requests that wait for a worker; the next one is answered 503.
MAX_WAITING: Final = 32
MAX_CONNECTIONS: Final = 128
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_URL_BYTES: Final = 8 * 1024
#: Answers being written, together: clients that do not read must not fill the job's memory.
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
#: How many ports after a taken one are tried.
PORT_SEARCH: Final = 63
#: Seconds without a byte in either direction after which a connection is dropped.
IDLE_TIMEOUT_S = 5.0
#: Seconds for a complete request head, TLS handshake included, however steadily it drips.
READ_TIMEOUT_S = 10.0
HANDLER_TIMEOUT_S = 30.0
WRITE_TIMEOUT_S = 30.0
#: Seconds in which a client may close first, so that it reads the answer and no reset.
DRAIN_TIMEOUT_S = 1.0
_ACCEPTS_PER_TURN: Final = 64
_ACCEPT_PAUSE_S: Final = 0.5
_CHUNK_BYTES: Final = 64 * 1024
_ERROR_HEADERS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))

_REQUEST_LINE = re.compile(rb"([A-Za-z][A-Za-z-]{0,31}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
# No `[ \t]*` before the value: 16 KiB of spaces would then cost quadratic time.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]/@\s]*)(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request; there is never a body.

    Attributes:
        method: As sent, `GET`.
        path: Percent-decoded, without the query.
        query: Decoded parameters; the last of a repeated name.
        headers: By lower-case name, repeated ones joined by a comma, without `authorization`.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; the server adds length, date and connection headers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response]


class _RefusedError(Exception):
    """A request that gets an answer without reaching the handler."""

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.response = Response(status, f"{text}\n".encode(), headers=(*_ERROR_HEADERS, *headers))


class Server:
    """Serves one handler on one port until `close()`.

    Args:
        handler: Answers a request; called on several threads at once.
        host: Name or address to listen on.
        port: First port to try; 0 lets the system choose.
        tls_cert: PEM certificate; with `tls_key` the endpoint speaks TLS only.
        tls_key: PEM private key.
        tls_client_ca: PEM authorities; with it clients need a certificate.
        token: Bearer token that every request must carry.
        on_error: Called inside the `except` block of a failure of the handler or of the server.

    Attributes:
        port: The port wanted, and from `start()` on the one that is open.
        moved_from: The port wanted, if it was taken and another one is open.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_client_ca: str | None = None,
        token: str | None = None,
        on_error: Callable[[], None] | None = None,
    ) -> None:
        self.port = port
        self.moved_from: int | None = None
        self._handler = handler
        self._host = host
        self._tls = (tls_cert, tls_key, tls_client_ca)
        self._token = token
        self._on_error = on_error
        self._bound_to = ""
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closing = threading.Lock()

    @property
    def url(self) -> str:
        """An address that works on this machine, `http://127.0.0.1:10431`."""
        host = self._host
        with suppress(ValueError):
            address = ipaddress.ip_address(self._bound_to or host)
            if address.is_unspecified:
                host = "127.0.0.1" if address.version == 4 else "::1"
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls[0] else 'http'}://{shown}:{self.port}"

    def start(self) -> None:
        """Open the port and start serving.

        Raises:
            ServerError: TLS files or token are unusable, or no port could be opened.
        """
        if self._loop is not None:
            raise ServerError("this server was started before: make a new Server")
        if self._token is not None and not self._token.strip():
            raise ServerError("the token is empty: give one that is not, or none at all")
        context = self._context()
        listener = _listen(self._host, self.port)
        wanted, (self._bound_to, self.port) = self.port, listener.getsockname()[:2]
        self.moved_from = wanted if wanted not in (0, self.port) else None
        gate = _Gate(self._token, self._host, self._bound_to)
        self._pid = os.getpid()
        self._loop = _Loop(listener, context, gate, _Pool(self._handler, self._on_error), self._on_error)
        self._thread = threading.Thread(target=self._loop.run, name="jitwatch-http", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._loop.close_all()
            raise ServerError(f"no thread for the endpoint ({error}): raise this process's thread limit") from error

    def _context(self) -> ssl.SSLContext | None:
        cert, key, client_ca = self._tls
        if cert is None and key is None and client_ca is None:
            return None
        if cert is None or key is None:
            raise ServerError("TLS needs both tls_cert and tls_key: give both files, or no TLS option")
        return server_context(cert, key, client_ca)

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop serving; no thread and no socket is left.

        Args:
            timeout_s: Longest wait for a handler that is still running. Its daemon thread ends
                as soon as the handler returns.
        """
        if self._loop is None:
            return
        if os.getpid() != self._pid:
            self.abandon()
            return
        deadline = time.monotonic() + timeout_s
        with self._closing:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None or loop.abandoned:
                return
            loop.stop()
            _join(thread, deadline)
            if not thread.is_alive():
                loop.close_all()
            for worker in loop.pool.stop():
                _join(worker, deadline)

    def abandon(self) -> None:
        """In a forked child: let go of the inherited sockets; the parent keeps serving.

        Takes no lock and joins no thread: another thread may have held or run it at the fork.
        """
        self._closing = threading.Lock()
        if self._loop is not None:
            self._loop.abandon()


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread is not threading.current_thread():
        thread.join(max(0.0, deadline - time.monotonic()))


def _listen(host: str, port: int) -> socket.socket:
    """Open the first free port of `port` … `port + 63`."""
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
                return _listen_at(family, (address[0], candidate, *address[2:]))
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and address != found[-1][4]:
                    break  # 'localhost' may list ::1 first where IPv6 is off
                if error.errno != errno.EADDRINUSE:
                    raise ServerError(_bind_advice(host, candidate, error)) from error
    raise ServerError(
        f"ports {port} to {last} of {host} are all taken: stop what uses them, give another port, "
        "or port=0 for a free one"
    )


def _listen_at(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On Windows this option would let two processes share the port.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        # Linux may accept a bind to a port that is in use, and refuse to listen on it.
        listener.listen(MAX_CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        advice = "it is no address of this machine; give 127.0.0.1, or 0.0.0.0 for every interface"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "ports below 1024 need privileges; give a higher one, or port=0 for a free one"
    else:
        advice = "give another host or port"
    return f"cannot listen on {host} port {port} ({error.strerror}): {advice}"


class _Gate:
    """Decides which requests may reach the handler."""

    def __init__(self, token: str | None, host: str, bound_to: str) -> None:
        self._token = token.strip().encode() if token is not None else None
        self._names = frozenset({"localhost", host.lower()})
        # Without a token, only the address protects a loopback port: a web page whose name is
        # re-bound to 127.0.0.1 must not read it through the user's browser.
        self._check_host = self._token is None and ipaddress.ip_address(bound_to.partition("%")[0]).is_loopback

    def admit(self, request: Request) -> Request:
        """Return the request without its credentials, or raise the refusal."""
        if self._token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if not hmac.compare_digest(given.strip().encode("latin-1"), self._token) or scheme.lower() != "bearer":
                raise _RefusedError(
                    401,
                    "this endpoint needs the header 'Authorization: Bearer <token>'",
                    ("WWW-Authenticate", 'Bearer realm="jitwatch"'),
                )
        if self._check_host and not self._is_known(request.headers.get("host", "localhost")):
            raise _RefusedError(421, "unknown Host: use localhost, an IP address, or the configured host")
        kept = {name: value for name, value in request.headers.items() if name != "authorization"}
        return replace(request, headers=MappingProxyType(kept))

    def _is_known(self, header: str) -> bool:
        match = _HOST.fullmatch(header.strip())
        name = match[1].lower() if match else ""
        if name.removesuffix(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _take_head(received: bytearray) -> bytes | None:
    """Return the complete head in `received`, or None while it is incomplete."""
    line_end = received.find(b"\n")
    if (line_end if line_end >= 0 else len(received)) > MAX_URL_BYTES + 64:
        raise _RefusedError(414, f"the URL is longer than {MAX_URL_BYTES} bytes")
    if not received[:1].isalpha() or (line_end > 0 and received[line_end - 1] != ord("\r")):
        # Answered now, not at the timeout: it is what a TLS client sends to a plain port.
        raise _RefusedError(400, "this is not the start of an HTTP/1.1 request")
    end = received.find(b"\r\n\r\n")
    if max(end, len(received) if end < 0 else 0) > MAX_HEAD_BYTES:
        raise _RefusedError(431, f"the request head is longer than {MAX_HEAD_BYTES} bytes")
    return bytes(received[:end]) if end >= 0 else None


def _parse_head(head: bytes) -> Request:
    """Parse a request head without its final empty line."""
    first, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise _RefusedError(400, "malformed request line")
    if match[3] != b"1":
        raise _RefusedError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if len(match[2]) > MAX_URL_BYTES:
        raise _RefusedError(414, f"the URL is longer than {MAX_URL_BYTES} bytes")
    headers = _parse_headers(lines)
    method, target = match[1].decode(), match[2].decode()
    if absolute := _ABSOLUTE.fullmatch(target):
        headers["host"] = absolute[1]
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if not target.startswith("/"):
        raise _RefusedError(400, "the URL must start with '/'")
    if match[4] != b"0" and "host" not in headers:
        raise _RefusedError(400, "the Host header is missing")
    _refuse_body(method, headers)
    path, _, query = target.partition("#")[0].partition("?")
    try:
        parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=100))
    except ValueError:
        raise _RefusedError(400, "malformed query") from None
    return Request(method, unquote(path), MappingProxyType(parameters), headers)


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise _RefusedError(400, "malformed header line")
        name, value = match[1].decode().lower(), match[2].decode("latin-1").strip(" \t")
        if name in headers and name in ("host", "content-length"):
            raise _RefusedError(400, f"more than one {name} header")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _refuse_body(method: str, headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise _RefusedError(400, "malformed Content-Length")
    # Other methods are the handler's to refuse; their body is never read either.
    if method in ("GET", "HEAD") and (length.strip("0") or "transfer-encoding" in headers):
        raise _RefusedError(413, "requests must not have a body")


def _encode(response: Response, *, with_body: bool = True) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("line break in a response header")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (response.body if with_body else b"")


class _Phase(IntEnum):
    """What a connection is doing; when there are too many, lower ones go first."""

    DRAINING = 0
    READING = 1
    WRITING = 2
    WORKING = 3
    CLOSED = 4


class _Connection:
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
        self.enter(_Phase.READING)

    def enter(self, phase: _Phase) -> None:
        self.phase = phase
        self.since = self.active = time.monotonic()

    def expires(self) -> float:
        """Return the monotonic time at which this connection has been waited for long enough."""
        if self.phase is _Phase.WORKING:
            return self.since + HANDLER_TIMEOUT_S
        if self.phase is _Phase.DRAINING:
            return self.since + DRAIN_TIMEOUT_S
        total_s = READ_TIMEOUT_S if self.phase is _Phase.READING else WRITE_TIMEOUT_S
        return min(self.active + IDLE_TIMEOUT_S, self.since + total_s)


class _Pool:
    """At most 8 threads that run the handler, each started when it is first needed."""

    def __init__(self, handler: Handler, on_error: Callable[[], None] | None) -> None:
        self._handler = handler
        self._on_error = on_error
        self._jobs: queue.SimpleQueue[tuple[_Connection, Request] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self._stopped = False
        #: Answers, in the order in which they were finished.
        self.finished: deque[tuple[_Connection, bytes]] = deque()
        self.wake: Callable[[], None] = lambda: None

    def submit(self, connection: _Connection, request: Request) -> bool:
        """Queue a request, or return False when there are too many. Only the loop calls it."""
        if self._stopped or self._pending >= MAX_WORKERS + MAX_WAITING:
            return False
        if len(self._threads) < min(self._pending + 1, MAX_WORKERS):
            name = f"jitwatch-http-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    return False
            else:
                self._threads.append(thread)
        self._pending += 1
        self._jobs.put((connection, request))
        return True

    def take_finished(self) -> tuple[_Connection, bytes] | None:
        """Return the next answer to send. Only the loop calls it."""
        if not self.finished:
            return None
        self._pending -= 1
        return self.finished.popleft()

    def stop(self) -> list[threading.Thread]:
        """Tell the threads to end after what they are doing, and return them."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        return self._threads

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            connection, request = job
            if self._stopped:
                continue
            self.finished.append((connection, self._answer(request)))
            self.wake()
            del job, connection, request  # keep nothing alive while waiting for the next one

    def _answer(self, request: Request) -> bytes:
        try:
            return _encode(self._handler(request), with_body=request.method != "HEAD")
        except BaseException:  # even SystemExit must not leave the client without an answer
            _report(self._on_error)
            return _encode(_RefusedError(500, "internal error; the job's log says more").response)


def _report(on_error: Callable[[], None] | None) -> None:
    """Hand on the exception being handled; the thread survives even if that raises."""
    if on_error is not None:
        try:
            on_error()
        except BaseException:
            # Raised on purpose under tests: show it as if it had ended the thread.
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


class _Loop:
    """The thread that owns the sockets. Apart from `stop` and `abandon`, only it calls these methods."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        gate: _Gate,
        pool: _Pool,
        on_error: Callable[[], None] | None,
    ) -> None:
        self.pool = pool
        self.abandoned = False
        self._listener = listener
        self._context = context
        self._gate = gate
        self._on_error = on_error
        self._stopping = False
        self._connections: set[_Connection] = set()
        self._paused_until: float | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        pool.wake = self._wake

    def run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._timeout()):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._wake_in:
                        with suppress(BlockingIOError):
                            self._wake_in.recv(4096)
                    else:
                        self._advance(key.data)
                while (answer := self.pool.take_finished()) is not None:
                    self._load(*answer)
                    self._advance(answer[0])
                self._sweep()
        except Exception:
            _report(self._on_error)
        finally:
            self.close_all()

    def stop(self) -> None:
        """Make `run` return soon. Any thread may call it."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it wakes anyway; closed: it has ended
            self._wake_out.send(b"\0")

    def close_all(self) -> None:
        """Close every socket. Idempotent."""
        for connection in tuple(self._connections):
            self._drop(connection)
        self._selector.close()
        for sock in (self._listener, self._wake_in, self._wake_out):
            sock.close()

    def abandon(self) -> None:
        """Close this process's descriptors only: nothing is shut down, and epoll, shared with the parent, unchanged."""
        self.abandoned = True
        with suppress(OSError):  # kqueue descriptors do not survive a fork
            self._selector.close()
        inherited = [connection.sock for connection in tuple(self._connections)]
        for sock in (self._listener, self._wake_in, self._wake_out, *inherited):
            with suppress(OSError):
                if (fd := sock.detach()) >= 0:
                    socket.close(fd)

    def _timeout(self) -> float | None:
        times = [connection.expires() for connection in self._connections]
        if self._paused_until is not None:
            times.append(self._paused_until)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections if c.expires() <= now]:
            self._drop(connection)
        if self._paused_until is not None and self._paused_until <= now:
            self._paused_until = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                # Out of file descriptors, mostly: the port stays readable, and asking again at
                # once would burn the job's CPU.
                self._make_room()
                self._selector.unregister(self._listener)
                self._paused_until = time.monotonic() + _ACCEPT_PAUSE_S
                return
            if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
                sock.close()
            else:
                self._open(sock)

    def _make_room(self) -> bool:
        """Drop the oldest connection that keeps nobody busy; False if there is none."""
        oldest = min(self._connections, key=lambda c: (c.phase, c.opened), default=None)
        if oldest is None or oldest.phase is _Phase.WORKING:
            return False
        self._drop(oldest)
        return True

    def _open(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # gone before we looked
            sock.close()
            return
        connection = _Connection(sock)
        self._connections.add(connection)
        self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        """Go on with a connection as far as it goes without waiting."""
        try:
            self._watch(connection, self._step(connection))
        except OSError:  # the client went away, or failed the TLS handshake
            self._drop(connection)
        except Exception:
            self._drop(connection)
            _report(self._on_error)

    def _step(self, connection: _Connection) -> int:
        """Return the selector events to wait for, 0 for none."""
        try:
            if connection.phase is _Phase.READING:
                self._read(connection)
            if connection.phase is _Phase.WRITING:
                self._write(connection)
            if connection.phase is _Phase.DRAINING:
                self._drain(connection)
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        except (BlockingIOError, InterruptedError):
            return selectors.EVENT_WRITE if connection.phase is _Phase.WRITING else selectors.EVENT_READ
        return 0

    def _watch(self, connection: _Connection, events: int) -> None:
        if connection.watched == events:
            return
        if not events:
            self._selector.unregister(connection.sock)
        elif connection.watched:
            self._selector.modify(connection.sock, events, connection)
        else:
            self._selector.register(connection.sock, events, connection)
        connection.watched = events

    def _drop(self, connection: _Connection) -> None:
        if connection.phase is _Phase.CLOSED:
            return
        self._connections.discard(connection)
        connection.enter(_Phase.CLOSED)
        connection.unsent = memoryview(b"")
        with suppress(OSError, KeyError, ValueError):
            self._watch(connection, 0)
        with suppress(OSError):
            # A child that was forked meanwhile may hold a copy: closing alone would not end it.
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.sock.close()

    def _read(self, connection: _Connection) -> None:
        if connection.tls is not None:
            connection.tls.do_handshake()  # returns at once when it is done already
        while True:
            data = connection.sock.recv(MAX_HEAD_BYTES)
            if not data:
                self._drop(connection)
                return
            connection.active = time.monotonic()
            connection.received += data
            try:
                head = _take_head(connection.received)
                if head is None:
                    continue
                request = self._gate.admit(_parse_head(head))
                connection.enter(_Phase.WORKING)
                if not self.pool.submit(connection, request):
                    raise _RefusedError(503, "too many requests in progress: try again", ("Retry-After", "1"))
            except _RefusedError as refused:
                self._load(connection, _encode(refused.response))
            return

    def _load(self, connection: _Connection, answer: bytes) -> None:
        if connection.phase is _Phase.CLOSED:
            return
        connection.received.clear()
        connection.unsent = memoryview(answer)
        connection.enter(_Phase.WRITING)
        self._bound_unsent(connection)

    def _bound_unsent(self, newest: _Connection) -> None:
        writers = sorted((c for c in self._connections if c.unsent), key=lambda c: c.active)
        total = sum(len(c.unsent) for c in writers)
        for connection in writers:
            if total <= MAX_UNSENT_BYTES:
                return
            if connection is not newest:
                total -= len(connection.unsent)
                self._drop(connection)

    def _write(self, connection: _Connection) -> None:
        while connection.unsent:
            sent = connection.sock.send(connection.unsent[:_CHUNK_BYTES])
            connection.unsent = connection.unsent[sent:]
            connection.active = time.monotonic()
        if connection.tls is not None:
            with suppress(ssl.SSLError):  # says that the peer has not said goodbye yet
                connection.tls.unwrap()
        connection.sock.shutdown(socket.SHUT_WR)
        connection.enter(_Phase.DRAINING)

    def _drain(self, connection: _Connection) -> None:
        # Closing a socket with unread bytes resets it, and the client may lose the answer.
        while connection.drained < 4 * MAX_HEAD_BYTES:
            data = connection.sock.recv(MAX_HEAD_BYTES)
            if not data:
                break
            connection.drained += len(data)
        self._drop(connection)
