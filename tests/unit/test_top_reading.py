"""Answers of a job as figures, whatever the answer holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitwatch
from jitwatch.top.figures import MemoryFigures
from jitwatch.top.reading import figures_of
from tests.unit.top_states import figures, function, pitfall, site, state

ODD = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_figures_are_those_of_the_state():
    """Counts, times, the fullest device, functions, recompiles and pitfalls."""
    rows = (function(compiles=3, recompiles=2, lost_seconds=6.0, lost_ratio=0.01), function("__jax__", compiles=9))
    found = figures(
        *rows,
        call_sites=[site(), site(reason="")],
        pitfalls=[pitfall(), pitfall("train.other", lost_seconds=0.0)],
        in_progress=[{"function": "train.train_step", "phase": "compile", "for_s": 12.5, "thread": "MainThread"}],
        metrics={"jitwatch_oom_total": [{"labels": {}, "value": 2.0}]},
        steady_seconds=10.0,
    )

    assert ("4711", None, 7, 1200, 0.25) == (found.run, found.process_index, found.pid, found.step, found.step_seconds)
    assert (3, 2, 6.0, 0.01, 0.25) == (
        found.compiles, found.recompiles, found.lost_seconds, found.lost_ratio, found.compiling_ratio
    )  # fmt: skip
    assert (2, True, 500 * 2**20) == (found.out_of_memory, found.is_steady, found.host_resident_bytes)
    assert found.memory == MemoryFigures(
        device="gpu:0", in_use_bytes=34 * 2**30, limit_bytes=80 * 2**30, is_estimate=False
    )
    assert [("train.train_step", "compile", 12.5)] == [
        (one.function, one.phase, one.for_seconds) for one in found.in_progress
    ]
    assert ["train.train_step", "__jax__"] == [one.function for one in found.functions]
    assert ["/home/user/train.py:88"] == [one.call_site for one in found.newest_recompiles]
    assert [0.5, 0.0] == [one.lost_seconds for one in found.pitfalls]


def test_worst_cause_is_the_most_frequent():
    """And empty without any."""
    found = figures(function(causes={"dtype": 1, "shape": 5, "static_arg": 5}), function("train.f"))

    assert ["shape", ""] == [one.worst_cause for one in found.functions]


def test_texts_are_cleaned():
    """A function's name is whatever the job made it."""
    found = figures(function("a\x1b[2Jb"), call_sites=[site(reason="x\x07")], pitfalls=[pitfall(advice="\x9b")])

    assert ("a?[2Jb", "x?", "?") == (
        found.functions[0].function,
        found.newest_recompiles[0].reason,
        found.pitfalls[0].advice,
    )


@pytest.mark.parametrize("answer", [None, [], "x", 7, {}, {"totals": None}, {"functions": []}])
def test_what_is_no_state_has_no_figures(answer):
    """Some other server answers there."""
    assert None is figures_of(answer)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, 10**400, True, "7", None, [7]])
def test_what_is_no_amount_is_none(odd):
    """A figure that cannot be shown, or written as JSON, is 0."""
    found = figures(function(seconds=odd), uptime_seconds=odd, mean_step_seconds=odd)

    assert (0.0, 0.0, None) == (found.functions[0].seconds, found.uptime_seconds, found.step_seconds)


@given(st.data())
def test_figures_of_never_fails(data):
    """Any part may be missing or odd; what comes out can always be written as JSON."""
    whole = state(function(), call_sites=[site()], pitfalls=[pitfall()])
    for name in data.draw(st.sets(st.sampled_from(sorted(set(whole) - {"totals"})))):
        whole[name] = data.draw(ODD)
    whole["totals"] = data.draw(st.dictionaries(st.sampled_from(sorted(whole["totals"])), ODD))
    whole["functions"] = data.draw(st.lists(st.dictionaries(st.sampled_from(sorted(function())), ODD)) | ODD)

    found = figures_of(whole)

    assert found is not None
    assert json.dumps([found.compiles, found.uptime_seconds, found.lost_ratio], allow_nan=False)


def test_figures_of_a_real_agent():
    """The names are those that `snapshot()` really has."""
    with jitwatch.install(port=0, run="real") as watch:
        found = figures_of(json.loads(json.dumps(watch.snapshot())))

    assert found is not None
    assert ("real", True) == (found.run, found.uptime_seconds > 0)
    assert found.pid is not None
    assert found.host_resident_bytes is None or found.host_resident_bytes > 0


def test_newest_recompiles_come_first():
    """By the job's own clock; of an older agent, which tells no time, the dearest first."""
    found = figures(
        call_sites=[
            site("old", lost_seconds=9.0), site("dear", last_time=1000.0, lost_seconds=8.0),
            site("new", last_time=1599.0, lost_seconds=0.1), site("cheap", lost_seconds=1.0),
        ]
    )  # fmt: skip

    assert [("new", 1.0), ("dear", 600.0), ("old", None), ("cheap", None)] == [
        (one.function, one.seen_s_ago) for one in found.newest_recompiles
    ]
