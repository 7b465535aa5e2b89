"""What the tests of donation share: a job that donates, and what the agent says of it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

FILE = str(Path(__file__))


def train_step(state, batch):
    """Each leaf of the state comes out again."""
    return jax.tree.map(lambda leaf: leaf + batch, state)


def state_of(*shape: int) -> dict[str, Any]:
    """A fresh state with a leaf of this shape two levels down."""
    return {"params": {"w1": jnp.ones(shape), "w2": jnp.ones(3)}, "step": jnp.zeros((), jnp.int32)}


def donate(step, state):
    """Give a state away; this line is the donor's."""
    return step(state, 1)


def taken(step, *shape: int) -> jax.Array:
    """An array that a call of `step` took, one call before the last."""
    state = state_of(*shape)
    donate(step, donate(step, state))
    return state["params"]["w1"]


#: `file:line` of the call in `donate`.
DONATED_AT = f"{FILE}:{inspect.getsourcelines(donate)[1] + 2}"


def violations(watch) -> list[dict[str, Any]]:
    """The violations in the event ring, oldest first."""
    return [event for event in watch.events(10_000) if event["event"] == "donation.violation"]


def short(label: str | None) -> str | None:
    """The last part of a function's label."""
    return label and label.partition("@")[0].rpartition(".")[2]


def values(watch, metric: str) -> dict[str, float]:
    """Values of a metric by the function's short name, those at 0 left out."""
    rows = watch.snapshot()["metrics"].get(f"jitwatch_{metric}", [])
    return {short(row["labels"]["function"]): row["value"] for row in rows if row["value"]}


def notes(error: BaseException) -> list[str]:
    """Our notes at an error."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("donated ")]
