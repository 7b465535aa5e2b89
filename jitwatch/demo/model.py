"""A small decoder-only transformer over characters, its loss and its Adam step, in plain JAX.

Parameters are a dict of float32 arrays. Their shapes determine the architecture, so a step has no
static arguments: it compiles once for each shape of `tokens`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

#: `{"embed", "position", "blocks": [{...}, ...], "unembed"}`, leaves are float32 arrays.
Params: TypeAlias = dict[str, Any]

LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Hyperparameters of the model; `length` is in characters of context. Hashable, so it can be a static argument."""

    vocabulary_size: int
    length: int = 64
    width: int = 96
    heads: int = 4
    layers: int = 2


class TrainState(NamedTuple):
    """What training changes; `step` is an int32 scalar. `train_step` donates it: the call deletes the old state."""

    params: Params
    first_moment: Params
    second_moment: Params
    step: jax.Array


def _init_block(key: jax.Array, config: ModelConfig) -> Params:
    qkv_key, out_key, up_key, down_key = jax.random.split(key, 4)
    width, heads = config.width, config.heads
    # Variance 1 / fan-in; the two projections that write to the residual stream are scaled down
    # by the number of writes, so that its variance does not grow with depth.
    scale = width**-0.5
    residual = (2 * config.layers) ** -0.5
    return {
        "attention_norm": jnp.ones(width),
        "qkv": scale * jax.random.normal(qkv_key, (width, 3, heads, width // heads)),
        "out": scale * residual * jax.random.normal(out_key, (heads, width // heads, width)),
        "mlp_norm": jnp.ones(width),
        "up": scale * jax.random.normal(up_key, (width, 4 * width)),
        "down": 0.5 * scale * residual * jax.random.normal(down_key, (4 * width, width)),
    }


# Jitted although it runs once: op by op, each of these small arrays would be a compile of its own.
@functools.partial(jax.jit, static_argnames="config")
def init_state(key: jax.Array, config: ModelConfig) -> TrainState:
    """Make a fresh state: random parameters, zero moments, step 0."""
    embed_key, position_key, unembed_key, *block_keys = jax.random.split(key, 3 + config.layers)
    params = {
        "embed": 0.1 * jax.random.normal(embed_key, (config.vocabulary_size, config.width)),
        "position": 0.1 * jax.random.normal(position_key, (config.length, config.width)),
        "blocks": [_init_block(block_key, config) for block_key in block_keys],
        "norm": jnp.ones(config.width),
        "unembed": 0.1 * config.width**-0.5 * jax.random.normal(unembed_key, (config.width, config.vocabulary_size)),
    }
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return TrainState(params, zeros(params), zeros(params), jnp.int32(0))


def _normalize(x: jax.Array, scale: jax.Array) -> jax.Array:
    return scale * x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def _attend(x: jax.Array, block: Params) -> jax.Array:
    """Causal self-attention, `float32[batch, length, width]` to the same."""
    qkv = jnp.einsum("btd,dchk->cbthk", x, block["qkv"])
    attended = jax.nn.dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
    return jnp.einsum("bthk,hkd->btd", attended, block["out"])


def logits(params: Params, tokens: jax.Array) -> jax.Array:
    """Score the next character: `int32[batch, length]` to `float32[batch, length, vocabulary]`."""
    x = params["embed"][tokens] + params["position"][: tokens.shape[1]]
    for block in params["blocks"]:
        x = x + _attend(_normalize(x, block["attention_norm"]), block)
        x = x + jax.nn.gelu(_normalize(x, block["mlp_norm"]) @ block["up"]) @ block["down"]
    scores: jax.Array = _normalize(x, params["norm"]) @ params["unembed"]
    return scores


def loss(params: Params, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next character, in nats, over `tokens`, `int32[batch, length + 1]`."""
    log_probabilities = jax.nn.log_softmax(logits(params, tokens[:, :-1]))
    targets = tokens[:, 1:, None]
    return -jnp.mean(jnp.take_along_axis(log_probabilities, targets, axis=-1))


def _adam(state: TrainState, gradients: Params) -> TrainState:
    step = state.step + 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, state.first_moment, gradients)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, state.second_moment, gradients)
    count = step.astype(jnp.float32)
    rate = LEARNING_RATE * jnp.minimum(1.0, count / WARMUP_STEPS)
    # Both moments start at zero; dividing by these undoes the bias this gives the first steps.
    debias1, debias2 = 1 - BETA1**count, 1 - BETA2**count
    params = jax.tree.map(
        lambda p, m, v: p - rate * (m / debias1) / (jnp.sqrt(v / debias2) + EPSILON), state.params, first, second
    )
    return TrainState(params, first, second, step)


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state: TrainState, tokens: jax.Array) -> tuple[TrainState, jax.Array]:
    """Take one step of Adam on `tokens`, `int32[batch, length + 1]`.

    Returns the new state, in the memory of the old one, and the loss before the step in nats.
    """
    value, gradients = jax.value_and_grad(loss)(state.params, tokens)
    return _adam(state, gradients), value


@jax.jit
def eval_step(params: Params, tokens: jax.Array) -> jax.Array:
    """Return the loss in nats on `tokens`, `int32[batch, length + 1]`. Donates nothing."""
    return loss(params, tokens)


@functools.partial(jax.jit, static_argnames="characters")
def generate(
    params: Params, key: jax.Array, prompt: jax.Array, *, characters: int, temperature: float = 0.7
) -> jax.Array:
    """Continue `prompt`, `int32[length]`, by `characters` sampled tokens, `int32[characters]`."""

    # The window slides by one a token and never changes shape: one compile however long the text.
    def sample(window: jax.Array, step_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = logits(params, window[None])[0, -1]
        token = jax.random.categorical(step_key, scores / temperature).astype(window.dtype)
        return jnp.append(window[1:], token), token

    _, tokens = jax.lax.scan(sample, prompt, jax.random.split(key, characters))
    return tokens
