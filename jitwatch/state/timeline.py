"""What went on over time, at falling resolution, for the page: the last six hours in 360 points.

Counters are kept as they stood, so that whoever reads two points has what happened in between, whatever lies
between them. No lock: the store that owns it has one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Seconds between two points, and how many are kept: ten minutes, an hour, six hours.
RESOLUTIONS = ((5.0, 120), (30.0, 120), (180.0, 120))
#: A round of the sampler that comes so much early is no reason to miss one.
_EARLY_S = 0.5
#: What a row of `Timeline.rows` holds, in order.
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
    """How things stood at one time; totals of the user's functions since the agent was installed.

    Attributes:
        time: Unix seconds.
        busy_seconds: Wall clock in which at least one thread compiled.
        lost_seconds: Seconds of recompiles.
        steps: Training steps; None where the job reports none.
        causes: Recompiles by cause.
        device_bytes: In use on all devices that tell; None where none does.
        live_array_bytes: Of all live arrays; None until they were counted.
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
        """Its values in the order of `COLUMNS`."""
        return [getattr(self, name) for name in COLUMNS]


class Timeline:
    """Rings of moments, each coarser and longer than the one before."""

    def __init__(self) -> None:
        self._rings: tuple[deque[Moment], ...] = tuple(deque(maxlen=length) for _, length in RESOLUTIONS)

    def add(self, moment: Moment) -> None:
        """Keep a moment in each ring whose last one is old enough."""
        for ring, (resolution_s, _) in zip(self._rings, RESOLUTIONS, strict=True):
            if not ring or moment.time - ring[-1].time >= resolution_s - _EARLY_S:
                ring.append(moment)

    def after(self, time: float) -> list[Moment]:
        """The moments later than Unix time `time`, oldest first: the finest there are of each stretch."""
        found: list[Moment] = []
        until = float("inf")
        for ring in self._rings:
            piece = [moment for moment in ring if time < moment.time < until]
            found = piece + found
            until = ring[0].time if ring else until
        return found
