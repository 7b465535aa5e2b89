"""Instruments functions of JAX in place: the function object stays, its code object is replaced.

A replaced name (`jax._src.pjit._infer_params = ours`) would be seen by cloudpickle, by modules that imported it before,
and in each stack. A function whose `__code__` is replaced is still JAX's own object (`docs/transparency.md`). The new
code calls an `Observer` around JAX's code. It has two forms:

- *inline*: JAX's own source, compiled again with the calls of the observer in it, which adds no frame. Used only if the
  source, compiled unchanged, gives exactly the code that JAX runs.
- *enclosing*: code with the same parameters that calls a copy of JAX's function. It adds a frame, which names JAX's
  file, so that JAX hides it like its own frames, and which leaves no entry in a traceback.

What is not written in Python (methods of JAX's array class) is replaced by a function with the same names
(`stand_in`). An exception in an observer ends in `guard.failed`, and JAX's function runs as without an observer.

Checked on CPython 3.11 and 3.13.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks.codegen import enclosing_code, inline_code
from jitwatch.jaxhooks.observer import ObservedFunction, Observer

_MAX_WRAPPED = 8
#: An entry of a line table (checked as above): this many code units, less one, are as many lines further as the next
#: byte says, with no columns.
_NO_COLUMNS = 0x80 | 13 << 3
_MAX_UNITS = 8
_UNIT = 2


class NotInstrumentableError(Exception):
    """The code of an object cannot be replaced; the message says why."""


@dataclass(frozen=True, slots=True)
class Instrumented:
    """An instrumented function.

    Attributes:
        original: A copy of JAX's function. It has no default values: every parameter must be passed.
        undo: Restores the code. Returns False, and changes nothing, if other code has replaced ours since.
    """

    original: Callable[..., Any]
    undo: Callable[[], bool]


def instrument(function: Any, observer: Observer, *, inline: bool = False) -> Instrumented:
    """Let an observer see every call of a function, wherever the function is referenced.

    Args:
        function: A Python function, or a wrapper with the function in `__wrapped__`.
        observer: Observes the calls.
        inline: Add no frame, if JAX's source allows it.

    Raises:
        NotInstrumentableError: The function has no code that can be replaced.
    """
    target = target_of(function)
    original = target.__code__
    # Every argument is passed, so that the copy needs no default values.
    copy = types.FunctionType(original, target.__globals__, target.__name__)
    copy.__qualname__, copy.__module__ = target.__qualname__, target.__module__
    calls = ObservedFunction(observer, copy)
    code = (inline_code(target, calls) if inline else None) or enclosing_code(original, calls)
    target.__code__ = code

    def undo() -> bool:
        if target.__code__ is not code:
            return False
        target.__code__ = original
        return True

    return Instrumented(copy, undo)


def target_of(function: Any) -> types.FunctionType:
    """Return the function whose code is to be replaced: the first along `__wrapped__` without free variables.

    Raises:
        NotInstrumentableError: There is no such function.
    """
    found = function
    for _ in range(_MAX_WRAPPED):
        if isinstance(found, types.FunctionType) and not found.__code__.co_freevars:
            return found
        found = getattr(found, "__wrapped__", None)
    name = getattr(function, "__qualname__", None) or type(function).__name__
    raise NotInstrumentableError(f"{name} is no Python function whose code can be replaced")


def stand_in(original: Callable[..., Any], observer: Observer, name: str) -> types.FunctionType:
    """Return an observed function to replace one that is not written in Python, with its names and documentation."""
    calls = ObservedFunction(observer, original)
    template = (lambda *args, **kwargs: None).__code__  # only the parameters are used
    code = enclosing_code(template.replace(co_name=name, co_qualname=name), calls)
    found = types.FunctionType(code, {"__builtins__": __builtins__, "__name__": __name__}, name)
    for attribute in ("__module__", "__qualname__", "__doc__"):
        value = getattr(original, attribute, None)
        if isinstance(value, str) and value:
            setattr(found, attribute, value)
    return found


def adopt_location(function: Any, like: types.CodeType) -> None:
    """Give the frames of a jitwatch function the file and the `def` line of a JAX function, so that JAX hides them.

    All its code is on that line: a debugger stops there once, and a live stack shows that line of JAX's file.
    """
    code = function.__code__
    units = len(code.co_code) // _UNIT
    sizes = [min(_MAX_UNITS, units - done) for done in range(0, units, _MAX_UNITS)]
    lines = b"".join(bytes([_NO_COLUMNS | (size - 1), 0]) for size in sizes)
    function.__code__ = code.replace(
        co_filename=like.co_filename, co_firstlineno=like.co_firstlineno, co_linetable=lines
    )
