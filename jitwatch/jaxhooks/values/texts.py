"""Names, keys and simple values as short text, made without running user code."""

from __future__ import annotations

import os
import types
from typing import Any

from jitwatch.jaxhooks.values.classes import CALLABLES, class_name, is_one_of
from jitwatch.model.cleaning import clean

MAX_TEXT = 80
_MAX_BITS = 256
_MAX_KEYS = 8
_NUMBERS = (bool, int, float, complex)


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Return text in one line of bounded length, without characters that control a terminal or the text direction."""
    return clean(text, limit)


def number_text(value: Any, kind: type) -> tuple[str, int] | None:
    """Return text and hash of a Python number, or None for other values."""
    for number in _NUMBERS:
        if issubclass(kind, number):
            own = number.__hash__(value)
            token = hash((number.__name__, own))
            if number is int and int.bit_length(value) > _MAX_BITS:
                return f"<int of {int.bit_length(value)} bits, #{own & 0xFFFFFF:06x}>", token
            return number.__repr__(value), token
    return None


def quoted(value: Any, kind: type[str] | type[bytes]) -> str:
    """Return text in quotes; a long one is cut and gets a part of its hash, to distinguish two of them."""
    length = kind.__len__(value)
    text = shorten(repr(kind.__getitem__(value, slice(MAX_TEXT // 2))))
    if length <= MAX_TEXT // 2:
        return text
    units = "characters" if kind is str else "bytes"
    return f"{text[:-1]}…{text[-1]} ({length:,} {units}, #{kind.__hash__(value) & 0xFFFFFF:06x})"


def attribute_path(name: str) -> str:
    """Return `.name`, cleaned if the name is no usual identifier."""
    return f".{name}" if len(name) <= MAX_TEXT and name.isprintable() else f".{shorten(name)}"


def key_text(key: Any) -> str:
    """Return the text of a key of a mapping or an element of a set."""
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
    """Return the name of a function or class, of a function with the line of its definition."""
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
