"""What a run compiles: which functions, how often, why, for how long."""

from __future__ import annotations

from dashboards.source.common import OF_USER, to_function
from dashboards.source.model import Row
from dashboards.source.panels import Column, heatmap, series, table, timeline, worst
from dashboards.source.queries import BUSY_SHARE, RATE, among_slowest, by_function, quantile, rise, select, storms
from dashboards.source.settings import (
    BLUE,
    BUSY,
    ENTRIES,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    RECOMPILES,
    SECONDS,
    SHARE,
)

COMPILES = Row(
    title="Compiles",
    panels=(
        worst(
            "Dearest functions",
            "Seconds that each function took to trace, lower and compile since the start, over all processes. The "
            "first is where a fix pays most. `__jax__` are the small programs of operations outside of jit.",
            f"topk(10, {by_function('compile_seconds_total')})",
            "{{function}}",
            unit=SECONDS,
        ),
        worst(
            "Most recompiled functions",
            "Second and later compiles of each function since the start, over all processes. More than a few: open the "
            "function and read its causes.",
            f"topk(10, {by_function('recompiles_total')} > 0)",
            "{{function}}",
            steps=RECOMPILES,
            no_value="nothing was recompiled",
        ),
        worst(
            "Pitfalls by kind",
            "Pitfalls reported since the start, each counted once for its subject. The name says "
            "which one; docs/pitfalls.md has the advice.",
            f"sum by (pitfall) ({select('pitfalls_by_kind_total')}) > 0",
            "{{pitfall}}",
            steps=NONE_IS_FINE,
            no_value="no pitfall",
        ),
        series(
            "Time spent compiling, by process",
            "Share of wall clock in which a process compiles, the ten worst. It grows while a compile runs, so a "
            "compile of an hour shows from its first minute. High after warm-up: see 'Recompiles by cause'.",
            (f"topk(10, sum by (instance) ({BUSY_SHARE}))", "{{instance}}"),
            unit=SHARE,
            steps=BUSY,
            shows_limits=True,
        ),
        series(
            "Recompiles by cause",
            "Why functions were compiled again. shape and static_arg: values that keep being new; new_function: jit "
            "in a loop; committed and sharding: arrays that moved; transform is the first use under grad or vmap, "
            "and no fault. One recompile with two causes counts in both.",
            (f"sum by (cause) (increase({select('recompiles_by_cause_total')}{RATE})) > 0", "{{cause}}"),
            as_bars=True,
            no_value="nothing was recompiled in this time range",
        ),
        series(
            "Time of a compile, by phase",
            "Median and 99th percentile by phase: trace (Python runs), lower (to StableHLO), compile (XLA). A slow "
            "trace is Python in the function, such as loops over layers; a slow compile is the program's size.",
            (quantile(0.5, "compile_duration_seconds", "phase"), "{{phase}} p50"),
            (quantile(0.99, "compile_duration_seconds", "phase"), "{{phase}} p99"),
            unit=SECONDS,
            no_value="nothing was compiled in this time range",
        ),
        heatmap(
            "How long compiles take",
            "Each cell counts the XLA compiles of that duration. A lone cell high up is one large program; a band that "
            "goes on is a function that compiles again and again.",
            "sum by (le) (increase(" + select("compile_duration_seconds_bucket", 'phase="compile"') + f"{RATE}))",
            unit=SECONDS,
        ),
        series(
            "Compiles, by function",
            "Compiles of the functions that compile most, JAX's own small ones included (`__jax__`). `__jax__` that "
            "goes on means array operations outside of jit with ever new shapes.",
            (f"topk(10, {rise('compiles_total', 'function')}) > 0", "{{function}}"),
            as_bars=True,
            no_value="nothing was compiled in this time range",
        ),
        series(
            "Compiles in progress",
            "Threads that trace, lower or compile, and how old the oldest phase is. An age that climbs beyond an "
            "hour is a compile that hangs or a program that is far too large.",
            (f"sum({select('compiles_in_progress')})", "in progress"),
            (f"max({select('compile_oldest_in_progress_seconds')})", "age of the oldest (s)"),
        ),
        timeline(
            "Storms",
            "Red: the function is in a storm, that is, recompiled several times within ten minutes. It ends after ten "
            "quiet minutes. Functions that were never in one are not listed.",
            storms("function", OF_USER),
            "{{function}}",
            on="storm",
            off="calm",
            no_value="no storm in this time range",
        ),
        timeline(
            "Steady state, by process",
            "Blue: the job has said that warm-up is over. Compiles under blue are violations.",
            f"topk(20, max by (instance) ({select('steady_since_timestamp_seconds')} > bool 0))",
            "{{instance}}",
            on="steady",
            off="warming up",
            colors=(BLUE, "text"),
            no_value="the job does not call jitwatch.steady()",
        ),
        series(
            "Violations and failures",
            "Compiles after `jitwatch.steady()`, compiles that ended in an exception, and new storms. Failures that "
            "repeat are a job that retries the same broken program.",
            (f"sum(increase({select('steady_violations_total')}{RATE}))", "after steady()"),
            (f"sum(increase({select('compile_failures_total')}{RATE}))", "failed"),
            (f"sum(increase({select('recompile_storms_total')}{RATE}))", "storms begun"),
            as_bars=True,
        ),
        series(
            "Recompiles, by function and cause",
            "The pair that recompiles most often, ten of them. The event log says for each which argument changed and "
            "from which line the call came.",
            (f"topk(10, {rise('recompile_causes_total', 'function, cause')}) > 0", "{{function}}: {{cause}}"),
            as_bars=True,
            no_value="nothing was recompiled in this time range",
        ),
        table(
            "Functions",
            "The fifty dearest functions, totals since the start over all processes; click one for its board. "
            "Entries far above the number of signatures you expect, or many wrappers, mean that something new is "
            "made all the time.",
            Column("Function", label="function", link=to_function()),
            Column("Compile time", among_slowest(by_function("compile_seconds_total")), unit=SECONDS),
            Column("Compiles", among_slowest(by_function("compiles_total"))),
            Column("Recompiles", among_slowest(by_function("recompiles_total")), steps=RECOMPILES),
            Column("Storms", among_slowest(by_function("recompile_storms_total")), steps=NONE_IS_FINE),
            Column("After steady()", among_slowest(by_function("steady_violations_total")), steps=NONE_IS_GOOD),
            Column("Failed", among_slowest(by_function("compile_failures_total")), steps=NONE_IS_FINE),
            Column("Pitfalls", among_slowest(by_function("pitfalls_total")), steps=NONE_IS_FINE),
            Column(
                "Cache entries",
                among_slowest(f"max by (function) ({select('jit_cache_entries')})"),
                steps=ENTRIES,
            ),
            Column("Times jitted", among_slowest(f"max by (function) ({select('jit_wrappers_total')})")),
            sort_by="Compile time",
            height=12,
        ),
    ),
)
