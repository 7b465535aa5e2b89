"""The parts of composed Python values and of JAX's tree structures (`PyTreeDef`). Runs no user code.

The parts of a value are read where Python itself stores them. A custom node of a tree structure keeps what is not an
array in its auxiliary data: the static fields of a dataclass, an equinox module or a flax state. They get the
names of the dataclass's fields, since JAX does not name them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import itertools
import types
from collections.abc import Iterator, Sequence
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.values.classes import class_attribute, class_facts, class_name, module_of
from jitwatch.jaxhooks.values.texts import attribute_path, key_text

#: Parts read of one value.
MAX_PARTS = 2_000
#: Attribute in which immutable mappings of libraries (flax's FrozenDict) store their items.
_INNER_DICT = "_dict"
_SEQUENCES = (tuple, list, collections.deque)

#: Path, value and label of a part.
Child = tuple[str, Any, str]
#: Nodes that keep their keys in the auxiliary data, by name, since flax may not be imported.
_DICTS = ("dict", "OrderedDict", "defaultdict", "FrozenDict")
_DICT_MODULES = ("builtins", "collections", "flax")
#: Metadata of dataclass fields that are static: of equinox and `jax.tree_util`, and of flax.
_MARKS = (("static", True), ("pytree_node", False))


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
    keys = keys_of_dict(kind, aux)
    names, held = field_names(kind, aux, len(children))
    if keys is None and aux is not None and not names:
        yield ".aux", aux, ""
    elif held:
        first = len(aux) - len(held)
        yield from ((f".{name}", aux[first + i], f"{name}=") for i, name in enumerate(held))
    for i, child in enumerate(children):
        key = child_key(keys, i, names)
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


def is_leaf(tree: Any) -> bool:
    """Whether the structure is a single leaf."""
    return bool(tree.num_leaves == 1 and tree.num_nodes == 1)


def keys_of_dict(kind: Any, aux: Any) -> list[Any] | None:
    """Return the keys of a dictionary's children, or None for other nodes."""
    if kind is dict:
        return list(aux)
    if kind is tuple or kind is list or not isinstance(kind, type) or class_name(kind) not in _DICTS:
        return None
    if module_of(kind).partition(".")[0] not in _DICT_MODULES:
        return None
    return list(aux[1] if class_name(kind) == "defaultdict" else aux)


def child_key(keys: Sequence[Any] | None, index: int, names: Sequence[str]) -> str:
    """Return JAX's key of a child, as far as it can be known: `['a']`, `.a` or `[0]`.

    `keys` are those of a dictionary, `names` those of the fields that are children, for named tuples and dataclasses.
    """
    if keys is not None and index < len(keys):
        return f"[{key_text(keys[index])}]"
    return f".{names[index]}" if names else f"[{index}]"


def field_names(kind: Any, aux: Any, count: int) -> tuple[list[str], list[str]]:
    """Return the names of a node's `count` children and of its auxiliary data, each empty if they cannot be known."""
    if kind is dict or kind is tuple or kind is list:
        return [], []
    named = class_attribute(kind, "_fields") if isinstance(kind, type) else None
    if isinstance(named, tuple) and issubclass(kind, tuple):
        return (list(named) if len(named) == count else []), []
    fields = class_attribute(kind, "__dataclass_fields__") if isinstance(kind, type) else None
    if type(fields) is not dict:
        return [], []
    dynamic, static = compat.registered_fields(kind) or _by_mark(fields)
    held = len(aux) if type(aux) is tuple else 0
    # Equinox has data of its own before the fields.
    return (dynamic if len(dynamic) == count else []), (static if held >= len(static) else [])


def leaf_paths(tree: Any, path: str) -> Iterator[str]:
    """Yield the paths of the leaves, in order, for structures that JAX does not name."""
    if is_leaf(tree):
        yield path
    elif tree.num_leaves:
        kind, aux = tree.node_data()
        children = tree.children()
        keys = keys_of_dict(kind, aux)
        names, _ = field_names(kind, aux, len(children))
        for i, child in enumerate(children):
            yield from leaf_paths(child, path + child_key(keys, i, names))


def _by_mark(fields: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the fields that are children, and of those marked as static."""
    marked = {
        name
        for name, field in fields.items()
        for key, value in _MARKS
        if type(field) is dataclasses.Field and field.metadata.get(key) is value
    }
    return [name for name in fields if name not in marked], [name for name in fields if name in marked]
