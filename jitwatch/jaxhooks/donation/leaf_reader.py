"""Reads the leaves of a tree of known structure, two to nine times as fast as flattening it again.

JAX sorts the keys of every dictionary on each flattening and builds a tree structure that is not needed here. A reader
knows the order of the keys and checks the class and size of each container; for a tree of another structure it raises
`StructureChanged`. Leaves are not checked.

A reader is a function generated for its tree: a check for each container, then one list of all leaves, as in

    def read(t0):
        if t0.__class__ is not dict or len(t0) != 2: raise StructureChanged
        t1 = t0[k0]
        if t1.__class__ is not list or len(t1) != 2: raise StructureChanged
        return [*t1, t0[k1]]

One function call per container instead costs twice as much. The generated text contains no user data: keys and
classes are passed by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

Reader = Callable[[Any], list[Any]]
#: Returns the children of a container, and None for a leaf (JAX's `flatten_one_level`).
Split = Callable[[Any], Any]

#: Deeper and larger trees are flattened by JAX: generating a reader takes 20 µs per container.
_MAX_DEPTH = 50
_MAX_CONTAINERS = 5_000
#: Number of leaves in a dictionary from which on one `itemgetter` call for all of them is faster.
_MANY_LEAVES = 4


class StructureChanged(Exception):  # noqa: N818 - no error: the caller falls back to flattening
    """A tree does not have the structure that a reader was made for."""


def reader_of(tree: Any, split: Split) -> Reader | None:
    """Return a reader for the leaves of trees like this one, in JAX's order; None for a single leaf.

    Raises:
        StructureChanged: There is no reader for such a tree.
    """
    writer = _Writer(split)
    found = writer.leaves_of(tree, "t0", 0)
    return None if found == ["t0"] and not writer.lines else writer.function(found)


class _Writer:
    """Generates the source of a reader, a list of lines."""

    def __init__(self, split: Split) -> None:
        self.lines: list[str] = []
        self._split = split
        self._names: dict[str, Any] = {"StructureChanged": StructureChanged, "split": split}
        self._containers = 0

    def function(self, leaves: list[str]) -> Reader:
        """Compile a reader that runs the statements so far and returns these leaves."""
        body = "\n  ".join([*self.lines, f"return [{', '.join(leaves)}]"])
        text = f"def read(t0):\n try:\n  {body}\n except KeyError:\n  raise StructureChanged from None\n"
        exec(compile(text, "<jitwatch reader>", "exec"), self._names)  # noqa: S102 - our own text
        reader: Reader = self._names["read"]
        return reader

    def leaves_of(self, tree: Any, name: str, depth: int) -> list[str]:
        """Return expressions for the leaves of a tree with this name, after adding the statements that they need."""
        if depth > _MAX_DEPTH or self._containers > _MAX_CONTAINERS:
            raise StructureChanged
        kind = tree.__class__
        if tree is None:
            self.lines.append(f"if {name} is not None: raise StructureChanged")
            return []
        if kind is dict:
            return self._of_dictionary(tree, name, depth)
        if kind is list or kind is tuple:
            self._check(name, kind.__name__, len(tree))
            return self._of_sequence(tree, name, depth)
        parts = self._split(tree)
        if parts is None:
            return [name]
        children, inside = list(parts[0]), self._new_name("t")
        self.lines.append(f"if {name}.__class__ is not {self._constant(kind)}: raise StructureChanged")
        self.lines.append(f"{inside} = list(split({name})[0])")
        self.lines.append(f"if len({inside}) != {len(children)}: raise StructureChanged")
        return self._of_sequence(children, inside, depth)

    def _of_dictionary(self, tree: dict[Any, Any], name: str, depth: int) -> list[str]:
        # Keys of other classes have code of their own.
        if not {type(key) for key in tree} <= {str, int}:
            raise StructureChanged
        keys = sorted(tree)
        self._check(name, "dict", len(keys))
        if len(keys) >= _MANY_LEAVES and all(self._is_leaf(tree[key]) for key in keys):
            return [f"*{self._constant(operator.itemgetter(*keys))}({name})"]
        return [leaf for key in keys for leaf in self._of_child(tree[key], f"{name}[{self._constant(key)}]", depth)]

    def _of_sequence(self, tree: Any, name: str, depth: int) -> list[str]:
        if tree and all(self._is_leaf(child) for child in tree):
            return [f"*{name}"]
        return [leaf for i, child in enumerate(tree) for leaf in self._of_child(child, f"{name}[{i}]", depth)]

    def _of_child(self, tree: Any, where: str, depth: int) -> list[str]:
        if self._is_leaf(tree):
            return [where]
        name = self._new_name("t")
        self.lines.append(f"{name} = {where}")
        return self.leaves_of(tree, name, depth + 1)

    def _is_leaf(self, tree: Any) -> bool:
        return tree is not None and tree.__class__ not in (dict, list, tuple) and self._split(tree) is None

    def _check(self, name: str, kind: str, size: int) -> None:
        self.lines.append(f"if {name}.__class__ is not {kind} or len({name}) != {size}: raise StructureChanged")

    def _constant(self, value: Any) -> str:
        name = self._new_name("k")
        self._names[name] = value
        return name

    def _new_name(self, letter: str) -> str:
        self._containers += 1
        return f"{letter}{self._containers}"
