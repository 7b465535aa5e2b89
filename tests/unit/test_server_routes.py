"""The endpoint's routes: what each path answers, as the server would hand it on."""

from __future__ import annotations

import ast
import gzip
import http.client
import json
import math
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from jitwatch._version import __version__
from jitwatch.server import routes as routes_of
from jitwatch.server.http import Request, Response, Server
from jitwatch.server.routes import ASSETS, Routes, accepts_gzip, encode_json
from tests.checkout import ROOT

TEXT, OPENMETRICS = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0"
EXPOSITION = b"# HELP jitwatch_compiles_total x\njitwatch_compiles_total 1.0\n" * 50
STATE: dict[str, Any] = {
    "version": __version__,
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
    """The content of the responses, with a record of what was asked for."""

    def __init__(self) -> None:
        self.accepts: list[str] = []
        self.asked: list[tuple[Any, ...]] = []
        self.now = 1000.0

    def routes(self) -> Routes:
        return Routes(self, monotonic=lambda: self.now)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        return EXPOSITION, TEXT

    def metrics_type(self, accept: str) -> str:
        return TEXT if "openmetrics" not in accept else OPENMETRICS

    def state(self, metrics: frozenset[str] | None) -> dict[str, Any]:
        self.asked.append((metrics,))
        return STATE

    def events(self, since: int, function: str | None, limit: int | None) -> dict[str, Any]:
        self.asked.append((since, function, limit))
        return {"events": [{"seq": since + 1, "trace_s": math.nan}], "last_seq": since + 1}

    def live(self, revision: int, seq: int, since: float) -> dict[str, Any]:
        self.asked.append((revision, seq, since))
        return {"revision": revision + 1, "lost": math.inf}


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


def test_small_answers_are_not_compressed() -> None:
    """Compression would cost the job more than it saves."""
    response = ask("/api/v1/live", headers={"accept-encoding": "gzip"})
    assert None is header(response, "Content-Encoding")
    assert {"revision": 1, "lost": None} == json.loads(response.body)


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
    assert [(41, None, None), (0, None, None)] == sources.asked


def test_events_of_one_function() -> None:
    """`function` and `limit` are handed on as they are; any text may be the name of a function."""
    sources = Sources()
    name = "train.<lambda>@train.py:88 & more"
    ask("/api/v1/events", query={"function": name, "limit": "200"}, sources=sources)
    ask("/api/v1/events", query={"function": "", "limit": "0"}, sources=sources)
    assert [(0, name, 200), (0, "", 0)] == sources.asked


@pytest.mark.parametrize("since", ["", "-1", "1.5", "abc", " 1", "1_0", "٣", "9" * 19, "<script>"])
def test_events_with_a_bad_sequence_number(since: str) -> None:
    """A bad `since` is a 400 that says what was expected."""
    sources = Sources()
    response = ask("/api/v1/events", query={"since": since}, sources=sources)
    assert 400 == response.status
    assert b"since: expected a whole number of at least 0" in response.body
    assert response.content_type.startswith("text/plain")
    assert [] == sources.asked


@pytest.mark.parametrize("limit", ["", "-1", "1.5", "abc", "9" * 19])
def test_events_with_a_bad_limit(limit: str) -> None:
    """A bad `limit` is a 400 that says what was expected."""
    sources = Sources()
    response = ask("/api/v1/events", query={"limit": limit}, sources=sources)
    assert (400, []) == (response.status, sources.asked)
    assert b"limit: expected a whole number" in response.body


def test_live_passes_on_the_parameters_of_the_page() -> None:
    """Revision, number and time, all 0 when they are missing."""
    sources = Sources()
    response = ask("/api/v1/live", query={"revision": "7", "seq": "41", "since": "1700000000.25"}, sources=sources)
    ask("/api/v1/live", sources=sources)
    assert {"revision": 8, "lost": None} == json.loads(response.body)
    assert (200, "application/json") == (response.status, response.content_type)
    assert [(7, 41, 1_700_000_000.25), (0, 0, 0.0)] == sources.asked


@pytest.mark.parametrize("name", ["revision", "seq", "since"])
@pytest.mark.parametrize("value", ["", "-1", "abc", " 1", "1e9", "nan", "inf", "٣", "9" * 19, "1." + "0" * 10])
def test_live_with_a_bad_parameter(name: str, value: str) -> None:
    """Anything but a plain number is a 400 that names the parameter."""
    sources = Sources()
    response = ask("/api/v1/live", query={name: value}, sources=sources)
    assert (400, []) == (response.status, sources.asked)
    assert response.body.startswith(f"{name}: expected ".encode())


def test_healthz_is_the_version() -> None:
    """`/healthz` is a 200 with the version."""
    response = ask("/healthz")
    assert (200, f"jitwatch {__version__}\n".encode()) == (response.status, response.body)


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "//", "/../etc/passwd", "/api/v1", "*"])
def test_unknown_path_is_404(path: str) -> None:
    """Any other path is a 404, by whatever method."""
    assert [404, 404] == [ask(path).status, ask(path, method="POST").status]


@pytest.mark.parametrize(
    "path", ["/", "/page/main.js", "/metrics", "/api/v1/state", "/api/v1/events", "/api/v1/live", "/healthz"]
)
def test_other_methods_are_405(path: str) -> None:
    """Known paths answer GET and HEAD only, and say so."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"):
        response = ask(path, method=method)
        assert (405, "GET, HEAD") == (response.status, header(response, "Allow"))
    assert ask(path) == ask(path, method="HEAD")


@pytest.mark.parametrize(
    "path",
    ["/", "/page/main.js", "/metrics", "/api/v1/state", "/api/v1/events", "/api/v1/live", "/healthz", "/nothing"],
)
def test_no_answer_is_stored_or_sniffed(path: str) -> None:
    """Responses are not cached, and browsers do not guess their type."""
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


TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


@pytest.mark.parametrize("path", ["/", *ASSETS])
def test_page_comes_in_parts_of_their_types(path: str) -> None:
    """Each part is served as what it is, and under a policy that lets nothing in from elsewhere."""
    response = ask(path)
    ending = path.rpartition(".")[2] if path != "/" else "html"
    assert (200, f"{TYPES[ending]}; charset=utf-8") == (response.status, response.content_type)
    policy = dict(part.strip().split(" ", 1) for part in (header(response, "Content-Security-Policy") or "").split(";"))
    assert "'none'" == policy["default-src"]
    assert {"'self'"} == {policy[name] for name in ("script-src", "style-src", "connect-src")}
    assert {"'none'"} == {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")}
    assert "unsafe" not in str(policy)


def test_page_is_whole() -> None:
    """All files of the folder are served, and what the page and its modules ask for is there."""
    folder = Path(routes_of.__file__).with_name("page")
    assert {f"/page/{path.name}" for path in folder.iterdir()} - {"/page/index.html"} == set(ASSETS)
    page = ask("/").body.decode()
    asked = set(re.findall(r'(?:href|src)="(page/[^"]*)"', page))
    for path in ASSETS:
        asked |= {f"page/{name}" for name in re.findall(r'from "\./([^"]*)"', ask(path).body.decode())}
    assert asked == {path.removeprefix("/") for path in ASSETS}
    linked = re.findall(r'href="((?:api|metrics)[^"]*)"', page)
    assert {"metrics", "api/v1/state", "api/v1/events?since=0&amp;limit=200"} == set(linked)


def test_page_needs_nothing_from_elsewhere_and_no_inline_code() -> None:
    """No address but its own, no script or style inside the page, and no text that is taken for markup."""
    for path in ("/", *ASSETS):
        text = ask(path).body.decode()
        # Names of XML, which nobody loads.
        found = re.findall(r"https?://[^'\"\s)]*", text)
        assert {"http://www.w3.org/2000/svg"} >= set(found), path
        assert [] == re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|@import", text), path
    page = ask("/").body.decode()
    assert [] == re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", page)


def test_page_is_small() -> None:
    """First paint needs at most 150 kB, uncompressed."""
    assert sum(len(ask(path).body) for path in ("/", *ASSETS)) <= 150_000


@pytest.mark.parametrize("path", ["/page/", "/page", "/page/index.html", "/page/../routes.py", "/page/nothing.js"])
def test_page_has_no_other_files(path: str) -> None:
    """Only the listed parts are there, whatever the path looks like."""
    assert 404 == ask(path).status


def test_wheel_holds_every_part_of_the_page() -> None:
    """The patterns of setup.py cover all of them; an editable install would not notice."""
    # Read, not run: setuptools changes how the process imports.
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    (given,) = [node.value for node in ast.walk(ast.parse(source)) if getattr(node, "arg", "") == "package_data"]
    patterns = ast.literal_eval(given)["jitwatch.server"]
    for path in ("index.html", *(os.path.basename(one) for one in ASSETS)):
        assert any(fnmatch(f"page/{path}", pattern) for pattern in patterns), path


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
        paths = ["/", "/page/page.css", "/metrics", "/api/v1/state", "/api/v1/live?seq=3", "/healthz", "/nothing"]
        assert [200, 200, 200, 200, 200, 200, 404] == [status("GET", path) for path in paths]
        assert [400, 405] == [status("GET", "/api/v1/events?since=x"), status("POST", "/metrics", b"x" * 9000)]
    finally:
        server.close()


def test_state_of_named_metrics_only() -> None:
    """A client that needs one metric does not make the job encode all; without names it is the whole state."""
    sources = Sources()
    ask("/api/v1/state", sources=sources)
    ask("/api/v1/state", query={"metrics": "jitwatch_oom_total,other"}, sources=sources)
    ask("/api/v1/state", query={"metrics": ",".join(map(str, range(1000)))}, sources=sources)
    assert [(None,), ({"jitwatch_oom_total", "other"},)] == sources.asked[:2]
    assert 100 == len(sources.asked[2][0])


def cached(routes: Routes, accept: str = "", encoding: str = "", path: str = "/metrics", method: str = "GET"):
    return routes.cached(Request(method, path, {}, {"accept": accept, "accept-encoding": encoding}))


def test_exposition_is_cached_for_a_few_seconds() -> None:
    """As it was sent, by format and encoding; not that of another one, and nothing else than the exposition."""
    sources = Sources()
    routes = sources.routes()
    assert cached(routes) is None
    sent = routes(Request("GET", "/metrics", {}, {}))
    packed = routes(Request("GET", "/metrics", {}, {"accept-encoding": "gzip"}))
    routes(Request("GET", "/api/v1/state", {}, {}))
    assert sent is cached(routes)
    assert sent is cached(routes, accept="text/plain;q=0.5", method="HEAD")
    assert packed is cached(routes, encoding="gzip, deflate")
    assert cached(routes, accept="application/openmetrics-text") is None
    assert cached(routes, path="/api/v1/state") is None
    assert cached(routes, method="POST") is None
    sources.now += 9
    assert sent is cached(routes)
    sources.now += 2
    assert cached(routes) is None


def test_few_expositions_are_cached() -> None:
    """A client that asks for a thousand formats holds no memory, and pushes out the oldest only."""
    sources = Sources()
    sources.metrics, sources.metrics_type = (lambda accept: (EXPOSITION, accept)), str
    routes = sources.routes()
    for number in range(1000):
        routes(Request("GET", "/metrics", {}, {"accept": str(number)}))
    assert 6 == len(routes._cache)
    assert [False, True] == [cached(routes, accept=str(number)) is not None for number in (993, 994)]
