"""What clients may use of the job: connections, memory, threads, and a bounded share of one core.

A token bucket holds seconds of CPU time and refills at its share. The cost of a request is known only afterwards: on
admission it is charged what requests of its path cost before, and the difference when it has ended. A burst is answered
at once, ten open pages and a terminal view stay within the share, and a flood is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

#: Paths whose cost is remembered; there are fewer.
_MAX_PATHS: Final = 64
_FREE: Final = frozenset({"/healthz"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of an endpoint. Shares are CPU seconds per second, bursts CPU seconds after an idle time.

    Attributes:
        connections: Open connections.
        unsent_bytes: Bytes of all unsent responses together: clients that do not read must not fill the job's memory.
        idle_s: Seconds without a byte in either direction after which a connection is dropped.
        read_s: Seconds for a complete request head, TLS handshake included, however slowly bytes arrive.
        handler_s, write_s: Seconds for the handler, and for sending a response.
        drain_s: Seconds in which the client may close first, so that it reads the response and not a reset.
        workers: Threads that run the handler.
        waiting: Requests that wait for a worker; the next one is answered 503.
        worker_idle_s: Seconds without a request after which a worker ends, except the first one.
        api_share, api_burst_s: CPU time of the page and the API.
        metrics_share, metrics_burst_s: CPU time of scrapes.
        loop_share, loop_share_tls, loop_burst_s: CPU time of the page, the API and the event loop's own work
            (accepting, reading, refusing) together: with few requests, more connections can be accepted. A TLS
            handshake takes a millisecond or two, with Python's lock released.
        pause_s: Longest pause when the loop's share is used up: what a flood may delay a scrape by.
        sleep_s: Longest sleep of the loop: a descriptor that the job closes wakes no thread.
        failures: Iterations of the loop in a row that may fail before the server gives up.
        reopened: Times that the port is opened again after the job has closed its descriptor.
    """

    connections: int = 128
    unsent_bytes: int = 64 * 2**20
    idle_s: float = 5.0
    read_s: float = 10.0
    handler_s: float = 30.0
    write_s: float = 30.0
    drain_s: float = 1.0
    workers: int = 8
    waiting: int = 32
    worker_idle_s: float = 5.0
    api_share: float = 0.007
    api_burst_s: float = 0.5
    metrics_share: float = 0.006
    metrics_burst_s: float = 1.0
    loop_share: float = 0.009
    loop_share_tls: float = 0.012
    loop_burst_s: float = 0.7
    pause_s: float = 1.0
    sleep_s: float = 5.0
    failures: int = 100
    reopened: int = 5


#: The limits of the agent's endpoint.
LIMITS: Final = Limits()


class TokenBucket:
    """A bounded share of CPU time: seconds per second, with a burst after an idle time."""

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

    def __init__(self, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = TokenBucket(limits.api_share, limits.api_burst_s, clock)
        self._metrics = TokenBucket(limits.metrics_share, limits.metrics_burst_s, clock)
        self._costs: dict[str, float] = {}

    def admit(self, path: str) -> tuple[float, int]:
        """Return the CPU seconds charged for now, and 0 or, if it is refused, after how many seconds to try again."""
        bucket = self._bucket(path)
        if bucket is None:
            return 0.0, 0
        if wait_s := bucket.wait_s():
            return 0.0, max(1, math.ceil(wait_s))
        expected_s = self._costs.get(path, 0.0)
        bucket.spend(expected_s)
        return expected_s, 0

    def charge(self, path: str, charged_s: float, cost_s: float | None) -> bool:
        """Charge a request its cost (None: not handled), less its charge on admission.

        Returns whether it was an API request.
        """
        bucket = self._bucket(path)
        if bucket is not None:
            bucket.spend((cost_s or 0.0) - charged_s)
            if cost_s is not None and (path in self._costs or len(self._costs) < _MAX_PATHS):
                # An average: one slow response, from a cold cache, does not refuse the next requests.
                self._costs[path] = (self._costs.get(path, cost_s) + cost_s) / 2
        return bucket is self._api

    def _bucket(self, path: str) -> TokenBucket | None:
        if path in _FREE:
            return None
        return self._metrics if path == "/metrics" else self._api
