"""Finds jobs and polls them, each in a thread of its own; every request is bounded in time and size.

A job gets its next request after it has answered the last one: however slow it is, it never has two of ours.
Looking for jobs asks `/healthz` of the ports that agents use. That request carries no token, and later ones carry it
only to a process of the same user: on a shared machine anybody can listen on a port.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from jitwatch.top.model import Answer, Process, clean, in_order, state_of

#: First port that an agent tries, and how many it tries.
DEFAULT_PORT, PORTS = 10431, 64
LOCAL: Final = "127.0.0.1"
#: A whole answer has this multiple of the timeout for one read.
_WHOLE: Final = 3
#: Only the metric that is read: all of them are half of what an answer costs the job.
_STATE: Final = "/api/v1/state?metrics=jitwatch_oom_total"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Requests the state of a job.

    Attributes:
        url: Its base URL, as `http://127.0.0.1:10431`.
        token: Bearer token, or None.
        ca: Trusted certificates for https; None for the system's.
        timeout_s: Seconds for the connection and for each read.
        max_bytes, max_values: Most of an answer. A state with ten thousand functions has about 20 MiB and half a
            million values, of up to a hundred bytes in memory.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca: ssl.SSLContext | None = None
    timeout_s: float = 5.0
    max_bytes: int = 64 * 2**20
    max_values: int = 4_000_000

    def ask(self) -> Answer:
        """Its state, or why there is none. Whatever happens, the view goes on."""
        try:
            with self._response(_STATE, self.token) as response:
                return self._answer(response) if response.status == HTTPStatus.OK else self._refusal(response)
        except Exception as error:
            return Answer(problem=self._problem(error), is_gone=isinstance(error, ConnectionRefusedError))

    def is_there(self) -> bool:
        """Whether a job listens there, and nothing else; the request carries no token."""
        try:
            with self._response("/healthz") as response:
                if response.status == HTTPStatus.UNAUTHORIZED:
                    return 'realm="jitwatch"' in (response.getheader("WWW-Authenticate") or "")
                return response.status == HTTPStatus.OK and response.read(9) == b"jitwatch "
        except Exception:
            return False

    @contextlib.contextmanager
    def _response(self, path: str, token: str | None = None) -> Iterator[http.client.HTTPResponse]:
        """The response to a request, cut off when it takes too long: a timeout holds for each read only.

        No redirect is followed and no proxy is used, so that the token goes to this address only.
        """
        parts, is_late = urlsplit(self.url), threading.Event()
        host, timeout_s = parts.hostname or "", self.timeout_s
        headers = {"Accept": "application/json", "User-Agent": "jitwatch-top", "Connection": "close"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=self.ca)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
        )

        def cut_off(sock: socket.socket) -> None:
            is_late.set()
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

        with contextlib.closing(connection):
            connection.request("GET", f"{parts.path}{path}", headers=headers)
            timer = threading.Timer(_WHOLE * timeout_s, cut_off, [connection.sock])
            timer.daemon = True
            timer.start()
            try:
                with connection.getresponse() as response:
                    yield response
            finally:
                timer.cancel()
                if is_late.is_set():
                    late = f"the response was not complete within {_WHOLE * timeout_s:.0f} s"
                    raise http.client.HTTPException(late) from None

    def _answer(self, response: http.client.HTTPResponse) -> Answer:
        parts, size, values = [], 0, 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            # What precedes each value of a JSON text but the first.
            values += sum(map(part.count, (b",", b"[", b"{")))
            if size > self.max_bytes:
                return Answer(problem=f"the response exceeds {self.max_bytes >> 20} MiB")
            if values > self.max_values:
                return Answer(problem=f"the response has more than {self.max_values:,} values")
        with contextlib.suppress(ValueError, RecursionError):
            if (state := state_of(json.loads(b"".join(parts)))) is not None:
                return Answer(state)
        return Answer(problem="the response is not from jitwatch")

    def _refusal(self, response: http.client.HTTPResponse) -> Answer:
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            given = response.headers.get("Retry-After", "")
            seconds = float(given) if given.isascii() and given.isdigit() and len(given) < 10 else 1.0
            return Answer(problem="the job limits its requests", retry_after_s=min(seconds, 60.0))
        if response.status == HTTPStatus.UNAUTHORIZED:
            needs = "it needs a token: use --token-file or JITWATCH_TOKEN"
            return Answer(problem="the token is not accepted" if self.token else needs)
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return Answer(problem="too many requests are in progress")
        return Answer(problem=f"the status is {response.status} {clean(response.reason)[:60]}".rstrip())

    def _problem(self, error: Exception) -> str:
        """Why there is no answer, as the end of a sentence."""
        known: tuple[tuple[type[Exception], str], ...] = (
            (ConnectionRefusedError, "nothing listens there"),
            (TimeoutError, f"no response within {self.timeout_s:.0f} s"),
            (socket.gaierror, "the host name cannot be resolved"),
            (ssl.SSLCertVerificationError, "its certificate is not trusted ({}): use --ca"),
            (ssl.SSLError, "the port does not serve https: try http://"),
            (
                ConnectionResetError,
                "the connection was closed; if the port serves https, use https://host:port and --ca",
            ),
            (http.client.BadStatusLine, "the port does not serve HTTP"),
        )
        for kind, text in known:
            if isinstance(error, kind):
                return text.format(clean(getattr(error, "verify_message", "")))
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return clean(text).strip()[:100] or type(error).__name__


def owner_of(url: str) -> int | None:
    """User id of the process that listens on the port of a local address; None where the system does not say."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                _, address, _, state, *fields = line.split()
                if state == "0A" and int(address.rpartition(":")[2], 16) == urlsplit(url).port:  # 0A: listens
                    return int(fields[3])
    return None


def find(
    base: int,
    known: Collection[str] = (),
    *,
    token: str | None = None,
    ca: ssl.SSLContext | None = None,
    timeout_s: float = 1.0,
    owner: Callable[[str], int | None] = owner_of,
) -> list[Job]:
    """The jobs on `base` and the ports after it, with the token if the process belongs to this user.

    Those that serve https are found if trusted certificates are given. A port that nobody listens on refuses at once;
    the ports of known addresses are skipped.
    """
    watched = {url.rpartition(":")[2] for url in known}
    ports = [port for port in range(base, min(base + PORTS, 65536)) if str(port) not in watched]
    schemes = ("http",) if ca is None else ("http", "https")
    jobs = [Job(url=f"{scheme}://{LOCAL}:{port}", ca=ca, timeout_s=timeout_s) for scheme in schemes for port in ports]
    with ThreadPoolExecutor(PORTS) as pool:
        found = [job.url for job, is_there in zip(jobs, pool.map(Job.is_there, jobs), strict=True) if is_there]
    return [Job(url=url, ca=ca, token=token if owner(url) == os.getuid() else None) for url in found]


class Client:
    """Polls jobs in threads, and keeps what they answered.

    Args:
        jobs, search: The jobs, and what finds further ones except those at the addresses that it is given.
        nothing_found: What to say, and what to do, where there is no job.
        interval_s, search_interval_s: Seconds from an answer to the next request, and between two searches.
        clock: Monotonic seconds.

    Attributes:
        is_paused: While it is true no request is sent.
        answers: Number of answers so far; it changes when there is something new to show.
    """

    def __init__(
        self,
        jobs: Iterable[Job] = (),
        search: Callable[[Collection[str]], Iterable[Job]] | None = None,
        *,
        nothing_found: str = "",
        interval_s: float = 2.0,
        search_interval_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_paused, self.answers, self.nothing_found, self.clock = False, 0, nothing_found, clock
        self._jobs, self._search = jobs, search
        self._interval_s, self._search_interval_s = interval_s, search_interval_s
        self._processes: dict[str, Process] = {}
        self._changed, self._is_ended = threading.Condition(), threading.Event()

    def start(self) -> None:
        """Poll the jobs from now on, and those found later."""
        for job in self._jobs:
            self._add(job)
        if self._search is not None:
            self._find()
            self._repeat("finder", self._find, self._search_interval_s)

    def once(self) -> list[Process]:
        """The jobs, each after one request."""
        self._interval_s = self._search_interval_s = 3600.0
        self.start()
        self.wait_for_all(20.0)
        self.end()
        return self.processes()

    def end(self) -> None:
        """Send no request any more."""
        self._is_ended.set()

    def processes(self) -> list[Process]:
        """All jobs as they are now, in the order of the screen."""
        with self._changed:
            now = self.clock()
            return in_order(one.at(now) for one in self._processes.values())

    def wait_for_all(self, timeout_s: float) -> None:
        """Wait until every job has answered once or failed to, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.answers >= len(self._processes), timeout_s)

    def _find(self) -> float:
        known = [one.url for one in self.processes() if one.status in ("new", "live")]
        # Out of descriptors or threads, for example; the jobs that are known are polled all the same.
        with contextlib.suppress(Exception):
            for job in self._search(known) if self._search else ():
                self._add(job)
        return self._search_interval_s

    def _add(self, job: Job) -> None:
        """Poll a job from now on; one that is known stays as it is."""

        def poll() -> float:
            answer = job.ask()
            with self._changed:
                self._processes[job.url] = self._processes[job.url].after(answer, self.clock())
                self.answers += 1
                self._changed.notify_all()
            return max(self._interval_s, answer.retry_after_s)

        with self._changed:
            if job.url in self._processes:
                return
            self._processes[job.url] = Process(job.url, "new", answered=self.clock())
        self._repeat(job.url, poll)

    def _repeat(self, name: str, act: Callable[[], float], pause_s: float = 0.0) -> None:
        """Act again and again in a thread of its own, each time after a pause as long as the last act has returned."""

        def run() -> None:
            seconds = pause_s
            while not self._is_ended.wait(seconds):
                seconds = 0.2 if self.is_paused else act()

        # A daemon, never joined: a request may hang.
        threading.Thread(target=run, name=f"jitwatch-top-{name}", daemon=True).start()
