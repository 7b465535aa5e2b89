"""Python values as plain, short text, made without running any code of the user.

No `repr`, `eq`, `hash`, property or iterator of a user's class is called: they may raise, hang or change
something. Contents are read where Python itself keeps them: builtin containers, instance dictionaries
and slots. Everything is bounded in depth, number and length, and contents of arrays are never read.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import os
import re
import types
from collections.abc import Iterator
from typing import Any

from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.signature import Value

_MAX_TEXT = 80
_MAX_PARTS = 200
_MAX_DEPTH = 6
_MAX_BITS = 256
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LIBRARIES = ("jax", "jaxlib", "numpy", "ml_dtypes")
_NUMBERS = (bool, int, float, complex)
_CALLABLES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
_BRACKETS: dict[type, str] = {list: "[]", dict: "{}", set: "{}", frozenset: "{}"}
#: Where immutable mappings of libraries (flax's FrozenDict) keep their items.
_INNER_DICT = "_dict"


def shorten(text: str, limit: int = _MAX_TEXT) -> str:
    """Text in one line of bounded length, with nothing that a terminal or a log would stumble over."""
    text = _UNPRINTABLE.sub("?", text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Numbers:
    """Numbers for objects: the same object has the same number while it lives, and no other ever has it."""

    def __init__(self) -> None:
        self._known: WeakIdMap[int] = WeakIdMap()
        self._next = itertools.count(1)

    def of(self, value: Any) -> int:
        """The object's number; one that cannot be weakly referenced is known by its address."""
        number = self._known.get(value)
        if number is None:
            number = next(self._next)
            self._known.set(value, number)
            if self._known.get(value) is None:
                return -id(value)
        return number


@dataclasses.dataclass(slots=True)
class _Parts:
    """What was found below a value so far."""

    fields: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    seen: set[int] = dataclasses.field(default_factory=set)


def describe(value: Any, numbers: Numbers) -> Value:
    """The value in plain text, with its parts and with what tells it from others."""
    kind = type(value)
    parts = _Parts()
    text = _walk(value, "", 0, parts, numbers)
    hashing = _hashing_of(kind)
    token = numbers.of(value) if hashing != "plain" else hash(tuple(parts.tokens))
    fields = tuple(parts.fields) if len(parts.fields) != 1 or parts.fields[0][0] else ()
    return Value(type=shorten(kind.__qualname__), text=text, fields=fields, token=token, hashing=hashing)


def array_text(value: Any) -> str | None:
    """`float32[8,8]` for something with shape and dtype of a library, else None."""
    if not _is_of_library(type(value)):
        return None
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not isinstance(shape, tuple) or dtype is None:
        return None
    return f"{dtype}[{','.join(map(str, shape))}]" if shape or type(value).__name__ != "dtype" else str(dtype)


def _walk(value: Any, path: str, depth: int, parts: _Parts, numbers: Numbers) -> str:
    """The text of a value; adds its parts and their tokens."""
    kind = type(value)
    simple = _simple(value, kind, numbers)
    if simple is not None:
        text, token = simple
        _add(parts, path, text, token)
        return text
    if depth >= _MAX_DEPTH or len(parts.fields) >= _MAX_PARTS or id(value) in parts.seen:
        _add(parts, path, "…", 0)
        return "…"
    parts.seen.add(id(value))
    children = _children(value, kind)
    if children is None:
        text = f"<{shorten(kind.__qualname__)}>"
        _add(parts, path, text, numbers.of(value))
        return text
    shown: list[str] = []
    length = 0
    for name, child, label in children:
        if len(parts.fields) >= _MAX_PARTS:
            break
        text = _walk(child, path + name, depth + 1, parts, numbers)
        if length < _MAX_TEXT:
            shown.append(label + text)
            length += len(shown[-1]) + 2
    parts.seen.discard(id(value))
    # What equals only itself is told apart even where it looks the same.
    itself = numbers.of(value) if depth and _hashing_of(kind) == "identity" else 0
    parts.tokens.append(hash((kind.__qualname__, len(shown), itself)))
    return shorten(_frame(kind, shown))


def _add(parts: _Parts, path: str, text: str, token: int) -> None:
    if len(parts.fields) < _MAX_PARTS:
        parts.fields.append((path, text))
        parts.tokens.append(token)


def _simple(value: Any, kind: type, numbers: Numbers) -> tuple[str, int] | None:
    """Text and token of a value without parts, or None."""
    if value is None or value is Ellipsis:
        return repr(value), 1
    if issubclass(kind, enum.Enum):
        name = object.__getattribute__(value, "__dict__").get("_name_", "?")
        return shorten(f"{kind.__qualname__}.{name}"), hash((kind.__qualname__, str(name)))
    for number in _NUMBERS:
        if issubclass(kind, number):
            if number is int and int.bit_length(value) > _MAX_BITS:
                return f"<int of {int.bit_length(value)} bits>", int.__hash__(value)
            return number.__repr__(value), hash((number.__name__, number.__hash__(value)))
    for text in (str, bytes):
        if issubclass(kind, text):
            return _quoted(value, text), text.__hash__(value)
    if kind is types.MethodType:
        # Every access makes a new one; two are equal when object and function are the same.
        return _callable_text(value), hash((numbers.of(value.__self__), numbers.of(value.__func__)))
    if issubclass(kind, _CALLABLES):
        return _callable_text(value), numbers.of(value)
    if issubclass(kind, types.ModuleType):
        return f"<module {shorten(str(getattr(value, '__name__', '?')))}>", numbers.of(value)
    if _is_of_library(kind):
        array = array_text(value)
        # Contents of arrays are not read, so only the same object is known to be the same.
        return (array, numbers.of(value)) if array is not None else _library_text(value)
    return None


def _quoted(value: Any, kind: type[str] | type[bytes]) -> str:
    length = kind.__len__(value)
    start = kind.__getitem__(value, slice(_MAX_TEXT // 2))
    text = shorten(repr(start))
    return text if length <= _MAX_TEXT // 2 else f"{text[:-1]}…{text[-1]} ({length:,} {_units(kind)})"


def _units(kind: type) -> str:
    return "characters" if kind is str else "bytes"


def _callable_text(value: Any) -> str:
    function = value.__func__ if isinstance(value, types.MethodType) else value
    name = type.__getattribute__(value, "__qualname__") if isinstance(value, type) else _name_of(function)
    code = getattr(function, "__code__", None) if isinstance(function, types.FunctionType) else None
    where = f" ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code is not None else ""
    return shorten(f"{name}{where}")


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def _library_text(value: Any) -> tuple[str, int]:
    """Dtypes, meshes, partition specs: their text is the library's own code."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__qualname__}>"
    return shorten(text), hash(text)


def _is_of_library(kind: type) -> bool:
    module = kind.__dict__.get("__module__", "") or getattr(kind, "__module__", "")
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


Child = tuple[str, Any, str]


def _children(value: Any, kind: type) -> Iterator[Child] | None:
    """Path, value and label of each part of a composed value, or None when it has none to read."""
    names = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and isinstance(names, tuple) and len(names) == tuple.__len__(value):
        return ((f".{n}", v, f"{n}=") for n, v in zip(names, tuple.__iter__(value), strict=True))
    for sequence in (tuple, list):
        if issubclass(kind, sequence):
            return ((f"[{i}]", v, "") for i, v in enumerate(itertools.islice(sequence.__iter__(value), _MAX_PARTS)))
    if issubclass(kind, (set, frozenset)):
        base = set if issubclass(kind, set) else frozenset
        # In no order of their own: sorted by text, so that equal sets look equal.
        texts = sorted(_key_text(one) for one in itertools.islice(base.__iter__(value), _MAX_PARTS))
        return ((f"{{{text}}}", _Verbatim(text), "") for text in texts)
    if issubclass(kind, (dict, types.MappingProxyType)):
        return _items(value)
    if isinstance(value, functools.partial):
        return _partial(value)
    if kind is _Verbatim:
        return iter(())
    state = _state_of(value, kind)
    inner = state.get(_INNER_DICT)
    if type(inner) is dict:
        return _items(inner)
    return ((f".{n}", v, f"{n}=") for n, v in state.items()) if state else None


class _Verbatim(str):
    """Text that is shown as it is."""

    __slots__ = ()


def _items(value: Any) -> Iterator[Child]:
    items = dict.items(value) if isinstance(value, dict) else value.items()
    for key, child in itertools.islice(items, _MAX_PARTS):
        text = _key_text(key)
        yield f"[{text}]", child, f"{text}: "


def _partial(value: functools.partial[Any]) -> Iterator[Child]:
    yield ".func", value.func, ""
    yield from ((f".args[{i}]", v, "") for i, v in enumerate(value.args))
    yield from ((f".keywords[{k!r}]", v, f"{k}=") for k, v in value.keywords.items())


def _key_text(key: Any) -> str:
    kind = type(key)
    if kind in (str, bytes, int, float, bool, type(None)):
        return shorten(repr(key) if kind not in (str, bytes) else _quoted(key, kind), _MAX_TEXT // 2)
    if kind is tuple:
        return shorten(f"({', '.join(_key_text(one) for one in key[:8])})", _MAX_TEXT // 2)
    if issubclass(kind, _CALLABLES):
        return _callable_text(key)
    return f"<{shorten(kind.__qualname__)}>"


def _state_of(value: Any, kind: type) -> dict[str, Any]:
    """The instance's attributes, from where Python keeps them: its dictionary and its slots."""
    state: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        for name, descriptor in list(base.__dict__.items()):
            if type(descriptor) is types.MemberDescriptorType:
                try:
                    state[name] = descriptor.__get__(value, kind)
                except AttributeError:
                    continue  # a slot that was never filled
    for base in kind.__mro__:
        found = base.__dict__.get("__dict__")
        if type(found) is types.GetSetDescriptorType:
            own = found.__get__(value, kind)
            if type(own) is dict:
                state |= {name: child for name, child in list(own.items()) if isinstance(name, str)}
            break
    return dict(itertools.islice(state.items(), _MAX_PARTS))


def _hashing_of(kind: type) -> Any:
    # Through Any: the type checker takes the two for functions of different signatures.
    own: Any = kind
    if issubclass(kind, functools.partial):
        return "identity"
    if own.__hash__ is object.__hash__ and own.__eq__ is object.__eq__:
        return "plain" if issubclass(kind, _CALLABLES) or _is_builtin(kind) else "identity"
    if _is_builtin(kind) or _is_of_library(kind) or issubclass(kind, (enum.Enum, tuple, str, int, float, bytes)):
        return "plain"
    return "plain" if dataclasses.is_dataclass(kind) else "custom"


def _is_builtin(kind: type) -> bool:
    return kind.__module__ in ("builtins", "functools", "types")


def _frame(kind: type, shown: list[str]) -> str:
    inside = ", ".join(shown)
    if kind is tuple:
        return f"({inside}{',' if len(shown) == 1 else ''})"
    brackets = _BRACKETS.get(kind)
    return f"{brackets[0]}{inside}{brackets[1]}" if brackets else f"{shorten(kind.__qualname__)}({inside})"
