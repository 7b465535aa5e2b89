"""Alerts about processes, about targets, and about the agent itself."""

from __future__ import annotations

from typing import Final

from dashboards.source.queries import every, targets_down
from dashboards.source.rules import HERE, Alert, Group, rising
from dashboards.source.settings import FLEET, FUNCTION, JOB, LAST_CALL_S, PROCESS, RESTARTS_1H, RUN

#: While something compiles there is no progress, and that is told by other alerts.
_QUIET: Final = f"and on ({PROCESS}) (max by ({PROCESS}) ({every('compiles_in_progress')}) == 0)"

PROCESSES: Final = Group(
    name="jitwatch.processes",
    rules=(
        Alert(
            name="JitwatchProcessesDiverge",
            expr="jitwatch:compiles:spread > 0",
            hold="30m",
            severity="warning",
            summary="The processes of run {{ $labels.run }} compile {{ $labels.function }} differently",
            description="One process of job {{ $labels.job }}, run {{ $labels.run }} compiled {{ $labels.function }} "
            "{{ $value | humanize }} times more often than another, for half an hour. Processes that run different "
            "programs end up waiting for each other.",
            board=FUNCTION,
            panel="Compiles, by process",
            linked=("job", "run", "function"),
        ),
        Alert(
            name="JitwatchNoProgress",
            expr=f"""\
sum by ({PROCESS}) (increase({every("steps_total")}[5m])) == 0
and on ({PROCESS}) (sum by ({PROCESS}) ({every("steps_total")}) > 0)
{_QUIET}""",
            hold="15m",
            severity="critical",
            summary="{{ $labels.instance }} makes no progress",
            description=f"No training step for 15 minutes {HERE}, and nothing compiles: it hangs, saves, waits, or has "
            "ended without ending its process.",
            board=JOB,
            panel="Steps per second, by process",
        ),
        # Without step() nobody knows what progress is: a long scan, a notebook or a finished job looks the same.
        Alert(
            name="JitwatchNoProgress",
            expr=f"""\
time() - max by ({PROCESS}) ({every("last_call_timestamp_seconds")}) > {LAST_CALL_S}
unless on ({PROCESS}) {every("steps_total")}
{_QUIET}""",
            hold="15m",
            severity="info",
            summary="{{ $labels.instance }} has been silent for {{ $value | humanizeDuration }}",
            description=f"No function that donates was called for {{{{ $value | humanizeDuration }}}} {HERE}, and "
            f"nothing compiles. A long scan, a notebook and a finished job look the same; jitwatch.step() tells them "
            f"apart.",
            board=JOB,
            panel="Time since the last call",
        ),
        Alert(
            name="JitwatchTargetsDown",
            expr=f"sum by ({RUN}) ({targets_down(scope='')}) > 0",
            hold="5m",
            severity="warning",
            summary="{{ $value | humanize }} processes of run {{ $labels.run }} are down",
            description="{{ $value | humanize }} processes of job {{ $labels.job }}, run {{ $labels.run }} reported "
            "within the last two hours and cannot be reached now: killed, crashed, or cut off.",
            board=FLEET,
            panel="Targets down",
        ),
        Alert(
            name="JitwatchRestartLoop",
            expr=f"sum by ({PROCESS}) (changes({every('start_time_seconds')}[1h])) > {RESTARTS_1H}",
            hold="0m",
            severity="warning",
            summary="{{ $labels.instance }} restarted {{ $value | humanize }} times within an hour",
            description=f"The process {HERE} restarted {{{{ $value | humanize }}}} times within an hour. Each start "
            "compiles everything again.",
            board=JOB,
            panel="Processes",
        ),
    ),
)

AGENT: Final = Group(
    name="jitwatch.agent",
    rules=(
        Alert(
            name="JitwatchAgentErrors",
            expr=f"""\
{rising("agent_errors_total", f"{PROCESS}, component")}
or
{rising("agent_events_dropped_total", f"{PROCESS}, reason")}""",
            hold="0m",
            severity="warning",
            summary="jitwatch itself fails on {{ $labels.instance }}",
            description=f"A part of the agent failed or could not write an event {HERE}: "
            "{{ $labels.component }}{{ $labels.reason }}. The job goes on; its log has the first traceback of each "
            "kind.",
            board=JOB,
            panel="Errors and dropped events",
        ),
        Alert(
            name="JitwatchAgentErrors",
            expr=f"min by ({PROCESS}, probe) ({every('probe_up')}) == 0",
            hold="15m",
            severity="info",
            summary="The probe {{ $labels.probe }} does not work on {{ $labels.instance }}",
            description=f"The probe {{{{ $labels.probe }}}} is down {HERE}, so its figures are missing. jitwatch "
            f"doctor says why.",
            board=JOB,
            panel="Probes that work",
        ),
        Alert(
            name="JitwatchLabelOverflow",
            expr=f"max by ({PROCESS}) ({every('agent_label_overflow_total')}) > 0",
            hold="15m",
            severity="info",
            summary="{{ $labels.instance }} has more functions than names",
            description=f"{{{{ $value | humanize }}}} functions {HERE} share the name __other__, since 100 have names "
            "already. Most often functions are made in a loop.",
            board=JOB,
            panel="Functions without a name of their own",
        ),
        Alert(
            name="Watchdog",
            expr="vector(1)",
            hold="0m",
            severity="none",
            summary="The way of alerts works",
            description="This alert always fires. If it stops arriving, Prometheus or Alertmanager is down, and nobody "
            "would hear of anything else.",
            board=FLEET,
            panel="Firing alerts",
            linked=(),
        ),
    ),
)
