"""Events: frozen facts that become JSON without JAX's objects."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jitwatch.model import events
from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    Event,
    FunctionWrapped,
    Installed,
    LogMoved,
    PersistentCacheSaved,
    ProbeFailed,
    RunSummary,
    Stepped,
    Uninstalled,
)
from jitwatch.model.function import Function

STEP = Function("train.step", "step", "train.py:10")

EXAMPLES: list[Event] = [
    FunctionWrapped(function=STEP),
    Compiled(function=STEP, trace_s=0.5, lower_s=0.25, compile_s=1.0),
    CompileFailed(function=STEP, phase="trace", error="TypeError", message="no", spent_s=0.1),
    PersistentCacheSaved(saved_s=-0.5),
    Stepped(steps=2, duration_s=None),
    Installed(
        version="1", jax="0.10.2", jaxlib=None, python="3.11.0", pid=1, url="http://127.0.0.1:1", probes=("compile",)
    ),
    Uninstalled(),
    ProbeFailed(probe="cache", reason="renamed"),
    LogMoved(wanted="/logs/a.jsonl", path="/logs/a.node7-1.jsonl", because="another process writes to it"),
    RunSummary(
        wall_s=1.0,
        compiles=1,
        recompiles=0,
        failures=0,
        compile_s=0.5,
        busy_s=0.5,
        jax_compiles=3,
        top=({"function": "train.step"},),
    ),
]

#: The names that the event log may show.
LOGGED = {
    "agent.installed",
    "agent.uninstalled",
    "jit.compiled",
    "jit.recompiled",
    "jit.compile_failed",
    "jit.compile_profiled",
    "jit.compiling",
    "jit.cache_missed",
    "jit.storm_started",
    "jit.storm_ended",
    "jit.steady_violation",
    "jit.pitfall",
    "donation.violation",
    "memory.sample",
    "program.measured",
    "memory.pressure",
    "memory.leak",
    "memory.oom",
    "agent.probe_failed",
    "agent.log_moved",
    "run.summary",
    "run.compiler",
    "programs.diverged",
}
URGENT = {
    "jit.compiling",
    "programs.diverged",
    "jit.steady_violation",
    "donation.violation",
    "memory.oom",
    "run.summary",
    "agent.uninstalled",
}


def kind_of(event: Event) -> str:
    return type(event).__name__


@pytest.mark.parametrize("event", EXAMPLES, ids=kind_of)
def test_payload_is_json(event):
    """Each event survives strict JSON unchanged, so log, endpoint and report read the same."""
    payload = event.payload()

    assert payload == json.loads(json.dumps(payload, allow_nan=False))


@pytest.mark.parametrize("event", EXAMPLES, ids=kind_of)
def test_event_is_frozen_and_slotted(event):
    """A fact does not change, and thousands of them stay small."""
    assert not hasattr(event, "__dict__")
    for field in dataclasses.fields(event):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, None)


def test_kinds_are_the_documented_ones():
    """Every event that is logged has a name of the contract, and only the urgent ones stop the job for the disk."""
    kinds = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)]

    assert {kind.kind for kind in kinds} - {""} <= LOGGED
    assert {kind.kind for kind in kinds if kind.is_urgent} <= URGENT
    assert "jit.recompiled" == Compiled.repeated_kind
    assert RunSummary.is_urgent


@pytest.mark.parametrize("kind", [FunctionWrapped, PersistentCacheSaved, Stepped])
def test_kind_of_what_is_only_counted_is_empty(kind):
    """Wrapping, savings and steps are counters, not lines."""
    assert "" == kind.kind


def test_payload_function_becomes_three_fields():
    """A function is its label, its bare name and where it is defined, before the event's other fields."""
    payload = Compiled(function=STEP, trace_s=None, lower_s=0.25, compile_s=1.0, thread="MainThread").payload()

    assert {
        "function": "train.step",
        "name": "step",
        "location": "train.py:10",
        "call_site": None,
        "trace_s": None,
        "lower_s": 0.25,
        "compile_s": 1.0,
        "persistent_cache": "off",
        "expected": None,
        "cache_entries": None,
        "thread": "MainThread",
    } == payload
    assert ["function", "name", "location"] == list(payload)[:3]


def test_payload_tuple_becomes_a_list():
    """As it comes back from JSON."""
    assert ["compile"] == EXAMPLES[5].payload()["probes"]


def test_payload_names_no_class_variables():
    """The kind is the record's field `event`, not a field of its own."""
    assert {} == Uninstalled().payload()


@pytest.mark.parametrize(
    ("trace_s", "lower_s", "expected"), [(0.5, 0.25, 1.75), (None, 0.25, 1.25), (None, None, 1.0), (0.0, 0.0, 1.0)]
)
def test_total_s_counts_missing_phases_as_nothing(trace_s, lower_s, expected):
    """A new sharding compiles without a trace."""
    assert expected == Compiled(function=STEP, trace_s=trace_s, lower_s=lower_s, compile_s=1.0).total_s


def test_function_is_internal_by_its_label():
    """JAX's own is told by the label, not by the name."""
    assert Function("__jax__", "convert_element_type").is_internal
    assert not Function("train.__jax__", "__jax__").is_internal


def test_function_equal_by_value():
    """Two looks at one function give the same identity."""
    assert Function("train.step", "step", "train.py:10") == STEP
    assert 1 == len({STEP, Function("train.step", "step", "train.py:10")})


def test_changed_copy_is_what_replace_makes():
    """Of every event: with cleaned texts, and without changing the original."""
    for event in EXAMPLES:
        assert dataclasses.replace(event) == event.changed()
    event = Compiled(function=STEP, trace_s=0.5, lower_s=0.25, compile_s=1.0)
    changed = event.changed(call_site="a\nb.py:1", nth=2)
    assert dataclasses.replace(event, call_site="a b.py:1", nth=2) == changed
    assert (None, None) == (event.call_site, event.nth)
    with pytest.raises(AttributeError):
        event.changed(unknown=1)
