"""The paths of the endpoint: metrics, the page, the JSON API and health."""

from __future__ import annotations

import gzip
import json
import math
import numbers
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, Final, Protocol

from jitwatch._version import __version__
from jitwatch.errors import JitwatchError
from jitwatch.server.http import Request, Response
from jitwatch.server.live import Live
from jitwatch.state.own_time import OwnTime
from jitwatch.state.store import Store

_ALLOWED: Final = ("GET", "HEAD")
_SEQUENCE = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_CODING = re.compile(r"\s*([^\s;]*)\s*(?:;\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?\s*")
#: Fast, since a scrape runs beside the training loop; metrics still shrink to a tenth.
_GZIP_LEVEL: Final = 2
#: Smaller responses are not compressed: an increment for a page fits into two packets.
_GZIP_FROM: Final = 3_000
#: Seconds for which a cached exposition may be sent when a scrape is over the CPU budget.
_CACHE_S: Final = 10.0
#: Formats, with and without gzip, whose last exposition is cached.
_MAX_CACHED: Final = 6
#: Metrics that may be requested by name.
_MAX_NAMES: Final = 100
_COMMON_HEADERS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
#: Content from this port only, no inline script or style; the icon is a data URL.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Paths of the page's parts; the page itself is `/`.
ASSETS: Final = tuple(
    f"/page/{name}"
    for name in ("page.css", "main.js", "api.js", "format.js", "charts.js", "functions.js", "detail.js", "parts.js")
)


class MetricsRenderer(Protocol):
    """Renders metrics for Prometheus."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, for an `Accept` header."""

    def content_type(self, accept: str) -> str:
        """The content type alone."""


class Answers:
    """The content of responses from a store.

    Args:
        store, live: The store, and what follows it for pages.
        state: Returns the whole state; with names, only these metrics of it.
        refresh: Refreshes the values in the store.
        make_exposition: Makes the renderer of `/metrics`, at the first scrape.
    """

    def __init__(
        self,
        store: Store,
        live: Live,
        *,
        state: Callable[[frozenset[str] | None], dict[str, Any]],
        refresh: Callable[[], None],
        make_exposition: Callable[[], MetricsRenderer],
    ) -> None:
        self._store = store
        self._live = live
        self.state = state
        self._refresh = refresh
        self._make_exposition = make_exposition

    @cached_property
    def exposition(self) -> MetricsRenderer:
        """The renderer of `/metrics`."""
        return self._make_exposition()

    def metrics_type(self, accept: str) -> str:
        """The content type of the exposition, for an `Accept` header."""
        return self.exposition.content_type(accept)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, for an `Accept` header."""
        self._refresh()
        return self.exposition.render(accept)

    def events(self, since: int, function: str | None, limit: int | None) -> dict[str, Any]:
        """The events with a number above `since`, optionally of one function (label or name) and the newest only."""
        records, last = self._store.records(since, limit, function)
        return {"events": records, "last_seq": last}

    def live(self, revision: int, seq: int, since: float) -> dict[str, Any]:
        """The changes since a page's last answer."""
        return self._live.answer(revision, seq, since)


class Routes:
    """Handler of the endpoint's paths. The server reports failures of the answers.

    Args:
        answers: The content of the responses.
        own_time: Receives the CPU time of the responses.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        own_time: OwnTime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers = answers
        self._own_time = own_time or OwnTime()
        self._monotonic = monotonic
        #: The last exposition by content type and encoding, with the monotonic time at which it expires.
        self._cache: dict[tuple[str, bool], tuple[float, Response]] = {}
        self._paths: dict[str, Callable[[Request], Response]] = {
            "/": _asset,
            "/metrics": self._metrics,
            "/api/v1/state": self._state,
            "/api/v1/events": self._events,
            "/api/v1/live": self._live,
            "/healthz": lambda _: _text(200, f"jitwatch {__version__}"),
        }
        self._listed = ", ".join(self._paths)
        self._paths |= dict.fromkeys(ASSETS, _asset)

    def __call__(self, request: Request) -> Response:
        """Return the response to a request."""
        with self._own_time.of("scrape" if request.path == "/metrics" else "page"):
            return self._respond(request)

    def _respond(self, request: Request) -> Response:
        route = self._paths.get(request.path)
        if route is None:
            return _text(404, f"not found; the paths are {self._listed}")
        if request.method not in _ALLOWED:
            return _text(405, "only GET and HEAD are allowed", ("Allow", ", ".join(_ALLOWED)))
        response = route(request)
        wants_gzip = accepts_gzip(request.headers.get("accept-encoding", ""))
        if wants_gzip and response.status == 200 and len(response.body) >= _GZIP_FROM:
            body = gzip.compress(response.body, compresslevel=_GZIP_LEVEL, mtime=0)
            headers = (*response.headers, ("Content-Encoding", "gzip"))
            response = Response(200, body, response.content_type, headers)
        if request.path == "/metrics":
            self._store((response.content_type, wants_gzip), response)
        return response

    def cached(self, request: Request) -> Response | None:
        """The last exposition in the format that a scrape requests, if it has not expired."""
        if request.path != "/metrics" or request.method not in _ALLOWED:
            return None
        accept, encoding = (request.headers.get(name, "") for name in ("accept", "accept-encoding"))
        key = (self._answers.metrics_type(accept), accepts_gzip(encoding))
        until, response = self._cache.get(key, (0.0, None))
        return response if self._monotonic() < until else None

    def _store(self, key: tuple[str, bool], response: Response) -> None:
        others = {old: one for old, one in self._cache.items() if old != key}
        while len(others) >= _MAX_CACHED:
            del others[next(iter(others))]
        # Replaced as a whole, since other threads read it.
        self._cache = others | {key: (self._monotonic() + _CACHE_S, response)}

    def _metrics(self, request: Request) -> Response:
        try:
            body, content_type = self._answers.metrics(request.headers.get("accept", ""))
        except JitwatchError as error:
            return _text(503, str(error))
        return _answer(body, content_type, ("Vary", "Accept, Accept-Encoding"))

    def _state(self, request: Request) -> Response:
        names = request.query.get("metrics")
        return _json(self._answers.state(None if names is None else frozenset(names.split(",")[:_MAX_NAMES])))

    def _events(self, request: Request) -> Response:
        since, limit = request.query.get("since", "0"), request.query.get("limit")
        if not _SEQUENCE.fullmatch(since):
            return _refused("since", "a whole number of at least 0, such as last_seq of the last response", since)
        if limit is not None and not _SEQUENCE.fullmatch(limit):
            return _refused("limit", "a whole number, the most events to return", limit)
        return _json(
            self._answers.events(int(since), request.query.get("function"), None if limit is None else int(limit))
        )

    def _live(self, request: Request) -> Response:
        revision, seq, since = (request.query.get(name, "0") for name in ("revision", "seq", "since"))
        for name, value in (("revision", revision), ("seq", seq)):
            if not _SEQUENCE.fullmatch(value):
                return _refused(name, "a whole number of at least 0, as in the last response", value)
        if not _SECONDS.fullmatch(since):
            return _refused("since", "Unix seconds, the time of the last row of the timeline", since)
        return _json(self._answers.live(int(revision), int(seq), float(since)))


@cache
def read_asset(path: str) -> tuple[bytes, str]:
    """Content and content type of a part of the page, which is read once."""
    name = path.rpartition("/")[2] or "index.html"
    # Lazy: only a page needs it. The package may be imported from a zip file.
    import pkgutil

    content = pkgutil.get_data("jitwatch.server", f"page/{name}")
    assert content is not None
    return content, f"{_TYPES[os.path.splitext(name)[1]]}; charset=utf-8"


def accepts_gzip(header: str) -> bool:
    """Whether an `Accept-Encoding` header accepts gzip; a malformed one does not."""
    codings = (_CODING.fullmatch(item) for item in header.lower().split(","))
    qualities = {match[1]: float(match[2] or 1) for match in codings if match is not None}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def encode_json(value: object) -> bytes:
    """Encode as compact JSON; NaN and infinities become null, which every parser can read."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)
    except (ValueError, TypeError):  # a NaN, or a key that is not text: rare, so only then make a copy
        text = json.dumps(_cleaned(value), allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode("ascii")


def _plain(value: object) -> object:
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    # The type only: the text of an array would block on the device and show its contents.
    return f"<{type(value).__qualname__}>"


def _cleaned(value: object) -> object:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(_plain(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    plain = _plain(value)
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _asset(request: Request) -> Response:
    return _answer(*read_asset(request.path), ("Content-Security-Policy", _POLICY))


def _json(value: object) -> Response:
    return _answer(encode_json(value), "application/json")


def _answer(body: bytes, content_type: str, *headers: tuple[str, str]) -> Response:
    return Response(200, body, content_type, (*_COMMON_HEADERS, *headers))


def _text(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return Response(status, f"{text}\n".encode(), headers=(*_COMMON_HEADERS, *headers))


def _refused(name: str, expected: str, got: str) -> Response:
    return _text(400, f"{name}: expected {expected}, got {got[:40]!a}")
