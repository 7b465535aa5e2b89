"""A job that closes descriptors which it does not know: the endpoint comes back, and the job's files are its own."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from jitwatch.server.http import Server
from jitwatch.server.limits import Limits
from jitwatch.server.listener import Listener, OwnedSocket
from tests.serving import connect, get, our_threads
from tests.waiting import wait_until


class Failures:
    """The failures that `on_error` was called for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self) -> None:
        self.seen.append(str(sys.exc_info()[1]))


@pytest.fixture
def taken(tmp_path) -> Iterator[Callable[[int], object]]:
    """Close a descriptor as the job would, and open a file of the job's that gets its number."""
    files: dict[int, object] = {}

    def take(descriptor: int) -> object:
        os.close(descriptor)
        file = os.open(tmp_path / f"{len(files)}.bin", os.O_RDWR | os.O_CREAT)
        if file != descriptor:
            os.dup2(file, descriptor)
            os.close(file)
        os.write(descriptor, b"CHECKPOINT")
        files[descriptor] = tmp_path / f"{len(files)}.bin"
        return files[descriptor]

    yield take
    for descriptor, path in files.items():
        assert b"CHECKPOINT" == path.read_bytes()  # type: ignore[attr-defined]
        # It is open, and still that file.
        assert os.fstat(descriptor).st_ino == path.stat().st_ino  # type: ignore[attr-defined]
        os.close(descriptor)


def descriptors_of(server: Server) -> dict[str, int]:
    port = server._loop._listener  # type: ignore[union-attr]
    return {name: getattr(port, f"_{name}").sock.fileno() for name in ("listener", "wake_in", "wake_out")}


@contextmanager
def loop_between_two_reads(server: Server) -> Iterator[None]:
    """Stop the loop after it has waited and before it reads: nobody can check a number and read at the same time."""
    selector = server._loop._listener.selector  # type: ignore[union-attr]
    select, is_waiting, may_go_on = selector.select, threading.Event(), threading.Event()

    def stopping(*args: object) -> object:
        found = select(*args)
        is_waiting.set()
        may_go_on.wait(10.0)
        return found

    selector.select = stopping
    server._loop._wake()  # type: ignore[union-attr]
    assert is_waiting.wait(10.0)
    try:
        yield
    finally:
        selector.select = select
        may_go_on.set()


@pytest.mark.parametrize("names", [("listener",), ("wake_in",), ("wake_out",), ("listener", "wake_in", "wake_out")])
@pytest.mark.parametrize("is_reused", [True, False])
def test_port_is_opened_again(
    serve: Callable[..., Server],
    taken: Callable[[int], object],
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    is_reused: bool,
) -> None:
    """The same port answers again, the loss is counted, and what the job has opened meanwhile is not touched."""
    # The endpoint does not look while they are closed: it would close the others by itself.
    closing, check = threading.Lock(), Listener.check

    def look(self: Listener) -> None:
        with closing:
            check(self)

    monkeypatch.setattr(Listener, "check", look)
    failures = Failures()
    server = serve(on_error=failures, limits=Limits(sleep_s=0.05))
    port = server.port
    assert 200 == get(server)[0]
    with closing:
        for descriptor in [descriptors_of(server)[name] for name in names]:
            if is_reused:
                taken(descriptor)
            else:
                os.close(descriptor)

    def answers() -> bool:
        with suppress(OSError):
            return get(server)[0] == 200
        return False

    wait_until(lambda: len(failures.seen) > 0, what="a failure")
    wait_until(answers, what="an answer")
    assert port == server.port
    assert {"the job has closed the descriptors of the endpoint"} == set(failures.seen)


def test_client_whose_descriptor_was_closed_is_dropped(
    serve: Callable[..., Server], taken: Callable[[int], object]
) -> None:
    """Nothing is read from, written to or shut down with its number, and other clients are served."""
    server = serve(limits=Limits(sleep_s=0.05))
    with connect(server) as client:
        client.sendall(b"GET /x HTTP/1.1\r\n")
        wait_until(lambda: len(server._loop._connections) == 1, what="the connection")  # type: ignore[union-attr]
        (connection,) = tuple(server._loop._connections)  # type: ignore[union-attr]
        taken(connection.sock.fileno())
        with suppress(OSError):
            client.sendall(b"Host: localhost\r\n\r\n")
        assert 200 == get(server)[0]
        wait_until(lambda: connection not in server._loop._connections, what="the end of the connection")  # type: ignore[union-attr]
        assert 200 == get(server)[0]


def test_socket_of_the_job_is_not_read_or_written(serve: Callable[..., Server]) -> None:
    """Where the number of a client, or of the pair that wakes the loop, is now that of a connection of the job's."""
    failures = Failures()
    server = serve(on_error=failures, limits=Limits(sleep_s=0.2))
    with connect(server) as client:
        client.sendall(b"GET /x HTTP/1.1\r\n")
        wait_until(lambda: len(server._loop._connections) == 1, what="the connection")  # type: ignore[union-attr]
        (connection,) = tuple(server._loop._connections)  # type: ignore[union-attr]
        numbers = [connection.sock.fileno(), descriptors_of(server)["wake_out"]]
        pairs = [socket.socketpair() for _ in numbers]
        with loop_between_two_reads(server):
            for number, (mine, peer) in zip(numbers, pairs, strict=True):
                peer.sendall(b"Host: localhost\r\n\r\n")
                os.dup2(mine.fileno(), number)
        server._loop._wake()  # type: ignore[union-attr]
        server._loop._advance(connection)  # type: ignore[union-attr]
        wait_until(lambda: bool(failures.seen), what="a failure")
    for number, (mine, peer) in zip(numbers, pairs, strict=True):
        mine.settimeout(10.0)
        assert b"Host: localhost\r\n\r\n" == mine.recv(100)
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        os.close(number)
        mine.close()
        peer.close()


def test_new_client_may_get_the_number_of_a_closed_one(serve: Callable[..., Server]) -> None:
    """It is served at once, and not confused with the other."""
    server = serve()
    with connect(server) as early:
        early.sendall(b"GET ")
        wait_until(lambda: len(server._loop._connections) == 1, what="the connection")  # type: ignore[union-attr]
        (connection,) = tuple(server._loop._connections)  # type: ignore[union-attr]
        number = connection.sock.fileno()
        os.close(number)
        # The client's own socket must not take it.
        placeholder = os.open(os.devnull, os.O_RDONLY)
        assert number == placeholder
        with connect(server) as late:
            os.close(placeholder)
            late.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert late.recv(12) == b"HTTP/1.1 200"


def test_server_ends_when_the_job_closes_the_port_repeatedly(serve: Callable[..., Server]) -> None:
    """It reports why, and leaves no thread."""
    ended = Failures()
    server = serve(on_end=ended, limits=Limits(sleep_s=0.01, reopened=2))

    def close_it() -> bool:
        with suppress(OSError):
            os.close(descriptors_of(server)["wake_in"])
        return bool(ended.seen)

    wait_until(close_it, what="the descriptor to close")
    assert ["the job closes the descriptors of the endpoint repeatedly"] == ended.seen
    wait_until(lambda: our_threads() == [], what="the end of the threads")


def test_server_ends_when_another_program_has_the_port_meanwhile(serve: Callable[..., Server]) -> None:
    """It does not move to another port, since clients know this one."""
    ended = Failures()
    server = serve(on_end=ended, limits=Limits(sleep_s=0.05))
    with socket.create_server(("127.0.0.1", 0)) as other:
        server.port = other.getsockname()[1]
        os.close(descriptors_of(server)["listener"])
        wait_until(lambda: bool(ended.seen), what="the end of the server")
    assert ended.seen[0].startswith(f"ports {server.port} to {server.port} of 127.0.0.1 are in use")
    wait_until(lambda: our_threads() == [], what="the end of the threads")


def test_owned_socket_is_valid_while_its_descriptor_refers_to_it(tmp_path) -> None:
    """Open; closed; closed and reused for another file."""
    owned = OwnedSocket(socket.socket())
    number = owned.sock.fileno()
    assert owned.is_valid()
    os.close(number)
    assert not owned.is_valid()
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    if file != number:
        os.dup2(file, number)
        os.close(file)
    assert not owned.is_valid()
    owned.close()
    owned.close()
    assert -1 == owned.sock.fileno()
    os.close(number)  # still the job's to close
