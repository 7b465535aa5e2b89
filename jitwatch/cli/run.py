"""`jitwatch run`: an unmodified script with the agent on."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import runpy
import sys
import types
from types import TracebackType
from typing import Any

import jitwatch
from jitwatch import config, summary
from jitwatch.cli.options import add_agent_options, agent_options
from jitwatch.errors import JitwatchError

_DESCRIPTION = """Run a Python script, unchanged, with the agent on: same arguments, working directory, exit
code, signals and tracebacks as with `python`. If the agent cannot start, the script runs without it."""
_CANNOT_OPEN = 2


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "run",
        help="run a script with the agent on",
        description=_DESCRIPTION,
        usage="jitwatch run [options] (script.py | -m module) [args …]",
    )
    add_agent_options(parser)
    parser.add_argument("--strict", action="store_true", help="fail instead of running the script without the agent")
    parser.add_argument("--quiet", action="store_true", help="print nothing but what the script prints")
    parser.add_argument("-m", dest="module", metavar="module", help="run a module, as python -m does")
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="script.py args …", help="the script and its arguments"
    )
    parser.set_defaults(call=lambda options: _run(options, parser))


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if options.module is None and not options.rest:
        parser.error("which script? Give its path, or -m and a module")
    _start_agent(options)
    if options.module is not None:
        _run_module(options.module, options.rest)
        return 0
    return _run_script(options.rest[0], options.rest[1:])


def _start_agent(options: argparse.Namespace) -> None:
    if config.is_disabled():
        return
    wanted = agent_options(options)
    try:
        try:
            watch = jitwatch.install(**_with_default_log(wanted))
        except JitwatchError as error:
            if "event_log" in wanted or "event_log" not in str(error):
                raise
            _say(options, f"no event log: {error}")
            watch = jitwatch.install(**wanted)
    except JitwatchError as error:
        if options.strict:
            raise
        print(f"jitwatch: {error}; the script runs without jitwatch", file=sys.stderr)
        return
    log = watch.snapshot()["event_log"]
    _say(options, f"{watch.url}" + (f", events in {log}" if log else ""))
    if not options.quiet:
        # Registered after the agent's own, so it runs before it and sees the last compile.
        atexit.register(_say_summary, watch, options)


def _with_default_log(wanted: dict[str, Any]) -> dict[str, Any]:
    if "event_log" in wanted or os.environ.get("JITWATCH_EVENT_LOG"):
        return wanted
    return {**wanted, "event_log": os.curdir + os.sep}


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(f"jitwatch: {text}", file=sys.stderr, flush=True)


def _say_summary(watch: jitwatch.Watch, options: argparse.Namespace) -> None:
    _say(options, summary.one_line(watch.snapshot()))


def _run_script(path: str, arguments: list[str]) -> int:
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        sys.argv = [path, *arguments]
        _without_our_frames(lambda: runpy.run_path(path, run_name="__main__"))
        return 0
    try:
        with io.open_code(os.path.abspath(path)) as source:
            text = source.read()
    except OSError as error:
        print(f"jitwatch: can't open file {os.path.abspath(path)!r}: {error.strerror}", file=sys.stderr)
        return _CANNOT_OPEN
    sys.argv = [path, *arguments]
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    module.__dict__["__cached__"] = None
    # Replaced for good, as `python` does it: pickling and multiprocessing look things up here.
    sys.modules["__main__"] = module
    _without_our_frames(lambda: exec(compile(text, path, "exec"), module.__dict__))  # noqa: S102
    return 0


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    _set_first_path(os.getcwd())
    _without_our_frames(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def _set_first_path(folder: str) -> None:
    """Put the script's folder where `python` puts it: in place of that of the command `jitwatch`."""
    if getattr(sys.flags, "safe_path", False):
        return
    if sys.path and os.path.basename(sys.argv[0]) != "" and sys.path[0] == os.path.dirname(sys.executable):
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)


def _without_our_frames(call: Any) -> None:
    """Call, and let an exception go on to the interpreter, whose traceback then begins in the script."""
    try:
        call()
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook = _from_the_script(sys.excepthook)
        raise


def _from_the_script(hook: Any) -> Any:
    ours = (__file__, sys.modules["jitwatch.cli"].__file__, runpy.__file__, "<frozen runpy>")

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        script = trace
        last_of_ours = None
        while script is not None:
            if script.tb_frame.f_code.co_filename in ours:
                last_of_ours = script
            script = script.tb_next
        kept = last_of_ours.tb_next if last_of_ours is not None else trace
        hook(kind, error.with_traceback(kept), kept)

    return excepthook
