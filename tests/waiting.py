"""Waiting for a condition. No other place in the tests sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_SHORTEST_PAUSE_S = 0.002
#: A question may cost a browser, a server and a job their time.
_LONGEST_PAUSE_S = 0.25


def wait_until(condition: Callable[[], _T], *, what: str, timeout_s: float = 60.0) -> _T:
    """Poll a condition until it is true, and return what it returned.

    Raises:
        AssertionError: it was not true within the timeout; the message says `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _SHORTEST_PAUSE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
    return found
