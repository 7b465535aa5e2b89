"""The board of a fleet: many runs and processes. Who compiles, who diverges, who is out of memory?"""

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
            "Processes that report. Fewer than you started: some are down (next panel but one), or are not among the "
            "targets of this Prometheus.",
            f"count({select('build_info')})",
        ),
        stat(
            "Runs",
            "Runs that report. A run is a value of the target's label `run`; targets without it count as one run a "
            "job.",
            f"count(count by ({RUN}) ({select('build_info')}))",
        ),
        stat(
            "Targets down",
            "Processes that Prometheus cannot reach and that it could reach within the last two hours: crashed, "
            "killed, or cut off. See JitwatchTargetsDown. A run that ends normally takes its discovery entry away "
            "and is not counted.",
            f"sum({targets_down()}) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Time spent compiling",
            "Mean share of wall clock in which a process compiles. Above 10 % after warm-up the fleet pays for "
            "recompiles: the table of runs says whose.",
            f"avg({BUSY_SHARE})",
            unit=SHARE,
            steps=BUSY,
            decimals=1,
        ),
        stat(
            "Storms now",
            "Functions that recompile again and again right now. Each is wasted time: open the run, then the function, "
            "and read its causes.",
            f"sum({select('recompile_storm_active')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Diverging functions",
            "Functions that some process of a run compiled more often than another. Processes of one run must compile "
            "alike; one that does not may soon wait for the others for ever. See JitwatchProcessesDiverge.",
            f"count({compiles_spread()} > 0) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Fullest device",
            "Memory in use on the fullest device, as a share of what the job may use there. Red: the next larger batch "
            "or program runs out.",
            f"max({device_memory_ratio()})",
            unit=SHARE,
            steps=DEVICE_IN_USE,
            no_value="no limits known",
            decimals=1,
        ),
        firing_count(),
    ),
)

_RUN_TABLE = Row(
    title="Runs",
    panels=(
        table(
            "Runs, one a line",
            "One line a run; click it for its board. Totals are since the processes started, shares are of the last "
            "minutes. Sort by the column that worries you.",
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
    title="Who compiles",
    panels=(
        series(
            "Time spent compiling, by run",
            "Mean share of wall clock in which the processes of a run compile; the ten worst. High at the start is "
            "warm-up; high for long means that the run does little else. Open the run and look at its causes.",
            (f"topk(10, avg by ({RUN}) ({BUSY_SHARE}))", _RUNS),
            unit=SHARE,
            steps=BUSY,
            shows_limits=True,
        ),
        series(
            "Recompiles, by run",
            "Second and later compiles of functions, the ten worst runs. A run that has warmed up should show none: "
            "bars that go on are a shape, a static argument or a wrapper that changes all the time.",
            (f"topk(10, sum by ({RUN}) (increase({select('recompiles_total', OF_USER)}[$__rate_interval])))", _RUNS),
            as_bars=True,
        ),
        worst(
            "Dearest functions",
            "Seconds that functions of this name took to compile in this time range, over all that is selected. The "
            "first is where a fix pays most.",
            f"topk(10, sum by (function) (increase({select('compile_seconds_total')}[$__range])))",
            "{{function}}",
            unit=SECONDS,
            width=12,
        ),
        timeline(
            "Storms, by run",
            "Red: some function of the run recompiles again and again. Hours of red are lost hours; short bands after "
            "the start may be a warm-up that calls many shapes.",
            storms(RUN),
            _RUNS,
            on="storm",
            off="calm",
            no_value="no storm in this time range",
            height=8,
        ),
    ),
)

_DIVERGENCE = Row(
    title="Who diverges",
    panels=(
        series(
            "Compiles that not all processes made",
            "Most minus fewest compiles of a function over the processes of its run; the ten widest. Above 0 for long: "
            "the processes run different programs, and a collective may hang. A short bump is one process that "
            "compiles before the others.",
            (f"topk(10, {compiles_spread()})", "{{job}} {{run}} {{function}}"),
        ),
        table(
            "Functions that diverge",
            "Functions whose compiles differ between the processes of a run, now. Open the run: its row 'Divergence' "
            "shows which process stands out.",
            Column("Job", label="job"),
            Column("Run", label="run", link=to_job()),
            Column("Function", label="function"),
            Column("Spread", f"topk(50, {compiles_spread()} > 0)", steps=NONE_IS_GOOD),
            sort_by="Spread",
            width=12,
            height=8,
            no_value="no function diverges",
        ),
    ),
)

_MEMORY = Row(
    title="Who is out of memory",
    panels=(
        series(
            "Fullest device, by run",
            "Memory in use as a share of what may be used, on the fullest device of a run; the ten fullest. A line "
            "that climbs for hours is a leak, one that sits near 100 % fails at the next larger program.",
            (f"topk(10, {device_memory_ratio(by=RUN)})", _RUNS),
            unit=SHARE,
            steps=DEVICE_IN_USE,
            shows_limits=True,
            highest=1,
            no_value="no device tells its limit (a CPU has none)",
        ),
        series(
            "Out of memory, by run",
            "Calls and compiles that ended since memory ran out. Each has a `memory.oom` record in the event log of "
            "its process: the largest arrays and programs at that moment.",
            (f"sum by ({RUN}) (increase({select('oom_total')}[$__rate_interval])) > 0", _RUNS),
            as_bars=True,
            no_value="none",
        ),
        series(
            "Memory that grows",
            "How fast the low points of memory rise, by kind, in the run that grows fastest. Steady growth in any of "
            "them ends in an out-of-memory: device and live_arrays are arrays that something keeps, host is the "
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
            "Processes on the machines with least memory left, twenty of them. Above "
            f"{THRESHOLDS.host_memory_bad_ratio:.0%} the kernel may kill the job. Resident memory includes the "
            "process's children, the data loaders.",
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
            "Training steps of the slowest process of each run, for jobs that call `jitwatch.step()`; ten runs. A line "
            "that falls to 0 while others go on is a run that hangs or has ended.",
            (f"topk(10, min by ({RUN}) (rate({select('steps_total')}[$__rate_interval])))", _RUNS),
            unit=PER_SECOND,
            no_value="no job calls jitwatch.step()",
        ),
        table(
            "Versions",
            "How many processes run which versions. A run with two lines mixes environments, which is a cause of "
            "divergence and of cache misses.",
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
    description="Many JAX runs and processes: who compiles, who diverges, who is out of memory.",
    variables=VARIABLES,
    annotations=marks(by=RUN),
    rows=(_NOW, _RUN_TABLE, _COMPILES, _DIVERGENCE, _MEMORY, _PROGRESS),
    time_from="now-3h",
)
