"""The agent's own cost is CPU time of the thread that works, by component."""

from __future__ import annotations

import threading
import time
import urllib.request

import pytest

import jitwatch
from jitwatch.model.events import Stepped
from jitwatch.probes.sampler import Sampler
from jitwatch.server.http import Request
from jitwatch.server.routes import Routes
from jitwatch.state.own_time import OwnTime
from jitwatch.state.store import Store
from tests.unit.test_sampler import CountingProbe

#: Seconds that a measured part waits.
WAIT_S = 0.3
#: CPU seconds that starting and waking threads may take.
LITTLE_S = 0.1


class Ledger:
    """Seconds by component, by a clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds: dict[str, float] = {}
        self.own = OwnTime(self.add, clock=lambda: self.now)

    def add(self, component: str, took_s: float) -> None:
        self.seconds[component] = self.seconds.get(component, 0.0) + took_s


def wait() -> None:
    """Wait as on a busy machine: blocked, while other threads have the processor."""
    blocked = threading.Lock()
    blocked.acquire()
    blocked.acquire(timeout=WAIT_S)


def burn(until: threading.Event) -> None:
    while not until.is_set():
        sum(range(1000))


def spent(store: Store, component: str) -> float:
    return store.tables().get("agent_overhead_seconds", (component,))


def test_a_part_inside_another_counts_once():
    """An event that the sampler emits is the component `events`, not both."""
    ledger = Ledger()
    with ledger.own.of("sampler"):
        ledger.now += 1
        with ledger.own.of("events"):
            ledger.now += 10
            with ledger.own.of("page"):
                ledger.now += 100
        ledger.now += 1000
    with ledger.own.of("sampler"):
        ledger.now += 10_000
    assert {"page": 100.0, "events": 10.0, "sampler": 11_001.0} == ledger.seconds


def test_a_part_that_raises_is_counted():
    """The error propagates; what is timed next has its own time only."""
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.own.of("events"):
        ledger.now += 2
        raise KeyError
    with ledger.own.of("page"):
        ledger.now += 1
    assert {"events": 2.0, "page": 1.0} == ledger.seconds


def test_threads_do_not_mix():
    """A part of another thread is not within the part of this one."""
    ledger = Ledger()

    def work() -> None:
        with ledger.own.of("page"):
            ledger.now += 10

    with ledger.own.of("sampler"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert {"page": 10.0, "sampler": 10.0} == ledger.seconds


@pytest.mark.parametrize("has_work", [False, True])
def test_a_sample_that_waits_costs_nothing(has_work):
    """By the wall clock it takes long, by CPU time nothing, also while another thread of the process works."""
    store, ended = Store(), threading.Event()
    other = threading.Thread(target=burn, args=(ended,))
    if has_work:
        other.start()
    try:
        Sampler([CountingProbe("memory", wait)], store, 1.0).sample_once()
    finally:
        ended.set()
        if has_work:
            other.join()
    assert store.tables().get("collect_duration_seconds", ("memory",)) >= WAIT_S
    assert spent(store, "sampler") < LITTLE_S


def test_a_sample_that_works_is_counted():
    """CPU time of this thread, as the operating system counts it."""
    store = Store()

    def work() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    Sampler([CountingProbe("memory", work)], store, 1.0).sample_once()
    assert 0.1 <= spent(store, "sampler") < 0.1 + LITTLE_S


def test_an_event_that_waits_for_the_log_costs_nothing(monkeypatch):
    """A disk that blocks is no work of the agent."""
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        agent = watch._agent
        before = spent(agent.store, "events")
        monkeypatch.setattr(agent.store, "apply", lambda event: wait())
        agent.emit(Stepped(steps=1, duration_s=None))
        assert 0 < spent(agent.store, "events") - before < LITTLE_S


def test_a_response_is_counted_by_its_path():
    """Scrapes, and everything else that the endpoint answers; with encoding and compression, without waiting."""
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        store = watch._agent.store
        for path, component in (("/metrics", "scrape"), ("/api/v1/state", "page"), ("/", "page")):
            before = spent(store, component)
            urllib.request.urlopen(watch.url + path, timeout=10).read()
            assert 0 < spent(store, component) - before < 1, path


def test_a_response_that_waits_costs_nothing():
    """For example for a lock of the store."""

    class Answers:
        def metrics(self, accept: str) -> tuple[bytes, str]:
            wait()
            return b"", "text/plain"

    store = Store()
    Routes(Answers(), own_time=store.own_time)(Request("GET", "/metrics", {}, {}))
    assert 0 < spent(store, "scrape") < LITTLE_S
