"""Facts about memory: what devices say of theirs, what programs need, and the events about it.

Plain data, as in `events`; bytes are whole numbers, None where nobody told.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jitwatch.events import Event, Function

#: What memory can grow in, the values of the metric label `kind`.
Growing = Literal["device", "live_arrays", "host", "jit_cache"]
#: What a growth was found to go with.
Cause = Literal["jit_cache", "live_arrays"]
State = Literal["started", "ended"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device of this process answered when it was asked for its memory statistics.

    Attributes:
        device: `platform:number`, the value of the metric label.
        kind: The model, as `NVIDIA A100-SXM4-40GB`.
        platform: `cpu`, `gpu`, `tpu` …
        statistics: The backend's own names and values; None where it has none.
        problem: Why it gave none, if that is known.
    """

    device: str
    kind: str
    platform: str
    statistics: Mapping[str, Any] | None
    problem: str | None = None


#: Gives the readings of all devices, one by one, and none while JAX has no backend.
Source = Callable[[], Iterable[Reading]]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A reading in our words.

    Attributes:
        in_use, peak, limit: Bytes that the allocator has handed out, the most so far, and what it may use.
        reserved: Bytes that it holds or has set aside, whoever uses them.
        largest_free_block: The largest array that still fits without moving others.
        problem: Why there are no statistics, in short.
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
        """Whether the backend told what is in use."""
        return self.in_use is not None

    @property
    def ratio(self) -> float | None:
        """Share of the limit that is in use."""
        return self.in_use / self.limit if self.in_use is not None and self.limit else None


def understand(reading: Reading) -> DeviceMemory:
    """Read a backend's statistics: keys may be missing, unset (-1), new or of another type."""
    told = reading.statistics
    problem = reading.problem
    if told is not None and not isinstance(told, Mapping):
        told, problem = None, f"memory_stats() gave a {type(told).__name__}"
    values = told if told is not None else {}
    in_use, limit = _bytes(values, "bytes_in_use"), _positive(values, "bytes_limit", "bytes_reservable_limit")
    block = _bytes(values, "largest_free_block_bytes")
    if block == 0 and limit is not None and (in_use or 0) < limit:
        block = None  # XLA's allocator on GPUs always says 0
    return DeviceMemory(
        device=reading.device,
        kind=reading.kind,
        platform=reading.platform,
        in_use=in_use,
        peak=_bytes(values, "peak_bytes_in_use"),
        limit=limit,
        # On GPUs the pool is what was taken from the driver; elsewhere there is none.
        reserved=_positive(values, "pool_bytes") or _bytes(values, "bytes_reserved"),
        largest_free_block=block,
        problem=problem,
    )


def _bytes(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Integral):
        value = int(value)  # numpy's are registered as such
    return int(value) if isinstance(value, (int, float)) and 0 <= value < float("inf") else None


def _positive(values: Mapping[str, Any], *keys: str) -> int | None:
    return next((found for key in keys if (found := _bytes(values, key))), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutableMeasured(Event):
    """What a compiled program of a function needs on each device; counted, not logged.

    Attributes:
        aliased: Bytes of outputs that lie in donated arguments, counted in both.
        peak: The most that is needed at once, where XLA tells (JAX 0.7 and later).
        flops: Floating-point operations of one call by XLA's estimate, where the backend tells.
    """

    function: Function
    arguments: int
    outputs: int
    temporaries: int
    code: int
    aliased: int = 0
    peak: int | None = None
    flops: float | None = None

    @property
    def total(self) -> int:
        """Bytes that have to be there while it runs."""
        return self.arguments + self.outputs + self.temporaries + self.code - self.aliased


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySampled(Event):
    """Where the memory is, now and then.

    Attributes:
        devices: A row for each device, as in the state.
        growth_bytes_per_second: The slope of each kind that has one by now.
    """

    kind: ClassVar[str] = "memory.sample"

    devices: tuple[dict[str, Any], ...]
    host_resident_bytes: int | None
    host_available_bytes: int | None
    growth_bytes_per_second: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure(Event):
    """A device, or the machine, is nearly full; or is so no longer.

    Attributes:
        place: The device (`gpu:0`), or `host`.
        in_use_bytes, limit_bytes: At the moment of the event.
        ratio: One by the other.
    """

    kind: ClassVar[str] = "memory.pressure"

    place: str
    state: State
    in_use_bytes: int
    limit_bytes: int
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLeak(Event):
    """Memory, or what the jit caches hold, has been growing for a while and goes on; told once until it stops.

    Attributes:
        growing: Which memory, or `jit_cache`, whose entries are counted and not weighed.
        bytes_per_second: How fast, saw-tooth of steps and single jumps left out.
        bytes: How much there was at the low points of late.
        window_s: How long it was looked at.
        cause: What grows with it.
        cache_entries_per_hour: By how much the jit caches grow, where they do.
        functions: Those whose caches grew most.
        message: All of that in a sentence or two.
    """

    kind: ClassVar[str] = "memory.leak"
    optional: ClassVar[frozenset[str]] = frozenset(
        {"bytes_per_second", "bytes", "cause", "cache_entries_per_hour", "functions"}
    )

    growing: Growing
    bytes_per_second: float | None = None
    bytes: int | None = None
    window_s: float
    cause: Cause | None = None
    cache_entries_per_hour: float | None = None
    functions: tuple[str, ...] = ()
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory(Event):
    """A call or a compile ended since memory ran out: what was there at that moment.

    Attributes:
        program: JAX's name for what was running, `jit(train_step)`; empty where nobody knows.
        function: Label of the function, if it is one of the job's.
        call_site: `file:line` of the user's code.
        message: First line of the error.
        devices: A row for each device, as in the state.
        arrays: The largest live arrays, alike ones together.
        live_arrays, live_array_bytes: All of them, on the devices of this process.
        executables: The functions whose programs need most.
        compiles: The last compiles, newest first.
    """

    kind: ClassVar[str] = "memory.oom"
    is_urgent: ClassVar[bool] = True

    program: str
    function: str | None
    call_site: str | None
    message: str
    devices: tuple[dict[str, Any], ...]
    arrays: tuple[dict[str, Any], ...]
    live_arrays: int | None
    live_array_bytes: int | None
    executables: tuple[dict[str, Any], ...]
    compiles: tuple[dict[str, Any], ...]
