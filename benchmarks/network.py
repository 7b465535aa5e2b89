"""The network that several benchmarks compile."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

WIDTH = 64


def model(layers: int, factor: float) -> tuple[Any, list[jax.Array], jax.Array]:
    """Value and gradient of a network with so many layers, unrolled."""

    def loss(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for weights in params:
            x = jnp.tanh(x @ weights) * factor + x
        return jnp.sum(x * x)

    def step(params: list[jax.Array], x: jax.Array) -> Any:
        return jax.value_and_grad(loss)(params, x)

    return jax.jit(step), [jnp.ones((WIDTH, WIDTH))] * layers, jnp.ones((8, WIDTH))
