"""The board of a fleet: what needs attention now, and one line a run with links."""

from __future__ import annotations

from typing import Final

from dashboards.source.board import Board, Row
from dashboards.source.common import OF_USER, VARIABLES, firing_count, firing_table, marks, to_job
from dashboards.source.panels import Column, bars, lines, stat, table, timeline
from dashboards.source.queries import (
    BUSY_SHARE,
    RATE,
    compiles_spread,
    device_memory_ratio,
    host_memory_ratio,
    or_zero,
    rise,
    select,
    storms,
    targets_down,
)
from dashboards.source.settings import (
    BUSY,
    BYTES_PER_SECOND,
    DEVICE_IN_USE,
    FLEET,
    HOST_IN_USE,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    PER_SECOND,
    RUN,
    SHARE,
)

_RUNS: Final = "{{job}} {{run}}"

_NOW = Row(
    panels=(
        stat(
            "Processes",
            "Processes that Prometheus scrapes. If processes are missing, see 'Targets down' and the targets of "
            "Prometheus.",
            f"count({select('build_info')})",
        ),
        stat(
            "Targets down",
            "Processes that Prometheus cannot scrape now but did within the last two hours. See the runbook "
            "JitwatchTargetsDown. A run that ends normally removes its discovery entry and is not counted.",
            or_zero(f"sum({targets_down()})"),
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Time spent compiling",
            "Mean share of wall-clock time in which a process compiles. If it stays above 10 % after warm-up, the "
            "table of runs shows which runs compile.",
            f"avg({BUSY_SHARE})",
            unit=SHARE,
            steps=BUSY,
            decimals=1,
        ),
        firing_count(),
        firing_table(height=7),
        table(
            "Runs",
            "One row for each run, by the share of time spent compiling. Click a run to open its dashboard. Totals "
            "are since the processes started, shares are of the last minutes.",
            Column("Run", label="run", links=[to_job()], width=200),
            Column("Job", label="job", width=120),
            Column("Processes", f"count by ({RUN}) ({select('build_info')})", width=100),
            Column("Compiling", f"avg by ({RUN}) ({BUSY_SHARE})", unit=SHARE, steps=BUSY, width=100),
            Column(
                "Recompiles", f"sum by ({RUN}) ({select('recompiles_total', OF_USER)})", steps=NONE_IS_FINE, width=110
            ),
            Column("Storms", f"sum by ({RUN}) ({select('recompile_storm_active')})", steps=NONE_IS_GOOD),
            Column(
                "Violations",
                f"sum by ({RUN}) ({select('donation_violations_by_kind_total')})",
                steps=NONE_IS_FINE,
                width=100,
            ),
            Column("Fullest device", device_memory_ratio(by=RUN), unit=SHARE, steps=DEVICE_IN_USE, width=130),
            Column("Fullest host", host_memory_ratio(by=RUN), unit=SHARE, steps=HOST_IN_USE, width=110),
            Column("Out of memory", f"sum by ({RUN}) ({select('oom_total')})", steps=NONE_IS_GOOD, width=130),
            Column("Diverging", f"count by ({RUN}) ({compiles_spread()} > 0)", steps=NONE_IS_GOOD, width=100),
            Column("Steps/s", f"min by ({RUN}) (rate({select('steps_total')}{RATE}))", unit=PER_SECOND),
            sort_by="Compiling",
            none="no process reports",
            height=10,
        ),
    ),
)

_OVER_TIME = Row(
    title="Over time",
    is_collapsed=False,
    panels=(
        lines(
            "Time compiling, by run",
            "Mean share of wall-clock time in which the processes of a run compile; the ten largest. It is high during "
            "warm-up. If it stays high, open the run and look at its causes.",
            (f"topk(10, avg by ({RUN}) ({BUSY_SHARE}))", _RUNS),
            of=select("compile_busy_seconds_total"),
            unit=SHARE,
            steps=BUSY,
            shows_limits=True,
            width=8,
        ),
        bars(
            "Recompiles, by run",
            "Second and later compiles in each interval; the ten runs with the most. After warm-up there should be "
            "none.",
            (f"topk(10, {rise('recompiles_total', RUN, OF_USER)} > 0)", _RUNS),
            of=select("recompiles_total", OF_USER),
            none="no recompile in this time range",
            width=8,
        ),
        timeline(
            "Storms, by run",
            "Red: a function of the run is in a recompile storm.",
            storms(RUN),
            _RUNS,
            of=select("recompile_storms_total"),
            none="no function has compiled",
            on="storm",
            off="no storm",
            width=8,
            height=7,
        ),
        lines(
            "Fullest device, by run",
            "Memory in use as a share of its limit, on the fullest device of a run; the ten fullest. A line that rises "
            "for hours is a leak.",
            (f"topk(10, {device_memory_ratio(by=RUN)})", _RUNS),
            of=select("device_memory_limit_bytes"),
            none="no device reports a limit (CPUs have none)",
            unit=SHARE,
            steps=DEVICE_IN_USE,
            shows_limits=True,
            highest=1,
            width=8,
        ),
        lines(
            "Growth of memory",
            "Growth of memory between steps by kind, in the runs where it is largest. Above 0 for hours is a leak.",
            (f"topk(10, max by ({RUN}, kind) ({select('memory_growth_bytes_per_second')}))", f"{_RUNS} {{{{kind}}}}"),
            of=select("memory_growth_bytes_per_second"),
            none="not known yet",
            unit=BYTES_PER_SECOND,
            lowest=None,
            width=8,
        ),
        lines(
            "Steps per second, by run",
            "Training steps per second of the slowest process of each run, for jobs that call `jitwatch.step()`; ten "
            "runs. A run at 0 while others continue hangs or has ended.",
            (f"topk(10, min by ({RUN}) (rate({select('steps_total')}{RATE})))", _RUNS),
            of=select("steps_total"),
            none="no job calls jitwatch.step()",
            unit=PER_SECOND,
            width=8,
        ),
    ),
)

_DETAILS = Row(
    title="Divergence and versions",
    panels=(
        lines(
            "Difference between processes",
            "Difference between the most and the fewest compiles of a function over the processes of its run; the ten "
            "largest. If it stays above 0, the processes run different programs, and a collective may hang.",
            (f"topk(10, {compiles_spread()})", "{{job}} {{run}} {{function}}"),
            of=select("process_info", 'process_count!="1"'),
            none="no run with several processes",
            width=8,
        ),
        table(
            "Functions that diverge",
            "Functions whose number of compiles differs between the processes of a run now. Click a run to open its "
            "dashboard: the row 'Processes' shows which process differs.",
            Column("Run", label="run", links=[to_job()], width=140),
            Column("Function", label="function", width=200),
            Column("Job", label="job", width=90),
            Column("Difference", f"topk(50, {compiles_spread()} > 0)", steps=NONE_IS_GOOD),
            sort_by="Difference",
            none="no function diverges",
            width=9,
            height=7,
        ),
        table(
            "Versions",
            "Number of processes by version. A run with two lines has different environments, which causes divergence "
            "and misses of the persistent cache.",
            Column("Run", label="run", links=[to_job()]),
            Column("jitwatch", label="version"),
            Column("JAX", label="jax"),
            Column("jaxlib", label="jaxlib", width=64),
            Column("Python", label="python", width=64),
            Column("Processes", f"topk(50, count by ({RUN}, version, jax, jaxlib, python) ({select('build_info')}))"),
            sort_by="Processes",
            none="no process reports",
            width=7,
            height=7,
        ),
    ),
)

BOARD = Board(
    uid=FLEET,
    title="jitwatch / fleet",
    description="Many JAX runs and processes: what needs attention now, and one row for each run.",
    variables=VARIABLES,
    annotations=marks(by=RUN),
    rows=(_NOW, _OVER_TIME, _DETAILS),
    time_from="now-3h",
)
