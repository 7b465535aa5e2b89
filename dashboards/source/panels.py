"""The kinds of panels that the boards use, each with the options that make it readable."""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.source.model import Json, Panel, Query
from dashboards.source.settings import COUNT, GREEN, NONE_IS_GOOD, PLAIN, RED, SHARE, TEXT, YES_NO, Steps


def stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    width: int = 3,
    no_value: str = "0",
    decimals: int | None = None,
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """One number, now."""
    return Panel(
        kind="stat",
        title=title,
        description=description,
        queries=(Query(expr=expr, is_instant=True),),
        unit=unit,
        width=width,
        height=4,
        steps=steps,
        no_value=no_value,
        defaults={} if decimals is None else {"decimals": decimals},
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "value",
            "wideLayout": True,
        },
        exceptions=dict(exceptions or {}),
    )


def series(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = COUNT,
    steps: Steps = PLAIN,
    width: int = 12,
    height: int = 8,
    no_value: str = "no data in this time range",
    as_bars: bool = False,
    shows_limits: bool = False,
    lowest: float | None = 0,
    highest: float | None = None,
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """Lines over time, or stacked bars of what happened in each interval; (expression, legend) each."""
    custom: Json = {
        "drawStyle": "bars" if as_bars else "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 70 if as_bars else 10,
        "showPoints": "never" if as_bars else "auto",
        "pointSize": 4,
        # A gap is a gap: a process that was down shows as one, and scrapes that were missed do not.
        "spanNulls": 120_000,
        "stacking": {"mode": "normal" if as_bars else "none", "group": "A"},
        "axisPlacement": "auto",
        "axisLabel": "",
        "scaleDistribution": {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if shows_limits else "off"},
    }
    defaults: Json = {"color": {"mode": "palette-classic"}}
    if lowest is not None:
        defaults["min"] = lowest
    if highest is not None:
        defaults["max"] = highest
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        queries=tuple(Query(expr=expr, legend=legend) for expr, legend in queries),
        unit=unit,
        width=width,
        height=height,
        steps=steps,
        no_value=no_value,
        custom=custom,
        defaults=defaults,
        options={
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        exceptions=dict(exceptions or {}),
    )


def worst(
    title: str,
    description: str,
    expr: str,
    legend: str,
    *,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    width: int = 8,
    height: int = 8,
    no_value: str = "none",
    highest: float | None = None,
) -> Panel:
    """Horizontal bars, the longest first."""
    defaults: Json = {"min": 0, "color": {"mode": "thresholds"}}
    if highest is not None:
        defaults["max"] = highest
    return Panel(
        kind="bargauge",
        title=title,
        description=description,
        # Grafana sorts the answer of an instant query by value only if PromQL does.
        queries=(Query(expr=f"sort_desc({expr})", legend=legend, is_instant=True),),
        unit=unit,
        width=width,
        height=height,
        steps=steps,
        no_value=no_value,
        defaults=defaults,
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "color",
            "namePlacement": "top",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizHeight": 16,
            "minVizWidth": 8,
            "maxVizHeight": 40,
        },
    )


def timeline(
    title: str,
    description: str,
    expr: str,
    legend: str,
    *,
    on: str,
    off: str,
    colors: tuple[str, str] = (RED, GREEN),
    width: int = 12,
    height: int = 6,
    no_value: str = "nothing known in this time range",
) -> Panel:
    """Bands over time of something that is or is not; `colors` of `on` and of `off`."""
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        queries=(Query(expr=expr, legend=legend),),
        unit=YES_NO,
        width=width,
        height=height,
        steps=NONE_IS_GOOD,
        no_value=no_value,
        custom={"fillOpacity": 70, "lineWidth": 0},
        defaults={
            "color": {"mode": "thresholds"},
            "mappings": [
                {
                    "type": "value",
                    "options": {
                        "0": {"text": off, "color": colors[1], "index": 0},
                        "1": {"text": on, "color": colors[0], "index": 1},
                    },
                }
            ],
        },
        options={
            "alignValue": "left",
            "mergeValues": True,
            "rowHeight": 0.85,
            "showValue": "auto",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def heatmap(title: str, description: str, expr: str, *, unit: str, width: int = 12, height: int = 8) -> Panel:
    """How values are spread over time, from the buckets of a histogram."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        queries=(Query(expr=expr, legend="{{le}}", form="heatmap"),),
        unit=unit,
        width=width,
        height=height,
        no_value="no data in this time range",
        custom={"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}},
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "fill": "dark-orange",
                "reverse": False,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
    )


class Column:
    """A column of a table: a label of its rows, or a number that a query gives.

    Args:
        name: Its heading.
        expr: The query; None for a label.
        label: The label; None for a number.
        unit: Grafana's unit.
        steps: Colours of the cell's text, None for plain text.
        link: Address that a click opens.
        is_bar: Show a bar in the cell.
    """

    def __init__(
        self,
        name: str,
        expr: str | None = None,
        *,
        label: str | None = None,
        unit: str = COUNT,
        steps: Steps | None = None,
        link: tuple[str, str] | None = None,
        is_bar: bool = False,
    ) -> None:
        self.name, self.expr, self.label = name, expr, label
        self.unit = unit if expr is not None else TEXT
        self.steps, self.link, self.is_bar = steps, link, is_bar

    def override(self) -> Json:
        """The field options of this column's cells."""
        properties: list[Json] = [{"id": "unit", "value": self.unit}]
        if self.steps is not None:
            steps = [{"color": color, "value": value} for value, color in self.steps]
            properties += [
                {"id": "thresholds", "value": {"mode": "absolute", "steps": steps}},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
        if self.is_bar:
            cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
            properties += [{"id": "custom.cellOptions", "value": cell}, {"id": "min", "value": 0}]
            if self.unit == SHARE:
                properties.append({"id": "max", "value": 1})
        if self.link is not None:
            title, url = self.link
            properties.append({"id": "links", "value": [{"title": title, "url": url, "targetBlank": False}]})
        return {"matcher": {"id": "byName", "options": self.name}, "properties": properties}


def table(
    title: str,
    description: str,
    *columns: Column,
    sort_by: str,
    width: int = 24,
    height: int = 9,
    no_value: str = "-",
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """Rows that several queries fill together: those with the same labels become one row."""
    numbers = [column for column in columns if column.expr is not None]
    labels = [column for column in columns if column.label is not None]
    # With one query Grafana calls its number 'Value', with several 'Value #A', 'Value #B' …
    value_names = ["Value"] if len(numbers) == 1 else [f"Value #{chr(ord('A') + i)}" for i in range(len(numbers))]
    renamed = {column.label: column.name for column in labels} | {
        name: column.name for name, column in zip(value_names, numbers, strict=True)
    }
    order = {
        old: position for position, old in enumerate(sorted(renamed, key=lambda old: _place(columns, renamed[old])))
    }
    return Panel(
        kind="table",
        title=title,
        description=description,
        queries=tuple(Query(expr=column.expr or "", is_instant=True, form="table") for column in numbers),
        unit=COUNT,
        width=width,
        height=height,
        no_value=no_value,
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True, "inspect": False},
        overrides=tuple(column.override() for column in columns),
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
            "sortBy": [{"displayName": sort_by, "desc": True}],
        },
        transformations=(
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": renamed},
            },
        ),
        exceptions=dict(exceptions or {}),
    )


def _place(columns: tuple[Column, ...], name: str) -> int:
    return next(position for position, column in enumerate(columns) if column.name == name)
