"""Time and ownership of compile phases: pure bookkeeping by thread, no JAX in it.

JAX reports a phase's start and end in the thread that runs it, and phases nest: the trace of a
function contains the traces of jitted functions it calls (until 0.9), and whole compiles of
constants. Each second is counted once:

- a trace inside of another phase belongs to that phase;
- a lowering or backend compile inside of another phase is taken out of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Phase
from jitwatch.system.threads import RLock

#: What the persistent cache said of a compile; `written` is a miss whose program it holds from now on.
CacheResult = Literal["hit", "written", "miss", "off"]


@dataclass(slots=True)
class OpenPhase:
    """A phase that runs: monotonic start, and the seconds of it that belong to compiles inside."""

    phase: Phase
    start: float
    inner_s: float = 0.0
    cache: CacheResult = "off"
    #: The exception that was being handled when the phase started.
    handled: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A phase that ended: exclusive seconds, whether a hook enclosed it, whether an exception ended it."""

    seconds: float
    cache: CacheResult
    is_credited: bool
    is_failed: bool


@dataclass(slots=True, eq=False)
class Work:
    """One unit of JAX's work that a hook encloses: the seconds of its own phase, if that ran."""

    phase: Phase
    function: Function | None = None
    seconds: float | None = None
    cache: CacheResult = "off"


@dataclass(slots=True)
class Program:
    """A traced function on its way to an executable; its seconds are handed out once."""

    function: Function
    trace_s: float | None = None
    lower_s: float | None = None
    #: What the trace told of it, for the signature (`signatures.Traced`).
    traced: Any = None
    #: What it is lowered for; None until then, and for programs of JAX's own.
    signature: Signature | None = None


class ThreadPhases(threading.local):
    """What the current thread is in the middle of."""

    def __init__(self) -> None:
        self.open: list[OpenPhase] = []
        self.work: list[Work] = []
        #: Seconds of the last phases that no hook enclosed (pmap's trace until 0.9), for what follows.
        self.loose: dict[Phase, float] = {}
        #: The last function that was called here, for programs derived from it (grad, vmap).
        self.last: tuple[str, Function] | None = None


@dataclass(slots=True)
class Running:
    """A thread's outermost phase, for `compiles_in_progress` and its age."""

    phase: Phase
    start: float
    function: Function | None
    #: Identifier of the thread.
    ident: int = field(default_factory=threading.get_ident)


@dataclass(slots=True)
class Activity:
    """Which threads compile right now, and for how long at least one did; durations in seconds."""

    clock: Callable[[], float]
    # Re-entrant: a signal handler or a finalizer of the job may compile while this thread holds it.
    _lock: RLock = field(default_factory=RLock)
    _running: dict[int, Running] = field(default_factory=dict)
    _busy_s: float = 0.0
    _busy_since: float = 0.0

    def begin(self, running: Running) -> None:
        """The calling thread starts an outermost phase."""
        with self._lock:
            if not self._running:
                self._busy_since = running.start
            self._running[running.ident] = running

    def end(self) -> None:
        """The calling thread left its outermost phase; does nothing when it is in none."""
        with self._lock:
            if self._running.pop(threading.get_ident(), None) is not None and not self._running:
                self._busy_s += self.clock() - self._busy_since

    def busy_s(self) -> float:
        """Wall clock so far in which at least one thread compiled, the running ones included."""
        with self._lock:
            return self._busy_s + (self.clock() - self._busy_since if self._running else 0.0)

    def running(self) -> list[Running]:
        """What runs now, the oldest first."""
        with self._lock:
            return sorted(self._running.values(), key=lambda one: one.start)


class PhaseClock:
    """Measures phases from start and end signals, in any thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.thread = ThreadPhases()
        self.activity = Activity(clock)

    def start(self, phase: Phase, function: Function | None) -> None:
        """A phase starts in this thread."""
        thread = self.thread
        now = self._clock()
        if not thread.open:
            self.activity.begin(Running(phase, now, function))
        thread.open.append(OpenPhase(phase, now, handled=sys.exception()))

    def end(self, phase: Phase, duration_s: float) -> Ended:
        """A phase ended; its exclusive seconds are credited to the work that encloses it.

        Args:
            phase: Which one.
            duration_s: JAX's own measurement, used when its start was not seen.
        """
        thread = self.thread
        position = _last_index(thread.open, phase)
        if position is None:
            ended = OpenPhase(phase, self._clock() - duration_s, handled=sys.exception())
        else:
            ended = thread.open[position]
            del thread.open[position:]
        total = self._clock() - ended.start
        exclusive = max(0.0, total - ended.inner_s)
        if thread.open:
            # What was taken out of a trace must stay out of the phase that the trace belongs to.
            thread.open[-1].inner_s += ended.inner_s if phase == "trace" else total
        is_credited = self._credit(ended, exclusive)
        if not thread.open:
            self.activity.end()
        # Inside of `__exit__`, the exception that ends the phase counts as being handled.
        return Ended(exclusive, ended.cache, is_credited, sys.exception() is not ended.handled)

    def _credit(self, ended: OpenPhase, seconds: float) -> bool:
        thread = self.thread
        work = thread.work[-1] if thread.work else None
        if work is not None and work.phase == ended.phase and not (ended.phase == "trace" and thread.open):
            work.seconds = (work.seconds or 0.0) + seconds
            work.cache = ended.cache
            return True
        if not thread.open:
            thread.loose[ended.phase] = seconds
        return False

    def enter(self, work: Work) -> int:
        """A hook encloses work of JAX; returns the depth to leave with."""
        self.thread.work.append(work)
        return len(self.thread.open)

    def leave(self, work: Work, depth: int) -> None:
        """The work ended, well or not; phases that never reported their end are dropped."""
        thread = self.thread
        for position in range(len(thread.work) - 1, -1, -1):
            if thread.work[position] is work:
                del thread.work[position:]
                break
        if len(thread.open) > depth:
            stale = thread.open[depth]
            del thread.open[depth:]
            total = max(0.0, self._clock() - stale.start)
            if work.seconds is None and stale.phase == work.phase:
                work.seconds, work.cache = max(0.0, total - stale.inner_s), stale.cache
            if thread.open:
                thread.open[-1].inner_s += stale.inner_s if stale.phase == "trace" else total
            if not thread.open:
                self.activity.end()

    def take_loose(self, phase: Phase) -> float | None:
        """Seconds of the last such phase in this thread that no hook enclosed; None afterwards."""
        return self.thread.loose.pop(phase, None)

    def mark_cache(self, result: CacheResult) -> None:
        """The persistent cache spoke during the backend compile that runs in this thread."""
        position = _last_index(self.thread.open, "compile")
        if position is not None:
            self.thread.open[position].cache = result


def _last_index(phases: list[OpenPhase], phase: Phase) -> int | None:
    for position in range(len(phases) - 1, -1, -1):
        if phases[position].phase == phase:
            return position
    return None
