"""Calls that a disk may hang: waited for once, refused until it answers."""

from __future__ import annotations

import threading
import time

import pytest

from jitwatch.system.threads import TimedCaller
from tests.waiting import wait_until

LONG_S = 30.0


def threads():
    return [one for one in threading.enumerate() if one.name == "jitwatch-files"]


def test_call_returns_what_the_function_returns():
    """From another thread, which ends with it."""
    found = TimedCaller(LONG_S).call(threading.get_ident)

    assert threading.get_ident() != found
    assert [] == threads()


def test_call_raises_what_the_function_raises():
    """The very exception."""
    error = OSError("full")

    def fail():
        raise error

    with pytest.raises(OSError, match="full") as caught:
        TimedCaller(LONG_S).call(fail)
    assert error is caught.value


def test_call_that_hangs_is_waited_for_once():
    """Then calls are refused at once, until it has ended; it is never repeated."""
    caller, release, calls = TimedCaller(0.05), threading.Event(), []

    def hang():
        calls.append("hang")
        release.wait(LONG_S)

    try:
        with pytest.raises(TimeoutError, match=r"did not respond within 0\.05 s"):
            caller.call(hang)
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(TimeoutError, match="is not used until it does"):
                caller.call(lambda: calls.append("refused"))
        # A hundred waits would be five seconds.
        assert time.monotonic() - started < 4
        assert [True] == [one.daemon for one in threads()]
    finally:
        release.set()
    wait_until(lambda: not threads(), what="the end of the thread")
    assert "again" == caller.call(lambda: "again")
    assert ["hang"] == calls
