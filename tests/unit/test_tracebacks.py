"""A traceback with the agent is the traceback without it, but for the note of a donation violation."""

from __future__ import annotations

import re
import traceback

import jax
import jax.numpy as jnp
import pytest

import jitwatch


@pytest.fixture(params=["quiet_remove_frames", "off"], autouse=True)
def filtering(request):
    """As users see it, and with all of JAX's frames."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", request.param)
    yield
    jax.config.update("jax_traceback_filtering", before)


def failing(x):
    raise ZeroDivisionError("of the job")


def donated():
    # Of a shape that no other test adds to: JAX takes a shorter way, with another error, after the second sum.
    step, x = jax.jit(lambda a: a + 1, donate_argnums=0), jnp.ones((2, 1, 13))
    step(x)
    return x


def call():
    return jax.jit(failing)(1.0)


def donating_call():
    return jax.jit(failing, donate_argnums=0)(jnp.ones(3))


def nested():
    inner = jax.jit(failing, donate_argnums=0)
    return jax.jit(lambda x: inner(x) + 1)(jnp.ones(3))


def lower():
    return jax.jit(failing, donate_argnums=0).lower(jnp.ones(3))


def trace():
    return jax.jit(failing, donate_argnums=0).trace(jnp.ones(3))


def eval_shape():
    return jax.jit(failing, donate_argnums=0).eval_shape(jnp.ones(3))


def wrong_argument():
    return jax.jit(lambda x: x, donate_argnums=0)("text")


def unhashable_static():
    return jax.jit(lambda x, n: x, static_argnums=1)(jnp.ones(3), [])


def deleted_add():
    return donated() + 1


def deleted_repr():
    return repr(donated())


def deleted_wait():
    return donated().block_until_ready()


def deleted_is_ready():
    return donated().is_ready()


def deleted_wait_for_all():
    return jax.block_until_ready([donated()])


def compiled_wrong_type():
    return jax.jit(lambda x: x, donate_argnums=0).lower(jnp.ones(3)).compile()(jnp.ones(4))


USES = [
    call,
    donating_call,
    nested,
    lower,
    trace,
    eval_shape,
    wrong_argument,
    unhashable_static,
    deleted_add,
    deleted_repr,
    deleted_wait,
    deleted_is_ready,
    deleted_wait_for_all,
    compiled_wrong_type,
]


def text_of(use):
    """What Python prints, without our note."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is compared
        use()
    text = re.sub("0x[0-9a-f]+", "0x", "".join(traceback.format_exception(raised.value)))
    return [line for line in text.splitlines() if not line.startswith("donated ")]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_traceback_is_that_of_jax(use):
    """Class, text, frames and notes."""
    text_of(use)  # the way of the first call is another one
    bare = text_of(use)
    with jitwatch.install(port=0):
        assert bare == text_of(use)


def test_stack_below_jit_is_as_deep_as_without():
    """Nested functions reach the recursion limit at the same depth."""
    depths = []

    def measure():
        def depth(x):
            depths.append(len(traceback.extract_stack()))
            return x

        jax.jit(jax.jit(depth))(1.0)

    measure()
    with jitwatch.install(port=0):
        measure()
    assert depths[0] == depths[1]
