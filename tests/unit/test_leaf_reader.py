"""Readers give what JAX's flattening gives, or say that the tree has changed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch.jaxhooks.donation.leaf_reader import StructureChanged, reader_of
from tests.unit.donations import short, values, violations


class Key:
    """A key with an order and a hash of its own."""

    def __lt__(self, other):
        raise AssertionError("the user's code was run")


@pytest.mark.parametrize("tree", [{Key(): 1}, {("a", 1): 1, ("b", 2): 2}, {1.5: 1}])
def test_keys_of_other_classes_have_no_reader(tree):
    """Their comparison and hash are the user's code."""
    with pytest.raises(StructureChanged):
        reader_of(tree, split)


split = jax.tree_util.default_registry.flatten_one_level


def test_deep_trees_have_no_reader():
    """JAX flattens them."""
    tree: Any = 1
    for _ in range(100):
        tree = [tree]
    with pytest.raises(StructureChanged):
        reader_of(tree, split)


def tree_leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def ones(count):
    return [jnp.ones(2) for _ in range(count)]


def states():
    """Five leaves each: three structures, and two of them again."""
    first = {"a": ones(3), "b": {"x": jnp.ones(2), "y": jnp.ones(2)}}
    second = {"a": ones(2), "b": {name: jnp.ones(2) for name in ("x", "y", "z")}}
    return [first, second, {"a": ones(5)}, jax.tree.map(jnp.copy, first), jax.tree.map(jnp.copy, second)]


def test_structures_in_turn_are_all_recorded():
    """Every leaf of every call is taken down by its own name, whichever structure came before."""
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
        given = [state for _ in range(3) for state in states()]
        for state in given:
            step(state)
        leaves = [leaf for state in given for leaf in jax.tree.leaves(state)]
        for leaf in leaves:
            with pytest.raises(RuntimeError):
                repr(leaf)
        events = violations(watch)
        assert len(leaves) == len(events) == 75
        assert {"<lambda>"} == {short(event["donated_by"]) for event in events}
        named = [f"state{jax.tree_util.keystr(path)}" for state in given for path, _ in tree_leaves(state)]
        assert named == [event["donated_leaf"] for event in events]
        assert {"<lambda>": 15} == values(watch, "calls_total")
        assert {"<lambda>": 75 * 8} == values(watch, "donated_bytes_total")


def test_names_and_bytes_are_right_after_the_cache_was_cleared():
    """As many programs and leaves as before, but others: nothing of the structure before is kept."""
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
        step({"a": jnp.ones(2), "b": jnp.ones(4)})
        for clear, size in ((step.clear_cache, 1000), (jax.clear_caches, 500)):
            clear()
            state = {"c": jnp.ones(2), "d": jnp.ones(size)}
            step(state)
            with pytest.raises(RuntimeError):
                repr(state["d"])
        assert ["state['d']"] * 2 == [event["donated_leaf"] for event in violations(watch)]
        assert {"<lambda>": 4 * (6 + 1002 + 502)} == values(watch, "donated_bytes_total")


@pytest.mark.parametrize("odd", [3.0, None, "key", "unused"])
def test_odd_leaves_are_right_beside_regular_ones(odd):
    """A number, nothing, a random key, an array that is not used: the others die by their names, and are counted."""
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        step = jax.jit(lambda state: {name: state[name] + 1 for name in ("a", "z")}, donate_argnums=0)
        for _ in range(4):
            extra = {"key": jax.random.key(0), "unused": jnp.ones(3)}.get(odd, odd) if isinstance(odd, str) else odd
            state = {"a": jnp.ones(2), "m": extra, "z": jnp.ones(5)}
            step(state)
            for name in ("a", "z"):
                with pytest.raises(RuntimeError):
                    repr(state[name])
        assert ["state['a']", "state['z']"] * 4 == [event["donated_leaf"] for event in violations(watch)]
        assert {"<lambda>": 4 * 4 * 7} == values(watch, "donated_bytes_total")
