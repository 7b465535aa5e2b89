"""The dashboard of one function: causes, cost, cache, donation, memory."""

from __future__ import annotations

from dashboards.source.common import FUNCTION_VARIABLE, OF_FUNCTION, VARIABLES, marks
from dashboards.source.model import Board, Row
from dashboards.source.panels import Column, series, stat, table, timeline, worst
from dashboards.source.queries import RATE, rise, select, storms
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


_COMPILE_SECONDS = f"sum(increase({_of('compile_seconds_total')}[$__range]))"
_COMPILES = f"sum(increase({_of('compiles_total')}[$__range]))"

_OVERVIEW = Row(
    title="Overview",
    panels=(
        stat(
            "Compiles",
            "Compiles since the start, summed over the selected processes. One for each signature and process is "
            "normal.",
            f"sum({_of('compiles_total')})",
        ),
        stat(
            "Recompiles",
            "Second and later compiles since the start. If the number grows with the steps, see 'Recompiles by cause'.",
            f"sum({_of('recompiles_total')})",
            steps=RECOMPILES,
        ),
        stat(
            "Compile time",
            "Seconds spent tracing, lowering and compiling since the start, summed over all processes.",
            f"sum({_of('compile_seconds_total')})",
            unit=SECONDS,
        ),
        stat(
            "Mean compile duration",
            "Mean duration of a compile in this time range.",
            f"{_COMPILE_SECONDS} / ({_COMPILES} > 0)",
            unit=SECONDS,
            no_value="no compile",
        ),
        stat(
            "In a storm",
            "1 if the function is in a recompile storm now, in any process; else 0.",
            f"max({_of('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Failed compiles",
            "Compiles that failed with an exception. If they repeat, the job retries a program that cannot be "
            "compiled.",
            f"sum({_of('compile_failures_total')})",
            steps=NONE_IS_FINE,
        ),
        stat(
            "Donation violations",
            "Uses after donation, double donations and unusable donations since the start.",
            f"sum({_of('donation_violations_total')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Steady-state violations",
            "Compiles of the function in the steady state, after `jitwatch.steady()`.",
            f"sum({_of('steady_violations_total')})",
            steps=NONE_IS_GOOD,
        ),
    ),
)

_CAUSES = Row(
    title="Causes",
    panels=(
        series(
            "Recompiles by cause, over time",
            "Recompiles in each interval by cause. If there are bars in every interval, a value is new in each call. "
            "The event `jit.recompiled` has the changed arguments and the call site.",
            (f"{rise('recompile_causes_total', 'cause', OF_FUNCTION)} > 0", "{{cause}}"),
            as_bars=True,
            no_value="no recompile in this time range",
        ),
        worst(
            "Recompiles by cause",
            "Recompiles since the start by cause. shape: pad to a few sizes. static_arg: pass it as an array. "
            "new_function: call jax.jit once. dtype, weak_type: convert before the loop. sharding, committed: use "
            "jax.device_put before the first step.",
            f"sum by (cause) ({_of('recompile_causes_total')})",
            "{{cause}}",
            steps=RECOMPILES,
            width=6,
            no_value="no recompile",
        ),
        table(
            "Pitfalls",
            "Pitfalls found in the function. The event `jit.pitfall` has the call site, the lost seconds and the "
            "advice.",
            Column("Pitfall", label="pitfall"),
            Column("Pitfalls", f"topk(50, sum by (function, pitfall) ({_of('pitfalls_total')}))", steps=NONE_IS_FINE),
            Column("Function", label="function"),
            sort_by="Pitfalls",
            width=6,
            height=8,
            no_value="",
        ),
        timeline(
            "Storms, by process",
            "Red: the function is in a recompile storm. Within a run all processes should have the same storms.",
            storms("instance", OF_FUNCTION),
            "{{instance}}",
            on="storm",
            off="no storm",
            no_value="no storm in this time range",
        ),
        series(
            "Storms and violations",
            "New storms, steady-state violations and failed compiles in each interval.",
            (f"sum(increase({_of('recompile_storms_total')}{RATE}))", "new storms"),
            (f"sum(increase({_of('steady_violations_total')}{RATE}))", "steady-state violations"),
            (f"sum(increase({_of('compile_failures_total')}{RATE}))", "failed compiles"),
            as_bars=True,
            height=6,
        ),
    ),
)

_COST = Row(
    title="Cost",
    panels=(
        series(
            "Compile time, over time",
            "Seconds spent tracing, lowering and compiling in each interval, by function. A phase is counted when it "
            "ends. 'Time spent compiling, by process' on the job dashboard includes compiles in progress.",
            (f"topk(10, {rise('compile_seconds_total', 'function', OF_FUNCTION)})", "{{function}}"),
            unit=SECONDS,
            as_bars=True,
        ),
        series(
            "Compiles, by process",
            "Compiles since each process started, of the five processes with most and the five with fewest. If the "
            "lines differ, the processes run different programs.",
            (f"topk(5, sum by (instance) ({_of('compiles_total')}))", "{{instance}}"),
            (f"bottomk(5, sum by (instance) ({_of('compiles_total')}))", "{{instance}} (fewest)"),
        ),
    ),
)

_CACHE = Row(
    title="Cache",
    panels=(
        series(
            "Cache entries, by process",
            "Entries in the jit caches of the function: one for each signature, and further ones for numpy or "
            f"committed arguments. If the number keeps growing above {THRESHOLDS.cache_entries_warn}, signatures do "
            "not repeat.",
            (f"topk(10, sum by (instance) ({_of('jit_cache_entries')}))", "{{instance}}"),
            steps=ENTRIES,
        ),
        series(
            "Calls of jax.jit",
            "Calls of `jax.jit` with the code of the function, in the process with most. If the number keeps growing, "
            "jax.jit is called in a loop.",
            (f"max by (function) ({_of('jit_wrappers_total')})", "{{function}}"),
        ),
    ),
)

_DONATION = Row(
    title="Donation",
    panels=(
        series(
            "Donation violations, by kind",
            "use_after_donate: a donated array was used. double_donation: a buffer was passed twice to a call that "
            "donates it. unusable: XLA could not reuse the buffer.",
            (rise("donation_violations_total", "kind", OF_FUNCTION), "{{kind}}"),
            as_bars=True,
            width=8,
            no_value="none",
        ),
        series(
            "Donated and unusable bytes",
            "Bytes per second that calls of the function donate, and bytes of unusable donations.",
            (f"sum(rate({_of('donated_bytes_total')}{RATE}))", "donated"),
            (f"sum(rate({_of('donation_wasted_bytes_total')}{RATE}))", "unusable"),
            unit=BYTES_PER_SECOND,
            width=8,
            no_value="the function does not donate",
        ),
        series(
            "Calls per second",
            "Calls of the function in all processes. Only calls of functions that donate are counted.",
            (f"sum by (function) (rate({_of('calls_total')}{RATE}))", "{{function}}"),
            unit=PER_SECOND,
            width=8,
            no_value="the function does not donate",
        ),
        stat(
            "Last call",
            "Time of the last call, in the process where it is longest ago. If it is old and no compile is in "
            "progress, the job hangs or has ended.",
            f"1000 * min({_of('last_call_timestamp_seconds')})",
            unit=WHEN,
            width=8,
            no_value="the function does not donate",
        ),
        stat(
            "Donation opportunity",
            "Bytes that a call would save by donating an argument that the caller drops after the call.",
            f"max({_of('donation_opportunity_bytes')})",
            unit=BYTES,
            steps=NONE_IS_FINE,
            width=8,
            no_value="none",
        ),
        stat(
            "Unusable donations",
            "Bytes of unusable donations since the start: no output could reuse the buffer.",
            f"sum({_of('donation_wasted_bytes_total')})",
            unit=BYTES,
            steps=NONE_IS_FINE,
            width=8,
        ),
    ),
)

_MEMORY = Row(
    title="Memory",
    panels=(
        series(
            "Memory of the largest program, by kind",
            "Memory per device of the largest program: arguments, outputs, temporaries, code. If temporaries are much "
            "larger than the rest, use rematerialization (`jax.checkpoint`) or a smaller batch.",
            (f"max by (kind) ({_of('executable_memory_bytes')})", "{{kind}}"),
            unit=BYTES,
            no_value="no program yet",
        ),
        stat(
            "Captured constants",
            "Bytes of arrays of 1 MiB or more that are constants of the program. Pass them as arguments.",
            f"max({_of('captured_constant_bytes')})",
            unit=BYTES,
            steps=NONE_IS_FINE,
            width=4,
            no_value="none",
        ),
        stat(
            "Floating-point operations of a call",
            "Floating-point operations of one call, as estimated by XLA.",
            f"max({_of('executable_flops')})",
            width=4,
            no_value="not reported",
        ),
        stat(
            "Floating-point operations per second",
            "Estimated floating-point operations per second in all processes, if the function donates.",
            f"sum(rate({_of('calls_total')}{RATE}) * on ({PROCESS}, function) "
            f"sum by ({PROCESS}, function) ({_of('executable_flops')}))",
            unit=FLOPS,
            width=4,
            no_value="not reported",
        ),
    ),
)

BOARD = Board(
    uid=FUNCTION,
    title="jitwatch / function",
    description="One jitted function: why it recompiles, what that costs, its cache, donation and memory.",
    variables=(*VARIABLES, FUNCTION_VARIABLE),
    annotations=marks(by=PROCESS),
    rows=(_OVERVIEW, _CAUSES, _COST, _CACHE, _DONATION, _MEMORY),
)
