"""Compiles in detail: which functions, how often, why, for how long."""

from __future__ import annotations

from dashboards.source.board import Row
from dashboards.source.common import OF_USER
from dashboards.source.panels import bars, heatmap, lines, timeline, worst
from dashboards.source.queries import quantile, rise, select, storms
from dashboards.source.settings import NONE_IS_FINE, SECONDS

COMPILES = Row(
    title="Compiles",
    panels=(
        worst(
            "Pitfalls by kind",
            "Pitfalls found since the start, each counted once per function and subject. docs/pitfalls.md describes "
            "each pitfall and what to do.",
            f"sum by (pitfall) ({select('pitfalls_by_kind_total')}) > 0",
            "pitfall",
            steps=NONE_IS_FINE,
            width=12,
            height=7,
            none="no pitfall",
        ),
        bars(
            "Compiles, by function",
            "Compiles in each interval, of the ten functions with the most, including JAX's own (`__jax__`). If "
            "`__jax__` compiles after start-up, array operations outside of jit get new shapes.",
            (f"topk(10, {rise('compiles_total', 'function')} > 0)", "{{function}}"),
            of=select("compiles_total"),
            none="no compile in this time range",
        ),
        lines(
            "Duration of a compile, by phase",
            "Median and 99th percentile by phase: trace (Python to jaxpr), lower (jaxpr to StableHLO), compile (XLA). "
            "A long trace is due to Python code such as loops over layers; a long compile is due to a large program.",
            (quantile(0.5, "compile_duration_seconds", "phase"), "{{phase}} p50"),
            (quantile(0.99, "compile_duration_seconds", "phase"), "{{phase}} p99"),
            of=select("compile_duration_seconds_count"),
            none="no compile",
            unit=SECONDS,
        ),
        heatmap(
            "Compile duration",
            "Number of XLA compiles by duration. A single cell at a long duration is one large program. A band over "
            "time is a function that recompiles repeatedly.",
            rise("compile_duration_seconds_bucket", "le", 'phase="compile"'),
            unit=SECONDS,
            none="no compile in this time range",
        ),
        lines(
            "Oldest compile in progress",
            "Age of the oldest compile phase in progress. If it is more than an hour, see the runbook "
            "JitwatchCompileStuck.",
            (f"max({select('compile_oldest_in_progress_seconds')})", "age of the oldest"),
            (f"time() - max({select('last_compile_timestamp_seconds')})", "since the last compile"),
            of=select("compile_oldest_in_progress_seconds"),
            unit=SECONDS,
        ),
        bars(
            "Violations and failures",
            "Steady-state violations, failed compiles and new storms in each interval. If failures repeat, the job "
            "retries a program that cannot be compiled.",
            (rise("steady_violations_total", "job"), "steady-state violations"),
            (rise("compile_failures_total", "job"), "failed compiles"),
            (rise("recompile_storms_total", "job"), "new storms"),
            of=select("recompile_storms_total"),
            none="no violation, failure or storm in this time range",
        ),
        timeline(
            "Storms",
            "Red: the function is in a recompile storm: by default five recompiles within ten minutes. A storm ends "
            "after ten minutes without a recompile. Functions without a storm since the start are not shown.",
            storms("function", OF_USER),
            "{{function}}",
            of=f"{select('recompile_storms_total', OF_USER)}",
            none="no function has compiled",
            on="storm",
            off="no storm",
            width=24,
        ),
    ),
)
