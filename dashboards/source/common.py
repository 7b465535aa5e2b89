"""What all dashboards have: variables, annotations, links, and some panels."""

from __future__ import annotations

from typing import Final

from dashboards.source.board import Annotation, Panel, Variable
from dashboards.source.panels import Column, stat, table
from dashboards.source.queries import or_zero, select, select_any
from dashboards.source.settings import (
    BLUE,
    FUNCTION,
    JOB,
    NONE_IS_GOOD,
    ORANGE,
    RED,
    RESERVED_FUNCTIONS,
    RUNBOOKS_IN_GRAFANA,
    WHEN,
    YELLOW,
)
from jitwatch.model.thresholds import THRESHOLDS

_BUILD: Final = "jitwatch_build_info"

VARIABLES: Final = (
    Variable(name="job", label="Job", query=f"label_values({_BUILD}, job)", all_value=".+"),
    Variable(name="run", label="Run", query=f'label_values({_BUILD}{{job=~"$job"}}, run)', all_value=".*"),
    Variable(
        name="instance",
        label="Instance",
        query=f'label_values({_BUILD}{{job=~"$job", run=~"$run"}}, instance)',
        all_value=".+",
    ),
)
FUNCTION_VARIABLE: Final = Variable(
    name="function",
    label="Function",
    query=f"label_values({select('compiles_total')}, function)",
    all_value=".+",
)

#: A matcher for the functions of the user: neither JAX's own nor a sum of several.
OF_USER: Final = f'function!~"{RESERVED_FUNCTIONS}"'
OF_FUNCTION: Final = 'function=~"$function"'

_KEEP: Final = "${datasource:queryparam}&${__url_time_range}"


def to_job(job: str = "Job", run: str = "Run") -> tuple[str, str]:
    """A link from a row of a table to the dashboard of its run."""
    place = f"var-job=${{__data.fields.{job}:percentencode}}&var-run=${{__data.fields.{run}:percentencode}}"
    return "Open this run", f"/d/{JOB}?{place}&{_KEEP}"


def to_function(*, of_row: bool = False) -> tuple[str, str]:
    """A link from a row of a table to the board of its function.

    Args:
        of_row: Take job and run from the row instead of from the variables.
    """
    run = "${job:queryparam}&${run:queryparam}"
    if of_row:
        run = "var-job=${__data.fields.Job:percentencode}&var-run=${__data.fields.Run:percentencode}"
    return (
        "Open this function",
        f"/d/{FUNCTION}?{run}&var-function=${{__data.fields.Function:percentencode}}&{_KEEP}",
    )


def marks(*, by: str) -> tuple[Annotation, ...]:
    """Recompile bursts, restarts and firing alerts, by the labels `by`."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    recompiles = select("recompiles_total", OF_USER)
    return (
        Annotation(
            name="Recompile bursts",
            expr=f"sum by ({by}) (increase({recompiles}[5m])) >= {THRESHOLDS.recompiles_bad_per_10m}",
            color=ORANGE,
            title=f"Recompile burst: {legend}",
        ),
        Annotation(
            name="Restarts",
            expr=f"sum by ({by}) (changes({select('start_time_seconds')}[2m])) > 0",
            color=BLUE,
            title=f"Restart: {legend}",
        ),
        Annotation(
            name="Firing alerts",
            expr=f"max by (alertname, {by}) ({FIRING})",
            color=RED,
            title=f"{{{{alertname}}}} {legend}",
        ),
    )


#: Alerts about a whole run have no instance.
_ALERTS_SCOPE: Final = 'job=~"$job", run=~"$run", instance=~"$instance|"'
_OURS: Final = 'alertname=~"Jitwatch.+"'
FIRING: Final = select_any("ALERTS", 'alertstate="firing"', _OURS, scope=_ALERTS_SCOPE)
_WITHOUT_INSTANCE: Final = {"target-instance-rule": "Alerts about a whole run have no instance label."}


#: Numbers of severities: a text column would sort alphabetically.
_RANKS: Final = {3: ("critical", RED), 2: ("warning", YELLOW), 1: ("info", BLUE)}
_BY: Final = "alertname, job, run, instance, function, device"


def firing(severity: str) -> str:
    """The firing alerts of a severity."""
    return select_any("ALERTS", 'alertstate="firing"', _OURS, f'severity="{severity}"', scope=_ALERTS_SCOPE)


def firing_count() -> Panel:
    """How many alerts fire."""
    return stat(
        "Firing alerts",
        "Alerts of jitwatch that fire for the selected runs. The table 'Alerts that fire now' lists them. Each alert "
        "has a runbook.",
        or_zero(f"count({FIRING})"),
        steps=NONE_IS_GOOD,
        exceptions=_WITHOUT_INSTANCE,
    )


def firing_table(height: int = 6) -> Panel:
    """Which alerts fire, the most severe first, each since when."""
    ranked = " or ".join(f"{rank} * max by ({_BY}) ({firing(text)})" for rank, (text, _) in _RANKS.items())
    since = select_any("ALERTS_FOR_STATE", _OURS, scope=_ALERTS_SCOPE)
    return table(
        "Alerts that fire now",
        "One row for each firing alert, the most severe first. Click an alert for its runbook, a run or a function "
        "for its dashboard. If the table is empty, no alert fires, or the rules are not loaded (Prometheus, Status, "
        "Rules).",
        Column("Severity", ranked, texts=_RANKS, width=90),
        Column("Alert", label="alertname", links=[("Open the runbook", _RUNBOOK)], width=250),
        Column("Since", f"1000 * max by ({_BY}) ({since}) and on ({_BY}) {FIRING}", unit=WHEN, width=130),
        Column("Function", label="function", links=[to_function(of_row=True)], width=300),
        Column("Job", label="job", width=110),
        Column("Run", label="run", links=[to_job()], width=170),
        Column("Instance", label="instance", width=170),
        Column("Device", label="device", width=90),
        sort_by="Severity",
        none="no alert fires",
        height=height,
        exceptions=_WITHOUT_INSTANCE,
    )


_RUNBOOK: Final = f"{RUNBOOKS_IN_GRAFANA}/${{__data.fields.Alert}}.md"
