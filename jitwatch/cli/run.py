"""`jitwatch run`: an unmodified script with the agent on."""

from __future__ import annotations

import argparse
import atexit
import builtins
import importlib.machinery
import io
import os
import pkgutil
import runpy
import shlex
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import jitwatch
from jitwatch import config, guard, summary
from jitwatch.cli.options import add_agent_options, agent_options
from jitwatch.diagnosis import words
from jitwatch.errors import JitwatchError

_USAGE = "jitwatch run [options] (script.py | directory | -m module) [args …]"
_DESCRIPTION = """Run a Python script, unchanged, with the agent on: same arguments, working directory, exit
code, signals and tracebacks as with `python`. If the agent cannot start, the script runs without it.
Options come before the script; whatever follows it belongs to the script."""
_CANNOT_OPEN = 2
_FLAGS = frozenset({"-h", "--help", "--strict", "--quiet"})


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "run", help="run a script with the agent on", description=_DESCRIPTION, usage=_USAGE, allow_abbrev=False
    )
    add_agent_options(parser)
    parser.add_argument("--strict", action="store_true", help="fail instead of running the script without the agent")
    parser.add_argument("--quiet", action="store_true", help="say nothing, unless the agent cannot start")
    parser.set_defaults(call=lambda options: _run(options, parser))


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part our own options from the script (or `-m module`) and its arguments.

    argparse cannot do it: it takes `--lr` of `-m train --lr 3e-4` for an option of ours.
    """
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            return list(arguments[:position]), list(arguments[position + 1 :])
        if not argument.startswith("-") or argument.startswith("-m"):
            break
        has_value_apart = argument.startswith("--") and "=" not in argument and argument not in _FLAGS
        position += 2 if has_value_apart else 1
    return list(arguments[:position]), list(arguments[position:])


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    job = list(getattr(options, "job", ()))
    if job and job[0].startswith("-m"):
        # As for python, `-mtrain` is `-m train`.
        job[:1] = ["-m", job[0][2:]] if job[0] != "-m" else ["-m"]
    if not job or job == ["-m"]:
        parser.error("which script? Give its path, or -m and a module")
    if job[0] == "-m":
        _start_agent(options)
        _run_module(job[1], job[2:])
        return 0
    return _run_path(job[0], job[1:], options)


# The agent


def _start_agent(options: argparse.Namespace) -> None:
    if config.is_disabled():
        return
    try:
        watch = _install(options)
    except Exception as error:
        # Else a defect of ours, or a warning that the job's filters made an exception.
        is_expected = isinstance(error, JitwatchError)
        reason = str(error) if is_expected else f"the agent failed to start ({type(error).__name__}: {error})"
        if options.strict or config.is_strict():
            _say(reason)
            sys.exit(1)
        _say(f"{reason}; the script runs without jitwatch")
        return
    if not watch.is_active:
        return  # the log has said why
    if not options.quiet:
        log = watch.snapshot().get("event_log")
        _say((watch.url or "no endpoint") + (f", events in {log}" if log else ""))
        # Registered after the agent's own, so it runs before it and sees the last compile.
        atexit.register(_say_summary, watch, os.getpid())


def _install(options: argparse.Namespace) -> jitwatch.Watch:
    wanted = agent_options(options)
    if options.quiet and not os.environ.get("JITWATCH_LOG_LEVEL"):
        wanted["log_level"] = "error"
    if "event_log" in wanted or os.environ.get("JITWATCH_EVENT_LOG"):
        return jitwatch.install(**wanted)
    try:
        # Absolute: the script may change its working directory before the log is rotated.
        return jitwatch.install(**wanted, event_log=os.getcwd() + os.sep)
    except JitwatchError as error:
        if options.strict or config.is_strict() or "event_log" not in str(error):
            raise
        watch = jitwatch.install(**wanted)
        _say(f"no event log: {error}")
        return watch


def _say(text: str) -> None:
    # Only stderr, whatever its state: a job's stdout may be parsed, and print(file=None) goes there.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"jitwatch: {text}", file=sys.stderr, flush=True)


def _say_summary(watch: jitwatch.Watch, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that leaves by sys.exit() comes by here as well
        with guard.guarded("exit"):
            state = watch.snapshot()
            advice = summary.advice(state, width=words.columns(sys.stderr) - len("jitwatch: "))
            for paragraph in (*advice, summary.one_line(state)):
                _say(paragraph)
            if state["event_log"] and (advice or state["totals"]["failures"]):
                _say(f"each compile: jitwatch report {shlex.quote(state['event_log'])}")


# The script, as `python` runs it


def _run_path(path: str, arguments: list[str], options: argparse.Namespace) -> int:
    if pkgutil.get_importer(path) is not None:  # a folder or a zip file, with a __main__ in it
        _start_agent(options)
        sys.argv = [path, *arguments]
        _set_first_path(os.path.abspath(path), is_forced=True)
        _new_main()
        _without_our_frames(lambda: _run_as_main("__main__", False))
        return 0
    file = os.path.abspath(path)
    try:
        with io.open_code(file) as source:
            text = source.read()
    except OSError as error:
        _say(f"can't open file {file!r}: [Errno {error.errno}] {error.strerror}{_hint(path)}")
        return _CANNOT_OPEN
    _start_agent(options)
    sys.argv = [path, *arguments]
    _set_first_path(os.path.dirname(os.path.realpath(file)))
    main = _new_main()
    main.__file__ = file
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", file)
    vars(main)["__cached__"] = None
    # Without dont_inherit the script's annotations would be strings, as they are in this file.
    _without_our_frames(lambda: exec(compile(text, file, "exec", dont_inherit=True), vars(main)))  # noqa: S102
    return 0


def _hint(path: str) -> str:
    """How to run what is no file here, but a command of this environment or a module."""
    if os.sep in path:
        return ""
    # Imported here: `--help` has no use for it.
    import shutil

    command = shutil.which(path)
    return f"; for the command of that name: jitwatch run {command}" if command else ""


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv = ["-m", *arguments]
    _set_first_path(os.getcwd())
    _new_main()
    _without_our_frames(lambda: _run_as_main(name, True))


def _run_as_main(name: str, has_new_argv0: bool) -> None:
    # What `python -m` itself calls. The public run_module() takes __main__ away again at the end,
    # under threads and exit handlers that still use it.
    run: Callable[[str, bool], Any] = runpy._run_module_as_main  # type: ignore[attr-defined]
    run(name, has_new_argv0)


def _new_main() -> types.ModuleType:
    """An empty `__main__`, put in place for good: pickling and multiprocessing look things up there."""
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    return main


def _set_first_path(folder: str, *, is_forced: bool = False) -> None:
    """Put the script's folder where `python` puts it: in place of the one that it put there for us."""
    if not sys.flags.safe_path:
        sys.path[:1] = [folder]
    elif is_forced:
        sys.path.insert(0, folder)


def _without_our_frames(call: Callable[[], Any]) -> None:
    """Call, and let an exception go on to the interpreter, whose traceback then begins in the script."""
    try:
        call()
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook = _beginning_at(trace, error, sys.excepthook)
        raise


def _beginning_at(start: TracebackType | None, error: BaseException, hook: Callable[..., Any]) -> Callable[..., None]:
    def excepthook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        if value is error:
            trace = start
        hook(kind, value.with_traceback(trace), trace)

    return excepthook
