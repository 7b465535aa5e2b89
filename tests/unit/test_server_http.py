"""The server by itself, over real sockets: who is answered, who is dropped, what is left behind."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from jitwatch.errors import ServerError
from jitwatch.server.connections import Connection
from jitwatch.server.http import Request, Response, Server
from jitwatch.server.limits import LIMITS, Limits
from tests.serving import (
    AT_ONCE_S,
    connect,
    echo,
    get,
    open_sockets,
    our_threads,
    receive,
    scrape_time,
    status_of,
    talk,
)
from tests.waiting import wait_until

# --- requests and answers


def test_request_reaches_handler_decoded(serve: Callable[..., Server]) -> None:
    """The handler sees method, decoded path, query and lower-case headers; repeated headers are joined."""
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"ok")

    raw = b"GET /a%20b?x=1&y=%3C&x=2&z HTTP/1.1\r\nHost: localhost\r\nAccept: a\r\nACCEPT:\t b \r\n\r\n"
    talk(serve(handler), raw)
    assert ("GET", "/a b") == (seen[0].method, seen[0].path)
    assert {"x": "2", "y": "<", "z": ""} == dict(seen[0].query)
    assert {"host": "localhost", "accept": "a, b"} == dict(seen[0].headers)


def test_answer_is_http_1_1_with_length_and_closes(serve: Callable[..., Server]) -> None:
    """Every answer has a length and says that the connection closes, and the handler's own headers."""
    server = serve(lambda _: Response(200, b"hello", "text/x", (("X-Own", "1"),)))
    head, _, body = talk(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
    assert b"hello" == body
    lines = head.split(b"\r\n")
    assert b"HTTP/1.1 200 OK" == lines[0]
    assert {b"Content-Length: 5", b"Connection: close", b"Content-Type: text/x", b"X-Own: 1"} <= set(lines)


def test_head_is_answered_without_body(serve: Callable[..., Server]) -> None:
    """HEAD has the headers of GET, its length too, and no body."""
    answer = talk(serve(), b"HEAD /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 7\r\n" in answer


def test_large_answer_arrives_whole(serve: Callable[..., Server]) -> None:
    """An answer larger than every socket buffer is complete."""
    body = os.urandom(1024) * 8 * 1024
    assert body == get(serve(lambda _: Response(200, body)))[2]


HEADS = {
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "http-1.0-needs-no-host": (b"GET / HTTP/1.0\r\n\r\n", 200),
    "absolute-url": (b"GET http://localhost/x HTTP/1.1\r\n\r\n", 200),
    "no-version": (b"GET /\r\n\r\n", 400),
    "http-2": (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    "no-slash": (b"GET x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "two-spaces": (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "url-not-ascii": (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "bare-line-feeds": (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
    "folded-header": (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400),
    "space-before-colon": (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "nul-in-header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n", 400),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "many-parameters": (b"GET /?" + b"a&" * 101 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "bad-length": (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    "body": (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 413),
    "chunked": (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
    "tls-to-plain-port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "empty-lines": (b"\r\n\r\n", 400),
    "long-url": (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "long-url-unfinished": (b"GET /" + b"a" * 9000, 414),
    "long-head": (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 16384 + b"\r\n\r\n", 431),
    "long-head-unfinished": (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 3000, 431),
}


def test_request_head_is_checked(serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]) -> None:
    """What is malformed, too long or has a body gets the fitting status at once, and nothing on stderr."""
    errors: list[None] = []
    server = serve(on_error=lambda: errors.append(None))
    found = {}
    for name, (raw, _) in HEADS.items():
        found[name] = status_of(talk(server, raw))
        assert 200 == get(server)[0], f"after {name}"
    assert {name: status for name, (_, status) in HEADS.items()} == found
    assert ("", []) == (capfd.readouterr().err, errors)


def test_hostile_header_costs_linear_time(serve: Callable[..., Server]) -> None:
    """16 KiB of blanks before a forbidden byte is refused at once: parsing happens on the thread that serves all."""
    raw = b"GET / HTTP/1.1\r\nA:" + b" " * 16000 + b"\x01\r\n\r\n"
    server = serve()

    def answer_time() -> float:
        started = time.monotonic()
        assert 400 == status_of(talk(server, raw))
        return time.monotonic() - started

    assert min(answer_time() for _ in range(3)) < 0.5


def test_pipelined_garbage_is_ignored(serve: Callable[..., Server]) -> None:
    """What follows a complete request is never read as another one, and does not spoil the answer."""
    seen: list[str] = []

    def handler(request: Request) -> Response:
        seen.append(request.path)
        return Response(200, b"first")

    raw = (
        b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"GET /2 HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"\x00" * 30000
    )
    with connect(serve(handler)) as sock:
        sock.sendall(raw)
        parts = []
        while data := sock.recv(65536):  # a reset in place of a proper end would raise here
            parts.append(data)
    assert b"".join(parts).endswith(b"first")
    assert ["/1"] == seen


def test_client_that_still_sends_is_not_reset(serve: Callable[..., Server]) -> None:
    """A client in the middle of a body can finish it and read the answer: it may read only afterwards."""
    with connect(serve()) as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000\r\n\r\n")
        wait_until(lambda: bool(select.select([sock], [], [], 0)[0]), what="something to read")
        for _ in range(3):
            sock.sendall(b"x" * 10000)
        assert receive(sock).endswith(b"POST /x")


def test_handler_failure_is_500_and_reported(serve: Callable[..., Server]) -> None:
    """A failing handler is a 500 without details; `on_error` sees the exception being handled."""
    seen: list[str] = []

    def handler(request: Request) -> Response:
        raise ValueError("the secret of the handler")

    def on_error() -> None:
        seen.append(repr(sys.exc_info()[1]))

    server = serve(handler, on_error=on_error)
    status, headers, body = get(server)
    assert (500, "close") == (status, headers["connection"])
    assert b"secret" not in body
    assert ["ValueError('the secret of the handler')"] == seen


def test_handler_header_with_line_break_is_500(serve: Callable[..., Server]) -> None:
    """A header that would split the answer is never sent."""
    assert 500 == get(serve(lambda _: Response(200, b"", headers=(("A", "b\r\nC: d"),))))[0]


def test_on_error_that_raises_does_not_end_the_server(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `on_error` raises, as guard does under tests, it is shown and the workers live on."""
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_type))

    def on_error() -> None:
        raise  # noqa: PLE0704 - as guard.failed does

    def handler(request: Request) -> Response:
        raise KeyError("x")

    server = serve(handler, on_error=on_error)
    assert [500] * 12 == [get(server)[0] for _ in range(12)]
    assert [KeyError] * 12 == shown


# --- failures of the server itself


class Failures:
    """Names of the exceptions that `on_error` was called for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self) -> None:
        self.seen.append(repr(sys.exc_info()[1]))


def test_failure_with_one_connection_ends_that_one_only(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that one client's answer brings out is reported and costs that client its connection, nobody else's."""
    failures = Failures()
    server = serve(on_error=failures)
    load = Connection.load

    def fail_for_bad(self: Connection, answer: bytes) -> None:
        if answer.endswith(b"/bad"):
            raise ZeroDivisionError("a bug")
        load(self, answer)

    monkeypatch.setattr(Connection, "load", fail_for_bad)
    with connect(server) as early:
        early.sendall(b"GET /early HTTP/1.1\r\n")
        assert b"" == talk(server, b"GET /bad HTTP/1.1\r\nHost: localhost\r\n\r\n")
        early.sendall(b"Host: localhost\r\n\r\n")
        assert receive(early).endswith(b"GET /early")
    assert 200 == get(server)[0]
    assert ["ZeroDivisionError('a bug')"] == failures.seen


def test_failure_of_the_loop_does_not_end_the_server(serve: Callable[..., Server]) -> None:
    """Turns that fail, fewer than 20 in a row, are reported and the server goes on, again and again."""
    failures = Failures()
    server = serve(on_error=failures, limits=Limits(failures=20))
    selector = server._loop._listener.selector  # type: ignore[union-attr]
    select_really = selector.select
    left = [0]

    def fail_sometimes(timeout: float | None = None) -> object:
        if left[0]:
            left[0] -= 1
            raise OSError("no memory for now")
        return select_really(timeout)

    selector.select = fail_sometimes  # type: ignore[method-assign,assignment]
    for _ in range(3):
        left[0] = 8
        assert [200, 200] == [get(server)[0], get(server)[0]]
    assert ["OSError('no memory for now')"] * 24 == failures.seen


def test_loop_that_always_fails_is_given_up(serve: Callable[..., Server]) -> None:
    """After 20 failed turns in a row the server ends and leaves nothing; closing it is as ever."""
    before = open_sockets()
    failures = Failures()
    server = serve(on_error=failures, limits=Limits(failures=20))

    def fail(timeout: float | None = None) -> object:
        raise OSError("for good")

    with connect(server) as client:
        server._loop._listener.selector.select = fail  # type: ignore[union-attr,method-assign,assignment]
        client.sendall(b"G")
        assert b"" == receive(client)
    wait_until(lambda: our_threads() == [], what="the end of the threads")
    assert (["OSError('for good')"] * 20, before) == (failures.seen, open_sockets())
    server.close()


# --- clients that do not behave


def test_idle_clients_do_not_block_a_scrape(serve: Callable[..., Server]) -> None:
    """With 200 silent connections a scrape is answered at once, and their number stays bounded."""
    server = serve()
    before = len(open_sockets())
    idle = [connect(server) for _ in range(200)]
    try:
        assert scrape_time(server) < AT_ONCE_S
        assert len(open_sockets()) - before - len(idle) <= LIMITS.connections
        assert 2 >= len(our_threads())
    finally:
        for sock in idle:
            sock.close()


def test_silent_connection_is_dropped(serve: Callable[..., Server]) -> None:
    """A client that says nothing is dropped after the idle timeout."""
    with connect(serve(limits=Limits(idle_s=0.1))) as sock:
        assert b"" == receive(sock)


def test_slow_loris_is_dropped(serve: Callable[..., Server]) -> None:
    """A client that drips bytes is never idle, and is dropped when its head takes too long; others are served."""
    server = serve(limits=Limits(read_s=0.5))
    with connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nA: ")

        def is_gone() -> bool:
            try:
                sock.send(b"a")
            except OSError:
                return True
            return False

        assert min(scrape_time(server) for _ in range(3)) < 0.3
        wait_until(is_gone, what="the end of the connection")


def test_many_slow_lorises_do_not_block_a_scrape(serve: Callable[..., Server]) -> None:
    """150 half-sent requests leave every worker free."""
    server = serve()
    lorises = [connect(server) for _ in range(150)]
    try:
        for sock in lorises[-60:]:
            sock.sendall(b"GET / HT")
        assert scrape_time(server) < AT_ONCE_S
    finally:
        for sock in lorises:
            sock.close()


def test_clients_that_never_read_hold_no_worker(serve: Callable[..., Server]) -> None:
    """More unread answers than workers: a scrape is answered, and the unread ones are dropped in time."""
    body = b"x" * 4_000_000
    server = serve(
        lambda request: Response(200, body if request.path == "/big" else b"small"), limits=Limits(idle_s=0.3)
    )
    before = len(open_sockets())
    deaf = [connect(server) for _ in range(20)]
    try:
        for sock in deaf:
            sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert scrape_time(server) < 2.0
        wait_until(lambda: len(open_sockets()) <= before + len(deaf), what="the server's sockets to be closed")
    finally:
        for sock in deaf:
            sock.close()


def test_unread_answers_are_bounded_in_memory(serve: Callable[..., Server]) -> None:
    """Beyond the limit of unsent bytes the answer that stands still longest is given up; the newest goes on."""
    body = b"x" * 8_000_000
    server = serve(lambda _: Response(200, body), limits=Limits(unsent_bytes=9_000_000))
    with connect(server) as deaf:
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert deaf.recv(1, socket.MSG_PEEK)
        assert body == get(server)[2]
        assert len(receive(deaf)) < len(body)


def test_one_answer_may_exceed_the_memory_limit(serve: Callable[..., Server]) -> None:
    """The limit of unsent bytes chooses between answers; a single large one is sent all the same."""
    body = b"x" * 8_000_000
    assert body == get(serve(lambda _: Response(200, body), limits=Limits(unsent_bytes=1000)))[2]


def test_slow_handlers_wait_in_a_bounded_queue(serve: Callable[..., Server]) -> None:
    """8 requests are in progress at most; the next ones wait, and those beyond the queue are answered 503."""
    release = threading.Event()
    lock = threading.Lock()
    running = [0, 0]  # now, most ever

    def handler(request: Request) -> Response:
        with lock:
            running[0] += 1
            running[1] = max(running)
        release.wait(5)
        with lock:
            running[0] -= 1
        return Response(200, b"")

    server = serve(handler, limits=Limits(waiting=2))
    clients = [connect(server) for _ in range(12)]
    try:
        for sock in clients:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(select.select(clients, [], [], 0)[0]) == 2, what="two answers")
        wait_until(lambda: running[0] == 8, what="eight requests that run")
        release.set()
        assert [200] * 10 + [503] * 2 == sorted(status_of(receive(sock)) for sock in clients)
        assert 8 == running[1]
    finally:
        release.set()
        for sock in clients:
            sock.close()


def test_parallel_clients_are_all_answered(serve: Callable[..., Server]) -> None:
    """Ten clients at once, several times over, each get their own answer."""
    server = serve()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: get(server, f"/{n}")[2], range(100)))
    assert [f"GET /{n}".encode() for n in range(100)] == answers


# --- opening and closing


def test_taken_port_moves_to_the_next_free_one(serve: Callable[..., Server]) -> None:
    """The second server of a port opens another one and says which it wanted."""
    first = serve()
    second = serve(port=first.port)
    assert first.port < second.port <= first.port + 63
    assert (None, first.port) == (first.moved_from, second.moved_from)
    assert f"http://127.0.0.1:{second.port}" == second.url
    assert [200, 200] == [get(first)[0], get(second)[0]]


def test_all_ports_taken_is_an_error_that_helps() -> None:
    """64 taken ports: the error names them and the way out, and no socket is left."""
    first = 20000 + 64 * (os.getpid() % 150)  # below what the system hands out, apart from parallel runs
    with ExitStack() as taken:
        for port in range(first, first + 64):
            with suppress(OSError):  # taken by another program: just as well
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        before = open_sockets()
        with pytest.raises(ServerError, match=rf"ports {first} to {first + 63} of 127\.0\.0\.1 .*in use.*port=0"):
            Server(echo, host="127.0.0.1", port=first).start()
        assert before == open_sockets()


@pytest.mark.parametrize(
    ("host", "message"),
    [("203.0.113.7", "an address of this machine"), ("no-such-host.invalid", "cannot be resolved")],
)
def test_unusable_host_is_an_error_that_helps(host: str, message: str) -> None:
    """A host that cannot be listened on is named, with what to give instead."""
    with pytest.raises(ServerError, match=message) as caught:
        Server(echo, host=host, port=0).start()
    assert host in str(caught.value)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]"), ("::", "[::1]")],
)
def test_url_is_usable(serve: Callable[..., Server], host: str, shown: str) -> None:
    """The address shown can be opened on this machine, wildcards and IPv6 included."""
    if ":" in host and not _has_ipv6():
        pytest.skip("no IPv6 on this machine")
    server = serve(host=host)
    assert f"http://{shown}:{server.port}" == server.url
    with socket.create_connection((shown.strip("[]"), server.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert 200 == status_of(receive(sock))


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_close_leaves_nothing_and_is_idempotent(serve: Callable[..., Server]) -> None:
    """After close there is no thread and no socket, open connections are ended, and the port is free again."""
    before = open_sockets()
    server = serve()
    with connect(server) as idle:
        get(server)
        server.close()
        server.close()
        assert b"" == receive(idle)
    assert ([], before) == (our_threads(), open_sockets())
    again = serve(port=server.port)
    assert (server.port, None) == (again.port, again.moved_from)


def test_close_does_not_wait_for_a_stuck_handler(serve: Callable[..., Server]) -> None:
    """A handler that hangs holds up close() for the timeout at most; its thread ends when it returns."""
    entered, release = threading.Event(), threading.Event()

    def handler(request: Request) -> Response:
        entered.set()
        release.wait(5)
        return Response(200, b"")

    server = serve(handler)
    with connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert entered.wait(5)
        started = time.monotonic()
        server.close(timeout_s=0.1)
        assert time.monotonic() - started < AT_ONCE_S
    release.set()
    wait_until(lambda: our_threads() == [], what="the end of the threads")


def test_close_before_start_does_nothing() -> None:
    """A server that was never started can be closed."""
    Server(echo, host="127.0.0.1", port=0).close()
