"""One request to a job, and everything that can be wrong with the answer."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading

import pytest

import jitwatch
from jitwatch.top import fetching, finding
from jitwatch.top.fetching import asker
from jitwatch.top.finding import Found, find, owner_of
from tests.unit.hostile import harm_in
from tests.unit.top_states import function, state


@contextlib.contextmanager
def serving(*parts: bytes, hold: bool = False, endless: bytes = b"", pause_s: float = 0.0, port: int = 0):
    """A server that sends these bytes to whoever asks; address, and the requests that came.

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


def test_asker_reads_the_figures_of_a_job():
    """And sends its token."""
    with serving(response(json.dumps(state(function())).encode())) as (url, requests):
        found = asker(url, token="secret")()

    assert ("", False, "4711") == (found.problem, found.is_gone, found.figures.run)
    assert requests[0].startswith(b"GET /api/v1/state?metrics=jitwatch_oom_total HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in requests[0]


def test_asker_sends_no_token_that_it_does_not_have():
    """No empty header either."""
    with serving(response(b"{}")) as (url, requests):
        asker(url)()

    assert b"authorization" not in requests[0].lower()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response(b"{}"), "answers, but is no jitwatch"),
        (response(b"<html>"), "answers, but is no jitwatch"),
        (response(b"[" * 100_000), "answers, but is no jitwatch"),
        (response(b"\xff\xfe"), "answers, but is no jitwatch"),
        (response(b"", "404 Not Found"), "answers with 404 Not Found"),
        (response(b"", "500 \x1b[2J"), "answers with 500 ?[2J"),
        (response(b"", "503 Busy"), "has too many requests in progress"),
        (response(b"", "401 Unauthorized"), "wants a token: give --token-file or JITWATCH_TOKEN"),
        (response(b"", "302 Found", "Location: http://127.0.0.1:1/"), "answers with 302 Found"),
        (b"", "closes the connection; if it serves https, give https://host:port and --ca"),
        (b"SSH-2.0-x\r\n", "speaks no HTTP there"),
    ],
)
def test_asker_says_what_is_wrong(answer, expected):
    """As the end of a sentence, and with nothing that steers a terminal."""
    with serving(answer) as (url, _):
        found = asker(url)()

    assert (None, expected, False) == (found.figures, found.problem, found.is_gone)


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
def test_asker_hears_when_a_job_wants_no_further_question(header, seconds):
    """For a minute at the most, whatever it says."""
    with serving(response(b"", "429 Too Many Requests", header)) as (url, _):
        found = asker(url)()
    assert (None, "is asked for more than it has time for", seconds) == (
        found.figures,
        found.problem,
        found.retry_after_s,
    )


def test_asker_hears_nothing_of_the_kind_in_other_answers():
    """Only that status means it."""
    with serving(response(b"", "503 Service Unavailable", "Retry-After: 7")) as (url, _):
        assert 0.0 == asker(url)().retry_after_s


def test_asker_says_that_a_token_is_the_wrong_one():
    """Not that there should be one."""
    with serving(response(b"", "401 Unauthorized")) as (url, _):
        assert "refuses this token" == asker(url, token="wrong")().problem


def test_asker_follows_no_redirect():
    """The token would go to whoever the answer names."""
    with (
        serving(response(b"{}")) as (other, stolen),
        serving(response(b"", "302 Found", f"Location: {other}/")) as (url, _),
    ):
        asker(url, token="secret")()

    assert [] == stolen


def test_asker_asks_no_proxy_for_this_machine(monkeypatch):
    """Which would ask itself."""
    with serving(response(b"{}")) as (proxy, asked), serving(response(b"{}")) as (url, requests):
        monkeypatch.setenv("http_proxy", proxy)
        asker(url)()

    assert ([], 1) == (asked, len(requests))


def test_asker_knows_that_nothing_listens():
    """The process has ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = asker(f"http://127.0.0.1:{probe.getsockname()[1]}")()

    assert ("nothing listens there", True) == (found.problem, found.is_gone)


def test_asker_survives_what_nobody_thought_of():
    """Such as the error that a host name of seventy letters is."""
    found = asker(f"http://{'a' * 70}.example.org:1")()

    assert (None, False) == (found.figures, found.is_gone)
    assert found.problem


def test_asker_waits_no_longer_than_it_must(monkeypatch):
    """For a server that takes the request and is silent, and for one that never comes to an end."""
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.2)
    with serving(hold=True) as (url, _):
        assert "no answer within 0 s" == asker(url)().problem
    monkeypatch.setattr(fetching, "_WHOLE_S", 0.0)
    with serving(response(b"{" * 10)) as (url, _):
        assert "did not finish its answer within 0 s" == asker(url)().problem


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
def test_asker_waits_for_no_answer_that_does_not_end(monkeypatch, start, endless, pause_s):
    """Each byte comes in time, the whole never does."""
    monkeypatch.setattr(fetching, "_WHOLE_S", 0.3)
    with serving(start, endless=endless, pause_s=pause_s) as (url, _):
        assert "did not finish its answer within 0 s" == asker(url)().problem


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
def test_asker_survives_garbage(answer):
    """It is said what is wrong, in words that are harmless."""
    with serving(answer) as (url, _):
        found = asker(url)()

    assert found.figures is None
    assert found.problem
    assert [] == harm_in(found.problem, "")


def test_asker_takes_no_more_values_than_it_must(monkeypatch):
    """The shortest ones take fifty times their length in memory."""
    monkeypatch.setattr(fetching, "_MAX_VALUES", 1_000)
    with serving(response(b'{"totals": {}, "x": [' + b"[]," * 500 + b"[]]}")) as (url, _):
        assert "answers with more than 1,000 values" == asker(url)().problem
    with serving(response(json.dumps(state(function())).encode())) as (url, _):
        assert "" == asker(url)().problem


def test_asker_reads_no_more_than_it_must(monkeypatch):
    """A job cannot fill our memory."""
    monkeypatch.setattr(fetching, "MAX_BYTES", 2**20)
    with serving(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 2**16] * 32) as (url, _):
        assert "answers with more than 1 MiB" == asker(url)().problem


def test_find_finds_agents_and_nothing_else():
    """An agent with a token too; no other server, and none that is known already. It sends no token."""
    with jitwatch.install(port=0, run="found") as watch:
        base = int(watch.url.rpartition(":")[2])
        assert Found(watch.url, True) in find(base)
        assert [] == [one for one in find(base, known=[watch.url]) if one.url == watch.url]
    with serving(response(b"hello")) as (url, _):
        assert [] == [one for one in find(int(url.rpartition(":")[2])) if one.url == url]
    guarded = response(b"", "401 Unauthorized", 'WWW-Authenticate: Bearer realm="jitwatch"')
    with serving(guarded) as (url, requests):
        assert Found(url, True) in find(int(url.rpartition(":")[2]))
    assert not any(b"authorization" in one.lower() for one in requests)


def test_find_does_not_wait_for_a_silent_server(monkeypatch):
    """It is no agent."""
    monkeypatch.setattr(finding, "_ANSWER_S", 0.1)
    with serving(hold=True) as (url, _):
        assert [] == [one for one in find(int(url.rpartition(":")[2])) if one.url == url]


def test_find_does_not_wait_for_an_answer_that_does_not_end(monkeypatch):
    """Each byte of it comes in time."""
    monkeypatch.setattr(finding, "_ANSWER_S", 0.3)
    with serving(b"HTTP/1.1 200 OK\r\nX: ", endless=b"x", pause_s=0.01) as (url, _):
        assert [] == [one for one in find(int(url.rpartition(":")[2])) if one.url == url]


def test_find_ends_at_the_last_port():
    """There is none above."""
    assert [] == [one for one in find(65535) if not one.url.endswith(":65535")]


def test_owner_of_is_who_listens():
    """And nobody for a port that is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        before = owner_of(port)
        one.listen()

        assert (None, os.getuid()) == (before, owner_of(port))
