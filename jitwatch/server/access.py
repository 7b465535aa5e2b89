"""Which requests are authorized: client certificates, the token, the Host header, and the origin of a browser."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from jitwatch.errors import EndpointConfigError
from jitwatch.server.messages import RefusedError, Request, Service

#: A browser cannot send a bearer token, but prompts for a user name and a password if Basic is offered.
_CHALLENGES = (
    ("WWW-Authenticate", 'Bearer realm="jitwatch"'),
    ("WWW-Authenticate", 'Basic realm="jitwatch", charset="UTF-8"'),
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]/@\s]*)(?::[0-9]{0,5})?")
#: Paths that links on other sites may open: the page, for dashboards, and the exposition, for Prometheus's target list.
_LINKED: Final = frozenset({"/", "/metrics", "/healthz"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})


def is_loopback(address: str) -> bool:
    """Whether an address, as a bound socket gives it, can be reached from this machine only."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def names_of_machine() -> set[str]:
    """The names of this machine in the name service; the lookup may take seconds."""
    names: set[str] = set()
    with suppress(OSError, UnicodeError):
        name, aliases, _ = socket.gethostbyname_ex(socket.gethostname())
        names |= {name, *aliases}
    with suppress(OSError, UnicodeError):
        names.add(socket.getfqdn())
    return names


def server_context(cert: str, key: str, client_ca: str | None = None) -> ssl.SSLContext:
    """The context of a server that speaks TLS 1.2 or newer; with a client CA, clients need a certificate.

    Raises:
        EndpointConfigError: A file is missing, unreadable, no PEM, or the key belongs to another certificate.
    """
    for option, path in (("tls_cert", cert), ("tls_key", key), ("tls_client_ca", client_ca)):
        if path is None:
            continue
        try:
            # OpenSSL's own errors do not name the file.
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise EndpointConfigError(
                f"{option} {path!r} cannot be read ({error.strerror}): check the path and its permissions"
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation would cost CPU outside of the budget. Sessions are not resumed: a scrape is one short connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # Without a password OpenSSL would prompt for the passphrase on the terminal, and wait.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise EndpointConfigError(
            f"tls_cert {cert!r} and tls_key {key!r} cannot be used ({_reason(error)}): name a PEM certificate "
            "and the private key that belongs to it, without a passphrase"
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(cafile=client_ca)
        except (OSError, ValueError) as error:
            raise EndpointConfigError(
                f"tls_client_ca {client_ca!r} cannot be used ({_reason(error)}): name a PEM file with the "
                "certificates of the authorities that sign your clients"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


class AccessPolicy:
    """Decides which requests reach the handler of a service that listens on an address.

    Attributes:
        checks_host: Whether the Host header must be a name of this machine.
    """

    def __init__(self, service: Service, bound_to: str) -> None:
        self._token = service.token.strip().encode() if service.token is not None else None
        self._names = frozenset({"localhost", _canonical(service.host), _canonical(socket.gethostname())})
        self._patterns = tuple(_canonical(pattern) for pattern in service.allowed_hosts)
        # Against DNS rebinding: a web page whose name is rebound to this address must not read the endpoint through
        # the browser of a user who can reach it. It has neither the token nor a certificate for its name.
        self.checks_host = self._token is None and (is_loopback(bound_to) or service.context is None)

    def add_names(self, names: Iterable[str]) -> None:
        """Accept further names of this machine. Thread-safe."""
        self._names |= {_canonical(name) for name in names}

    def authorize(self, request: Request) -> Request:
        """Return the request without its credentials; raises RefusedError if it is not authorized."""
        headers = request.headers
        if self.checks_host and not self._is_known(headers.get("host", "localhost")):
            raise RefusedError(
                421,
                "unknown Host: use an IP address, localhost or this machine's own name, or name this one in the "
                "option allowed_hosts (JITWATCH_ALLOWED_HOSTS)",
            )
        # Before the token: for any page a browser sends stored credentials, and prompts for new ones.
        if _is_foreign(request):
            raise RefusedError(403, "pages of other sites may link to this endpoint, but not read or embed it")
        if self._token is not None:
            given = _secret(headers.get("authorization", ""))
            # Compared even if there is none, in constant time.
            if not hmac.compare_digest(given or b"", self._token) or given is None:
                raise RefusedError(
                    401,
                    "this endpoint needs the header 'Authorization: Bearer <token>'; in a browser, enter any user name "
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
        # An address as the name cannot be rebound.
        with suppress(ValueError):
            ipaddress.ip_address(name.strip("[]"))
            return True
        return False


def _canonical(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _is_foreign(request: Request) -> bool:
    """Whether a browser reports that a page of another origin sends the request; other programs report no origin.

    A link that the user follows is not foreign: the linking page cannot read the response.
    """
    headers = request.headers
    site = headers.get("sec-fetch-site")
    if site is None:
        # Browsers send Sec-Fetch-Site only to https and loopback addresses; elsewhere Origin has to do.
        origin = headers.get("origin")
        return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    if site in _OWN_SITE:
        return False
    # `same-site` is foreign, too: other ports of this machine belong to other programs and maybe other users.
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
    return not (is_link and request.method == "GET" and request.path in _LINKED)


def _secret(header: str) -> bytes | None:
    """The token in an `Authorization` header: that of `Bearer`, or the password of `Basic` with any user name."""
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
