"""Puts a fault into one function: it raises, returns None, or takes 0.2 s."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import time
import types
from collections.abc import Iterator
from typing import Any, Literal

Mode = Literal["raise", "none", "slow"]
MODES: tuple[Mode, ...] = ("raise", "none", "slow")
MESSAGE = "injected fault"
_SLOW_S = 0.2
#: Calls that are slow; a function that runs a thousand times would take forever.
_SLOW_CALLS = 3


def functions_of(module: Any) -> Iterator[types.FunctionType]:
    """The functions of a module and of its classes, those below decorators among them."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            for member in vars(value).values():
                yield from _functions_in(member)
        else:
            yield from (one for one in _functions_in(value) if one.__module__ == module.__name__)


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, property):
        for one in (value.fget, value.fset):
            yield from _functions_in(one)
    elif isinstance(value, (staticmethod, classmethod)):
        yield from _functions_in(value.__func__)
    elif isinstance(value, functools.cached_property):
        yield from _functions_in(value.func)
    elif isinstance(value, types.FunctionType):
        yield value
        yield from _functions_in(getattr(value, "__wrapped__", None))
    elif hasattr(value, "__wrapped__"):
        yield from _functions_in(value.__wrapped__)


def inject(module_name: str, qualname: str, mode: Mode) -> bool:
    """Put the fault into the function of this name. Returns False where it cannot be put there."""
    module = importlib.import_module(module_name)
    found = False
    for function in functions_of(module):
        code = _with_fault(function.__code__, qualname, mode, function)
        if code is not None:
            function.__code__ = code
            found = True
    return found


def _with_fault(
    code: types.CodeType, qualname: str, mode: Mode, function: types.FunctionType | None
) -> types.CodeType | None:
    if code.co_qualname == qualname:
        return _faulty(code, mode, function)
    if not qualname.startswith(f"{code.co_qualname}.<locals>."):
        return None
    constants, is_changed = list(code.co_consts), False
    for i, one in enumerate(constants):
        inner = _with_fault(one, qualname, mode, None) if isinstance(one, types.CodeType) else None
        if inner is not None:
            constants[i], is_changed = inner, True
    return code.replace(co_consts=tuple(constants)) if is_changed else None


class _Slow:
    """Runs a function after a while, the first times."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function
        self._calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        if self._calls <= _SLOW_CALLS:
            time.sleep(_SLOW_S)
        return self._function(*args, **kwargs)


def _faulty(code: types.CodeType, mode: Mode, function: types.FunctionType | None) -> types.CodeType | None:
    names = iter(code.co_varnames)
    plain = [next(names) for _ in range(code.co_argcount)]
    keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
    several = next(names) if code.co_flags & inspect.CO_VARARGS else None
    others = next(names) if code.co_flags & inspect.CO_VARKEYWORDS else None
    declared = [*plain[: code.co_posonlyargcount], *(["/"] if code.co_posonlyargcount else [])]
    declared += plain[code.co_posonlyargcount :]
    declared += [f"*{several}"] if several else (["*"] if keywords else [])
    declared += [*keywords, *([f"**{others}"] if others else [])]
    passed = [*plain, *([f"*{several}"] if several else []), *(f"{one}={one}" for one in keywords)]
    passed += [f"**{others}"] if others else []
    free = ", ".join(code.co_freevars)
    constant: Any = None
    if mode == "raise":
        body = f"raise ZeroDivisionError({MESSAGE!r})"
    elif mode == "none":
        body = "return None"
    else:
        if function is None or code.co_freevars:
            return None  # a function that is made anew each time: its original is not at hand
        copy = types.FunctionType(code, function.__globals__, function.__name__)
        constant = _Slow(copy)
        body = f"slow = '__slow__'; return slow({', '.join(passed)})"
    text = (
        f"def outer({free}):\n def {code.co_name if code.co_name.isidentifier() else 'inner'}({', '.join(declared)}):\n"
    )
    text += f"  ({free},)\n" if free else ""
    text += f"  {body}\n"
    module = compile(ast.parse(text), code.co_filename, "exec")
    outer = next(one for one in module.co_consts if isinstance(one, types.CodeType))
    inner = next(one for one in outer.co_consts if isinstance(one, types.CodeType))
    constants = tuple(constant if one == "__slow__" else one for one in inner.co_consts)
    return inner.replace(
        co_consts=constants, co_qualname=code.co_qualname, co_name=code.co_name, co_firstlineno=code.co_firstlineno
    )
