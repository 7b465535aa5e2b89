"""The thresholds of levels: when a figure turns yellow or red on the page, in the health, on boards and in alerts.

A ratio is a share of 1. `warn` numbers turn yellow, `bad` numbers red; a figure that equals the number has reached it.
Below them, the limits of what is reported as a leak or a storm; recompile storms are also configured by the options
`storm_threshold` and `storm_window_s`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

Level = Literal["bad", "warn", "busy", "good"]
#: From the worst to the best.
LEVELS: Final[tuple[Level, ...]] = get_args(Level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The thresholds; the state has them under `thresholds`.

    Attributes:
        device_memory_warn_ratio: Memory in use of a device as a share of its limit: nearly full.
        device_memory_bad_ratio: The same: the next larger batch or program runs out of memory.
        device_memory_end_ratio: Memory pressure of a device ends below this share.
        host_memory_warn_ratio: Memory in use of the machine as a share of its total: nearly full.
        host_memory_bad_ratio: The same: the kernel is about to kill a process.
        host_memory_end_ratio: Memory pressure of the machine ends below this share.
        memory_end_s: Seconds for which memory must stay below that share before its pressure ends.
        memory_leak_floor_ratio: Memory in use from which on a forecast of its growth raises an alert.
        lost_warn_ratio: Lost seconds, of the process or of a function, as a share of the run.
        compile_busy_s: Seconds from which on a running compile is reported.
        compile_warn_s: Seconds from which on a running compile is a warning.
        compile_bad_s: Seconds from which on a running compile counts as stuck.
        busy_notice_ratio: Share of the whole run spent compiling, first compiles included, from which on it is
            reported; no warning, since a run begins with its compiles.
        busy_notice_s: Seconds spent compiling from which on that share is reported.
        busy_warn_ratio: Share of a recent time window spent compiling, for boards.
        busy_bad_ratio: The same, for boards and an alert.
        recompiles_warn_per_10m: Recompiles of a function within ten minutes, for boards.
        recompiles_bad_per_10m: The same, for boards and an alert.
        recompile_seconds_bad_per_10m: Compile seconds within ten minutes below which that alert stays silent: hits of
            the persistent cache cost little.
        cache_entries_warn: Entries of a function's jit caches, for boards and an alert.
        cache_growth_warn_per_h: Entries that a function's jit caches gain within an hour, for an alert.
        recent_s: Seconds for which the health reports a violation or that memory ran out.
        recent_recompiles_s: Seconds for which it reports a recompile.
    """

    device_memory_warn_ratio: float = 0.90
    device_memory_bad_ratio: float = 0.95
    device_memory_end_ratio: float = 0.85
    host_memory_warn_ratio: float = 0.95
    host_memory_bad_ratio: float = 0.98
    host_memory_end_ratio: float = 0.90
    memory_end_s: float = 300
    memory_leak_floor_ratio: float = 0.7
    lost_warn_ratio: float = 0.02
    compile_busy_s: float = 2
    compile_warn_s: float = 600
    compile_bad_s: float = 3600
    busy_notice_ratio: float = 0.3
    busy_notice_s: float = 1
    busy_warn_ratio: float = 0.1
    busy_bad_ratio: float = 0.5
    recompiles_warn_per_10m: int = 1
    recompiles_bad_per_10m: int = 10
    recompile_seconds_bad_per_10m: float = 30
    cache_entries_warn: int = 50
    cache_growth_warn_per_h: int = 20
    recent_s: float = 600
    recent_recompiles_s: float = 60

    def row(self) -> dict[str, float]:
        """The thresholds as the state has them."""
        return asdict(self)


THRESHOLDS: Final = Thresholds()

#: Steady growth of memory that is a leak: bytes within half an hour, two and a half hours, and twelve hours; at least
#: this share of the memory in use; and entries that the jit caches gain within half an hour.
LEAK_BYTES: Final = (32 << 20, 48 << 20, 64 << 20)
LEAK_RATIO: Final = 0.01
LEAK_CACHE_ENTRIES: Final = 20
#: Seconds after a function's first compile that count as start-up, and recompiles within these that start a storm.
STORM_STARTUP_S: Final = 60.0
STORM_STARTUP_RECOMPILES: Final = 20


def level_above(value: float, *, warn: float, bad: float) -> Level:
    """The level of a figure of which more is worse."""
    if value >= bad:
        return "bad"
    return "warn" if value >= warn else "good"


def worst(levels: Iterable[Level]) -> Level:
    """The worst of some levels; `good` for none."""
    return min(levels, key=LEVELS.index, default="good")
