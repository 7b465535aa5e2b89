"""The endpoint in a job that forks and starts programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from jitwatch.server.http import Server
from tests.serving import (
    connect,
    get,
    open_sockets,
    receive,
)


def test_listener_is_not_inherited_by_a_new_program(serve: Callable[..., Server]) -> None:
    """A program that the job starts gets none of the sockets."""
    server = serve()
    with connect(server):
        listing = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True
        )
    assert "eventpoll" not in listing.stdout
    assert not any(name.split(":")[1].strip("[]") in listing.stdout for name in open_sockets() if "socket" in name)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_abandon_in_a_forked_child_leaves_the_parent_serving(serve: Callable[..., Server]) -> None:
    """A child lets go of every inherited socket; the parent's connections, also an open one, go on."""
    before = open_sockets()
    server = serve()
    with connect(server) as early:
        early.sendall(b"GET /early HTTP/1.1\r\n")
        assert 200 == get(server)[0]
        mine = open_sockets() - before
        child = os.fork()
        if child == 0:
            server.abandon()
            server.close()
            left = open_sockets() & mine
            # The client's own end of the early connection is not the server's to close.
            os._exit(0 if len(left) == 1 else 1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        early.sendall(b"Host: localhost\r\n\r\n")
        assert receive(early).endswith(b"GET /early")
    assert 200 == get(server)[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_close_ends_connections_that_a_child_still_holds(serve: Callable[..., Server]) -> None:
    """A forked child that keeps the inherited descriptors does not keep the parent's clients waiting."""
    server = serve()
    with connect(server) as idle:
        idle.sendall(b"GET ")
        assert 200 == get(server)[0]  # by now the idle one is accepted as well
        stay, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(stay, 1)
            os._exit(0)
        os.close(stay)
        try:
            server.close()
            assert b"" == receive(idle)
        finally:
            os.close(go)
            os.waitpid(child, 0)
