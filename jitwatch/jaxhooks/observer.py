"""Observers of instrumented functions, and the object through which generated code calls them."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jitwatch import guard

#: Prefix of names that generated code adds to those of JAX.
PREFIX = "__jitwatch_"


class Refused(Exception):  # noqa: N818 - carries the error that the job requested
    """Raised by `Observer.ended`: the call raises `error` instead of returning."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True)
class Replaced:
    """Returned by `Observer.ended`: the caller gets `value` instead of the function's result."""

    value: Any


def _ignored(state: Any, outcome: Any) -> None:
    """Ignore how a call ended."""


@dataclass(frozen=True, slots=True)
class Observer:
    """What is called around the calls of one function. Its own errors are contained and do not reach the caller.

    Attributes:
        begun: Gets the function's arguments as its parameters are declared, before the function runs. Returns the state
            that the others get, or None to ignore this call. Without it only errors are observed, and the state is a
            tuple with the function's first argument: a call that returns costs nothing more.
        ended: Gets the state and the result, which the caller gets too, unless `Replaced` is returned.
        failed: Gets the state and the exception of the function, which propagates unchanged.
        component: Name in `agent_errors_total{component}`.
    """

    begun: Callable[..., Any] | None = None
    ended: Callable[[Any, Any], Replaced | None] = _ignored
    failed: Callable[[Any, BaseException], None] = _ignored
    component: str = "compile"


def drop_frame(error: BaseException, code: types.CodeType) -> None:
    """Remove the outermost entry of a traceback if it is of this code. Call it in an `except` block of that code.

    A bare `raise` adds no new entry, so no trace of the frame is left.
    """
    trace = error.__traceback__
    if trace is not None and trace.tb_frame.f_code is code:
        error.__traceback__ = trace.tb_next


class ObservedFunction:
    """The object that generated code calls.

    Attributes:
        begun: The observer's function, guarded by the generated code; None to observe errors only.
        original: JAX's function.
    """

    def __init__(self, observer: Observer, original: Callable[..., Any]) -> None:
        self.begun = observer.begun
        self.original = original
        self._observer = observer

    def broken(self) -> None:
        """Handle an exception that the observer raised, in an `except` block."""
        guard.failed(self._observer.component)

    def end(self, state: Any, result: Any) -> Any:
        """Pass the result to the observer; return what the caller gets."""
        if state is None:
            return result
        try:
            found = self._observer.ended(state, result)
            return found.value if type(found) is Replaced else result
        except Refused as refusal:
            error = refusal.error
        except Exception:
            self.broken()
            return result
        raise error

    def fail(self, state: Any, error: BaseException) -> None:
        """Handle an exception of the function, or an interrupt in the observer."""
        try:
            caller = sys._getframe(1).f_code
            if is_enclosing(caller):
                drop_frame(error, caller)
            if state is not None:
                self._observer.failed(state, error)
        except Exception:
            self.broken()


def is_enclosing(code: types.CodeType) -> bool:
    """Whether this code calls a copy of JAX's function."""
    return f"{PREFIX}result" in code.co_varnames
