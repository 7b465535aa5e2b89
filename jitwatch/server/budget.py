"""How much of the job's time requests may take: shares of one core, whatever clients ask for.

A bucket holds seconds of CPU time. It fills at its share, and a request takes out what it cost, which is known only
afterwards: what a request of this path cost before is taken when it is let in, and the difference when it has ended.
So a burst is answered at once, ten open pages and a terminal view live within the share, and a flood is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

#: Seconds of CPU time a second, and at once, of what people look at: the page and the API.
API_SHARE: Final = 0.007
API_BURST_S: Final = 0.5
#: The same of scrapes, which nothing else can use up.
METRICS_SHARE: Final = 0.006
METRICS_BURST_S: Final = 1.0
#: The same of the page, the API and what each connection costs before it is a request (accepting, reading, refusing)
#: together: where nobody asks for the state, more connections can be taken. A TLS handshake takes a millisecond or
#: two, in which the training has the interpreter.
LOOP_SHARE: Final = 0.009
LOOP_SHARE_TLS: Final = 0.012
LOOP_BURST_S: Final = API_BURST_S + 0.2
#: Paths whose cost is remembered; all that exist are fewer.
_MAX_PATHS: Final = 64
_FREE: Final = frozenset({"/healthz"})


class Bucket:
    """A bounded share of time.

    Args:
        share: Seconds of CPU time that may be spent in a second.
        burst_s: Seconds that may be spent at once, after a time in which nothing was.
        clock: Monotonic seconds.
    """

    def __init__(self, share: float, burst_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self._burst_s = burst_s
        self._clock = clock
        self._left = burst_s
        self._at = clock()

    def spend(self, seconds: float) -> None:
        """Take out what was spent; a negative number gives back."""
        now = self._clock()
        self._left = min(self._burst_s, self._left + (now - self._at) * self.share) - seconds
        self._at = now

    def wait_s(self) -> float:
        """Seconds until there is something to spend; 0 when there is."""
        left = self._left + (self._clock() - self._at) * self.share
        return 0.0 if left > 0 else -left / self.share


class Meter:
    """Lets requests in and charges them. Only the server's loop calls it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = Bucket(API_SHARE, API_BURST_S, clock)
        self._metrics = Bucket(METRICS_SHARE, METRICS_BURST_S, clock)
        self._costs: dict[str, float] = {}

    def admit(self, path: str) -> tuple[float, int]:
        """Ask for a request to be handled.

        Returns:
            What it is charged for now, to be given to `charge` when it has ended; and 0, or else, when it must be
            refused, the seconds after which it may be tried again.
        """
        bucket = self._bucket(path)
        if bucket is None:
            return 0.0, 0
        if wait_s := bucket.wait_s():
            return 0.0, max(1, math.ceil(wait_s))
        expected_s = self._costs.get(path, 0.0)
        bucket.spend(expected_s)
        return expected_s, 0

    def charge(self, path: str, charged_s: float, cost_s: float) -> bool:
        """Settle what a request cost with what it was charged when it was let in; whether it was one of the API."""
        bucket = self._bucket(path)
        if bucket is not None:
            bucket.spend(cost_s - charged_s)
            if path in self._costs or len(self._costs) < _MAX_PATHS:
                # Half of what is new: one slow answer, of a cold cache, does not keep the next ones out.
                self._costs[path] = (self._costs.get(path, cost_s) + cost_s) / 2
        return bucket is self._api

    def cancel(self, path: str, charged_s: float) -> None:
        """Give back what a request was charged that was not handled after all."""
        bucket = self._bucket(path)
        if bucket is not None:
            bucket.spend(-charged_s)

    def _bucket(self, path: str) -> Bucket | None:
        if path in _FREE:
            return None
        return self._metrics if path == "/metrics" else self._api
