"""Reads JAX's tree structures (`PyTreeDef`): the keys of children, and the auxiliary data of nodes.

A custom node keeps what is not an array in its auxiliary data: the static fields of a dataclass, an equinox module or a
flax state. JAX does not name them; here they get the names of the dataclass's fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.values.classes import class_attribute, class_name, module_of
from jitwatch.jaxhooks.values.texts import key_text

#: Nodes that keep their keys in the auxiliary data, by name, since flax may not be imported.
_DICTS = ("dict", "OrderedDict", "defaultdict", "FrozenDict")
_DICT_MODULES = ("builtins", "collections", "flax")
#: Metadata of dataclass fields that are static: of equinox and `jax.tree_util`, and of flax.
_MARKS = (("static", True), ("pytree_node", False))


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


def child_key(kind: Any, keys: Sequence[Any] | None, index: int, names: Sequence[str]) -> str:
    """Return JAX's key of a child, as far as it can be known: `['a']`, `.a` or `[0]`.

    Args:
        kind: Class of the node.
        keys: Keys, if it is a dictionary.
        index: Index of the child.
        names: Names of the fields that are children, for named tuples and dataclasses; or empty.
    """
    if keys is not None and index < len(keys):
        return f"[{key_text(keys[index])}]"
    return f".{names[index]}" if names else f"[{index}]"


def field_names(kind: Any, aux: Any, count: int) -> tuple[list[str], list[str]]:
    """Return the names of a node's children and of its auxiliary data, each empty if they cannot be known.

    Args:
        kind: Class of the node.
        aux: Its auxiliary data.
        count: Number of its children.
    """
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
            yield from leaf_paths(child, path + child_key(kind, keys, i, names))


def _by_mark(fields: dict[str, Any]) -> tuple[list[str], list[str]]:
    static = [name for name, field in fields.items() if _is_marked(field)]
    return [name for name in fields if name not in static], static


def _is_marked(field: Any) -> bool:
    metadata = field.metadata if type(field) is dataclasses.Field else {}
    return any(metadata.get(key) is value for key, value in _MARKS)
