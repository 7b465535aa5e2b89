"""Advice is followed as written: the program has the same results, compiles as often as promised, and is silent."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.pitfalls import RULES
from jitwatch.diagnosis.pitfalls.job import UnrolledLoop
from jitwatch.model.taxonomy import JAX_LABEL, PITFALLS
from tests.truths import assert_truths

X = np.arange(1, 4, dtype=np.float32)


class Pair(NamedTuple):
    """A mistake and the program that follows the advice for it.

    Attributes:
        mistake: Yields its results; the pitfall is the name of its pair in `PAIRS`.
        fixed: Gets the advice; yields the same results.
        compiles: Compiles of the job's functions that are left.
        says: What the advice must say, so that the program is what it asks for.
    """

    mistake: Callable[[], Iterator[Any]]
    fixed: Callable[[str], Iterator[Any]]
    compiles: int
    says: str


def static_counter():
    step = jax.jit(lambda x, n: x * n, static_argnums=1)
    for n in range(6):
        yield step(X, n)


def counter_as_an_argument(advice):
    step = jax.jit(lambda x, n: x * n)
    for n in range(6):
        yield step(X, n)


class Plain:
    def __init__(self, width):
        self.width = width


def object_made_anew():
    step = jax.jit(lambda x, config: x * config.width, static_argnums=1)
    for _ in range(3):
        yield step(X, Plain(3))


def object_made_once(advice):
    step = jax.jit(lambda x, config: x * config.width, static_argnums=1)
    config = Plain(3)
    for _ in range(3):
        yield step(X, config)


FLAGS = ("a", "b", "c", "d", "e")


def five_flags():
    step = jax.jit(lambda x, a, b, c, d, e: x * (1 + a + 2 * b), static_argnames=FLAGS)
    for a in (0, 1):
        for b in (0, 1):
            yield step(X, a=a, b=b, c=0, d=0, e=0)


def one_config(advice):
    class Config(NamedTuple):
        a: int
        b: int
        c: int = 0
        d: int = 0
        e: int = 0

    step = jax.jit(lambda x, config: x * (1 + config.a + 2 * config.b), static_argnames="config")
    for a in (0, 1):
        for b in (0, 1):
            yield step(X, config=Config(a, b))


def list_as_static():
    step = jax.jit(lambda x, sizes: x * len(sizes), static_argnums=1)
    # Python 3.11 shows errors that are raised in C++ only where nobody catches them.
    thread = threading.Thread(target=lambda: step(X, [1, 2]))
    thread.start()
    thread.join()
    yield X * 2


def tuple_as_static(advice):
    yield jax.jit(lambda x, sizes: x * len(sizes), static_argnums=1)(X, (1, 2))


def captured_rate():
    for rate in (1.0, 2.0, 3.0, 4.0):
        yield jax.jit(lambda x: x * rate)(X)  # noqa: B023 - the mistake


def rate_as_an_argument(advice):
    step = jax.jit(lambda x, rate: x * rate)
    for rate in (1.0, 2.0, 3.0, 4.0):
        yield step(X, rate)


def jit_in_a_loop():
    for _ in range(4):
        yield jax.jit(lambda x: x * 2)(X)


def jit_once(advice):
    step = jax.jit(lambda x: x * 2)
    for _ in range(4):
        yield step(X)


def list_as_default():
    def scaled(x, factors=[1, 2]):  # noqa: B006 - the mistake
        return x * sum(factors)

    yield jax.jit(scaled)(X)


def none_as_default(advice):
    def scaled(x, factors=None):
        factors = [1, 2] if factors is None else factors
        return x * sum(factors)

    yield jax.jit(scaled)(X)


SIZES = (17, 20, 24, 29, 31, 36, 40)


def ever_new_sizes():
    total = jax.jit(lambda values: values.sum())
    for size in SIZES:
        yield total(np.ones(size, np.float32))


def padded_sizes(advice):
    buckets, promised = _promised(advice)
    total = jax.jit(lambda values: values.sum())
    for size in SIZES:
        padded = np.zeros(next(one for one in buckets if one >= size), np.float32)
        padded[:size] = 1
        yield total(padded)
    assert promised == len(buckets)


def _promised(advice):
    """Sizes to pad to, and how many compiles they are said to need."""
    found = re.search(r"padding to ([\d, ]+) would have needed (\d+) compiles? instead", advice)
    return [int(size) for size in found[1].split(", ")], int(found[2])


def number_and_integer():
    step = jax.jit(lambda x: x * 2)
    yield step(np.ones(3, np.float32))
    yield step(np.ones(3, np.int32))


def one_dtype(advice):
    step = jax.jit(lambda x: x * 2)
    dtype = getattr(jnp, re.search(r"jnp\.asarray\(x, (?:jnp\.)?(\w+)\)", advice)[1])
    yield step(jnp.asarray(np.ones(3, np.float32), dtype))
    yield step(jnp.asarray(np.ones(3, np.int32), dtype))


def python_number_first():
    step = jax.jit(lambda x, count: x * count)
    yield step(X, 2)
    yield step(X, jnp.int32(2))


def array_first(advice):
    step = jax.jit(lambda x, count: x * count)
    yield step(X, jnp.asarray(2, jnp.int32))
    yield step(X, jnp.int32(2))


def committed_later():
    step = jax.jit(lambda x: x * 2)
    yield step(X)
    yield step(jax.device_put(X, jax.devices()[0]))


def committed_first(advice):
    step = jax.jit(lambda x: x * 2)
    x = jax.device_put(X, jax.devices()[0])
    yield step(x)
    yield step(x)


def key_comes_later():
    step = jax.jit(lambda state: state["w"] * 2)
    yield step({"w": X})
    yield step({"w": X, "ema": X})


def same_keys(advice):
    step = jax.jit(lambda state: state["w"] * 2)
    yield step({"w": X, "ema": np.zeros_like(X)})
    yield step({"w": X, "ema": X})


def precision_toggles():
    step = jax.jit(lambda x: x @ x)
    yield step(X)
    with jax.default_matmul_precision("highest"):
        yield step(X)


def precision_set_once(advice):
    step = jax.jit(lambda x: x @ x)
    with jax.default_matmul_precision("highest"):
        yield step(X)
        yield step(X)


def caches_cleared():
    step = jax.jit(lambda x: x * 2)
    for _ in range(4):
        yield step(X)
        jax.clear_caches()


def caches_kept(advice):
    step = jax.jit(lambda x: x * 2)
    for _ in range(4):
        yield step(X)
    jax.clear_caches()


def body_made_anew():
    for _ in range(4):
        yield jax.lax.scan(lambda carry, x: (carry + x, None), jnp.float32(0), X)[0]


def body_defined_once(advice):
    def body(carry, x):
        return carry + x, None

    for _ in range(4):
        yield jax.lax.scan(body, jnp.float32(0), X)[0]


TABLE = np.ones((1024, 1025), np.float32)


def table_captured():
    table = jnp.asarray(TABLE)
    yield jax.jit(lambda x: x + table.sum())(1.0)


def table_passed(advice):
    yield jax.jit(lambda x, table: x + table.sum())(1.0, jnp.asarray(TABLE))


@jax.jit
def block(x, w):
    return jnp.tanh(x @ w) + jax.nn.relu(x) * 0.5 - jnp.cos(x) * jnp.sin(x) + jnp.exp(-jnp.abs(x)) + x * 0.25


WEIGHTS = np.stack([np.eye(4, dtype=np.float32)] * 80) * 0.1


def loop_unrolled():
    @jax.jit
    def deep(x):
        for w in WEIGHTS:
            x = block(x, w)
        return x

    yield deep(np.ones((2, 4), np.float32))


def loop_scanned(advice):
    @jax.jit
    def deep(x, weights):
        return jax.lax.scan(lambda x, w: (block(x, w), None), x, weights)[0]

    yield deep(np.ones((2, 4), np.float32), WEIGHTS)


def late_shape():
    step = jax.jit(lambda x: x * 2)
    yield step(X)
    with jitwatch.steady(on_recompile="count"):
        yield step(X[:2])[:2]


def shape_known_before(advice):
    step = jax.jit(lambda x: x * 2)
    yield step(X)
    step(X[:2])
    with jitwatch.steady(on_recompile="count"):
        yield step(X[:2])[:2]


def old_state_used():
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = jnp.asarray(X)
    new = step(w)
    with contextlib.suppress(RuntimeError, ValueError):
        w.sum()
    yield new
    yield new + 1


def new_state_used(advice):
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = jnp.asarray(X)
    w = step(w)
    w.sum()
    yield w
    yield w + 1


def same_buffer_twice():
    step = jax.jit(lambda w, ema: (w + 1, ema * 2), donate_argnums=(0, 1))
    w = jnp.asarray(X)
    with contextlib.suppress(RuntimeError, ValueError):
        step(w, w)
    yield X + 1
    yield X * 2


def copied_buffer(advice):
    step = jax.jit(lambda w, ema: (w + 1, ema * 2), donate_argnums=(0, 1))
    w = jnp.asarray(X)
    yield from step(w, w.copy())


def scalar_result():
    step = jax.jit(lambda batch: batch.mean(), donate_argnums=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield step(jnp.ones((8, 64)))


def nothing_donated(advice):
    yield jax.jit(lambda batch: batch.mean())(jnp.ones((8, 64)))


LARGE = 17 << 20


def state_kept_twice():
    step = jax.jit(lambda w: w + 1)
    w = jnp.zeros(LARGE, jnp.float32)
    for _ in range(3):
        w = step(w)
    yield w[:3]


def state_donated(advice):
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = jnp.zeros(LARGE, jnp.float32)
    for _ in range(3):
        w = step(w)
    yield w[:3]


PAIRS = {
    "static_arg_churn": Pair(static_counter, counter_as_an_argument, 1, "as an ordinary argument"),
    "identity_hashed_static": Pair(object_made_anew, object_made_once, 1, "pass the same object each time"),
    "too_many_statics": Pair(five_flags, one_config, 4, "frozen"),
    "unhashable_static": Pair(list_as_static, tuple_as_static, 1, "tuple"),
    "closure_capture": Pair(captured_rate, rate_as_an_argument, 1, "as an argument of the jitted function"),
    "jit_in_loop": Pair(jit_in_a_loop, jit_once, 1, "Call jax.jit once"),
    "mutable_default": Pair(list_as_default, none_as_default, 1, "None"),
    "shape_churn": Pair(ever_new_sizes, padded_sizes, 2, "Pad to a few sizes"),
    "dtype_flip": Pair(number_and_integer, one_dtype, 1, "jnp.asarray(x, "),
    "weak_type": Pair(python_number_first, array_first, 1, "jnp.asarray"),
    "sharding_flip": Pair(
        committed_later, committed_first, 1, "jax.device_put with the final sharding before the first step"
    ),
    "tree_flip": Pair(key_comes_later, same_keys, 1, "Keep the same keys"),
    "config_flip": Pair(precision_toggles, precision_set_once, 1, "once"),
    "cache_thrash": Pair(caches_cleared, caches_kept, 1, "lear"),
    "eager_churn": Pair(body_made_anew, body_defined_once, 1, "once"),
    "captured_constant": Pair(table_captured, table_passed, 1, "as arguments of the jitted function"),
    "unrolled_loop": Pair(loop_unrolled, loop_scanned, 1, "jax.lax.scan"),
    "compile_during_steady": Pair(late_shape, shape_known_before, 2, ""),
    "use_after_donate": Pair(old_state_used, new_state_used, 1, ""),
    "double_donation": Pair(same_buffer_twice, copied_buffer, 1, "opy"),
    "unusable_donation": Pair(scalar_result, nothing_donated, 1, ""),
    "missed_donation": Pair(state_kept_twice, state_donated, 1, "Donate it"),
}


def run(program):
    """Results, pitfalls with their advice, and compiles of the job's functions."""
    with jitwatch.install(port=0) as watch:
        results = [np.asarray(one) for one in program()]
        assert_truths(watch)
        state, records = watch.snapshot(), watch.events(10_000)
    compiles = [one for one in records if one["event"] in ("jit.compiled", "jit.recompiled")]
    advice = {one["pitfall"]: one["advice"] for one in state["pitfalls"]}
    return results, advice, sum(one["function"] != JAX_LABEL for one in compiles)


def test_every_pitfall_has_a_pair():
    assert sorted(PITFALLS) == sorted(PAIRS)


# One mistake ends a thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("pitfall", PAIRS)
def test_advice_keeps_the_results_and_brings_what_it_promises(pitfall, monkeypatch):
    # However fast the machine is, an unrolled loop is worth a word here.
    rules = [functools.partial(UnrolledLoop, 0.0) if rule is UnrolledLoop else rule for rule in RULES]
    monkeypatch.setattr("jitwatch.runtime.Diagnosis", functools.partial(Diagnosis, rules=rules))
    pair = PAIRS[pitfall]
    results, advice, compiles = run(pair.mistake)
    assert pitfall in advice
    assert pair.says in advice[pitfall]

    followed, more_advice, fewer = run(functools.partial(pair.fixed, advice[pitfall]))
    assert {} == more_advice
    assert pair.compiles == fewer <= max(compiles, pair.compiles)
    assert len(results) == len(followed)
    for one, other in zip(results, followed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
