"""Out-of-memory errors: errors with XLA's status RESOURCE_EXHAUSTED, reported before they propagate to the job.

Hooked: the compile of a program, and `ExecuteReplicated.__call__` (the first call of a program, calls of AOT-compiled
and of effectful ones), which costs some tenths of a microsecond. An error of a call on the C++ fast path, and one of a
result that is waited for, runs no Python of JAX: `exceptions` sees these, on Python 3.12 and later all of them, on 3.11
the uncaught ones.

XLA's exceptions have the status as an attribute since JAX 0.9.1; before, and where a call from C++ turns them into
ValueErrors, the message begins with it. Until 0.6 an error of a result that is waited for says INTERNAL and contains
the allocator's message.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import callers

_STATUS = "RESOURCE_EXHAUSTED"
_ALLOCATOR = "Out of memory"
#: Characters of a message in which the status may start: some messages begin with their origin.
_MAX_PREFIX = 300
#: Frames between where XLA raises and the hooked functions.
_MAX_FRAMES = 20


class OnOutOfMemory(Protocol):
    """Receives out-of-memory errors, in the thread in which they were raised."""

    def __call__(self, error: BaseException, program: str, call_site: str | None) -> None:
        """Report an error with JAX's name of the running program, or an empty one.

        `call_site` is `file:line` of the user's code, None while that is on the stack.
        """


class OutOfMemoryWatch:
    """Checks errors of JAX and reports those that say that memory ran out; one error may pass several hooks.

    `site_of` returns the user's `file:line` in a traceback.
    """

    def __init__(self, on_error: OnOutOfMemory, site_of: Callable[[types.TracebackType | None], str | None]) -> None:
        self._on_error = on_error
        self._site_of = site_of
        self._kinds = _kinds()
        #: The attribute of the running object that has the program's name, by the hook's name in tracebacks.
        self._names: dict[str, str] = {}
        self._thread = threading.local()

    def install(self, patcher: Patcher) -> None:
        """Install the hooks, as far as this JAX has the functions."""
        for hook, attribute in ((compat.COMPILE, "_name"), (compat.EXECUTE, "name")):
            self._names[f"{hook.owner.partition(':')[2]}.{hook.attribute}"] = attribute
            patcher.observe(hook, Observer(failed=partial(self._failed, attribute), component="memory"))
        watch_raises(patcher, self._kinds, (_STATUS, _ALLOCATOR), self._raised)

    def check(self, error: BaseException, program: str = "", trace: types.TracebackType | None = None) -> None:
        """Report the error if it says that memory ran out; never raises, and does nothing inside a report."""
        try:
            if type(error) not in self._kinds or getattr(self._thread, "is_reporting", False):
                return
            self._thread.is_reporting = True
            try:
                if says_out_of_memory(error):
                    self._on_error(error, program, self._site_of(trace))
            finally:
                self._thread.is_reporting = False
        except Exception:
            guard.failed("memory")

    def _raised(self, error: BaseException, frame: types.FrameType, offset: int) -> None:
        if says_out_of_memory(error):
            self.check(error, self._program_at(frame), error.__traceback__)

    def _failed(self, attribute: str, state: Any, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.check(error, _name(state[0], attribute))

    def _program_at(self, frame: types.FrameType) -> str:
        """Return the program, if the error is about to pass one of the two hooks."""
        for one in callers(frame, _MAX_FRAMES):
            attribute = self._names.get(one.f_code.co_qualname)
            if attribute is not None:
                return _name(one.f_locals.get("self"), attribute)
        return ""


def _name(running: Any, attribute: str) -> str:
    name = getattr(running, attribute, "")
    return name if isinstance(name, str) else ""


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error of one of the checked classes says that memory ran out."""
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
    """Return XLA's error class, and the one into which calls from C++ turn a status."""
    xla = getattr(sys.modules.get("jax.errors"), "JaxRuntimeError", None)
    return (ValueError, xla) if isinstance(xla, type) else (ValueError,)
