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


class Observer:
    """Observes the calls of one function. Errors in its methods are jitwatch's own and do not reach the caller.

    Attributes:
        component: Name in `agent_errors_total{component}`.
        only_errors: Only `failed` is called; its state is a tuple with the function's first argument.
    """

    component = "compile"
    only_errors = False

    def begun(self, *args: Any, **kwargs: Any) -> Any:
        """Called before the function, with its arguments as its parameters are declared.

        Returns:
            The state that the other methods get; None to ignore this call.
        """
        return None

    def ended(self, state: Any, result: Any) -> Replaced | None:
        """Called when the function has returned `result`, which the caller gets unless `Replaced` is returned."""
        return None

    def failed(self, state: Any, error: BaseException) -> None:
        """Called when the function has raised `error`, which propagates unchanged."""


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
        begun: The observer's method; generated code guards it.
        original: JAX's function.
        only_errors: Whether only `fail` is called.
    """

    def __init__(self, observer: Observer, original: Callable[..., Any]) -> None:
        self.begun = observer.begun
        self.original = original
        self.only_errors = observer.only_errors
        self._component = observer.component
        self._ended = observer.ended
        self._failed = observer.failed

    def broken(self) -> None:
        """Handle an exception that the observer raised, in an `except` block."""
        guard.failed(self._component)

    def end(self, state: Any, result: Any) -> Any:
        """Pass the result to the observer; return what the caller gets."""
        if state is None:
            return result
        try:
            found = self._ended(state, result)
            return found.value if type(found) is Replaced else result
        except Refused as refusal:
            error = refusal.error
        except Exception:
            guard.failed(self._component)
            return result
        raise error

    def fail(self, state: Any, error: BaseException) -> None:
        """Handle an exception of the function, or an interrupt in the observer."""
        try:
            caller = sys._getframe(1).f_code
            if is_enclosing(caller):
                drop_frame(error, caller)
            if state is not None:
                self._failed(state, error)
        except Exception:
            guard.failed(self._component)


def is_enclosing(code: types.CodeType) -> bool:
    """Whether this code calls a copy of JAX's function."""
    return f"{PREFIX}result" in code.co_varnames
