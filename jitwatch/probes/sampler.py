"""The agent's own thread: samples the slow probes every few seconds, away from the training thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from jitwatch import guard
from jitwatch.probes import Probe
from jitwatch.state.store import Store
from jitwatch.system.threads import Event, Thread, pause

_JOIN_S = 1.0
#: Seconds to the next try when not even waiting works, for lack of memory.
_FAILURE_PAUSE_S = 0.1
#: Before the first round: its imports and first looks shall not slow the start of the job.
_FIRST_AFTER_S = 0.5


class Sampler:
    """Calls `sample` of each probe that is up, times it, and waits.

    Args:
        probes: All probes; those that were not started are left out.
        store: Takes the times.
        interval_s: Seconds between two rounds.
        each_round: Called once a round, for what only time brings about.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        store: Store,
        interval_s: float,
        each_round: Callable[[], None] = lambda: None,
    ) -> None:
        self._probes = probes
        self._store = store
        self._interval_s = interval_s
        self._each_round = each_round
        self._is_ended = False
        #: Ends the sleep between two rounds.
        self._ending = Event()
        self._thread = Thread(target=self._run, name="jitwatch-sampler")

    def start(self) -> None:
        """Start the thread; the first round comes after half a second."""
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop it; a sample that hangs is left behind after that time, or a second."""
        if self._is_ended:
            return
        # First, so that a thread that is left behind does nothing more to JAX.
        self._is_ended = True
        self._ending.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S if timeout_s is None else timeout_s)

    def sample_once(self) -> None:
        """One round."""
        with guard.guarded("sampler"):
            self._each_round()
        for probe in self._probes:
            if self._is_ended:
                return
            with guard.guarded(probe.name):
                if probe.is_started:
                    self._sample(probe)

    def _sample(self, probe: Probe) -> None:
        started = time.perf_counter()
        with guard.guarded(probe.name):
            probe.sample()
        took = time.perf_counter() - started
        self._store.set("collect_duration_seconds", took, (probe.name,))
        self._store.add("agent_overhead_seconds", took, ("sampler",))

    def _run(self) -> None:
        """Sample until told to end, whatever fails."""
        is_first = True
        while not self._is_ended:
            try:
                self._ending.wait(min(_FIRST_AFTER_S, self._interval_s) if is_first else self._interval_s)
                if not self._is_ended:
                    is_first = False
                    self.sample_once()
            except BaseException:  # also a SystemExit that somebody sends to all threads
                guard.failed("sampler")
                pause(_FAILURE_PAUSE_S)
