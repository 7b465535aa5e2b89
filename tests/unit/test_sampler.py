"""The sampler's thread: which probes it asks, what it times, how it stops."""

from __future__ import annotations

import threading

from jitwatch import guard
from jitwatch.probes import Probe
from jitwatch.probes.sampler import Sampler
from jitwatch.state.store import Store

DEADLINE_S = 20.0


class CountingProbe(Probe):
    """A probe that counts its samples and says in which thread."""

    def __init__(self, name: str, action=None, *, is_started: bool = True) -> None:
        self.name = name
        self.is_started = is_started
        self.action = action
        self.threads: list[threading.Thread] = []
        self.sampled = threading.Event()

    def sample(self) -> None:
        self.threads.append(threading.current_thread())
        self.sampled.set()
        if self.action is not None:
            self.action()


def fail() -> None:
    raise ValueError("broken")


def test_sample_once_asks_the_probes_that_were_started():
    """One that could not start is left out; one that sees less than it should is asked all the same."""
    started, fewer, absent = CountingProbe("compile"), CountingProbe("cache"), CountingProbe("x", is_started=False)
    store = Store()
    store.set("probe_up", 0.0, ("cache",))
    Sampler([started, fewer, absent], store, 1.0).sample_once()

    assert (1, 1, 0) == (len(started.threads), len(fewer.threads), len(absent.threads))


def test_sample_once_takes_the_times():
    """Each probe's last duration is a gauge; the CPU time of the round is the agent's own work."""
    store = Store()
    Sampler([CountingProbe("compile"), CountingProbe("cache")], store, 1.0).sample_once()
    tables = store.tables()

    assert {("compile",), ("cache",)} == set(tables.values["collect_duration_seconds"])
    assert 0 < tables.get("agent_overhead_seconds", ("sampler",)) < 1


def test_sample_once_goes_on_after_a_failure(monkeypatch):
    """A broken probe is counted by its name and does not take the others with it."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())
    counted = []
    monkeypatch.setattr(guard, "_sink", counted.append)
    broken, fine = CountingProbe("compile", fail), CountingProbe("cache")
    store = Store()
    Sampler([broken, fine], store, 1.0).sample_once()

    assert ["compile"] == counted
    assert 1 == len(fine.threads)
    assert ("compile",) in store.tables().values["collect_duration_seconds"]


def test_sample_once_stopped_in_between_ends_the_round():
    """Stopping does not wait for probes that have not begun."""
    first, second = CountingProbe("compile"), CountingProbe("cache")
    subject = Sampler([first, second], Store(), 1.0)
    first.action = subject.stop
    subject.sample_once()

    assert (1, 0) == (len(first.threads), len(second.threads))


def test_start_samples_in_a_thread_of_its_own():
    """Again and again, in a named daemon thread that ends with `stop`."""
    rounds = threading.Semaphore(0)
    probe = CountingProbe("compile", rounds.release)
    subject = Sampler([probe], Store(), 0.001)
    subject.start()
    for _ in range(3):
        assert rounds.acquire(timeout=DEADLINE_S)
    subject.stop()
    (thread,) = set(probe.threads)

    assert "jitwatch-sampler" == thread.name
    assert thread.daemon
    assert not thread.is_alive()


def test_thread_goes_on_after_a_failure(monkeypatch):
    """One bad round is not the last one."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())
    rounds = threading.Semaphore(0)

    def fail_and_tell():
        rounds.release()
        fail()

    subject = Sampler([CountingProbe("compile", fail_and_tell)], Store(), 0.001)
    subject.start()
    for _ in range(3):
        assert rounds.acquire(timeout=DEADLINE_S)
    subject.stop()


def test_thread_leaves_the_start_of_the_job_alone():
    """No probe is asked before the job had half a second."""
    probe = CountingProbe("compile")
    subject = Sampler([probe], Store(), 3600.0)
    subject.start()
    subject.stop()

    assert [] == probe.threads


def test_stop_does_not_wait_for_the_interval():
    """An hour between rounds is no hour until the end."""
    probe = CountingProbe("compile")
    subject = Sampler([probe], Store(), 3600.0, first_after_s=0.0)
    subject.start()
    assert probe.sampled.wait(DEADLINE_S)
    subject.stop()

    assert not subject._thread.is_alive()


def test_stop_without_start_does_nothing():
    """An agent that failed to start is stopped as well; twice is once."""
    subject = Sampler([], Store(), 1.0)
    subject.stop()
    subject.stop()


def test_stop_in_the_samplers_own_thread_does_not_wait_for_itself():
    """A probe whose sample uninstalls the agent must not block for ever."""
    stopped = []
    probe = CountingProbe("compile")
    subject = Sampler([probe], Store(), 0.001)
    probe.action = lambda: stopped.append(subject.stop())
    subject.start()
    subject._thread.join(DEADLINE_S)

    assert not subject._thread.is_alive()
    assert [None] == stopped
    assert 1 == len(probe.threads)


def test_stop_leaves_a_hanging_sample_behind():
    """A probe that hangs delays the end of the job by a bounded time only."""
    release = threading.Event()
    probe = CountingProbe("compile", lambda: release.wait(DEADLINE_S))
    subject = Sampler([probe], Store(), 0.001)
    subject.start()
    try:
        assert probe.sampled.wait(DEADLINE_S)
        subject.stop(timeout_s=0.01)
        assert subject._thread.is_alive()
    finally:
        release.set()
        subject._thread.join(DEADLINE_S)

    assert not subject._thread.is_alive()
    assert 1 == len(probe.threads)
