"""The first row of a run's dashboard: the health of the run."""

from __future__ import annotations

from dashboards.source.common import OF_USER, firing_count, firing_table
from dashboards.source.model import Row
from dashboards.source.panels import stat
from dashboards.source.queries import BUSY_SHARE, RATE, compiles_spread, device_memory_ratio, select
from dashboards.source.settings import (
    BUSY,
    COMPILE_AGE,
    DEVICE_IN_USE,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    PER_SECOND,
    RECOMPILES,
    SECONDS,
    SHARE,
    WHEN,
    YES_NO,
)

OVERVIEW = Row(
    title="Overview",
    panels=(
        stat(
            "Processes",
            "Processes of the run that Prometheus scrapes. If processes are missing, check the targets of Prometheus.",
            f"count({select('build_info')})",
        ),
        stat(
            "Time spent compiling",
            "Mean share of wall-clock time in which a process compiles, over the last minutes. Near 100 % is normal "
            "during warm-up. If it stays above a few percent, see 'Functions by compile time'.",
            f"avg({BUSY_SHARE})",
            unit=SHARE,
            steps=BUSY,
            decimals=1,
        ),
        stat(
            "Recompiles",
            "Second and later compiles of the job's functions since the processes started. A few are normal (the last, "
            "smaller batch of an epoch). If the number grows with the steps, see 'Recompiles by cause'.",
            f"sum({select('recompiles_total', OF_USER)})",
            steps=RECOMPILES,
        ),
        stat(
            "Storms now",
            "Functions that are in a recompile storm now. The panel 'Storms' names them.",
            f"sum({select('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Donation violations",
            "Donation violations since the start: uses after donation, double donations and unusable donations. The "
            "row 'Donation' shows them by kind and function.",
            f"sum({select('donation_violations_by_kind_total')})",
            steps=NONE_IS_FINE,
        ),
        stat(
            "Fullest device",
            "Memory in use on the fullest device as a share of its limit. Red: a larger batch or program may run out "
            "of memory.",
            f"max({device_memory_ratio()})",
            unit=SHARE,
            steps=DEVICE_IN_USE,
            no_value="no device reports a limit",
            decimals=1,
        ),
        stat(
            "Out of memory",
            "Calls and compiles that failed because memory ran out. The event `memory.oom` lists the largest live "
            "arrays and programs.",
            f"sum({select('oom_total')})",
            steps=NONE_IS_GOOD,
        ),
        firing_count(),
        stat(
            "Oldest compile",
            "Age of the oldest compile in progress; 0 if there is none. Minutes are normal for large models. For more "
            "than an hour, see the runbook JitwatchCompileStuck.",
            f"max({select('compile_oldest_in_progress_seconds')})",
            unit=SECONDS,
            steps=COMPILE_AGE,
        ),
        stat(
            "Last compile",
            "Time of the last compile. After warm-up there should be none.",
            f"1000 * max({select('last_compile_timestamp_seconds')})",
            unit=WHEN,
            no_value="never",
        ),
        stat(
            "Steady state",
            "Whether the job has called `jitwatch.steady()`. In the steady state each compile is a violation.",
            f"max({select('steady_since_timestamp_seconds')} > bool 0)",
            unit=YES_NO,
            no_value="not declared",
        ),
        stat(
            "Steady-state violations",
            "Compiles in the steady state, after `jitwatch.steady()`. The table 'Functions' shows them by function.",
            f"sum({select('steady_violations_total')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Steps",
            "Training steps of the process with most steps, as reported by `jitwatch.step()`.",
            f"max({select('steps_total')})",
            no_value="step() is not called",
        ),
        stat(
            "Steps per second",
            "Training steps per second of the slowest process. If it is 0 and no compile is in progress, see the "
            "runbook JitwatchNoProgress.",
            f"min(rate({select('steps_total')}{RATE}))",
            unit=PER_SECOND,
            no_value="step() is not called",
            decimals=2,
        ),
        stat(
            "Diverging functions",
            "Functions that one process of the run compiled more often than another. It must be 0. See the row "
            "'Divergence between processes'.",
            f"count({compiles_spread()} > 0) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Pitfalls",
            "Pitfalls found since the start. The event `jit.pitfall` has the call site and the advice; 'Pitfalls by "
            "kind' shows which ones.",
            f"sum({select('pitfalls_by_kind_total')})",
            steps=NONE_IS_FINE,
        ),
        firing_table(),
    ),
)
