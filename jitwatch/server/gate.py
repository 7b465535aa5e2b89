"""Who may ask: the bearer token, and the Host header of a loopback port."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import replace
from types import MappingProxyType

from jitwatch.server.messages import RefusedError, Request

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
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if not hmac.compare_digest(given.strip().encode("latin-1"), self._token) or scheme.lower() != "bearer":
                raise RefusedError(
                    401,
                    "this endpoint needs the header 'Authorization: Bearer <token>'",
                    ("WWW-Authenticate", 'Bearer realm="jitwatch"'),
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
