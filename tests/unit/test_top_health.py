"""What is said of a job: its own words, or why it says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitwatch.top.health import verdict_of, verdicts_of
from jitwatch.top.tracking import Process
from tests.unit.top_states import URL, health, process

STORM = ("bad", "train_step is in a recompile storm: 12 recompiles in the last minute.")
LEAK = ("warn", "Host memory keeps growing.")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (process(), ("good", "Healthy: nothing was compiled twice.")),
        (process(health=health(STORM, LEAK)), STORM),
        (process(health={}), ("warn", "It answers, but says nothing of how it is.")),
        (process(health=health(("purple", "Something new."))), ("warn", "Something new.")),
        (Process(URL, "new"), ("gone", "No answer yet.")),
        (Process(URL, "new", problem="nothing listens there"), ("gone", "nothing listens there.")),
        (
            replace(process(health=health(STORM), status="silent"), quiet_s=12.0, problem="no answer within 5 s"),
            ("warn", "Not answering since 12 s: no answer within 5 s."),
        ),
        (
            replace(process(health=health(STORM), status="ended"), quiet_s=12.0),
            ("gone", "Ended 12 s ago: nothing listens at 127.0.0.1:10431 any more."),
        ),
    ],
)
def test_verdict_is_the_agents_own_while_it_answers(given, expected):
    """And what it said last is no news once it is gone."""
    found = verdict_of(given)

    assert expected == (found.level, found.sentence)


def test_verdicts_are_all_that_the_agent_says_in_its_order():
    """A storm does not hide that memory grows."""
    found = verdicts_of(process(health=health(STORM, LEAK)))

    assert [STORM, LEAK] == [(one.level, one.sentence) for one in found]
