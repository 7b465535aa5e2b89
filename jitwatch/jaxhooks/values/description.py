"""Describes Python values as short plain text, without running user code.

No `repr`, `eq`, `hash`, property or iterator of a user's class is called: they may raise, hang or have side effects.
Contents are read where Python itself stores them: builtin containers, instance dictionaries and slots. Depth, number
and length are bounded, and the contents of arrays are never read.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from jitwatch.jaxhooks.identity.unwrapping import closure_of
from jitwatch.jaxhooks.values.classes import CALLABLES, class_facts
from jitwatch.jaxhooks.values.parts import MAX_PARTS, Child, composed_text, parts_of
from jitwatch.jaxhooks.values.texts import (
    MAX_TEXT,
    callable_text,
    device_name,
    key_text,
    mesh_text,
    number_text,
    quoted,
    shorten,
    spec_text,
)
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.signature import Value

#: Parts that are shown; more are read to distinguish values.
_MAX_FIELDS = 400
_MAX_DEPTH = 12
#: Depth to which captured variables of functions are followed.
_MAX_CAPTURED_DEPTH = 8
_SETS = (set, frozenset)


#: Classes of jitwatch that wrap an object of the job, and how to get that object, which is described instead.
wrapped_classes: list[tuple[type, Callable[[Any], Any]]] = []


def _unwrapped(value: Any) -> Any:
    for kind, get in wrapped_classes:
        if type(value) is kind:
            return get(value)
    return value


class Numbers:
    """Numbers objects: an object keeps its number while it is alive, and no other object ever gets it."""

    def __init__(self) -> None:
        self._known: WeakIdMap[int] = WeakIdMap()
        self._next = itertools.count(1)

    def of(self, value: Any) -> int:
        """Return the object's number; its negative address if it cannot be weakly referenced."""
        number = self._known.get(value)
        if number is None:
            number = next(self._next)
            self._known.set(value, number)
            if self._known.get(value) is None:
                return -id(value)
        return number


@dataclasses.dataclass(slots=True)
class _Parts:
    """The parts of a value that were found so far."""

    fields: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    field_tokens: list[int] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    #: Addresses of the containers that enclose the current part.
    above: set[int] = dataclasses.field(default_factory=set)
    visits: int = 0
    #: Whether parts were left out that may distinguish the value.
    is_incomplete: bool = False

    def add(self, path: str, text: str, token: int) -> None:
        """Add a part that has no parts of its own."""
        self.tokens.append(hash((path, token)))
        if len(self.fields) < _MAX_FIELDS:
            self.fields.append((path, text))
            self.field_tokens.append(self.tokens[-1])

    def note(self, path: str, text: str, token: int) -> None:
        """Add a part that is shown but does not distinguish the value."""
        if len(self.fields) < _MAX_FIELDS:
            self.fields.append((path, text))
            self.field_tokens.append(token)


def describe(value: Any, numbers: Numbers) -> Value:
    """Return a value as plain text, with its parts and the tokens that distinguish it from others."""
    value = _unwrapped(value)
    kind = type(value)
    parts = _Parts()
    text = _walk(value, "", 0, parts, numbers)
    facts = class_facts(kind)
    hashing = facts.hashing
    token = numbers.of(value) if hashing != "plain" else hash(tuple(parts.tokens))
    if parts.is_incomplete and hashing == "plain":
        hashing = "custom"
    # A value that is shown as a whole has no parts.
    is_single = len(parts.fields) == 1 and not parts.fields[0][0]
    fields, tokens = ((), ()) if is_single else (tuple(parts.fields), tuple(parts.field_tokens))
    return Value(type=facts.name, text=text, fields=fields, token=token, hashing=hashing, field_tokens=tokens)


def plain_text(value: Any) -> str:
    """Return the text of a value only."""
    return describe(value, Numbers()).text


def array_text(value: Any) -> str | None:
    """Return `float32[8,8]` for a library's object with shape and dtype, else None."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not isinstance(shape, tuple) or dtype is None:
        return None
    return f"{dtype}[{','.join(map(str, shape))}]"


def _walk(value: Any, path: str, depth: int, parts: _Parts, numbers: Numbers) -> str:
    """Return the text of a value; adds its parts and their tokens."""
    value = _unwrapped(value)
    kind = type(value)
    parts.visits += 1
    simple = _simple(value, kind, numbers)
    if simple is not None:
        parts.add(path, *simple)
        if kind is types.FunctionType:
            _note_captured(value, path, 0, parts)
        return simple[0]
    if depth >= _MAX_DEPTH or id(value) in parts.above:
        # A cycle holds nothing new; what is cut off may.
        is_cycle = id(value) in parts.above
        parts.is_incomplete |= not is_cycle
        parts.add(path, "…", 0 if is_cycle else numbers.of(value))
        return "…"
    if issubclass(kind, _SETS):
        text, token = _walk_set(value, kind, depth, parts, numbers)
        parts.add(path, text, token)
        return text
    children = parts_of(value, kind)
    if children is None:
        text = f"<{class_facts(kind).name}>"
        parts.add(path, text, numbers.of(value))
        return text
    parts.above.add(id(value))
    shown = _walk_children(children, path, depth, parts, numbers)
    parts.above.discard(id(value))
    parts.tokens.append(hash((class_facts(kind).name, len(shown))))
    text = shorten(composed_text(value, kind, shown))
    if depth and class_facts(kind).hashing == "identity":
        # Objects that equal only themselves differ even if their texts are equal.
        parts.tokens.append(numbers.of(value))
        if shown:
            parts.note(path, text, numbers.of(value))
    if not shown and path:
        parts.add(path, text, 0)
    return text


def _note_captured(value: Any, path: str, depth: int, parts: _Parts) -> None:
    """Add numbers and strings that a function captures, also through other functions: the rate of an optimizer.

    They are shown but do not distinguish the function, which equals only itself.
    """
    kind = type(value)
    if depth > _MAX_CAPTURED_DEPTH or parts.visits >= MAX_PARTS:
        return
    parts.visits += 1
    shown = number_text(value, kind) if depth else None
    if shown is None and depth and kind is str:
        shown = quoted(value, str), hash(value)
    if shown is not None:
        parts.note(path, *shown)
        return
    if kind is types.FunctionType:
        below = [(f".{name}", content) for name, content in closure_of(value)]
    elif kind is list or kind is functools.partial or issubclass(kind, tuple):
        below = [(name, child) for name, child, _ in parts_of(value, kind) or ()]
    else:
        below = []
    for name, child in below:
        _note_captured(child, path + name, depth + 1, parts)


def _walk_children(children: Iterator[Child], path: str, depth: int, parts: _Parts, numbers: Numbers) -> list[str]:
    shown: list[str] = []
    length = 0
    for name, child, label in children:
        if parts.visits >= MAX_PARTS:
            parts.is_incomplete = True
            shown.append("…")
            break
        text = _walk(child, path + name, depth + 1, parts, numbers)
        if length < MAX_TEXT:
            shown.append(label + text)
            length += len(shown[-1]) + 2
    return shown


def _walk_set(value: Any, kind: type, depth: int, parts: _Parts, numbers: Numbers) -> tuple[str, int]:
    """Return text and token of a set; elements are sorted by text, so that equal sets have equal texts."""
    base = set if issubclass(kind, set) else frozenset
    tokens: set[int] = set()
    texts: list[str] = []
    for one in itertools.islice(base.__iter__(value), max(0, MAX_PARTS - parts.visits)):
        below = _Parts(above=parts.above, visits=parts.visits)
        _walk(one, "", depth + 1, below, numbers)
        parts.visits, parts.is_incomplete = below.visits, parts.is_incomplete or below.is_incomplete
        tokens.add(hash(tuple(below.tokens)))
        if len(texts) < _MAX_FIELDS:
            texts.append(key_text(one))
    is_whole = parts.visits < MAX_PARTS
    parts.is_incomplete |= not is_whole
    text = shorten(f"{{{', '.join(sorted(texts))}}}")
    return text, hash(frozenset(tokens)) if is_whole else numbers.of(value)


def _simple(value: Any, kind: type, numbers: Numbers) -> tuple[str, int] | None:
    """Return text and token of a value that is shown as a whole, else None."""
    if value is None or value is Ellipsis:
        return repr(value), 1
    # The most frequent classes first: the description of a model has thousands of them.
    if kind is str:
        return quoted(value, str), hash(value)
    if kind is tuple or kind is list or kind is dict:
        return None
    if issubclass(kind, enum.Enum):
        name = object.__getattribute__(value, "__dict__").get("_name_")
        return f"{class_facts(kind).name}.{shorten(name) if type(name) is str else '?'}", numbers.of(value)
    number = number_text(value, kind)
    if number is not None:
        return number
    for text in (str, bytes):
        if issubclass(kind, text):
            return quoted(value, text), text.__hash__(value)
    if kind is types.MethodType:
        # Every access makes a new method; two are equal if object and function are the same.
        return callable_text(value), hash((numbers.of(value.__self__), numbers.of(value.__func__)))
    if issubclass(kind, CALLABLES):
        return callable_text(value), numbers.of(value)
    if kind is types.ModuleType:
        name = types.ModuleType.__getattribute__(value, "__dict__").get("__name__")
        return f"<module {shorten(name) if type(name) is str else '?'}>", numbers.of(value)
    facts = class_facts(kind)
    if facts.is_library:
        return _library_text(value, kind, numbers)
    return _by_text(repr(value)) if facts.is_standard else None


def _library_text(value: Any, kind: type, numbers: Numbers) -> tuple[str, int] | None:
    """Return text and token of arrays, dtypes, shardings and functions of JAX and NumPy; None for other objects."""
    name, numpy = class_facts(kind).name, sys.modules["numpy"]
    if name in ("PartitionSpec", "P"):
        return _by_text(spec_text(value))
    if name in ("Mesh", "AbstractMesh"):
        return _by_text(mesh_text(value) or name)
    if name == "Device":
        return _by_text(device_name(value))
    if issubclass(kind, numpy.dtype):
        return _by_text(str(value))
    if issubclass(kind, numpy.generic):
        return _by_text(f"{value.dtype}({value!s})")
    array = array_text(value)
    if array is not None:
        # The contents of arrays are not read, so only the same object is known to be equal.
        return array, numbers.of(value)
    wrapped = getattr(value, "__wrapped__", None)
    if type(wrapped) is types.FunctionType and str(wrapped.__module__).partition(".")[0] != "jax":
        return callable_text(wrapped), numbers.of(value)
    label = getattr(value, "__name__", None)
    if callable(value) and type(label) is str:
        return shorten(label), numbers.of(value)
    return None


def _by_text(text: str) -> tuple[str, int]:
    return shorten(text), hash(text)
