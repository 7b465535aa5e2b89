"""Serializes a record as a line: one strict JSON object, bounded in length and in the work it takes.

Values are read by type, and only by the methods of built-in types: no method of a user's class is ever called. Arrays
are shown by dtype and shape only.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import structlog

MAX_LINE_BYTES: Final = 64 * 2**10
_MAX_SHORT_TEXT: Final = 200
_MAX_DEPTH: Final = 16
_MAX_INT_BITS: Final = 1024
_COMMON: Final = ("timestamp", "event", "schema", "run", "process", "process_index", "step", "seq")
#: Packages whose objects may be asked for a dtype, a shape or a number.
_ARRAY_PACKAGES: Final = frozenset({"numpy", "ml_dtypes", "jax", "jaxlib"})
# Not `kind.__name__`, which a metaclass may override.
_name_of_type = type.__dict__["__name__"].__get__
_module_of_type = type.__dict__["__module__"].__get__


def make_renderer() -> Callable[[Mapping[str, Any]], bytes]:
    """Return a function that serializes a record as a line, newline included, independent of `structlog.configure`."""
    encode = structlog.processors.JSONRenderer(json.dumps, ensure_ascii=False, allow_nan=False)

    def line_of(record: Mapping[str, Any]) -> bytes:
        cleaned = _Cleaner().items(record.items(), depth=0)
        return _encode(cast("str", encode(None, "", cleaned)) + "\n")

    def render(record: Mapping[str, Any]) -> bytes:
        with suppress(_TooLongError):
            line = line_of(record)
            if len(line) <= MAX_LINE_BYTES:
                return line
        return line_of(_shorten(record))

    return render


def _encode(line: str) -> bytes:
    try:
        return line.encode()
    except UnicodeEncodeError:  # lone surrogates, as in file names that are not UTF-8
        return line.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _shorten(record: Mapping[str, Any]) -> dict[str, Any]:
    short: dict[str, Any] = {}
    for key in _COMMON:
        if key in record:
            value = record[key]
            if value is None or issubclass(type(value), (int, float)):
                short[key] = value
            else:
                short[key] = _cut(str.__str__(value) if issubclass(type(value), str) else _name(value))
    return {**short, "truncated": True}


class _TooLongError(Exception):
    """The line would exceed the limit; raised before it is built."""


class _Cleaner:
    """Converts the values of one record to strict JSON types, and stops when they are too many.

    A record may contain anything, such as a dictionary with a million entries or one that contains itself: `left`
    counts down the minimal length of the line, so that the work is bounded as the line is.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_LINE_BYTES

    def items(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        # list() of a dictionary's items is atomic: another thread may be changing it.
        return {self.key(key): self.value(value, depth + 1) for key, value in list(items)}

    def key(self, key: Any) -> str:
        if issubclass(type(key), str):
            return self.text(str.__str__(key))
        is_plain = key is None or issubclass(type(key), (int, float))
        return self.text(str(self.value(key, _MAX_DEPTH)) if is_plain else _name(key))

    def value(self, value: Any, depth: int) -> Any:
        self._spend(2)
        if value is None or value is True or value is False:
            return value
        # Not isinstance(), which asks the object for its `__class__`.
        kind = type(value)
        if issubclass(kind, str):
            return self.text(str.__str__(value))
        if issubclass(kind, int):
            return _bounded(int.__int__(value))
        if issubclass(kind, float):
            return _finite(float.__float__(value))
        if issubclass(kind, (dict, list, tuple)):
            return self._container(value, kind, depth)
        return self._other(value, kind)

    def text(self, text: str) -> str:
        self._spend(len(text))
        return text

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return self.text(_name(value))
        if issubclass(kind, dict):
            return self.items(dict.items(value), depth)
        elements = list.__iter__(value) if issubclass(kind, list) else tuple.__iter__(value)
        return [self.value(one, depth + 1) for one in elements]

    def _other(self, value: Any, kind: type) -> Any:
        if _is_of_array_package(kind):
            if issubclass(kind, numbers.Integral):
                return _bounded(int(value))
            if issubclass(kind, numbers.Real):
                return _finite(float(value))
        return self.text(_name(value))

    def _spend(self, length: int) -> None:
        self.left -= length
        if self.left < 0:
            raise _TooLongError


def _bounded(number: int) -> int | str:
    return number if number.bit_length() <= _MAX_INT_BITS else f"<int of {number.bit_length()} bits>"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _name(value: object) -> str:
    """Return `float32[2,3]` for an array or tracer of a known package, `<Type>` for anything else."""
    if _is_of_array_package(type(value)):
        try:
            shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
            if isinstance(shape, tuple) and dtype is not None:
                return _cut(f"{dtype}[{','.join(map(str, shape))}]")
        except Exception:  # noqa: S110 - for example a tracer that is not an array: its type is shown
            pass
    return _cut(f"<{_name_of_type(type(value))}>")


def _is_of_array_package(kind: type) -> bool:
    module = _module_of_type(kind)
    return type(module) is str and module.partition(".")[0] in _ARRAY_PACKAGES


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHORT_TEXT else text[: _MAX_SHORT_TEXT - 1] + "…"
