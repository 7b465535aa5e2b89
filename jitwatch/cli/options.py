"""Options that `run` and `demo` share with `install()`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from jitwatch import config


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the endpoint and the event log; each also has a variable `JITWATCH_<NAME>`."""
    group = parser.add_argument_group("agent", "each is also a variable JITWATCH_<NAME>; the option wins")
    group.add_argument("--host", type=_checked("host"), help="address to listen on (default: 127.0.0.1)")
    group.add_argument(
        "--port",
        type=_checked("port"),
        help="first port to try, 0 for any free one (default: 10431, plus the local rank)",
    )
    group.add_argument(
        "--allowed-hosts",
        metavar="NAMES",
        type=_checked("allowed_hosts"),
        help="further names, separated by commas, by which the endpoint may be called, as by a proxy: "
        "'*.example.org', or * for any",
    )
    group.add_argument(
        "--event-log", metavar="PATH", type=_checked("event_log"), help="file or folder of the event log"
    )
    group.add_argument(
        "--run",
        metavar="NAME",
        type=_checked("run"),
        help="name of the run (default: the scheduler's job id, or time and host)",
    )
    group.add_argument("--detail", choices=("full", "summary"), help="summary leaves out every series by function")


def _checked(name: str) -> Callable[[str], Any]:
    """A value of the command line, which is refused here as `install()` would refuse it."""

    def parse(text: str) -> Any:
        try:
            return config.checked(name, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {error}, got {text!r}") from None

    return parse


def agent_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `install()` that were given."""
    names = ("host", "port", "allowed_hosts", "event_log", "run", "detail", "strict")
    return {name: value for name in names if (value := getattr(options, name, None)) is not None and value is not False}
