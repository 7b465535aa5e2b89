"""Sees that memory ran out: errors with XLA's status RESOURCE_EXHAUSTED, before they go on to the job.

Where Python comes by: the hand-over of a program to XLA (compiling), and `ExecuteReplicated.__call__`
(the first call of a program, calls of AOT-compiled and of effectful ones). An error of a call from C++,
and one of a result that is waited for, runs no Python of JAX's: these are seen by `raises`, on Python
3.12 and later all of them, on 3.11 those that nobody catches. A call that is served from C++ costs
nothing more; one that comes by pays some tenths of a microsecond.

XLA's exceptions have the status as an attribute since JAX 0.9.1; before, and where a call from C++ turns
them into ValueErrors, the text begins with it. Until 0.6 an error of a result that is waited for says
INTERNAL and keeps the allocator's own words.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.instrument import Observer
from jitwatch.jaxhooks.patcher import Patcher

_STATUS = "RESOURCE_EXHAUSTED"
_ALLOCATOR = "Out of memory"
#: How far into the text the status may stand: some errors say first where they come from.
_MAX_PREFIX = 300


def _qualname(hook: compat.Hook) -> str:
    return f"{hook.owner.partition(':')[2]}.{hook.attribute}"


#: The attribute with the program's name, by JAX's method.
_NAMES = {_qualname(compat.COMPILE): "_name", _qualname(compat.EXECUTE): "name"}
#: Frames between where XLA raises and our places.
_MAX_FRAMES = 20


class OnOutOfMemory(Protocol):
    """Who wants to know, in the thread that the error was raised in."""

    def __call__(self, error: BaseException, program: str, call_site: str | None) -> None:
        """Memory ran out.

        Args:
            error: Says so.
            program: JAX's name for what was running, or empty.
            call_site: `file:line` of the user's code, unless it is still on the stack.
        """


class OutOfMemoryWatch:
    """Looks at errors of JAX and tells those that say that memory ran out.

    Args:
        on_error: Told of each; one error may come by at several places.
        site_of: Finds the user's line in a traceback.
    """

    def __init__(self, on_error: OnOutOfMemory, site_of: Callable[[types.TracebackType | None], str | None]) -> None:
        self._on_error = on_error
        self._site_of = site_of
        self._kinds = _kinds()
        self._thread = threading.local()

    def install(self, patcher: Patcher) -> None:
        """Watch the places where Python comes by, as far as this JAX has them."""
        for hook, name in ((compat.COMPILE, "_name"), (compat.EXECUTE, "name")):
            patcher.look(hook, _Running(self, name))
        watch_raises(patcher, self._kinds, self._raised)

    def look(self, error: BaseException, program: str = "", trace: types.TracebackType | None = None) -> None:
        """Tell of the error if memory ran out; never raises, and does nothing while it tells already."""
        try:
            if type(error) not in self._kinds or getattr(self._thread, "is_telling", False):
                return
            self._thread.is_telling = True
            try:
                if says_out_of_memory(error):
                    self._on_error(error, program, self._site_of(trace))
            finally:
                self._thread.is_telling = False
        except Exception:
            guard.failed("memory")

    def _raised(self, error: BaseException, frame: types.FrameType, offset: int) -> None:
        if says_out_of_memory(error):
            self.look(error, self._program_at(frame), error.__traceback__)

    def _program_at(self, frame: types.FrameType | None) -> str:
        """The program, if the error comes out of one of our two places and has not come by there yet."""
        for _ in range(_MAX_FRAMES):
            if frame is None:
                break
            name_of = _NAMES.get(frame.f_code.co_qualname)
            if name_of is not None:
                return _name(frame.f_locals.get("self"), name_of)
            frame = frame.f_back
        return ""


class _Running(Observer):
    """Looks at the errors of a program that is compiled or run."""

    component = "memory"
    only_errors = True

    def __init__(self, watch: OutOfMemoryWatch, name_of: str) -> None:
        self._watch = watch
        self._name_of = name_of

    def failed(self, state: Any, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._watch.look(error, _name(state[0], self._name_of))


def _name(running: Any, name_of: str) -> str:
    name = getattr(running, name_of, "")
    return name if isinstance(name, str) else ""


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error of one of the watched classes says so; other errors' texts are left alone."""
    if getattr(error, "error_code_string", None) == _STATUS:
        return True
    text = error.args[0] if error.args else None
    if not isinstance(text, str):
        return False
    start = text[:_MAX_PREFIX]
    if isinstance(error, ValueError):
        return start.startswith(_STATUS)
    return _STATUS in start or _ALLOCATOR in start


def _kinds() -> tuple[type[BaseException], ...]:
    """XLA's error, and what calls from C++ turn a status into."""
    xla = getattr(sys.modules.get("jax.errors"), "JaxRuntimeError", None)
    return (ValueError, xla) if isinstance(xla, type) else (ValueError,)
