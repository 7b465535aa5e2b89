"""Recording and alerting rules: what one is, and how it becomes Prometheus's YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import yaml

from dashboards.source.board import number_of
from dashboards.source.queries import every
from dashboards.source.settings import FLEET, FUNCTION, GRAFANA_URL, JOB, PROCESS, RUNBOOKS_URL

Severity = Literal["critical", "warning", "info", "none"]

#: A process, in the words of a description.
HERE: Final = "on {{ $labels.instance }} (job {{ $labels.job }}, run {{ $labels.run }})"

#: Variables of the boards that an alert's labels fill.
_LINKED: Final = {
    FLEET: ("job", "run"),
    JOB: ("job", "run", "instance"),
    FUNCTION: ("job", "run", "instance", "function"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A query that Prometheus answers in advance."""

    record: str
    expr: str

    def to_json(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {"record": self.record, "expr": _Expression(self.expr)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition that raises an alert.

    Attributes:
        name: The same for all rules about one problem; each name has a runbook.
        expr: Its labels name what is affected; job, run and instance where they exist.
        hold: How long it must be true.
        severity: critical pages, warning is for working hours, info is a notice.
        summary: One line, for a list.
        description: A sentence or two, with the name of the function and the figure.
        board, panel: Where to look.
        linked: Labels that the link passes on; those that the alert has.
        labels: Further labels.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    summary: str
    description: str
    board: str
    panel: str
    linked: tuple[str, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def dashboard_url(self) -> str:
        """Link to the panel, with the variables that the alert's labels fill."""
        names = _LINKED[self.board] if self.linked is None else self.linked
        # urlquery: the name of a function may hold <, @, quotes or blanks.
        variables = "".join(f"&var-{name}={{{{ $labels.{name} | urlquery }}}}" for name in names)
        return f"{GRAFANA_URL}/d/{self.board}?viewPanel={number_of(self.panel)}{variables}"

    def to_json(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": _Expression(self.expr),
            **({} if self.hold == "0m" else {"for": self.hold}),
            "labels": {"severity": self.severity, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "dashboard_url": self.dashboard_url,
                "runbook_url": f"{RUNBOOKS_URL}/{self.name}.md",
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rules that are evaluated together, one after the other.

    Attributes:
        interval: Time between two evaluations, if it is not that of the configuration.
    """

    name: str
    rules: tuple[Recording | Alert, ...]
    interval: str = ""

    def to_json(self) -> dict[str, Any]:
        """The group as Prometheus reads it."""
        interval = {"interval": self.interval} if self.interval else {}
        return {"name": self.name, **interval, "rules": [rule.to_json() for rule in self.rules]}


class _Expression(str):
    """A text that is written in lines of its own."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes expressions as blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """The same text may occur in several rules."""
        return True


_Dumper.add_representer(
    _Expression, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def to_yaml(groups: tuple[Group, ...], heading: str) -> str:
    """A file of rules."""
    return _yaml({"groups": [group.to_json() for group in groups]}, heading)


def to_operator_yaml(groups: tuple[Group, ...], heading: str) -> str:
    """The same rules as an object of the Prometheus operator."""
    head = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "jitwatch"},
        "spec": {"groups": [group.to_json() for group in groups]},
    }
    return _yaml(head, heading)


def _yaml(content: dict[str, Any], heading: str) -> str:
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"# {heading}\n{text}"


# Conditions that several alerts share


def warm(seconds: int) -> str:
    """Only of processes that have run for so long: what compiles or grows at the start is no news."""
    return f"and on ({PROCESS}) (time() - {every('start_time_seconds')} > {seconds})"


def rising(counter: str, by: str, window: str = "10m") -> str:
    """How much a counter, given by its selector, rose in the window, also where its series was born at the first event.

    `increase()` cannot see a series that is born at 1. So a series that is new counts in full, if the process
    was scraped at the window's start (else it may only have been out of reach), and so does everything that a
    process counted that is itself younger than the window.
    """
    total, before = f"sum by ({by}) ({counter})", f"sum by ({by}) ({counter} offset {window})"
    start = every("start_time_seconds")
    seconds = int(window.removesuffix("m")) * 60
    return f"""\
sum by ({by}) (increase({counter}[{window}])) > 0
or
(({total} > 0) unless {before}) and on ({PROCESS}) ({start} offset {window})
or
({total} > 0) and on ({PROCESS}) (time() - {start} < {seconds})"""
