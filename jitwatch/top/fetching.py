"""One request to a job: bounded in time and size, follows no redirect, and says in words what went wrong."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jitwatch.top.addresses import is_loopback
from jitwatch.top.cells import clean
from jitwatch.top.figures import Figures
from jitwatch.top.reading import figures_of
from jitwatch.top.timed import LateError, timed

#: A state with ten thousand functions has about 20 MiB.
MAX_BYTES: Final = 64 * 2**20
#: And half a million values. Each takes up to a hundred bytes of memory, however few it has in the answer.
_MAX_VALUES: Final = 4_000_000
#: Seconds for a connection and for each read, and for the whole answer.
TIMEOUT_S: Final = 5.0
_WHOLE_S: Final = 15.0
_CHUNK: Final = 2**16
#: What comes before each value of a JSON text but the first.
_BEFORE_VALUES: Final = (b",", b"[", b"{")
#: Of the metrics only what is read: all of them are half of what the answer costs the job.
_PATH: Final = "/api/v1/state?metrics=jitwatch_oom_total"
#: Longest time that a job may ask to be left alone, seconds.
_LONGEST_RETRY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    Attributes:
        figures: The job's figures, or None.
        problem: Why there are none, as the end of a sentence.
        is_gone: Nothing listens there: the process has ended, or never was.
        retry_after_s: Seconds for which the job wants no further question; 0 when it did not say so.
    """

    figures: Figures | None = None
    problem: str = ""
    is_gone: bool = False
    retry_after_s: float = 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to whoever it names."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_timed(http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(context=context)
        self._trusted = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_timed(http.client.HTTPSConnection), req, context=self._trusted)


def _timed(kind: type[http.client.HTTPConnection]) -> Any:
    def connection(host: str, **options: Any) -> http.client.HTTPConnection:
        made: Any = kind(host, **options)
        made.response_class = timed(_WHOLE_S)
        return made  # type: ignore[no-any-return]

    return connection


def asker(url: str, *, token: str | None = None, ca: ssl.SSLContext | None = None) -> Callable[[], Answer]:
    """A function that asks this job for its state.

    Args:
        url: The job's address, as `address_of` makes it.
        token: Bearer token, or None.
        ca: Whom to trust for https; None for the system's certificates.
    """
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), _Http(), _Https(ca)]
    if is_loopback(url):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    headers = {"Accept": "application/json", "User-Agent": "jitwatch-top"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{url}{_PATH}", headers=headers)  # noqa: S310 - http and https only

    def ask() -> Answer:
        try:
            with opener.open(request, timeout=TIMEOUT_S) as response:
                return _read(response)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(problem=_of_status(error, has_token=token is not None), retry_after_s=_retry(error))
        except Exception as error:  # whatever it is, the view goes on
            return _of_failure(error)

    return ask


def _read(response: Any) -> Answer:
    parts, size, values = [], 0, 0
    while part := response.read1(_CHUNK):
        size += len(part)
        if size > MAX_BYTES:
            return Answer(problem=f"answers with more than {MAX_BYTES >> 20} MiB")
        values += sum(map(part.count, _BEFORE_VALUES))
        if values > _MAX_VALUES:
            return Answer(problem=f"answers with more than {_MAX_VALUES:,} values")
        parts.append(part)
    try:
        figures = figures_of(json.loads(b"".join(parts)))
    except (ValueError, RecursionError):
        figures = None
    return Answer(figures) if figures is not None else Answer(problem="answers, but is no jitwatch")


def _retry(error: urllib.error.HTTPError) -> float:
    if error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
        return 0.0
    told = error.headers.get("Retry-After", "")
    return min(float(told), _LONGEST_RETRY_S) if told.isascii() and told.isdigit() and len(told) < 10 else 1.0


def _of_status(error: urllib.error.HTTPError, *, has_token: bool) -> str:
    if error.code == http.HTTPStatus.UNAUTHORIZED:
        return "refuses this token" if has_token else "wants a token: give --token-file or JITWATCH_TOKEN"
    if error.code == http.HTTPStatus.SERVICE_UNAVAILABLE:
        return "has too many requests in progress"
    if error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
        return "is asked for more than it has time for"
    return f"answers with {error.code} {clean(error.reason)[:60]}".rstrip()


def _of_failure(error: Exception) -> Answer:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, LateError):
        return Answer(problem=f"did not finish its answer within {_WHOLE_S:.0f} s")
    if isinstance(reason, ConnectionRefusedError):
        return Answer(problem="nothing listens there", is_gone=True)
    if isinstance(reason, TimeoutError):
        return Answer(problem=f"no answer within {TIMEOUT_S:.0f} s")
    if isinstance(reason, socket.gaierror):
        return Answer(problem="the name of the host is not known")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Answer(problem=f"its certificate is not trusted ({clean(reason.verify_message)}): give --ca")
    if isinstance(reason, ssl.SSLError):
        return Answer(problem="speaks no https there: try http://")
    if isinstance(reason, (http.client.RemoteDisconnected, ConnectionResetError)):
        return Answer(problem="closes the connection; if it serves https, give https://host:port and --ca")
    if isinstance(reason, http.client.BadStatusLine):
        return Answer(problem="speaks no HTTP there")
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return Answer(problem=clean(text).strip()[:100] or type(error).__name__)
