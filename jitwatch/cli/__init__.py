"""The command `jitwatch`: one file per subcommand, each with `add_to(parsers)` and a function that runs it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from jitwatch import autoinstall
from jitwatch._version import __version__
from jitwatch.cli import activate, completion, dashboards, demo, diff, doctor, report, run, top
from jitwatch.cli.options import HelpFormatter, drop_output, print_error
from jitwatch.errors import JitwatchError

_DESCRIPTION = "Monitor the compiles of a JAX job: how often, for how long, which function, and why."
_EPILOG = """examples:
  jitwatch demo                        train a small model and watch it compile
  jitwatch run train.py --lr 3e-4      run an unmodified script with the agent
  jitwatch top                         watch the jobs on this machine in the terminal
  jitwatch report jitwatch-r1.jsonl    summarize recompiles, their causes and lost time from an event log
  jitwatch diff old.mlir new.mlir      show what differs between two lowered programs
  jitwatch doctor                      check whether jitwatch works in this environment
  jitwatch dashboards stack            write Grafana dashboards, alerts and a docker-compose.yml to 'stack'

See 'jitwatch COMMAND --help' for the options of a command."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="jitwatch", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=HelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"jitwatch {__version__}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (run, demo, top, report, diff, doctor, dashboards, activate, completion):
        command.add_to(parsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if sys.platform == "win32":
        print_error("Windows is not supported: use Linux, WSL or a container")
        return 1
    # `run` and `demo` install the agent themselves, and the other commands do not need it.
    autoinstall.cancel()
    parser = build_parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace()
    if given[:1] == ["run"]:
        own, options.job = run.split(given[1:])
        given = ["run", *own]
    _, unknown = parser.parse_known_args(given, options)
    if unknown:
        name = f"jitwatch {given[0]}"
        after = "; options of the script follow its path" if given[0] == "run" else ""
        parser.error(f"{name} has no option {unknown[0]}{after} (see {name} --help)")
    if not hasattr(options, "call"):
        parser.print_help()
        return 2
    try:
        code: int = options.call(options)
    except (JitwatchError, KeyboardInterrupt, BrokenPipeError) as error:
        if hasattr(options, "job"):  # raised by the script, whose traceback is shown as without jitwatch
            raise
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        if isinstance(error, BrokenPipeError):
            drop_output()
        else:
            print_error(str(error))
        return 1
    return code
