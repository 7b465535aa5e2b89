"""Names of leaves as the user would write them: `state.params['w1']`. No code of the user's objects is run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_MAX_PATH = 200


def leaf_paths(roots: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    """Path of every leaf below these named values, in JAX's order."""
    return tuple(path for name, tree in roots for path, _ in named_leaves(name, tree))


def named_leaves(name: str, tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of a value with its path."""
    flattened, _ = sys.modules["jax"].tree_util.tree_flatten_with_path(tree)
    return [((name + "".join(map(_step, keys)))[:_MAX_PATH], leaf) for keys, leaf in flattened]


def root_of(path: str) -> str:
    """The argument that a path begins with."""
    for position, character in enumerate(path):
        if character in ".[":
            return path[:position] or path
    return path


def _step(key: Any) -> str:
    """One step of a path; keys of the user's own classes are not asked for their text."""
    name = getattr(key, "name", None)
    if type(name) is str:
        return f".{name}"
    for attribute in ("key", "idx"):
        value = getattr(key, attribute, None)
        if type(value) in (str, int):
            return f"[{value!r}]"
    return "[…]"
