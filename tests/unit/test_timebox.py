"""A thread for what may hang."""

from __future__ import annotations

import threading

import pytest

from jitwatch.probes.limits import TimeBox

DEADLINE_S = 20.0


def test_source_that_answers_is_collected_in_a_thread_of_its_own():
    """All it yields, in order; the caller's thread never runs it."""
    threads = []

    def source():
        threads.append(threading.current_thread())
        yield from (1, 2, 3)

    box = TimeBox("jitwatch-box", DEADLINE_S)

    assert [1, 2, 3] == box.collect(source)
    assert not box.is_stuck
    assert "jitwatch-box" == threads[0].name
    assert threads[0].daemon


def test_hanging_source_is_left_behind_with_what_came_before():
    """One thread hangs, however often it is asked again, and the box works again once that has ended."""
    release, asked = threading.Event(), []

    def source():
        asked.append(threading.current_thread())
        yield "first"
        release.wait(DEADLINE_S)
        yield "late"

    box = TimeBox("jitwatch-box", 0.5)
    try:
        assert ["first"] == box.collect(source)
        assert box.is_stuck
        assert box.age_s >= 0.4
        assert [[], []] == [box.collect(source), box.collect(source)]
        assert 1 == len(asked)
    finally:
        release.set()
        asked[0].join(DEADLINE_S)

    assert not box.is_stuck
    assert ["again"] == box.collect(lambda: ["again"])


def test_error_of_the_source_is_the_callers():
    """It is raised where it can be guarded, not in a thread where nobody looks."""
    box = TimeBox("jitwatch-box", DEADLINE_S)

    with pytest.raises(ZeroDivisionError):
        box.collect(lambda: [1 / 0])
    assert [1] == box.collect(lambda: [1])
