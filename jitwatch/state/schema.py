"""The types of the state: rows with their fields, as `/api/v1/state`, the page, `top` and the report show them.

The rows are JSON objects. Names end in their unit: `_seconds` (monotonic), `_time` and `last_call` (Unix seconds),
`_bytes`, `_ratio` (0 to 1). An unknown value is None.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from jitwatch.model.rows import DeviceRow, HotLineRow, ProgramRow, XlaPassRow


class LossRow(TypedDict):
    """Lost seconds, in relation to the wall clock, steps and calls.

    Attributes:
        lost_ratio: Lost seconds as a share of the wall clock.
        lost_steps: Number of mean training steps that take as long; None if the job reports no steps.
        lost_seconds_since_steady, lost_ratio_since_steady: Seconds of the compiles that violated the steady state, and
            their share of the time since it began.
        lost_calls: Number of calls of the function that take as long; None where its calls are not counted.
    """

    lost_seconds: float
    lost_ratio: float
    lost_steps: float | None
    lost_seconds_since_steady: float
    lost_ratio_since_steady: float | None
    lost_calls: NotRequired[float | None]


class CostRow(LossRow):
    """Number and lost seconds of the recompiles of a pitfall or a call site."""

    recompiles: int


class FunctionRow(LossRow):
    """One function.

    Attributes:
        function: Its label.
        shown_as: Its value of the metric label `function`.
        location: `file:line` of its definition.
        wrappers: Number of calls of `jax.jit` with its code.
        causes, pitfalls, donation_violations: Counts by cause, pitfall and kind.
        calls, last_call: Number of calls, and Unix time at which new ones were last found; None where calls are not
            counted.
        donation_opportunity_bytes: Bytes that a call would save by donating.
        seconds, phases: Seconds of all compiles, in total and by phase.
        cache_entries: Entries of its jit caches.
        captured_constant_bytes: Bytes of large arrays that are constants of a program of the function.
        executable: Its program that needs most memory.
        trace_hot_lines: The lines in which its longest sampled trace and lowering spent their time.
        traced_seconds: Seconds of these; None without samples.
        xla_passes: XLA's phases and passes in its longest profiled compile.
        profiled_seconds, autotuning_seconds: Profiled seconds of that compile, and the part for autotuning; None
            without a profile.
    """

    function: str
    shown_as: str
    location: str | None
    compiles: int
    recompiles: int
    failures: int
    wrappers: int
    storms: int
    is_in_storm: bool
    steady_violations: int
    causes: dict[str, int]
    pitfalls: dict[str, int]
    calls: int | None
    last_call: float | None
    donation_violations: dict[str, int]
    donation_opportunity_bytes: int | None
    seconds: float
    phases: dict[str, float]
    captured_constant_bytes: int
    executable: ProgramRow | None
    cache_entries: int | None
    trace_hot_lines: list[HotLineRow]
    traced_seconds: float | None
    xla_passes: list[XlaPassRow]
    profiled_seconds: float | None
    autotuning_seconds: float | None


class CallSiteRow(CostRow):
    """Recompiles of one function from one call site with the same causes and changes.

    Attributes:
        paths: The arguments, options or settings that changed.
        last_time: Unix time of the last recompile.
        reason, advice, explanation: Of the last recompile that was not expected.
        pitfall: The pitfall that they show.
    """

    call_site: str | None
    function: str
    causes: list[str]
    paths: list[str]
    last_time: float | None
    reason: str
    advice: str
    explanation: str
    pitfall: str | None


class PitfallRow(CostRow):
    """A pitfall: the record of the event `jit.pitfall`, and its cost so far.

    Attributes:
        lost_s: Lost seconds of the function when the pitfall was reported.
    """

    timestamp: str
    seq: int
    step: NotRequired[int]
    function: str
    name: str
    location: str | None
    call_site: str | None
    pitfall: str
    subject: str
    message: str
    advice: str
    lost_s: float


class TotalsRow(LossRow):
    """Sums over all functions.

    Attributes:
        jax_compiles, jax_compile_seconds: Of JAX's own programs; of the other sums only `pitfalls` includes them.
        busy_seconds, busy_ratio: Wall clock in which at least one thread compiled, and its share.
    """

    compiles: int
    recompiles: int
    failures: int
    compile_seconds: float
    storms: int
    steady_violations: int
    pitfalls: int
    donation_violations: int
    storms_active: int
    jax_compiles: int
    jax_compile_seconds: float
    busy_seconds: float
    busy_ratio: float


class RunningRow(TypedDict):
    """A compile in progress.

    Attributes:
        for_s: Seconds since its phase began.
        is_again: Whether the function has compiled before.
    """

    function: str
    phase: str
    for_s: float
    thread: str
    is_again: NotRequired[bool]


class LiveArraysRow(TypedDict):
    """All live arrays, and what counting them cost.

    Attributes:
        age_seconds: Seconds since they were counted.
        cost_seconds, stall_seconds: CPU time of the count, and the part of it in which no other thread ran.
    """

    count: int
    bytes: int
    age_seconds: float
    cost_seconds: float
    stall_seconds: float


class HostRow(TypedDict):
    """Host memory: resident of this process, available and total of the machine."""

    resident_bytes: int
    available_bytes: int
    total_bytes: int


class MemoryRow(TypedDict, total=False):
    """The part `memory`; empty until the first sample.

    Attributes:
        devices: A row for each device of this process, and for the host if arrays are on it; answers of the endpoint
            add a `level` to each.
        live_arrays, host: None until they were read.
        growth_bytes_per_second: Growth by kind of memory.
        growth_cache_entries_per_hour: Growth of the jit caches.
        leaks: Kinds of memory that leak.
        pressure: Devices, or `host`, whose memory is nearly full.
        executables: The programs that need most memory, one a function.
        notes, fullest: In live answers: notes in words, and the device or host that is fullest.
    """

    devices: list[DeviceRow]
    live_arrays: LiveArraysRow | None
    host: HostRow | None
    growth_bytes_per_second: dict[str, float]
    growth_cache_entries_per_hour: float | None
    leaks: list[str]
    pressure: list[str]
    executables: list[ProgramRow]
    notes: list[dict[str, Any]]
    fullest: dict[str, Any] | None


class Present(TypedDict):
    """The current figures, without rows of functions.

    Attributes:
        process_index: Index of this process; None until JAX knows it.
        time, start_time_seconds: Unix time of the answer, and of the installation.
        uptime_seconds, busy_seconds, steady_seconds: Seconds since the installation; of compiling; since the steady
            state began.
        step: Number of training steps; None if the job reports none.
        functions_known: Number of functions.
        storms: Labels of the functions in a storm.
    """

    run: str
    process_index: int | None
    time: float
    start_time_seconds: float
    uptime_seconds: float
    busy_seconds: float
    steady_seconds: float | None
    mean_step_seconds: float | None
    step: int | None
    in_progress: list[RunningRow]
    totals: TotalsRow
    functions_known: int
    storms: list[str]


class State(Present):
    """The whole state. Each signal of `state.signals` adds a key of its own."""

    schema: int
    last_seq: int
    functions: list[FunctionRow]
    call_sites: list[CallSiteRow]
    pitfalls: list[PitfallRow]
    persistent_cache: dict[str, Any]
    memory: MemoryRow
    metrics: dict[str, list[dict[str, Any]]]


#: A state, or a JSON object with the same keys: a report's document, the answer of another process.
StateLike = State | dict[str, Any]
CallSiteLike = CallSiteRow | dict[str, Any]
