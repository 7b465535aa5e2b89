"""The arguments of a call as JAX sees them: names of positions, static arguments, and containers with their paths.

JAX names the leaves. The path of a container is the start of the path of its first leaf; only nodes without leaves
(None, an empty dict) are named here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from jitwatch.jaxhooks.values.classes import class_name
from jitwatch.jaxhooks.values.description import Numbers, describe
from jitwatch.jaxhooks.values.parts import child_key, field_names, is_leaf, keys_of_dict
from jitwatch.jaxhooks.values.texts import key_text, shorten
from jitwatch.model.signature import Node, Value

#: Nodes visited, leaves included.
_MAX_NODES = 20_000
MAX_PATH = 200
#: A key of a path: `.name`, `['text']`, `["text"]` or `[0]`.
_KEY = re.compile(r"""\.[^.\[\]]+|\['(?:[^'\\]|\\.)*'\]|\["(?:[^"\\]|\\.)*"\]|\[[^\[\]'"]*\]""")
_BASE = re.compile(r"\w+")

#: A tree structure, its path as far as known, and the index of its first leaf.
_Subtree = tuple[Any, str, int]


def usable(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return JAX's names of the leaves, each of bounded length and in one line; `args[i]` where it has none."""
    if names is None or len(names) != count:
        return tuple(f"args[{i}]" for i in range(count))
    if count and (max(map(len, names)) > MAX_PATH or not "".join(names).isprintable()):
        # With a part of the hash, to distinguish keys with a common start.
        cut = (f"{shorten(name, MAX_PATH - 10)}#{hash(name) & 0xFFFFFF:06x}" for name in names)
        return tuple(
            name if len(name) <= MAX_PATH and name.isprintable() else short
            for name, short in zip(names, cut, strict=True)
        )
    return tuple(names)


def positions(static_argnums: Sequence[int], count: int) -> set[int]:
    """Return which of `count` positional arguments are static."""
    return {i % count for i in static_argnums if -count <= i < count} if count and static_argnums else set()


def count_static(ji: Any) -> int:
    """Return the number of static parameters; JAX adds the names for the numbers and vice versa."""
    if not ji.static_argnames and not ji.static_argnums:
        return 0
    parameters = list(getattr(ji.fun_signature, "parameters", ()))
    count = len(parameters)
    return len({*ji.static_argnames, *(parameters[i] if -count <= i < count else i for i in ji.static_argnums)})


def names_of_positions(signature: Any, count: int) -> list[str]:
    """Return the names of the positional arguments of a call, `rest[0]` for those of `*rest`."""
    names: list[str] = []
    for name, parameter in getattr(signature, "parameters", {}).items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}[{i}]" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    names += [f"args[{i}]" for i in range(len(names), count)]
    return names[:count]


def static_arguments(ji: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return name and value of the static arguments of a call."""
    names = names_of_positions(ji.fun_signature, len(args))
    found = [(names[i], args[i]) for i in sorted(positions(ji.static_argnums, len(args)))]
    return found + [(name, kwargs[name]) for name in ji.static_argnames if name in kwargs]


def defaults_of_static(ji: Any, passed: Sequence[str]) -> list[tuple[str, Any]]:
    """Return name and default value of the static arguments that a call leaves out."""
    parameters = getattr(ji.fun_signature, "parameters", {})
    named = list(parameters)
    names = [*(named[i] for i in ji.static_argnums if -len(named) <= i < len(named)), *ji.static_argnames]
    found = dict.fromkeys(name for name in names if name in parameters and name not in passed)
    return [
        (name, parameters[name].default) for name in found if parameters[name].default is not parameters[name].empty
    ]


def nodes(
    tree: Any,
    signature: Any,
    positional: Sequence[str],
    leaves: Sequence[str],
    numbers: Numbers,
    *,
    limit: int = _MAX_NODES,
) -> Iterator[tuple[str, Node]]:
    """Yield containers, Nones and custom nodes of the arguments, each with its path.

    Args:
        tree: JAX's structure of the arguments that are not static, as a tuple and a dictionary.
        signature: The function's signature.
        positional: Names of the positional arguments among them.
        leaves: JAX's names of the leaves.
        numbers: Numbers classes, and objects that nodes hold.
        limit: Nodes visited, leaves included.
    """
    return nodes_below(_roots(tree, signature, positional, leaves), leaves, numbers, limit=limit)


def nodes_below(
    roots: Iterable[_Subtree], leaves: Sequence[str], numbers: Numbers, *, limit: int = _MAX_NODES
) -> Iterator[tuple[str, Node]]:
    """Yield the same for several structures, each with its path and the index of its first leaf."""
    stack = list(roots)[::-1]
    visited = len(stack)
    while stack and visited < limit:
        root, path, first = stack.pop()
        data = root.node_data()
        if data is None:
            if root.num_leaves == 0:
                yield path[:MAX_PATH], Node("None")
            continue
        kind, aux = data
        count = root.num_leaves
        # If there are no other nodes, each child is a leaf, and none of them has to be made.
        children = root.children() if root.num_nodes != count + 1 else None
        if children is not None:
            count = len(children)
        visited += count
        keys = keys_of_dict(kind, aux)
        names, held = field_names(kind, aux, count)
        yield path[:MAX_PATH], _node(data, count, keys, held, numbers)
        if children is None:
            continue
        below: list[_Subtree] = []
        for i, child in enumerate(children):
            inside = child.num_leaves
            if inside != 1 or child.num_nodes != 1:
                # The path extended by the next key on the way to the first leaf.
                key = _KEY.match(leaves[first], len(path)) if inside and leaves[first].startswith(path) else None
                known = leaves[first][: key.end()] if key is not None else None
                below.append((child, known or path + child_key(keys, i, names), first))
            first += inside
        stack.extend(reversed(below))


def _roots(tree: Any, signature: Any, positional: Sequence[str], leaves: Sequence[str]) -> Iterator[_Subtree]:
    args, kwargs = tree.children()
    first = 0
    for name, child in zip(positional, args.children(), strict=False):
        if not is_leaf(child):
            yield child, _path_of(child, leaves, first) or name, first
        first += child.num_leaves
    data = kwargs.node_data()
    parameters = getattr(signature, "parameters", {})
    rest = next((name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD), None)
    for key, child in zip(data[1] if data is not None else (), kwargs.children(), strict=False):
        if not is_leaf(child):
            name = key if key in parameters or rest is None else f"{rest}[{key_text(key)}]"
            yield child, _path_of(child, leaves, first) or name, first
        first += child.num_leaves


def _path_of(tree: Any, leaves: Sequence[str], first: int) -> str | None:
    """Return the path of a node, from the path of its first leaf; None if it has no leaf."""
    if tree.num_leaves == 0 or first >= len(leaves):
        return None
    depth = 0
    while not is_leaf(tree):
        tree = next(child for child in tree.children() if child.num_leaves)
        depth += 1
    cuts = _cuts(leaves[first])
    return leaves[first][: cuts[-depth]] if 0 < depth <= len(cuts) else None


def _cuts(path: str) -> list[int]:
    """Return where the keys of a path begin; an empty list for a path of another form."""
    base = _BASE.match(path)
    at = base.end() if base else len(path)
    found: list[int] = []
    while at < len(path):
        key = _KEY.match(path, at)
        if key is None:
            return []
        found.append(at)
        at = key.end()
    return found


def _node(data: tuple[Any, Any], count: int, keys: Sequence[Any] | None, held: Sequence[str], numbers: Numbers) -> Node:
    kind, aux = data
    if kind is type(None):
        return Node("None")
    if kind is dict or kind is list or kind is tuple:
        return Node(kind.__name__, count)
    name = class_name(kind) if isinstance(kind, type) else shorten(type(kind).__name__)
    order = tuple(key_text(key) for key in keys) if keys is not None and name == "OrderedDict" else ()
    number = numbers.of(kind)
    if name == "defaultdict" and keys is not None:
        return Node(name, number=number, aux=describe(aux[0], numbers))
    if keys is not None or aux is None or (isinstance(kind, type) and issubclass(kind, tuple)):
        return Node(name, number=number, order=order)
    return Node(name, number=number, aux=_named(describe(aux, numbers), len(aux) if type(aux) is tuple else 0, held))


def _named(value: Value, count: int, names: Sequence[str]) -> Value:
    """Return the value of a tuple of auxiliary data, with `.n` instead of `[0]` where the names are known."""
    if not names:
        return value
    first = count - len(names)
    renamed = {f"[{first + i}]": f".{name}" for i, name in enumerate(names)}
    # Otherwise a single item has no field of its own.
    fields = value.fields or ((f"[{first}]", value.text),)
    found = []
    for path, text in fields:
        end = path.find("]") + 1
        found.append((renamed.get(path[:end], path[:end]) + path[end:], text))
    return replace(value, fields=tuple(found))
