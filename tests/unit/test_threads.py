"""Locks, events and threads of ours, on what the operating system has."""

from __future__ import annotations

import _thread
import sys
import threading
import time

import pytest

from jitwatch.system import threads
from jitwatch.system.threads import Latch, RLock, Thread
from tests.waiting import wait_until

DEADLINE_S = 20.0


def test_event_lets_everybody_go_on():
    """Those who wait already, and those who come later."""
    event, passed = Latch(), []
    waiting = [Thread(target=lambda: passed.append(event.wait(DEADLINE_S)), name=f"waiter-{n}") for n in range(4)]
    for thread in waiting:
        thread.start()
    event.set()
    event.set()
    for thread in waiting:
        thread.join(DEADLINE_S)
    assert [True] * 4 == passed
    assert (True, True) == (event.is_set(), event.wait())


@pytest.mark.parametrize("timeout_s", [0.0, 0.01, -1.0])
def test_event_waits_no_longer_than_it_may(timeout_s):
    """And keeps nothing of a wait that was in vain."""
    event = Latch()
    started = time.monotonic()
    assert (False, False) == (event.wait(timeout_s), event.is_set())
    assert time.monotonic() - started < DEADLINE_S
    assert 0 == len(event._waiters)


def test_event_waits_for_longer_than_a_lock_can():
    """A timeout that no lock takes is as good as none."""
    event = Latch()
    thread = Thread(target=lambda: event.wait(float("inf")), name="waiter")
    thread.start()
    event.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_interrupted_wait_leaves_nothing(monkeypatch):
    """Ctrl-C in the middle of it goes on, and a later set finds nobody."""

    class Interrupted:
        def __init__(self) -> None:
            self.taken = 0

        def acquire(self, *_: object, timeout: float | None = None) -> bool:
            if timeout is not None:
                raise KeyboardInterrupt
            return True

    event = Latch()
    monkeypatch.setattr(threads, "_allocate", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        event.wait(DEADLINE_S)
    assert 0 == len(event._waiters)
    event.set()


def test_patch_is_noticed(monkeypatch):
    """As gevent and eventlet do it, in the module that all others build on."""
    assert not threads.is_patched()
    monkeypatch.setattr(_thread, "get_ident", lambda: 1)
    assert threads.is_patched()


def test_debugger_that_starts_threads_in_its_own_way_is_no_patch(monkeypatch):
    """pydevd traces what they run, and they are real ones."""
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: None)
    assert not threads.is_patched()


def test_lock_is_held_several_times_by_one_thread_and_by_no_other():
    """As `threading.RLock`, by `with` and by its methods."""
    lock, free = RLock(), []

    def ask() -> None:
        free.append(lock.acquire(timeout=0.01))
        if free[-1]:
            lock.release()

    def ask_elsewhere() -> None:
        thread = Thread(target=ask, name="asking")
        thread.start()
        thread.join(DEADLINE_S)

    with lock:
        assert lock.acquire(blocking=False)
        ask_elsewhere()
        lock.release()
        ask_elsewhere()
    ask_elsewhere()
    assert [False, False, True] == free
    with pytest.raises(RuntimeError):
        lock.release()


def test_entering_a_lock_calls_no_python():
    """Where an interrupt could come between taking it and the body of `with`."""
    lock, called = RLock(), []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        with lock:
            pass
    finally:
        sys.setprofile(None)
    assert [] == called


def test_lock_is_not_found_where_eventlet_looks():
    """It is none itself, and has no `__dict__` with one."""
    assert not isinstance(RLock(), type(threading.RLock()))
    assert not hasattr(RLock(), "__dict__")


def test_thread_ends_quietly_where_its_identity_was_replaced(monkeypatch, capfd):
    """It takes itself off the list of threads by the identity under which it is there."""
    begun, may_end = Latch(), Latch()
    thread = Thread(target=lambda: (begun.set(), may_end.wait(DEADLINE_S)), name="jitwatch-x")
    thread.start()
    assert begun.wait(DEADLINE_S)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "get_ident", lambda: -1)
        may_end.set()
        wait_until(lambda: thread not in threading._active.values(), what="the thread to take itself off the list")
    thread.join(DEADLINE_S)
    assert thread.daemon
    assert "" == capfd.readouterr().err


def test_failure_of_a_thread_is_counted_and_not_printed(monkeypatch, capfd):
    """The guard handles what the target of a thread does not catch; the excepthook of the job does not."""
    counted = []
    monkeypatch.setattr("jitwatch.guard.reraise", False)
    monkeypatch.setattr("jitwatch.guard._sink", counted.append)
    thread = threads.Thread(target=lambda: 1 / 0, name="jitwatch-test")
    thread.start()
    thread.join(10)

    assert ["threads"] == counted
    assert "" == capfd.readouterr().err
