"""Names, keys and simple values as short text, made without running any code of the user.

Attributes of classes are read where Python keeps them, since a metaclass of the user may answer for them.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from jitwatch.model.cleaning import clean

MAX_TEXT = 80
_MAX_BITS = 256
_MAX_KEYS = 8
_LIBRARIES = ("jax", "jaxlib", "numpy", "ml_dtypes")
#: Modules of the standard library whose values show themselves by code of their own.
_STANDARD = ("pathlib", "datetime", "decimal", "fractions", "uuid", "ipaddress", "zoneinfo")
CALLABLES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
_NUMBERS = (bool, int, float, complex)
_MISSING: Any = object()

_mro = type.__dict__["__mro__"].__get__
_dict = type.__dict__["__dict__"].__get__
_module = type.__dict__["__module__"].__get__
_qualname = type.__dict__["__qualname__"].__get__


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Text in one line of bounded length, with nothing that would steer a terminal or turn letters around."""
    return clean(text, limit)


def bases_of(kind: type) -> tuple[type, ...]:
    """The class and its bases, in the order in which Python looks for attributes."""
    found: tuple[type, ...] = _mro(kind)
    return found


def own_attributes(kind: type) -> dict[str, Any]:
    """What the class itself defines."""
    found: dict[str, Any] = _dict(kind)
    return found


def class_attribute(kind: type, name: str, default: Any = None) -> Any:
    """What the class or one of its bases defines under this name, as it stands there."""
    for base in bases_of(kind):
        found = own_attributes(base).get(name, _MISSING)
        if found is not _MISSING:
            return found
    return default


def class_name(kind: type) -> str:
    """The bare name of a class."""
    return shorten(str(_qualname(kind)).rpartition(".")[2])


def module_of(kind: type) -> str:
    """Name of the module that a class says it is of."""
    module = _module(kind)
    return module if isinstance(module, str) else ""


def is_of_library(kind: type) -> bool:
    """Whether the class is JAX's or numpy's own, whose attributes and text are no code of the user."""
    return module_of(kind).partition(".")[0] in _LIBRARIES


def is_of_standard_library(kind: type) -> bool:
    """Whether it is a class for dates, paths and the like, and not one that the user derived from it."""
    name = module_of(kind)
    module = sys.modules.get(name)
    return name.partition(".")[0] in _STANDARD and getattr(module, str(_qualname(kind)), None) is kind


def is_one_of(kind: type, kinds: tuple[type, ...]) -> bool:
    """Whether it is one of these very classes; `in` would ask a metaclass of the user."""
    return any(kind is one for one in kinds)


def number_text(value: Any, kind: type) -> tuple[str, int] | None:
    """Text and hash of a Python number, or None for other values."""
    for number in _NUMBERS:
        if issubclass(kind, number):
            own = number.__hash__(value)
            token = hash((number.__name__, own))
            if number is int and int.bit_length(value) > _MAX_BITS:
                return f"<int of {int.bit_length(value)} bits, #{own & 0xFFFFFF:06x}>", token
            return number.__repr__(value), token
    return None


def quoted(value: Any, kind: type[str] | type[bytes]) -> str:
    """Text in quotes; a long one is cut, and shows a part of its hash so that two of them can be told apart."""
    length = kind.__len__(value)
    text = shorten(repr(kind.__getitem__(value, slice(MAX_TEXT // 2))))
    if length <= MAX_TEXT // 2:
        return text
    units = "characters" if kind is str else "bytes"
    return f"{text[:-1]}…{text[-1]} ({length:,} {units}, #{kind.__hash__(value) & 0xFFFFFF:06x})"


def attribute_path(name: str) -> str:
    """`.name`, whatever somebody took for a name."""
    return f".{name}" if len(name) <= MAX_TEXT and name.isprintable() else f".{shorten(name)}"


def key_text(key: Any) -> str:
    """A key of a mapping or an element of a set."""
    kind = type(key)
    if kind is str or kind is bytes:
        return shorten(quoted(key, kind), MAX_TEXT)
    if is_one_of(kind, (*_NUMBERS, type(None))):
        return shorten(repr(key), MAX_TEXT // 2)
    if kind is tuple:
        return shorten(f"({', '.join(key_text(one) for one in key[:_MAX_KEYS])})", MAX_TEXT // 2)
    if issubclass(kind, CALLABLES):
        return callable_text(key)
    return f"<{class_name(kind)}>"


def callable_text(value: Any) -> str:
    """Name of a function or class, and where it is defined."""
    if issubclass(type(value), type):
        return class_name(value)
    function = value.__func__ if type(value) is types.MethodType else value
    if type(function) is not types.FunctionType:
        return shorten(_name_of_builtin(function))
    code = function.__code__
    name = function.__qualname__.rpartition("<locals>.")[2]
    return shorten(f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})")


def _name_of_builtin(function: Any) -> str:
    name = function.__name__ if type(function) is types.BuiltinFunctionType else None
    return name if isinstance(name, str) else class_name(type(function))
