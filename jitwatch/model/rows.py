"""Rows that events and the state share, as JSON objects. Bytes are whole numbers; None where a value is unknown."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class DeviceRow(TypedDict):
    """Memory of a device, or of the arrays on the host.

    Attributes:
        device: `platform:number`, or `host`.
        device_kind: The model, such as `NVIDIA A100-SXM4-40GB`.
        platform: `cpu`, `gpu`, `tpu` …
        stats_supported: Whether the backend reports the memory in use.
        in_use_bytes: Bytes in use: of the device's statistics, or else of its live arrays.
        in_use_from: Which of both, `device` or `live arrays`.
        peak_bytes, limit_bytes: The most in use so far; the most that may be allocated.
        in_use_ratio: Share of the limit that is in use.
        reserved_bytes: Bytes that the allocator holds, in use or not.
        largest_free_block_bytes: Size of the largest array that can be allocated without moving others.
        live_arrays, live_array_bytes: Number of live arrays on the device, and their bytes.
        problem: Why there are no statistics.
    """

    device: str
    device_kind: str
    platform: str
    stats_supported: bool
    in_use_bytes: int | None
    in_use_from: str
    peak_bytes: int | None
    limit_bytes: int | None
    in_use_ratio: float | None
    reserved_bytes: int | None
    largest_free_block_bytes: int | None
    live_arrays: int | None
    live_array_bytes: int | None
    problem: str | None


class BufferRow(TypedDict):
    """A buffer that is alive at the peak of a program.

    Attributes:
        shape: Its element type and dimensions, `f32[8192,50304]`; empty if they are not known.
        op: JAX's name of the operation that produces it, `jit(f)/jvp()/dot_general`; `argument state['w']`, `constant`;
            `output` or `temporary` if it has no name.
        call_site: `file:line` of the source of that operation, if it has one.
        share: Its share of the peak, if that is known.
    """

    bytes: int
    shape: str
    op: str
    call_site: NotRequired[str]
    share: NotRequired[float]


class ProgramRow(TypedDict):
    """Memory of a program on each device.

    Attributes:
        aliased_bytes: Outputs that share the buffers of donated arguments, counted in both.
        peak_bytes: The most that is needed at once, without code, if it is known.
        flops: Floating-point operations of one call by XLA's estimate.
        bytes_accessed: Bytes that one call reads and writes by XLA's estimate.
        peak_buffers: The largest buffers at the peak, the largest first.
        buffers_unknown: Why there are no buffers, or what is missing; absent if nothing is.
    """

    function: str
    total_bytes: int
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    code_bytes: int
    aliased_bytes: int
    peak_bytes: int | None
    flops: float | None
    bytes_accessed: float | None
    peak_buffers: NotRequired[list[BufferRow]]
    buffers_unknown: NotRequired[str]


class ArraysRow(TypedDict):
    """Live arrays with equal shape, dtype and placement.

    Attributes:
        bytes: Bytes of all of them.
    """

    shape: list[int]
    dtype: str
    sharding: str
    devices: str
    count: int
    bytes: int


class CompileRow(TypedDict):
    """A compile shortly before memory ran out: fields of its record."""

    timestamp: str
    event: str
    function: str
    call_site: NotRequired[str | None]
    compile_s: float
    causes: NotRequired[list[str]]


#: Parts of JAX in which long traces and lowerings spend time; used instead of a call site.
JAXPR, RULES, CONVERSION = "JAX: jaxpr tracing", "JAX: lowering rules", "JAX: conversion to StableHLO"
OTHER_CODE = "JAX: other code"
JAX_PARTS = (JAXPR, RULES, CONVERSION, OTHER_CODE)


class HotLineRow(TypedDict):
    """A line in which a long trace or lowering spent its seconds.

    Attributes:
        call_site: `file:line` of the user's code, or the part of JAX, such as `JAX: lowering rules`.
        seconds: Seconds of the samples in that line, including everything that it calls.
        share: Their share of all samples.
        is_in_loop: Whether the line is in a Python loop of its function.
    """

    call_site: str
    seconds: float
    share: float
    is_in_loop: NotRequired[bool]


class XlaPassRow(TypedDict):
    """A phase or pass of XLA in a profiled compile, without those nested in it.

    Attributes:
        name: XLA's name; `other` for all that have no row.
        phase: Its phase of XLA: `HLO passes`, `code generation`, `autotuning` or `other`.
        seconds: Its part of the wall-clock time.
        share: Its share of all rows.
    """

    name: str
    phase: str
    seconds: float
    share: float


class FunctionSummaryRow(TypedDict):
    """A function with many compile seconds, in the summary of a run."""

    function: str
    location: str | None
    compiles: int
    recompiles: int
    seconds: float
    lost_seconds: float
    lost_ratio: float
    lost_steps: float | None
    lost_calls: NotRequired[float | None]
    causes: dict[str, int]


class PitfallSummaryRow(TypedDict):
    """A pitfall in the summary of a run.

    Attributes:
        lost_s: Its lost seconds.
    """

    function: str
    name: str
    location: str | None
    call_site: str | None
    pitfall: str
    subject: str
    message: str
    advice: str
    lost_s: float
