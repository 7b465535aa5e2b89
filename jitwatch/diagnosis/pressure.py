"""Detects memory pressure: the memory of a device or of the machine is nearly full.

Memory rises and falls within a step, so pressure ends only after memory has stayed below a lower threshold for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jitwatch.model.events import MemoryPressure
from jitwatch.model.events.memory import State
from jitwatch.model.thresholds import LEVELS, THRESHOLDS, Level, Thresholds, level_above, worst

#: The `place` of the machine's memory; devices have their own names.
HOST = "host"


@dataclass(frozen=True, slots=True)
class Use:
    """Memory in use of a device or the host, and its limit, in bytes."""

    place: str
    in_use: int
    limit: int


@dataclass(frozen=True, slots=True)
class FullMemory:
    """A device or the host that is nearly full; bytes are None if the state does not have them."""

    place: str
    level: Level
    in_use_bytes: int | None = None
    limit_bytes: int | None = None


class Pressure:
    """The devices under memory pressure, the host included. Not thread-safe."""

    def __init__(self, thresholds: Thresholds = THRESHOLDS) -> None:
        self._thresholds = thresholds
        #: When each was last above the lower threshold, monotonic seconds.
        self._last_high: dict[str, float] = {}

    @property
    def active(self) -> list[str]:
        """Names of the devices under memory pressure, the host included."""
        return list(self._last_high)

    def sample(self, now: float, uses: list[Use]) -> list[MemoryPressure]:
        """Return events for the pressure that starts or ends with a sample; missing devices are forgotten."""
        known = {use.place for use in uses}
        self._last_high = {place: at for place, at in self._last_high.items() if place in known}
        return [event for use in uses if (event := self._check(now, use)) is not None]

    def _check(self, now: float, use: Use) -> MemoryPressure | None:
        if use.limit <= 0:
            return None
        limits = self._thresholds
        is_host = use.place == HOST
        start = limits.host_memory_warn_ratio if is_host else limits.device_memory_warn_ratio
        end = limits.host_memory_end_ratio if is_host else limits.device_memory_end_ratio
        ratio = use.in_use / use.limit
        since = self._last_high.get(use.place)
        state: State = "started"
        if ratio >= (start if since is None else end):
            self._last_high[use.place] = now
            if since is not None:
                return None
        elif since is not None and now - since >= limits.memory_end_s:
            del self._last_high[use.place]
            state = "ended"
        else:
            return None
        return MemoryPressure(
            place=use.place, state=state, in_use_bytes=use.in_use, limit_bytes=use.limit, ratio=round(ratio, 4)
        )


def memory_level(place: str, ratio: float, thresholds: Thresholds = THRESHOLDS) -> Level:
    """The level of a device or the host by the share of its memory that is in use."""
    if place == HOST:
        return level_above(ratio, warn=thresholds.host_memory_warn_ratio, bad=thresholds.host_memory_bad_ratio)
    return level_above(ratio, warn=thresholds.device_memory_warn_ratio, bad=thresholds.device_memory_bad_ratio)


def full_memory(memory: Mapping[str, Any]) -> list[FullMemory]:
    """The devices that are nearly full or still under pressure, the host included, from the state's `memory`."""
    found: dict[str, FullMemory] = {}
    under_pressure = memory.get("pressure", ())
    for use in uses_of(memory.get("devices", ()), memory.get("host")):
        under: Level = "warn" if use.place in under_pressure else "good"
        level = worst((memory_level(use.place, use.in_use / use.limit), under))
        if level != "good":
            found[use.place] = FullMemory(use.place, level, use.in_use, use.limit)
    return [*found.values(), *(FullMemory(place, "warn") for place in under_pressure if place not in found)]


def fullest(memory: Mapping[str, Any]) -> Use | None:
    """The fullest device, or the host if its level is worse; None if no device reports a limit."""
    uses = uses_of(memory.get("devices", ()), memory.get("host"))
    ratios = {one.place: one.in_use / one.limit for one in uses}
    devices = [one for one in uses if one.place != HOST]
    most = max(devices, key=lambda one: ratios[one.place], default=None)
    host = next((one for one in uses if one.place == HOST), None)
    level: Level = "good" if most is None else memory_level(most.place, ratios[most.place])
    if host is not None and LEVELS.index(memory_level(HOST, ratios[HOST])) < LEVELS.index(level):
        return host
    return most


def uses_of(devices: Iterable[Mapping[str, Any]], host: Mapping[str, Any] | None) -> list[Use]:
    """Memory in use of the devices that report both it and a limit, and of the host, from rows of the state."""
    found = [
        Use(row["device"], row["in_use_bytes"], row["limit_bytes"])
        for row in devices
        if row.get("stats_supported") and row.get("in_use_bytes") is not None and row.get("limit_bytes")
    ]
    if host and host.get("total_bytes"):
        found.append(Use(HOST, host["total_bytes"] - host["available_bytes"], host["total_bytes"]))
    return found
