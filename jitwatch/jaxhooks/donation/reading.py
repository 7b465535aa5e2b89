"""Reads the leaves of a tree whose structure is known, two to nine times as fast as flattening it anew.

JAX sorts the keys of every dictionary on each flattening, and builds a description of the tree that nobody needs
here. A reader knows the keys in order, and looks that each container is what it was; a tree of another structure
is a `Changed`. What stands in the place of a leaf is not looked at.

A reader is a function written for its tree: a check for each container, then one list with all leaves, as in

    def read(t0):
        if t0.__class__ is not dict or len(t0) != 2: raise Changed
        t1 = t0[k0]
        if t1.__class__ is not list or len(t1) != 2: raise Changed
        return [*t1, t0[k1]]

A call for each container instead costs twice as much. Nothing of the user is in the text: keys and classes are
passed by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

Reader = Callable[[Any], list[Any]]
#: Gives the children of a container, and None for a leaf (JAX's `flatten_one_level`).
Split = Callable[[Any], Any]

#: Deeper trees are flattened by JAX, and larger ones: writing a reader takes 20 µs a container.
_MAX_DEPTH = 50
_MAX_CONTAINERS = 5_000
#: Leaves of one dictionary from which on one call for all of them is faster.
_MANY = 4


class Changed(Exception):  # noqa: N818 - no error of anybody's: the caller takes the other way
    """A tree does not have the structure that a reader was made for."""


def reader_of(tree: Any, split: Split) -> Reader | None:
    """A reader that returns the leaves of trees like this one, in JAX's order; None for a leaf.

    Raises:
        Changed: There is no reader for such a tree.
    """
    writer = _Writer(split)
    found = writer.leaves_of(tree, "t0", 0)
    return None if found == ["t0"] and not writer.lines else writer.function(found)


class _Writer:
    """Writes a reader.

    Attributes:
        lines: What is done so far.
    """

    def __init__(self, split: Split) -> None:
        self.lines: list[str] = []
        self._split = split
        self._names: dict[str, Any] = {"Changed": Changed, "split": split}
        self._containers = 0

    def function(self, leaves: list[str]) -> Reader:
        """The reader: what was written, and these leaves."""
        body = "\n  ".join([*self.lines, f"return [{', '.join(leaves)}]"])
        text = f"def read(t0):\n try:\n  {body}\n except KeyError:\n  raise Changed from None\n"
        exec(compile(text, "<jitwatch reader>", "exec"), self._names)  # noqa: S102 - our own text
        reader: Reader = self._names["read"]
        return reader

    def leaves_of(self, tree: Any, name: str, depth: int) -> list[str]:
        """Expressions for the leaves of a tree that has this name, after the checks for what they need."""
        if depth > _MAX_DEPTH or self._containers > _MAX_CONTAINERS:
            raise Changed
        kind = tree.__class__
        if tree is None:
            self.lines.append(f"if {name} is not None: raise Changed")
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
        self.lines.append(f"if {name}.__class__ is not {self._constant(kind)}: raise Changed")
        self.lines.append(f"{inside} = list(split({name})[0])")
        self.lines.append(f"if len({inside}) != {len(children)}: raise Changed")
        return self._of_sequence(children, inside, depth)

    def _of_dictionary(self, tree: dict[Any, Any], name: str, depth: int) -> list[str]:
        # Keys of other classes have code of their own.
        if not {type(key) for key in tree} <= {str, int}:
            raise Changed
        keys = sorted(tree)
        self._check(name, "dict", len(keys))
        if len(keys) >= _MANY and all(self._is_leaf(tree[key]) for key in keys):
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
        self.lines.append(f"if {name}.__class__ is not {kind} or len({name}) != {size}: raise Changed")

    def _constant(self, value: Any) -> str:
        name = self._new_name("k")
        self._names[name] = value
        return name

    def _new_name(self, letter: str) -> str:
        self._containers += 1
        return f"{letter}{self._containers}"
