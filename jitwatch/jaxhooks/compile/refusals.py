"""Calls that JAX refused because a static argument has no hash, and which argument that was.

In a call JAX hashes static arguments in C++, before any Python function of its own runs, and its error names the class
but not the argument. So the function and its arguments are read from the source of the failing call. For `lower` and
`trace` the arguments themselves are known (`unhashable_static`).
"""

from __future__ import annotations

import ast
import re
import types
from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks.calling_code import place_of, statement_at
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.values.arguments import names_of_positions, static_arguments
from jitwatch.jaxhooks.values.classes import class_name
from jitwatch.jaxhooks.values.texts import shorten
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import OTHER_LABEL

#: JAX's message in all supported versions, and the class in it.
REFUSAL = "Non-hashable static arguments are"
_CLASS = re.compile(r"object of type <class '([^']{1,200})'>")
_UNKNOWN = Function(OTHER_LABEL, OTHER_LABEL)
_LITERALS = {ast.List: "list", ast.ListComp: "list", ast.Dict: "dict", ast.DictComp: "dict", ast.Set: "set"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that JAX refused; if the source does not show them, the function is `__other__` and the argument empty."""

    function: Function
    argument: str
    type: str
    call_site: str


def refusal_of(error: BaseException, frame: types.FrameType, offset: int, identities: Identities) -> Refusal | None:
    """Return JAX's refusal of a call, or None if the error is another one.

    `offset` is that of the instruction in the innermost Python frame in which the error was raised, in bytes.
    """
    if frame.f_code.co_filename.startswith(identities.jax_folders or ("\0",)):
        return None  # raised in Python by `lower` or `trace`, where the miss hooks report it
    text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    if not text.startswith(REFUSAL):
        return None
    found = _CLASS.search(text)
    kind = shorten(found[1].rpartition(".")[2]) if found else "value"
    site, statement = place_of(frame.f_code, offset), statement_at(frame.f_code, offset)
    jitted = _resolve(statement.call.func, frame) if statement is not None else None
    info = getattr(jitted, "_jit_info", None)
    if statement is None or info is None:
        return Refusal(_UNKNOWN, "", kind, site)
    function = identities.of(getattr(jitted, "_fun", None)) or _UNKNOWN
    return Refusal(function, _argument(statement.call, frame, info, kind), kind, site)


def _resolve(node: ast.expr, frame: types.FrameType) -> Any:
    """Return the object of a name or a chain of attributes without running code; None for other expressions."""
    if isinstance(node, ast.Name):
        for names in (frame.f_locals, frame.f_globals):
            if node.id in names:
                return names[node.id]
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, frame)
        for own in [_own_names(owner), *(dict(base.__dict__) for base in type(owner).__mro__)]:
            if node.attr in own:
                return own[node.attr]
    return None


def _own_names(value: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return dict(found) if isinstance(found, (dict, types.MappingProxyType)) else {}


def _is_method(node: ast.expr, frame: types.FrameType) -> bool:
    """Whether the call passes the object before the dot as the first argument."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = _resolve(node.value, frame)
    return not isinstance(owner, type) and node.attr not in _own_names(owner)


def _argument(call: ast.Call, frame: types.FrameType, info: Any, kind: str) -> str:
    """Return the name of the static argument: the only one, or the only one that is, or may be, of that class."""
    bound = int(_is_method(call.func, frame))
    names = names_of_positions(info.fun_signature, len(call.args) + bound)[bound:]
    given = dict(zip(names, call.args, strict=False)) | {one.arg: one.value for one in call.keywords if one.arg}
    parameters = list(getattr(info.fun_signature, "parameters", ()))
    static = {parameters[i] for i in info.static_argnums if i < len(parameters)} | set(info.static_argnames)
    passed = [name for name in given if name in static]
    if len(passed) == 1:
        return passed[0]
    classes = {name: _class_of(given[name], frame) for name in passed}
    for wanted in (kind, None):
        fitting = [name for name in passed if classes[name] == wanted]
        if fitting:
            return fitting[0] if len(fitting) == 1 else ""
    return ""


def _class_of(node: ast.expr, frame: types.FrameType) -> str | None:
    if isinstance(node, ast.Constant):
        return type(node.value).__name__
    literal = _LITERALS.get(type(node))
    if literal is not None:
        return literal
    value = _resolve(node, frame)
    return None if value is None else class_name(type(value))


def unhashable_static(ji: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str] | None:
    """Return name and class of the first static argument whose class has no hash. Runs no user code."""
    for name, value in static_arguments(ji, args, kwargs):
        inner = _unhashable_in(value, 0)
        if inner is not None:
            return name, shorten(inner)
    return None


def _unhashable_in(value: Any, depth: int) -> str | None:
    kind = type(value)
    if kind.__hash__ is None:
        return class_name(kind)
    if kind is tuple and depth < 4:
        return next((found for one in value if (found := _unhashable_in(one, depth + 1)) is not None), None)
    return None
