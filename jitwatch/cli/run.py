"""`jitwatch run`: runs an unmodified script with the agent."""

from __future__ import annotations

import argparse
import atexit
import builtins
import importlib.machinery
import io
import linecache
import os
import pkgutil
import runpy
import shlex
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from types import CodeType, TracebackType
from typing import Any

import jitwatch
from jitwatch import config, guard
from jitwatch.cli.options import SWITCHES, add_agent_options, add_command, agent_options, print_error
from jitwatch.errors import JitwatchError
from jitwatch.model.events import OutOfMemory
from jitwatch.render import formats, persistent_cache, summary
from jitwatch.render.health import out_of_memory

_USAGE = "jitwatch run [options] (script.py | directory | - | -c code | -m module) [args …]"
_DESCRIPTION = """Run an unmodified Python script with the agent, with the same arguments, working directory, exit code,
signals and tracebacks as with `python`. An event log is written to the working directory, unless --event-log or
JITWATCH_EVENT_LOG is set. If the agent cannot start, the script runs without it. Options of jitwatch precede
the script; all arguments that follow are passed to the script."""
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
        job = prepared(kind, arguments)
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


# The script, run as `python` does: the same arguments, `sys.path`, `__main__`, tracebacks and signals


def prepared(kind: str, arguments: Sequence[str]) -> Callable[[], None]:
    """Prepare what `python kind arguments…` would run, without running any of it; raises OSError if it is not there.

    Exceptions of the script, `SystemExit` included, propagate to the caller.
    """
    if kind == "-m":
        return lambda: _run_module(arguments[0], arguments[1:])
    if kind == "-c":
        return lambda: _run_command(arguments[0], arguments[1:])
    if kind == "-":
        return lambda: _run_stdin(arguments)
    if pkgutil.get_importer(kind) is not None:  # a folder or a zip file, with a __main__ in it
        return lambda: _run_folder(kind, arguments)
    with io.open_code(os.path.abspath(kind)) as source:
        text = source.read()
    return lambda: _run_file(kind, text, arguments)


def _run_file(path: str, text: bytes, arguments: Sequence[str]) -> None:
    file = os.path.abspath(path)
    main = _begin([path, *arguments], os.path.dirname(os.path.realpath(file)))
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", file)
    _run_text(text, file, main)


def _run_stdin(arguments: Sequence[str]) -> None:
    main = _begin(["-", *arguments], "")
    if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
        _call_without_own_frames(lambda: _interact(main))
        return
    text = b""
    # Read to its end and left open, as python does; a closed stdin is an empty program.
    with suppress(OSError), io.FileIO(0, closefd=False) as source:
        text = source.readall()
    _run_text(text, "<stdin>", main)


def _run_text(text: bytes, name: str, main: types.ModuleType) -> None:
    main.__file__ = name
    vars(main)["__cached__"] = None
    _call_without_own_frames(lambda: exec(_compiled(text, name), vars(main)))  # noqa: S102
    _forget_file()


def _run_command(text: str, arguments: Sequence[str]) -> None:
    main = _begin(["-c", *arguments], "")

    def run() -> None:
        nonlocal text
        if sys.version_info >= (3, 14):
            # Lazy: only `-c` needs it.
            import textwrap

            text = textwrap.dedent(text)
        # Bytes: an undecodable byte of the command line is the same error as with python.
        code = _compiled(os.fsencode(f"{text}\n"), "<string>")
        # Python ≥ 3.13 registers the lines for tracebacks; its first patch releases do so by file name.
        if hasattr(linecache, "_register_code"):
            key = code if hasattr(linecache, "_interactive_cache") else "<string>"
            linecache._register_code(key, text, "<string>")
        exec(code, vars(main))  # noqa: S102

    _call_without_own_frames(run)


def _run_module(name: str, arguments: Sequence[str]) -> None:
    _begin(["-m", *arguments], os.getcwd())
    _call_without_own_frames(lambda: _run_as_main(name, True))


def _run_folder(path: str, arguments: Sequence[str]) -> None:
    _begin([path, *arguments], os.path.abspath(path), is_forced=True)
    _call_without_own_frames(lambda: _run_as_main("__main__", False))


def _run_as_main(name: str, has_new_argv0: bool) -> None:
    # What `python -m` itself calls. The public run_module() removes __main__ at the end, although threads and
    # exit handlers may still use it.
    run: Callable[[str, bool], Any] = runpy._run_module_as_main  # type: ignore[attr-defined]
    run(name, has_new_argv0)


def _compiled(text: bytes, name: str) -> CodeType:
    # Without dont_inherit, the future import of this file would apply to the script.
    return compile(text, name, "exec", dont_inherit=True)


def _interact(main: types.ModuleType) -> None:
    """Read and run one statement after the other."""
    # Lazy: few jobs are interactive.
    import code

    with suppress(ImportError):
        import readline  # noqa: F401 - importing it adds a history to input()
    code.interact(local=vars(main), exitmsg="")


def _begin(argv: list[str], folder: str, *, is_forced: bool = False) -> types.ModuleType:
    """Set the arguments, put the script's folder in place of that of the `jitwatch` command, and make a `__main__`.

    It replaces the old one for good: pickling and multiprocessing look names up there.
    """
    sys.argv = argv
    if not sys.flags.safe_path:
        sys.path[:1] = [folder]
    elif is_forced:
        sys.path.insert(0, folder)
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={}, __loader__=importlib.machinery.BuiltinImporter)
    sys.modules["__main__"] = main
    return main


def _forget_file() -> None:
    """Remove what python removes when a script ends, unless by `SystemExit`; visible under `python -i`."""
    for name in ("__file__", "__cached__"):
        vars(sys.modules["__main__"]).pop(name, None)


def _call_without_own_frames(call: Callable[[], None]) -> None:
    """Call a function; the traceback that the interpreter prints for an exception begins in the script."""
    try:
        call()
    except BaseException as error:
        if isinstance(error, SystemExit) and not (sys.flags.inspect or os.environ.get("PYTHONINSPECT")):
            raise  # it is not printed
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook = _excepthook_from(trace, error, sys.excepthook)
        raise


def _excepthook_from(
    start: TracebackType | None, error: BaseException, hook: Callable[..., Any]
) -> Callable[..., None]:
    def excepthook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        if value is error:
            trace = start
            # For a post-mortem debugger, as under `python -i`.
            sys.last_traceback = start
        hook(kind, value.with_traceback(trace), trace)
        if value is error and not getattr(sys.modules["__main__"], "__spec__", None):
            _forget_file()

    return excepthook
