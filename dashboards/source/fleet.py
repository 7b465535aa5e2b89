"""The dashboard of a fleet: compiles, divergence and memory of many runs and processes."""

from __future__ import annotations

from typing import Final

from dashboards.source.common import OF_USER, VARIABLES, firing_count, firing_table, marks, to_job
from dashboards.source.model import Board, Row
from dashboards.source.panels import Column, series, stat, table, timeline, worst
from dashboards.source.queries import (
    BUSY_SHARE,
    compiles_spread,
    device_memory_ratio,
    host_memory_ratio,
    resident_memory,
    select,
    storms,
    targets_down,
)
from dashboards.source.settings import (
    BUSY,
    BYTES,
    BYTES_PER_SECOND,
    DEVICE_IN_USE,
    FLEET,
    HOST_IN_USE,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    PER_SECOND,
    PROCESS,
    RECOMPILES,
    RUN,
    SECONDS,
    SHARE,
)
from jitwatch.model.thresholds import THRESHOLDS

_RUNS: Final = "{{job}} {{run}}"

_NOW = Row(
    title="Now",
    panels=(
        stat(
            "Processes",
            "Processes that Prometheus scrapes. If processes are missing, they are down (see 'Targets down') or are no "
            "targets of this Prometheus.",
            f"count({select('build_info')})",
        ),
        stat(
            "Runs",
            "Runs that Prometheus scrapes. A run is a value of the target label `run`; targets without it count as one "
            "run for each job.",
            f"count(count by ({RUN}) ({select('build_info')}))",
        ),
        stat(
            "Targets down",
            "Processes that cannot be scraped now and were scraped within the last two hours. They crashed, were "
            "killed, or are unreachable; see the runbook JitwatchTargetsDown. A process that ends normally removes "
            "its entry in `sd_dir` and is not counted.",
            f"sum({targets_down()}) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Time spent compiling",
            "Mean share of wall-clock time in which a process compiles. If it is above 10 % after warm-up, see the "
            "column 'Compiling' of the table of runs.",
            f"avg({BUSY_SHARE})",
            unit=SHARE,
            steps=BUSY,
            decimals=1,
        ),
        stat(
            "Storms now",
            "Functions that are in a recompile storm now. Open the run, then the function, to see the causes.",
            f"sum({select('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Diverging functions",
            "Functions that one process of a run compiled more often than another. Processes that run different "
            "programs may wait for each other in a collective; see the runbook JitwatchProcessesDiverge.",
            f"count({compiles_spread()} > 0) or vector(0)",
            steps=NONE_IS_GOOD,
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
        firing_count(),
    ),
)

_RUN_TABLE = Row(
    title="Runs",
    panels=(
        table(
            "All runs",
            "One row for each run. Click a run to open its dashboard. Totals are since the processes started, shares "
            "are of the last minutes.",
            Column("Job", label="job"),
            Column("Run", label="run", link=to_job()),
            Column("Processes", f"count by ({RUN}) ({select('build_info')})"),
            Column("Compiling", f"avg by ({RUN}) ({BUSY_SHARE})", unit=SHARE, steps=BUSY),
            Column("Recompiles", f"sum by ({RUN}) ({select('recompiles_total', OF_USER)})", steps=NONE_IS_FINE),
            Column("Storms", f"sum by ({RUN}) ({select('recompile_storm_active')})", steps=NONE_IS_GOOD),
            Column(
                "Donation violations",
                f"sum by ({RUN}) ({select('donation_violations_by_kind_total')})",
                steps=NONE_IS_FINE,
            ),
            Column("Fullest device", device_memory_ratio(by=RUN), unit=SHARE, steps=DEVICE_IN_USE),
            Column("Out of memory", f"sum by ({RUN}) ({select('oom_total')})", steps=NONE_IS_GOOD),
            Column("Diverging functions", f"count by ({RUN}) ({compiles_spread()} > 0)", steps=NONE_IS_GOOD),
            Column("Steps/s", f"max by ({RUN}) (rate({select('steps_total')}[$__rate_interval]))", unit=PER_SECOND),
            sort_by="Compiling",
            height=10,
        ),
        firing_table(),
    ),
)

_COMPILES = Row(
    title="Compiles",
    panels=(
        series(
            "Time spent compiling, by run",
            "Mean share of wall-clock time in which the processes of a run compile; the ten largest. It is high during "
            "warm-up. If it stays high, open the run and see 'Recompiles by cause'.",
            (f"topk(10, avg by ({RUN}) ({BUSY_SHARE}))", _RUNS),
            unit=SHARE,
            steps=BUSY,
            shows_limits=True,
        ),
        series(
            "Recompiles, by run",
            "Recompiles in each interval, of the ten runs with most. After warm-up there should be none. If there are "
            "bars in every interval, a shape, a static argument or the function object is new in each call.",
            (f"topk(10, sum by ({RUN}) (increase({select('recompiles_total', OF_USER)}[$__rate_interval])))", _RUNS),
            as_bars=True,
        ),
        worst(
            "Functions by compile time",
            "Seconds spent tracing, lowering and compiling functions with this label in this time range, summed over "
            "all selected processes; the ten largest.",
            f"topk(10, sum by (function) (increase({select('compile_seconds_total')}[$__range])))",
            "{{function}}",
            unit=SECONDS,
            width=12,
        ),
        timeline(
            "Storms, by run",
            "Red: at least one function of the run is in a recompile storm. A short storm after the start may be a "
            "warm-up with many shapes.",
            storms(RUN),
            _RUNS,
            on="storm",
            off="no storm",
            no_value="no storm in this time range",
            height=8,
        ),
    ),
)

_DIVERGENCE = Row(
    title="Divergence",
    panels=(
        series(
            "Difference in compiles between processes",
            "Difference between the most and the fewest compiles of a function over the processes of its run; the ten "
            "largest. If it stays above 0, the processes run different programs, and a collective may hang. For a "
            "short time it only means that one process compiles before the others.",
            (f"topk(10, {compiles_spread()})", "{{job}} {{run}} {{function}}"),
        ),
        table(
            "Functions that diverge",
            "Functions whose number of compiles differs between the processes of a run now. Open the run; its row "
            "'Divergence between processes' shows the process.",
            Column("Job", label="job"),
            Column("Run", label="run", link=to_job()),
            Column("Function", label="function"),
            Column("Difference", f"topk(50, {compiles_spread()} > 0)", steps=NONE_IS_GOOD),
            sort_by="Difference",
            width=12,
            height=8,
            no_value="no function diverges",
        ),
    ),
)

_MEMORY = Row(
    title="Memory",
    panels=(
        series(
            "Fullest device, by run",
            "Memory in use as a share of the limit, on the fullest device of a run; the ten fullest. A line that rises "
            "for hours is a leak. Near 100 % a larger batch or program may run out of memory.",
            (f"topk(10, {device_memory_ratio(by=RUN)})", _RUNS),
            unit=SHARE,
            steps=DEVICE_IN_USE,
            shows_limits=True,
            highest=1,
            no_value="no device reports a limit (CPUs have none)",
        ),
        series(
            "Out of memory, by run",
            "Calls and compiles that failed because memory ran out. The event `memory.oom` in the log of the process "
            "lists the largest live arrays and programs at that time.",
            (f"sum by ({RUN}) (increase({select('oom_total')}[$__rate_interval])) > 0", _RUNS),
            as_bars=True,
            no_value="none",
        ),
        series(
            "Growth of memory, by run",
            "Growth of memory between steps by kind, of the ten runs and kinds that grow fastest. If it stays above 0, "
            "memory will run out. device and live_arrays: the job keeps references to arrays. host: the memory of the "
            "process.",
            (
                f"topk(10, max by ({RUN}, kind) ({select('memory_growth_bytes_per_second')}))",
                "{{job}} {{run}} {{kind}}",
            ),
            unit=BYTES_PER_SECOND,
            lowest=None,
        ),
        table(
            "Fullest machines",
            "The 20 processes on the machines with the largest share of memory in use. Above "
            f"{THRESHOLDS.host_memory_bad_ratio:.0%} the kernel may kill the job. Resident memory includes the child "
            "processes (data loaders).",
            Column("Job", label="job"),
            Column("Run", label="run", link=to_job()),
            Column("Instance", label="instance"),
            Column("Machine in use", f"topk(20, {host_memory_ratio()})", unit=SHARE, steps=HOST_IN_USE, is_bar=False),
            Column(
                "Resident",
                f"({resident_memory()}) and on ({PROCESS}) topk(20, {host_memory_ratio()})",
                unit=BYTES,
            ),
            sort_by="Machine in use",
            width=12,
            height=8,
        ),
    ),
)

_PROGRESS = Row(
    title="Progress and versions",
    panels=(
        series(
            "Steps per second, by run",
            "Training steps per second of the slowest process of each run, for jobs that call `jitwatch.step()`; the "
            "ten fastest runs. A run at 0 hangs or has ended.",
            (f"topk(10, min by ({RUN}) (rate({select('steps_total')}[$__rate_interval])))", _RUNS),
            unit=PER_SECOND,
            no_value="no job calls jitwatch.step()",
        ),
        table(
            "Versions",
            "Versions by number of processes. If a run has more than one row, its processes have different "
            "environments, which causes divergence and cache misses.",
            Column("Job", label="job"),
            Column("Run", label="run", link=to_job()),
            Column("jitwatch", label="version"),
            Column("JAX", label="jax"),
            Column("jaxlib", label="jaxlib"),
            Column("Python", label="python"),
            Column(
                "Processes",
                f"topk(50, count by ({RUN}, version, jax, jaxlib, python) ({select('build_info')}))",
                steps=RECOMPILES[:1],
            ),
            sort_by="Processes",
            width=12,
            height=8,
        ),
    ),
)

BOARD = Board(
    uid=FLEET,
    title="jitwatch / fleet",
    description="Many JAX runs and processes: compiles, divergence between processes, memory.",
    variables=VARIABLES,
    annotations=marks(by=RUN),
    rows=(_NOW, _RUN_TABLE, _COMPILES, _DIVERGENCE, _MEMORY, _PROGRESS),
    time_from="now-3h",
)
