"""`jitwatch top`: a live view of running jobs in the terminal."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitwatch import config
from jitwatch.errors import ConfigError

if TYPE_CHECKING:
    from jitwatch.top.jobs import Wanted

_DESCRIPTION = """Show what running jobs compile: how healthy each is, the functions that cost most, the newest
recompiles with their causes, and what to change. Without an address it shows the jobs of this machine, and new
ones as they start. Keys: q quits, s changes the order of the functions, p pauses, tab and the arrows choose a
process. A job is asked for its state once an interval, and for nothing else."""
_EPILOG = """examples:
  jitwatch top                                  the jobs of this machine
  jitwatch top 10431 node7:10431                the one on port 10431, and one on another machine
  jitwatch top --once                           one picture as plain text, for a log or a pipe
  jitwatch top --json | jq '.processes[].health'
  JITWATCH_TOKEN=… jitwatch top https://node7:10431 --ca ca.pem"""
#: Size of a picture that goes into a pipe.
_PIPE_COLUMNS, _PIPE_ROWS = 100, 60


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
        help="port, host:port or http(s)://host:port of a job (default: look for them)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=_interval, default=2.0, help="seconds between two questions (default: 2)"
    )
    parser.add_argument("--once", action="store_true", help="print one picture as plain text and end")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object and end")
    parser.add_argument(
        "--token-file", metavar="F", type=Path, help="file with the bearer token of the jobs (or JITWATCH_TOKEN)"
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
    from jitwatch.top.jobs import nothing_found
    from jitwatch.top.loop import live, once
    from jitwatch.top.plain import as_json

    wanted = _wanted(options)
    # A terminal that cannot show an arrow shows a question mark, and no traceback.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="replace")
    if not (options.once or options.json) and sys.stdout.isatty():
        live(wanted, options.interval)
        return 0
    processes = once(wanted).processes()
    try:
        if options.json:
            print(as_json(processes))
        elif processes:
            _print(processes)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough; at exit Python would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if not processes:
        print(f"jitwatch: {nothing_found(wanted)}", file=sys.stderr)
    return int(not any(one.figures for one in processes))


def _print(processes: Any) -> None:
    from jitwatch.top.frame import Frame
    from jitwatch.top.plain import as_text

    columns = shutil.get_terminal_size((_PIPE_COLUMNS, _PIPE_ROWS)).columns
    sys.stdout.write(as_text(Frame(processes=processes), columns, _PIPE_ROWS))


def _wanted(options: argparse.Namespace) -> Wanted:
    from jitwatch.top.addresses import DEFAULT_PORT, address_of
    from jitwatch.top.jobs import Wanted, trusting

    settings = config.load()
    urls = tuple(dict.fromkeys(address_of(url) for url in options.urls))
    token_file = options.token_file or (None if settings.token else settings.token_file)
    return Wanted(
        urls=urls,
        # 0 is any port at all, where nobody can look.
        base_port=settings.port or DEFAULT_PORT,
        token=_token_in(token_file) if token_file else settings.token,
        ca=trusting(options.ca),
    )


def _token_in(path: str | os.PathLike[str]) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file: {path} cannot be read ({error}); name a file that holds the token") from None
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"--token-file: {path} holds no token; expected one line of printable ASCII")
    return token
