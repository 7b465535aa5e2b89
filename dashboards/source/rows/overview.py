"""The first row of a run's board: is all well?"""

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
            "Processes of the run that report. Fewer than it has: see the targets of Prometheus.",
            f"count({select('build_info')})",
        ),
        stat(
            "Time spent compiling",
            "Mean share of wall clock in which a process compiles, over the last minutes. Near 100 % during warm-up is "
            "normal; later, everything above a few percent is lost: look at the dearest functions.",
            f"avg({BUSY_SHARE})",
            unit=SHARE,
            steps=BUSY,
            decimals=1,
        ),
        stat(
            "Recompiles",
            "Second and later compiles of the user's functions since the processes started. A handful is normal (train "
            "and eval batch, the last batch); hundreds are a bug: see 'Recompiles by cause'.",
            f"sum({select('recompiles_total', OF_USER)})",
            steps=RECOMPILES,
        ),
        stat(
            "Storms now",
            "Functions that recompile again and again now. Find them in 'Storms' below and open their board.",
            f"sum({select('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Donation violations",
            "Donations that went wrong since the start: a deleted array was used, one array was donated twice, or XLA "
            "could not use the memory. Below, by kind and function.",
            f"sum({select('donation_violations_by_kind_total')})",
            steps=NONE_IS_FINE,
        ),
        stat(
            "Fullest device",
            "Memory in use on the fullest device as a share of its limit. Red: the next larger batch or program runs "
            "out.",
            f"max({device_memory_ratio()})",
            unit=SHARE,
            steps=DEVICE_IN_USE,
            no_value="no limits known",
            decimals=1,
        ),
        stat(
            "Out of memory",
            "Calls and compiles that ended since memory ran out. The event log's `memory.oom` names the largest "
            "arrays.",
            f"sum({select('oom_total')})",
            steps=NONE_IS_GOOD,
        ),
        firing_count(),
        stat(
            "Oldest compile",
            "Age of the compile that has been running longest; 0 when none runs. Minutes are usual for large models, "
            "an hour is not: see JitwatchCompileStuck.",
            f"max({select('compile_oldest_in_progress_seconds')})",
            unit=SECONDS,
            steps=COMPILE_AGE,
        ),
        stat(
            "Last compile",
            "When something compiled last. In a run that has warmed up this should be long ago.",
            f"1000 * max({select('last_compile_timestamp_seconds')})",
            unit=WHEN,
            no_value="never",
        ),
        stat(
            "Steady state",
            "Whether the job has said `jitwatch.steady()`: from then on each compile is a violation.",
            f"max({select('steady_since_timestamp_seconds')} > bool 0)",
            unit=YES_NO,
            no_value="not declared",
        ),
        stat(
            "Steady-state violations",
            "Compiles after the job said that warm-up is over. Each stopped the training for its time: see the table "
            "of functions.",
            f"sum({select('steady_violations_total')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Steps",
            "Training steps of the process that is ahead, as `jitwatch.step()` counts them.",
            f"max({select('steps_total')})",
            no_value="step() not used",
        ),
        stat(
            "Steps per second",
            "Training steps per second of the slowest process. 0 while nothing compiles: the job hangs, saves or has "
            "ended; see JitwatchNoProgress.",
            f"min(rate({select('steps_total')}{RATE}))",
            unit=PER_SECOND,
            no_value="step() not used",
            decimals=2,
        ),
        stat(
            "Diverging functions",
            "Functions that some process compiled more often than another. Must be 0 for processes of one run: see the "
            "row 'Divergence'.",
            f"count({compiles_spread()} > 0) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Pitfalls",
            "Pitfalls that the agent has named, each with line and advice in the event log; by kind further down.",
            f"sum({select('pitfalls_by_kind_total')})",
            steps=NONE_IS_FINE,
        ),
        firing_table(),
    ),
)
