"""What a user may type for a job: a port, `host:port`, or a whole address."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from jitwatch.errors import ConfigError

#: First port that an agent tries.
DEFAULT_PORT: Final = 10431
_ODD: Final = re.compile(r"[\s\x00-\x20\x7f-\x9f\"<>\\^`{|}]")
#: Pages of the endpoint that somebody copies from a browser.
_PAGES: Final = ("/api/v1/state", "/api/v1/events", "/metrics", "/healthz")
_EXPECTED: Final = "expected a port, host:port or http(s)://host:port"


def address_of(text: str) -> str:
    """The base of a job's addresses, as `http://127.0.0.1:10431`.

    Raises:
        ConfigError: It is none of the forms above.
    """
    if text.isascii() and text.isdecimal():
        text = f"127.0.0.1:{text}"
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from None
    if parts.scheme not in ("http", "https") or not host or _ODD.search(text) or not text.isascii():
        raise _bad(text)
    if parts.username is not None or parts.password is not None:
        raise _bad("***", "a token is given with --token-file or JITWATCH_TOKEN")
    if port == 0 or parts.query or parts.fragment:
        raise _bad(text)
    if port is None and not has_scheme:
        port = DEFAULT_PORT
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    for page in _PAGES:
        path = path.removesuffix(page)
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{path}"


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """The address as a person would say it: without `http://`."""
    return url.removeprefix("http://")


def _bad(text: str, why: str = "") -> ConfigError:
    return ConfigError(f"{_EXPECTED}, got {text[:100]!a}{f' ({why})' if why else ''}")
