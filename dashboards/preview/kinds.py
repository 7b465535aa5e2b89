"""The kinds of panels as HTML. Nothing to show gives the panel's own text for that, as in Grafana."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from dashboards.preview import charts
from dashboards.preview.asking import Json, Question, Series
from dashboards.preview.units import written

_MOST_LINES, _MOST_BARS, _MOST_ROWS = 6, 12, 14
#: Pixels of a legend's line, and those around a chart.
_LEGEND_LINE, _MARGIN = 19, 44
Size = tuple[int, int]


def body(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    """What a panel shows, as HTML.

    Args:
        panel: Its JSON.
        answers: Answers to its queries.
        question: What was asked.
        size: Width and height of the panel, pixels.
    """
    if not any(one.points for one in answers):
        return f'<div class="nothing">{escape(panel["fieldConfig"]["defaults"]["noValue"])}</div>'
    return _KINDS[panel["type"]](panel, answers, question, size)


def _stat(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = answers[0].last
    text = written(value, defaults["unit"], now=question.end)
    # As large as fits, as Grafana does it.
    pixels = min(30, round(1.5 * size[0] / max(len(text), 1)))
    return f'<div class="stat" style="font-size:{pixels}px;color:{color_by(defaults, value)}">{escape(text)}</div>'


def _series(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    legend = [
        f'<tr><td><i style="background:{charts.color_of(number)}"></i>{escape(one.legend)}</td>'
        f"<td>{written(one.last, unit)}</td><td>{written(max(v for _, v in one.points), unit)}</td></tr>"
        for number, one in enumerate(answers)
        if one.points
    ]
    shown = legend[:_MOST_LINES]
    if len(legend) > len(shown):
        shown.append(f"<tr><td>… and {len(legend) - len(shown)} more</td><td></td><td></td></tr>")
    below = _LEGEND_LINE * (len(shown) + 1)
    chart = charts.lines(panel, answers, (question.start, question.end), (size[0] - 20, size[1] - _MARGIN - below))
    head = "<tr><th></th><th>last</th><th>max</th></tr>"
    return f'{chart}<table class="legend">{head}{"".join(shown)}</table>'


def _heatmap(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    return charts.heat(panel, answers, (question.start, question.end), (size[0] - 20, size[1] - _MARGIN))


def _bars(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    longest = defaults.get("max") or max((one.last for one in answers), default=0.0) or 1.0
    rows = [
        f'<div class="bar"><span>{escape(one.legend)}</span><div><b style="width:{100 * one.last / longest:.1f}%;'
        f'background:{color_by(defaults, one.last)}"></b><em>{written(one.last, defaults["unit"])}</em></div></div>'
        for one in answers[:_MOST_BARS]
    ]
    return "".join(rows)


def _timeline(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    rows = []
    for one in answers[:_MOST_BARS]:
        bands = []
        for (when, value), following in zip(one.points, [*one.points[1:], None], strict=True):
            until = following[0] if following is not None else when + question.step_s
            left, width = ((when - question.start) / question.seconds, (until - when) / question.seconds)
            state = mapping["options"].get(f"{value:g}", {"text": f"{value:g}", "color": "yellow"})
            bands.append(
                f'<b title="{escape(state["text"])}" style="left:{100 * left:.2f}%;width:{100 * width + 0.1:.2f}%;'
                f'background:{charts.COLORS[state["color"]]}"></b>'
            )
        rows.append(f'<div class="band"><span>{escape(one.legend)}</span><div>{"".join(bands)}</div></div>')
    key = " ".join(
        f'<i style="background:{charts.COLORS[state["color"]]}"></i>{escape(state["text"])}'
        for state in mapping["options"].values()
    )
    return f'<div class="bands">{"".join(rows)}<p>{key}</p></div>'


def _table(panel: Json, answers: Sequence[Series], question: Question, size: Size) -> str:
    (organize,) = (one["options"] for one in panel["transformations"] if one["id"] == "organize")
    names: dict[str, str] = organize["renameByName"]
    columns = [names[old] for old in sorted(names, key=lambda old: organize["indexByName"][old])]
    rows = [
        {names[key]: value for key, value in row.items() if key in names} for row in _merged(answers, panel["targets"])
    ]
    (sort,) = panel["options"]["sortBy"]
    rows.sort(key=lambda row: _order(row.get(sort["displayName"])), reverse=sort["desc"])
    settings = _settings(panel)
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = [
        "<tr>" + "".join(_cell(row.get(name), settings.get(name, {}), question) for name in columns) + "</tr>"
        for row in rows[:_MOST_ROWS]
    ]
    return f'<table class="rows"><tr>{head}</tr>{"".join(lines)}</table>'


def _merged(answers: Sequence[Series], targets: Sequence[Json]) -> list[dict[str, Any]]:
    """What Grafana's transformation 'merge' does: answers with the same labels are one row."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for one in answers:
        key = tuple(sorted(one.labels.items()))
        name = "Value" if len(targets) == 1 else f"Value #{one.ref}"
        rows.setdefault(key, dict(one.labels))[name] = one.last
    return list(rows.values())


def _settings(panel: Json) -> dict[str, Json]:
    """What is set for each column, by its heading."""
    return {
        one["matcher"]["options"]: {setting["id"]: setting["value"] for setting in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, float) and not math.isnan(value)
    return is_number, value if is_number else 0.0, value if isinstance(value, str) else ""


def _cell(value: Any, settings: Json, question: Question) -> str:
    if value is None:
        return "<td>-</td>"
    if isinstance(value, str):
        is_link = ' class="link"' if "links" in settings else ""
        return f"<td{is_link}>{escape(value)}</td>"
    text = written(value, settings.get("unit", "short"), now=question.end)
    color = color_by(settings, value) if "thresholds" in settings else "inherit"
    return f'<td class="number" style="color:{color}">{escape(text)}</td>'


def color_by(settings: Json, value: float) -> str:
    """The colour of the last step that the value has reached."""
    reached = [step for step in settings["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
    return charts.COLORS[reached[-1]["color"]]


_KINDS: dict[str, Callable[[Json, Sequence[Series], Question, Size], str]] = {
    "stat": _stat,
    "timeseries": _series,
    "heatmap": _heatmap,
    "bargauge": _bars,
    "state-timeline": _timeline,
    "table": _table,
}
