"""The state as a few numbers."""

from __future__ import annotations

from dataclasses import asdict

import jax
import jax.numpy as jnp

import jitwatch
from jitwatch.exporters.scalars import scalars_of
from jitwatch.state.aggregates import Totals

NOW = {
    "totals": asdict(Totals(compiles=5, recompiles=3, lost_seconds=2.0, compile_seconds=4.0)),
    "uptime_seconds": 10.0,
    "busy_seconds": 5.0,
    "mean_step_seconds": 0.25,
}


def test_scalars_are_those_of_the_state():
    """Floats by flat names, the same figures as in the snapshot."""
    with jitwatch.install(port=0):
        step = jax.jit(lambda x: x * 2)
        for size in (4, 3):
            step(jnp.ones(size))
        found, totals = jitwatch.scalars(), jitwatch.snapshot()["totals"]

    assert {float} == {type(value) for value in found.values()}
    assert all(name.startswith("jitwatch/") for name in found)
    assert (2.0, 1.0) == (found["jitwatch/compiles"], found["jitwatch/recompiles"])
    assert totals["lost_seconds"] == found["jitwatch/lost_seconds"]
    # Both are of now: what is lost is a part of what the job was busy with.
    assert found["jitwatch/busy_ratio"] >= found["jitwatch/lost_ratio"] > 0


def test_scalars_without_an_agent_are_none():
    """A tracker gets nothing, and no error."""
    assert {} == jitwatch.scalars()


def test_what_is_not_known_is_left_out():
    """No 0 that would look like a figure."""
    found = scalars_of(NOW | {"mean_step_seconds": None}, {})

    assert {"jitwatch/lost_ratio", "jitwatch/busy_ratio"} <= set(found)
    assert not {"jitwatch/mean_step_seconds", "jitwatch/host_resident_bytes"} & set(found)
    assert not [name for name in found if "device" in name]
    assert "jitwatch/lost_ratio" not in scalars_of(NOW | {"uptime_seconds": 0.0}, {})


def test_memory_of_all_devices_and_of_the_fullest():
    """Bytes are added up; the share is that of the device that will run out first."""
    devices = [
        {"stats_supported": True, "in_use_bytes": 10, "in_use_ratio": 0.1},
        {"stats_supported": True, "in_use_bytes": 80, "in_use_ratio": 0.8},
        {"stats_supported": True, "in_use_bytes": 1, "in_use_ratio": None},
        {"stats_supported": False, "in_use_bytes": 1000, "in_use_ratio": None},
    ]
    memory = {"devices": devices, "live_arrays": {"bytes": 7}, "host": {"resident_bytes": 9}}
    found = scalars_of(NOW, memory)

    assert (91.0, 0.8) == (
        found["jitwatch/device_memory_in_use_bytes"],
        found["jitwatch/device_memory_in_use_ratio"],
    )
    assert (7.0, 9.0) == (found["jitwatch/live_array_bytes"], found["jitwatch/host_resident_bytes"])
    assert (0.2, 0.5, 0.25) == tuple(
        found[f"jitwatch/{name}"] for name in ("lost_ratio", "busy_ratio", "mean_step_seconds")
    )
