"""`jitwatch top`: a live view of running jobs in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import select
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jitwatch import config
from jitwatch.errors import ConfigError

if TYPE_CHECKING:
    from ssl import SSLContext

    from jitwatch.top.client import Client

_DESCRIPTION = """Show what running jobs compile: the health of each job, the functions with the most lost seconds, the
newest recompiles with their causes, and advice. Without an address it shows the jobs on this machine, and new
ones as they start. It requests the state of each job once per interval.

keys:
  q                quit
  s                sort the functions by lost seconds, seconds, recompiles, compiles or name
  p                pause and resume
  tab, arrows      select one of several processes; with a single process, select the next part and scroll it
  page up, down    scroll by a page
  f, r, c          show only the functions, the recompiles or the advice; the same key shows all again"""
_EPILOG = """examples:
  jitwatch top                                  the jobs on this machine
  jitwatch top 10431 node7:10431                the job on port 10431, and one on another machine
  jitwatch top --once                           the current state as plain text, for a log or a pipe
  jitwatch top --json | jq '.processes[].health'
  JITWATCH_TOKEN=… jitwatch top https://node7:10431 --ca ca.pem"""
#: Width of plain text that goes into a pipe.
_PIPE_COLUMNS = 100
#: Paths of the endpoint that a user copies from a browser.
_PAGES = ("/api/v1/state", "/api/v1/events", "/metrics", "/healthz")
#: What no address has.
_INVALID = re.compile(r"[^\x21-\x7e]|[\"<>\\^`{|}]")


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "top",
        help="live view of running jobs in the terminal",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "urls",
        metavar="URL",
        nargs="*",
        help="port, host:port or http(s)://host:port of a job (default: all jobs on this machine)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=_interval, default=2.0, help="seconds between two requests (default: 2)"
    )
    parser.add_argument("--once", action="store_true", help="print the state once as plain text and exit")
    parser.add_argument("--json", action="store_true", help="print the state once as a JSON object and exit")
    parser.add_argument(
        "--token-file", metavar="F", type=Path, help="file with the bearer token of the jobs (default: JITWATCH_TOKEN)"
    )
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust for https (default: the system's)")
    parser.set_defaults(call=_top)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.2 to 3600, got {text}")
    return seconds


def _top(options: argparse.Namespace) -> int:
    # Imported here: the other commands have no use for it.
    from jitwatch.top.view import as_json, as_text

    client = _client(options)
    # A terminal that cannot show an arrow shows a question mark, and no traceback.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="replace")
    if not (options.once or options.json) and sys.stdout.isatty():
        return _live(client, options.interval)
    processes = client.once()
    try:
        if options.json:
            print(as_json(processes))
        elif processes:
            sys.stdout.write(as_text(processes, shutil.get_terminal_size((_PIPE_COLUMNS, 24)).columns))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe; at exit Python would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if not processes:
        print(f"jitwatch: {client.nothing_found}", file=sys.stderr)
    return int(not any(one.state for one in processes))


def _live(client: Client, interval_s: float) -> int:
    is_capable = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    if not (is_capable and sys.stdin.isatty() and sys.stderr.isatty()):
        return _print_again(client, interval_s)
    try:
        from jitwatch.top.app import live
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        raise ConfigError(
            f"the live view needs textual; run: {sys.executable} -m pip install textual, or use --once or --json"
        ) from None
    return live(client)


def _print_again(client: Client, interval_s: float) -> int:
    """Print the jobs one below the other, on a terminal that can do no more, until Ctrl-C or `q` and Enter."""
    from jitwatch.top.view import as_text

    with contextlib.suppress(KeyboardInterrupt):
        client.start()
        client.wait_for_all(1.0)
        while True:
            processes = client.processes()
            text = as_text(processes, shutil.get_terminal_size().columns) if processes else client.nothing_found
            print(text, flush=True)
            if not sys.stdin.isatty():
                time.sleep(interval_s)
            elif select.select([sys.stdin], [], [], interval_s)[0]:
                line = sys.stdin.readline()
                if not line or line.strip() == "q":
                    break
    client.end()
    return 0


def _client(options: argparse.Namespace) -> Client:
    from jitwatch.top.client import DEFAULT_PORT, LOCAL, PORTS, Client, Job, find

    settings, ca = config.load(), _trusted_by(options.ca)
    token_file = options.token_file or (None if settings.token else settings.token_file)
    token = _token_in(token_file) if token_file else settings.token
    # 0 is any free port, which nobody can search for.
    first = settings.port or DEFAULT_PORT
    return Client(
        [Job(url=url, token=token, ca=ca) for url in dict.fromkeys(map(_address_of, options.urls))],
        None if options.urls else partial(find, first, token=token, ca=ca),
        nothing_found=f"No job with jitwatch responds on this machine ({LOCAL}, ports {first} to "
        f"{min(first + PORTS - 1, 65535)}). Start one with: jitwatch run train.py, or name a port or an "
        "address: jitwatch top 9000 node7:10431",
        interval_s=options.interval,
    )


def _address_of(text: str) -> str:
    """The base URL of a job, as `http://127.0.0.1:10431`, from a port, `host:port` or a URL."""
    from jitwatch.top.client import DEFAULT_PORT, LOCAL

    def invalid(shown: str, why: object = "") -> ConfigError:
        reason = f" ({why})" if why else ""
        return ConfigError(f"expected a port, host:port or http(s)://host:port, got {shown[:100]!a}{reason}")

    has_scheme = "://" in text
    url = text if has_scheme else f"http://{LOCAL}:{text}" if text.isdecimal() else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid(text, error) from None
    if "@" in parts.netloc:
        raise invalid("***", "pass a token with --token-file or JITWATCH_TOKEN")
    is_odd = parts.query or parts.fragment or _INVALID.search(text)
    if parts.scheme not in ("http", "https") or not host or port == 0 or is_odd:
        raise invalid(text)
    if port is None and not has_scheme:
        port = DEFAULT_PORT
    path = parts.path.rstrip("/")
    for page in _PAGES:
        path = path.removesuffix(page)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{path}"


def _trusted_by(ca: str | None) -> SSLContext | None:
    """A context that trusts the certificates in this file and no others; None for the system's."""
    if ca is None:
        return None
    # Imported here: few jobs have a certificate.
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ca: {ca} cannot be used ({error}); name a PEM file with certificates") from None


def _token_in(path: str | os.PathLike[str]) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file: {path} cannot be read ({error}); name a file with the token") from None
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"--token-file: {path} has no token; expected one line of printable ASCII")
    return token
