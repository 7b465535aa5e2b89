"""What holds of every program, whatever it does wrong: asserted wherever a test runs one under an agent."""

from __future__ import annotations

import os
from typing import Any

import jax

import jitwatch
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.model.taxonomy import JAX_LABEL

#: Words that no verdict contains: names of ours and of JAX's internals.
NEVER = (
    "Watched",
    "ObservedFunction",
    "donor",
    "PjitFunction",
    "GraphDef",
    "HashableMapping",
    "_graphdef",
    "dynamic_nodonate",
)
#: Of the run's time; above it a job is not called healthy, if it compiled a second or more.
COSTLY_RATIO, COSTLY_S = 0.3, 1.0
_JAX = (os.path.join(os.path.dirname(jax.__file__), ""),)


def assert_truths(watch: jitwatch.Watch) -> None:
    """Assert them of an agent that runs.

    What was lost adds up and is explained; a job that mostly compiles is not healthy; no text names what is not the
    user's; each line that is named exists and is the user's; what the user jitted is not filed under JAX's own.
    """
    state, text, records = watch.snapshot(), str(watch.explain()), watch.events(10_000)
    totals = state["totals"]
    rows = [row for row in state["functions"] if row["function"] != JAX_LABEL]
    assert abs(totals["lost_seconds"] - sum(row["lost_seconds"] for row in rows)) < 1e-6
    assert abs(totals["lost_seconds"] - sum(site["lost_seconds"] for site in state["call_sites"])) < 1e-6
    assert not totals["lost_seconds"] or "\n\n" in text, "seconds were lost, and explain() does not say where"
    if totals["busy_seconds"] > max(COSTLY_S, COSTLY_RATIO * state["uptime_seconds"]):
        assert "good" != state["health"]["level"], state["health"]
    told = [text, state["health"]["sentence"], *(f"{one['message']} {one['advice']}" for one in state["pitfalls"])]
    told += [str(record.get(name)) for record in records for name in ("explanation", "reason", "advice", "changes")]
    assert [] == [(word, one) for word in NEVER for one in told if word in one]
    assert JAX_LABEL not in {one["function"] for one in state["pitfalls"]}
    for record in records:
        _assert_lines(record)


def _assert_lines(record: dict[str, Any]) -> None:
    for name in ("call_site", "location", "donated_at"):
        line = record.get(name)
        if line is None or line.startswith("<") or "ipykernel_" in line:
            continue
        path, _, number = line.rpartition(":")
        with open(path, encoding="utf-8") as opened:
            assert int(number) <= len(opened.readlines()), (name, record)
        if name == "call_site":
            assert is_users(path, _JAX) is True, (name, record)
        if record["function"] == JAX_LABEL and name == "location":
            assert is_users(path, _JAX) is not True, (name, record)
