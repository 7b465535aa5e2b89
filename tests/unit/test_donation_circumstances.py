"""What the note of a donation violation says follows from what happened, and never changes what a program means."""

from __future__ import annotations

import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jitwatch
from jitwatch.jaxhooks.donation.watched import Watched


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as found:
        yield found


@pytest.fixture
def train_step(watch):
    """Gives the next state; jitted after the agent came."""

    def train_step(state):
        return jax.tree.map(lambda leaf: leaf + 1, state)

    return jax.jit(train_step, donate_argnums=0)


def note_of(use):
    """The note on the error of a use."""
    with pytest.raises(RuntimeError) as raised:
        use()
    (note,) = [one for one in raised.value.__notes__ if one.startswith("donated")]
    return note


def violations(watch):
    return [event for event in watch.events(200) if event["event"] == "donation.violation"]


def sharded():
    """An array on two devices."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("d",)), PartitionSpec("d"))
    return jax.device_put(jnp.ones((4, 3)), sharding), sharding


# Arrays over the same buffers


def test_array_by_device_put_shares_the_buffer(watch, train_step):
    """The donor is known, and that `device_put` made no copy."""
    params = {"w": jnp.ones((4, 4))}
    start = jax.device_put(params, jax.devices()[0])
    params = train_step(params)
    note = note_of(lambda: start["w"] + 1)
    assert "donated to train_step(params)" in note
    assert "jax.device_put made no copy" in note
    (event,) = violations(watch)
    assert ("state['w']", __file__) == (event["donated_leaf"], event["donated_at"].rpartition(":")[0])


@pytest.mark.parametrize("which", ["addressable_shards", "addressable_data"])
def test_shards_that_are_held_are_told_apart(watch, train_step, which):
    """Each use is one violation with the donor; the advice is a copy on the host."""
    state, _ = sharded()
    if which == "addressable_shards":
        held = [shard.data for shard in state.addressable_shards]
    else:
        held = [state.addressable_data(i) for i in range(2)]
    state = train_step(state)
    notes = [note_of(lambda one=one: np.asarray(one)) for one in held]
    assert ["donated to train_step(state)"] * 2 == [note.partition(" at ")[0] for note in notes]
    assert all("copy it to the host (np.asarray)" in note for note in notes)
    assert 2 == len(violations(watch))


def test_array_put_together_from_shards_is_a_clean_error(watch, train_step):
    """On JAX ≤ 0.10 its use ends the process without the agent."""
    state, sharding = sharded()
    twin = jax.make_array_from_single_device_arrays(
        state.shape, sharding, [shard.data for shard in state.addressable_shards]
    )
    evaluate = jax.jit(lambda one: one.sum())
    evaluate(twin)
    state = train_step(state)
    assert "donated to train_step(state)" in note_of(lambda: evaluate(twin))


def test_source_of_a_donated_alias_is_known_as_well(watch, train_step):
    """Sharing goes both ways."""
    state = jnp.ones(3)
    other = jax.device_put(state, jax.devices()[0])
    train_step(other)
    assert "donated to train_step(other)" in note_of(lambda: state + 1)


def test_copies_are_innocent(watch, train_step):
    """An array with a buffer of its own lives on, and so does one on another device."""
    state = jnp.ones(3)
    kept = [jnp.copy(state), jax.device_put(state, jax.devices()[1]), state + 0, np.asarray(state)]
    train_step(state)
    assert [3.0] * 4 == [float(one.sum()) for one in kept]
    assert [] == violations(watch)


def test_arrays_that_share_are_kept_by_nobody(watch):
    """The books hold weak references only."""
    import weakref

    state = jnp.ones(3)
    for _ in range(100):
        alias = jax.device_put(state, jax.devices()[0])
    ended = [weakref.ref(one) for one in (state, alias)]
    del state, alias
    assert [None, None] == [one() for one in ended]


# What became of the call


def test_failed_call_leaves_no_value(watch):
    """The handler retries with what the call had donated already."""
    calls = []

    def fetch(x):
        calls.append(x)
        if len(calls) == 2:
            raise RuntimeError("flaky")
        return np.asarray(x)

    @partial(jax.jit, donate_argnums=0)
    def step(state, x):
        return state + jax.pure_callback(fetch, jax.ShapeDtypeStruct((), jnp.float32), x)

    state = jax.block_until_ready(step(jnp.ones(8), jnp.float32(0)))
    with pytest.raises(Exception, match="flaky"):
        state = jax.block_until_ready(step(state, jnp.float32(1)))
    if not state.is_deleted():
        return  # this JAX failed before it donated
    note = note_of(lambda: state + 1)
    assert "that call failed after it had donated state" in note
    assert note.endswith("restore a checkpoint, or copy it before the call: jnp.copy(state)")


def test_use_before_the_assignment_says_so(watch, train_step):
    """Code that runs between the end of the call and the assignment, as a signal handler does, reads the state."""
    found = []
    state = jnp.ones(3)
    train_step(jnp.ones(3))

    def look(frame, event, _):
        if event == "return" and frame.f_code is Watched.__call__.__code__:
            sys.setprofile(None)
            found.append(note_of(lambda: state + 1))

    sys.setprofile(look)
    try:
        state = train_step(state)
    finally:
        sys.setprofile(None)
    assert "was not assigned yet (a signal handler or a callback ran first)" in found[0]


def test_attribute_that_is_rebound_is_named(watch, train_step):
    """The target is what the source says, not the parameter's name."""

    class Job:
        def __init__(self):
            self.state = jnp.ones(3)

    job = Job()
    best = job.state
    job.state = train_step(job.state)
    note = note_of(lambda: best + 1)
    assert "donated to train_step(job.state)" in note
    assert "that line assigns its result to job.state" in note


def test_gradients_are_no_successor(watch):
    """The advice does not say to assign gradients to the parameters."""

    @partial(jax.jit, donate_argnums=0)
    def grad_step(params, x):
        return jax.grad(lambda p: ((x @ p - 1) ** 2).mean())(params)

    params, x = jnp.ones((4, 4)), jnp.ones((2, 4))
    grads = grad_step(params, x)
    note = note_of(lambda: params - 0.1 * grads)
    assert "params = grad_step" not in note
    assert "if not, do not donate params" in note


# The user's names


def test_equinox_arguments_have_the_users_names(watch):
    """Arrays of a module that `filter_jit` donates."""

    @eqx.filter_jit(donate="all")
    def step(model, x):
        return jax.tree.map(lambda leaf: leaf + 1 if eqx.is_array(leaf) else leaf, model), x * 2

    model = eqx.nn.Linear(3, 3, key=jax.random.key(1))
    step(model, jnp.ones(3))
    note = note_of(lambda: model.bias + 1)
    assert "donated to step(model)" in note
    assert "leaf model.bias" in note


def test_flax_module_is_updated_in_place(watch):
    """Arrays of a module by their path in it; the advice is to read them again."""

    class Net(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.scale = nnx.Param(jnp.ones(3))

    @nnx.jit(donate_argnums=0)
    def step(net, x):
        net.scale[...] = net.scale[...] + x
        net.first.kernel[...] = net.first.kernel[...] * 2

    net = Net()
    scale, kernel = net.scale[...], net.first.kernel[...]
    step(net, 1.0)
    assert "leaf net.scale" in note_of(lambda: scale + 1)
    note = note_of(lambda: kernel + 1)
    assert "leaf net.first.kernel" in note
    assert "that call updates net in place" in note


# Pairs


def test_double_donation_names_the_pair(watch):
    """Both leaves, and how many more share."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, ema, batch):
        return jax.tree.map(lambda p: p - batch.mean(), params), jax.tree.map(lambda e: 0.9 * e, ema)

    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    ema = jax.device_put(params, jax.devices()[0])
    with pytest.raises(Exception, match="same buffer twice") as raised:
        update(params, ema, jnp.ones((8, 3)))
    (event,) = violations(watch)
    assert {"ema['b']", "params['b']"} == {event["leaf"], event["other_leaf"]}
    (note,) = [one for one in raised.value.__notes__ if one.startswith("donated")]
    assert "and 1 more pair of arguments" in note


def test_donated_and_used_pair_is_named(watch):
    """One buffer is donated as one argument and used as another."""

    @partial(jax.jit, donate_argnums=0)
    def update(x, batch):
        return x + batch

    x = jnp.zeros(1000)
    with pytest.raises(Exception, match="donated in the same call"):
        update(x, x)
    (event,) = violations(watch)
    assert ("x", "batch") == (event["leaf"], event["other_leaf"])
    assert "one call of update donates x, which shares its buffer with batch" in str(watch.explain()).replace(
        "\n    ", " "
    )
