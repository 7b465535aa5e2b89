"""The parts of composed Python values, read where Python itself stores them. Runs no user code."""

from __future__ import annotations

import collections
import functools
import gc
import itertools
import types
from collections.abc import Iterator
from typing import Any

from jitwatch.jaxhooks.values import structure
from jitwatch.jaxhooks.values.classes import class_attribute, class_facts
from jitwatch.jaxhooks.values.texts import attribute_path, key_text

#: Parts read of one value.
MAX_PARTS = 2_000
#: Attribute in which immutable mappings of libraries (flax's FrozenDict) store their items.
_INNER_DICT = "_dict"
_SEQUENCES = (tuple, list, collections.deque)

#: Path, value and label of a part.
Child = tuple[str, Any, str]


def parts_of(value: Any, kind: type) -> Iterator[Child] | None:
    """Return path, value and label of each part of a composed value, or None if it has no readable parts."""
    names = class_attribute(kind, "_fields")
    if issubclass(kind, tuple) and isinstance(names, tuple) and len(names) == tuple.__len__(value):
        return ((f".{n}", v, f"{n}=") for n, v in zip(names, tuple.__iter__(value), strict=True))
    for sequence in _SEQUENCES:
        if issubclass(kind, sequence):
            return _sequence(list(itertools.islice(sequence.__iter__(value), MAX_PARTS)))
    if issubclass(kind, dict):
        return _items(value)
    if kind is types.MappingProxyType:
        # Its own `items` would call the inner mapping, which may be of a user's class.
        inside = gc.get_referents(value)
        return _items(inside[0]) if inside and isinstance(inside[0], dict) else None
    if issubclass(kind, functools.partial):
        return _partial(value)
    if class_facts(kind).is_treedef:
        return _treedef(value)
    state = _state_of(value, kind)
    inner = state.get(_INNER_DICT)
    if type(inner) is dict:
        return _items(inner)
    return ((attribute_path(n), v, f"{n}=") for n, v in state.items()) if state else None


def _sequence(items: list[Any]) -> Iterator[Child]:
    """Yield elements by index; those of a list of names with values, such as `dict.items()`, by name."""
    names = [one[0] for one in items if type(one) is tuple and len(one) == 2 and type(one[0]) is str]
    if len(items) < 2 or len(names) < len(items):
        return ((f"[{i}]", v, "") for i, v in enumerate(items))
    if len(set(names)) == len(names):
        return ((f"[{key_text(name)}]", v, f"{key_text(name)}: ") for name, v in items)
    return ((f"[{i}][{key_text(name)}]", v, f"{key_text(name)}: ") for i, (name, v) in enumerate(items))


def _items(value: Any) -> Iterator[Child]:
    """Yield items sorted by key: equal mappings may differ in order."""
    found = [(key_text(key), child) for key, child in itertools.islice(dict.items(value), MAX_PARTS)]
    for text, child in sorted(found, key=lambda one: one[0]):
        yield f"[{text}]", child, f"{text}: "


def _partial(value: Any) -> Iterator[Child]:
    func, args, keywords = (functools.partial.__dict__[name].__get__(value) for name in ("func", "args", "keywords"))
    yield ".func", func, ""
    yield from ((f".args[{i}]", v, "") for i, v in enumerate(args))
    yield from ((f".keywords[{key_text(k)}]", v, f"{k}=") for k, v in keywords.items() if type(k) is str)


def _treedef(tree: Any) -> Iterator[Child]:
    """Yield the parts of a `PyTreeDef`, whose own `repr` would call those of user classes."""
    data = tree.node_data()
    if data is None:
        yield from ()
        return
    kind, aux = data
    children = tree.children()
    keys = structure.keys_of_dict(kind, aux)
    names, held = structure.field_names(kind, aux, len(children))
    if keys is None and aux is not None and not names:
        yield ".aux", aux, ""
    elif held:
        first = len(aux) - len(held)
        yield from ((f".{name}", aux[first + i], f"{name}=") for i, name in enumerate(held))
    for i, child in enumerate(children):
        key = structure.child_key(kind, keys, i, names)
        yield key, child, f"{key[1:]}=" if names else ""


def _state_of(value: Any, kind: type) -> dict[str, Any]:
    """Return the attributes of an instance, from its dictionary and its slots."""
    facts = class_facts(kind)
    state: dict[str, Any] = {}
    for name, descriptor in facts.slots:
        try:
            state[name] = descriptor.__get__(value, kind)
        except AttributeError:
            continue  # an empty slot
    if facts.dictionary is not None:
        own = facts.dictionary.__get__(value, kind)
        if type(own) is dict:
            state |= {name: child for name, child in list(own.items()) if type(name) is str}
    if facts.compared is not None:
        # Counters and caches of a library or of the class (flax's `_id`) are not compared.
        return {name: child for name, child in state.items() if name in facts.compared}
    return state


def composed_text(value: Any, kind: type, shown: list[str]) -> str:
    """Return the text of a value, composed of the texts of its parts."""
    inside = ", ".join(shown)
    if kind is tuple:
        return f"({inside}{',' if len(shown) == 1 else ''})"
    if kind is list:
        return f"[{inside}]"
    if kind is dict:
        return f"{{{inside}}}"
    if class_facts(kind).is_treedef:
        data = value.node_data()
        name = "*" if data is None else getattr(data[0], "__name__", "?")
        return f"{name}({inside})" if data is not None and name != "NoneType" else name
    return f"{class_facts(kind).name}({inside})"
