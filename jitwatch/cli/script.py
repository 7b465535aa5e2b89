"""Runs a script as `python` does: the same arguments, `sys.path`, `__main__`, tracebacks and signals."""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import linecache
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Any

Job = Callable[[], None]
"""Runs a script to its end; its exceptions, `SystemExit` included, propagate to the caller."""


def prepared(kind: str, arguments: Sequence[str]) -> Job:
    """Prepare what `python kind arguments…` would run, without running any of it.

    Args:
        kind: Path of a script, a folder or a zip file; `-` for standard input, `-c` for code or `-m` for a module.
        arguments: The arguments that follow; for `-c` and `-m` the first is the code or the module's name.

    Raises:
        OSError: The script does not exist or cannot be read.
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


def _call_without_own_frames(call: Job) -> None:
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
