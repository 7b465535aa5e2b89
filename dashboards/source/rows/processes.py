"""The processes of a run, and the agent itself."""

from __future__ import annotations

from dashboards.source.board import Row
from dashboards.source.panels import Column, bars, lines, table, timeline
from dashboards.source.queries import RATE, compiles_spread, other_programs, quantile, rise, select, select_any
from dashboards.source.settings import GREEN, NONE_IS_FINE, PROCESS, RED, SECONDS, SHARE, WHEN


def _each(expr: str) -> str:
    """One value a process, with its index; of the 50 that run longest."""
    info = f"max by ({PROCESS}, process_index, process_count) ({select('process_info')})"
    first = f"topk(50, time() - max by ({PROCESS}) ({select('start_time_seconds')}))"
    return (
        f"sum by (instance, process_index, process_count) ({expr} * on ({PROCESS}) group_left (process_index, "
        f"process_count) {info} or {expr} unless on ({PROCESS}) {info}) and on (instance) ({first})"
    )


def _of(metric: str) -> str:
    return _each(f"sum by ({PROCESS}) ({select(metric)})")


def _scrape(metric: str) -> str:
    return _each(f"(max by ({PROCESS}) ({select_any(metric)}) and on ({PROCESS}) {select('build_info')})")


PROCESSES = Row(
    title="Processes",
    panels=(
        lines(
            "Difference between processes",
            "Difference between the most and the fewest compiles of a function over the processes of the run; the ten "
            "largest. If it stays above 0, the processes run different programs, and a collective may hang. For a "
            "short time it only means that one process compiles before the others. 'different programs': the processes "
            "compiled the function the same number of times, but different programs.",
            (f"topk(10, {compiles_spread()})", "{{function}}"),
            (f"{other_programs()} ^ 0", "{{function}}: different programs"),
            (f"sum({select('programs_diverged')}) > 0", "processes that reported different programs"),
            of=select("process_info", 'process_count!="1"'),
            none="no run with several processes",
        ),
        lines(
            "Duration of a step",
            "Median and 99th percentile of the time between two calls of `jitwatch.step()`. If p99 is far above the "
            "median, some steps wait for a compile (compare with 'Recompiles by cause'), for data or for a "
            "checkpoint.",
            (quantile(0.5, "step_duration_seconds"), "p50"),
            (quantile(0.99, "step_duration_seconds"), "p99"),
            of=select("step_duration_seconds_count"),
            none="the job does not call jitwatch.step()",
            unit=SECONDS,
        ),
        table(
            "Processes of the run",
            "One row for each process. A process with a shorter uptime than the others was restarted. Functions "
            "without a label are those beyond the 100 labels of a process. For samples above 2,000 in many processes, "
            'use `detail="summary"` for all but process 0 of a run.',
            Column("Instance", label="instance", width=180),
            Column("Index", label="process_index", width=80),
            Column("Of", label="process_count", width=80),
            Column("Uptime", _each(f"(time() - max by ({PROCESS}) ({select('start_time_seconds')}))"), unit=SECONDS),
            Column(
                "Steady since",
                _each(f"1000 * (max by ({PROCESS}) ({select('steady_since_timestamp_seconds')}) > 0)"),
                unit=WHEN,
                width=130,
            ),
            Column("Functions", _of("tracked_functions"), width=100),
            Column("Without a label", _of("agent_label_overflow_total"), steps=NONE_IS_FINE, width=130),
            Column("Global cache entries", _of("jit_global_cache_entries"), width=160),
            Column("Saved by the cache", _of("persistent_cache_saved_seconds_total"), unit=SECONDS, width=150),
            Column("Scrape duration", _scrape("scrape_duration_seconds"), unit=SECONDS, width=130),
            Column("Samples of a scrape", _scrape("scrape_samples_scraped"), width=150),
            sort_by="Uptime",
            none="no process reports",
            height=9,
        ),
    ),
)

AGENT = Row(
    title="The agent itself",
    panels=(
        lines(
            "Overhead, by component",
            "CPU time of the agent's own work as a share of a core, by component, in the process with the most. "
            "If it stays above 1 %, report it with the component.",
            (f"max by (component) (rate({select('agent_overhead_seconds_total')}{RATE}))", "{{component}}"),
            of=select("agent_overhead_seconds_total"),
            unit=SHARE,
            width=6,
        ),
        lines(
            "Sample duration",
            "Duration of the last sample of each probe, in the slowest process. Samples run outside the training "
            "thread. A sample takes seconds if the driver is slow or there are very many arrays.",
            (f"max by (probe) ({select('collect_duration_seconds')})", "{{probe}}"),
            of=select("collect_duration_seconds"),
            none="no sample yet",
            unit=SECONDS,
            width=6,
        ),
        bars(
            "Errors, dropped events",
            "Failures of the agent, which never reach the job, and events that were not written to the event log. The "
            "job's log has the traceback of the first failure of each kind.",
            (f"{rise('agent_errors_total', 'component')} > 0", "error: {{component}}"),
            (f"{rise('agent_events_dropped_total', 'reason')} > 0", "dropped: {{reason}}"),
            of=select("agent_errors_total"),
            none="no error in this time range",
            width=6,
        ),
        timeline(
            "Probes",
            "Green: the probe works in every process. Red: it is down in at least one process, and its metrics are "
            "incomplete. `jitwatch doctor` shows the reason.",
            f"min by (probe) ({select('probe_up')})",
            "{{probe}}",
            of=select("probe_up"),
            none="no process reports",
            on="up",
            off="down",
            colors=(GREEN, RED),
            width=6,
            height=7,
        ),
    ),
)
