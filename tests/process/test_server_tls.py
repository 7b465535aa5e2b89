"""The endpoint over TLS: certificates, keys, versions, clients that speak something else."""

from __future__ import annotations

import http.client
import os
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from jitwatch.errors import EndpointConfigError
from jitwatch.server.access import server_context
from jitwatch.server.http import Response, Server
from jitwatch.server.limits import Limits
from tests.serving import (
    AT_ONCE_S,
    connect,
    get,
    openssl,
    our_threads,
    receive,
    scrape_time,
    talk,
)

TOKEN = "a-rather-secret-token"


def trusting(certs: dict[str, tuple[str, str]], client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certs["server"][0])
    if client:
        context.load_cert_chain(*certs[client])
    return context


def serve_tls(serve: Callable[..., Server], certs: dict[str, tuple[str, str]], **options: object) -> Server:
    return serve(context=server_context(*certs["server"]), **options)


def test_tls_serves_whole_answers(serve: Callable[..., Server], certs: dict[str, tuple[str, str]]) -> None:
    """Over TLS the url says https and an answer larger than any buffer is complete."""
    body = os.urandom(1024) * 4 * 1024
    server = serve_tls(serve, certs, handler=lambda _: Response(200, body))
    assert f"https://127.0.0.1:{server.port}" == server.url
    assert body == get(server, context=trusting(certs))[2]


def test_tls_idle_clients_do_not_block_a_scrape(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]]
) -> None:
    """Clients that never begin, or stop within, the handshake, or say nothing after it, delay nobody."""
    server = serve_tls(serve, certs)
    context = trusting(certs)
    idle = [connect(server) for _ in range(60)]
    try:
        for sock in idle[:20]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        idle[40:] = [context.wrap_socket(sock, server_hostname="127.0.0.1") for sock in idle[40:]]
        assert scrape_time(server, context) < AT_ONCE_S
        assert 2 >= len(our_threads())
    finally:
        for sock in idle:
            sock.close()


def test_tls_unfinished_handshake_is_dropped(serve: Callable[..., Server], certs: dict[str, tuple[str, str]]) -> None:
    """A handshake that stands still ends with the idle timeout."""
    with connect(serve_tls(serve, certs, limits=Limits(idle_s=0.1))) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert b"" == receive(sock)


def test_tls_port_refuses_plain_http(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A plain request to a TLS port is no HTTP answer, no error of ours and no line on stderr."""
    errors: list[None] = []
    server = serve_tls(serve, certs, on_error=lambda: errors.append(None))
    assert not talk(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 2")
    assert 200 == get(server, context=trusting(certs))[0]
    assert ("", []) == (capfd.readouterr().err, errors)


@pytest.mark.parametrize(("client", "accepted"), [("client", True), (None, False), ("stranger", False)])
def test_tls_client_certificate_is_required(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]], client: str | None, accepted: bool
) -> None:
    """With a client CA only certificates that it signed get an answer."""
    server = serve(context=server_context(*certs["server"], certs["client"][0]))
    try:
        status = get(server, context=trusting(certs, client))[0]
    except (OSError, http.client.HTTPException):
        status = 0
    assert (200 if accepted else 0) == status


def test_tls_needs_the_token_too(serve: Callable[..., Server], certs: dict[str, tuple[str, str]]) -> None:
    """TLS and token together: both are asked for."""
    server = serve_tls(serve, certs, token=TOKEN)
    context = trusting(certs)
    statuses = [get(server, context=context)[0], get(server, context=context, Authorization=f"Bearer {TOKEN}")[0]]
    assert [401, 200] == statuses


def test_tls_unusable_files_are_errors_that_help(certs: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    """Missing, foreign, encrypted and nonsense files are named; nothing asks for a passphrase on the terminal."""
    cert, key = certs["server"]
    nonsense, locked, missing = tmp_path / "nonsense.pem", tmp_path / "locked.key", str(tmp_path / "missing.pem")
    nonsense.write_text("nothing")
    openssl("ec", "-aes128", "-passout", "pass:secret", "-in", key, "-out", str(locked))
    cases = [
        ((missing, key), f"tls_cert '{missing}' cannot be read"),
        ((cert, missing), f"tls_key '{missing}' cannot be read"),
        ((cert, certs["client"][1]), "the private key that belongs to it"),
        ((cert, str(locked)), "without a passphrase"),
        ((str(nonsense), key), f"tls_cert '{nonsense}'"),
        ((cert, key, str(nonsense)), f"tls_client_ca '{nonsense}'"),
    ]
    for files, message in cases:
        with pytest.raises(EndpointConfigError) as caught:
            server_context(*files)
        assert message in str(caught.value)


TOKEN = "a-rather-secret-token"


def test_host_is_free_where_a_certificate_names_it(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]]
) -> None:
    """Over TLS a browser compares the name itself; on a loopback address it is compared all the same."""
    context = ssl.create_default_context(cafile=certs["server"][0])
    tls = server_context(*certs["server"])
    for host, status in (("0.0.0.0", 200), ("127.0.0.1", 421)):
        assert status == get(serve(host=host, context=tls), context=context, Host="node9.example")[0]


def test_only_an_endpoint_that_anybody_can_read_is_open(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]]
) -> None:
    """What is on loopback, or asks for a token, or speaks TLS, is not."""
    tls = server_context(*certs["server"])
    servers = [serve(), serve(host="0.0.0.0"), serve(host="0.0.0.0", token=TOKEN), serve(host="0.0.0.0", context=tls)]
    assert [False, True, False, False] == [server.is_open for server in servers]


def client_hello(version: int) -> bytes:
    """The first message of a client that speaks this version at most, as bytes: today's libraries refuse to."""
    suites = b"".join(struct.pack(">H", one) for one in (0xC02B, 0xC02F, 0xC009, 0xC00A, 0xC013, 0xC014, 0x002F))
    curves = struct.pack(">HHHHH", 0x000A, 6, 4, 0x0017, 0x0018)
    points = struct.pack(">HHBB", 0x000B, 2, 1, 0)
    signatures = struct.pack(">HHHHH", 0x000D, 6, 4, 0x0403, 0x0401)
    extensions = curves + points + (signatures if version == 0x0303 else b"")
    body = struct.pack(">H", version) + os.urandom(32) + b"\0"
    body += struct.pack(">H", len(suites)) + suites + b"\1\0" + struct.pack(">H", len(extensions)) + extensions
    message = b"\1" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack(">H", len(message)) + message


@pytest.mark.parametrize(("version", "is_spoken"), [(0x0301, False), (0x0302, False), (0x0303, True)])
def test_tls_begins_at_1_2(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]], version: int, is_spoken: bool
) -> None:
    """TLS 1.0 and TLS 1.1 are answered with an alert that says so; TLS 1.2 with a hello."""
    server = serve_tls(serve, certs)
    with connect(server) as sock:
        sock.sendall(client_hello(version))
        kind = sock.recv(1)
        answer = kind + (sock.recv(6) if kind == b"\x16" else receive(sock))
    if is_spoken:
        assert b"\x16" == kind
    else:
        # A fatal alert, protocol_version.
        assert b"\x15" == kind
        assert b"\x02\x46" == answer[5:7]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_speaks_today_s_versions(
    serve: Callable[..., Server], certs: dict[str, tuple[str, str]], version: ssl.TLSVersion
) -> None:
    """TLS 1.2 and TLS 1.3."""
    context = ssl.create_default_context(cafile=certs["server"][0])
    context.minimum_version = context.maximum_version = version
    assert 200 == get(serve_tls(serve, certs), context=context)[0]
