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
            "Compiles that not all processes made",
            "Most minus fewest compiles of a function over the processes of the run, ten functions. Above 0 for long: "
            "the processes run different programs, and a collective may hang. A short bump is one process that "
            "compiles before the others.",
            (f"topk(10, {compiles_spread()})", "{{function}}"),
            no_value="not several processes of one run",
        ),
        series(
            "Compiles, by process",
            "Compiles of the user's functions since the start, of the five processes with most and the five with "
            "fewest. In one run the lines must lie on each other, but for what process 0 does alone.",
            (f"topk(5, sum by (instance) ({select('compiles_total', OF_USER)}))", "{{instance}}"),
            (f"bottomk(5, sum by (instance) ({select('compiles_total', OF_USER)}))", "{{instance}} (fewest)"),
        ),
        table(
            "Functions that diverge",
            "Functions whose compiles differ between processes, now; click one to see it by process. Look for a "
            "shape, a static argument or a branch that depends on the process.",
            Column("Function", label="function", link=to_function()),
            Column("Spread", f"topk(50, max by (function) ({compiles_spread()}) > 0)", steps=NONE_IS_GOOD),
            sort_by="Spread",
            width=12,
            height=7,
            no_value="no function diverges",
        ),
        table(
            "Places in the run",
            "The processes of the run with their place in it, how many functions they know and how long they run. "
            "A process that is younger than the others was restarted.",
            Column("Instance", label="instance"),
            Column("Process", label="process_index"),
            Column("Of", label="process_count"),
            Column(
                "Uptime",
                f"topk(50, (time() - {select('start_time_seconds')}) * on ({PROCESS}) group_left (process_index, "
                f"process_count) max by ({PROCESS}, process_index, process_count) ({select('process_info')}))",
                unit=SECONDS,
            ),
            sort_by="Uptime",
            width=12,
            height=7,
            no_value="not one of several processes",
        ),
    ),
)

AGENT = Row(
    title="The agent itself",
    is_collapsed=True,
    panels=(
        series(
            "Overhead, by component",
            "Share of one core that the agent's own work takes, by component, in the process where that is most. Above "
            "1 % for long: please report it, with the component.",
            (f"max by (component) (rate({select('agent_overhead_seconds_total')}{RATE}))", "{{component}}"),
            unit=SHARE,
        ),
        series(
            "Errors and dropped events",
            "Failures of the agent itself, which never reach the job, and events that could not be written. The job's "
            "log has the first one of each kind with its traceback.",
            (f"{rise('agent_errors_total', 'component')} > 0", "error: {{component}}"),
            (f"{rise('agent_events_dropped_total', 'reason')} > 0", "dropped: {{reason}}"),
            as_bars=True,
            no_value="none",
        ),
        timeline(
            "Probes that work",
            "Green: the probe works in every process. Red: it is down somewhere, and its panels above are incomplete; "
            "`jitwatch doctor` says why.",
            f"min by (probe) ({select('probe_up')})",
            "{{probe}}",
            on="up",
            off="down",
            colors=(GREEN, RED),
            width=8,
        ),
        series(
            "Time of a sample, by probe",
            "Seconds that the last sample of a probe took, in the slowest process. Samples run beside the training; "
            "seconds here are a slow driver or very many arrays.",
            (f"max by (probe) ({select('collect_duration_seconds')})", "{{probe}}"),
            unit=SECONDS,
            width=8,
        ),
        series(
            "Functions without a name of their own",
            "Functions past the hundredth of a process, which share the name `__other__`. Many: functions are made "
            "in a loop.",
            (f"topk(10, max by (instance) ({select('agent_label_overflow_total')}))", "{{instance}}"),
            width=8,
        ),
        series(
            "Time of a scrape",
            "Seconds that Prometheus takes to scrape a process, the ten slowest. Near the scrape timeout (10 s) values "
            "get lost.",
            (
                f"topk(10, max by (instance) ({select_any('scrape_duration_seconds')} "
                f"and on ({PROCESS}) {select('build_info')}))",
                "{{instance}}",
            ),
            unit=SECONDS,
            width=8,
        ),
        series(
            "Series of a process",
            'Samples in a scrape, the ten largest. Above 2,000 for many processes, use `detail="summary"` for all but '
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
            "What the processes run. More than one line: the run mixes environments, a cause of divergence.",
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
