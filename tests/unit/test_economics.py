"""What lost seconds amount to: exact figures by a clock in the test's hand."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.pitfalls import Pitfall, Rule
from jitwatch.model.events import Compiled
from jitwatch.state.cost import Pace, StepTimes


@pytest.fixture
def times():
    """No steps yet."""
    return StepTimes()


def test_mean_step_is_unknown_before_the_second_call(times):
    """The first call of `step()` ends a step that nobody saw begin."""
    assert times.mean_s is None
    times.stepped(1, None)
    assert times.mean_s is None


def test_mean_step_divides_by_all_steps(times):
    """`step(4)` after two seconds is four steps."""
    times.stepped(1, None)
    times.stepped(4, 2.0)
    times.stepped(1, 0.5)

    assert 0.5 == times.mean_s


def test_mean_step_leaves_compiles_out(times):
    """A step of 0.1 s that compiled for ten seconds is still one of 0.1 s."""
    times.compiled(30.0)
    times.stepped(1, None)
    times.stepped(1, 0.125)
    times.compiled(8.0)
    times.compiled(2.0)
    times.stepped(1, 10.125)
    times.stepped(1, 0.125)

    assert 0.125 == times.mean_s


def test_mean_step_beside_a_longer_compile_in_another_thread(times):
    """What was compiled meanwhile may be more than the step took: never less than no time."""
    times.stepped(1, None)
    times.compiled(5.0)
    times.stepped(1, 1.0)
    assert times.mean_s is None
    times.stepped(1, 1.0)

    assert 0.5 == times.mean_s


def test_cost_is_told_as_shares_and_steps():
    """Of the run, of the time since steady, and in steps."""
    pace = Pace(wall_s=200.0, steady_s=50.0, step_s=0.25)

    assert {
        "lost_seconds": 8.0,
        "lost_ratio": 0.04,
        "lost_steps": 32.0,
        "lost_seconds_since_steady": 2.0,
        "lost_ratio_since_steady": 0.04,
    } == pace.cost(8.0, 2.0)


@pytest.mark.parametrize("steady_s", [None, 0.0])
def test_cost_without_a_measure_is_not_guessed(steady_s):
    """No time passed, nobody said steady, no steps: nothing is divided by zero."""
    assert {
        "lost_seconds": 8.0,
        "lost_ratio": 0.0,
        "lost_steps": None,
        "lost_seconds_since_steady": 0.0,
        "lost_ratio_since_steady": None,
    } == Pace(wall_s=0.0, steady_s=steady_s).cost(8.0, 0.0)


def test_calls_are_counted_at_the_rate_while_nothing_compiles():
    """100 calls in 50 s of running: eight lost seconds are as long as 16 of them."""
    assert 16.0 == Pace(wall_s=60.0, busy_s=10.0).calls(8.0, 100)


@pytest.mark.parametrize(("wall_s", "calls"), [(60.0, None), (60.0, 0), (10.0, 100), (0.0, 100)])
def test_calls_without_a_rate_are_not_guessed(wall_s, calls):
    """Calls that nobody counts, none so far, or no time in which they ran."""
    assert Pace(wall_s=wall_s, busy_s=10.0).calls(8.0, calls) is None


class EachCompile(Rule):
    """Finds another pitfall in each compile."""

    name = "shape_churn"

    def __init__(self) -> None:
        self.compiles = 0

    def check(self, event):
        """The number of the compile is the subject."""
        if not isinstance(event, Compiled):
            return None
        self.compiles += 1
        return Pitfall(str(self.compiles), "it compiled", "do not compile")


def seconds_of(record: dict) -> float:
    return sum(record[name] or 0.0 for name in ("trace_s", "lower_s", "compile_s"))


def test_pitfall_costs_the_recompiles_so_far(monkeypatch):
    """No first compile, and no first use under `vmap`, is held against the function."""
    monkeypatch.setattr("jitwatch.runtime.Diagnosis", functools.partial(Diagnosis, rules=(EachCompile,)))
    with jitwatch.install(port=0) as watch:

        def costly_target(x):
            return x * 2

        function = jax.jit(costly_target)
        function(np.ones(2, np.float32))
        function(np.ones(3, np.float32))
        jax.vmap(function)(np.ones((3, 4), np.float32))
        events = [
            one for one in watch.events() if one.get("name") == "costly_target" and one["event"] != "program.measured"
        ]
        (row,) = [row for row in watch.snapshot()["functions"] if row["function"] == events[0]["function"]]
    _, shape, derived = [one for one in events if one["event"] in ("jit.compiled", "jit.recompiled")]

    assert (["shape"], ["transform"]) == (shape["causes"], derived["causes"])
    assert [0.0, seconds_of(shape), seconds_of(shape)] == [
        one["lost_s"] for one in events if one["event"] == "jit.pitfall"
    ]
    assert seconds_of(shape) == row["lost_seconds"]


def test_loss_in_a_steady_job_is_told_by_function_and_line():
    """From a real violation: what it took, since when, and the share of the time since then."""
    with jitwatch.install(port=0) as watch:
        function = jax.jit(lambda x: x * 3)
        function(np.ones(2, np.float32))
        state = jitwatch.steady(on_recompile="count")
        try:
            function(np.ones(3, np.float32))
            snapshot = watch.snapshot()
        finally:
            state.end()
        after = watch.snapshot()["totals"]
        (violation,) = [one for one in watch.events() if one["event"] == "jit.steady_violation"]
    spent_s = violation["spent_s"]
    (site,) = snapshot["call_sites"]
    (function_row,) = [row for row in snapshot["functions"] if row["function"] == violation["function"]]

    assert state.since == violation["since"]
    for row in (snapshot["totals"], function_row, site):
        assert spent_s == row["lost_seconds_since_steady"]
        assert spent_s / snapshot["steady_seconds"] == row["lost_ratio_since_steady"]
    assert after["lost_ratio_since_steady"] is None
