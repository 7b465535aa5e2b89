"""Programs that are hard to look at: huge, endless, hostile. The verdict is shorter, and still useful."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch.model.taxonomy import JAX_LABEL
from tests.truths import assert_truths

#: Characters of a paragraph, however much has changed.
MAX_TEXT = 2_000
MAX_CHANGES = 64


def verdict_on(program):
    """Last recompile of the user's functions, pitfalls by name and subject, and the paragraphs of `explain()`."""
    with jitwatch.install(port=0) as watch:
        program()
        assert_truths(watch)
        state, paragraphs = watch.snapshot(), watch.explain().paragraphs
        events = watch.events(10_000)
    recompiles = [one for one in events if one["event"] == "jit.recompiled" and one["function"] != JAX_LABEL]
    assert all(len(one) <= MAX_TEXT for one in paragraphs)
    assert all(len(one["changes"]) <= MAX_CHANGES for one in recompiles)
    return recompiles, [(one["pitfall"], one["subject"]) for one in state["pitfalls"]], paragraphs


def test_state_of_ten_thousand_leaves():
    """All of which change their shape."""

    def program():
        step = jax.jit(lambda state: 0)
        for size in (1, 2, 3, 4, 5):
            step({f"layer_{number}": np.ones(size, np.float32) for number in range(10_000)})

    recompiles, pitfalls, paragraphs = verdict_on(program)
    assert 4 == len(recompiles)
    assert ["shape"] == recompiles[-1]["causes"]
    assert 10_000 == len(recompiles[-1]["changes"]) + recompiles[-1]["changes_left_out"]
    assert [("shape_churn", "state")] == pitfalls
    assert "state['layer_0'] float32[4] → float32[5]" in paragraphs[1]


def test_list_of_ten_thousand_scalars_that_grows():
    def program():
        total = jax.jit(lambda values: 0)
        for count in (10_000, 10_001):
            total([np.float32(1)] * count)

    recompiles, pitfalls, _ = verdict_on(program)
    assert [("values[10000]", "absent")] == [(one["path"], one["before"]) for one in recompiles[-1]["changes"]]
    assert [("tree_flip", "values")] == pitfalls


WIDE = dataclasses.make_dataclass("Wide", [(f"field_{number}", int) for number in range(300)], frozen=True)


def test_hundreds_of_static_fields():
    """As a static argument, as metadata of a pytree and captured: each change is found among them."""
    node = dataclasses.make_dataclass(
        "Node", [("w", object), *((f"field_{number}", int) for number in range(300))], frozen=True
    )
    jax.tree_util.register_dataclass(node, ["w"], [f"field_{number}" for number in range(300)])

    def static():
        step = jax.jit(lambda x, config: x, static_argnames="config")
        for last in (1, 2):
            step(1.0, config=WIDE(*range(299), last))

    def metadata():
        step = jax.jit(lambda one: one.w)
        for first in (1, 2):
            step(node(jnp.ones(2), first, *range(299)))

    recompiles, _, _ = verdict_on(static)
    assert ["config"] == [one["path"].partition(".")[0] for one in recompiles[-1]["changes"]]
    recompiles, _, _ = verdict_on(metadata)
    assert [("one.field_0", "1", "2")] == [
        (one["path"], one["before"], one["after"]) for one in recompiles[-1]["changes"]
    ]


class Touchy:
    """Counts whatever code of it runs; it fails as well."""

    touched: list[str]

    def __init__(self, touched):
        object.__setattr__(self, "touched", touched)


def _fails(name):
    def method(self, *args, **kwargs):
        object.__getattribute__(self, "touched").append(name)
        raise RuntimeError(f"{name} of the job")

    return method


for _name in ("__repr__", "__str__", "__getattr__", "__len__", "__iter__", "__bool__", "__contains__", "__getitem__"):
    setattr(Touchy, _name, _fails(_name))


def captured(one):
    def program():
        for size in (1, 2):
            jax.jit(lambda x: x if one is not None else 0)(np.ones(size, np.float32))

    return program


def passed_as_static(one):
    def program():
        step = jax.jit(lambda x, which: x, static_argnums=1)
        for size in (1, 2):
            step(np.ones(size, np.float32), one)

    return program


def held_by_static(one):
    class Holder:
        pass

    def program():
        step = jax.jit(lambda x, which: x, static_argnums=1)
        for _ in range(3):
            holder = Holder()
            holder.inside = [{"deep": one}]
            step(1.0, holder)

    return program


def as_metadata(one):
    class Box:
        pass

    box = Box()
    box.one = one

    @functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["box"])
    @dataclasses.dataclass
    class Node:
        w: jax.Array
        box: object

    def program():
        step = jax.jit(lambda node: node.w)
        for size in (1, 2):
            step(Node(jnp.ones(size), box))

    return program


def in_the_body_of_an_operation(one):
    def program():
        for _ in range(3):
            jax.lax.map(lambda x: x + 1 if one is not None else x, jnp.ones(3))

    return program


PLACES = [captured, passed_as_static, held_by_static, as_metadata, in_the_body_of_an_operation]


@pytest.mark.parametrize("place", PLACES, ids=lambda one: one.__name__)
def test_no_code_of_the_job_runs(place):
    """Beyond what JAX itself runs."""
    bare, watched = [], []
    place(Touchy(bare))()
    jax.clear_caches()
    recompiles, _, _ = verdict_on(place(Touchy(watched)))
    assert bare == watched
    assert recompiles


@pytest.mark.parametrize("place", PLACES, ids=lambda one: one.__name__)
def test_endless_containers_end(place):
    endless: list = [1]
    endless.append({"again": endless, "and": (endless,)})

    class Endless:
        pass

    one = Endless()
    one.me = one
    one.values = endless
    recompiles, _, _ = verdict_on(place(one))
    assert recompiles


@pytest.mark.parametrize(
    "key", ["it's", 'a "quoted" one', "new\nline", "<b>", "[0]['x']", "", "e\u0301" * 300, "\ud800"]
)
def test_odd_keys(key):
    """Of a dictionary among the arguments: on one line, and told apart from others."""

    def program():
        step = jax.jit(lambda state: 0)
        for size in (1, 2):
            step({key: np.ones(size, np.float32), "other": np.ones(3, np.float32)})

    recompiles, _, paragraphs = verdict_on(program)
    (change,) = recompiles[-1]["changes"]
    assert ("shape", "float32[1]", "float32[2]") == (change["kind"], change["before"], change["after"])
    assert change["path"].startswith("state[")
    assert all("\n" not in one for one in paragraphs)
