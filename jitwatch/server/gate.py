"""Who may ask: the token, the Host header, and what a browser says of the page that asks."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from jitwatch.server.messages import RefusedError, Request

#: A browser knows no bearer token, but asks its user for a name and a password when it may send those.
_CHALLENGES = (
    ("WWW-Authenticate", 'Bearer realm="jitwatch"'),
    ("WWW-Authenticate", 'Basic realm="jitwatch", charset="UTF-8"'),
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]/@\s]*)(?::[0-9]{0,5})?")
#: What a link on another site may open: the page, which a dashboard links to, and the exposition, which the target
#: list of Prometheus links to. The API is for scripts, and has no such reader.
_LINKED: Final = frozenset({"/", "/metrics", "/healthz"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})


def is_loopback(address: str) -> bool:
    """Whether an address, as a bound socket gives it, can be reached from this machine only."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def names_of_machine() -> set[str]:
    """The names by which the name server knows this machine; asking may take seconds."""
    names: set[str] = set()
    with suppress(OSError, UnicodeError):
        name, aliases, _ = socket.gethostbyname_ex(socket.gethostname())
        names |= {name, *aliases}
    with suppress(OSError, UnicodeError):
        names.add(socket.getfqdn())
    return names


class Gate:
    """Decides which requests may reach the handler.

    Args:
        token: Bearer token that every request must carry.
        host: Name or address that the endpoint was told to listen on.
        bound_to: Address that it listens on.
        allowed_hosts: Further names, or patterns of names, by which it may be called.
        is_tls: Whether it speaks TLS.

    Attributes:
        checks_host: Whether the Host header must be a name of this machine.
    """

    def __init__(
        self,
        token: str | None,
        host: str,
        bound_to: str,
        *,
        allowed_hosts: Iterable[str] = (),
        is_tls: bool = False,
    ) -> None:
        self._token = token.strip().encode() if token is not None else None
        self._names = frozenset({"localhost", _canonical(host), _canonical(socket.gethostname())})
        self._patterns = tuple(_canonical(pattern) for pattern in allowed_hosts)
        # A web page whose own name is bound anew to this address (DNS rebinding) must not read the endpoint through
        # the browser of somebody who can reach it. Neither a token nor the name in a certificate can be had so.
        self.checks_host = self._token is None and (is_loopback(bound_to) or not is_tls)

    def learn(self, names: Iterable[str]) -> None:
        """Take further names of this machine, which were found out meanwhile. Any thread may call it."""
        self._names |= {_canonical(name) for name in names}

    def admit(self, request: Request) -> Request:
        """Return the request without its credentials, or raise the refusal."""
        headers = request.headers
        if self.checks_host and not self._is_known(headers.get("host", "localhost")):
            raise RefusedError(
                421,
                "unknown Host: use an IP address, localhost or this machine's own name, or name this one in the "
                "option allowed_hosts (JITWATCH_ALLOWED_HOSTS)",
            )
        # Before the token: a browser sends stored credentials whoever made it ask, and asks its user for new ones.
        if _is_foreign(request):
            raise RefusedError(403, "pages of other sites may link to this endpoint, but not read or embed it")
        if self._token is not None:
            given = _secret(headers.get("authorization", ""))
            # Compared even if there is none, so that the time it takes says nothing.
            if not hmac.compare_digest(given or b"", self._token) or given is None:
                raise RefusedError(
                    401,
                    "this endpoint needs the header 'Authorization: Bearer <token>'; in a browser, give any user name "
                    "and the token as the password",
                    *_CHALLENGES,
                )
        kept = {name: value for name, value in headers.items() if name != "authorization"}
        return replace(request, headers=MappingProxyType(kept))

    def _is_known(self, header: str) -> bool:
        match = _HOST.fullmatch(header.strip())
        name = _canonical(match[1]) if match else ""
        if name in self._names or any(pattern == "*" or fnmatchcase(name, pattern) for pattern in self._patterns):
            return True
        # No name can be bound anew to an address that is itself the name.
        with suppress(ValueError):
            ipaddress.ip_address(name.strip("[]"))
            return True
        return False


def _canonical(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _is_foreign(request: Request) -> bool:
    """Whether a browser says that a page of another origin makes it ask; programs say nothing of the kind.

    A link that somebody follows is none: whoever has the link cannot read what it opens.
    """
    headers = request.headers
    site = headers.get("sec-fetch-site")
    if site is None:
        # Browsers send it only to https and loopback addresses. Elsewhere a script of another origin is known by this.
        origin = headers.get("origin")
        return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    if site in _OWN_SITE:
        return False
    # `same-site` too: other ports of this machine are other programs, maybe of other users.
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
    return not (is_link and request.method == "GET" and request.path in _LINKED)


def _secret(header: str) -> bytes | None:
    """The token in an `Authorization` header: of `Bearer`, or the password of `Basic`, whatever the user's name."""
    scheme, _, given = header.partition(" ")
    sent = given.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return sent
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(sent, validate=True).partition(b":")
    except ValueError:
        return None
    return password if colon else None
