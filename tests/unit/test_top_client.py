"""Jobs are found, asked and polled: every address, every broken answer, every limit."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading

import pytest

import jitwatch
from jitwatch.errors import ConfigError
from jitwatch.top import client
from jitwatch.top.client import Client, address_of, asker, find, owner_of, trusted_by
from jitwatch.top.model import Answer
from tests.unit.hostile import harm_in
from tests.unit.top_states import URL, figures, function, state, wait_for_threads
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10433", "http://127.0.0.1:10433"),
        ("node7", "http://node7:10431"),
        ("node7:10440", "http://node7:10440"),
        ("[::1]:10440", "http://[::1]:10440"),
        ("http://node7:10440/", "http://node7:10440"),
        ("https://node7:10440/healthz", "https://node7:10440"),
        ("http://127.0.0.1:10431/api/v1/state", "http://127.0.0.1:10431"),
        ("https://proxy.example.org/jobs/7/", "https://proxy.example.org/jobs/7"),
    ],
)
def test_address_of_takes_each_form(text, expected):
    """A port, a host, both, a URL, and a URL copied from a browser."""
    assert expected == address_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "70000",
        "0",
        "node7:x",
        "ftp://node7",
        "node 7:1",
        "http://",
        "node7:1?x=1",
        "http://a\x1b[2J:1",
        "ü:1",
        "-:-1",
    ],
)
def test_address_of_refuses_anything_else(text):
    """The message says what is expected and what was given, without control characters."""
    with pytest.raises(ConfigError, match=r"expected a port, host:port or http\(s\)://host:port, got '") as caught:
        address_of(text)
    assert str(caught.value).isprintable()


def test_address_of_refuses_a_password_and_does_not_show_it():
    """The message may be logged."""
    with pytest.raises(ConfigError, match="--token-file") as caught:
        address_of("http://me:secret@node7:1")
    assert "secret" not in str(caught.value)


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


def test_asker_reads_the_figures_of_a_job():
    """The request carries the token."""
    with serving(response(json.dumps(state(function())).encode())) as (url, requests):
        found = asker(url, token="secret")()

    assert ("", False, "4711") == (found.problem, found.is_gone, found.figures.run)
    assert requests[0].startswith(b"GET /api/v1/state?metrics=jitwatch_oom_total HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in requests[0]


def test_asker_sends_no_token_that_it_does_not_have():
    """There is no empty header either."""
    with serving(response(b"{}")) as (url, requests):
        asker(url)()

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
def test_asker_says_what_is_wrong(answer, expected):
    """The problem is the end of a sentence, without control characters."""
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
def test_asker_reads_retry_after(header, seconds):
    """It is at most a minute, whatever the header says."""
    with serving(response(b"", "429 Too Many Requests", header)) as (url, _):
        found = asker(url)()
    assert (None, "the job limits its requests", seconds) == (
        found.figures,
        found.problem,
        found.retry_after_s,
    )


def test_asker_reads_retry_after_of_no_other_status():
    """Only 429 delays the next request."""
    with serving(response(b"", "503 Service Unavailable", "Retry-After: 7")) as (url, _):
        assert 0.0 == asker(url)().retry_after_s


def test_asker_says_that_a_token_is_wrong():
    """The message is another one than without a token."""
    with serving(response(b"", "401 Unauthorized")) as (url, _):
        assert "the token is not accepted" == asker(url, token="wrong")().problem


def test_asker_follows_no_redirect():
    """The token would be sent to the server that the answer names."""
    with (
        serving(response(b"{}")) as (other, stolen),
        serving(response(b"", "302 Found", f"Location: {other}/")) as (url, _),
    ):
        asker(url, token="secret")()

    assert [] == stolen


def test_asker_uses_no_proxy(monkeypatch):
    """The token would be sent to it."""
    with serving(response(b"{}")) as (proxy, asked), serving(response(b"{}")) as (url, requests):
        monkeypatch.setenv("http_proxy", proxy)
        asker(url)()

    assert ([], 1) == (asked, len(requests))


def test_asker_reports_a_port_without_listener():
    """The process has ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = asker(f"http://127.0.0.1:{probe.getsockname()[1]}")()

    assert ("nothing listens there", True) == (found.problem, found.is_gone)


def test_asker_survives_an_unexpected_error():
    """A host name label of seventy letters raises an error of its own kind."""
    found = asker(f"http://{'a' * 70}.example.org:1")()

    assert (None, False) == (found.figures, found.is_gone)
    assert found.problem


def test_asker_gives_up_a_silent_server(monkeypatch):
    """A server that accepts the request and stays silent is given up after the timeout."""
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    with serving(hold=True) as (url, _):
        assert "no response within 0 s" == asker(url)().problem


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
def test_asker_gives_up_an_answer_that_does_not_end(monkeypatch, start, endless, pause_s):
    """Each byte arrives in time, the whole answer never does."""
    monkeypatch.setattr(client, "TIMEOUT_S", 0.1)
    with serving(start, endless=endless, pause_s=pause_s) as (url, _):
        assert "the response was not complete within 0 s" == asker(url)().problem


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
    """The problem is named, without control characters."""
    with serving(answer) as (url, _):
        found = asker(url)()

    assert found.figures is None
    assert found.problem
    assert [] == harm_in(found.problem, "")


def test_asker_limits_the_values_of_an_answer(monkeypatch):
    """The shortest values use fifty times their length in memory."""
    monkeypatch.setattr(client, "MAX_VALUES", 1_000)
    with serving(response(b'{"totals": {}, "x": [' + b"[]," * 500 + b"[]]}")) as (url, _):
        assert "the response has more than 1,000 values" == asker(url)().problem
    with serving(response(json.dumps(state(function())).encode())) as (url, _):
        assert "" == asker(url)().problem


def test_asker_limits_the_size_of_an_answer(monkeypatch):
    """A job cannot fill the memory of the client."""
    monkeypatch.setattr(client, "MAX_BYTES", 2**20)
    with serving(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 2**16] * 32) as (url, _):
        assert "the response exceeds 1 MiB" == asker(url)().problem


def test_find_finds_agents_and_nothing_else():
    """Agents with a token are found too; other servers and known ones are not. No token is sent."""
    with jitwatch.install(port=0, run="found") as watch:
        base = int(watch.url.rpartition(":")[2])
        assert (watch.url, True) in find(base)
        assert [] == [url for url, _ in find(base, known=[watch.url]) if url == watch.url]
    with serving(response(b"hello")) as (url, _):
        assert [] == [one for one, _ in find(int(url.rpartition(":")[2])) if one == url]
    guarded = response(b"", "401 Unauthorized", 'WWW-Authenticate: Bearer realm="jitwatch"')
    with serving(guarded) as (url, requests):
        assert (url, True) in find(int(url.rpartition(":")[2]))
    assert not any(b"authorization" in one.lower() for one in requests)


def test_find_does_not_wait_for_a_silent_server(monkeypatch):
    """A server that does not answer is no agent."""
    monkeypatch.setattr(client, "PROBE_TIMEOUT_S", 0.1)
    with serving(hold=True) as (url, _):
        assert [] == [one for one, _ in find(int(url.rpartition(":")[2])) if one == url]


def test_find_does_not_wait_for_an_answer_that_does_not_end(monkeypatch):
    """Each byte of it arrives in time."""
    monkeypatch.setattr(client, "PROBE_TIMEOUT_S", 0.3)
    with serving(b"HTTP/1.1 200 OK\r\nX: ", endless=b"x", pause_s=0.01) as (url, _):
        assert [] == [one for one, _ in find(int(url.rpartition(":")[2])) if one == url]


def test_find_ends_at_the_last_port():
    """There is no port above 65535."""
    assert [] == [url for url, _ in find(65535) if not url.endswith(":65535")]


def test_owner_of_is_who_listens():
    """It is None for a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        before = owner_of(port)
        one.listen()

        assert (None, os.getuid()) == (before, owner_of(port))


@pytest.fixture
def threads():
    """The threads of the clients have ended when the test has."""
    yield
    wait_for_threads()


@pytest.fixture
def polling(threads):
    """A client that polls without a pause."""
    found = Client([URL], interval_s=0.001)
    yield found
    found.end()


def test_client_polls_a_job_in_a_single_thread(polling):
    """However often a job is added, it has one request at a time."""
    asked = threading.Semaphore(0)

    def ask():
        asked.release()
        return Answer(figures(function()))

    for _ in range(3):
        polling.add(URL, ask)
    for _ in range(5):
        assert asked.acquire(timeout=10)

    assert [f"jitwatch-top-{URL}"] == [one.name for one in threading.enumerate() if one.name.startswith("jitwatch-top")]
    assert [URL] == [one.url for one in polling.processes()]


def test_client_keeps_what_was_answered(polling):
    """After wait_for_all every job has answered once, or failed to."""
    polling.add(URL, lambda: Answer(figures(function())))
    polling.add("http://node7:1", lambda: Answer(problem="nothing listens there", is_gone=True))
    polling.wait_for_all(10)

    assert [(URL, "live"), ("http://node7:1", "new")] == [(one.url, one.status) for one in polling.processes()]
    assert polling.answers >= 2


def test_client_sends_nothing_while_paused(polling):
    """The job gets no request until polling goes on."""
    asked = threading.Semaphore(0)

    def ask():
        asked.release()
        return Answer()

    polling.pause(True)
    polling.add(URL, ask)

    assert not asked.acquire(timeout=0.3)
    polling.pause(False)
    assert asked.acquire(timeout=10)


def test_search_sends_the_token_to_processes_of_this_user_only(threads, monkeypatch):
    """Any user of the machine can listen on a port and answer as jitwatch."""
    sent = {}

    def fake_asker(url, *, token, ca):
        sent[url] = token
        return Answer

    monkeypatch.setattr(client, "asker", fake_asker)
    monkeypatch.setattr(client, "find", lambda *_, **__: [("http://127.0.0.1:1", True), ("http://127.0.0.1:2", False)])
    Client(token="secret").once()
    Client(["http://127.0.0.1:3"], token="secret").once()

    assert {"http://127.0.0.1:1": "secret", "http://127.0.0.1:2": None, "http://127.0.0.1:3": "secret"} == sent


def test_client_finds_jobs_that_start_later(threads, monkeypatch):
    """The search is repeated, and goes on after a failure; a job that answers is not searched for again."""
    searches: list[list[str]] = []

    def fake_find(base, *, known, ca):
        searches.append(list(known))
        if len(searches) == 2:
            raise OSError("too many open files")
        return [(URL, True)] if len(searches) > 2 else []

    monkeypatch.setattr(client, "SEARCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(client, "find", fake_find)
    monkeypatch.setattr(client, "asker", lambda *_, **__: lambda: Answer(figures(function())))
    one = Client(interval_s=0.001)
    one.start()
    wait_until(lambda: searches and searches[-1] == [URL], what="a search with the address that was found")
    one.end()

    assert [URL] == [process.url for process in one.processes()]


def test_client_does_not_show_its_token():
    """It is in no traceback."""
    assert "secret" not in repr(Client(token="secret"))


def test_nothing_found_says_where_it_searched_and_what_to_do():
    """The ports are named, and what to type."""
    assert (
        "No job with jitwatch responds on this machine on ports 10431 to 10494 of 127.0.0.1. "
        "Start one with: jitwatch run train.py, or name a port or an address: jitwatch top 9000 node7:10431"
    ) == Client().nothing_found


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_trusted_by_refuses_a_file_without_certificates(tmp_path, content):
    """The message says what it should be."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"--ca: .*ca\.pem cannot be used .*; name a PEM file with certificates"):
        trusted_by(str(path))
