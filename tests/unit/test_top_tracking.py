"""One job over time: alive, silent, ended, back again, and what happened of late."""

from __future__ import annotations

import pytest

from jitwatch.top.fetching import Answer
from tests.unit.top_states import function, site, state, tracked

GONE = Answer(problem="nothing listens there", is_gone=True)
SLOW = Answer(problem="no answer within 5 s")


def counted(recompiles: int, **fields):
    return state(function(compiles=recompiles + 1, recompiles=recompiles), **fields)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], ("new", 10.0, "", False)),
        ([(100.0, GONE)], ("new", 10.0, "nothing listens there", False)),
        ([(101.0, state())], ("live", 0.0, "", True)),
        ([(101.0, state()), (103.0, SLOW)], ("silent", 9.0, "no answer within 5 s", True)),
        ([(101.0, state()), (103.0, GONE)], ("ended", 9.0, "nothing listens there", True)),
        ([(101.0, state()), (103.0, SLOW), (105.0, GONE)], ("ended", 9.0, "nothing listens there", True)),
        ([(101.0, state()), (103.0, GONE), (105.0, state())], ("live", 0.0, "", True)),
    ],
)
def test_status_follows_the_answers(answers, expected):
    """With the last figures, and for how long there have been no new ones."""
    start = [] if answers and answers[0][0] == 100.0 else [(100.0, Answer())]
    found = tracked(*start, *answers, now=110.0)

    assert expected == (found.status, found.quiet_s, found.problem, found.figures is not None)


def test_first_look_at_an_old_process_tells_nothing_of_late():
    """Its recompiles may be hours old."""
    found = tracked((100.0, counted(12)), now=100.0)

    assert (0.0, {}) == (found.recent.window_s, found.recent.recompiles)


def test_first_look_at_a_young_process_tells_all_of_it():
    """Everything that it ever did is of late."""
    found = tracked((100.0, counted(12, uptime_seconds=30.0)), now=100.0)

    assert (30.0, {"train.train_step": 12}) == (found.recent.window_s, found.recent.recompiles)


def test_recent_is_what_was_added_within_a_minute():
    """Older additions are dropped, and the window grows up to the minute."""
    answers = [(100.0, counted(1)), (110.0, counted(4)), (150.0, counted(6))]

    assert (10.0, {"train.train_step": 3}) == window(*answers[:2], now=110.0)
    assert (50.0, {"train.train_step": 5}) == window(*answers, now=150.0)
    assert (60.0, {"train.train_step": 2}) == window(*answers, now=180.0)
    assert (60.0, {}) == window(*answers, now=220.0)


def window(*answers, now):
    found = tracked(*answers, now=now).recent
    return found.window_s, dict(found.recompiles)


def test_recent_counts_violations_and_shortages():
    """Not only recompiles."""
    before = state(metrics={"jitwatch_oom_total": [{"value": 1.0}]})
    after = state(
        totals={"donation_violations": 3, "steady_violations": 2}, metrics={"jitwatch_oom_total": [{"value": 2.0}]}
    )
    recent = tracked((100.0, before), (102.0, after), now=102.0).recent

    assert (3, 2, 1) == (recent.donation_violations, recent.steady_violations, recent.out_of_memory)


@pytest.mark.parametrize("other", [{"pid": 8}, {"start_time_seconds": 2000.0}])
def test_another_process_at_the_address_begins_anew(other):
    """Its counts are not compared with those of the one before."""
    found = tracked((100.0, counted(1)), (130.0, counted(9, **other)), now=130.0)

    assert (0.0, {}) == (found.recent.window_s, found.recent.recompiles)


def test_newest_recompiles_come_first():
    """Those seen to happen with their age, then those of before by what they cost."""
    old = site("train.old", lost_seconds=9.0)
    quiet = site("train.quiet", lost_seconds=1.0)
    busy = site("train.busy", lost_seconds=0.1)
    found = tracked(
        (100.0, state(call_sites=[quiet, old, busy])),
        (102.0, state(call_sites=[quiet, old, busy | {"recompiles": 3}])),
        (104.0, state(call_sites=[quiet, old, busy | {"recompiles": 3}, site("train.new")])),
        now=105.0,
    )

    assert [("train.new", 1.0), ("train.busy", 3.0), ("train.old", None), ("train.quiet", None)] == [
        (one.function, one.seen_s_ago) for one in found.figures.newest_recompiles
    ]


def test_newest_explanation_is_that_of_the_newest_line():
    """A function may be called from several."""
    before = site(call_site="a.py:1", explanation="the old one", lost_seconds=9.0)
    after = site(call_site="b.py:2", explanation="the new one", lost_seconds=0.1)
    found = tracked((100.0, state(call_sites=[before])), (102.0, state(call_sites=[before, after])), now=102.0)

    assert {"train.train_step": "the new one"} == found.recent.newest
