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


@pytest.mark.parametrize("other", [{"pid": 8}, {"start_time_seconds": 2000.0}])
def test_another_process_at_the_address_begins_anew(other):
    """Its recompiles are not compared with those of the one before."""
    before, after = state(call_sites=[site()]), state(call_sites=[site(recompiles=9)], **other)
    found = tracked((100.0, before), (130.0, after), now=130.0)

    assert [None] == [one.seen_s_ago for one in found.figures.newest_recompiles]


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


def test_newest_tells_the_reasons_of_a_line_apart():
    """One line may recompile for several; the newest is the one that has just grown."""
    shape = site(causes=["shape"], paths=["batch"], lost_seconds=9.0)
    found = tracked((100.0, state(call_sites=[shape, site()])), (102.0, state(call_sites=[shape, site(recompiles=3)])),
                    now=102.0)  # fmt: skip

    assert [(("static_arg",), 0.0), (("shape",), None)] == [
        (one.causes, one.seen_s_ago) for one in found.figures.newest_recompiles
    ]
