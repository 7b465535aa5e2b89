"""A jitted function is sent to another process as without the agent: the same bytes, without a word of ours."""

from __future__ import annotations

import pickle
from functools import partial

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jitwatch


def made():
    """Jitted functions of every kind; the same source lines each time."""

    @jax.jit
    def plain(x):
        return x * 2

    @partial(jax.jit, donate_argnums=0)
    def donating(x):
        return x + 1

    class Model:
        @partial(jax.jit, static_argnums=0)
        def method(self, x):
            return x + 1

        @partial(jax.jit, static_argnums=0, donate_argnums=1)
        def donating_method(self, x):
            return x + 1

    @nnx.jit
    def of_flax(x):
        return x + 1

    @eqx.filter_jit(donate="all")
    def of_equinox(x):
        return x + 1

    return {
        "plain": plain,
        "donating": donating,
        "partial": partial(donating, jnp.ones(2).tolist()),
        "vmap": jax.vmap(donating),
        "grad": jax.grad(donating),
        "jit of grad": jax.jit(jax.grad(donating)),
        "method": Model.method,
        "donating method": Model.donating_method,
        "nnx.jit": of_flax,
        "eqx.filter_jit": of_equinox,
        "clear_caches": jax.clear_caches,
        "task": lambda n: float(donating(jnp.float32(n))),
    }


KINDS = tuple(made())


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_jax(kind):
    """Made and sent with the agent, and without it."""
    bare = cloudpickle.dumps(made()[kind])
    with jitwatch.install(port=0):
        found = made()[kind]
        sent = cloudpickle.dumps(found)
    assert bare == sent == cloudpickle.dumps(found)
    # The path of this file is that of the checkout, whose name may be ours.
    assert b"jitwatch" not in sent.replace(__file__.encode(), b"")


@pytest.mark.parametrize("kind", ["plain", "donating", "method", "donating method"])
def test_copy_works_with_the_agent_and_after_it(kind):
    """What arrives is a jitted function, and `pickle` refuses it as it refuses JAX's."""
    with jitwatch.install(port=0):
        sent = cloudpickle.dumps(made()[kind])
        arguments = (0, jnp.ones(2)) if "method" in kind else (jnp.ones(2),)
        expected = made()[kind](*arguments)
        arguments = (0, jnp.ones(2)) if "method" in kind else (jnp.ones(2),)
        assert jnp.array_equal(expected, pickle.loads(sent)(*arguments))
        with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
            pickle.dumps(made()[kind])
    arguments = (0, jnp.ones(2)) if "method" in kind else (jnp.ones(2),)
    assert jnp.array_equal(expected, pickle.loads(sent)(*arguments))
