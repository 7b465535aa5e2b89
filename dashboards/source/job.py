"""The board of one run: is it healthy, since when, which function, why; then each signal in a collapsed row."""

from __future__ import annotations

from dashboards.source.board import Board, Row
from dashboards.source.common import OF_USER, VARIABLES, firing, firing_count, firing_table, marks, to_function
from dashboards.source.panels import Column, bars, lines, stat, table
from dashboards.source.queries import (
    BUSY_SHARE,
    RATE,
    among_slowest,
    by_function,
    device_memory_ratio,
    or_zero,
    rise,
    select,
)
from dashboards.source.rows.caches import CACHES
from dashboards.source.rows.compiles import COMPILES
from dashboards.source.rows.donation import DONATION
from dashboards.source.rows.memory import DEVICE_MEMORY
from dashboards.source.rows.processes import AGENT, PROCESSES
from dashboards.source.settings import (
    BLUE,
    BUSY,
    DEVICE_IN_USE,
    ENTRIES,
    GREEN,
    JOB,
    NONE_IS_FINE,
    NONE_IS_GOOD,
    PER_SECOND,
    PROCESS,
    RECOMPILES,
    RED,
    SECONDS,
    SHARE,
    UNKNOWN,
    YELLOW,
)
from jitwatch.model.thresholds import THRESHOLDS

_STATES = {
    0: ("healthy", GREEN),
    1: ("compiling", BLUE),
    2: ("warning", YELLOW),
    3: ("critical", RED),
    4: ("alert rules not loaded", UNKNOWN),
}
#: Prometheus evaluates the rules if its own watchdog fires.
_STATE = (
    f"3 * max({firing('critical')}) or 2 * max({firing('warning')})"
    f' or 4 * (max({select("build_info")}) unless on () max(ALERTS{{alertname="Watchdog"}}))'
    f" or max({select('compiles_in_progress')} > bool 0) or 0 * max({select('build_info')})"
)
_NO_STEPS = "the job does not call jitwatch.step()"
_NO_LIMIT = "no device reports a limit (CPUs have none)"

_NOW = Row(
    panels=(
        stat(
            "State",
            "healthy: no alert fires. compiling: a compile is in progress. warning, critical: the most severe firing "
            "alert, which the table below lists with its start.",
            _STATE,
            mappings=_STATES,
            steps=((None, UNKNOWN),),
        ),
        stat(
            "Steps per second",
            "Training steps per second of the slowest process. If it is 0 and no compile is in progress, the job "
            "hangs, saves a checkpoint or has ended; see the runbook JitwatchNoProgress.",
            f"min(rate({select('steps_total')}{RATE}))",
            unit=PER_SECOND,
            no_value="step() is not called",
            decimals=2,
        ),
        stat(
            "Time spent compiling",
            "Mean share of wall-clock time in which a process compiles, over the last minutes. Near 100 % is normal "
            "during warm-up. If it stays above a few percent, see 'Functions'.",
            f"avg({BUSY_SHARE})",
            unit=SHARE,
            steps=BUSY,
            decimals=1,
        ),
        stat(
            "Recompiles",
            "Second and later compiles of the job's functions since the processes started. A few are normal (the last, "
            "smaller batch of an epoch). If the number grows with the steps, see 'Recompiles by cause'.",
            or_zero(f"sum({select('recompiles_total', OF_USER)})"),
            steps=RECOMPILES,
        ),
        stat(
            "Storms now",
            "Functions that are in a recompile storm now. 'Storms' in the row 'Compiles' names them.",
            or_zero(f"sum({select('recompile_storm_active')})"),
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Donation violations",
            "Donation violations since the start: uses after donation, double donations and unusable donations. The "
            "row 'Donation' shows them by kind and function.",
            or_zero(f"sum({select('donation_violations_by_kind_total')})"),
            steps=NONE_IS_FINE,
        ),
        stat(
            "Fullest device",
            "Memory in use on the fullest device as a share of its limit. Red: a larger batch or program may run out "
            "of memory.",
            f"max({device_memory_ratio()})",
            unit=SHARE,
            steps=DEVICE_IN_USE,
            no_value="not reported by this device",
            decimals=1,
        ),
        firing_count(),
        firing_table(),
        lines(
            "Steps/s, by process",
            "Training steps per second of the ten slowest processes. Within a run all lines should be equal. A process "
            "at 0 while others continue hangs.",
            (f"bottomk(10, sum by (instance) (rate({select('steps_total')}{RATE})))", "{{instance}}"),
            of=select("steps_total"),
            none=_NO_STEPS,
            unit=PER_SECOND,
            width=6,
        ),
        lines(
            "Compiling, by process",
            "Share of wall-clock time in which a process compiles; the ten largest. Compiles in progress are included. "
            "If it is high after warm-up, see 'Recompiles by cause'.",
            (f"topk(10, sum by (instance) ({BUSY_SHARE}))", "{{instance}}"),
            of=select("compile_busy_seconds_total"),
            unit=SHARE,
            steps=BUSY,
            shows_limits=True,
            width=6,
        ),
        bars(
            "Recompiles by cause",
            "Recompiles in each interval by cause. shape, static_arg: a new value in each call. new_function: jax.jit "
            "is called in a loop. committed, sharding: the placement of an array changed. transform: the first use "
            "under grad or vmap, which is expected. A recompile with two causes is counted for each.",
            (f"{rise('recompiles_by_cause_total', 'cause')} > 0", "{{cause}}"),
            of=select("recompiles_by_cause_total"),
            none="no recompile in this time range",
            width=6,
        ),
        lines(
            "Device memory in use",
            "Memory in use as a share of its limit, of the ten fullest devices. Above "
            f"{THRESHOLDS.device_memory_bad_ratio:.0%} a larger batch or program may run out of memory. A line that "
            "rises for hours is a leak. Within a run all devices should be equal.",
            (f"topk(10, {device_memory_ratio(by='instance, device')})", "{{instance}} {{device}}"),
            of=select("device_memory_limit_bytes"),
            none=_NO_LIMIT,
            unit=SHARE,
            steps=DEVICE_IN_USE,
            shows_limits=True,
            highest=1,
            width=6,
        ),
        table(
            "Functions",
            "The 50 functions with the most compile time. Totals since the start, summed over all processes. Click a "
            "function to open its dashboard. Many cache entries mean many signatures; many calls of jax.jit mean that "
            "the function is jitted in a loop.",
            Column("Function", label="function", links=[to_function()], width=320),
            Column("Compile time", among_slowest(by_function("compile_seconds_total")), unit=SECONDS, width=120),
            Column("Compiles", among_slowest(by_function("compiles_total"))),
            Column("Recompiles", among_slowest(by_function("recompiles_total")), steps=RECOMPILES, width=110),
            Column("Storms", among_slowest(by_function("recompile_storms_total")), steps=NONE_IS_FINE),
            Column(
                "Steady violations",
                among_slowest(by_function("steady_violations_total")),
                steps=NONE_IS_GOOD,
                width=150,
            ),
            Column("Failed", among_slowest(by_function("compile_failures_total")), steps=NONE_IS_FINE),
            Column("Pitfalls", among_slowest(by_function("pitfalls_total")), steps=NONE_IS_FINE),
            Column(
                "Cache entries",
                among_slowest(f"max by (function) ({select('jit_cache_entries')})"),
                steps=ENTRIES,
                width=120,
            ),
            Column(
                "Calls of jax.jit",
                among_slowest(f"max by (function) ({select('jit_wrappers_total')})"),
                width=130,
            ),
            sort_by="Compile time",
            none="no function has compiled",
            height=10,
        ),
    ),
)

BOARD = Board(
    uid=JOB,
    title="jitwatch / job",
    description="One JAX run: is it healthy, since when, which function, why. Compiles, caches, donation, memory, "
    "processes and the agent are in the rows below.",
    variables=VARIABLES,
    annotations=marks(by=PROCESS),
    rows=(_NOW, COMPILES, CACHES, DONATION, DEVICE_MEMORY, PROCESSES, AGENT),
)
