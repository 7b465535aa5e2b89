"""The compiles of a run: which functions, how often, why, and for how long."""

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
            "Functions by compile time",
            "Seconds spent tracing, lowering and compiling each function since the start, summed over all processes; "
            "the ten largest. `__jax__` stands for JAX's own compiles, mostly operations outside of jit.",
            f"topk(10, {by_function('compile_seconds_total')})",
            "{{function}}",
            unit=SECONDS,
        ),
        worst(
            "Most recompiled functions",
            "Second and later compiles of each function since the start, summed over all processes; the ten largest. "
            "Open the function to see the causes.",
            f"topk(10, {by_function('recompiles_total')} > 0)",
            "{{function}}",
            steps=RECOMPILES,
            no_value="no recompile",
        ),
        worst(
            "Pitfalls by kind",
            "Pitfalls found since the start, each counted once per function and subject. docs/pitfalls.md describes "
            "each pitfall and what to do.",
            f"sum by (pitfall) ({select('pitfalls_by_kind_total')}) > 0",
            "{{pitfall}}",
            steps=NONE_IS_FINE,
            no_value="no pitfall",
        ),
        series(
            "Time spent compiling, by process",
            "Share of wall-clock time in which a process compiles; the ten largest. Compiles in progress are included. "
            "If it is high after warm-up, see 'Recompiles by cause'.",
            (f"topk(10, sum by (instance) ({BUSY_SHARE}))", "{{instance}}"),
            unit=SHARE,
            steps=BUSY,
            shows_limits=True,
        ),
        series(
            "Recompiles by cause",
            "Recompiles in each interval by cause. shape, static_arg: a new value in each call. new_function: jax.jit "
            "is called in a loop. committed, sharding: the placement of an array changed. transform: the first use "
            "under grad or vmap, which is expected. A recompile with two causes is counted for each.",
            (f"sum by (cause) (increase({select('recompiles_by_cause_total')}{RATE})) > 0", "{{cause}}"),
            as_bars=True,
            no_value="no recompile in this time range",
        ),
        series(
            "Time of a compile, by phase",
            "Median and 99th percentile by phase: trace (Python to jaxpr), lower (jaxpr to StableHLO), compile (XLA). "
            "A long trace is due to Python code such as loops over layers; a long compile is due to a large program.",
            (quantile(0.5, "compile_duration_seconds", "phase"), "{{phase}} p50"),
            (quantile(0.99, "compile_duration_seconds", "phase"), "{{phase}} p99"),
            unit=SECONDS,
            no_value="no compile in this time range",
        ),
        heatmap(
            "Compile duration",
            "Number of XLA compiles by duration. A single cell at a long duration is one large program. A band over "
            "time is a function that recompiles repeatedly.",
            "sum by (le) (increase(" + select("compile_duration_seconds_bucket", 'phase="compile"') + f"{RATE}))",
            unit=SECONDS,
        ),
        series(
            "Compiles, by function",
            "Compiles in each interval, of the ten functions with most, JAX's own included (`__jax__`). If `__jax__` "
            "compiles after start-up, array operations outside of jit get new shapes.",
            (f"topk(10, {rise('compiles_total', 'function')}) > 0", "{{function}}"),
            as_bars=True,
            no_value="no compile in this time range",
        ),
        series(
            "Compiles in progress",
            "Threads that are tracing, lowering or compiling, and the age of the oldest phase. For more than an hour, "
            "see the runbook JitwatchCompileStuck.",
            (f"sum({select('compiles_in_progress')})", "in progress"),
            (f"max({select('compile_oldest_in_progress_seconds')})", "age of the oldest (s)"),
        ),
        timeline(
            "Storms",
            "Red: the function is in a recompile storm: by default five recompiles within ten minutes. A storm ends "
            "after ten minutes without a recompile. Functions without a storm since the start are not shown.",
            storms("function", OF_USER),
            "{{function}}",
            on="storm",
            off="no storm",
            no_value="no storm in this time range",
        ),
        timeline(
            "Steady state, by process",
            "Blue: the process is in the steady state, after `jitwatch.steady()`. Each compile in it is a violation.",
            f"topk(20, max by (instance) ({select('steady_since_timestamp_seconds')} > bool 0))",
            "{{instance}}",
            on="steady",
            off="not declared",
            colors=(BLUE, "text"),
            no_value="the job does not call jitwatch.steady()",
        ),
        series(
            "Violations and failures",
            "Steady-state violations, failed compiles and new storms in each interval. If failures repeat, the job "
            "retries a program that cannot be compiled.",
            (f"sum(increase({select('steady_violations_total')}{RATE}))", "steady-state violations"),
            (f"sum(increase({select('compile_failures_total')}{RATE}))", "failed compiles"),
            (f"sum(increase({select('recompile_storms_total')}{RATE}))", "new storms"),
            as_bars=True,
        ),
        series(
            "Recompiles, by function and cause",
            "Recompiles in each interval by function and cause; the ten largest. The event `jit.recompiled` has the "
            "changed arguments and the call site.",
            (f"topk(10, {rise('recompile_causes_total', 'function, cause')}) > 0", "{{function}}: {{cause}}"),
            as_bars=True,
            no_value="no recompile in this time range",
        ),
        table(
            "Functions",
            "The 50 functions with most compile time. Totals since the start, summed over all processes. Click a "
            "function to open its dashboard. Many cache entries mean many signatures; many calls of jax.jit mean that "
            "the function is jitted in a loop.",
            Column("Function", label="function", link=to_function()),
            Column("Compile time", among_slowest(by_function("compile_seconds_total")), unit=SECONDS),
            Column("Compiles", among_slowest(by_function("compiles_total"))),
            Column("Recompiles", among_slowest(by_function("recompiles_total")), steps=RECOMPILES),
            Column("Storms", among_slowest(by_function("recompile_storms_total")), steps=NONE_IS_FINE),
            Column(
                "Steady-state violations", among_slowest(by_function("steady_violations_total")), steps=NONE_IS_GOOD
            ),
            Column("Failed", among_slowest(by_function("compile_failures_total")), steps=NONE_IS_FINE),
            Column("Pitfalls", among_slowest(by_function("pitfalls_total")), steps=NONE_IS_FINE),
            Column(
                "Cache entries",
                among_slowest(f"max by (function) ({select('jit_cache_entries')})"),
                steps=ENTRIES,
            ),
            Column("Calls of jax.jit", among_slowest(f"max by (function) ({select('jit_wrappers_total')})")),
            sort_by="Compile time",
            height=12,
        ),
    ),
)
