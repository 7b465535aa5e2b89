"""The board of one function: causes, cost, programs, cache, donation, memory."""

from __future__ import annotations

from dashboards.source.board import Board, Row
from dashboards.source.common import FUNCTION_VARIABLE, OF_FUNCTION, VARIABLES, marks
from dashboards.source.panels import Column, bars, lines, stat, table, timeline, worst
from dashboards.source.queries import RATE, or_zero, rise, select, storms
from dashboards.source.settings import (
    BYTES,
    BYTES_PER_SECOND,
    ENTRIES,
    FLOPS,
    FUNCTION,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    PER_SECOND,
    PROCESS,
    RECOMPILES,
    SECONDS,
    WHEN,
)
from jitwatch.model.thresholds import THRESHOLDS


def _of(metric: str) -> str:
    return select(metric, OF_FUNCTION)


def _each(metric: str, how: str = "sum") -> str:
    """A value of each selected function, of at most 50."""
    return f"topk(50, {how} by (function) ({_of(metric)}))"


_NO_COMPILE = "the function has not compiled"
_NO_DONOR = "the function does not donate"
_WORK = (
    f"sum by (function) (rate({_of('calls_total')}{RATE}) * on ({PROCESS}, function) "
    f"sum by ({PROCESS}, function) ({_of('executable_flops')}))"
)

_NOW = Row(
    panels=(
        stat(
            "Recompiles",
            "Second and later compiles since the start. If the number grows with the steps, see 'Recompiles by cause'.",
            f"sum({_of('recompiles_total')})",
            steps=RECOMPILES,
            no_value=_NO_COMPILE,
        ),
        stat(
            "Compile time",
            "Seconds spent tracing, lowering and compiling since the start, summed over all processes.",
            f"sum({_of('compile_seconds_total')})",
            unit=SECONDS,
            no_value=_NO_COMPILE,
        ),
        stat(
            "In a storm",
            "1 if the function is in a recompile storm now, in any process; else 0.",
            f"max({_of('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
            no_value=_NO_COMPILE,
        ),
        stat(
            "Donation violations",
            "Uses after donation, double donations and unusable donations since the start.",
            or_zero(f"sum({_of('donation_violations_total')})"),
            steps=NONE_IS_GOOD,
        ),
        bars(
            "Recompiles by cause, over time",
            "Recompiles in each interval by cause. If there are bars in every interval, a value is new in each call. "
            "The event `jit.recompiled` has the changed arguments and the call site.",
            (f"{rise('recompile_causes_total', 'cause', OF_FUNCTION)} > 0", "{{cause}}"),
            of=_of("recompile_causes_total"),
            none="no recompile in this time range",
        ),
        worst(
            "Recompiles by cause",
            "Recompiles since the start by cause. shape: pad to a few sizes. static_arg: pass it as an array. "
            "new_function: call jax.jit once. dtype, weak_type: convert before the loop. sharding, committed: use "
            "jax.device_put before the first step.",
            f"sum by (cause) ({_of('recompile_causes_total')}) > 0",
            "cause",
            steps=RECOMPILES,
            width=6,
            height=7,
            none="no recompile",
        ),
        table(
            "Pitfalls",
            "Pitfalls found in the function. The event `jit.pitfall` has the call site, the lost seconds and the "
            "advice.",
            Column("Pitfall", label="pitfall", width=200),
            Column("Times", f"topk(50, sum by (pitfall) ({_of('pitfalls_total')}) > 0)", steps=NONE_IS_FINE),
            sort_by="Times",
            none="no pitfall",
            width=6,
            height=7,
        ),
        table(
            "In numbers",
            "One row for each selected function; totals since the start, over all processes. Opportunity: bytes that "
            "a call would save by donating an argument that the caller drops. Captured: bytes of arrays of 1 MiB or "
            "more that are constants of the program; pass them as arguments. Operations: floating-point operations, as "
            "estimated by XLA. Last call: only of functions that donate.",
            Column("Function", label="function", width=280),
            Column("Compiles", _each("compiles_total")),
            Column("Failed", _each("compile_failures_total"), steps=NONE_IS_FINE),
            Column("Steady violations", _each("steady_violations_total"), steps=NONE_IS_GOOD, width=140),
            Column("Opportunity", _each("donation_opportunity_bytes", "max"), unit=BYTES, width=110),
            Column("Unusable", _each("donation_wasted_bytes_total"), unit=BYTES, steps=NONE_IS_FINE),
            Column("Captured", _each("captured_constant_bytes", "max"), unit=BYTES, steps=NONE_IS_FINE),
            Column("Operations of a call", _each("executable_flops", "max"), width=160),
            Column("Operations/s", f"topk(50, {_WORK})", unit=FLOPS, width=120),
            Column("Calls/s", f"topk(50, sum by (function) (rate({_of('calls_total')}{RATE})))", unit=PER_SECOND),
            Column(
                "Last call",
                f"1000 * topk(50, max by (function) ({_of('last_call_timestamp_seconds')}))",
                unit=WHEN,
                width=130,
            ),
            sort_by="Compiles",
            none=_NO_COMPILE,
            height=5,
        ),
    ),
)

_COST = Row(
    title="Cost and cache",
    is_collapsed=False,
    panels=(
        bars(
            "Compile time, over time",
            "Seconds spent tracing, lowering and compiling in each interval, by function. A phase is counted when it "
            "ends. 'Compiling, by process' on the job dashboard includes compiles in progress.",
            (f"topk(10, {rise('compile_seconds_total', 'function', OF_FUNCTION)} > 0)", "{{function}}"),
            of=_of("compile_seconds_total"),
            none="no compile in this time range",
            unit=SECONDS,
            width=8,
        ),
        lines(
            "Compiles, by process",
            "Compiles since each process started, of the five processes with the most and the five with the fewest. If "
            "the lines differ, the processes run different programs.",
            (f"topk(5, sum by (instance) ({_of('compiles_total')}))", "{{instance}}"),
            (f"bottomk(5, sum by (instance) ({_of('compiles_total')}))", "{{instance}} (fewest)"),
            of=_of("compiles_total"),
            none=_NO_COMPILE,
            width=8,
        ),
        timeline(
            "Storms, by process",
            "Red: the function is in a recompile storm. Within a run all processes should have the same storms.",
            storms("instance", OF_FUNCTION),
            "{{instance}}",
            of=_of("recompile_storms_total"),
            none=_NO_COMPILE,
            on="storm",
            off="no storm",
            width=8,
            height=7,
        ),
        lines(
            "Cache entries, by process",
            "Entries in the jit caches of the function: one for each signature, and further ones for numpy or "
            f"committed arguments. If the number keeps growing above {THRESHOLDS.cache_entries_warn}, signatures do "
            "not repeat.",
            (f"topk(10, sum by (instance) ({_of('jit_cache_entries')}))", "{{instance}}"),
            of=_of("jit_cache_entries"),
            none=_NO_COMPILE,
            steps=ENTRIES,
            width=8,
        ),
        lines(
            "Calls of jax.jit",
            "Calls of `jax.jit` with the code of the function, in the process with the most. If the number keeps "
            "growing, jax.jit is called in a loop.",
            (f"topk(10, max by (function) ({_of('jit_wrappers_total')}))", "{{function}}"),
            of=_of("jit_wrappers_total"),
            none="the function is not jitted",
            width=8,
        ),
        lines(
            "Largest program, by kind",
            "Memory per device of the largest program: arguments, outputs, temporaries, code. If temporaries are much "
            "larger than the rest, use rematerialization (`jax.checkpoint`) or a smaller batch.",
            (f"max by (kind) ({_of('executable_memory_bytes')})", "{{kind}}"),
            of=_of("executable_memory_bytes"),
            none="no program yet",
            unit=BYTES,
            width=8,
        ),
    ),
)

_DONATION = Row(
    title="Donation",
    is_collapsed=False,
    panels=(
        bars(
            "Donation violations, by kind",
            "use_after_donate: a donated array was used. double_donation: a buffer was passed twice to a call that "
            "donates it. unusable: XLA could not reuse the buffer.",
            (f"{rise('donation_violations_total', 'kind', OF_FUNCTION)} > 0", "{{kind}}"),
            of=_of("donation_violations_total"),
            none="no violation in this time range",
        ),
        lines(
            "Donated bytes",
            "Bytes per second that calls of the function donate, in all processes.",
            (f"sum(rate({_of('donated_bytes_total')}{RATE}))", "donated"),
            of=_of("donated_bytes_total"),
            none=_NO_DONOR,
            unit=BYTES_PER_SECOND,
        ),
    ),
)

BOARD = Board(
    uid=FUNCTION,
    title="jitwatch / function",
    description="One jitted function: why it recompiles, what that costs, its cache, donation and memory.",
    variables=(*VARIABLES, FUNCTION_VARIABLE),
    annotations=marks(by=PROCESS),
    rows=(_NOW, _COST, _DONATION),
)
