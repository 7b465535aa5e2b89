"""Reads a profile of a compile: the seconds of XLA's phases and passes, and of autotuning.

The events of a thread nest, and time is attributed to the innermost one. A thread that waits for others has an event
that encloses all of their events, and is then not counted. Threads that run at the same time share the time. The sum of
all rows is therefore wall-clock time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jitwatch.model.cleaning import clean
from jitwatch.model.rows import XlaPassRow
from jitwatch.system.threads import Pauses

#: Maximum number of rows, besides the one for all others, whose name is `OTHER`.
MAX_ROWS = 12
OTHER = "other"
AUTOTUNING, CODE, PASSES, REST = "autotuning", "code generation", "HLO passes", "other"
#: Maximum number of events that are read; the shortest ones are dropped.
_MAX_EVENTS = 100_000
_MAX_NAME = 100
#: Maximum number of simultaneous threads that are compared with each other.
_MAX_THREADS = 32
#: XLA's own threads and its callers, in JAX's profile of the host.
_HOST = "/host:CPU"
_AUTOTUNING = re.compile(r"autotun|algorithm.?picker", re.IGNORECASE)
_CODE = re.compile(
    r"code.?gen|JitCompiler|FusionCompiler|ThunkEmitter|EmitThunks|Emitter|llvm|ptx|cubin|CompileModuleTo",
    re.IGNORECASE,
)
_PASSES = re.compile(r"HLO pass|RunHloPasses|OptimizeHlo|HloPass|PrepareHlo|layout.assignment", re.IGNORECASE)
#: The name of the module, which follows that of a phase.
_MODULE = re.compile(r"\s*\([^()]*\)$|#.*$", re.DOTALL)

#: Name, start and end of an event, in nanoseconds.
Interval = tuple[str, float, float]


@dataclass(frozen=True, slots=True)
class Passes:
    """The phases and passes in a profile.

    Attributes:
        rows: Phases and passes, the longest first.
        seconds: The sum of their seconds.
        autotuning_s: The part of the sum that is autotuning.
    """

    rows: tuple[XlaPassRow, ...]
    seconds: float
    autotuning_s: float


@dataclass(slots=True)
class _Event:
    name: str
    start: float
    end: float
    phase: str


@dataclass(slots=True)
class _Segment:
    """A time in which an event is the innermost one of its thread.

    Attributes:
        outer_start, outer_end: Those of the outermost event around it.
    """

    start: float
    end: float
    event: _Event
    outer_start: float
    outer_end: float


def is_readable() -> bool:
    """Whether this JAX can read profiles (`jax.profiler.ProfileData`, None in 0.6.2)."""
    return hasattr(_profile_data(), "from_serialized_xspace")


def read(profile: bytes) -> list[list[Interval]]:
    """The events of each thread of the host in a profile as JAX's profiler returns it."""
    found: list[list[Interval]] = []
    pauses = Pauses()
    for plane in _profile_data().from_serialized_xspace(profile).planes:
        if plane.name == _HOST:
            for line in plane.lines:
                found.append([])
                for event in line.events:
                    pauses.take()
                    found[-1].append((event.name, event.start_ns, event.start_ns + event.duration_ns))
    return _longest(found)


def passes_of(threads: Iterable[Iterable[Interval]]) -> Passes:
    """The seconds of phases and passes, from the events of each thread."""
    sums: dict[tuple[str, str], float] = {}
    pauses = Pauses()
    for event, phase, nanoseconds in _shares([_segments(thread) for thread in threads]):
        key = (event.name, phase)
        sums[key] = sums.get(key, 0.0) + nanoseconds / 1e9
        pauses.take()
    total = sum(sums.values(), 0.0)
    autotuning_s = sum((seconds for (_, phase), seconds in sums.items() if phase == AUTOTUNING), 0.0)
    ordered = sorted(sums.items(), key=lambda one: -one[1])
    rows = [_row(name, phase, seconds, total) for (name, phase), seconds in ordered[:MAX_ROWS]]
    rest = sum(seconds for _, seconds in ordered[MAX_ROWS:])
    if rest > 0:
        rows.append(_row(OTHER, REST, rest, total))
    return Passes(tuple(rows), total, autotuning_s)


def _profile_data() -> Any:
    return getattr(sys.modules.get("jax.profiler"), "ProfileData", None)


def _row(name: str, phase: str, seconds: float, total: float) -> XlaPassRow:
    share = round(seconds / total, 4) if total else 0.0
    return {"name": clean(name, _MAX_NAME), "phase": phase, "seconds": round(seconds, 4), "share": share}


def _longest(threads: list[list[Interval]]) -> list[list[Interval]]:
    """At most `_MAX_EVENTS` events: without the shortest, whose time then belongs to the events around them."""
    count = sum(map(len, threads))
    if count <= _MAX_EVENTS:
        return threads
    durations = sorted((end - start for thread in threads for _, start, end in thread), reverse=True)
    least = durations[_MAX_EVENTS]
    return [[one for one in thread if one[2] - one[1] > least] for thread in threads]


def _segments(thread: Iterable[Interval]) -> list[_Segment]:
    """The times in which each event of a thread is the innermost one."""
    found: list[_Segment] = []
    open_events: list[_Event] = []
    at = 0.0

    def until(moment: float) -> None:
        nonlocal at
        if open_events and moment > at:
            outer = open_events[0]
            found.append(_Segment(at, moment, open_events[-1], outer.start, outer.end))
        at = max(at, moment)

    for name, start, end in sorted(thread, key=lambda one: (one[1], -one[2])):
        while open_events and open_events[-1].end <= start:
            _close(open_events, until)
        until(start)
        at = max(at, start)
        within = open_events[-1].phase if open_events else REST
        # An event that ends after the one around it is cut.
        until_end = min(end, open_events[-1].end) if open_events else end
        open_events.append(_Event(_MODULE.sub("", name), start, until_end, _phase(name, within)))
    while open_events:
        _close(open_events, until)
    return found


def _close(open_events: list[_Event], until: Any) -> None:
    until(open_events[-1].end)
    open_events.pop()


def _phase(name: str, within: str) -> str:
    """The phase of an event, by its name or else the event around it. All events in autotuning are autotuning."""
    if within == AUTOTUNING or _AUTOTUNING.search(name):
        return AUTOTUNING
    if _CODE.search(name):
        return CODE
    return PASSES if _PASSES.search(name) else within


def _shares(threads: Sequence[list[_Segment]]) -> Iterable[tuple[_Event, str, float]]:
    """Yield, for each interval, the events to which it belongs, their phases, and the nanoseconds of each."""
    edges = [
        (edge, is_start, number, segment)
        for number, segments in enumerate(threads)
        for segment in segments
        for edge, is_start in ((segment.start, 1), (segment.end, 0))
    ]
    edges.sort(key=lambda one: one[:3])
    running: dict[int, _Segment] = {}
    at = 0.0
    for moment, is_start, number, segment in edges:
        if running and moment > at:
            yield from _shared(list(running.values())[:_MAX_THREADS], moment - at)
        at = moment
        if is_start:
            running[number] = segment
        elif running.get(number) is segment:
            del running[number]


def _shared(running: list[_Segment], nanoseconds: float) -> Iterable[tuple[_Event, str, float]]:
    if len(running) == 1:
        yield running[0].event, running[0].event.phase, nanoseconds
        return
    working: list[tuple[_Event, str]] = []
    for one in running:
        phase, event = one.event.phase, one.event
        is_waiting = False
        for other in running:
            if other is one:
                continue
            if event.start <= other.outer_start and other.outer_end <= event.end:
                # If the times of two threads are equal, neither waits for the other.
                is_waiting = is_waiting or (event.start, event.end) != (other.outer_start, other.outer_end)
            elif other.event.start <= one.outer_start and one.outer_end <= other.event.end and phase == REST:
                phase = other.event.phase
        if not is_waiting:
            working.append((event, phase))
    for event, phase in working:
        yield event, phase, nanoseconds / len(working)
