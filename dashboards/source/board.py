"""Boards: rows of panels, variables, annotations and links, as Grafana's classic JSON."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

Json = dict[str, Any]

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
#: Columns of Grafana's grid.
WIDTH: Final = 24
#: The version of the schema that file provisioning of Grafana 11 and 12 reads without a migration of our panels.
_SCHEMA: Final = 39


def number_of(title: str) -> int:
    """The id of a panel. It follows from the title, so that links stay valid when panels around it change."""
    return 1000 + zlib.crc32(title.encode()) % 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel, and how much of the grid it covers.

    Attributes:
        title: Unique on its board: alerts link to panels by title.
        panel: The panel as Grafana's type.
        width, height: In columns, and in rows of 30 pixels and a gap of 8.
        exceptions: Rules of dashboard-linter that do not hold for it, each with the reason.
    """

    title: str
    panel: model.Panel
    width: int
    height: int
    exceptions: dict[str, str] = field(default_factory=dict)

    def to_json(self, x: int, y: int) -> Json:
        """The panel at a position of the grid."""
        self.panel.id_val = number_of(self.title)
        self.panel.grid_pos = model.GridPos(h=self.height, w=self.width, x=x, y=y)
        return _json(self.panel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels, placed from left to right.

    Attributes:
        title: Shown above them; empty for the first panels of a board, which have no header.
        is_collapsed: Whether it is closed until somebody opens it.
    """

    panels: tuple[Panel, ...]
    title: str = ""
    is_collapsed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable that is filled by `label_values(query, label)`.

    Attributes:
        all_value: What 'All' stands for: `.*` where the label may be absent.
    """

    name: str
    label: str
    query: str
    all_value: str

    def to_json(self) -> Json:
        """The variable as JSON."""
        one = (
            build.QueryVariable(self.name)
            .label(self.label)
            .datasource(DATASOURCE)
            .query({"query": self.query, "refId": f"variable-{self.name}"})
            .include_all(True)
            .all_value(self.all_value)
            .multi(True)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )
        return _json(one.build()) | {"definition": self.query, "current": {}, "regex": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Marks on the time axis at the moments at which the expression begins to have a value.

    Grafana draws a region where an annotation has values at consecutive steps, so that one that lasts would colour
    the whole graph. `unless … offset` keeps the first step only.
    """

    name: str
    expr: str
    color: str
    title: str
    step_s: int = 60

    def to_json(self) -> Json:
        """The annotation as JSON; the last fields are those of Grafana's Prometheus data source."""
        one = (
            build.AnnotationQuery()
            .name(self.name)
            .datasource(DATASOURCE)
            .enable(True)
            .icon_color(self.color)
            .expr(f"({self.expr}) unless ({_offset(self.expr, self.step_s)})")
        )
        # A boolean: Grafana takes any text, "false" as well, for true.
        extra = {"titleFormat": self.title, "step": f"{self.step_s}s", "useValueForTime": False}
        return _json(one.build()) | extra


def _offset(expr: str, seconds: int) -> str:
    """The same expression some seconds earlier, as a subquery: it may contain aggregations."""
    return f"last_over_time(({expr})[{seconds}s:{seconds}s] offset {seconds}s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board.

    Attributes:
        rows: The first one is open and has no header.
        time_from: Start of the time range.
    """

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    rows: tuple[Row, ...]
    time_from: str = "now-1h"

    def placed(self) -> Iterator[tuple[Row | Panel, int, int]]:
        """Rows and panels with their column and line."""
        y = 0
        for row in self.rows:
            if row.title:
                yield row, 0, y
                y += 1
            x = line = 0
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y, line = 0, y + line, 0
                yield panel, x, y
                x += panel.width
                line = max(line, panel.height)
            y += line

    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows for panel in row.panels]

    def _panels(self) -> list[Json]:
        found: list[Json] = []
        into = found
        for item, x, y in self.placed():
            if isinstance(item, Panel):
                into.append(item.to_json(x, y))
                continue
            row = _json(build.Row(item.title).collapsed(item.is_collapsed).build())
            row |= {"id": number_of(f"row {item.title}"), "gridPos": {"h": 1, "w": WIDTH, "x": x, "y": y}, "panels": []}
            found.append(row)
            # Grafana keeps the panels of a collapsed row inside of it.
            into = row["panels"] if item.is_collapsed else found
        return found

    def to_json(self) -> Json:
        """The board as JSON."""
        source = build.DatasourceVariable("datasource").label("Data source").type("prometheus")
        link = (
            build.DashboardLink("jitwatch")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["jitwatch"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
            .tooltip("The other dashboards, with the same job, run and time range")
        )
        board = (
            build.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags(["jitwatch"])
            .version(1)
            .readonly()
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .refresh("30s")
            .time(self.time_from, "now")
            .link(link)
        )
        return _json(board.build()) | {
            "schemaVersion": _SCHEMA,
            "annotations": {"list": [one.to_json() for one in self.annotations]},
            "templating": {
                "list": [_json(source.build()) | {"current": {}}, *(one.to_json() for one in self.variables)]
            },
            "panels": self._panels(),
        }


def _json(built: Any) -> Json:
    found: Json = json.loads(json.dumps(built, cls=JSONEncoder))
    return found
