"""The CPU budget: which requests are admitted, which are refused and for how long."""

from __future__ import annotations

import heapq

import pytest

from jitwatch.server.limits import LIMITS, RequestBudget, TokenBucket

STATE, LIVE, METRICS = "/api/v1/state", "/api/v1/live", "/metrics"


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_bucket_allows_the_burst_at_once_and_then_its_share(clock):
    """Beyond the burst, the caller has to wait."""
    bucket = TokenBucket(0.01, 0.5, clock)
    assert 0.0 == bucket.wait_s()
    bucket.spend(0.6)
    assert 10.0 == pytest.approx(bucket.wait_s())
    clock.now += 11
    assert 0.0 == bucket.wait_s()
    bucket.spend(0.03)
    assert 2.0 == pytest.approx(bucket.wait_s())


def test_bucket_never_holds_more_than_the_burst(clock):
    """An idle night does not allow a longer burst."""
    bucket = TokenBucket(0.01, 0.5, clock)
    clock.now += 100_000
    bucket.spend(0.6)
    assert 10.0 == pytest.approx(bucket.wait_s())


def test_request_over_the_budget_is_refused_with_seconds_to_wait(clock):
    """Whole seconds, as the header Retry-After has them, and at least one."""
    requests = RequestBudget(clock=clock)
    assert (0.0, 0) == requests.admit(STATE)
    requests.charge(STATE, 0.0, LIMITS.api_burst_s + 0.0001)
    assert (0.0, 1) == requests.admit(STATE)
    requests.charge(STATE, 0.0, 10 * LIMITS.api_share)
    assert (0.0, 11) == requests.admit(STATE)
    clock.now += 11
    assert 0 == requests.admit(STATE)[1]


def test_scrapes_and_health_checks_have_their_own_budget(clock):
    """Requests for the state cannot block Prometheus, nor the reverse; health checks are free."""
    requests = RequestBudget(clock=clock)
    requests.charge(STATE, 0.0, 10.0)
    assert [0, 0] == [requests.admit(path)[1] for path in (METRICS, "/healthz")]
    requests.charge(METRICS, 0.0, 100.0)
    requests.charge("/healthz", 0.0, 100.0)
    assert requests.admit(METRICS)[1] > 1000
    assert 0 == requests.admit("/healthz")[1]
    for path in ("/", LIVE, "/api/v1/events", "/page/main.js", "/nothing"):
        assert requests.admit(path)[1] > 1000


def test_request_is_charged_the_cost_of_earlier_ones_on_admission(clock):
    """Eight expensive requests at once are not all admitted, though none of them has ended yet."""
    requests = RequestBudget(clock=clock)
    requests.charge(STATE, 0.0, LIMITS.api_burst_s - 0.001)
    clock.now += 1000
    charged, refused = requests.admit(STATE)
    assert (0, pytest.approx(LIMITS.api_burst_s - 0.001)) == (refused, charged)
    assert 0 == requests.admit(STATE)[1]
    assert requests.admit(STATE)[1] > 0


def test_charge_is_corrected_by_the_cost(clock):
    """A cheaper request gets a refund, one that was not handled a full one."""
    requests = RequestBudget(clock=clock)
    requests.charge(STATE, 0.0, 0.4)
    clock.now += 1000
    charged, _ = requests.admit(STATE)
    requests.charge(STATE, charged, 0.0)
    charged, _ = requests.admit(STATE)
    requests.charge(STATE, charged, None)
    assert LIMITS.api_burst_s == pytest.approx(requests._api._left)


def test_charge_returns_whether_the_loop_shares_the_cost(clock):
    """That of the API and the page, not of scrapes and health checks."""
    requests = RequestBudget(clock=clock)
    shared = {path: requests.charge(path, 0.0, 0.0) for path in (STATE, LIVE, "/", METRICS, "/healthz")}
    assert {STATE: True, LIVE: True, "/": True, METRICS: False, "/healthz": False} == shared


def test_costs_are_remembered_for_a_bounded_number_of_paths(clock):
    """Clients choose paths that do not exist."""
    requests = RequestBudget(clock=clock)
    for number in range(1000):
        requests.charge(f"/{number}", 0.0, 0.0)
    assert 64 == len(requests._costs)


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_ten_pages_and_a_terminal_view_are_never_refused(clock, slower):
    """For an hour, with the costs of a job of a hundred functions, also on a slower machine."""
    live_s, state_s, first_s, asset_s = 0.00095 * slower, 0.0053 * slower, 0.0065 * slower, 0.0003 * slower
    requests = RequestBudget(clock=clock)
    #: When, what, how long it takes, and when the same client asks for it again.
    due = [(0.1 * page, page, "/page/main.js", asset_s, 0.0) for page in range(10) for _ in range(10)]
    due += [(0.1 * page, 100 + page, LIVE, first_s, 0.0) for page in range(10)]
    # Ten pages have their turn every five seconds, half a second apart.
    due += [(5 + 0.5 * page, 200 + page, LIVE, live_s, 5.0) for page in range(10)]
    due.append((0.0, 300, STATE, state_s, 2.0))
    heapq.heapify(due)
    started, refused = clock.now, 0
    while due and due[0][0] < 3600:
        at, who, path, cost_s, again_s = heapq.heappop(due)
        clock.now = started + at
        charged_s, retry_after_s = requests.admit(path)
        refused += retry_after_s > 0
        requests.charge(path, charged_s, cost_s)
        if again_s:
            heapq.heappush(due, (at + again_s, who, path, cost_s, again_s))
    assert 0 == refused


def test_flood_gets_its_share_and_no_more(clock):
    """Eight clients that retry at once get the burst, and then less than a hundredth of a core."""
    requests, spent = RequestBudget(clock=clock), 0.0
    for _ in range(20_000):
        charged_s, retry_after_s = requests.admit(STATE)
        if not retry_after_s:
            requests.charge(STATE, charged_s, 0.012)
            spent += 0.012
        clock.now += 0.005
    assert LIMITS.api_burst_s <= spent <= LIMITS.api_burst_s + 100 * LIMITS.api_share + 0.012
    # What refusing them costs is in there as well.
    assert LIMITS.api_share + 0.001 < LIMITS.loop_share < 0.01
