"""One job over time: alive, silent, ended, back again, and what recompiled of late."""

from __future__ import annotations

import pytest

from jitwatch.top.fetching import Answer
from tests.unit.top_states import site, state, tracked

GONE = Answer(problem="nothing listens there", is_gone=True)
SLOW = Answer(problem="no answer within 5 s")


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


def test_recompiles_grow_older_between_two_answers():
    """A job that does not answer any more has not recompiled just now."""
    before = state(call_sites=[site(last_time=1598.0), site("train.other")])
    found = tracked((100.0, before), (103.0, SLOW), now=110.0)

    assert [12.0, None] == [one.seen_s_ago for one in found.figures.newest_recompiles]
