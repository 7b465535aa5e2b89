"""For any structure and any one change of it, the reported change is exactly that one."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jitwatch
from jitwatch.diagnosis import diff
from jitwatch.jaxhooks.values.arguments import nodes, usable
from jitwatch.jaxhooks.values.description import Numbers, describe
from jitwatch.model.signature import Placement, Signature
from tests.recompiles import compile_events

Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 8
    names: tuple[str, ...] = ("a",)
    inner: Any = None


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "int32", "bool"])
# A Python number is an array of weak type.
leaves = st.one_of(st.tuples(shapes, dtypes).map(lambda one: np.zeros(*one)), st.just(0.5), st.just(1))
keys = st.one_of(st.sampled_from(["a", "b", "w", "x.y", "it's", 'q"', "[0]", "ü"]), st.text(max_size=3))
trees = st.recursive(
    st.one_of(leaves, st.none()),
    lambda inside: st.one_of(
        st.dictionaries(keys, inside, max_size=3),
        st.lists(inside, max_size=3),
        st.lists(inside, max_size=3).map(tuple),
        st.tuples(inside, inside).map(lambda one: Pair(*one)),
    ),
    max_leaves=8,
)


@dataclasses.dataclass(frozen=True)
class Single:
    """One change: the arguments after it, and what must be said of it."""

    after: tuple[Any, Config]
    kind: str
    path: str


def places(tree: Any, path: str = "x") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a tree, containers included."""
    yield path, tree
    for step, child in children(tree):
        yield from places(child, path + step)


def children(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Pair):
        return [(f".{name}", child) for name, child in tree._asdict().items()]
    if isinstance(tree, dict):
        return [(f"[{key!r}]", child) for key, child in tree.items()]
    return [(f"[{i}]", child) for i, child in enumerate(tree)] if isinstance(tree, (list, tuple)) else []


def changed(tree: Any, path: str, value: Any, here: str = "x") -> Any:
    """The tree with another value in one place."""
    if here == path:
        return value
    below = [changed(child, path, value, here + step) for step, child in children(tree)]
    if isinstance(tree, Pair):
        return Pair(*below)
    if isinstance(tree, dict):
        return dict(zip(tree, below, strict=True))
    return type(tree)(below) if isinstance(tree, (list, tuple)) else tree


def is_leaf(value: Any) -> bool:
    return isinstance(value, (np.ndarray, float, int))


@st.composite
def changes_of_a_leaf(draw, tree: Any) -> tuple[Any, str, str] | None:
    """The tree with another leaf, the kind of the change and its path."""
    found = [(path, value) for path, value in places(tree) if is_leaf(value)]
    if not found:
        return None
    path, leaf = draw(st.sampled_from(found))
    array = jnp.asarray(leaf)
    kind = draw(st.sampled_from(["shape", "dtype", "weak_type", "none"]))
    if kind == "none":
        return changed(tree, path, None), "tree_structure", path
    if kind == "weak_type" and isinstance(leaf, (float, int)):
        return changed(tree, path, np.asarray(leaf, array.dtype)), kind, path
    if kind == "shape" and isinstance(leaf, np.ndarray):
        shape = draw(shapes.filter(lambda one: one != leaf.shape))
        return changed(tree, path, np.zeros(shape, leaf.dtype)), kind, path
    other = next(one for one in ("int32", "float32") if one != array.dtype)
    value = {"int32": 1, "float32": 0.5}[other] if not isinstance(leaf, np.ndarray) else leaf.astype(other)
    return changed(tree, path, value), "dtype", path


@st.composite
def changes_of_the_structure(draw, tree: Any) -> tuple[Any, str, str] | None:
    """The tree with a key or an item more or fewer."""
    found = [(path, value) for path, value in places(tree) if isinstance(value, (dict, list))]
    if not found:
        return None
    path, container = draw(st.sampled_from(found))
    new = draw(leaves)
    if isinstance(container, list):
        is_shorter = bool(container) and draw(st.booleans())
        place = f"{path}[{len(container) - is_shorter}]"
        return changed(tree, path, container[:-1] if is_shorter else [*container, new]), "tree_structure", place
    if container and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(container)))
        fewer = {name: child for name, child in container.items() if name != key}
        return changed(tree, path, fewer), "tree_structure", f"{path}[{key!r}]"
    key = draw(keys.filter(lambda one: one not in container))
    return changed(tree, path, container | {key: new}), "tree_structure", f"{path}[{key!r}]"


@st.composite
def changes_of_a_static(draw, config: Config) -> tuple[Config, str, str]:
    name, value = draw(st.sampled_from([("width", 9), ("names[0]", ("b",)), ("inner", 3)]))
    field = name.partition("[")[0]
    return dataclasses.replace(config, **{field: value}), "static_arg", f"config.{name}"


@st.composite
def single_changes(draw) -> tuple[tuple[Any, Config], Single]:
    """Arguments, and the same with one change."""
    tree, config = draw(trees), Config()
    way = draw(st.sampled_from([changes_of_a_leaf, changes_of_the_structure, changes_of_a_static]))
    made = draw(way(tree)) if way is not changes_of_a_static else None
    if made is None:
        other, kind, path = draw(changes_of_a_static(config))
        return (tree, config), Single((tree, other), kind, path)
    return (tree, config), Single((made[0], config), made[1], made[2])


#: `FUZZ_EXAMPLES=20000 pytest tests/unit/test_causes_property.py` looks for longer.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SETTINGS = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def numbers():
    return Numbers()


@settings(SETTINGS, max_examples=EXAMPLES // 6)
@given(single_changes())
def test_change_of_a_program_is_the_one_that_was_made(example):
    """The second compile of a real function has one change, of this kind and at this path."""
    before, single = example
    with jitwatch.install(port=0, probes="compile") as watch:
        target = jax.jit(lambda x, config: 1, static_argnames="config")
        target(before[0], config=before[1])
        target(single.after[0], config=single.after[1])
        *_, event = compile_events(watch)
    assert [(single.kind, single.path)] == [(one["kind"], one["path"]) for one in event.get("changes", [])]
    assert [single.kind] == event["causes"]


def signature(arguments: tuple[Any, Config], numbers: Numbers) -> Signature:
    """What the hooks would make of these arguments, without a trace."""
    tree, config = arguments
    named, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = usable(["x" + jax.tree_util.keystr(path) for path, _ in named], len(named))
    structure = jax.tree_util.tree_structure(((tree,), {}))
    return Signature(
        function=1,
        paths=paths,
        shapes=tuple(np.shape(leaf) for _, leaf in named),
        dtypes=tuple(str(jnp.result_type(leaf)) for _, leaf in named),
        weak_types=tuple(not isinstance(leaf, np.ndarray) for _, leaf in named),
        placements=(Placement(),) * len(named),
        tree=tuple(nodes(structure, None, ["x"], paths, numbers)),
        tree_token=hash(structure),
        statics=(("config", describe(config, numbers)),),
    )


@settings(SETTINGS, max_examples=2 * EXAMPLES)
@given(example=single_changes())
def test_change_of_a_signature_is_the_one_that_was_made(example, numbers):
    """The same without compiling, for many more; and forth and back are equally far."""
    before, single = example
    old, new = signature(before, numbers), signature(single.after, numbers)
    assert [(single.kind, single.path)] == [(one.kind, one.path) for one in diff.changes(old, new)]
    assert diff.distance(old, new) == diff.distance(new, old) > 0


@settings(SETTINGS, max_examples=EXAMPLES)
@given(tree=trees)
def test_equal_arguments_make_equal_signatures(tree, numbers):
    """Values are no part of a signature, and neither are the objects that hold them."""
    one = signature((tree, Config()), numbers)
    other = signature((jax.tree.map(lambda leaf: leaf + 1 if leaf is not True else leaf, tree), Config()), numbers)
    assert (one, []) == (signature((tree, Config()), numbers), diff.changes(one, one))
    assert (one.paths, one.tree) == (other.paths, other.tree)


@settings(SETTINGS, max_examples=EXAMPLES)
@given(tree=trees)
def test_every_container_has_the_path_that_leads_to_it(tree, numbers):
    """Also those in which there is no array at all."""
    expected = [path for path, value in places(tree) if not is_leaf(value)]
    assert sorted(expected) == sorted(path for path, _ in signature((tree, Config()), numbers).tree)
