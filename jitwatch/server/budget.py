"""The CPU budget of the endpoint: bounded shares of one core, whatever clients request.

A token bucket holds seconds of CPU time and refills at its share. The cost of a request is known only afterwards: on
admission it is charged what requests of its path cost before, and the difference when it has ended. A burst is answered
at once, ten open pages and a terminal view stay within the share, and a flood is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

#: CPU seconds per second, and in one burst, for the page and the API.
API_SHARE: Final = 0.007
API_BURST_S: Final = 0.5
#: The same for scrapes alone.
METRICS_SHARE: Final = 0.006
METRICS_BURST_S: Final = 1.0
#: The same for the page, the API and the event loop's own work (accepting, reading, refusing) together: with few
#: requests, more connections can be accepted. A TLS handshake takes a millisecond or two, with Python's lock released.
LOOP_SHARE: Final = 0.009
LOOP_SHARE_TLS: Final = 0.012
LOOP_BURST_S: Final = API_BURST_S + 0.2
#: Paths whose cost is remembered; there are fewer.
_MAX_PATHS: Final = 64
_FREE: Final = frozenset({"/healthz"})


class TokenBucket:
    """A bounded share of CPU time.

    Args:
        share: CPU seconds per second.
        burst_s: CPU seconds in one burst after an idle time.
        clock: Monotonic seconds.
    """

    def __init__(self, share: float, burst_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self._burst_s = burst_s
        self._clock = clock
        self._left = burst_s
        self._at = clock()

    def spend(self, seconds: float) -> None:
        """Charge CPU seconds; a negative number is a refund."""
        now = self._clock()
        self._left = min(self._burst_s, self._left + (now - self._at) * self.share) - seconds
        self._at = now

    def wait_s(self) -> float:
        """Seconds until there is budget again; 0 if there is some."""
        left = self._left + (self._clock() - self._at) * self.share
        return 0.0 if left > 0 else -left / self.share


class RequestBudget:
    """Admits requests and charges them. Used by the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = TokenBucket(API_SHARE, API_BURST_S, clock)
        self._metrics = TokenBucket(METRICS_SHARE, METRICS_BURST_S, clock)
        self._costs: dict[str, float] = {}

    def admit(self, path: str) -> tuple[float, int]:
        """Admit a request or refuse it.

        Returns:
            CPU seconds charged for now, to be passed to `charge` when it has ended; and 0, or, if it is refused, the
            seconds after which the client may try again.
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
        """Charge a request its cost, less its charge on admission; returns whether it was an API request."""
        bucket = self._bucket(path)
        if bucket is not None:
            bucket.spend(cost_s - charged_s)
            if path in self._costs or len(self._costs) < _MAX_PATHS:
                # An average: one slow response, from a cold cache, does not refuse the next requests.
                self._costs[path] = (self._costs.get(path, cost_s) + cost_s) / 2
        return bucket is self._api

    def cancel(self, path: str, charged_s: float) -> None:
        """Refund the charge of a request that was not handled."""
        bucket = self._bucket(path)
        if bucket is not None:
            bucket.spend(-charged_s)

    def _bucket(self, path: str) -> TokenBucket | None:
        if path in _FREE:
            return None
        return self._metrics if path == "/metrics" else self._api
