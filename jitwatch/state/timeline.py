"""The timeline of the page: figures of the last six hours in 360 points, coarser with age.

A point has the values of counters at its time; the difference of two points is what happened between them. Not
thread-safe: the store holds a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Seconds between two points and number of points: ten minutes, an hour, six hours.
RESOLUTIONS = ((5.0, 120), (30.0, 120), (180.0, 120))
#: A sample that is early by at most this is not skipped.
_EARLY_S = 0.5
#: Columns of a point's row.
COLUMNS = (
    "time",
    "busy_seconds",
    "compiles",
    "recompiles",
    "lost_seconds",
    "steps",
    "causes",
    "device_bytes",
    "live_array_bytes",
    "host_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point of the timeline: totals of the user's functions since the agent was installed, and memory in use.

    Attributes:
        time: Unix seconds.
        busy_seconds: Wall clock in which at least one thread compiled.
        lost_seconds: Lost seconds.
        steps: Training steps; None if the job reports none.
        causes: Recompiles by cause.
        device_bytes: Memory in use on all devices that report it; None if none does.
        live_array_bytes: Bytes of all live arrays; None until they were counted.
        host_bytes: Resident memory of the process; None until it was read.
    """

    time: float
    busy_seconds: float
    compiles: int
    recompiles: int
    lost_seconds: float
    steps: int | None
    causes: Mapping[str, int]
    device_bytes: int | None
    live_array_bytes: int | None
    host_bytes: int | None

    def row(self) -> list[Any]:
        """The values in the order of `COLUMNS`."""
        return [getattr(self, name) for name in COLUMNS]


class Timeline:
    """Keeps points in rings of increasing length and decreasing resolution."""

    def __init__(self) -> None:
        self._rings: tuple[deque[Moment], ...] = tuple(deque(maxlen=length) for _, length in RESOLUTIONS)

    def add(self, moment: Moment) -> None:
        """Add a point to each ring whose last point is old enough."""
        for ring, (resolution_s, _) in zip(self._rings, RESOLUTIONS, strict=True):
            if not ring or moment.time - ring[-1].time >= resolution_s - _EARLY_S:
                ring.append(moment)

    def after(self, time: float) -> list[Moment]:
        """The points later than Unix time `time`, oldest first, each period in the finest resolution available."""
        found: list[Moment] = []
        until = float("inf")
        for ring in self._rings:
            piece = [moment for moment in ring if time < moment.time < until]
            found = piece + found
            until = ring[0].time if ring else until
        return found
