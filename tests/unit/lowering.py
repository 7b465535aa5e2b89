"""Programs that differ by the arguments of one function, as text."""

from __future__ import annotations

import jax
import jax.numpy as jnp

STATE = {"w": jnp.ones(4)}
BATCH = jnp.ones((3, 4))


def lowered(function, *arguments, debug_info=True, **options) -> str:
    """The text of a function's program."""
    return jax.jit(function, **options).lower(*arguments).as_text(debug_info=debug_info)


def make_step(rate=0.001, *, length=3, is_capped=False, is_swapped=False, precision=None, offset=None):
    """A function whose program depends on the arguments."""

    def step(state, x):
        def body(carry, _):
            return carry * 0.9 + jnp.sin(x.sum()), None

        total, _ = jax.lax.scan(body, state["w"], None, length=length)
        y = x - total if not is_swapped else total - x
        if is_capped:
            y = jnp.tanh(y)  # the line of the tanh
        if offset is not None:
            y = y + offset
        z = jnp.dot(y, y.T, precision=precision)
        return {"w": total * rate}, jax.nn.relu(y), jnp.where(z > 0, z, -jnp.inf)

    return step
