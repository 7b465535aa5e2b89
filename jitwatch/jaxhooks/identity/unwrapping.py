"""Unwraps callables down to the function that the user wrote. Runs no code of the user's objects."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

MAX_LAYERS = 32
#: Names under which wrappers without `__wrapped__` keep the user's function in their closure.
_USERS_FUNCTION = frozenset({"f", "fn", "fun", "func"})
_MAX_SEARCHED = 200


def unwrap(fun: Any) -> Any:
    """Follow partials, bound methods, `__wrapped__` and JAX's `WrappedFun` to the end; bounded, so loops terminate."""
    return layers_of(fun)[-1]


def layers_of(fun: Any) -> list[Any]:
    """Return the callable and what it wraps, as far as wrappers name what they wrap."""
    found = [fun]
    for _ in range(MAX_LAYERS):
        inner = _unwrap_once(found[-1])
        if inner is None or inner is found[-1]:
            break
        found.append(inner)
    return found


def passed_as_static(fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Any:
    """Return the function of the same name among the static arguments, else `fun` itself."""
    wanted = getattr(unwrap(fun), "__qualname__", None)
    for found in _functions_in([args[i] for i in static_argnums if -len(args) <= i < len(args)]):
        if getattr(unwrap(found), "__qualname__", None) == wanted:
            return found
    return fun


def _unwrap_once(fun: Any) -> Any:
    if isinstance(fun, types.MethodType):
        return _wrapped_fun(fun.__self__) or fun.__func__
    # Before partials: flax wraps a partial of its own and sets `__wrapped__` to the user's function.
    attributes = getattr(fun, "__dict__", None)
    if isinstance(attributes, dict) and callable(attributes.get("__wrapped__")):
        return attributes["__wrapped__"]
    if isinstance(fun, functools.partial):
        return fun.func
    return _wrapped_fun(fun)


def _wrapped_fun(value: Any) -> Any:
    """Return the user's function in JAX's `linear_util.WrappedFun` (0.6 to 0.10), else None."""
    if type(value).__name__ == "WrappedFun" and callable(getattr(value, "f", None)):
        return value.f
    return None


def code_of(fun: Any) -> types.CodeType | None:
    """Return the Python code of a function or callable object, or None for C functions."""
    code = getattr(fun, "__code__", None)
    if not isinstance(code, types.CodeType):
        code = getattr(inspect.getattr_static(type(fun), "__call__", None), "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def closure_of(fun: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the variables that a function captures, as far as they are assigned."""
    names = getattr(getattr(fun, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(fun, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents


def hidden_in_closure(fun: Any) -> Any:
    """Return the user's function in the closure of a wrapper that does not set `__wrapped__`.

    Such wrappers are JAX's pmap (from 0.8 on, as a `WrappedFun`) and `linear_transpose`, and flax's `nnx.grad`.
    """
    for name, content in closure_of(fun):
        found = _wrapped_fun(content)
        if found is None and name in _USERS_FUNCTION and isinstance(content, (types.FunctionType, functools.partial)):
            found = content
        if found is not None:
            return found
    return None


def _functions_in(values: Any) -> Iterator[Callable[..., Any]]:
    """Yield functions in nested tuples, lists and dicts, breadth first and bounded."""
    queue: list[Any] = [values]
    for _ in range(_MAX_SEARCHED):
        if not queue:
            return
        value = queue.pop(0)
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            yield value
        elif type(value) in (tuple, list):
            queue.extend(value[:_MAX_SEARCHED])
        elif type(value) is dict:
            queue.extend(list(value.values())[:_MAX_SEARCHED])
