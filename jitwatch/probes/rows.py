"""Memory as rows and series: one row per device, from its statistics and the live arrays on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitwatch.jaxhooks.memory.device_memory import HOST, LiveArrays
from jitwatch.model.devices import DeviceMemory, Reading, normalized
from jitwatch.model.rows import DeviceRow
from jitwatch.state.schema import HostRow
from jitwatch.state.tables import LabelValues

#: Name of the metric for each key of a row.
_GAUGES = {
    "in_use_bytes": "device_memory_in_use_bytes",
    "peak_bytes": "device_memory_peak_bytes",
    "limit_bytes": "device_memory_limit_bytes",
    "reserved_bytes": "device_memory_reserved_bytes",
    "largest_free_block_bytes": "device_memory_largest_free_block_bytes",
    "stats_supported": "device_memory_stats_supported",
    "live_arrays": "live_arrays",
    "live_array_bytes": "live_array_bytes",
}
_OF_ARRAYS = ("live_arrays", "live_array_bytes")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Host memory in bytes: resident of this process, available and total of the machine."""

    resident: int
    available: int
    total: int

    def row(self) -> HostRow:
        """The memory as a part of the state."""
        return {"resident_bytes": self.resident, "available_bytes": self.available, "total_bytes": self.total}


def host_memory() -> HostMemory | None:
    """Read the host's memory; None without psutil. The first call takes 50 ms, for the import."""
    try:
        import psutil
    except ImportError:
        return None
    machine = psutil.virtual_memory()
    return HostMemory(psutil.Process().memory_info().rss, machine.available, machine.total)


def rows_of(readings: Sequence[Reading], found: LiveArrays | None) -> list[DeviceRow]:
    """A row for each device that responded, and for the host or another backend if it holds arrays.

    `found` has the live arrays, if they were counted.
    """
    known = [normalized(reading) for reading in readings]
    others = sorted(set(found.count) - {one.device for one in known}) if found is not None else []
    known += [DeviceMemory(device=name, kind="", platform=name.partition(":")[0]) for name in others]
    return [_row(one, found) for one in known]


def series_of(table: list[DeviceRow]) -> dict[str, dict[LabelValues, float]]:
    """The series of all metrics about devices; an unknown value has none."""
    series: dict[str, dict[LabelValues, float]] = {}
    for key, metric in _GAUGES.items():
        # The host is not a device: only the arrays on it are shown.
        values = {row["device"]: row.get(key) for row in table if row["device"] != HOST or key in _OF_ARRAYS}
        series[metric] = {(name,): float(value) for name, value in values.items() if isinstance(value, (int, float))}
    series["device"] = {
        (row["device"], row["device_kind"], row["platform"]): 1.0 for row in table if row["device"] != HOST
    }
    return series


def _row(device: DeviceMemory, found: LiveArrays | None) -> DeviceRow:
    name = device.device
    count = found.count.get(name, 0) if found is not None else None
    size = found.bytes.get(name, 0) if found is not None else None
    return {
        "device": name,
        "device_kind": device.kind,
        "platform": device.platform,
        "stats_supported": device.is_supported,
        "in_use_bytes": device.in_use if device.is_supported else size,
        "in_use_from": "device" if device.is_supported else "live arrays",
        "peak_bytes": device.peak,
        "limit_bytes": device.limit,
        "in_use_ratio": device.ratio,
        "reserved_bytes": device.reserved,
        "largest_free_block_bytes": device.largest_free_block,
        "live_arrays": count,
        "live_array_bytes": size,
        "problem": device.problem,
    }
