"""`jitwatch run`: runs an unmodified script with the agent."""

from __future__ import annotations

import argparse
import atexit
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jitwatch
from jitwatch import config, guard
from jitwatch.cli import script
from jitwatch.cli.options import SWITCHES, add_agent_options, add_command, agent_options, print_error
from jitwatch.errors import JitwatchError
from jitwatch.model.events import OutOfMemory
from jitwatch.render import formats, persistent_cache, summary
from jitwatch.render.health import out_of_memory

_USAGE = "jitwatch run [options] (script.py | directory | - | -c code | -m module) [args …]"
_DESCRIPTION = """Run an unmodified Python script with the agent, with the same arguments, working directory, exit code,
signals and tracebacks as with `python`. An event log is written to the working directory, unless --event-log or
JITWATCH_EVENT_LOG says otherwise. If the agent cannot start, the script runs without it. Options of jitwatch precede
the script; all that follows is passed to the script."""
#: Options of python after which everything is passed to the job.
_KINDS = ("-c", "-m")
_EXIT_CANNOT_OPEN = 2
_SWITCHES = SWITCHES | {"-h", "--help", "--quiet"}


def add_to(parsers: Any) -> None:
    """Register the command."""
    text = "run an unmodified script with the agent"
    parser = add_command(
        parsers, "run", lambda options: _run(options, parser), text, _DESCRIPTION, usage=_USAGE, allow_abbrev=False
    )
    add_agent_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing unless the agent cannot start")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the options of jitwatch from the script (or `-`, `-c code`, `-m module`) and its arguments."""
    # argparse cannot: in `-m train --lr 3e-4` it takes `--lr` for an option of jitwatch.
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            return list(arguments[:position]), list(arguments[position + 1 :])
        if not argument.startswith("-") or argument == "-" or argument.startswith(_KINDS):
            break
        has_separate_value = argument.startswith("--") and "=" not in argument and argument not in _SWITCHES
        position += 2 if has_separate_value else 1
    return list(arguments[:position]), list(arguments[position:])


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    kind, *arguments = getattr(options, "job", None) or [""]
    if kind.startswith(_KINDS) and len(kind) > len(_KINDS[0]):
        # As with python, `-mtrain` is `-m train`.
        kind, arguments = kind[:2], [kind[2:], *arguments]
    if not kind or (kind in _KINDS and not arguments):
        parser.error("expected a script: its path, - for standard input, -c CODE or -m MODULE")
    try:
        job = script.prepared(kind, arguments)
    except OSError as error:
        path = os.path.abspath(kind)
        print_error(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}{_hint(kind)}")
        return _EXIT_CANNOT_OPEN
    _start_agent(options)
    job()
    return 0


def _hint(path: str) -> str:
    """How to run an argument that is not a file but a command of this environment."""
    # Lazy: rarely needed.
    import shutil

    command = None if os.sep in path else shutil.which(path)
    return f"; for the command of that name: jitwatch run {command}" if command else ""


# The agent


def _start_agent(options: argparse.Namespace) -> None:
    if config.is_disabled():
        return
    try:
        watch = _install(options)
    except Exception as error:
        # Otherwise a defect, or a warning that the job's warning filters turned into an exception.
        is_expected = isinstance(error, JitwatchError)
        reason = str(error) if is_expected else f"the agent failed to start ({type(error).__name__}: {error})"
        if options.strict or config.is_strict():
            print_error(reason)
            sys.exit(1)
        print_error(f"{reason}; the script runs without jitwatch")
        return
    if not watch.is_active:
        return  # the reason was logged
    if not options.quiet:
        log = watch.snapshot().get("event_log")
        print_error((watch.url or "no endpoint") + (f", event log {log}" if log else ""))
        # Registered after the handler of the agent, and so run before it: the summary has the last compile.
        atexit.register(_print_summary, watch, os.getpid())


def _install(options: argparse.Namespace) -> jitwatch.Watch:
    arguments = agent_options(options)
    if options.quiet and not os.environ.get("JITWATCH_LOG_LEVEL"):
        arguments["log_level"] = "error"
    if "event_log" in arguments or os.environ.get("JITWATCH_EVENT_LOG"):
        return jitwatch.install(**arguments)
    try:
        # Absolute: the script may change its working directory before the log is rotated.
        return jitwatch.install(**arguments, event_log=os.getcwd() + os.sep)
    except JitwatchError as error:
        if options.strict or config.is_strict() or "event_log" not in str(error):
            raise
        watch = jitwatch.install(**arguments)
        print_error(f"no event log: {error}")
        return watch


def _print_summary(watch: jitwatch.Watch, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child that exits by sys.exit()
        with guard.guarded("exit"):
            state = watch.snapshot()
            width = formats.columns(sys.stderr) - len("jitwatch: ")
            problems = []
            for one in [record for record in watch.events() if record["event"] == OutOfMemory.kind][-1:]:
                age_s = state["time"] - datetime.fromisoformat(one["timestamp"]).timestamp()
                problems.append(formats.paragraph(out_of_memory(one, age_s), width))
            problems += summary.advice(state, width=width)
            kept = formats.paragraph(" ".join(persistent_cache.sentences(state["persistent_cache"])), width)
            for paragraph in filter(None, (*problems, kept, summary.one_line(state))):
                print_error(paragraph)
            if state["event_log"] and (problems or state["totals"]["failures"]):
                print_error(f"for details: jitwatch report {shlex.quote(state['event_log'])}")
