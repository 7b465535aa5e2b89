"""The endpoint's routes: what each path answers, as the server would hand it on."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from jitwatch.server.http import Request, Response, Server
from jitwatch.server.page import MAX_ROWS, render_page
from jitwatch.server.routes import Routes, accepts_gzip, encode_json

VERSION = "1.2.3"
EXPOSITION = b"# HELP jitwatch_compiles_total x\njitwatch_compiles_total 1.0\n" * 50
STATE: dict[str, Any] = {
    "version": VERSION,
    "run": "run-7",
    "start_time_seconds": 1_000_000.0,
    "functions": [
        {
            "function": "train.step",
            "location": "train.py:10",
            "compiles": 3,
            "recompiles": 2,
            "failures": 0,
            "seconds": 1234.5,
            "cache_entries": 3,
        },
        {
            "function": "train.<lambda>@train.py:88",
            "compiles": 1,
            "recompiles": 0,
            "seconds": 2000.0,
            "cache_entries": 1,
        },
    ],
    "totals": {"compiles": 4, "recompiles": 2},
}


class Sources:
    """What the routes draw on, with a record of what was asked."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.accepts: list[str] = []
        self.since: list[int] = []
        self.state = STATE if state is None else state

    def routes(self) -> Routes:
        return Routes(metrics=self._metrics, state=lambda: self.state, events=self._events, version=VERSION)

    def _metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        return EXPOSITION, "text/plain; version=0.0.4; charset=utf-8"

    def _events(self, since: int) -> dict[str, Any]:
        self.since.append(since)
        return {"events": [{"seq": since + 1, "trace_s": math.nan}], "last_seq": since + 1}


def ask(
    path: str,
    *,
    method: str = "GET",
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    sources: Sources | None = None,
) -> Response:
    return (sources or Sources()).routes()(Request(method, path, query or {}, headers or {}))


def header(response: Response, name: str) -> str | None:
    return dict(response.headers).get(name)


def test_metrics_pass_on_accept_and_content_type() -> None:
    """The exposition decides by the Accept header as the client sent it, however odd."""
    sources = Sources()
    odd = "application/openmetrics-text;version=abc"
    response = ask("/metrics", headers={"accept": odd}, sources=sources)
    ask("/metrics", sources=sources)
    assert (200, EXPOSITION) == (response.status, response.body)
    assert "text/plain; version=0.0.4; charset=utf-8" == response.content_type
    assert [odd, ""] == sources.accepts


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip; q=1.000", True),
        ("*", True),
        ("x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("*;q=1, gzip;q=0", False),
        ("gzip;q=abc", False),
        ("gzip;q=nan", False),
        ("gzip;q=1e9", False),
        ("gzip;q=", False),
        (";;,,=;q", False),
    ],
)
def test_gzip_only_when_asked(value: str, expected: bool) -> None:
    """`Accept-Encoding` asks for gzip by a quality above 0; what is malformed does not ask."""
    assert expected == accepts_gzip(value)


def test_metrics_are_compressed_on_request() -> None:
    """A compressed exposition says so and unpacks to the plain one."""
    response = ask("/metrics", headers={"accept-encoding": "gzip"})
    assert "gzip" == header(response, "Content-Encoding")
    assert EXPOSITION == gzip.decompress(response.body)
    assert len(response.body) < len(EXPOSITION)
    assert "Accept, Accept-Encoding" == header(response, "Vary")
    assert None is header(ask("/metrics", headers={"accept-encoding": "gzip;q=0"}), "Content-Encoding")


def test_state_is_compact_json() -> None:
    """The state is sent whole, without blanks and not to be stored."""
    response = ask("/api/v1/state")
    assert (200, "application/json") == (response.status, response.content_type)
    assert STATE == json.loads(response.body)
    assert json.dumps(STATE, separators=(",", ":")).encode() == response.body
    assert "no-store" == header(response, "Cache-Control")


def test_events_after_a_sequence_number() -> None:
    """`since` is handed on as a number, 0 when it is missing; a NaN in an event is a null."""
    sources = Sources()
    response = ask("/api/v1/events", query={"since": "41"}, sources=sources)
    ask("/api/v1/events", sources=sources)
    assert {"events": [{"seq": 42, "trace_s": None}], "last_seq": 42} == json.loads(response.body)
    assert [41, 0] == sources.since


@pytest.mark.parametrize("since", ["", "-1", "1.5", "abc", " 1", "1_0", "٣", "9" * 19, "<script>"])
def test_events_with_a_bad_sequence_number(since: str) -> None:
    """A bad `since` is a 400 that says what was expected."""
    sources = Sources()
    response = ask("/api/v1/events", query={"since": since}, sources=sources)
    assert 400 == response.status
    assert b"since: expected a whole number from 0 up" in response.body
    assert response.content_type.startswith("text/plain")
    assert [] == sources.since


def test_health_tells_the_version() -> None:
    """`/healthz` is a 200 with the version."""
    response = ask("/healthz")
    assert (200, b"jitwatch 1.2.3\n") == (response.status, response.body)


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "//", "/../etc/passwd", "/api/v1", "*"])
def test_unknown_path_is_404(path: str) -> None:
    """Any other path is a 404, by whatever method."""
    assert [404, 404] == [ask(path).status, ask(path, method="POST").status]


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/state", "/api/v1/events", "/healthz"])
def test_other_methods_are_405(path: str) -> None:
    """Known paths answer GET and HEAD only, and say so."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"):
        response = ask(path, method=method)
        assert (405, "GET, HEAD") == (response.status, header(response, "Allow"))
    assert ask(path) == ask(path, method="HEAD")


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/state", "/api/v1/events", "/healthz", "/nothing"])
def test_no_answer_is_stored_or_sniffed(path: str) -> None:
    """Every answer is current and is taken for what it says it is."""
    response = ask(path)
    assert ("no-store", "nosniff") == (header(response, "Cache-Control"), header(response, "X-Content-Type-Options"))


def test_json_holds_no_nan_and_no_array() -> None:
    """NaN and infinities become null at any depth; objects are shown by type only, odd keys as text."""

    class Array:
        def __str__(self) -> str:
            raise AssertionError("the contents of an array were shown")

        __repr__ = __str__

    value = {"a": [1.5, math.inf, (-math.inf, {"b": math.nan})], 3: True, (1, 2): None, "c": Array(), "d": "\ud800<"}
    assert json.dumps([f"<{Array.__qualname__}>"]).encode() == encode_json([Array()])
    encoded = encode_json(value)
    assert not re.search(rb"NaN|Infinity", encoded)
    name = Array.__qualname__
    expected = {"a": [1.5, None, [None, {"b": None}]], "3": True, "<tuple>": None, "c": f"<{name}>", "d": "\ud800<"}
    assert expected == json.loads(encoded)


def test_json_holds_numpy_numbers() -> None:
    """Numbers of numpy are numbers, and their NaN is null too."""
    numpy = pytest.importorskip("numpy")
    value = {"a": numpy.int64(3), "b": numpy.float32(0.5), "c": numpy.float32("nan"), "d": numpy.float64("inf")}
    assert b'{"a":3,"b":0.5,"c":null,"d":null}' == encode_json(value)


def test_page_shows_the_functions_costliest_first() -> None:
    """The page has run, version, uptime, totals and one row a function, ordered by seconds."""
    page = render_page(STATE, clock=lambda: 1_000_000.0 + 3 * 3600 + 62).decode()
    assert "jitwatch 1.2.3" in page
    assert "Run <b>run-7</b>, up 3 h 1 min." in page
    assert "In all: compiles 4, recompiles 2." in page
    assert ["train.&lt;lambda&gt;@train.py:88", "train.step"] == re.findall(r"<tr[^>]*><td>([^<]*)", page)
    figures = ["3", "2", "0", "1,234.50", "3"]
    assert "".join(f'<td class="n">{figure}</td>' for figure in figures) in page
    assert ["metrics", "api/v1/state", "api/v1/events?since=0", "healthz"] == re.findall(r'href="([^"]*)"', page)


def test_page_escapes_everything() -> None:
    """Names from the job, in any field, are text and never markup."""
    evil = "<img src=x onerror='alert(1)'>\"&$run${x}"
    state = {
        "version": evil,
        "run": evil,
        "start_time_seconds": evil,
        "functions": [dict.fromkeys(("function", "location", "compiles", "seconds", "cache_entries"), evil)],
        "totals": {"compiles": evil},
    }
    page = ask("/", sources=Sources(state)).body.decode()
    assert "<img" not in page
    assert "&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt;&quot;&amp;$run${x}" in page


def test_page_loads_and_runs_nothing() -> None:
    """The policy forbids everything but inline style, and the page needs no more than that."""
    response = ask("/")
    assert (200, "text/html; charset=utf-8") == (response.status, response.content_type)
    assert "default-src 'none'; style-src 'unsafe-inline'" == header(response, "Content-Security-Policy")
    assert [] == re.findall(rb"<script|<link|<img|src=|https?://|@import|url\(", response.body)
    assert b'http-equiv="refresh"' in response.body


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"functions": None, "totals": [], "start_time_seconds": math.nan},
        {"functions": "abc"},
        {"functions": [None, 3, {}, {"function": None, "seconds": math.inf, "compiles": object()}]},
        {"functions": [{"function": "\ud800", "seconds": 10**400, "compiles": 10**400}], "run": ""},
    ],
)
def test_page_tolerates_odd_states(state: dict[str, Any]) -> None:
    """Missing or odd values are a dash, never an error."""
    page = render_page(state).decode()
    assert page.rstrip().endswith("</html>")
    assert "object at" not in page


def test_page_is_bounded() -> None:
    """Thousands of functions make a page of bounded length that says what it left out."""
    functions = [{"function": f"f{number}", "seconds": number} for number in range(MAX_ROWS + 30)]
    page = render_page({"functions": functions}).decode()
    assert MAX_ROWS == page.count("<tr><td>")
    assert "30 more functions are in the state." in page


def test_routes_over_a_socket() -> None:
    """Server and routes together: every path by a real client, a POST with a body included."""
    server = Server(Sources().routes(), host="127.0.0.1", port=0)
    server.start()

    def status(method: str, path: str, body: bytes | None = None) -> int:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            client.request(method, path, body)
            answer = client.getresponse()
            answer.read()
            return answer.status
        finally:
            client.close()

    try:
        paths = ["/", "/metrics", "/api/v1/state", "/api/v1/events?since=3", "/healthz", "/nothing"]
        assert [200, 200, 200, 200, 200, 404] == [status("GET", path) for path in paths]
        assert [400, 405] == [status("GET", "/api/v1/events?since=x"), status("POST", "/metrics", b"x" * 9000)]
    finally:
        server.close()
