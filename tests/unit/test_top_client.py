"""Jobs are found, asked and polled: every address, every broken answer, every limit."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from jitwatch.top.client import Client, Job, find, owner_of
from jitwatch.top.model import Answer
from tests.unit.hostile import harm_in
from tests.unit.top_states import URL, cleaned, function, state
from tests.waiting import wait_until


@contextlib.contextmanager
def serving(*parts: bytes, hold: bool = False, endless: bytes = b"", pause_s: float = 0.0, port: int = 0):
    """A server that sends these bytes to every client; yields its address and the requests that arrived.

    Args:
        hold: Keep the connection open after the parts.
        endless: Sent again and again after the parts, with a pause after each.
    """
    requests: list[bytes] = []
    is_over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                part = self.request.recv(4096)
                if not part:
                    return
                request += part
            requests.append(request)
            with contextlib.suppress(OSError):
                for part in parts:
                    self.request.sendall(part)
                while endless and not is_over.wait(pause_s):
                    self.request.sendall(endless)
                if hold:
                    is_over.wait(30)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", requests
        finally:
            is_over.set()
            server.shutdown()
            thread.join()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_job_reads_the_figures_of_a_job():
    """The request carries the token."""
    with serving(response(json.dumps(state(function())).encode())) as (url, requests):
        found = Job(url=url, token="secret").ask()

    assert ("", False, "4711") == (found.problem, found.is_gone, found.state["run"])
    assert requests[0].startswith(b"GET /api/v1/state?metrics=jitwatch_oom_total HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in requests[0]


def test_job_sends_no_token_that_it_does_not_have():
    """There is no empty header either."""
    with serving(response(b"{}")) as (url, requests):
        Job(url=url).ask()

    assert b"authorization" not in requests[0].lower()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response(b"{}"), "the response is not from jitwatch"),
        (response(b"<html>"), "the response is not from jitwatch"),
        (response(b"[" * 100_000), "the response is not from jitwatch"),
        (response(b"\xff\xfe"), "the response is not from jitwatch"),
        (response(b"", "404 Not Found"), "the status is 404 Not Found"),
        (response(b"", "500 \x1b[2J"), "the status is 500 ?[2J"),
        (response(b"", "503 Busy"), "too many requests are in progress"),
        (response(b"", "401 Unauthorized"), "it needs a token: use --token-file or JITWATCH_TOKEN"),
        (response(b"", "302 Found", "Location: http://127.0.0.1:1/"), "the status is 302 Found"),
        (b"", "the connection was closed; if the port serves https, use https://host:port and --ca"),
        (b"SSH-2.0-x\r\n", "the port does not serve HTTP"),
    ],
)
def test_job_says_what_is_wrong(answer, expected):
    """The problem is the end of a sentence, without control characters."""
    with serving(answer) as (url, _):
        found = Job(url=url).ask()

    assert (None, expected, False) == (found.state, found.problem, found.is_gone)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Retry-After: 7", 7.0),
        ("Retry-After: 86400", 60.0),
        ("Retry-After: 99999999999999999999", 1.0),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT", 1.0),
        ("Retry-After: -5", 1.0),
        ("X-Other: 1", 1.0),
    ],
)
def test_job_reads_retry_after(header, seconds):
    """It is at most a minute, whatever the header says."""
    with serving(response(b"", "429 Too Many Requests", header)) as (url, _):
        found = Job(url=url).ask()
    assert (None, "the job limits its requests", seconds) == (
        found.state,
        found.problem,
        found.retry_after_s,
    )


def test_job_reads_retry_after_of_no_other_status():
    """Only 429 delays the next request."""
    with serving(response(b"", "503 Service Unavailable", "Retry-After: 7")) as (url, _):
        assert 0.0 == Job(url=url).ask().retry_after_s


def test_job_says_that_a_token_is_wrong():
    """The message is another one than without a token."""
    with serving(response(b"", "401 Unauthorized")) as (url, _):
        assert "the token is not accepted" == Job(url=url, token="wrong").ask().problem


def test_job_follows_no_redirect():
    """The token would be sent to the server that the answer names."""
    with (
        serving(response(b"{}")) as (other, stolen),
        serving(response(b"", "302 Found", f"Location: {other}/")) as (url, _),
    ):
        Job(url=url, token="secret").ask()

    assert [] == stolen


def test_job_uses_no_proxy(monkeypatch):
    """The token would be sent to it."""
    with serving(response(b"{}")) as (proxy, asked), serving(response(b"{}")) as (url, requests):
        monkeypatch.setenv("http_proxy", proxy)
        Job(url=url).ask()

    assert ([], 1) == (asked, len(requests))


def test_job_reports_a_port_without_listener():
    """The process has ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = Job(url=f"http://127.0.0.1:{probe.getsockname()[1]}").ask()

    assert ("nothing listens there", True) == (found.problem, found.is_gone)


def test_job_survives_an_unexpected_error():
    """A host name label of seventy letters raises an error of its own kind."""
    found = Job(url=f"http://{'a' * 70}.example.org:1").ask()

    assert (None, False) == (found.state, found.is_gone)
    assert found.problem


def test_job_gives_up_a_silent_server():
    """A server that accepts the request and stays silent is given up after the timeout."""
    with serving(hold=True) as (url, _):
        assert "no response within 0 s" == Job(url=url, timeout_s=0.05).ask().problem


@pytest.mark.parametrize(
    ("start", "endless", "pause_s"),
    [
        (b"HTTP/1.1 20", b"0", 0.01),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.01),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" ", 0.01),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n", 0.01),
    ],
    ids=["status", "header", "continue", "body", "chunks"],
)
def test_job_gives_up_an_answer_that_does_not_end(start, endless, pause_s):
    """Each byte arrives in time, the whole answer never does."""
    with serving(start, endless=endless, pause_s=pause_s) as (url, _):
        assert "the response was not complete within 0 s" == Job(url=url, timeout_s=0.06).ask().problem


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n{}",
        b"HTTP/9.9 999 \xff\x1b[2J\r\n\r\n",
        b"HTTP/1.1 -1 no\r\n\r\n",
        b"\x00" * 1_000,
        response(b'{"totals": ' + b"[" * 200_000),
        response(b'{"totals": {"compiles": ' + b"9" * 5_000 + b"}}"),
        response(b"\xef\xbb\xbf{}"),
        response(b"\x1f\x8b\x08", "200 OK", "Content-Encoding: gzip"),
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_job_survives_garbage(answer):
    """The problem is named, without control characters."""
    with serving(answer) as (url, _):
        found = Job(url=url).ask()

    assert found.state is None
    assert found.problem
    assert [] == harm_in(found.problem, "")


def test_job_limits_the_values_of_an_answer():
    """The shortest values use fifty times their length in memory."""
    with serving(response(b'{"totals": {}, "x": [' + b"[]," * 500 + b"[]]}")) as (url, _):
        assert "the response has more than 1,000 values" == Job(url=url, max_values=1_000).ask().problem
    with serving(response(json.dumps(state(function())).encode())) as (url, _):
        assert "" == Job(url=url, max_values=1_000).ask().problem


def test_job_limits_the_size_of_an_answer():
    """A job cannot fill the memory of the client."""
    with serving(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 2**16] * 32) as (url, _):
        assert "the response exceeds 1 MiB" == Job(url=url, max_bytes=2**20).ask().problem


AGENT = response(b"jitwatch 0.1.0 4711")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_find_finds_agents_and_nothing_else():
    """Agents with a token are found too; other servers and known ones are not. No token is sent."""
    guarded = response(b"", "401 Unauthorized", 'WWW-Authenticate: Bearer realm="jitwatch"')
    with (
        serving(AGENT) as (one, asked),
        serving(guarded) as (two, asked_too),
        serving(response(b"hello")) as (other, _),
    ):
        found = {url: job for url in (one, two, other) for job in find(port_of(url), token="secret") if job.url == url}
        assert {one, two} == set(found)
        assert [] == [job for job in find(port_of(one), [one]) if job.url == one]
    assert all(b"GET /healthz " in one and b"authorization" not in one.lower() for one in asked + asked_too)


def test_find_gives_the_token_to_processes_of_this_user_only():
    """Any user of the machine can listen on a port and answer as jitwatch."""
    with serving(AGENT) as (url, _):
        tokens = [
            next(job.token for job in find(port_of(url), token="secret", **owner) if job.url == url)
            for owner in ({}, {"owner": lambda _: os.getuid() + 1}, {"owner": lambda _: None})
        ]

    assert ["secret", None, None] == tokens


@pytest.mark.parametrize("endless", [b"", b"x"], ids=["silent", "endless"])
def test_find_does_not_wait_for_an_answer_that_does_not_end(endless):
    """Such a server is no agent."""
    with serving(b"HTTP/1.1 200 OK\r\nX: ", endless=endless, pause_s=0.01, hold=True) as (url, _):
        assert [] == [job for job in find(port_of(url), timeout_s=0.06) if job.url == url]


def test_find_ends_at_the_last_port():
    """There is no port above 65535."""
    assert {job.url for job in find(65535)} <= {"http://127.0.0.1:65535"}


def test_owner_of_is_who_listens():
    """It is None for a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
        before = owner_of(url)
        one.listen()

        assert (None, os.getuid()) == (before, owner_of(url))


class Fake:
    """A job that gives this answer, and counts the requests."""

    def __init__(self, answer: Answer, url: str = URL) -> None:
        self.url, self.asked = url, threading.Semaphore(0)
        self._answer = answer

    def ask(self) -> Answer:
        self.asked.release()
        return self._answer


WELL = Answer(cleaned(function()))


@contextlib.contextmanager
def polling(*jobs: Fake, **options: Any) -> Iterator[Client]:
    """A client that polls without a pause; its threads have ended afterwards."""
    client = Client(jobs, interval_s=0.001, **options)
    try:
        yield client
    finally:
        client.end()
        wait_until(lambda: [] == names_of_threads(), what="the end of the threads")


def names_of_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("jitwatch-top")]


def test_client_polls_a_job_in_a_single_thread():
    """However often a job is found, it has one request at a time."""
    job = Fake(WELL)
    with polling(job, job, search=lambda _: [job]) as client:
        client.start()
        for _ in range(5):
            assert job.asked.acquire(timeout=10)

        assert {"jitwatch-top-finder": 1, f"jitwatch-top-{URL}": 1} == Counter(names_of_threads())
        assert [URL] == [one.url for one in client.processes()]


def test_client_keeps_what_was_answered():
    """After wait_for_all every job has answered once, or failed to."""
    other = Fake(Answer(problem="nothing listens there", is_gone=True), "http://node7:1")
    with polling(Fake(WELL), other) as client:
        client.start()
        client.wait_for_all(10)

        assert [(URL, "live"), ("http://node7:1", "new")] == [(one.url, one.status) for one in client.processes()]
        assert client.answers >= 2


def test_client_sends_nothing_while_paused():
    """Neither to jobs nor to find others, until polling goes on."""
    job, searches = Fake(WELL), []
    with polling(job, search=lambda _: searches.append(0) or [], search_interval_s=0.001) as client:
        client.is_paused = True
        client.start()

        assert not job.asked.acquire(timeout=0.1)
        assert [0] == searches
        client.is_paused = False
        assert job.asked.acquire(timeout=10)


def test_client_finds_jobs_that_start_later():
    """The search is repeated, and goes on after a failure; a job that answers is not searched for again."""
    searches: list[list[str]] = []

    def search(known):
        searches.append(list(known))
        if len(searches) == 2:
            raise OSError("too many open files")
        return [Fake(WELL)] if len(searches) > 2 else []

    with polling(search=search, search_interval_s=0.01) as client:
        client.start()
        wait_until(lambda: searches[-1] == [URL], what="a search with the address that was found")

        assert [URL] == [one.url for one in client.processes()]


def test_client_asks_each_job_once():
    """For plain text and JSON; afterwards it sends nothing."""
    job, other = Fake(WELL), Fake(WELL, "http://node7:1")
    with polling(job, search=lambda _: [other], search_interval_s=0.001) as client:
        assert ["live", "live"] == [one.status for one in client.once()]
    assert [True, True, False, False] == [one.asked.acquire(blocking=False) for one in (job, other, job, other)]


def test_job_does_not_show_its_token():
    """It is in no traceback."""
    assert "secret" not in repr(Job(url=URL, token="secret"))
