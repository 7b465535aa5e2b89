"""What all dashboards have: variables, annotations, links, and some panels."""

from __future__ import annotations

from typing import Final

from dashboards.source.model import Annotation, Panel, Variable
from dashboards.source.panels import Column, stat, table
from dashboards.source.queries import select, select_any
from dashboards.source.settings import (
    BLUE,
    FUNCTION,
    JOB,
    NONE_IS_GOOD,
    ORANGE,
    RED,
    RESERVED_FUNCTIONS,
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


def to_function() -> tuple[str, str]:
    """A link from a row of a table to the dashboard of its function."""
    # The name may hold <, @ or quotes.
    return (
        "Open this function",
        f"/d/{FUNCTION}?${{job:queryparam}}&${{run:queryparam}}"
        f"&var-function=${{__data.fields.Function:percentencode}}&{_KEEP}",
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
FIRING: Final = select_any(
    "ALERTS",
    'alertstate="firing"',
    'alertname=~"Jitwatch.+"',
    scope='job=~"$job", run=~"$run", instance=~"$instance|"',
)
_WITHOUT_INSTANCE: Final = {"target-instance-rule": "Alerts about a whole run have no instance label."}


def firing_count(width: int = 3) -> Panel:
    """How many alerts fire."""
    return stat(
        "Firing alerts",
        "Alerts of jitwatch that fire for the selected runs. The table 'Alerts that fire now' lists them. Each alert "
        "has a runbook.",
        f"count({FIRING}) or vector(0)",
        steps=NONE_IS_GOOD,
        width=width,
        exceptions=_WITHOUT_INSTANCE,
    )


def firing_table(width: int = 24) -> Panel:
    """Which alerts fire."""
    return table(
        "Alerts that fire now",
        "One row for each firing alert. Its runbook describes what it means and what to do. If the table is empty, no "
        "alert fires, or the rules are not loaded (Prometheus, Status, Rules).",
        Column("Alert", label="alertname"),
        Column("Severity", label="severity"),
        Column("Job", label="job"),
        Column("Run", label="run"),
        Column("Instance", label="instance"),
        Column("Function", label="function", link=to_function()),
        Column("Device", label="device"),
        Column("Firing", f"max by (alertname, severity, job, run, instance, function, device) ({FIRING})"),
        sort_by="Severity",
        width=width,
        height=6,
        no_value="",
        exceptions=_WITHOUT_INSTANCE,
    )
