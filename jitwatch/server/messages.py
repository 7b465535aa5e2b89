"""HTTP messages, parsed and encoded, and what answers them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, unquote

from jitwatch.server.limits import LIMITS, Limits

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_URL_BYTES: Final = 8 * 1024
_ERROR_HEADERS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))

_REQUEST_LINE = re.compile(rb"([A-Za-z][A-Za-z-]{0,31}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
# No `[ \t]*` before the value: 16 KiB of spaces would then take quadratic time.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request; requests have no body.

    Attributes:
        method: As sent, `GET`.
        path: Percent-decoded, without the query.
        query: Decoded parameters; the last one of a repeated name.
        headers: By lower-case name, repeated ones joined by a comma, without `authorization`.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """A response; the server adds length, date and connection headers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response]


@dataclass(eq=False, kw_only=True, repr=False)
class Service:
    """What a server serves, and how.

    Attributes:
        handler: Returns the response to a request; called in several threads at once.
        host: Name or address to listen on.
        context: TLS settings; with them the endpoint speaks TLS only.
        token: Bearer token that every request must carry.
        allowed_hosts: Names, or patterns of names, that the Host header may have besides those of this machine.
        cached: Returns an earlier response to a request that is over the CPU budget, or None.
        on_error: Called inside the `except` block of a failure of the handler or of the server.
        on_end: Called inside the `except` block of the failure that ends the server.
        limits: What clients may use.
    """

    handler: Handler = field(kw_only=False)
    host: str
    context: ssl.SSLContext | None = None
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    cached: Callable[[Request], Response | None] = lambda _: None
    on_error: Callable[[], None] | None = None
    on_end: Callable[[], None] = lambda: None
    limits: Limits = LIMITS


class RefusedError(Exception):
    """A request that is answered without the handler."""

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.response = Response(status, f"{text}\n".encode(), headers=(*_ERROR_HEADERS, *headers))


def take_head(received: bytearray) -> bytes | None:
    """Return the complete head in `received`, or None while it is incomplete."""
    line_end = received.find(b"\n")
    if (line_end if line_end >= 0 else len(received)) > MAX_URL_BYTES + 64:
        raise RefusedError(414, f"the URL is longer than {MAX_URL_BYTES} bytes")
    if not received[:1].isalpha() or (line_end > 0 and received[line_end - 1] != ord("\r")):
        # Refused now, not at the timeout: a TLS client on a plain port sends this.
        raise RefusedError(400, "this is not the start of an HTTP/1.1 request")
    end = received.find(b"\r\n\r\n")
    if max(end, len(received) if end < 0 else 0) > MAX_HEAD_BYTES:
        raise RefusedError(431, f"the request head is longer than {MAX_HEAD_BYTES} bytes")
    return bytes(received[:end]) if end >= 0 else None


def parse_head(head: bytes) -> Request:
    """Parse a request head without its final empty line."""
    first, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise RefusedError(400, "malformed request line")
    if match[3] != b"1":
        raise RefusedError(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    if len(match[2]) > MAX_URL_BYTES:
        raise RefusedError(414, f"the URL is longer than {MAX_URL_BYTES} bytes")
    headers = _parse_headers(lines)
    method, target = match[1].decode(), match[2].decode()
    if absolute := _ABSOLUTE.fullmatch(target):
        headers["host"] = absolute[1]
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if not target.startswith("/"):
        raise RefusedError(400, "the URL must start with '/'")
    if match[4] != b"0" and "host" not in headers:
        raise RefusedError(400, "the Host header is missing")
    _refuse_body(method, headers)
    path, _, query = target.partition("#")[0].partition("?")
    try:
        parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=100))
    except ValueError:
        raise RefusedError(400, "malformed query") from None
    return Request(method, unquote(path), MappingProxyType(parameters), headers)


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise RefusedError(400, "malformed header line")
        name, value = match[1].decode().lower(), match[2].decode("latin-1").strip(" \t")
        if name in headers and name in ("host", "content-length"):
            raise RefusedError(400, f"more than one {name} header")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _refuse_body(method: str, headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise RefusedError(400, "malformed Content-Length")
    # The handler refuses other methods; their body is not read either.
    if method in ("GET", "HEAD") and (length.strip("0") or "transfer-encoding" in headers):
        raise RefusedError(413, "requests must not have a body")


def encode(response: Response, *, with_body: bool = True) -> bytes:
    """Encode a response, without its body for HEAD."""
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("line break in a response header")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (response.body if with_body else b"")
