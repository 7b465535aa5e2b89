"""The seconds of XLA's phases and passes, from the events of a profile."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitwatch.jaxhooks.compile import xla_passes
from jitwatch.jaxhooks.compile.xla_passes import AUTOTUNING, CODE, OTHER, PASSES, passes_of

SECOND = 1e9


def seconds_of(*threads):
    """The seconds of each row by name, from events as name, start and end in seconds."""
    found = passes_of([[(name, start * SECOND, end * SECOND) for name, start, end in one] for one in threads])
    return {row["name"]: row["seconds"] for row in found.rows}


def nested(events):
    """The events of a thread without those that overlap another one without being in it."""
    kept = []
    for name, start, length in sorted(events, key=lambda one: (one[1], -one[2])):
        if all(start + length <= at + most or start >= at + most for _, at, most in kept):
            kept.append((name, start, length))
    return kept


class TestOneThread:
    """Nested events."""

    def test_time_belongs_to_the_innermost_event(self):
        """The pass around it has the rest."""
        events = [("Compile", 0, 10), ("fusion", 2, 6), ("dce", 3, 4), ("fusion", 7, 8)]
        assert {"Compile": 5.0, "fusion": 4.0, "dce": 1.0} == seconds_of(events)

    def test_order_of_events_does_not_matter(self):
        """A profile lists them by their end, or in any order."""
        events = [("dce", 3, 4), ("fusion", 2, 6), ("Compile", 0, 10)]
        assert {"Compile": 6.0, "fusion": 3.0, "dce": 1.0} == seconds_of(events)

    def test_module_name_and_metadata_are_left_out(self):
        """The same pass of two programs is one row."""
        events = [("HLO passes (jit_f)", 0, 1), ("HLO passes (jit_g)", 2, 3), ("fusion#id=7#", 4, 5)]
        assert {"HLO passes": 2.0, "fusion": 1.0} == seconds_of(events)

    def test_phase_is_that_of_the_nearest_event_that_says_it(self):
        """A pass is part of the HLO passes or of the code generation around it."""
        found = passes_of(
            [
                [
                    ("CpuCompiler::RunHloPasses", 0, 4 * SECOND),
                    ("dce", 1 * SECOND, 2 * SECOND),
                    ("Codegen", 5 * SECOND, 9 * SECOND),
                    ("CSEPass", 6 * SECOND, 7 * SECOND),
                ]
            ]
        )
        assert {"dce": PASSES, "CpuCompiler::RunHloPasses": PASSES, "Codegen": CODE, "CSEPass": CODE} == {
            row["name"]: row["phase"] for row in found.rows
        }

    def test_autotuning_is_apart_with_all_that_is_in_it(self):
        """The kernels that it compiles are not part of the code generation."""
        found = passes_of(
            [
                [
                    ("HLO passes after layout assignment (jit_f)", 0, 10 * SECOND),
                    ("autotuner", 1 * SECOND, 8 * SECOND),
                    ("Codegen", 2 * SECOND, 5 * SECOND),
                ]
            ]
        )
        assert 7.0 == found.autotuning_s
        assert {"autotuner", "Codegen"} == {row["name"] for row in found.rows if row["phase"] == AUTOTUNING}


class TestThreads:
    """Events of several threads at the same time."""

    def test_thread_that_waits_does_not_count(self):
        """The event that encloses all of another thread waits for it."""
        assert {"Compile": 2.0, "Codegen": 8.0} == seconds_of([("Compile", 0, 10)], [("Codegen", 1, 9)])

    def test_threads_that_run_share_the_time(self):
        """The sum is the wall-clock time."""
        found = seconds_of([("Compile", 0, 12)], [("one", 1, 11)], [("two", 1, 11)])
        assert {"Compile": 2.0, "one": 5.0, "two": 5.0} == found

    def test_worker_has_the_phase_of_what_waits_for_it(self):
        """A thread of the pool has no phase of its own."""
        found = passes_of([[("Codegen", 0, 10 * SECOND)], [("task", 1 * SECOND, 9 * SECOND)]])
        assert {"Codegen": CODE, "task": CODE} == {row["name"]: row["phase"] for row in found.rows}

    @given(
        st.lists(
            st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50), st.integers(1, 50)), max_size=8),
            max_size=4,
        )
    )
    def test_sum_is_the_time_in_which_anything_runs(self, threads):
        """For any events, no time is counted twice or lost, and the shares add up to 1."""
        threads = [nested(one) for one in threads]
        events = [[(name, start * SECOND, (start + length) * SECOND) for name, start, length in one] for one in threads]
        moments = {at for one in threads for _, start, length in one for at in range(start, start + length)}
        found = passes_of(events)

        assert len(moments) == pytest.approx(found.seconds)
        assert len(moments) == pytest.approx(sum(row["seconds"] for row in found.rows), abs=0.001)
        assert all(row["seconds"] >= 0 for row in found.rows)


def test_twelve_rows_and_one_for_the_others():
    """The rows are bounded, and no time is lost."""
    events = [(f"pass{number}", number * SECOND, (number + 1) * SECOND) for number in range(40)]
    found = passes_of([events])

    assert xla_passes.MAX_ROWS + 1 == len(found.rows)
    assert OTHER == found.rows[-1]["name"]
    assert 40.0 == pytest.approx(sum(row["seconds"] for row in found.rows))
    assert 1.0 == pytest.approx(sum(row["share"] for row in found.rows), abs=0.01)


def test_shortest_events_of_a_large_profile_are_left_out(monkeypatch):
    """Their time belongs to the events around them."""
    monkeypatch.setattr(xla_passes, "_MAX_EVENTS", 3)
    events = [("Compile", 0.0, 100.0), ("long", 0.0, 50.0), ("middle", 60.0, 90.0), ("short", 91.0, 92.0)]
    (kept,) = xla_passes._longest([events])

    assert ["Compile", "long", "middle"] == [name for name, _, _ in kept]


def test_other_threads_run_meanwhile(monkeypatch):
    """A profile of many threads takes a minute, in which the job needs the interpreter."""
    taken = []
    monkeypatch.setattr(xla_passes, "Pauses", lambda: SimpleNamespace(take=lambda: taken.append(1)))
    passes_of([[("Compile", 0.0, 100.0), ("long", 0.0, 50.0), ("middle", 60.0, 90.0)]])
    assert len(taken) >= 3


def test_nothing_of_an_empty_profile():
    """A profile without events has no rows."""
    found = passes_of([])
    assert ((), 0.0, 0.0) == (found.rows, found.seconds, found.autotuning_s)
