"""The board of one function: causes, cost, cache, donation, memory."""

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
            "Compiles since the start, over all processes that are selected: one for each signature and process.",
            f"sum({_of('compiles_total')})",
        ),
        stat(
            "Recompiles",
            "Second and later compiles. Each has a cause below; a number that grows with the steps is a bug.",
            f"sum({_of('recompiles_total')})",
            steps=RECOMPILES,
        ),
        stat(
            "Compile time",
            "Seconds of trace, lower and compile since the start, over all processes.",
            f"sum({_of('compile_seconds_total')})",
            unit=SECONDS,
        ),
        stat(
            "Time of a compile",
            "Mean seconds of a compile in this time range. Times the recompiles, this is what they cost.",
            f"{_COMPILE_SECONDS} / ({_COMPILES} > 0)",
            unit=SECONDS,
            no_value="no compile",
        ),
        stat(
            "In a storm",
            "Whether the function recompiles again and again now.",
            f"max({_of('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Failed compiles",
            "Compiles that ended in an exception. Repeats mean that the job tries the same broken program again.",
            f"sum({_of('compile_failures_total')})",
            steps=NONE_IS_FINE,
        ),
        stat(
            "Donation violations",
            "Donations that went wrong, by kind further down.",
            f"sum({_of('donation_violations_total')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Steady-state violations",
            "Compiles after the job said that warm-up is over.",
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
            "Why it was compiled again, and when. Bars that go on are a value that is always new; two bars at the "
            "start are train and eval. The event log has the argument, from what to what, and the line of the call.",
            (f"{rise('recompile_causes_total', 'cause', OF_FUNCTION)} > 0", "{{cause}}"),
            as_bars=True,
            no_value="not recompiled in this time range",
        ),
        worst(
            "Recompiles by cause",
            "The same since the start. shape: pad or bucket. static_arg: pass it as an array. new_function: jit once. "
            "dtype, weak_type: convert before the loop. sharding, committed, device: place it before the first step.",
            f"sum by (cause) ({_of('recompile_causes_total')})",
            "{{cause}}",
            steps=RECOMPILES,
            width=6,
            no_value="never recompiled",
        ),
        table(
            "Pitfalls",
            "Pitfalls reported for this function; the event `jit.pitfall` has line, cost and advice.",
            Column("Pitfall", label="pitfall"),
            Column("Times", f"topk(50, sum by (function, pitfall) ({_of('pitfalls_total')}))", steps=NONE_IS_FINE),
            Column("Function", label="function"),
            sort_by="Times",
            width=6,
            height=8,
            no_value="",
        ),
        timeline(
            "Storms, by process",
            "Red: in a storm. In one run all processes should show the same bands.",
            storms("instance", OF_FUNCTION),
            "{{instance}}",
            on="storm",
            off="calm",
            no_value="no storm in this time range",
        ),
        series(
            "Storms and violations",
            "New storms, compiles after `jitwatch.steady()`, and compiles that failed.",
            (f"sum(increase({_of('recompile_storms_total')}{RATE}))", "storms begun"),
            (f"sum(increase({_of('steady_violations_total')}{RATE}))", "after steady()"),
            (f"sum(increase({_of('compile_failures_total')}{RATE}))", "failed"),
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
            "Seconds of compiling in each interval, by function. A compile counts when its phases end, so one of an "
            "hour shows late: the job board's 'Time spent compiling' grows while it runs.",
            (f"topk(10, {rise('compile_seconds_total', 'function', OF_FUNCTION)})", "{{function}}"),
            unit=SECONDS,
            as_bars=True,
        ),
        series(
            "Compiles, by process",
            "Compiles since each process started, the five with most and the five with fewest. Lines that part are "
            "processes that run different programs.",
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
            "Entries in its jit caches: one for each signature, and some for numpy or committed arguments. Above "
            f"{THRESHOLDS.cache_entries_warn} and climbing, signatures never repeat.",
            (f"topk(10, sum by (instance) ({_of('jit_cache_entries')}))", "{{instance}}"),
            steps=ENTRIES,
        ),
        series(
            "Times jitted",
            "How often its code was passed to `jax.jit`, in the process where that is most. Climbs: jit is called in a "
            "loop.",
            (f"max by (function) ({_of('jit_wrappers_total')})", "{{function}}"),
        ),
    ),
)

_DONATION = Row(
    title="Donation",
    panels=(
        series(
            "Donation violations, by kind",
            "use_after_donate: a deleted array was used. double_donation: one array was donated twice. unusable: the "
            "memory could not be reused.",
            (rise("donation_violations_total", "kind", OF_FUNCTION), "{{kind}}"),
            as_bars=True,
            width=8,
            no_value="none",
        ),
        series(
            "Donated and wasted bytes",
            "Bytes per second that its calls donate, and that were offered in vain.",
            (f"sum(rate({_of('donated_bytes_total')}{RATE}))", "donated"),
            (f"sum(rate({_of('donation_wasted_bytes_total')}{RATE}))", "wasted"),
            unit=BYTES_PER_SECOND,
            width=8,
            no_value="does not donate",
        ),
        series(
            "Calls per second",
            "Calls of the function in all processes, if it donates; others are not counted.",
            (f"sum by (function) (rate({_of('calls_total')}{RATE}))", "{{function}}"),
            unit=PER_SECOND,
            width=8,
            no_value="does not donate",
        ),
        stat(
            "Last call",
            "When it was last called, in the process where that is longest ago. Old, while nothing compiles: the job "
            "hangs or has ended.",
            f"1000 * min({_of('last_call_timestamp_seconds')})",
            unit=WHEN,
            width=8,
            no_value="does not donate",
        ),
        stat(
            "Missed donation",
            "Bytes that a call would save by donating what its caller drops anyway.",
            f"max({_of('donation_opportunity_bytes')})",
            unit=BYTES,
            steps=NONE_IS_FINE,
            width=8,
            no_value="none seen",
        ),
        stat(
            "Wasted donation",
            "Bytes that were offered since the start and that no program could use.",
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
            "Memory of its largest program, by kind",
            "What the program needs on a device: arguments, outputs, temporaries, code. Temporaries that dwarf the "
            "rest ask for rematerialisation or a smaller batch.",
            (f"max by (kind) ({_of('executable_memory_bytes')})", "{{kind}}"),
            unit=BYTES,
            no_value="no program seen",
        ),
        stat(
            "Captured constants",
            "Arrays that are baked into its program; pass them as arguments.",
            f"max({_of('captured_constant_bytes')})",
            unit=BYTES,
            steps=NONE_IS_FINE,
            width=4,
            no_value="none",
        ),
        stat(
            "Work of a call",
            "Floating-point operations of one call, as XLA estimates.",
            f"max({_of('executable_flops')})",
            width=4,
            no_value="unknown",
        ),
        stat(
            "Work done",
            "Estimated floating-point operations per second in all processes, if its calls are counted.",
            f"sum(rate({_of('calls_total')}{RATE}) * on ({PROCESS}, function) "
            f"sum by ({PROCESS}, function) ({_of('executable_flops')}))",
            unit=FLOPS,
            width=4,
            no_value="unknown",
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
