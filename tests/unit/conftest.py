"""Fixtures that several unit tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from jitwatch.server import http
from jitwatch.server.http import Request, Response, Server
from tests.unit.serving import certificate, echo, open_sockets, our_threads, until


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start servers that are closed afterwards, and check that each leaves nothing behind."""
    # No name server is asked, which may take seconds.
    monkeypatch.setattr(http, "names_of_machine", lambda: {"NODE7.cluster.example."})
    before = open_sockets()
    servers: list[Server] = []

    def start(handler: Callable[[Request], Response] = echo, **options: object) -> Server:
        server = Server(handler, **{"host": "127.0.0.1", "port": 0, **options})  # type: ignore[arg-type]
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
    assert until(lambda: our_threads() == [])
    assert set() == open_sockets() - before


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Self-signed certificates `server`, `client`, `stranger` with their keys."""
    folder = tmp_path_factory.mktemp("certs")
    return {name: certificate(folder, name) for name in ("server", "client", "stranger")}
