"""Programs that donate, delete or drop arrays as they should: no violation, no pitfall, no note."""

from __future__ import annotations

import gc

# Imported here since it leaves an import hook in the process, which the tests of tests would find.
import flashbax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from tests.unit.donations import donate, notes, short, state_of, train_step, violations


@pytest.fixture
def watch():
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


def rebinding_loop():
    step, state = jax.jit(train_step, donate_argnums=0), state_of(2, 4)
    for _ in range(5):
        state = donate(step, state)
    return float(state["step"])


def old_name_in_scope():
    step, old = jax.jit(train_step, donate_argnums=0), state_of(2, 4)
    new = step(old, 1)
    assert old["step"].is_deleted()
    return float(new["step"]), old["params"]["w1"].shape, old["params"]["w1"].nbytes, old["params"]["w1"].dtype


def old_leaf_for_shapes():
    step, x = jax.jit(lambda x: x + 1, donate_argnums=0), jnp.ones(4)
    step(x)
    return jax.eval_shape(step, x), step.lower(x), x.sharding, x.aval, x.committed


def old_leaf_unused_by_the_function():
    step, x = jax.jit(lambda x: x + 1, donate_argnums=0), jnp.ones(4)
    step(x)
    return jax.jit(lambda used, unused: used * 2)(jnp.ones(4), x)


def donation_inside_of_an_outer_jit():
    inner, x = jax.jit(lambda x: x * 2, donate_argnums=0), jnp.ones(4)
    outer = jax.jit(lambda x: inner(x) + x)
    for _ in range(3):
        outer(x)
    constant = jax.jit(lambda: inner(x))()
    return np.asarray(x), np.asarray(constant)


def donated_numpy_arrays():
    step, x = jax.jit(lambda x: x + 1, donate_argnums=0), np.ones(4, np.float32)
    for _ in range(3):
        step(x)
    return x.sum()


def donated_numbers():
    step = jax.jit(lambda state: (state[0] + 1, state[1] * 2), donate_argnums=0)
    state = (1, 2.0)
    for _ in range(3):
        state = step(state)
    return state


def deleted_on_purpose():
    x = jnp.ones(4)
    x.delete()
    with pytest.raises(RuntimeError) as raised:
        np.asarray(x)
    with pytest.raises(RuntimeError):
        jax.jit(lambda x: x + 1)(x)
    with pytest.raises(RuntimeError):
        jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    assert [] == notes(raised.value)


def copy_kept_for_later():
    step, state = jax.jit(train_step, donate_argnums=0), state_of(2, 4)
    best = jax.tree.map(jnp.copy, state)
    state = step(state, 1)
    return jax.device_get(best), jax.device_get(state)


def same_array_twice_without_donation():
    x = jnp.ones(4)
    return jax.jit(lambda a, b: a + b)(x, x)


def error_of_the_users_own():
    def failing(state, other):
        raise ValueError("cannot donate the same thing, it was deleted")

    x = jnp.ones(4)
    with pytest.raises(ValueError, match="cannot donate") as raised:
        jax.jit(failing, donate_argnums=0)(x, x)
    assert [] == notes(raised.value)
    return np.asarray(x)


def wrong_number_of_arguments():
    with pytest.raises(TypeError) as raised:
        jax.jit(lambda x: x, donate_argnums=0)(jnp.ones(4), jnp.ones(4))
    assert [] == notes(raised.value)


def arrays_that_die_with_their_last_name():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    for _ in range(3):
        step(jnp.ones(4))
    gc.collect()


def empty_and_missing_arguments():
    step = jax.jit(lambda state=None, extra=(): extra, donate_argnums=(0, 1))
    return step(), step(None), step(extra=[]), step({}, [None])


def cache_cleared_between_calls():
    step, x = jax.jit(lambda x: x + 1, donate_argnums=0), jnp.ones(4)
    x = step(x)
    step.clear_cache()
    jax.clear_caches()
    return np.asarray(step(x))


PROGRAMS = [
    rebinding_loop,
    old_name_in_scope,
    old_leaf_for_shapes,
    old_leaf_unused_by_the_function,
    donation_inside_of_an_outer_jit,
    donated_numpy_arrays,
    donated_numbers,
    deleted_on_purpose,
    copy_kept_for_later,
    same_array_twice_without_donation,
    error_of_the_users_own,
    wrong_number_of_arguments,
    arrays_that_die_with_their_last_name,
    empty_and_missing_arguments,
    cache_cleared_between_calls,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_benign_program_gives_nothing(watch, program):
    """No violation, no pitfall."""
    program()
    assert [] == violations(watch)
    assert [] == [row for row in watch.snapshot()["pitfalls"] if "donat" in row["pitfall"]]
    rows = watch.snapshot()["metrics"]["jitwatch_donation_violations_by_kind_total"]
    assert {0.0} == {row["value"] for row in rows}


@pytest.mark.parametrize("program", PROGRAMS)
def test_benign_program_gives_the_same_without_the_agent(program):
    """The programs above are right: they run on plain JAX."""
    program()


def test_donation_without_effect_is_no_call_and_no_bytes(watch):
    """Inside of an outer jit nothing is donated, so nothing is counted as donated."""
    donation_inside_of_an_outer_jit()
    rows = watch.snapshot()["metrics"]["jitwatch_donated_bytes_total"]
    assert {0.0} == {row["value"] for row in rows}
    assert {0.0} == {row["value"] for row in watch.snapshot()["metrics"]["jitwatch_calls_total"]}


@pytest.fixture
def buffer():
    """flashbax's replay buffer, a thousandth of its usual size."""
    return flashbax.make_flat_buffer(max_length=64, min_length=2, sample_batch_size=2)


def test_replay_buffer_that_is_rebound_gives_nothing(watch, buffer):
    """`state = add(state, item)`, then samples of the newest state."""
    item = {"observation": jnp.zeros(3), "reward": jnp.float32(0)}
    add, state = jax.jit(buffer.add, donate_argnums=0), buffer.init(item)
    for _ in range(5):
        state = add(state, item)
    buffer.sample(state, jax.random.key(0))
    assert [] == violations(watch)


def test_replay_buffer_used_after_donation_names_add(watch, buffer):
    """A sample of the old state: which leaf, and that `add` took it."""
    item = {"observation": jnp.zeros(3), "reward": jnp.float32(0)}
    add, state = jax.jit(buffer.add, donate_argnums=0), buffer.init(item)
    add(add(state, item), item)
    with pytest.raises(RuntimeError) as raised:
        state.experience["observation"][0]
    (event,) = violations(watch)
    assert ("add", "state.experience['observation']", 2) == (
        short(event["donated_by"]),
        event["donated_leaf"],
        event["calls_ago"],
    )
    assert event["donated_at"].startswith(__file__)
    (note,) = notes(raised.value)
    assert "if the result of that call is the next value of state, assign it to state" in note
