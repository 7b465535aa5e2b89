"""What a board is made of, and how that becomes Grafana's classic JSON (schemaVersion 39)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from dashboards.source.settings import PLAIN, Steps

Json = dict[str, Any]
Kind = Literal["stat", "timeseries", "bargauge", "table", "heatmap", "state-timeline"]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


def number_of(title: str) -> int:
    """A panel's id: from its title, so that links to it still work when panels come and go around it."""
    return 1000 + zlib.crc32(title.encode()) % 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression of a panel.

    Attributes:
        expr: PromQL with Grafana's variables.
        legend: Text of the legend, with `{{label}}`.
        is_instant: Only the value at the end of the time range.
        form: What Grafana makes of the answer.
    """

    expr: str
    legend: str = ""
    is_instant: bool = False
    form: Literal["time_series", "table", "heatmap"] = "time_series"

    def to_json(self, ref: str) -> Json:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": self.form,
            "instant": self.is_instant,
            "legendFormat": self.legend or "__auto",
            "range": not self.is_instant,
            "refId": ref,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel, without its place.

    Attributes:
        kind: Grafana's type of panel.
        title: Unique on its board: alerts point at panels by title.
        description: What is seen, what a bad value means, what to do then.
        queries: One or more, in order.
        unit: Grafana's unit.
        width, height: In Grafana's grid of 24 columns.
        steps: Colours by value.
        no_value: What is shown where there is nothing.
        custom: `fieldConfig.defaults.custom`.
        defaults: Further `fieldConfig.defaults`.
        overrides: `fieldConfig.overrides`.
        options: `options`.
        transformations: `transformations`.
        exceptions: Rules of dashboard-linter that do not hold here, each with the reason.
    """

    kind: Kind
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    width: int
    height: int
    steps: Steps = PLAIN
    no_value: str = "none"
    custom: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    options: Json = field(default_factory=dict)
    transformations: tuple[Json, ...] = ()
    exceptions: dict[str, str] = field(default_factory=dict)

    def to_json(self, number: int, x: int, y: int) -> Json:
        steps = [{"color": color, "value": value} for value, color in self.steps]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "noValue": self.no_value,
                    "thresholds": {"mode": "absolute", "steps": steps},
                    "mappings": [],
                    "custom": self.custom,
                    **self.defaults,
                },
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "targets": [query.to_json(chr(ord("A") + position)) for position, query in enumerate(self.queries)],
            "transformations": list(self.transformations),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A titled group of panels, which flow from left to right."""

    title: str
    panels: tuple[Panel, ...]
    is_collapsed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable that is filled from the data: `label_values(query, label)`."""

    name: str
    label: str
    query: str
    #: What 'All' stands for: `.*` where the label may be absent.
    all_value: str

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": self.query, "refId": f"variable-{self.name}"},
            "definition": self.query,
            "includeAll": True,
            "allValue": self.all_value,
            "multi": True,
            "refresh": 2,
            "sort": 1,
            "hide": 0,
            "regex": "",
            "current": {},
            "options": [],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Marks on the time axis where the expression has a value."""

    name: str
    expr: str
    color: str
    title: str
    is_on: bool = True

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": self.is_on,
            "hide": False,
            "expr": self.expr,
            "iconColor": self.color,
            "titleFormat": self.title,
            "textFormat": "",
            "tagKeys": "",
            "step": "30s",
            "useValueForTime": "false",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    rows: tuple[Row, ...]
    time_from: str = "now-1h"

    def placed(self) -> Iterator[tuple[Row | Panel, int, int, int]]:
        """Rows and panels with their number, column and line, as they lie on the board."""
        y = 0
        for row in self.rows:
            yield row, number_of(f"row {row.title}"), 0, y
            y += 1
            x = line = 0
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y, line = 0, y + line, 0
                yield panel, number_of(panel.title), x, y
                x += panel.width
                line = max(line, panel.height)
            y += line

    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows for panel in row.panels]

    def _panels(self) -> list[Json]:
        found: list[Json] = []
        into = found
        for item, number, x, y in self.placed():
            if isinstance(item, Panel):
                into.append(item.to_json(number, x, y))
                continue
            row: Json = {
                "id": number,
                "type": "row",
                "title": item.title,
                "collapsed": item.is_collapsed,
                "gridPos": {"h": 1, "w": WIDTH, "x": x, "y": y},
                "panels": [],
            }
            found.append(row)
            # Grafana keeps the panels of a closed row inside of it.
            into = row["panels"] if item.is_collapsed else found
        return found

    def to_json(self) -> Json:
        datasource = {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "current": {},
            "hide": 0,
            "includeAll": False,
            "multi": False,
            "options": [],
            "refresh": 1,
            "regex": "",
        }
        link = {
            "title": "jitwatch",
            "type": "dashboards",
            "tags": ["jitwatch"],
            "asDropdown": True,
            "includeVars": True,
            "keepTime": True,
            "targetBlank": False,
            "icon": "external link",
            "tooltip": "The other boards, with the same job, run and time",
            "url": "",
        }
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["jitwatch"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": self.time_from, "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "weekStart": "",
            "fiscalYearStartMonth": 0,
            "liveNow": False,
            "links": [link],
            "annotations": {"list": [annotation.to_json() for annotation in self.annotations]},
            "templating": {"list": [datasource, *(variable.to_json() for variable in self.variables)]},
            "panels": self._panels(),
        }
