"""Durations of compile phases, and the work that they belong to: bookkeeping per thread, without JAX.

JAX reports the start and end of a phase in the thread that runs it, and phases nest: the trace of a function contains
the traces of the jitted functions that it calls (until 0.9), and whole compiles of constants. Each second is counted
once:

- a trace inside another phase belongs to that phase;
- a lowering or backend compile inside another phase is subtracted from it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jitwatch.jaxhooks.compile.hot_lines import Samples
from jitwatch.model.cache_key import CacheKey
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Phase
from jitwatch.system.threads import RLock, SimpleQueue, native_ident

#: Result of the persistent cache for a compile; `written` is a miss whose program was then written.
CacheResult = Literal["hit", "written", "miss", "off"]


@dataclass(slots=True)
class OpenPhase:
    """A running phase: monotonic start, and the seconds of compiles inside it."""

    phase: Phase
    start: float
    inner_s: float = 0.0
    cache: CacheResult = "off"
    #: The exception that was being handled when the phase started.
    handled: BaseException | None = None


@dataclass(frozen=True, slots=True)
class EndedPhase:
    """A phase that ended: exclusive seconds, whether a hook enclosed it, and whether an exception ended it."""

    seconds: float
    cache: CacheResult
    is_credited: bool
    is_failed: bool


@dataclass(slots=True)
class Module:
    """A module that XLA compiles.

    Attributes:
        on_all_processes: Whether it runs on devices of every process of the job, all of which must compile it.
        has_callbacks: Whether it calls back into Python.
        has_key: Whether JAX serialized it for the key of the persistent cache.
        fingerprint: Its fingerprint in hex; empty if there is none, None if it is not known yet.
        has_address: Whether the bytes of the key contain the address of a callback.
        size: Number of these bytes.
        keys: The parts of the keys that JAX has made, by key.
        lookup: The lookup in the persistent cache, if the cache has a folder.
    """

    on_all_processes: bool
    has_callbacks: bool = False
    has_key: bool = False
    fingerprint: str | None = None
    has_address: bool = False
    size: int = 0
    keys: dict[str, Any] = field(default_factory=dict)
    lookup: Lookup | None = None


@dataclass(slots=True, eq=False)
class Lookup:
    """A lookup of one program in the persistent cache.

    Attributes:
        key: The key of the program.
        is_hit: Whether the cache had the program.
        signature: The signature that the program is compiled for.
        error: The error with which reading failed.
        write_error: The error with which writing failed.
        text: Returns the program as StableHLO; only in the thread that compiles, until the compile has ended.
        size: Bytes of the program without locations.
        before_s: Seconds of its trace and its lowering.
        ticket: For use by the receiver of lookups.
    """

    key: CacheKey
    is_hit: bool
    signature: Signature | None
    error: str = ""
    write_error: str = ""
    text: Callable[[], str] = str
    size: int = 0
    before_s: float = 0.0
    ticket: Any = None


@dataclass(slots=True, eq=False)
class Work:
    """One unit of JAX's work that a hook encloses: the seconds of its own phase, if that has run.

    Attributes:
        constant_bytes: Bytes of the large constants of a program that is compiled.
        module: Its module, once JAX has begun to compile it.
        samples: Samples of its trace or lowering, if it took long enough to be sampled.
        signature: The signature that a program is compiled for.
        before_s: Seconds of its trace and its lowering.
    """

    phase: Phase
    function: Function | None = None
    seconds: float | None = None
    cache: CacheResult = "off"
    constant_bytes: int = 0
    module: Module | None = None
    samples: Samples | None = None
    signature: Signature | None = None
    before_s: float = 0.0


@dataclass(slots=True)
class Program:
    """A traced function until it is compiled; its seconds are reported once."""

    function: Function
    trace_s: float | None = None
    lower_s: float | None = None
    #: What the trace gave for the signature (`traced.Traced`).
    traced: Any = None
    #: The signature that it is lowered for; None until then, and for programs of JAX's own.
    signature: Signature | None = None
    #: Samples of its trace and its lowering.
    samples: Samples | None = None

    def pop_seconds(self) -> tuple[float | None, float | None]:
        """Return and reset the seconds of its trace and its lowering."""
        found = self.trace_s, self.lower_s
        self.trace_s = self.lower_s = None
        return found

    def pop_samples(self) -> Samples | None:
        """Return and remove the samples of its trace and its lowering."""
        found, self.samples = self.samples, None
        return found


class ThreadPhases(threading.local):
    """State of the current thread."""

    def __init__(self) -> None:
        self.open: list[OpenPhase] = []
        self.work: list[Work] = []
        #: Seconds of the last phases that no hook enclosed (pmap's trace until 0.9), for the next report.
        self.unowned: dict[Phase, float] = {}
        #: JAX's name and function of the last call in this thread, for programs derived from it (grad, vmap).
        self.last: tuple[str, Function] | None = None


@dataclass(slots=True)
class Running:
    """A thread's outermost phase, for `compiles_in_progress` and its age.

    Attributes:
        ident: Identifier of the thread, also if the job has patched Python's threads since.
        open, works: The thread's own lists of its open phases and of the work that encloses them; read only.
        samples: Samples of its stack. Set by the thread that samples.
    """

    phase: Phase
    start: float
    function: Function | None
    ident: int = field(default_factory=native_ident)
    open: list[OpenPhase] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    samples: Samples | None = None

    @property
    def module(self) -> Module | None:
        """The module that the thread compiles; None in other phases."""
        last = self.works[-1:]
        return last[0].module if last else None


@dataclass(slots=True)
class Activity:
    """The threads that compile now, and the total time in which at least one did; durations in seconds.

    Attributes:
        sleeper: The queue of a thread that waits for the next outermost phase. The phase removes it and puts None into
            it.
    """

    clock: Callable[[], float]
    sleeper: SimpleQueue[None] | None = None
    # Re-entrant: a signal handler or finalizer of the job may compile while this thread holds it.
    _lock: RLock = field(default_factory=RLock)
    _running: dict[int, Running] = field(default_factory=dict)
    _busy_s: float = 0.0
    _busy_since: float = 0.0

    def begin(self, running: Running) -> None:
        """Handle that the calling thread starts an outermost phase."""
        with self._lock:
            if not self._running:
                self._busy_since = running.start
            self._running[running.ident] = running
        sleeper = self.sleeper
        if sleeper is not None:
            self.sleeper = None
            sleeper.put(None)

    def end(self) -> Running | None:
        """Handle that the calling thread leaves its outermost phase, and return that; None if it is in none."""
        with self._lock:
            ended = self._running.pop(native_ident(), None)
            if ended is not None and not self._running:
                self._busy_s += self.clock() - self._busy_since
            return ended

    def busy_s(self) -> float:
        """Return the wall clock time in which at least one thread compiled, running compiles included."""
        with self._lock:
            return self._busy_s + (self.clock() - self._busy_since if self._running else 0.0)

    def running(self) -> list[Running]:
        """Return the running phases, the oldest first."""
        with self._lock:
            return sorted(self._running.values(), key=lambda one: one.start)


class PhaseClock:
    """Measures phases in all threads from the signals of their start and end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.thread = ThreadPhases()
        self.activity = Activity(clock)

    def start(self, phase: Phase, function: Function | None) -> None:
        """Start a phase in this thread."""
        thread = self.thread
        now = self._clock()
        if not thread.open:
            self.activity.begin(Running(phase, now, function, open=thread.open, works=thread.work))
        thread.open.append(OpenPhase(phase, now, handled=sys.exception()))

    def end(self, phase: Phase, duration_s: float) -> EndedPhase:
        """End a phase; its exclusive seconds are credited to the work that encloses it.

        JAX's own measurement is used if the start was not seen.
        """
        thread = self.thread
        position = _last_index(thread.open, phase)
        if position is None:
            ended = OpenPhase(phase, self._clock() - duration_s, handled=sys.exception())
        else:
            ended = thread.open[position]
        exclusive = self._close(ended, position)
        is_credited = self._credit(ended, exclusive)
        if not thread.open:
            self._end_outermost()
        # In `__exit__` the exception that ends the phase is being handled.
        return EndedPhase(exclusive, ended.cache, is_credited, sys.exception() is not ended.handled)

    def _close(self, ended: OpenPhase, position: int | None) -> float:
        """Return the exclusive seconds of a phase, and drop it with those inside it if it is among the open ones."""
        phases = self.thread.open
        if position is not None:
            del phases[position:]
        total = max(0.0, self._clock() - ended.start)
        if phases:
            # What was subtracted from a trace is subtracted from the phase that the trace belongs to as well.
            phases[-1].inner_s += ended.inner_s if ended.phase == "trace" else total
        return max(0.0, total - ended.inner_s)

    def _credit(self, ended: OpenPhase, seconds: float) -> bool:
        thread = self.thread
        work = thread.work[-1] if thread.work else None
        if work is not None and work.phase == ended.phase and not (ended.phase == "trace" and thread.open):
            work.seconds = (work.seconds or 0.0) + seconds
            work.cache = ended.cache
            return True
        if not thread.open:
            thread.unowned[ended.phase] = seconds
        return False

    def enter(self, work: Work) -> int:
        """Enter work of JAX that a hook encloses; returns the depth to leave with."""
        self.thread.work.append(work)
        return len(self.thread.open)

    def leave(self, work: Work, depth: int) -> None:
        """Leave the work, successful or not; phases whose end was not reported are dropped."""
        thread = self.thread
        for position in range(len(thread.work) - 1, -1, -1):
            if thread.work[position] is work:
                del thread.work[position:]
                break
        if len(thread.open) > depth:
            stale = thread.open[depth]
            exclusive = self._close(stale, depth)
            if work.seconds is None and stale.phase == work.phase:
                work.seconds, work.cache = exclusive, stale.cache
            if not thread.open:
                running = self.activity.end()
                if running is not None and stale.phase == work.phase:
                    work.samples = running.samples

    def _end_outermost(self) -> None:
        """End this thread's outermost phase; its samples belong to the work that encloses it."""
        running, works = self.activity.end(), self.thread.work
        if running is not None and running.samples is not None and works and works[-1].phase == running.phase:
            works[-1].samples = running.samples

    def function_of(self, phase: Phase) -> Function | None:
        """Return the function of such a phase in this thread, as far as the enclosing hook knows it."""
        work = self.work_of(phase)
        return work.function if work is not None else None

    def work_of(self, phase: Phase) -> Work | None:
        """Return the innermost work in this thread, if it is such a phase."""
        work = self.thread.work
        return work[-1] if work and work[-1].phase == phase else None

    def pop_unowned(self, phase: Phase) -> float | None:
        """Return and remove the seconds of the last such phase in this thread that no hook enclosed."""
        return self.thread.unowned.pop(phase, None)

    def mark_cache(self, result: CacheResult) -> None:
        """Set the persistent cache's result for the backend compile that runs in this thread."""
        position = _last_index(self.thread.open, "compile")
        if position is not None:
            self.thread.open[position].cache = result


def _last_index(phases: list[OpenPhase], phase: Phase) -> int | None:
    for position in range(len(phases) - 1, -1, -1):
        if phases[position].phase == phase:
            return position
    return None
