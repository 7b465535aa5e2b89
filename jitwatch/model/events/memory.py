"""Events about memory: samples, pressure, leaks, out-of-memory errors, what programs need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jitwatch.model.events.base import Event
from jitwatch.model.function import Function

#: What memory can grow in, the values of the metric label `kind`.
Growing = Literal["device", "live_arrays", "host", "jit_cache"]
#: What a growth was found to go with.
Cause = Literal["jit_cache", "live_arrays"]
State = Literal["started", "ended"]


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
    required: ClassVar[tuple[str, ...]] = ("place",)

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
    required: ClassVar[tuple[str, ...]] = ("growing",)
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
