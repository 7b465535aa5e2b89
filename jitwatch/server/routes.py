"""The paths of the endpoint: metrics, the page, the JSON API and health."""

from __future__ import annotations

import gzip
import json
import math
import numbers
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from jitwatch.server.assets import ASSETS, POLICY, read_asset
from jitwatch.server.http import Request, Response

_ALLOWED: Final = ("GET", "HEAD")
_SEQUENCE = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
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


class Routes:
    """Handler of the endpoint's paths.

    Args:
        metrics: Maps an `Accept` header to an exposition body and its content type.
        metrics_type: Maps an `Accept` header to the content type alone.
        state: Returns the whole state, as `snapshot()`; with names, only these metrics of it.
        events: Maps a sequence number, a function's label or bare name or None and a limit or None to
            `{"events": […], "last_seq": M}` with the newer events.
        live: Maps a revision, a sequence number and a Unix time to the changes since then, for the page.
        version: Version of jitwatch, for `/healthz`.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        metrics: Callable[[str], tuple[bytes, str]],
        metrics_type: Callable[[str], str],
        state: Callable[[frozenset[str] | None], dict[str, Any]],
        events: Callable[[int, str | None, int | None], dict[str, Any]],
        live: Callable[[int, int, float], dict[str, Any]],
        version: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._metrics_type = metrics_type
        self._monotonic = monotonic
        #: The last exposition by content type and encoding, with the monotonic time at which it expires.
        self._cache: dict[tuple[str, bool], tuple[float, Response]] = {}
        self._state = state
        self._events = events
        self._live = live
        self._version = version
        self._paths: dict[str, Callable[[Request], Response]] = {
            "/": self._asset,
            "/metrics": self._exposition,
            "/api/v1/state": self._state_json,
            "/api/v1/events": self._events_json,
            "/api/v1/live": self._live_json,
            "/healthz": self._health,
        }
        self._listed = ", ".join(self._paths)
        self._paths |= dict.fromkeys(ASSETS, self._asset)

    def __call__(self, request: Request) -> Response:
        """Return the response to a request; the server reports failures of the callables."""
        route = self._paths.get(request.path)
        if route is None:
            return _text(404, f"not found; the paths are {self._listed}")
        if request.method not in _ALLOWED:
            return _text(405, "only GET and HEAD are allowed", ("Allow", ", ".join(_ALLOWED)))
        response = route(request)
        is_large = response.status == 200 and len(response.body) >= _GZIP_FROM
        wants_gzip = accepts_gzip(request.headers.get("accept-encoding", ""))
        if is_large and wants_gzip:
            response = _compressed(response)
        if request.path == "/metrics":
            self._store((response.content_type, wants_gzip), response)
        return response

    def cached(self, request: Request) -> Response | None:
        """The last exposition in the format that a scrape requests, if it has not expired."""
        if request.path != "/metrics" or request.method not in _ALLOWED:
            return None
        headers = request.headers
        key = (self._metrics_type(headers.get("accept", "")), accepts_gzip(headers.get("accept-encoding", "")))
        until, response = self._cache.get(key, (0.0, None))
        return response if self._monotonic() < until else None

    def _store(self, key: tuple[str, bool], response: Response) -> None:
        others = {old: one for old, one in self._cache.items() if old != key}
        while len(others) >= _MAX_CACHED:
            del others[next(iter(others))]
        # Replaced as a whole, since other threads read it.
        self._cache = others | {key: (self._monotonic() + _CACHE_S, response)}

    def _asset(self, request: Request) -> Response:
        body, content_type = read_asset(request.path)
        return _answer(body, content_type, ("Content-Security-Policy", POLICY))

    def _exposition(self, request: Request) -> Response:
        body, content_type = self._metrics(request.headers.get("accept", ""))
        return _answer(body, content_type, ("Vary", "Accept, Accept-Encoding"))

    def _state_json(self, request: Request) -> Response:
        names = request.query.get("metrics")
        wanted = None if names is None else frozenset(names.split(",")[:_MAX_NAMES])
        return _answer(encode_json(self._state(wanted)), "application/json")

    def _events_json(self, request: Request) -> Response:
        since, limit = request.query.get("since", "0"), request.query.get("limit")
        if not _SEQUENCE.fullmatch(since):
            return _refused("since", "a whole number from 0 up, such as last_seq of the last answer", since)
        if limit is not None and not _SEQUENCE.fullmatch(limit):
            return _refused("limit", "a whole number, the most events to return", limit)
        found = self._events(int(since), request.query.get("function"), None if limit is None else int(limit))
        return _answer(encode_json(found), "application/json")

    def _live_json(self, request: Request) -> Response:
        revision, seq = request.query.get("revision", "0"), request.query.get("seq", "0")
        since = request.query.get("since", "0")
        for name, value in (("revision", revision), ("seq", seq)):
            if not _SEQUENCE.fullmatch(value):
                return _refused(name, "a whole number from 0 up, as in the last answer", value)
        if not _SECONDS.fullmatch(since):
            return _refused("since", "Unix seconds, the time of the last row of the timeline", since)
        return _answer(encode_json(self._live(int(revision), int(seq), float(since))), "application/json")

    def _health(self, request: Request) -> Response:
        return _text(200, f"jitwatch {self._version}")


def accepts_gzip(header: str) -> bool:
    """Whether an `Accept-Encoding` header accepts gzip; a malformed one does not."""
    qualities: dict[str, float] = {}
    for item in header.lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        quality = "1"
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = value.strip()
        qualities[coding] = float(quality) if _QUALITY.fullmatch(quality) else 0.0
    asked = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return asked > 0


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


def _answer(body: bytes, content_type: str, *headers: tuple[str, str]) -> Response:
    return Response(200, body, content_type, (*_COMMON_HEADERS, *headers))


def _text(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return Response(status, f"{text}\n".encode(), headers=(*_COMMON_HEADERS, *headers))


def _refused(name: str, expected: str, got: str) -> Response:
    return _text(400, f"{name}: expected {expected}, got {got[:40]!a}")


def _compressed(response: Response) -> Response:
    body = gzip.compress(response.body, compresslevel=_GZIP_LEVEL, mtime=0)
    headers = (*response.headers, ("Content-Encoding", "gzip"))
    return Response(response.status, body, response.content_type, headers)
