"""Readers of leaves for trees of any structure."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
from hypothesis import given
from hypothesis import strategies as st

from jitwatch.jaxhooks.donation.leaf_reader import StructureChanged, reader_of

split = jax.tree_util.default_registry.flatten_one_level


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    content: Any


TREES = st.recursive(
    st.integers() | st.none(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.lists(children, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from("abcdef"), children, max_size=4)
        | st.dictionaries(st.integers(0, 5), children, max_size=3)
        | st.dictionaries(st.sampled_from("ab"), children, max_size=2).map(collections.OrderedDict)
        | st.builds(Pair, children, children)
        | st.builds(Box, children)
    ),
    max_leaves=20,
)


@given(TREES)
def test_leaves_are_those_of_jax(tree):
    """Any tree, in JAX's order; again for another tree of the same structure."""
    reader = reader_of(tree, split)
    if reader is None:
        assert jax.tree.leaves(tree) == [tree]
        return
    assert jax.tree.leaves(tree) == reader(tree)
    other = jax.tree.map(lambda leaf: leaf + 1, tree)
    assert jax.tree.leaves(other) == reader(other)


@given(TREES, TREES)
def test_another_structure_is_noticed(tree, other):
    """A reader reads a tree right or not at all; a container in the place of a leaf is handed on as one."""
    reader = reader_of(tree, split)
    if reader is None:
        return
    try:
        leaves = reader(other)
    except StructureChanged:
        assert jax.tree.structure(tree) != jax.tree.structure(other)
    else:
        assert jax.tree.leaves(other) == jax.tree.leaves(leaves)
