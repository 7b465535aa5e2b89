"""The arguments of `haliax.named_jit`, by a stand-in that packs them as haliax 1.4 does.

Haliax itself is released for older versions of JAX only.
"""

from __future__ import annotations

import functools
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import jitwatch

SOURCE = """
import equinox as eqx
import jax

def hashable_partition(tree):
    dynamic, static = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree_util.tree_flatten(static)
    return dynamic, (tuple(leaves), structure)

def hashable_combine(dynamic, static):
    leaves, structure = static
    return eqx.combine(dynamic, jax.tree_util.tree_unflatten(structure, leaves))

def cache(function):
    def fun_wrapped(dynamic_donated, dynamic_reserved, static):
        dynamic = eqx.combine(dynamic_donated, dynamic_reserved)
        args, kwargs = hashable_combine(dynamic[1], static[1])
        return function(*args, **kwargs)

    fun_wrapped.__name__ = function.__name__
    fun_wrapped.__qualname__ = function.__qualname__
    return jax.jit(fun_wrapped, static_argnums=2, donate_argnums=0)

def named_jit(function):
    jitted = cache(function)

    def call(*args, **kwargs):
        dynamic, static = hashable_partition((args, kwargs))
        packed = (None, dynamic)
        empty = jax.tree_util.tree_map(lambda _: None, packed)
        # The function is among the static arguments.
        return jitted(empty, packed, (((function,), None), static))

    return call
"""


class Model(eqx.Module):
    w: jax.Array
    scale: float = eqx.field(static=True, default=2.0)


@pytest.fixture
def named_jit(monkeypatch):
    module = types.ModuleType("haliax.partitioning")
    exec(compile(SOURCE, "/srv/lib/site-packages/haliax/partitioning.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.named_jit


def changes_of(calls):
    with jitwatch.install(port=None) as watch:
        for call in calls:
            call()
        records = [one for one in watch.events() if one["event"] == "jit.recompiled"]
        text = " ".join(str(watch.explain()).split())
    assert "dynamic_" not in text
    return [(change["path"], change["before"], change["after"]) for change in records[-1]["changes"]], text, records


def test_paths_are_the_users(named_jit):
    @named_jit
    def forward(model, x, *, mask=None):
        return (model.w * x).sum()

    changes, _, records = changes_of(
        [functools.partial(forward, Model(jnp.ones(n)), jnp.ones(n), mask=jnp.ones(n)) for n in (3, 4)]
    )
    assert [
        ("model.w", "float32[3]", "float32[4]"),
        ("x", "float32[3]", "float32[4]"),
        ("mask", "float32[3]", "float32[4]"),
    ] == changes
    assert records[-1]["name"] == "forward"
    assert "test_haliax.py" in records[-1]["call_site"]


def test_metadata_of_a_module_is_named(named_jit):
    @named_jit
    def forward(model):
        return (model.w * model.scale).sum()

    calls = [functools.partial(forward, Model(jnp.ones(3), scale)) for scale in (2.0, 3.0, 4.0, 5.0, 6.0)]
    changes, text, _ = changes_of(calls)
    assert [("model.scale", "5.0", "6.0")] == changes
    assert "Pitfall static_arg_churn: model.scale is no array but metadata of the structure, and took 5 values" in text


def test_other_packing_keeps_the_names_of_jax(named_jit):
    """Nothing breaks where a later version packs otherwise."""
    module = sys.modules["haliax.partitioning"]
    module.hashable_partition = lambda tree: (tree, ())
    module.hashable_combine = lambda dynamic, static: dynamic

    @named_jit
    def forward(x):
        return x.sum()

    with jitwatch.install(port=None) as watch:
        for n in (3, 4):
            forward(jnp.ones(n))
        records = [one for one in watch.events() if one["event"] == "jit.recompiled"]
    assert ["dynamic_reserved[1][0][0]"] == [change["path"] for change in records[-1]["changes"]]
