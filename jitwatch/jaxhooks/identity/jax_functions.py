"""Jitted functions of JAX's own that run user code: control flow outside of jit, and JAX functions that the job jits.

Outside of jit, `jax.lax.scan`, `map`, `cond`, `while_loop` and `fori_loop` pass the traced body to a jitted function of
JAX's own. The body's code is found in the tracebacks of its operations. Checked on JAX 0.6.2, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.identity.unwrapping import closure_of
from jitwatch.jaxhooks.stack import callers

#: End of JAX's source text for a function (`func_src_info`).
_SOURCE = re.compile(r" at (?P<file>.+):(?P<line>\d+)$")
#: Operations of a body whose tracebacks are read.
_MAX_EQUATIONS = 20
#: JAX's functions between a call of `jax.jit` and the creation of the jitted function.
MAKERS = frozenset({"_cpp_pjit", "make_jit", "jit", "pjit", "wrapped", "reraise_with_filtered_traceback"})
_MAX_FRAMES = 12
_MAX_PARTIALS = 4
#: Parameters of an operation that follow from its arguments or from its body.
_IMPLIED = frozenset(
    {"length", "num_consts", "num_carry", "linear", "cond_nconsts", "body_nconsts", "_split_transpose"}
)


def is_operation(fun: Any) -> bool:
    """Whether this is the function that JAX jits for an operation outside of jit."""
    return getattr(fun, "_apply_primitive", False) is True


def parameters_of(fun: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return operation and parameters of a function that JAX jits for an operation outside of jit, else None."""
    captured = dict(closure_of(fun)) if is_operation(fun) else {}
    parameters = captured.get("params")
    return (captured["prim"], parameters) if "prim" in captured and type(parameters) is dict else None


def body_of(fun: Any, is_users: Callable[[str], Any]) -> types.CodeType | None:
    """Return the code of the user's function that is the body of an operation outside of jit."""
    found = parameters_of(fun)
    for body in _bodies(found[1]) if found is not None else ():
        source = _SOURCE.search(str(compat.source_of(body)))
        for equation in body.eqns[:_MAX_EQUATIONS]:
            trace: Any = getattr(getattr(equation, "source_info", None), "traceback", None)
            codes: list[types.CodeType] = list(trace.raw_frames()[0]) if hasattr(trace, "raw_frames") else []
            code = next((one for one in reversed(_inside(codes, source)) if is_users(one.co_filename)), None)
            if code is not None:
                return code
    return None


def _inside(codes: list[types.CodeType], source: re.Match[str] | None) -> list[types.CodeType]:
    """Return the frames of a body, the innermost first; until JAX 0.9 a traceback also has those of its callers."""
    for position, code in enumerate(codes):
        if source is not None and code.co_filename == source["file"] and code.co_firstlineno == int(source["line"]):
            return codes[: position + 1]
    return codes


def settings_of(fun: Any) -> list[tuple[str, Any]]:
    """Return the plain parameters of an operation that do not follow from its arguments: `reverse`, `unroll`."""
    found = parameters_of(fun)
    parameters = found[1] if found is not None else {}
    return [
        (name, value)
        for name, value in sorted(parameters.items())
        if name not in _IMPLIED and type(value) in (bool, int, str)
    ]


def operation_of(fun: Any, frame: types.FrameType | None, jax_folders: tuple[str, ...]) -> str:
    """Return the public name under which the job calls an operation, `jax.lax.map`; else JAX's name for it, `scan`.

    `frame` is the innermost of JAX.
    """
    lax, outermost = sys.modules.get("jax.lax"), ""
    while frame is not None and frame.f_code.co_filename.startswith(jax_folders):
        # JAX's own wrappers may enclose it.
        if not frame.f_code.co_name.startswith("_") and hasattr(lax, frame.f_code.co_name):
            outermost = frame.f_code.co_name
        frame = frame.f_back
    if outermost:
        return f"jax.lax.{outermost}"
    found = parameters_of(fun)
    return str(found[0]) if found is not None else ""


def is_jit_disabled(frame: types.FrameType | None) -> bool:
    """Whether the job has disabled jit, which JAX enables for each operation; `frame` is the innermost of JAX."""
    state = getattr(sys.modules.get("jax._src.config"), "disable_jit", None)
    if getattr(state, "get_global", bool)() is True:
        return True
    applying = next((one for one in callers(frame, _MAX_FRAMES) if one.f_code.co_name == "apply_primitive"), None)
    # The value that `with jax.disable_jit()` has set in this thread.
    return applying is not None and "prev" in applying.f_code.co_varnames and applying.f_locals.get("prev") is True


def _bodies(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            body = getattr(one, "jaxpr", one)
            if isinstance(getattr(body, "eqns", None), list):
                yield body


def passed_to(fun: Any) -> Iterator[Any]:
    """Yield the callables among the arguments of a partial."""
    if isinstance(fun, functools.partial):
        yield from (one for one in (*fun.args, *fun.keywords.values()) if callable(one))


def jitted_at(frame: types.FrameType | None, jax_folders: tuple[str, ...]) -> types.FrameType | None:
    """Return the frame that called `jax.jit`, or None if it is JAX's own; `frame` makes a jitted function."""
    for one in callers(frame, _MAX_FRAMES):
        if not one.f_code.co_filename.startswith(jax_folders):
            return one
        if one.f_code.co_name not in MAKERS:
            break
    return None


def is_pullback(fun: Any) -> bool:
    """Whether `jax.vjp` returned this function: a new one for each point, which holds arrays."""
    return type(fun).__name__ == "VJP" or any("vjp" in name for name in _names(fun))


def name_of(fun: Any) -> str:
    """Return the readable name of a JAX function that the job jits: `norm`, `pullback`, or an empty string."""
    if is_pullback(fun):
        return "pullback"
    return next((name for name in _names(fun) if name.isidentifier() and not name.startswith("_")), "")


def _names(fun: Any) -> Iterator[str]:
    """Yield the names of a function and of what it is a partial of."""
    for _ in range(_MAX_PARTIALS):
        if fun is None:
            return
        name = getattr(fun, "__name__", None)
        if isinstance(name, str):
            yield name
        # `fun` is the attribute of JAX's shim around a pullback (0.6 and 0.7).
        fun = getattr(fun, "func", None) or getattr(fun, "fun", None)


@functools.lru_cache(maxsize=1_000)
def module_of_file(filename: str) -> str:
    """Return the name of the module that a file was imported as, or of the file."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return name
    return os.path.splitext(os.path.basename(filename))[0]
