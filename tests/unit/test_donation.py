"""Donation: who took an array, told when somebody uses it again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jitwatch


@pytest.fixture
def watch():
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


def violations(watch):
    """The violations in the event ring."""
    return [event for event in watch.events(10_000) if event["event"] == "donation.violation"]


def test_use_after_donate_names_the_donor(watch):
    """The event says who took the array, where, as which leaf, and how many calls ago."""

    def train_step(state, batch):
        return {name: leaf + batch for name, leaf in state.items()}

    step = jax.jit(train_step, donate_argnums=0)
    user = jax.jit(lambda x: x * 2)
    old = state = {"w1": jnp.ones((8, 8)), "w2": jnp.ones(3)}
    user(old["w1"])
    state = step(state, 1.0)
    step(state, 1.0)
    with pytest.raises(RuntimeError, match="deleted"):
        user(old["w1"])
    (event,) = violations(watch)
    assert "use_after_donate" == event["kind"]
    assert event["donated_by"].split("@")[0].endswith("train_step")
    assert ("state['w1']", "x", [8, 8], "float32", 256, 2) == tuple(
        event[name] for name in ("donated_leaf", "leaf", "shape", "dtype", "bytes", "calls_ago")
    )
