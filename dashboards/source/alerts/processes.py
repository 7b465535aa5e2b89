"""Alerts about processes, about targets, and about the agent itself."""

from __future__ import annotations

from typing import Final

from dashboards.source.queries import every, targets_down
from dashboards.source.recordings import PROCESSES_OF_RUN
from dashboards.source.rules import HERE, Alert, Group, rising
from dashboards.source.settings import FLEET, FUNCTION, JOB, LAST_CALL_S, PROCESS, RESTARTS_1H, RUN

#: Without compiles in progress: other alerts report those.
_QUIET: Final = f"and on ({PROCESS}) (max by ({PROCESS}) ({every('compiles_in_progress')}) == 0)"

_NUMBER: Final = every("programs")
_DISTRIBUTED: Final = f"{PROCESSES_OF_RUN} > 1"


def _differs(metric: str) -> str:
    """Whether a value differs between the processes of a run."""
    return f"max by ({RUN}) ({metric}) != min by ({RUN}) ({metric})"


#: Whether all processes have compiled the same number of programs for the devices of all processes.
_AS_MANY: Final = f"max by ({RUN}) ({_NUMBER}) == min by ({RUN}) ({_NUMBER})"
_PROGRAMS: Final = every("programs_fingerprint")
_COMPILING: Final = every("compiling_fingerprint") + " > 0"
#: Number of compiles of a function that every process compiled equally often, if their latest programs differ.
_OTHER_PROGRAMS: Final = f"""\
jitwatch:compiles:max
and on ({RUN}, function) (jitwatch:compiles:max == jitwatch:compiles:min)
and on ({RUN}, function) jitwatch:program_fingerprint:differs
and on ({RUN}, function) (jitwatch:compiles:processes == on ({RUN}) group_left () {PROCESSES_OF_RUN})"""
#: Threads that compile at the same time may do so in any order.
_IN_PROGRESS: Final = f"max by ({RUN}) ({every('compiles_in_progress')})"

PROCESSES: Final = Group(
    name="jitwatch.processes",
    rules=(
        Alert(
            name="JitwatchProgramsDiverge",
            expr=_OTHER_PROGRAMS,
            hold="1m",
            severity="critical",
            labels={"evidence": "function"},
            summary="The processes of run {{ $labels.run }} compiled different programs of {{ $labels.function }}",
            description="Every process of job {{ $labels.job }}, run {{ $labels.run }} has compiled "
            "{{ $labels.function }} {{ $value | humanize }} times, but the programs differ. They run on the devices of "
            "all processes, which wait for each other: the job hangs, or its results are wrong. jitwatch report on the "
            "event logs of all processes names the first difference.",
            board=FUNCTION,
            panel="Compiles, by process",
            linked=("job", "run", "function"),
        ),
        Alert(
            name="JitwatchProgramsDiverge",
            expr=f"""\
({_AS_MANY})
and on ({RUN}) ({_differs(_PROGRAMS)})
and on ({RUN}) ({_DISTRIBUTED})
unless on ({RUN}) ({_OTHER_PROGRAMS})""",
            # Later than the alert that names the function, whose comparison is made once a minute.
            hold="2m",
            severity="critical",
            labels={"evidence": "programs"},
            summary="The processes of run {{ $labels.run }} compiled different programs",
            description="Every process of job {{ $labels.job }}, run {{ $labels.run }} has compiled "
            "{{ $value | humanize }} programs for the devices of all processes, but the programs, the XLA flags or the "
            "versions of jaxlib differ. jitwatch report on the event logs of all processes names the first "
            "difference.",
            board=JOB,
            panel="Difference between processes",
            linked=("job", "run"),
        ),
        Alert(
            name="JitwatchProgramsDiverge",
            expr=f"""\
({_AS_MANY})
and on ({RUN}) (max by ({RUN}) ({_COMPILING}) != min by ({RUN}) ({_COMPILING}))
and on ({RUN}) ({_IN_PROGRESS} == 1)
and on ({RUN}) ({_DISTRIBUTED})
unless on ({RUN}) ({_differs(_PROGRAMS)})""",
            hold="1m",
            severity="critical",
            labels={"evidence": "compiling"},
            summary="The processes of run {{ $labels.run }} are compiling different programs",
            description="The processes of job {{ $labels.job }}, run {{ $labels.run }} have compiled the same "
            "{{ $value | humanize }} programs, and are now compiling different programs for the devices of all "
            "processes. They will wait for each other. The live page of each process shows what it is compiling.",
            board=JOB,
            panel="Difference between processes",
            linked=("job", "run"),
        ),
        Alert(
            name="JitwatchProcessesDiverge",
            expr="jitwatch:compiles:spread > 0",
            hold="30m",
            severity="warning",
            summary="The processes of run {{ $labels.run }} compile {{ $labels.function }} differently",
            description="One process of job {{ $labels.job }}, run {{ $labels.run }} compiled {{ $labels.function }} "
            "{{ $value | humanize }} more times than another, for 30 minutes. Processes that run different "
            "programs may wait for each other in a collective.",
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
            description=f"No training step for 15 minutes {HERE}, and no compile in progress. The job hangs, writes a "
            "checkpoint, waits for data, or has finished without ending its process.",
            board=JOB,
            panel="Steps/s, by process",
        ),
        # Without step() progress is unknown: a long scan, a notebook and a finished job cannot be distinguished.
        Alert(
            name="JitwatchNoProgress",
            expr=f"""\
time() - max by ({PROCESS}) ({every("last_call_timestamp_seconds")}) > {LAST_CALL_S}
unless on ({PROCESS}) {every("steps_total")}
{_QUIET}""",
            hold="15m",
            severity="info",
            summary="No call on {{ $labels.instance }} for {{ $value | humanizeDuration }}",
            description=f"No function that donates has been called for {{{{ $value | humanizeDuration }}}} {HERE}, and "
            f"no compile is in progress. A long scan, an idle notebook and a finished job have the same symptom. Call "
            f"jitwatch.step() in the training loop to distinguish them.",
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
            "within the last two hours and cannot be scraped now. They were killed, crashed, or are unreachable.",
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
            panel="Processes of the run",
        ),
    ),
)

AGENT: Final = Group(
    name="jitwatch.agent",
    rules=(
        Alert(
            name="JitwatchAgentErrors",
            expr=f"""\
{rising(every("agent_errors_total"), f"{PROCESS}, component")}
or
{rising(every("agent_events_dropped_total"), f"{PROCESS}, reason")}""",
            hold="0m",
            severity="warning",
            summary="A part of jitwatch fails on {{ $labels.instance }}",
            description=f"A part of the agent failed, or an event was not written {HERE}: "
            "{{ $labels.component }}{{ $labels.reason }}. The job is not affected. Its log has the traceback of the "
            "first failure of each kind.",
            board=JOB,
            panel="Errors, dropped events",
        ),
        Alert(
            name="JitwatchAgentErrors",
            expr=f"min by ({PROCESS}, probe) ({every('probe_up')}) == 0",
            hold="15m",
            severity="info",
            summary="The probe {{ $labels.probe }} does not work on {{ $labels.instance }}",
            description=f"The probe {{{{ $labels.probe }}}} is down {HERE}. Its metrics are missing. `jitwatch doctor` "
            f"shows the reason.",
            board=JOB,
            panel="Probes",
        ),
        Alert(
            name="JitwatchLabelOverflow",
            expr=f"max by ({PROCESS}) ({every('agent_label_overflow_total')}) > 0",
            hold="15m",
            severity="info",
            summary="{{ $labels.instance }} has more functions than labels",
            description=f"{{{{ $value | humanize }}}} functions {HERE} share the label __other__, because a process "
            "has at most 100 labels. The usual cause is a function that is defined in a loop.",
            board=JOB,
            panel="Processes of the run",
        ),
        Alert(
            name="Watchdog",
            expr="vector(1)",
            hold="0m",
            severity="none",
            summary="Alerting works",
            description="This alert always fires. If it stops arriving, Prometheus, Alertmanager or the receiver is "
            "down, and no other alert arrives.",
            board=FLEET,
            panel="Firing alerts",
            linked=(),
        ),
    ),
)
