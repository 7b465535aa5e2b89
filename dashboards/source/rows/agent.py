"""Divergence between the processes of a run, and the agent itself."""

from __future__ import annotations

from dashboards.source.common import OF_USER, to_function
from dashboards.source.model import Row
from dashboards.source.panels import Column, series, table, timeline
from dashboards.source.queries import RATE, compiles_spread, rise, select, select_any
from dashboards.source.settings import COUNT, GREEN, NONE_IS_GOOD, PROCESS, RED, SECONDS, SHARE

DIVERGENCE = Row(
    title="Divergence between processes",
    panels=(
        series(
            "Difference in compiles between processes",
            "Difference between the most and the fewest compiles of a function over the processes of the run; the ten "
            "largest. If it stays above 0, the processes run different programs, and a collective may hang. For a "
            "short time it only means that one process compiles before the others.",
            (f"topk(10, {compiles_spread()})", "{{function}}"),
            no_value="no run with several processes",
        ),
        series(
            "Compiles, by process",
            "Compiles of the job's functions since the start, of the five processes with most and the five with "
            "fewest. Within a run all lines must be equal, except for functions that only process 0 calls.",
            (f"topk(5, sum by (instance) ({select('compiles_total', OF_USER)}))", "{{instance}}"),
            (f"bottomk(5, sum by (instance) ({select('compiles_total', OF_USER)}))", "{{instance}} (fewest)"),
        ),
        table(
            "Functions that diverge",
            "Functions whose number of compiles differs between processes now. Click a function to see it by process. "
            "Look for a shape, a static argument or a branch that depends on the process.",
            Column("Function", label="function", link=to_function()),
            Column("Difference", f"topk(50, max by (function) ({compiles_spread()}) > 0)", steps=NONE_IS_GOOD),
            sort_by="Difference",
            width=12,
            height=7,
            no_value="no function diverges",
        ),
        table(
            "Processes of the run",
            "Index, number of processes and uptime of each process, from `jax.distributed`. A process with a shorter "
            "uptime than the others was restarted.",
            Column("Instance", label="instance"),
            Column("Index", label="process_index"),
            Column("Processes", label="process_count"),
            Column(
                "Uptime",
                f"topk(50, (time() - {select('start_time_seconds')}) * on ({PROCESS}) group_left (process_index, "
                f"process_count) max by ({PROCESS}, process_index, process_count) ({select('process_info')}))",
                unit=SECONDS,
            ),
            sort_by="Uptime",
            width=12,
            height=7,
            no_value="no run with several processes",
        ),
    ),
)

AGENT = Row(
    title="The agent itself",
    is_collapsed=True,
    panels=(
        series(
            "Overhead, by component",
            "Wall-clock time of the agent's own work as a share of the run, by component, in the process with most. "
            "If it stays above 1 %, report it with the component.",
            (f"max by (component) (rate({select('agent_overhead_seconds_total')}{RATE}))", "{{component}}"),
            unit=SHARE,
        ),
        series(
            "Errors and dropped events",
            "Failures of the agent, which never reach the job, and events that were not written to the event log. The "
            "job's log has the traceback of the first failure of each kind.",
            (f"{rise('agent_errors_total', 'component')} > 0", "error: {{component}}"),
            (f"{rise('agent_events_dropped_total', 'reason')} > 0", "dropped: {{reason}}"),
            as_bars=True,
            no_value="none",
        ),
        timeline(
            "Probes",
            "Green: the probe works in every process. Red: it is down in at least one process, and its metrics are "
            "incomplete. `jitwatch doctor` shows the reason.",
            f"min by (probe) ({select('probe_up')})",
            "{{probe}}",
            on="up",
            off="down",
            colors=(GREEN, RED),
            width=8,
        ),
        series(
            "Sample duration, by probe",
            "Duration of the last sample of each probe, in the slowest process. Samples run outside the training "
            "thread. A sample takes seconds if the driver is slow or there are very many arrays.",
            (f"max by (probe) ({select('collect_duration_seconds')})", "{{probe}}"),
            unit=SECONDS,
            width=8,
        ),
        series(
            "Functions without a label",
            "Functions beyond the 100 labels of a process, which share the label `__other__`; the ten largest. If "
            "there are many, functions are defined in a loop.",
            (f"topk(10, max by (instance) ({select('agent_label_overflow_total')}))", "{{instance}}"),
            width=8,
        ),
        series(
            "Scrape duration",
            "Seconds that a scrape of a process takes; the ten slowest. A scrape that exceeds the scrape timeout (10 "
            "s) is lost.",
            (
                f"topk(10, max by (instance) ({select_any('scrape_duration_seconds')} "
                f"and on ({PROCESS}) {select('build_info')}))",
                "{{instance}}",
            ),
            unit=SECONDS,
            width=8,
        ),
        series(
            "Samples of a scrape",
            'Samples in a scrape; the ten largest. Above 2,000 for many processes, use `detail="summary"` for all but '
            "process 0 of a run.",
            (
                f"topk(10, max by (instance) ({select_any('scrape_samples_scraped')} "
                f"and on ({PROCESS}) {select('build_info')}))",
                "{{instance}}",
            ),
            unit=COUNT,
            width=8,
        ),
        table(
            "Versions and platform",
            "Versions by number of processes. If a run has more than one row, its processes have different "
            "environments, which causes divergence.",
            Column("jitwatch", label="version"),
            Column("Schema", label="schema"),
            Column("JAX", label="jax"),
            Column("jaxlib", label="jaxlib"),
            Column("Python", label="python"),
            Column("System", label="platform"),
            Column(
                "Processes",
                f"count by (version, schema, jax, jaxlib, python, platform) ({select('build_info')})",
            ),
            sort_by="Processes",
            width=8,
            height=8,
        ),
    ),
)
