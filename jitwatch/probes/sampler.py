"""The sampler: a thread that calls the slow part of each probe every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from jitwatch import guard
from jitwatch.probes import Probe
from jitwatch.state.store import Store
from jitwatch.system.threads import Latch, Thread, pause

_JOIN_S = 1.0
#: Seconds to the next attempt if waiting itself fails, for lack of memory.
_FAILURE_PAUSE_S = 0.1
#: Seconds before the first round, whose imports would slow down the start of the job.
_FIRST_AFTER_S = 0.5


class Sampler:
    """Calls and times `sample` of each started probe in regular rounds.

    Args:
        probes: All probes; those that did not start are skipped.
        store: Receives the durations.
        interval_s: Seconds between two rounds.
        each_round: Called once per round, for other periodic work.
        first_after_s: Seconds before the first round; `interval_s` if that is shorter.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        store: Store,
        interval_s: float,
        each_round: Callable[[], None] = lambda: None,
        first_after_s: float = _FIRST_AFTER_S,
    ) -> None:
        self._probes = probes
        self._store = store
        self._interval_s = interval_s
        self._first_after_s = min(first_after_s, interval_s)
        self._each_round = each_round
        self._is_ended = False
        #: Ends the sleep between two rounds.
        self._ending = Latch()
        self._thread = Thread(target=self._run, name="jitwatch-sampler")

    def start(self) -> None:
        """Start the thread; the first round is half a second later."""
        self._thread.start()

    def stop(self, timeout_s: float = _JOIN_S) -> None:
        """Stop the thread; one that hangs is abandoned after `timeout_s`."""
        if self._is_ended:
            return
        # First, so that an abandoned thread does not use JAX any more.
        self._is_ended = True
        self._ending.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def sample_once(self) -> None:
        """Run one round."""
        with guard.guarded("sampler"), self._store.own_time.of("sampler"):
            self._each_round()
        for probe in self._probes:
            if self._is_ended:
                return
            with guard.guarded(probe.name):
                if probe.is_started:
                    self._sample(probe)

    def _sample(self, probe: Probe) -> None:
        started = time.perf_counter()
        with self._store.own_time.of("sampler"), guard.guarded(probe.name):
            probe.sample()
        # By the wall clock: a sample that waits for a driver shows here, and costs the job nothing.
        self._store.set("collect_duration_seconds", time.perf_counter() - started, (probe.name,))

    def _run(self) -> None:
        """Sample until `stop` is called, despite failures."""
        is_first = True
        while not self._is_ended:
            try:
                self._ending.wait(self._first_after_s if is_first else self._interval_s)
                if not self._is_ended:
                    is_first = False
                    self.sample_once()
            except BaseException:  # also a SystemExit that is injected into all threads
                guard.failed("sampler")
                pause(_FAILURE_PAUSE_S)
