"""The kinds of panels, each with the options with which Grafana draws it so that it can be read.

What Grafana does with each option was seen in Grafana 12.3; `tests/unit/test_dashboards.py` checks each of these facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import (
    heatmap as heat,
)
from grafana_foundation_sdk.builders import (
    stat as big,
)
from grafana_foundation_sdk.builders import (
    table as tables,
)
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from dashboards.source.board import DATASOURCE, Panel
from dashboards.source.queries import counter_rises, is_present
from dashboards.source.settings import (
    BUSY_SOFT_MAX,
    COUNT,
    COUNT_STEP,
    GREEN,
    PLAIN,
    RED,
    SHARE,
    TEXT,
    Steps,
)

Form = Literal["time_series", "table", "heatmap"]
#: Seconds of missing data that a line bridges, in milliseconds: scrapes that were missed, not a process that was down.
_BRIDGED_MS: Final = 120_000.0
_NOTHING: Final = "no process reports"


def _target(
    expr: str, legend: str = "", *, is_instant: bool = False, form: Form = "time_series", step: str = ""
) -> prometheus.Dataquery:
    one = (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .editor_mode(QueryEditorMode.CODE)
        .expr(expr)
        .format(PromQueryFormat(form))
        .legend_format(legend or "__auto")
    )
    one = one.instant() if is_instant else one.range()
    return one.interval(step) if step else one


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def _color(mode: model.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def _panel(
    builder: Any,
    targets: Sequence[prometheus.Dataquery],
    *,
    title: str,
    description: str,
    unit: str,
    steps: Steps,
    no_value: str,
    width: int,
    height: int,
    exceptions: Mapping[str, str] | None,
) -> Panel:
    """What all panels have: title, description, data source, unit, thresholds, a text for no data."""
    builder = (
        builder.title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .no_value(no_value)
    )
    for position, target in enumerate(targets):
        builder = builder.with_target(target.ref_id(chr(ord("A") + position)))
    return Panel(title=title, panel=builder.build(), width=width, height=height, exceptions=dict(exceptions or {}))


def stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    width: int = 6,
    height: int = 3,
    no_value: str = _NOTHING,
    decimals: int | None = None,
    mappings: Mapping[int, tuple[str, str]] | None = None,
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """One number, at the end of the time range; `mappings` are text and colour of values.

    Without a value `no_value` is shown, in the colour of the first step, which therefore never means 'good'.
    """
    builder = (
        big.Panel()
        .reduce_options(_last())
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.NONE)
        .text_mode(options.BigValueTextMode.VALUE)
        .wide_layout(True)
        .mappings(_mappings(mappings or {}))
    )
    if decimals is not None:
        builder = builder.decimals(decimals)
    return _panel(
        builder,
        [_target(expr, is_instant=True)],
        title=title,
        description=description,
        unit=unit,
        steps=steps,
        no_value=no_value,
        width=width,
        height=height,
        exceptions=exceptions,
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def _mappings(texts: Mapping[int, tuple[str, str]]) -> list[model.ValueMapping]:
    if not texts:
        return []
    found = {
        str(value): model.ValueMappingResult(text=text, color=color, index=position)
        for position, (value, (text, color)) in enumerate(texts.items())
    }
    return [model.ValueMap(options=found)]


def _over_time(
    queries: Sequence[tuple[str, str]],
    none: tuple[str, str],
    *,
    as_bars: bool,
    unit: str,
    steps: Steps,
    shows_limits: bool,
    lowest: float | None,
    highest: float | None,
    soft_highest: float | None,
    title: str,
    description: str,
    width: int,
    height: int,
    exceptions: Mapping[str, str] | None,
) -> Panel:
    legend = (
        # A legend as a table needs 26 pixels a row: in a panel of this height its last rows are not visible.
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.LIST)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    builder = (
        timeseries.Panel()
        .draw_style(options.GraphDrawStyle.BARS if as_bars else options.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(70 if as_bars else 10)
        .show_points(options.VisibilityMode.NEVER if as_bars else options.VisibilityMode.AUTO)
        .span_nulls(_BRIDGED_MS)
        .stacking(
            common.StackingConfig()
            .mode(options.StackingMode.NORMAL if as_bars else options.StackingMode.NONE)
            .group("A")
        )
        .thresholds_style(
            common.GraphThresholdsStyleConfig().mode(
                options.GraphThresholdsStyleMode.DASHED if shows_limits else options.GraphThresholdsStyleMode.OFF
            )
        )
        .color_scheme(_color(model.FieldColorModeId.PALETTE_CLASSIC))
        .legend(legend)
        .tooltip(tooltip)
    )
    if lowest is not None:
        builder = builder.min(lowest).axis_soft_min(lowest)
    if highest is not None:
        builder = builder.max(highest)
    elif soft_highest is not None:
        # Without it the axis of an idle job reaches 10,000 % or 100 s.
        builder = builder.axis_soft_max(soft_highest)
    step = COUNT_STEP if as_bars else ""
    text, absent = none
    # Of an empty answer Grafana only says that it has no time field: this series names the reason in the legend.
    shown = (*queries, (f"vector(NaN) unless on () ({absent})", text))
    targets = [_target(expr, name, step=step) for expr, name in shown]
    return _panel(
        builder,
        targets,
        title=title,
        description=description,
        unit=unit,
        steps=steps,
        no_value=text,
        width=width,
        height=height,
        exceptions=exceptions,
    )


def lines(
    title: str,
    description: str,
    *queries: tuple[str, str],
    of: str,
    none: str = _NOTHING,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    width: int = 12,
    height: int = 7,
    shows_limits: bool = False,
    lowest: float | None = 0,
    highest: float | None = None,
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """Lines over time, of expressions with their legends.

    The panel is empty without the metric that `of` selects; `none` says what that means, in the legend.
    """
    return _over_time(
        queries,
        (none, is_present(of)),
        as_bars=False,
        unit=unit,
        steps=steps,
        shows_limits=shows_limits,
        lowest=lowest,
        highest=highest,
        soft_highest=BUSY_SOFT_MAX if unit == SHARE else 1,
        title=title,
        description=description,
        width=width,
        height=height,
        exceptions=exceptions,
    )


def bars(
    title: str,
    description: str,
    *queries: tuple[str, str],
    of: str,
    none: str,
    unit: str = COUNT,
    width: int = 12,
    height: int = 7,
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """Stacked bars of what happened in each interval, of expressions of `queries.rise` with their legends.

    Their sum is the increase of the counter that `of` selects; `none` says that there was none, in the legend.
    """
    return _over_time(
        queries,
        (none, counter_rises(of)),
        as_bars=True,
        unit=unit,
        steps=PLAIN,
        shows_limits=False,
        lowest=0,
        highest=None,
        soft_highest=1,
        title=title,
        description=description,
        width=width,
        height=height,
        exceptions=exceptions,
    )


def worst(
    title: str,
    description: str,
    expr: str,
    label: str,
    *,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    width: int = 8,
    height: int = 8,
    none: str,
) -> Panel:
    """Horizontal bars, the longest first, each with the value of a label as its name."""
    builder = (
        bargauge.Panel()
        .reduce_options(_last())
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .orientation(options.VizOrientation.HORIZONTAL)
        .value_mode(options.BarGaugeValueMode.COLOR)
        # Grafana does not draw the name of a single bar without a display name, and only obeys the heights of bars
        # where their sizing is manual.
        .display_name(f"${{__field.labels.{label}}}")
        .name_placement(options.BarGaugeNamePlacement.LEFT)
        .sizing(options.BarGaugeSizing.MANUAL)
        .min_viz_height(16)
        .max_viz_height(24)
        .min_viz_width(8)
        .show_unfilled(True)
        .min(0)
        .color_scheme(_color(model.FieldColorModeId.THRESHOLDS))
    )
    return _panel(
        builder,
        # Grafana keeps the order of an instant query.
        [_target(f"sort_desc({expr})", f"{{{{{label}}}}}", is_instant=True)],
        title=title,
        description=description,
        unit=unit,
        steps=steps,
        no_value=none,
        width=width,
        height=height,
        exceptions=None,
    )


def timeline(
    title: str,
    description: str,
    expr: str,
    legend: str,
    *,
    of: str,
    none: str,
    on: str,
    off: str,
    colors: tuple[str, str] = (RED, GREEN),
    width: int = 12,
    height: int = 6,
) -> Panel:
    """Bands over time of something that is or is not; `colors` of `on` and of `off`."""
    builder = (
        statetimeline.Panel()
        .fill_opacity(70)
        .line_width(0)
        .row_height(0.85)
        .merge_values(True)
        .show_value(options.VisibilityMode.AUTO)
        .align_value(options.TimelineValueAlignment.LEFT)
        .legend(common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).show_legend(False))
        # With colours by thresholds and merged values Grafana ignores the mappings.
        .color_scheme(_color(model.FieldColorModeId.PALETTE_CLASSIC))
        .mappings(_mappings({0: (off, colors[1]), 1: (on, colors[0])}))
    )
    absent = f"vector(NaN) unless on () ({is_present(of)})"
    return _panel(
        builder,
        [_target(expr, legend), _target(absent, none)],
        title=title,
        description=description,
        unit=COUNT,
        steps=PLAIN,
        no_value=none,
        width=width,
        height=height,
        exceptions=None,
    )


def heatmap(
    title: str, description: str, expr: str, *, unit: str, none: str, width: int = 12, height: int = 7
) -> Panel:
    """How values are spread over time, from the buckets of a histogram: `unit` is that of the buckets."""
    color = (
        heat.HeatmapColorOptions()
        .mode(heat_model.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heat_model.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
        .fill("dark-orange")
        .reverse(False)
    )
    builder = (
        heat.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(color)
        .filter_values(heat.FilterValueRange().le(1e-9))
        .show_legend()
        .rows_frame(heat.RowsHeatmapOptions().layout(options.HeatmapCellLayout.AUTO))
        .mode(options.TooltipDisplayMode.SINGLE)
        .show_y_histogram()
        .y_axis(heat.YAxisConfig().axis_placement(options.AxisPlacement.LEFT).unit(unit))
    )
    return _panel(
        builder,
        [_target(expr, "{{le}}", form="heatmap", step=COUNT_STEP)],
        title=title,
        description=description,
        # Of the cells.
        unit=COUNT,
        steps=PLAIN,
        no_value=none,
        width=width,
        height=height,
        exceptions=None,
    )


class Column:
    """A column of a table: a label of its rows, or the value of a query.

    Args:
        name: Its heading.
        expr: The query; None for a label.
        label: The label; None for a number.
        unit: Grafana's unit.
        steps: Colours of the cell's text; None for plain text.
        links: Titles and addresses that a click offers.
        width: Least width in pixels, if the heading does not need more.
        texts: Text and colour of values.
        is_hidden: Whether the column is only there to sort by.
    """

    def __init__(
        self,
        name: str,
        expr: str | None = None,
        *,
        label: str | None = None,
        unit: str = COUNT,
        steps: Steps | None = None,
        links: Sequence[tuple[str, str]] = (),
        width: int = 60,
        texts: Mapping[int, tuple[str, str]] | None = None,
        is_hidden: bool = False,
    ) -> None:
        self.name, self.expr, self.label = name, expr, label
        self.unit = unit if expr is not None else TEXT
        # A heading needs 8 pixels a character.
        self.steps, self.links, self.width = steps, links, max(width, 8 * len(name) + 16)
        self.texts, self.is_hidden = texts or {}, is_hidden

    def properties(self) -> list[model.DynamicConfigValue]:
        """The field options of this column's cells."""
        found: dict[str, object] = {"unit": self.unit, "custom.minWidth": self.width}
        if self.steps is not None:
            found["thresholds"] = _thresholds(self.steps).build()
        if self.texts:
            found["mappings"] = _mappings(self.texts)
        if self.steps is not None or self.texts:
            found["custom.cellOptions"] = {"type": "color-text"}
        if self.links:
            found["links"] = [{"title": title, "url": url, "targetBlank": False} for title, url in self.links]
        if self.is_hidden:
            found["custom.hidden"] = True
        return [model.DynamicConfigValue(id_val=name, value=value) for name, value in found.items()]


def table(
    title: str,
    description: str,
    *columns: Column,
    sort_by: str,
    none: str,
    width: int = 24,
    height: int = 8,
    exceptions: Mapping[str, str] | None = None,
) -> Panel:
    """Rows that several queries fill together: those with the same labels become one row."""
    numbers = [column for column in columns if column.expr is not None]
    # The value of a single query is called 'Value', those of several 'Value #A', 'Value #B' …
    names = ["Value"] if len(numbers) == 1 else [f"Value #{chr(ord('A') + i)}" for i in range(len(numbers))]
    renamed = {column.label: column.name for column in columns if column.label is not None}
    renamed |= {name: column.name for name, column in zip(names, numbers, strict=True)}
    order = [column.name for column in columns]
    places = sorted(renamed, key=lambda old: order.index(renamed[old]))
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {old: position for position, old in enumerate(places)},
        "renameByName": renamed,
    }
    builder = (
        tables.Panel()
        .align(options.FieldTextAlignment.AUTO)
        .filterable(True)
        .min_width(90)
        .cell_height(options.TableCellHeight.SM)
        .show_header(True)
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
    )
    for column in columns:
        builder = builder.override_by_name(column.name, column.properties())
    return _panel(
        builder,
        [_target(column.expr or "", is_instant=True, form="table") for column in numbers],
        title=title,
        description=description,
        unit=COUNT,
        steps=PLAIN,
        no_value=none,
        width=width,
        height=height,
        exceptions=exceptions,
    )
