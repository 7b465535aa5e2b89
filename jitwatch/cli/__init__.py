"""The command `jitwatch`: one file a command, each with `add_to(parsers)` and a function that runs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from jitwatch import autoinstall
from jitwatch._version import __version__
from jitwatch.cli import activate, completion, dashboards, demo, doctor, report, run, top
from jitwatch.errors import JitwatchError
from jitwatch.model.cleaning import clean_lines

_DESCRIPTION = "Watch what a JAX training job compiles: how often, for how long, and where."
_EPILOG = """examples:
  jitwatch demo                        train a small model and watch it compile
  jitwatch run train.py --lr 3e-4      run your script, unchanged, with the agent on
  jitwatch top                         watch the jobs of this machine, live in the terminal
  jitwatch report jitwatch-r1.jsonl    what it compiled again, why, at what cost, and what to change
  jitwatch doctor                      what works on this machine, and why not
  jitwatch dashboards stack            Grafana boards, alerts and a docker-compose.yml, in the folder 'stack'"""


def parser_of_all() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="jitwatch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jitwatch {__version__}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (run, demo, top, report, doctor, dashboards, activate, completion):
        command.add_to(parsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Of the commands, `run` and `demo` install the agent themselves, and the others want none.
    autoinstall.cancel()
    parser = parser_of_all()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace()
    if given[:1] == ["run"]:
        own, options.job = run.split(given[1:])
        given = ["run", *own]
    _, unknown = parser.parse_known_args(given, options)
    if unknown:
        name = f"jitwatch {given[0]}"
        after = "; options of the script go after its path" if given[0] == "run" else ""
        parser.error(f"{name} has no option {unknown[0]}{after} (see {name} --help)")
    if not hasattr(options, "call"):
        parser.print_help()
        return 2
    try:
        code: int = options.call(options)
    except JitwatchError as error:
        if hasattr(options, "job"):  # the script's own, whose traceback is wanted
            raise
        print(f"jitwatch: {clean_lines(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if hasattr(options, "job"):
            raise
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if hasattr(options, "job"):
            raise
        # The reader has seen enough (`| head`). The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
