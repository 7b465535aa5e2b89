"""Sees that memory ran out: errors with XLA's status RESOURCE_EXHAUSTED, before they go on to the job.

Where Python comes by: the hand-over of a program to XLA (compiling), and `ExecuteReplicated.__call__`
(the first call of a program, calls of AOT-compiled and of effectful ones). An error of a call from C++,
and one of a result that is waited for, runs no Python of JAX's: these are seen by `raises`, on Python
3.12 and later all of them, on 3.11 those that nobody catches. A call that is served from C++ costs
nothing more; one that comes by pays 0.1 µs.

XLA has no structured status in its exceptions: the text begins with it. Until 0.6 an error of a result
that is waited for says INTERNAL and keeps the allocator's own words.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.raises import watch_raises

_STATUS = "RESOURCE_EXHAUSTED"
_ALLOCATOR = "Out of memory"
#: How far into the text the status may stand: some errors say first where they come from.
_MAX_PREFIX = 300


class OnOutOfMemory(Protocol):
    """Who wants to know, in the thread that the error was raised in."""

    def __call__(self, error: BaseException, program: str) -> None:
        """`program` is JAX's name for what was running, or empty."""


class OutOfMemoryWatch:
    """Looks at errors of JAX and tells those that say that memory ran out.

    Args:
        on_error: Told of each; one error may come by at several places.
    """

    def __init__(self, on_error: OnOutOfMemory) -> None:
        self._on_error = on_error
        self._kinds = _kinds()
        self._thread = threading.local()

    def install(self, patcher: Patcher) -> None:
        """Watch the places where Python comes by, as far as this JAX has them."""
        for hook, name_of in ((compat.COMPILE, "_name"), (compat.EXECUTE, "name")):
            if hook.missing() is None:
                owner = hook.resolve()
                patcher.replace(owner, hook.attribute, self._wrap(getattr(owner, hook.attribute), name_of))
        watch_raises(patcher, self._kinds, self._raised)

    def look(self, error: BaseException, program: str = "") -> None:
        """Tell of the error if memory ran out; never raises, and does nothing while it tells already."""
        if type(error) not in self._kinds or getattr(self._thread, "is_telling", False):
            return
        self._thread.is_telling = True
        try:
            if says_out_of_memory(error):
                self._on_error(error, program)
        except Exception:
            guard.failed("memory")
        finally:
            self._thread.is_telling = False

    def _wrap(self, original: Callable[..., Any], name_of: str) -> Callable[..., Any]:
        look = self.look

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, *args, **kwargs)
            except Exception as error:
                name = getattr(self, name_of, "")
                look(error, name if isinstance(name, str) else "")
                raise

        return call

    def _raised(self, error: BaseException, frame: types.FrameType, offset: int) -> None:
        self.look(error)


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error of one of the watched classes says so; other errors' texts are left alone."""
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
