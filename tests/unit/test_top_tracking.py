"""One job over time: alive, silent, ended, back again, and what recompiled of late."""

from __future__ import annotations

import pytest

from jitwatch.top.fetching import Answer
from tests.unit.top_states import site, state, tracked

GONE = Answer(problem="nothing listens there", is_gone=True)
SLOW = Answer(problem="no answer within 5 s")
ASKED_TOO_OFTEN = Answer(problem="is asked for more than it has time for", retry_after_s=3.0)


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
        # It answers, with other words than figures: those of a moment ago stand.
        ([(101.0, state()), (103.0, ASKED_TOO_OFTEN)], ("live", 0.0, "", True)),
        ([(40.0, state()), (103.0, ASKED_TOO_OFTEN)], ("silent", 70.0, ASKED_TOO_OFTEN.problem, True)),
        ([(101.0, state()), (102.0, SLOW), (103.0, ASKED_TOO_OFTEN)], ("silent", 9.0, ASKED_TOO_OFTEN.problem, True)),
        ([(100.0, ASKED_TOO_OFTEN)], ("new", 10.0, ASKED_TOO_OFTEN.problem, False)),
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
