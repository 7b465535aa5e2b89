"""Events about memory: samples, pressure, leaks, out-of-memory errors, memory of programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jitwatch.model.events.base import Event
from jitwatch.model.function import Function
from jitwatch.model.rows import ArraysRow, BufferRow, CompileRow, DeviceRow, ProgramRow

#: What can grow: values of the metric label `kind`, and `jit_cache`.
Growing = Literal["device", "live_arrays", "host", "jit_cache"]
#: What a leak was found to correlate with.
Cause = Literal["jit_cache", "live_arrays"]
State = Literal["started", "ended", "will_not_fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutableMeasured(Event):
    """Memory that a compiled program of a function needs on each device, in bytes. Emitted once for each program.

    Attributes:
        arguments, outputs, temporaries, code: Bytes of each kind.
        aliased: Bytes of outputs that share the buffers of donated arguments, counted in both.
        peak: The most that is needed at once, without code: the sum of XLA's allocations, or else the peak that XLA
            reports.
        flops: Floating-point operations of one call by XLA's estimate, where the backend reports them.
        bytes_accessed: Bytes that one call reads and writes by XLA's estimate, where the backend reports them.
        peak_buffers: The largest buffers that are alive at the peak, the largest first.
        buffers_unknown: Why there are no buffers, or what is missing.
    """

    kind: ClassVar[str] = "program.measured"
    optional: ClassVar[frozenset[str]] = frozenset(
        {"peak", "flops", "bytes_accessed", "peak_buffers", "buffers_unknown"}
    )
    renamed: ClassVar[Mapping[str, str]] = {
        "arguments": "argument_bytes",
        "outputs": "output_bytes",
        "temporaries": "temporary_bytes",
        "code": "code_bytes",
        "aliased": "aliased_bytes",
        "peak": "peak_bytes",
    }

    function: Function
    arguments: int
    outputs: int
    temporaries: int
    code: int
    aliased: int = 0
    peak: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    peak_buffers: tuple[BufferRow, ...] = ()
    buffers_unknown: str = ""

    @property
    def total(self) -> int:
        """Bytes that are in use while the program runs."""
        return self.arguments + self.outputs + self.temporaries + self.code - self.aliased


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySampled(Event):
    """A sample of memory, at most once a minute.

    Attributes:
        devices: A row for each device, as in the state.
        growth_bytes_per_second: Growth of each kind of memory for which it is known.
    """

    kind: ClassVar[str] = "memory.sample"

    devices: tuple[DeviceRow, ...]
    host_resident_bytes: int | None
    host_available_bytes: int | None
    growth_bytes_per_second: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure(Event):
    """Memory pressure: the memory of a device or of the machine is nearly full, or a program will not fit in it.

    Attributes:
        place: The device (`gpu:0`), or `host`.
        state: `started` and `ended`: the memory is nearly full, and no longer is. `will_not_fit`: a program that was
            compiled, but has not run yet, needs more memory than is left.
        in_use_bytes: Memory in use at the time of the event.
        limit_bytes: Limit of that memory.
        ratio: Memory in use as a share of the limit.
        function: Label of the function whose program will not fit.
        needed_bytes: Bytes that its program needs in addition to its arguments: temporaries, and outputs without those
            in donated arguments. If the program with its arguments exceeds the limit, all bytes that it needs.
        peak_buffers: The largest buffers of the program.
        message: The shortage in a sentence.
    """

    kind: ClassVar[str] = "memory.pressure"
    required: ClassVar[tuple[str, ...]] = ("place",)
    optional: ClassVar[frozenset[str]] = frozenset({"function", "needed_bytes", "peak_buffers", "message"})

    place: str
    state: State
    in_use_bytes: int
    limit_bytes: int
    ratio: float
    function: str | None = None
    needed_bytes: int | None = None
    peak_buffers: tuple[BufferRow, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLeak(Event):
    """Memory, or the number of entries in the jit caches, grows steadily. Reported once until it stops.

    Attributes:
        growing: The kind of memory, or `jit_cache` for the number of entries in the jit caches.
        bytes_per_second: Growth between steps, without single jumps.
        bytes: Bytes at the latest low point.
        window_s: Length of the window in which the growth was measured.
        cause: What grows with it.
        cache_entries_per_hour: Growth of the jit caches, if they grow.
        functions: The functions whose caches grew most.
        message: The leak in one or more sentences.
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
    """A call or a compile failed because memory ran out, with the memory in use at that time.

    Attributes:
        program: JAX's name of the program, `jit(train_step)`; empty if it is unknown.
        function: Label of the function, if it is one of the user's.
        call_site: `file:line` of the user's code.
        message: First line of the error.
        devices: A row for each device, as in the state.
        arrays: The largest live arrays, grouped by shape, dtype and sharding.
        live_arrays: Number of live arrays on the devices of this process.
        live_array_bytes: Bytes of these arrays.
        executables: The programs that need the most memory, one for each function.
        compiles: The last compiles, newest first.
        allocation_bytes: Bytes of the allocation that failed, if the error says so.
        peak_buffers: The largest buffers that the error lists; those that jitwatch has read are in `executables`.
    """

    kind: ClassVar[str] = "memory.oom"
    is_urgent: ClassVar[bool] = True
    optional: ClassVar[frozenset[str]] = frozenset({"allocation_bytes", "peak_buffers"})

    program: str
    function: str | None
    call_site: str | None
    message: str
    devices: tuple[DeviceRow, ...]
    arrays: tuple[ArraysRow, ...]
    live_arrays: int | None
    live_array_bytes: int | None
    executables: tuple[ProgramRow, ...]
    compiles: tuple[CompileRow, ...]
    allocation_bytes: int | None = None
    peak_buffers: tuple[BufferRow, ...] = ()
