"""Time and ownership of phases: each second is counted once, whatever nests in what."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitwatch.jaxhooks.compile.phases import EndedPhase, PhaseClock, Work
from jitwatch.model.function import Function

STEP = Function("train.step", "step", "train.py:10")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    """Monotonic seconds in the test's hand."""
    return Clock()


@pytest.fixture
def phases(clock):
    """A phase clock over it."""
    return PhaseClock(clock)


@pytest.fixture
def other():
    """Another thread, alive as long as the test."""
    with ThreadPoolExecutor(1, thread_name_prefix="other") as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@contextmanager
def running(phases: PhaseClock, phase: str):
    """A hook around a phase that JAX reports in full."""
    work = Work(phase, STEP)
    depth = phases.enter(work)
    phases.start(phase, STEP)
    yield work
    phases.end(phase, 0.0)
    phases.leave(work, depth)


@contextmanager
def reported(phases: PhaseClock, phase: str):
    """A phase that JAX reports and no hook encloses, as the trace of a jitted function inside of another."""
    phases.start(phase, None)
    ended: list[EndedPhase] = []
    yield ended
    ended.append(phases.end(phase, 0.0))


# One phase


def test_end_gives_the_seconds_since_the_start(phases, clock):
    """The clock counts, not what JAX measured with the wall clock."""
    phases.start("trace", STEP)
    clock.now += 2.0

    assert EndedPhase(2.0, "off", is_credited=False, is_failed=False) == phases.end("trace", 99.0)


def test_end_credits_the_work_around_it(phases, clock):
    """The hook that encloses the phase gets its seconds."""
    with running(phases, "lower") as work:
        clock.now += 1.5

    assert (1.5, "off") == (work.seconds, work.cache)
    assert [] == phases.thread.work == phases.thread.open


def test_end_adds_up_phases_of_one_work(phases, clock):
    """A hook that sees the phase twice, one after the other, gets both."""
    work = Work("compile", STEP)
    depth = phases.enter(work)
    for seconds in (1.0, 2.0):
        phases.start("compile", STEP)
        clock.now += seconds
        assert phases.end("compile", 0.0).is_credited
    phases.leave(work, depth)

    assert 3.0 == work.seconds


def test_end_does_not_credit_work_of_another_phase(phases, clock):
    """A lowering hook gets no backend seconds."""
    work = Work("lower", STEP)
    depth = phases.enter(work)
    phases.start("compile", STEP)
    clock.now += 1.0
    assert not phases.end("compile", 0.0).is_credited
    phases.leave(work, depth)

    assert work.seconds is None


def test_end_without_start_takes_jaxs_measurement(phases, clock):
    """The agent came in the middle of the phase, or JAX does not tell starts."""
    work = Work("compile", STEP)
    depth = phases.enter(work)
    ended = phases.end("compile", 0.75)
    phases.leave(work, depth)

    assert EndedPhase(0.75, "off", is_credited=True, is_failed=False) == ended
    assert 0.75 == work.seconds
    assert 0.0 == phases.activity.busy_s()


def test_end_without_start_inside_of_a_phase_is_taken_out_of_it(phases, clock):
    """Also a compile whose start was not seen is not counted in the trace around it."""
    with running(phases, "trace") as outer:
        clock.now += 5.0
        phases.end("compile", 2.0)

    assert 3.0 == outer.seconds


def test_end_while_the_clock_stands_still_is_not_negative(phases):
    """Coarse clocks give zero, never less."""
    with running(phases, "trace") as outer, running(phases, "compile") as inner:
        pass

    assert (0.0, 0.0) == (outer.seconds, inner.seconds)


# Nesting


def test_nested_compile_is_taken_out_of_the_trace(phases, clock):
    """A constant that is compiled while tracing costs its own seconds."""
    with running(phases, "trace") as outer:
        clock.now += 1.0
        with running(phases, "compile") as inner:
            clock.now += 3.0
        clock.now += 1.0

    assert (2.0, 3.0) == (outer.seconds, inner.seconds)


def test_nested_trace_stays_in_the_trace(phases, clock):
    """A jitted function called by another belongs to that one's trace, and is not added to it once more."""
    with running(phases, "trace") as outer:
        clock.now += 1.0
        with reported(phases, "trace") as inner:
            clock.now += 3.0
        clock.now += 1.0

    assert 5.0 == outer.seconds
    assert [EndedPhase(3.0, "off", is_credited=False, is_failed=False)] == inner


def test_nested_trace_stays_in_the_trace_also_with_a_hook_of_its_own(phases, clock):
    """Seconds that the outer trace counts are not given to a second one."""
    with running(phases, "trace") as outer:
        with running(phases, "trace") as inner:
            clock.now += 3.0
        clock.now += 1.0

    assert (4.0, None) == (outer.seconds, inner.seconds)


def test_nested_trace_is_not_loose(phases, clock):
    """It was counted, so nobody may take it later."""
    with running(phases, "trace"), reported(phases, "trace"):
        clock.now += 3.0

    assert phases.pop_unowned("trace") is None


def test_nested_whole_compile_is_taken_out_but_for_its_trace(phases, clock):
    """A constant traced, lowered and compiled inside of a trace: ten seconds, each counted once."""
    with running(phases, "trace") as outer:
        clock.now += 3.0
        with reported(phases, "trace"):
            clock.now += 2.0
        with running(phases, "lower") as lower:
            clock.now += 1.0
        with running(phases, "compile") as compiled:
            clock.now += 3.0
        clock.now += 1.0

    assert (6.0, 1.0, 3.0) == (outer.seconds, lower.seconds, compiled.seconds)


def test_nested_compile_two_traces_deep_is_taken_out_of_the_outermost(phases, clock):
    """A jitted function that compiles a constant, called by another: the constant is counted once."""
    with running(phases, "trace") as outer:
        clock.now += 2.0
        with reported(phases, "trace") as inner:
            clock.now += 1.0
            with running(phases, "compile") as constant:
                clock.now += 3.0
            clock.now += 2.0
        clock.now += 2.0

    assert (3.0, 3.0, 7.0) == (constant.seconds, inner[0].seconds, outer.seconds)


def test_nested_compile_three_traces_deep_is_taken_out_of_the_outermost(phases, clock):
    """However deep it is."""
    with running(phases, "trace") as outer, reported(phases, "trace"), reported(phases, "trace"):
        clock.now += 1.0
        with running(phases, "compile") as constant:
            clock.now += 3.0

    assert (3.0, 1.0) == (constant.seconds, outer.seconds)


def test_nested_compile_in_lowering_is_taken_out(phases, clock):
    """Lowering may compile too."""
    with running(phases, "lower") as outer:
        clock.now += 1.0
        with running(phases, "compile") as inner:
            clock.now += 2.0

    assert (1.0, 2.0) == (outer.seconds, inner.seconds)


@dataclass
class Span:
    """A phase with others inside: seconds before each of them, and after the last."""

    phase: str
    gaps: list[int]
    inside: list[Span]


def spans() -> st.SearchStrategy[Span]:
    kinds = st.sampled_from(["trace", "lower", "compile"])
    gaps = st.lists(st.integers(0, 5), min_size=4, max_size=4)
    leaves = st.builds(Span, kinds, gaps, st.just([]))
    return st.recursive(leaves, lambda deeper: st.builds(Span, kinds, gaps, st.lists(deeper, max_size=3)), max_leaves=8)


@given(st.lists(spans(), min_size=1, max_size=3))
@settings(max_examples=60)
def test_each_second_is_counted_once(roots):
    """However phases nest: traces inside of others aside, their seconds add up to the time that passed."""
    clock = Clock()
    phases = PhaseClock(clock)
    counted = []

    def run(span, is_root):
        is_hooked = is_root or span.phase != "trace"
        with (running if is_hooked else reported)(phases, span.phase) as found:
            for gap, inner in zip(span.gaps, span.inside, strict=False):
                clock.now += gap
                run(inner, is_root=False)
            clock.now += span.gaps[-1]
        if is_hooked:
            counted.append(found.seconds)

    for root in roots:
        run(root, is_root=True)

    assert clock.now - 1000.0 == pytest.approx(sum(counted))
    assert clock.now - 1000.0 == phases.activity.busy_s()


# Handing out


def test_pop_unowned_returns_seconds_of_phases_without_hook(phases, clock):
    """The last such phase of this thread, once, and not what was nested."""
    phases.start("trace", None)
    clock.now += 1.0
    phases.start("lower", None)
    clock.now += 2.0
    phases.end("lower", 0.0)
    phases.end("trace", 0.0)

    assert phases.pop_unowned("lower") is None
    assert 1.0 == phases.pop_unowned("trace")
    assert phases.pop_unowned("trace") is None


def test_pop_unowned_belongs_to_its_thread(phases, clock, other):
    """What one thread traced is not another's."""
    with reported(phases, "trace"):
        clock.now += 1.0

    assert other(phases.pop_unowned, "trace") is None
    assert 1.0 == phases.pop_unowned("trace")


# Failures and missing ends


def test_end_by_an_exception_is_failed(phases):
    """JAX ends a phase in `__exit__`, where the exception that ends it is being handled."""

    class Reporting:
        """Reports its phase as JAX does."""

        def __enter__(self):
            phases.start("trace", STEP)

        def __exit__(self, *_):
            self.ended = phases.end("trace", 0.0)

    reporting = Reporting()
    with pytest.raises(ValueError, match="theirs"), reporting:
        raise ValueError("theirs")
    assert reporting.ended.is_failed

    with reporting:
        pass
    assert not reporting.ended.is_failed


def test_end_well_while_an_older_exception_is_handled_is_not_failed(phases):
    """A compile inside of the user's `except` block is a compile like any other."""
    try:
        raise ValueError
    except ValueError:
        phases.start("compile", STEP)
        ended = phases.end("compile", 0.0)

    assert not ended.is_failed


def test_leave_drops_a_phase_that_never_ended(phases, clock):
    """An exception took it: the work gets the time so far, and nothing stays open."""
    work = Work("compile", STEP)
    depth = phases.enter(work)
    phases.start("compile", STEP)
    clock.now += 2.0
    phases.leave(work, depth)
    clock.now += 100.0

    assert 2.0 == work.seconds
    assert [] == phases.thread.open == phases.activity.running()
    assert 2.0 == phases.activity.busy_s()


def test_leave_keeps_the_phases_around_it(phases, clock):
    """Only what began inside is dropped."""
    with running(phases, "trace") as outer:
        clock.now += 1.0
        work = Work("lower", STEP)
        depth = phases.enter(work)
        phases.start("lower", STEP)
        phases.start("compile", STEP)
        phases.leave(work, depth)
        assert ["trace"] == [one.phase for one in phases.thread.open]
        clock.now += 1.0

    assert 2.0 == outer.seconds
    assert [] == phases.activity.running()


def test_leave_takes_a_dropped_phase_out_of_the_one_around_it(phases, clock):
    """Its seconds went to its work, so the trace around it does not count them again."""
    with running(phases, "trace") as outer:
        clock.now += 1.0
        work = Work("compile", STEP)
        depth = phases.enter(work)
        phases.start("compile", STEP)
        clock.now += 3.0
        phases.leave(work, depth)

    assert (3.0, 1.0) == (work.seconds, outer.seconds)


def test_leave_drops_work_that_was_left_behind(phases):
    """A hook that was never left does not get the seconds of what comes later."""
    outer = Work("trace", STEP)
    depth = phases.enter(outer)
    phases.enter(Work("lower", STEP))
    phases.leave(outer, depth)

    assert [] == phases.thread.work


def test_end_of_an_outer_phase_drops_the_inner_ones(phases, clock):
    """An inner phase whose end was lost does not keep the thread busy."""
    phases.start("trace", STEP)
    phases.start("lower", STEP)
    clock.now += 1.0
    assert 1.0 == phases.end("trace", 0.0).seconds

    assert [] == phases.thread.open == phases.activity.running()


# The persistent cache


@pytest.mark.parametrize("result", ["hit", "miss"])
def test_mark_cache_belongs_to_the_backend_compile(phases, result):
    """What the cache said during it, and only to it."""
    with running(phases, "trace") as trace:
        with running(phases, "compile") as compiled:
            phases.mark_cache(result)
        with running(phases, "compile") as later:
            pass

    assert ("off", result, "off") == (trace.cache, compiled.cache, later.cache)


def test_mark_cache_outside_of_a_compile_is_ignored(phases):
    """A cache that is asked for something else says nothing about a compile."""
    phases.mark_cache("hit")
    with running(phases, "lower") as work:
        phases.mark_cache("hit")

    assert "off" == work.cache


def test_mark_cache_survives_a_missing_end(phases):
    """A compile that never reported its end still had its answer."""
    work = Work("compile", STEP)
    depth = phases.enter(work)
    phases.start("compile", STEP)
    phases.mark_cache("miss")
    phases.leave(work, depth)

    assert "miss" == work.cache


# Activity


def test_activity_is_the_union_over_threads(phases, clock, other):
    """Two threads at once are one stretch of time; a pause in between does not count."""
    phases.start("trace", STEP)
    clock.now += 2.0
    other(phases.start, "compile", None)
    clock.now += 3.0
    phases.end("trace", 0.0)
    clock.now += 4.0
    assert 9.0 == phases.activity.busy_s()
    other(phases.end, "compile", 0.0)
    clock.now += 100.0
    assert 9.0 == phases.activity.busy_s()

    phases.start("trace", STEP)
    clock.now += 1.0
    assert 10.0 == phases.activity.busy_s()
    phases.end("trace", 0.0)
    assert 10.0 == phases.activity.busy_s()


def test_activity_running_is_oldest_first(phases, clock, other):
    """One entry a thread, with its outermost phase, function and identifier."""
    other(phases.start, "compile", STEP)
    clock.now += 1.0
    phases.start("trace", None)
    phases.start("lower", STEP)
    found = phases.activity.running()

    assert [("compile", 1000.0, STEP), ("trace", 1001.0, None)] == [
        (one.phase, one.start, one.function) for one in found
    ]
    assert [False, True] == [one.ident == threading.get_ident() for one in found]
    phases.end("lower", 0.0)
    other(phases.end, "compile", 0.0)
    assert ["trace"] == [one.phase for one in phases.activity.running()]
    phases.end("trace", 0.0)
    assert [] == phases.activity.running()


def test_activity_grows_while_it_runs(phases, clock):
    """A compile of an hour is seen during that hour, not after it."""
    phases.start("compile", STEP)
    seen = []
    for _ in range(3):
        clock.now += 20.0
        seen.append(phases.activity.busy_s())
    phases.end("compile", 0.0)

    assert [20.0, 40.0, 60.0] == seen


def test_activity_end_without_begin_does_nothing(phases):
    """An end more than begins does not go below zero."""
    phases.activity.end()
    phases.end("compile", 5.0)

    assert 0.0 == phases.activity.busy_s()


def test_threads_do_not_see_each_others_phases(phases, clock, other):
    """The same phase in two threads: each gets its own seconds."""
    phases.start("compile", STEP)
    clock.now += 1.0
    other(phases.start, "compile", None)
    clock.now += 1.0

    assert 2.0 == phases.end("compile", 0.0).seconds
    clock.now += 1.0
    assert 2.0 == other(phases.end, "compile", 0.0).seconds
