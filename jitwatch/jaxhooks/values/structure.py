"""What JAX's tree structures (`PyTreeDef`) are made of: the keys of children, and what a node holds besides.

A custom node keeps what is not an array in its auxiliary data: the static fields of a dataclass, of an
equinox module or a flax state. JAX does not name them; here they get the names of the dataclass's fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.values.texts import class_attribute, class_name, key_text, module_of

#: Nodes that keep their keys in the auxiliary data; flax's is told by its name, for it may not be imported.
_DICTS = ("dict", "OrderedDict", "defaultdict", "FrozenDict")
_DICT_MODULES = ("builtins", "collections", "flax")
#: How dataclass fields are marked as no arrays: by equinox and `jax.tree_util`, and by flax.
_MARKS = (("static", True), ("pytree_node", False))


def is_leaf(tree: Any) -> bool:
    """Whether it is a single array."""
    return bool(tree.num_leaves == 1 and tree.num_nodes == 1)


def keys_of_dict(kind: Any, aux: Any) -> list[Any] | None:
    """Keys of a dictionary's children, or None for other nodes."""
    if kind is dict:
        return list(aux)
    if kind is tuple or kind is list or not isinstance(kind, type) or class_name(kind) not in _DICTS:
        return None
    if module_of(kind).partition(".")[0] not in _DICT_MODULES:
        return None
    return list(aux[1] if class_name(kind) == "defaultdict" else aux)


def child_key(kind: Any, keys: Sequence[Any] | None, index: int, names: Sequence[str]) -> str:
    """`['a']`, `.a` or `[0]`: how JAX calls the child, as far as that can be known.

    Args:
        kind: Class of the node.
        keys: Of a dictionary.
        index: Which child.
        names: Of the fields that are children, for named tuples and dataclasses; or empty.
    """
    if keys is not None and index < len(keys):
        return f"[{key_text(keys[index])}]"
    return f".{names[index]}" if names else f"[{index}]"


def field_names(kind: Any, aux: Any, count: int) -> tuple[list[str], list[str]]:
    """Names of a node's children and of its auxiliary data, each empty when they cannot be known.

    Args:
        kind: Class of the node.
        aux: Its auxiliary data.
        count: How many children it has.
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
    # Equinox puts data of its own before the fields.
    return (dynamic if len(dynamic) == count else []), (static if held >= len(static) else [])


def leaf_paths(tree: Any, path: str) -> Iterator[str]:
    """Names of the leaves, in order, for structures of which JAX tells none."""
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
