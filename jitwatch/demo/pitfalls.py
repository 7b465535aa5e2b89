"""Examples of all pitfalls, each run once by `jitwatch demo --misbehave`.

There is one function per pitfall, named after it; the last shows a consequence of some of them. Each is as small as
possible, and is code that people write.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Callable
from types import FunctionType

import jax
import jax.numpy as jnp
import numpy as np

import jitwatch

WEIGHTS = np.linspace(-1.0, 1.0, 64, dtype=np.float32)


def static_arg_churn() -> None:
    """A loop counter is a static argument."""

    @functools.partial(jax.jit, static_argnames="warmup_step")
    def warmed_up(weights: jax.Array, warmup_step: int) -> jax.Array:
        return weights * min(1.0, warmup_step / 10)

    for step in range(6):
        warmed_up(WEIGHTS, warmup_step=step)


class Schedule:
    """A static argument without `__eq__`, which equals only itself."""

    def __init__(self, rate: float) -> None:
        self.rate = rate


def identity_hashed_static() -> None:
    """Each call creates its config again, and no two of them are equal."""

    @functools.partial(jax.jit, static_argnames="schedule")
    def decayed(weights: jax.Array, schedule: Schedule) -> jax.Array:
        return weights * schedule.rate

    for _ in range(2):
        decayed(WEIGHTS, schedule=Schedule(0.9))


def too_many_statics() -> None:
    """Five static switches, two of which are toggled."""

    @functools.partial(jax.jit, static_argnames=("flip", "negate", "square", "center", "scale"))
    def augmented(x: jax.Array, *, flip: bool, negate: bool, square: bool, center: bool, scale: bool) -> jax.Array:
        x = x[::-1] if flip else x
        return -x if negate else x

    for flip in (False, True):
        for negate in (False, True):
            augmented(WEIGHTS, flip=flip, negate=negate, square=False, center=False, scale=False)


def unhashable_static() -> None:
    """A list is a static argument; JAX raises an error, which ends the thread."""

    @functools.partial(jax.jit, static_argnames="layers")
    def initialized(x: jax.Array, layers: list[int]) -> jax.Array:
        return x * len(layers)

    def work() -> None:
        initialized(WEIGHTS, layers=[64, 64])

    # In a thread, since the error would end the demo in the main one. Its traceback is not printed.
    thread = threading.Thread(target=work)
    with contextlib.redirect_stderr(io.StringIO()):
        thread.start()
        thread.join()


def closure_capture() -> None:
    """A function is defined and jitted for each value of a variable."""
    for rate in (0.1, 0.2, 0.3, 0.4):
        jax.jit(lambda weights: weights * rate)(WEIGHTS)  # noqa: B023 - the pitfall


def jit_in_loop() -> None:
    """The same code is jitted again for each batch."""
    for _ in range(4):
        jax.jit(lambda weights: jnp.tanh(weights) ** 2)(WEIGHTS)


def mutable_default() -> None:
    """A mutable default value, which JAX reads once, while tracing."""

    @jax.jit
    def clipped(weights: jax.Array, bounds: list[float] = [-0.5, 0.5]) -> jax.Array:  # noqa: B006 - the pitfall
        return jnp.clip(weights, bounds[0], bounds[1])

    clipped(WEIGHTS)


def shape_churn() -> None:
    """Sequences have many different lengths."""

    @jax.jit
    def token_loss(batch: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean(batch["tokens"] ** 2)

    for length in (64, 61, 57, 48, 63):
        token_loss({"tokens": np.ones((8, length), np.float32)})


def weak_type() -> None:
    """The step counter is a Python number in the first call and an array in later ones."""

    @jax.jit
    def count(steps: jax.Array | int) -> jax.Array | int:
        return steps + 1

    count(0)
    count(jnp.int32(1))


def dtype_flip() -> None:
    """Rewards are integers in one environment and floats in the other."""

    @jax.jit
    def discounted(rewards: jax.Array) -> jax.Array:
        return jnp.sum(rewards * 0.99)

    discounted(np.ones(16, np.float32))
    discounted(np.ones(16, np.int32))


def sharding_flip() -> None:
    """A checkpoint is restored: its arrays are committed to a device, unlike the first ones."""

    @jax.jit
    def update(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: leaf * 0.99 for name, leaf in state.items()}

    update({"weights": WEIGHTS})
    restored = {"weights": jax.device_put(WEIGHTS, jax.devices()[0])}
    update(restored)


def tree_flip() -> None:
    """The state gains a key after the first epoch."""

    @jax.jit
    def averaged(state: dict[str, jax.Array]) -> jax.Array:
        return state["weights"] * 0.5

    averaged({"weights": WEIGHTS})
    averaged({"weights": WEIGHTS, "average": WEIGHTS})


def config_flip() -> None:
    """Evaluation uses another matmul precision."""

    @jax.jit
    def similarity(a: jax.Array) -> jax.Array:
        return a @ a

    similarity(WEIGHTS)
    with jax.default_matmul_precision("highest"):
        similarity(WEIGHTS)


def cache_thrash() -> None:
    """The caches are cleared after every epoch, to save memory."""

    @jax.jit
    def epoch_loss(weights: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(weights))

    for _ in range(4):
        epoch_loss(WEIGHTS)
        jax.clear_caches()  # type: ignore[no-untyped-call]


def eager_churn() -> None:
    """Post-processing outside of jit compiles again for every length."""
    for length in range(1, 61):
        jnp.negative(WEIGHTS[:length])


def captured_constant() -> None:
    """A large table is captured instead of passed as an argument."""
    table = jnp.ones((1100, 1024))

    @jax.jit
    def looked_up(index: jax.Array) -> jax.Array:
        return table[index]

    looked_up(jnp.int32(3))


def unrolled_loop(layers: int = 400) -> None:
    """Many layers are unrolled into one program."""

    @jax.jit
    def layer(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ weights)

    @jax.jit
    def deep_loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(layers):
            x = layer(weights, x)
        return jnp.sum(x)

    jax.jit(jax.grad(deep_loss))(jnp.eye(16), jnp.ones((4, 16)))


def compile_during_steady() -> None:
    """A function is compiled for the first time after warm-up."""

    @jax.jit
    def late(weights: jax.Array) -> jax.Array:
        return jnp.sort(weights)

    with jitwatch.steady(on_recompile="count"):
        late(WEIGHTS)


def use_after_donate() -> None:
    """The state is donated to the update, and the old state is read afterwards."""

    @functools.partial(jax.jit, donate_argnames="state")
    def updated(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"weights": state["weights"] * 0.9}

    state = {"weights": jnp.asarray(WEIGHTS)}
    updated(state)
    with contextlib.suppress(RuntimeError, ValueError):
        np.asarray(state["weights"])


def double_donation() -> None:
    """A donated array is also another argument of the same call."""

    @functools.partial(jax.jit, donate_argnames="online")
    def blended(online: jax.Array, target: jax.Array) -> jax.Array:
        return online * 0.9 + target * 0.1

    weights = jnp.asarray(WEIGHTS)
    with contextlib.suppress(RuntimeError, ValueError):
        blended(weights, weights)


def unusable_donation() -> None:
    """An array is donated, but no result has its shape and dtype."""

    @functools.partial(jax.jit, donate_argnames="batch")
    def mean(batch: jax.Array) -> jax.Array:
        return jnp.mean(batch)

    with warnings.catch_warnings():
        # JAX warns as well; the agent does not depend on that.
        warnings.simplefilter("ignore")
        mean(jnp.ones((8, 64)))


def missed_donation() -> None:
    """A function returns the next value of a large state without donating it: memory holds both at once."""

    @jax.jit
    def accumulated(total: jax.Array) -> jax.Array:
        return total + 1.0

    total = jnp.zeros(1 << 24)
    for _ in range(3):
        total = accumulated(total)


@jax.jit
def attended(tokens: jax.Array) -> jax.Array:
    """Attention weights of the last token over all tokens, `float32[tokens]`."""
    return jax.nn.softmax(tokens * tokens[-1])


GROWING_STEPS = 40
"""Steps of `growing_cache`, and so its entries in the jit cache."""


def growing_cache(steps: int = GROWING_STEPS) -> None:
    """Generation grows a text by one token per step; all programs stay in the cache of a global function."""
    for length in range(1, steps + 1):
        attended(np.ones(length, np.float32))


#: All functions above, in their order.
EXAMPLES: tuple[Callable[[], None], ...] = tuple(one for one in list(vars().values()) if type(one) is FunctionType)
