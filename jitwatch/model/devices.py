"""Memory statistics of devices. Bytes are whole numbers, None where the backend reports none."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reading:
    """The raw memory statistics of a device of this process.

    Attributes:
        device: `platform:number`, the value of the metric label.
        kind: The model, such as `NVIDIA A100-SXM4-40GB`.
        platform: `cpu`, `gpu`, `tpu` …
        statistics: The backend's own names and values; None without statistics.
        problem: Why there are no statistics, if that is known.
    """

    device: str
    kind: str
    platform: str
    statistics: Mapping[str, Any] | None
    problem: str | None = None


#: Returns the readings of all devices, none while JAX has no backend.
Source = Callable[[], Iterable[Reading]]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory statistics of a device, the same for all backends.

    Attributes:
        in_use, peak, limit: Bytes that are allocated, the most so far, and the most that may be allocated.
        reserved: Bytes that the allocator holds, in use or not.
        largest_free_block: Size of the largest array that can be allocated without moving others.
        problem: Why there are no statistics.
    """

    device: str
    kind: str
    platform: str
    in_use: int | None = None
    peak: int | None = None
    limit: int | None = None
    reserved: int | None = None
    largest_free_block: int | None = None
    problem: str | None = None

    @property
    def is_supported(self) -> bool:
        """Whether the backend reports the memory in use."""
        return self.in_use is not None

    @property
    def ratio(self) -> float | None:
        """Share of the limit that is in use."""
        return self.in_use / self.limit if self.in_use is not None and self.limit else None


def normalized(reading: Reading) -> DeviceMemory:
    """Normalize a backend's statistics: keys may be missing, unset (-1), new or of another type."""
    statistics, problem = reading.statistics, reading.problem
    if statistics is not None and not isinstance(statistics, Mapping):
        statistics, problem = None, f"memory_stats() returned a {type(statistics).__name__}"
    values = statistics if statistics is not None else {}
    in_use, limit = _bytes(values, "bytes_in_use"), _positive(values, "bytes_limit", "bytes_reservable_limit")
    block = _bytes(values, "largest_free_block_bytes")
    if block == 0 and limit is not None and (in_use or 0) < limit:
        block = None  # XLA's allocator on GPUs always reports 0
    return DeviceMemory(
        device=reading.device,
        kind=reading.kind,
        platform=reading.platform,
        in_use=in_use,
        peak=_bytes(values, "peak_bytes_in_use"),
        limit=limit,
        # On GPUs the pool is what the allocator got from the driver; other backends have no pool.
        reserved=_positive(values, "pool_bytes") or _bytes(values, "bytes_reserved"),
        largest_free_block=block,
        problem=problem,
    )


def _bytes(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Integral):
        value = int(value)  # numpy's integers as well
    return int(value) if isinstance(value, (int, float)) and 0 <= value < float("inf") else None


def _positive(values: Mapping[str, Any], *keys: str) -> int | None:
    return next((found for key in keys if (found := _bytes(values, key))), None)
