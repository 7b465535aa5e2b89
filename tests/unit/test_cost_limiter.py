"""How often something costly may be done."""

from __future__ import annotations

import pytest

from jitwatch.probes.limits import CostLimiter


def share_of_time(cost_s: float, stall_s: float = 0.0, interval_s: float = 5.0) -> float:
    """Share of ten hours that it takes when it is tried every few seconds."""
    limiter = CostLimiter(share=0.001, longest_s=0.1)
    spent, hours = 0.0, 10 * 3600
    for number in range(int(hours / interval_s)):
        now = number * interval_s
        if limiter.is_due(now):
            spent += cost_s
            limiter.spent(now, cost_s=cost_s, stall_s=stall_s)
    return spent / hours


@pytest.mark.parametrize("cost_s", [0.0, 1e-4, 0.004, 0.05, 0.3, 2.0])
def test_cost_stays_below_the_share(cost_s):
    """Whatever one go costs, all of them cost at most a thousandth of the time (but for the very first)."""
    assert share_of_time(cost_s) <= 0.001 + cost_s / 36_000


def test_cheap_thing_is_done_each_time():
    """Below the share there is no reason to wait."""
    assert pytest.approx(0.004 / 5) == share_of_time(0.004)


def test_long_stall_makes_it_ten_times_rarer():
    """What holds up the job noticeably is done as rarely as possible."""
    assert share_of_time(0.2, stall_s=0.11) < 0.2 * share_of_time(0.2, stall_s=0.1)


def test_first_time_is_always_due():
    """Nothing is known of its cost yet."""
    assert CostLimiter(share=0.001, longest_s=0.1).is_due(-1e9)
