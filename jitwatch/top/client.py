"""Finds jobs and polls them, each in a thread of its own; every request is bounded in time and size.

A job gets its next request after it has answered the last one: however slow it is, it never has two of ours.
Looking for jobs asks `/healthz` of the ports that agents use. That request carries no token, and later ones carry it
only to a process of the same user: on a shared machine anybody can listen on a port.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from jitwatch.errors import ConfigError
from jitwatch.top.model import Answer, Process, clean, figures_of, in_order

Ask = Callable[[], Answer]

#: First port that an agent tries, and how many it tries.
DEFAULT_PORT, PORTS = 10431, 64
#: Seconds between two searches for new jobs, and for the first answers.
SEARCH_INTERVAL_S, FIRST_ANSWERS_S = 3.0, 20.0
#: Seconds for a connection and for each read. A whole answer has a multiple of it.
TIMEOUT_S, PROBE_TIMEOUT_S = 5.0, 1.0
_WHOLE: Final = 3
#: A state with ten thousand functions has about 20 MiB and half a million values, of up to a hundred bytes in memory.
MAX_BYTES, MAX_VALUES = 64 * 2**20, 4_000_000
_LONGEST_RETRY_S: Final = 60.0
_LOCAL: Final = "127.0.0.1"
#: Only the metric that is read: all of them are half of what an answer costs the job.
_PATH: Final = "/api/v1/state?metrics=jitwatch_oom_total"
#: Paths of the endpoint that a user copies from a browser.
_PAGES: Final = ("/api/v1/state", "/api/v1/events", "/metrics", "/healthz")
_INVALID: Final = re.compile(r"[\s\x00-\x20\x7f-\x9f\"<>\\^`{|}]")


def address_of(text: str) -> str:
    """The base URL of a job, as `http://127.0.0.1:10431`, from a port, `host:port` or a URL.

    Raises:
        ConfigError: It is none of these.
    """

    def invalid(shown: str, why: str = "") -> ConfigError:
        return ConfigError(f"expected a port, host:port or http(s)://host:port, got {shown[:100]!a}{why}")

    if text.isascii() and text.isdecimal():
        text = f"{_LOCAL}:{text}"
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid(text, f" ({error})") from None
    if parts.scheme not in ("http", "https") or not host or _INVALID.search(text) or not text.isascii():
        raise invalid(text)
    if parts.username is not None or parts.password is not None:
        raise invalid("***", " (pass a token with --token-file or JITWATCH_TOKEN)")
    if port == 0 or parts.query or parts.fragment:
        raise invalid(text)
    if port is None and not has_scheme:
        port = DEFAULT_PORT
    path = parts.path.rstrip("/")
    for page in _PAGES:
        path = path.removesuffix(page)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{path}"


def trusted_by(ca: str | None) -> ssl.SSLContext | None:
    """A context that trusts the certificates in this file and no others; None for the system's.

    Raises:
        ConfigError: It cannot be read, or has no certificates.
    """
    try:
        return None if ca is None else ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ca: {ca} cannot be used ({error}); name a PEM file with certificates") from None


class LateError(TimeoutError):
    """An answer was not complete in time."""


class _Timed(io.RawIOBase):
    """What a socket receives, until a deadline for all of it. Its own timeout holds for each read only."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._socket, self._raw, self._timeout_s = sock, raw, sock.gettimeout() or TIMEOUT_S
        self._ends = time.monotonic() + _WHOLE * self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise LateError
        self._socket.settimeout(min(left_s, self._timeout_s))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            if time.monotonic() >= self._ends:
                raise LateError from None
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        buffered: Any = self.fp
        self.fp = io.BufferedReader(_Timed(sock, buffered.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(http.client.HTTPSConnection):
    response_class = _Response


def _connection(url: str, timeout_s: float, ca: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """A connection that follows no redirect and uses no proxy, so that the token goes to this address only."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return _TlsConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=ca)
    return _Connection(parts.hostname or "", parts.port, timeout=timeout_s)


def asker(url: str, *, token: str | None = None, ca: ssl.SSLContext | None = None) -> Ask:
    """A function that requests the state of this job; it raises nothing.

    Args:
        url: Base URL of the job, from `address_of`.
        token: Bearer token, or None.
        ca: Trusted certificates for https; None for the system's.
    """
    headers = {"Accept": "application/json", "User-Agent": "jitwatch-top", "Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token}"

    def ask() -> Answer:
        try:
            with contextlib.closing(_connection(url, TIMEOUT_S, ca)) as connection:
                connection.request("GET", f"{urlsplit(url).path}{_PATH}", headers=headers)
                response = connection.getresponse()
                return _answer(response) if response.status == HTTPStatus.OK else _refusal(response, bool(token))
        except Exception as error:  # whatever it is, the view goes on
            return Answer(problem=_problem(error), is_gone=isinstance(error, ConnectionRefusedError))

    return ask


def _answer(response: http.client.HTTPResponse) -> Answer:
    parts, size, values = [], 0, 0
    while part := response.read1(2**16):
        parts.append(part)
        size += len(part)
        # What precedes each value of a JSON text but the first.
        values += sum(map(part.count, (b",", b"[", b"{")))
        if size > MAX_BYTES:
            return Answer(problem=f"the response exceeds {MAX_BYTES >> 20} MiB")
        if values > MAX_VALUES:
            return Answer(problem=f"the response has more than {MAX_VALUES:,} values")
    with contextlib.suppress(ValueError, RecursionError):
        if (figures := figures_of(json.loads(b"".join(parts)))) is not None:
            return Answer(figures)
    return Answer(problem="the response is not from jitwatch")


def _refusal(response: http.client.HTTPResponse, has_token: bool) -> Answer:
    if response.status == HTTPStatus.UNAUTHORIZED:
        return Answer(
            problem="the token is not accepted" if has_token else "it needs a token: use --token-file or JITWATCH_TOKEN"
        )
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Answer(problem="too many requests are in progress")
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        given = response.headers.get("Retry-After", "")
        seconds = float(given) if given.isascii() and given.isdigit() and len(given) < 10 else 1.0
        return Answer(problem="the job limits its requests", retry_after_s=min(seconds, _LONGEST_RETRY_S))
    return Answer(problem=f"the status is {response.status} {clean(response.reason)[:60]}".rstrip())


def _problem(reason: object) -> str:
    """Why there is no answer, as the end of a sentence."""
    known: tuple[tuple[type[BaseException], str], ...] = (
        (LateError, f"the response was not complete within {_WHOLE * TIMEOUT_S:.0f} s"),
        (ConnectionRefusedError, "nothing listens there"),
        (TimeoutError, f"no response within {TIMEOUT_S:.0f} s"),
        (socket.gaierror, "the host name cannot be resolved"),
        (ssl.SSLCertVerificationError, "its certificate is not trusted ({}): use --ca"),
        (ssl.SSLError, "the port does not serve https: try http://"),
        (ConnectionResetError, "the connection was closed; if the port serves https, use https://host:port and --ca"),
        (http.client.BadStatusLine, "the port does not serve HTTP"),
    )
    for kind, text in known:
        if isinstance(reason, kind):
            return text.format(clean(getattr(reason, "verify_message", "")))
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return clean(text).strip()[:100] or type(reason).__name__


def find(base: int, *, known: Sequence[str] = (), ca: ssl.SSLContext | None = None) -> list[tuple[str, bool]]:
    """Addresses of the jobs on `base` and the ports after it, and whether the process belongs to this user.

    Args:
        base: First port that the agents tried.
        known: Addresses whose ports are skipped.
        ca: Trusted certificates, to find jobs that serve https as well; None for http alone.
    """
    watched = {url.rpartition(":")[2] for url in known}
    ports = [port for port in range(base, min(base + PORTS, 65536)) if str(port) not in watched and _is_open(port)]
    with ThreadPoolExecutor(len(ports) or 1) as pool:
        urls = pool.map(lambda port: _url_at(port, ca), ports)
        return [(url, owner_of(port) == os.getuid()) for port, url in zip(ports, urls, strict=True) if url]


def _is_open(port: int) -> bool:
    """A port that nobody listens on refuses at once: searching costs a few milliseconds."""
    try:
        with socket.create_connection((_LOCAL, port), timeout=0.3):
            return True
    except OSError:
        return False


def _url_at(port: int, ca: ssl.SSLContext | None) -> str:
    """The address of the job there; empty if there is none."""
    schemes = ("http",) if ca is None else ("http", "https")
    urls = (f"{scheme}://{_LOCAL}:{port}" for scheme in schemes)
    return next((url for url in urls if _is_job(url, ca)), "")


def _is_job(url: str, ca: ssl.SSLContext | None) -> bool:
    try:
        with contextlib.closing(_connection(url, PROBE_TIMEOUT_S, ca)) as connection:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            if answer.status == HTTPStatus.UNAUTHORIZED:
                return 'realm="jitwatch"' in (answer.getheader("WWW-Authenticate") or "")
            return answer.status == HTTPStatus.OK and answer.read(9) == b"jitwatch "
    except Exception:  # whatever listens there, it is no job
        return False


def owner_of(port: int) -> int | None:
    """User id of the process that listens on this port; None where the system does not say."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                _, address, _, state, *fields = line.split()
                if state == "0A" and int(address.rpartition(":")[2], 16) == port:  # 0A: listens
                    return int(fields[3])
    return None


class Client:
    """Polls jobs in threads, and keeps what they answered.

    Args:
        urls: Addresses of jobs; none to search this machine.
        base_port: First port of the search.
        token: Bearer token of the jobs.
        ca: Trusted certificates for https; None for the system's.
        interval_s: Seconds from an answer to the next request.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        urls: Sequence[str] = (),
        *,
        base_port: int = DEFAULT_PORT,
        token: str | None = None,
        ca: ssl.SSLContext | None = None,
        interval_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls, self._base_port, self._token, self._ca = urls, base_port, token, ca
        self._interval_s, self._clock = interval_s, clock
        self._changed = threading.Condition()
        self._jobs: dict[str, Process] = {}
        self._answers = 0
        self._is_ended, self._may_ask = threading.Event(), threading.Event()
        self._may_ask.set()

    def start(self) -> None:
        """Poll the jobs from now on, and those found later."""
        self.search()
        if not self._urls:
            threading.Thread(target=self._search_again, name="jitwatch-top-finder", daemon=True).start()

    def search(self) -> None:
        """Add the jobs at the given addresses, or those found now."""
        found = [(url, True) for url in self._urls]
        for url, is_ours in found or find(self._base_port, known=self._answering(), ca=self._ca):
            self.add(url, asker(url, token=self._token if is_ours else None, ca=self._ca))

    def _search_again(self) -> None:
        while not self._is_ended.wait(SEARCH_INTERVAL_S):
            # Out of descriptors or threads, for example; the jobs that are known are polled all the same.
            with contextlib.suppress(Exception):
                self.search()

    def add(self, url: str, ask: Ask) -> None:
        """Poll a job from now on; one that is known stays as it is."""
        with self._changed:
            if url in self._jobs:
                return
            self._jobs[url] = Process(url, "new", answered=self._clock())
        # A daemon, never joined: a request may hang.
        threading.Thread(target=self._poll, args=(url, ask), name=f"jitwatch-top-{url}", daemon=True).start()

    def _poll(self, url: str, ask: Ask) -> None:
        while not self._is_ended.is_set():
            if not self._may_ask.wait(0.2):
                continue
            answer = ask()
            with self._changed:
                self._jobs[url] = self._jobs[url].after(answer, self._clock())
                self._answers += 1
                self._changed.notify_all()
            self._is_ended.wait(max(self._interval_s, answer.retry_after_s))

    def _answering(self) -> list[str]:
        return [one.url for one in self.processes() if one.status in ("new", "live")]

    def processes(self) -> list[Process]:
        """All jobs as they are now, in the order of the screen."""
        with self._changed:
            now = self._clock()
            return in_order(job.at(now) for job in self._jobs.values())

    @property
    def answers(self) -> int:
        """Number of answers so far; it changes when there is something new to show."""
        return self._answers

    def wait_for_all(self, timeout_s: float) -> None:
        """Wait until every job has answered once or failed to, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._answers >= len(self._jobs), timeout_s)

    def once(self) -> list[Process]:
        """The jobs, each after one request."""
        self._interval_s = 3600.0
        self.search()
        self.wait_for_all(FIRST_ANSWERS_S)
        self.end()
        return self.processes()

    def pause(self, is_paused: bool) -> None:
        """Send no request until called with False."""
        (self._may_ask.clear if is_paused else self._may_ask.set)()

    def end(self) -> None:
        """Send no request any more."""
        self._is_ended.set()

    @property
    def nothing_found(self) -> str:
        """What to say, and what to do, where there is no job."""
        last = min(self._base_port + PORTS - 1, 65535)
        return (
            f"No job with jitwatch responds on this machine on ports {self._base_port} to {last} of {_LOCAL}. "
            "Start one with: jitwatch run train.py, or name a port or an address: jitwatch top 9000 node7:10431"
        )
