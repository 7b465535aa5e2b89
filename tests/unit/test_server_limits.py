"""The CPU budget over real sockets, and threads that no exception ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

from jitwatch import guard
from jitwatch.server import workers
from jitwatch.server.connections import Connection
from jitwatch.server.http import Request, Response, Server
from jitwatch.server.limits import Limits
from jitwatch.server.loop import EventLoop
from jitwatch.server.messages import encode
from tests.serving import connect, get, our_threads, receive, status_of, talk
from tests.waiting import wait_until

STATE = "/api/v1/state"


#: One request uses up every budget for a long time.
SPENT = Limits(api_share=1e-6, api_burst_s=1e-9, metrics_share=1e-6, metrics_burst_s=1e-9)


class Failures:
    """Names of the exceptions that `on_error` was called for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self) -> None:
        import sys

        self.seen.append(type(sys.exc_info()[1]).__name__)


# --- shares of time


def test_request_over_the_budget_is_429_with_seconds_to_wait(serve: Callable[..., Server]) -> None:
    """The handler is not called, and only this response has the seconds to wait."""
    handled: list[str] = []

    def handler(request: Request) -> Response:
        handled.append(request.path)
        return Response(200, b"")

    server = serve(handler, limits=SPENT)
    first, second = get(server, STATE), get(server, "/api/v1/events")
    assert (200, 429) == (first[0], second[0])
    assert int(second[1]["retry-after"]) >= 1
    assert (None, "no-store") == (first[1].get("retry-after"), second[1]["cache-control"])
    assert [STATE] == handled


def test_scrapes_and_health_checks_have_their_own_budget(serve: Callable[..., Server]) -> None:
    """However often the state is requested, Prometheus and health checks are answered."""
    server = serve(limits=SPENT)
    assert [200, 429, 429] == [get(server, path)[0] for path in (STATE, STATE, "/")]
    assert [200, 200, 200] == [get(server, path)[0] for path in ("/metrics", "/healthz", "/healthz")]


def test_scrape_over_the_budget_gets_the_cached_exposition(serve: Callable[..., Server]) -> None:
    """Complete, and as often as requested; without one, 429."""
    kept = Response(200, b"made before", "text/plain; version=0.0.4")
    server = serve(cached=lambda request: kept if request.headers.get("accept") == "text/plain" else None, limits=SPENT)
    assert b"GET /metrics" == get(server, "/metrics", Accept="text/plain")[2]
    for _ in range(3):
        assert (200, b"made before") == get(server, "/metrics", Accept="text/plain")[::2]
    assert 429 == get(server, "/metrics", Accept="other")[0]
    raw = b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
    assert encode(kept, with_body=False).split(b"\r\n")[2:] == talk(server, raw).split(b"\r\n")[2:]


def test_refused_request_is_refunded(serve: Callable[..., Server], monkeypatch) -> None:
    """A request without a worker costs nothing."""
    server = serve()
    requests = server._loop._requests  # type: ignore[union-attr]
    requests._costs[STATE] = 0.2
    with monkeypatch.context() as patch:
        patch.setattr(workers.WorkerPool, "submit", lambda *_: False)
        assert [503] * 5 == [get(server, STATE)[0] for _ in range(5)]
    assert 200 == get(server, STATE)[0]


def test_loop_pauses_when_its_own_budget_is_used_up(serve: Callable[..., Server], monkeypatch) -> None:
    """Refusing costs time, too: it pauses, again and again, and still answers every client."""
    paused: list[float] = []
    pause = EventLoop._pause

    def noted(self: EventLoop, seconds: float) -> None:
        paused.append(seconds)
        pause(self, seconds)

    monkeypatch.setattr(EventLoop, "_pause", noted)
    server = serve(limits=Limits(pause_s=0.01))
    server._loop._budget.spend(1000.0)  # type: ignore[union-attr]
    # On a busy machine one pause may be that of several requests.
    for _ in range(100):
        assert 200 == get(server, "/healthz")[0]
        if len(paused) >= 5:
            break
    assert [0.01] * len(paused) == paused
    assert len(paused) >= 5


@pytest.fixture
def resting(monkeypatch) -> Callable[[Server], None]:
    """Make a server's loop pause as long as its limits allow, and return once it does."""
    begun = threading.Event()
    pause = EventLoop._pause

    def noted(self: EventLoop, seconds: float) -> None:
        begun.set()
        pause(self, seconds)

    monkeypatch.setattr(EventLoop, "_pause", noted)

    def rest(server: Server) -> None:
        server._loop._budget.spend(1000.0)  # type: ignore[union-attr]
        server._loop._wake()  # type: ignore[union-attr]
        assert begun.wait(10)

    return rest


def test_answer_is_sent_during_a_pause(serve: Callable[..., Server], resting: Callable[[Server], None]) -> None:
    """Admitted requests do not wait for its end."""
    entered, release = threading.Event(), threading.Event()

    def handler(request: Request) -> Response:
        entered.set()
        release.wait(10)
        return Response(200, b"answered")

    server = serve(handler, limits=Limits(pause_s=60.0))
    with connect(server) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert entered.wait(10)
        resting(server)
        release.set()
        sock.settimeout(20)
        assert receive(sock).endswith(b"answered")


def test_stop_ends_a_pause(serve: Callable[..., Server], resting: Callable[[Server], None]) -> None:
    """The end of the job does not wait for it."""
    server = serve(limits=Limits(pause_s=60.0))
    resting(server)
    started = time.monotonic()
    server.close(timeout_s=30)
    assert time.monotonic() - started < 20


def test_few_connections_are_accepted_in_an_iteration_over_budget(serve: Callable[..., Server], monkeypatch) -> None:
    """Otherwise an iteration under a flood would be as long as the pause after it."""
    server = serve(limits=Limits(pause_s=0.2))
    taken: list[int] = []
    accept = EventLoop._accept

    def counted(self: EventLoop) -> None:
        before = len(self._connections)
        accept(self)
        taken.append(len(self._connections) - before)

    monkeypatch.setattr(EventLoop, "_accept", counted)
    server._loop._budget.spend(1000.0)  # type: ignore[union-attr]
    idle = [connect(server) for _ in range(30)]
    wait_until(lambda: sum(taken) == 30, what="30 answers")
    assert max(taken[1:]) <= 8
    for sock in idle:
        sock.close()


# --- threads that nothing ends


def test_idle_workers_end_except_the_first(serve: Callable[..., Server]) -> None:
    """A burst leaves no threads behind, and the next one starts new ones."""
    barrier = threading.Barrier(8, timeout=20)

    def handler(request: Request) -> Response:
        barrier.wait()
        return Response(200, b"")

    server = serve(handler, limits=Limits(worker_idle_s=0.2))
    for _ in range(2):
        clients = [connect(server) for _ in range(8)]
        for sock in clients:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert [200] * 8 == [status_of(receive(sock)) for sock in clients]
        for sock in clients:
            sock.close()
        wait_until(lambda: sorted(our_threads()) == ["jitwatch-http", "jitwatch-http-1"], what="one thread to be left")


@pytest.mark.parametrize("error", [MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError])
def test_worker_survives_any_exception(serve: Callable[..., Server], monkeypatch, error: type[BaseException]) -> None:
    """Of the handler, and of its own code around it: that client gets no response, the others do."""
    failures = Failures()

    def handler(request: Request) -> Response:
        if request.path == "/bad":
            raise error
        return Response(200, b"")

    server = serve(handler, on_error=failures)
    answer = workers.WorkerPool._respond

    def fail(self: workers.WorkerPool, request: Request) -> bytes:
        if request.path == "/worse":
            raise error
        return answer(self, request)

    monkeypatch.setattr(workers.WorkerPool, "_respond", fail)
    for _ in range(3):
        assert [500, 0, 200] == [
            status_of(talk(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))
            for path in ("/bad", "/worse", "/good")
        ]
    assert [error.__name__] * 6 == failures.seen
    assert 0 == server._loop.workers._pending  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [MemoryError, SystemExit, KeyboardInterrupt])
def test_loop_survives_any_exception(serve: Callable[..., Server], error: type[BaseException]) -> None:
    """One that belongs to no connection is reported, and the next iteration begins."""
    failures = Failures()
    server = serve(on_error=failures)
    selector = server._loop._listener.selector  # type: ignore[union-attr]
    select_really, left = selector.select, [3]

    def fail_sometimes(timeout: float | None = None) -> object:
        if left[0]:
            left[0] -= 1
            raise error
        return select_really(timeout)

    selector.select = fail_sometimes  # type: ignore[method-assign,assignment]
    assert 200 == get(server)[0]
    wait_until(lambda: left[0] == 0, what="no request to be left")
    assert 200 == get(server)[0]
    assert [error.__name__] * 3 == failures.seen


def test_failure_to_report_a_failure_prints_nothing_in_production(
    serve: Callable[..., Server], monkeypatch, capfd
) -> None:
    """Nothing is written to the job's stderr, even if counting fails."""
    monkeypatch.setattr(guard, "reraise", False)

    def on_error() -> None:
        raise MemoryError

    def handler(request: Request) -> Response:
        raise MemoryError

    server = serve(handler, on_error=on_error)
    assert [500, 500] == [get(server)[0] for _ in range(2)]
    assert "" == capfd.readouterr().err


def test_end_of_the_server_is_reported_once(serve: Callable[..., Server]) -> None:
    """`on_end` is called with the reason when the server gives up, not when it is closed."""
    ended: list[str] = []

    def on_end() -> None:
        import sys

        ended.append(str(sys.exc_info()[1]))

    serve(on_end=on_end).close()
    assert [] == ended
    server = serve(on_end=on_end, limits=Limits(failures=2))

    def fail(timeout: float | None = None) -> object:
        raise OSError("for good")

    server._loop._listener.selector.select = fail  # type: ignore[union-attr,method-assign,assignment]
    server._loop._wake()  # type: ignore[union-attr]
    wait_until(lambda: ended == ["for good"], what="the end of the server")
    wait_until(lambda: our_threads() == [], what="the end of the threads")


def test_thread_that_cannot_be_started_is_an_error_that_helps(serve: Callable[..., Server], monkeypatch) -> None:
    """No port stays open, and the message says which limit to raise."""
    monkeypatch.setattr(threading, "_start_new_thread", _no_thread, raising=False)
    monkeypatch.setattr(threading, "_start_joinable_thread", _no_thread, raising=False)
    from jitwatch.errors import ServerError

    with pytest.raises(ServerError, match=r"no thread can be started; raise the limit"):
        serve()
    gc.collect()
    monkeypatch.undo()


def _no_thread(*_: object, **__: object) -> None:
    raise RuntimeError("can't start new thread")


def test_connection_holds_nothing_after_it_was_closed(serve: Callable[..., Server]) -> None:
    """The bytes read and to be sent are released."""
    server = serve()
    with connect(server) as sock:
        sock.sendall(b"GET ")
        wait_until(lambda: len(server._loop._connections) == 1, what="the connection")  # type: ignore[union-attr]
        (connection,) = server._loop._connections  # type: ignore[union-attr]
    wait_until(lambda: connection.sock.fileno() == -1, what="the socket to be closed")
    assert isinstance(connection, Connection)
    assert b"" == bytes(connection.unsent)
