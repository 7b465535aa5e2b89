"""Arguments that equinox and haliax pack, under the user's names; haliax by a stand-in that packs as version 1.4 does.

Haliax itself is released for older versions of JAX only.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

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

def named_jit(function, donates=False):
    jitted = cache(function)

    def call(*args, **kwargs):
        dynamic, static = hashable_partition((args, kwargs))
        packed = (None, dynamic)
        empty = jax.tree_util.tree_map(lambda _: None, packed)
        both = (packed, empty) if donates else (empty, packed)
        # The function is among the static arguments.
        return jitted(*both, (((function,), None), static))

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
    with jitwatch.install(port=0) as watch:
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
    assert "test_packed.py" in records[-1]["call_site"]


def test_metadata_of_a_module_is_named(named_jit):
    @named_jit
    def forward(model):
        return (model.w * model.scale).sum()

    calls = [functools.partial(forward, Model(jnp.ones(3), scale)) for scale in (2.0, 3.0, 4.0, 5.0, 6.0)]
    changes, text, _ = changes_of(calls)
    assert [("model.scale", "5.0", "6.0")] == changes
    assert "Pitfall static_arg_churn: model.scale is static metadata and not an array; it had 5 values" in text


def update(model, x):
    return model.w + x, x * 2


#: Sizes that no test has used: JAX sums arrays of a size that it has summed before without a look at them.
FRESH = itertools.count(1_000)


@pytest.mark.parametrize("library", ["haliax", "equinox"])
@pytest.mark.parametrize("is_older", [False, True])
def test_leaf_that_was_donated_is_named(named_jit, library, is_older):
    """By the user's path, also where the function was jitted before the agent was installed."""
    jit = functools.partial(named_jit, donates=True) if library == "haliax" else eqx.filter_jit(donate="all")
    size = next(FRESH)
    step, model = jit(update) if is_older else None, Model(jnp.ones(size))
    with jitwatch.install(port=0) as watch:
        step = step or jit(update)
        step(model, jnp.ones(size))
        with pytest.raises((RuntimeError, ValueError)):
            model.w.sum()
        with pytest.raises((RuntimeError, ValueError)):
            step(model, jnp.ones(size))
        used, passed = [one for one in watch.events() if one["event"] == "donation.violation"]
    assert ("model.w", "update", "model.w", "model.w") == (
        used["leaf"],
        used["name"],
        passed["leaf"],
        passed.get("donated_leaf", passed["leaf"]),
    )
    assert "dynamic_" not in str((used, passed))


#: `.value` is how all versions of flax read a variable.
OLDER_ACCESS = pytest.mark.filterwarnings("ignore:'.value' access:DeprecationWarning")


class Layer(nnx.Module):
    def __init__(self, size):
        self.kernel, self.bias = nnx.Param(jnp.ones(size)), nnx.Param(jnp.ones(2))


class Net(nnx.Module):
    def __init__(self, size):
        self.layer = Layer(size)


@OLDER_ACCESS
@pytest.mark.parametrize("call", [lambda step, net: step(net), lambda step, net: step(nets=[net])], ids=["m", "nested"])
def test_array_of_a_flax_module_is_named(call):
    """By its path in the module, wherever among the arguments that is."""

    @nnx.jit
    def step(net=None, nets=()):
        (net or nets[0]).layer.kernel.value += 1.0

    changes, text, _ = changes_of([functools.partial(call, step, Net(size)) for size in (3, 4)])
    ((path, before, after),) = changes
    assert ("float32[3]", "float32[4]") == (before, after)
    assert re.fullmatch(r"(net|nets\[0\])\.layer\.kernel(\.value)?", path), path
    assert ".states[" not in text


@OLDER_ACCESS
@pytest.mark.parametrize("is_older", [False, True])
def test_module_that_was_donated_is_updated_in_place(is_older):
    """Also where the function was jitted before the agent was installed; the result is no other module."""

    def update(net):
        net.layer.kernel.value += 1.0

    jit = functools.partial(nnx.jit, donate_argnums=0)
    step, net = jit(update) if is_older else None, Net(3)
    old = net.layer.kernel.value
    with jitwatch.install(port=0) as watch:
        (step or jit(update))(net)
        with pytest.raises((RuntimeError, ValueError)) as raised:
            old.sum()
        (found,) = [one for one in watch.events() if one["event"] == "donation.violation"]
    assert re.fullmatch(r"net\.layer\.kernel(\.value)?", found["leaf"])
    assert "that call updates net in place" in raised.value.__notes__[0]


def test_other_packing_keeps_the_names_of_jax(named_jit):
    """Nothing breaks where a later version packs otherwise."""
    module = sys.modules["haliax.partitioning"]
    module.hashable_partition = lambda tree: (tree, ())
    module.hashable_combine = lambda dynamic, static: dynamic

    @named_jit
    def forward(x):
        return x.sum()

    with jitwatch.install(port=0) as watch:
        for n in (3, 4):
            forward(jnp.ones(n))
        records = [one for one in watch.events() if one["event"] == "jit.recompiled"]
    assert ["dynamic_reserved[1][0][0]"] == [change["path"] for change in records[-1]["changes"]]
