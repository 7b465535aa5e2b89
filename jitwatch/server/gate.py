"""Who may ask: the token, and the Host header of a loopback port."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from dataclasses import replace
from types import MappingProxyType

from jitwatch.server.messages import RefusedError, Request

#: A browser knows no bearer token, but asks its user for a name and a password when it may send those.
_CHALLENGES = (
    ("WWW-Authenticate", 'Bearer realm="jitwatch"'),
    ("WWW-Authenticate", 'Basic realm="jitwatch", charset="UTF-8"'),
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]/@\s]*)(?::[0-9]{0,5})?")


class Gate:
    """Decides which requests may reach the handler."""

    def __init__(self, token: str | None, host: str, bound_to: str) -> None:
        self._token = token.strip().encode() if token is not None else None
        self._names = frozenset({"localhost", host.lower()})
        # Without a token, only the address protects a loopback port: a web page whose name is
        # re-bound to 127.0.0.1 must not read it through the user's browser.
        self._check_host = self._token is None and ipaddress.ip_address(bound_to.partition("%")[0]).is_loopback

    def admit(self, request: Request) -> Request:
        """Return the request without its credentials, or raise the refusal."""
        if self._token is not None:
            given = _secret(request.headers.get("authorization", ""))
            # Compared even if there is none, so that the time it takes says nothing.
            if not hmac.compare_digest(given or b"", self._token) or given is None:
                raise RefusedError(
                    401,
                    "this endpoint needs the header 'Authorization: Bearer <token>'; in a browser, give any user name "
                    "and the token as the password",
                    *_CHALLENGES,
                )
        if self._check_host and not self._is_known(request.headers.get("host", "localhost")):
            raise RefusedError(421, "unknown Host: use localhost, an IP address, or the configured host")
        kept = {name: value for name, value in request.headers.items() if name != "authorization"}
        return replace(request, headers=MappingProxyType(kept))

    def _is_known(self, header: str) -> bool:
        match = _HOST.fullmatch(header.strip())
        name = match[1].lower() if match else ""
        if name.removesuffix(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


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
