"""Storms of recompiles: start, end, and what is none."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.storms import StormRule
from jitwatch.model.events import Compiled, StormEnded, StormStarted
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL
from tests.waiting import wait_until

STEP = Function("train.step", "step", "train.py:10")
OTHER = Function("train.other", "other", "train.py:20")
HOUR = 3600.0


@pytest.fixture
def rule():
    return StormRule(threshold=5, window_s=600.0)


def compile_at(rule, *times, function=STEP, counts=True):
    """Tell the rule of compiles at these times; the storms it announced, with their time."""
    found = []
    for now in times:
        started = rule.compiled(function, now=now, cost_s=2.0, counts=counts)
        if started is not None:
            found.append((now, started.recompiles, started.within_s))
    return found


def test_storm_starts_with_the_recompile_that_crosses_the_line(rule):
    """The fifth recompile within ten minutes is a storm, at that very moment, and the sixth no second one."""
    warm = [HOUR + 60 * number for number in range(6)]
    assert [(warm[4], 5, 600.0)] == compile_at(rule, 0.0, *warm)


def test_recompiles_that_are_far_apart_are_no_storm(rule):
    """Five recompiles spread over more than a window are none."""
    assert [] == compile_at(rule, 0.0, *(HOUR + 151 * number for number in range(40)))


def test_startup_has_a_line_of_its_own(rule):
    """In the minute after the first compile 19 recompiles are start-up, and the 20th is a storm."""
    assert [] == compile_at(rule, *(float(number) for number in range(20)))
    assert [(20.0, 20, 60.0)] == compile_at(rule, 20.0)


def test_startup_recompiles_do_not_count_afterwards(rule):
    """19 recompiles at start-up and four later ones are no storm; a fifth later one is."""
    assert [] == compile_at(rule, *(float(number) for number in range(20)))
    assert [] == compile_at(rule, 70.0, 71.0, 72.0, 73.0)
    assert [(74.0, 5, 600.0)] == compile_at(rule, 74.0)


def test_storm_ends_after_a_window_without_a_recompile(rule):
    """A breath is no end; ten quiet minutes are. The end says how many, how long, and what they cost."""
    compile_at(rule, 0.0, *(HOUR + number for number in range(5)))
    assert [] == rule.tick(HOUR + 300)
    compile_at(rule, HOUR + 500)
    assert [] == rule.tick(HOUR + 4 + 600)
    expected = StormEnded(function=STEP, recompiles=6, lasted_s=496.0, lost_s=4.0)
    assert [expected] == rule.tick(HOUR + 500 + 600)
    assert [] == rule.tick(HOUR + 5000)


def test_second_storm_needs_as_many_recompiles_again(rule):
    """After an end the count begins anew."""
    compile_at(rule, 0.0, *(HOUR + number for number in range(5)))
    assert 1 == len(rule.tick(2 * HOUR))
    again = [2 * HOUR + 10 + number for number in range(5)]
    assert [(again[4], 5, 600.0)] == compile_at(rule, *again)


def test_functions_have_storms_of_their_own(rule):
    """Recompiles of two functions are not added up."""
    times = [HOUR + number for number in range(4)]
    assert [] == compile_at(rule, 0.0, *times) + compile_at(rule, 0.0, *times, function=OTHER)


def test_announced_recompiles_do_not_count(rule):
    """Compiles that the job expects make no storm, and do not keep one alive."""
    assert [] == compile_at(rule, 0.0, *(HOUR + number for number in range(50)), counts=False)
    compile_at(rule, *(2 * HOUR + number for number in range(5)))
    compile_at(rule, 2 * HOUR + 500, counts=False)
    assert 1 == len(rule.tick(2 * HOUR + 4 + 600))


def test_memory_of_a_storm_is_bounded(rule):
    """A hundred thousand recompiles leave no more than the threshold behind."""
    compile_at(rule, 0.0, *(HOUR + 0.001 * number for number in range(100_000)))
    (history,) = rule._histories.values()
    assert len(history.recent) <= 5


def compiled(function=STEP):
    return Compiled(function=function, trace_s=0.5, lower_s=0.5, compile_s=1.0)


def test_diagnosis_leaves_jax_and_ignored_functions_alone():
    """JAX's own compiles and functions matching `ignore` never alarm."""
    diagnosis = Diagnosis(storm_threshold=1, storm_window_s=600.0, ignore=("train.o*",), clock=lambda: HOUR)
    own = Function(JAX_LABEL, "add")
    found = [diagnosis.diagnose(compiled(function))[1] for function in (own, OTHER) for _ in range(50)]
    assert [] == [event for events in found for event in events]


def test_diagnosis_counts_what_a_storm_costs():
    """The end of a storm tells the seconds of all phases."""
    now = [0.0]
    diagnosis = Diagnosis(storm_threshold=2, storm_window_s=10.0, clock=lambda: now[0])
    events = []
    for second in (0, 100, 101, 102):
        now[0] = float(second)
        events += diagnosis.diagnose(compiled())[1]
    assert [StormStarted(function=STEP, recompiles=2, within_s=10.0)] == events
    now[0] = 112.0
    assert [StormEnded(function=STEP, recompiles=3, lasted_s=1.0, lost_s=4.0)] == diagnosis.tick()


# With real programs


def storm_figures(watch):
    state = watch.snapshot()
    series = {
        name: sum(row["value"] for row in state["metrics"][f"jitwatch_{name}"])
        for name in ("recompile_storms_total", "recompile_storm_active")
    }
    return state["totals"]["compiles"], series["recompile_storms_total"], series["recompile_storm_active"]


def churn(calls):
    """The seed example: the loop counter is a static argument."""

    @functools.partial(jax.jit, static_argnums=1)
    def target(x, n):
        return x * n

    for n in range(calls):
        target(1.0, n)


def test_dynamic_argument_is_no_storm():
    """The fixed form of the same loop compiles once."""
    target = jax.jit(lambda x, n: x * n)
    with jitwatch.install(port=0) as watch:
        for n in range(100):
            target(1.0, n)
        assert (1, 0, 0) == storm_figures(watch)


def test_expected_compiles_are_counted_and_are_no_storm():
    """Within expected() a change of phase alarms nobody; the events carry the reason."""
    with jitwatch.install(port=0) as watch:
        with jitwatch.expected("sweep over sizes"):
            churn(30)
        assert (30, 0, 0) == storm_figures(watch)
        compiles = [record for record in watch.events() if "expected" in record]
        assert {"sweep over sizes"} == {record["expected"] for record in compiles if record["name"] == "target"}


def test_ignored_function_is_no_storm():
    """`ignore` takes patterns of function names."""
    with jitwatch.install(port=0, ignore="*.churn.*") as watch:
        churn(30)
        assert (30, 0, 0) == storm_figures(watch)


def test_storm_ends_by_itself():
    """The sampler ends a storm without anybody asking, and the log says so."""
    with jitwatch.install(port=0, storm_threshold=20, storm_window_s=1, sample_interval_s=0.1) as watch:
        churn(25)
        wait_until(lambda: "jit.storm_ended" in [record["event"] for record in watch.events()], what="the storm's end")
        assert (25, 1, 0) == storm_figures(watch)
        assert 24 == next(record for record in watch.events() if record["event"] == "jit.storm_ended")["recompiles"]


def test_two_recurring_shapes_are_no_storm():
    """A train and an eval batch in turn are two compiles."""
    target = jax.jit(lambda x: x * 2)
    with jitwatch.install(port=0, storm_threshold=1) as watch:
        for _ in range(50):
            target(np.ones(8, np.float32))
            target(np.ones(4, np.float32))
        assert (2, 0, 0) == storm_figures(watch)


def test_expected_without_a_reason_is_an_error():
    """`@jitwatch.expected` without a text would hide what it is for."""
    with pytest.raises(TypeError, match="the reason must be a string"), jitwatch.expected(3):
        pass
