"""Who may ask: by which name the endpoint is called, from which page, and with which token."""

from __future__ import annotations

import hmac
import http.client
import socket
from collections.abc import Callable

import pytest

from jitwatch.server import access
from jitwatch.server.access import names_of_machine
from jitwatch.server.http import Request, Response, Server
from tests.serving import basic, get, status_of, talk
from tests.waiting import wait_until

TOKEN = "a-rather-secret-token"


HOSTS = [
    ("localhost", 200),
    ("LocalHost:8080", 200),
    ("127.0.0.1:10431", 200),
    ("[::1]:10431", 200),
    ("10.1.2.3", 200),
    ("evil.example", 421),
    ("evil.example:10431", 421),
    ("localhost.evil.example", 421),
    ("127.0.0.1.evil.example", 421),
    ("localhost@evil.example", 421),
    ("", 421),
]


def test_host_is_checked_on_loopback(serve: Callable[..., Server]) -> None:
    """A loopback port without a token refuses foreign names: DNS rebinding must not read it."""
    server = serve()
    assert HOSTS == [(host, get(server, Host=host)[0]) for host, _ in HOSTS]


def test_absolute_url_does_not_evade_the_host_check(serve: Callable[..., Server]) -> None:
    """The name in an absolute URL counts, whatever the Host header says."""
    raw = b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert 421 == status_of(talk(serve(), raw))


def test_refusals_are_not_stored_or_sniffed(serve: Callable[..., Server]) -> None:
    """What the server itself answers is current plain text."""
    headers = get(serve(), Host="evil.example")[1]
    assert ("no-store", "nosniff") == (headers["cache-control"], headers["x-content-type-options"])
    assert "text/plain; charset=utf-8" == headers["content-type"]


def test_host_is_free_with_a_token(serve: Callable[..., Server]) -> None:
    """With the token, the Host header may have any name."""
    assert 200 == get(serve(token=TOKEN), Host="node7.cluster", Authorization=f"Bearer {TOKEN}")[0]


AUTHORIZATIONS = [
    (None, 401),
    ("", 401),
    ("Bearer", 401),
    ("Bearer wrong", 401),
    (f"Basic {TOKEN}", 401),
    ("Basic", 401),
    ("Basic !", 401),
    (basic(f"me:{TOKEN}"), 200),
    (basic(f":{TOKEN}"), 200),
    (basic(f"me:{TOKEN}").replace("Basic", "basic "), 200),
    (basic(f"{TOKEN}:"), 401),
    (basic(TOKEN), 401),
    (basic(f"me:{TOKEN}x"), 401),
    (basic(f"me:x:{TOKEN}"), 401),
    (basic("me:"), 401),
    (f"Digest {TOKEN}", 401),
    (f"Bearer {TOKEN}x", 401),
    ("Bearer \xe9\xff", 401),
    (f"Bearer {TOKEN}", 200),
    (f"bearer  {TOKEN}", 200),
]


def test_token_is_required(serve: Callable[..., Server]) -> None:
    """Without the token, as a bearer's or as a password, every path is a 401."""
    server = serve(token=TOKEN)
    headers = [(header, {} if header is None else {"Authorization": header}) for header, _ in AUTHORIZATIONS]
    assert AUTHORIZATIONS == [(header, get(server, "/healthz", **given)[0]) for header, given in headers]


def test_refusal_offers_bearer_and_basic(serve: Callable[..., Server]) -> None:
    """A client learns of the bearer token, and a browser prompts for a password."""
    client = http.client.HTTPConnection("127.0.0.1", serve(token=TOKEN).port, timeout=5)
    client.request("GET", "/")
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    challenges = ['Bearer realm="jitwatch"', 'Basic realm="jitwatch", charset="UTF-8"']
    assert challenges == answer.headers.get_all("WWW-Authenticate")
    assert "'Authorization: Bearer <token>'" in text
    assert "the token as the password" in text


def test_token_with_a_colon_works_as_a_password(serve: Callable[..., Server]) -> None:
    """Only the first colon ends the user's name; other letters than ASCII are UTF-8."""
    server = serve(token="a:b:ü")
    assert [200, 401] == [get(server, Authorization=basic(given))[0] for given in ("me:a:b:ü", "me:b:ü")]


def test_token_is_compared_in_constant_time(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt, well-formed or not, is one comparison with the whole token."""
    compared: list[bytes] = []
    compare = hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    server = serve(token=TOKEN)
    for header in ("Bearer x", basic("me:y"), "Basic !", "Digest z"):
        get(server, Authorization=header)
    assert [b"x", b"y", b"", b""] == compared


def test_token_is_never_shown(serve: Callable[..., Server]) -> None:
    """The handler, the answers and the server's repr do not hold the token."""
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"")

    server = serve(handler, token=TOKEN)
    get(server, Authorization=f"Bearer {TOKEN}")
    assert "authorization" not in seen[0].headers
    refused = get(server, Authorization=f"Bearer {TOKEN}x")
    assert TOKEN not in repr(refused) + repr(server) + server.url


OWN_NAMES = [
    "127.0.0.1",
    "10.1.2.3:10431",
    "192.168.0.7",
    "[2001:db8::7]:10431",
    "localhost",
    socket.gethostname(),
    socket.gethostname().upper() + ":10431",
    "node7.cluster.example",
    "Node7.cluster.example.:10431",
]
FOREIGN_NAMES = [
    "evil.example",
    "evil.example:10431",
    f"{socket.gethostname()}.evil.example",
    "node7",
    "cluster.example",
    "10.1.2.3.evil.example",
    "10.1.2",
    "",
    "a@10.1.2.3",
]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_host_is_a_name_or_an_address_of_this_machine(serve: Callable[..., Server], host: str) -> None:
    """A page whose name is rebound to this address cannot read the endpoint; a scrape by address can."""
    server = serve(host=host)
    if host == "0.0.0.0":
        wait_until(lambda: get(server, Host="node7.cluster.example")[0] == 200, what="the name of the machine")
        assert [200] * len(OWN_NAMES) == [get(server, Host=name)[0] for name in OWN_NAMES]
    assert [421] * len(FOREIGN_NAMES) == [get(server, Host=name)[0] for name in FOREIGN_NAMES]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_allowed_hosts_are_names_and_patterns(serve: Callable[..., Server], host: str) -> None:
    """The name that a proxy uses is allowed, and no other."""
    server = serve(host=host, allowed_hosts=("Grafana.example.org", "*.train.example"))
    known = ["grafana.example.org", "GRAFANA.example.org.:80", "a.train.example", "a.b.train.example"]
    unknown = ["grafana.example.org.evil.example", "train.example", "xgrafana.example.org"]
    assert [200] * 4 + [421] * 3 == [get(server, Host=name)[0] for name in (*known, *unknown)]


def test_any_host_may_be_allowed(serve: Callable[..., Server]) -> None:
    """A single star allows every name."""
    server = serve(host="0.0.0.0", allowed_hosts=("*",))
    assert [200, 200] == [get(server, Host=name)[0] for name in ("evil.example", "")]


def test_refusal_of_a_host_names_the_option(serve: Callable[..., Server]) -> None:
    """For users whose proxy uses another name."""
    assert b"allowed_hosts (JITWATCH_ALLOWED_HOSTS)" in get(serve(), Host="proxy.example")[2]


def test_names_of_machine_survive_a_name_server_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that cannot be looked up are left out."""

    def fail(*_: object) -> object:
        raise socket.gaierror(-3, "temporary failure in name resolution")

    monkeypatch.setattr(access.socket, "gethostbyname_ex", fail)
    monkeypatch.setattr(access.socket, "getfqdn", lambda: "node7.example")
    assert {"node7.example"} == names_of_machine()
    monkeypatch.setattr(access.socket, "gethostbyname_ex", lambda name: (name, ["alias"], []))
    assert {socket.gethostname(), "alias", "node7.example"} == names_of_machine()


# --- what a browser says of the page that asks

LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1"}
SCRIPT = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
IMAGE = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
FRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}


def asked(server: Server, path: str, site: str | None, more: dict[str, str], method: str = "GET") -> int:
    headers = more | ({"Sec-Fetch-Site": site} if site else {})
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return status_of(talk(server, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{text}\r\n".encode()))


SITES = [
    # Programs, and whoever types the address or has it as a bookmark.
    (None, "/api/v1/state", {}, 200),
    ("none", "/", LINK, 200),
    ("none", "/api/v1/state", LINK, 200),
    # The page itself.
    ("same-origin", "/api/v1/live", SCRIPT, 200),
    ("same-origin", "/page/main.js", {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "script"}, 200),
    ("same-origin", "/api/v1/state", LINK, 200),
    # A link on a dashboard of Grafana, on this machine or elsewhere, and on the target list of Prometheus.
    ("cross-site", "/", LINK, 200),
    ("same-site", "/", LINK, 200),
    ("cross-site", "/metrics", LINK, 200),
    ("same-site", "/metrics", LINK, 200),
    ("cross-site", "/", {"Sec-Fetch-Mode": "navigate"}, 200),
    # Pages of other sites, and of other programs on this machine, which the browser calls the same site.
    ("cross-site", "/api/v1/state", SCRIPT, 403),
    ("cross-site", "/", SCRIPT, 403),
    ("cross-site", "/", IMAGE, 403),
    ("cross-site", "/", FRAME, 403),
    ("cross-site", "/page/main.js", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
    ("cross-site", "/api/v1/state", LINK, 403),
    ("cross-site", "/metrics", SCRIPT, 403),
    ("cross-site", "/", {}, 403),
    ("same-site", "/api/v1/state", SCRIPT, 403),
    ("same-site", "/", FRAME, 403),
    ("cross-site, same-origin", "/", SCRIPT, 403),
    ("something-new", "/", SCRIPT, 403),
    # Where a browser does not say so: an address of another machine without TLS.
    (None, "/api/v1/state", {"Origin": "https://evil.example"}, 403),
    (None, "/api/v1/state", {"Origin": "null"}, 403),
    (None, "/api/v1/state", {"Origin": "http://[::"}, 403),
    (None, "/api/v1/live", {"Origin": "http://localhost"}, 200),
]


def test_pages_of_other_sites_are_not_answered(serve: Callable[..., Server]) -> None:
    """They may link to the page, and nothing else; a token that the browser has kept does not change that."""
    credentials = {"Authorization": basic(f"me:{TOKEN}")}
    for server, kept in ((serve(), {}), (serve(token=TOKEN), credentials)):
        assert SITES == [(site, path, more, asked(server, path, site, more | kept)) for site, path, more, _ in SITES]


def test_page_of_another_site_causes_no_password_prompt(serve: Callable[..., Server]) -> None:
    """It is refused before the token is checked."""
    server = serve(token=TOKEN)
    assert [403, 401] == [asked(server, "/", site, IMAGE) for site in ("cross-site", "same-origin")]


def test_linked_form_is_refused(serve: Callable[..., Server]) -> None:
    """A form on another site that posts here is not a link."""
    assert 403 == asked(serve(), "/", "cross-site", LINK, method="POST")


def test_no_answer_lets_other_origins_read_it(serve: Callable[..., Server]) -> None:
    """No response has a CORS header."""
    server = serve(lambda _: Response(200, b"", headers=(("X-Own", "1"),)))
    for method in ("GET", "OPTIONS", "HEAD"):
        raw = f"{method} / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://grafana.example\r\n"
        for more in ("", "Access-Control-Request-Method: GET\r\n", "Sec-Fetch-Site: cross-site\r\n"):
            assert b"access-control" not in talk(server, f"{raw}{more}\r\n".encode()).lower()
