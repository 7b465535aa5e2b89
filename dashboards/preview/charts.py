"""Lines, bars and heat maps as SVG, drawn by matplotlib in Grafana's dark colours."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dashboards.preview.asking import Json, Series
from dashboards.preview.units import written

COLORS = {"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2"}
COLORS["text"] = "#5c6370"
PALETTE = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#447ebc", "#ba43a9", "#8f7ac9", "#508642", "#cca300")
_INK, _GRID = "#ccccdc", "#2c3235"
_DPI = 100

# Text as text: small files, and the browser's own font.
mpl.rcParams.update({"svg.fonttype": "none", "font.size": 8.5, "font.family": "sans-serif", "svg.hashsalt": "jitwatch"})


def lines(panel: Json, answers: Sequence[Series], span: tuple[float, float], size: tuple[int, int]) -> str:
    """A time series panel: lines with a light fill, or stacked bars.

    Args:
        panel: The panel's JSON.
        answers: What Prometheus said.
        span: Unix seconds of the time axis.
        size: Width and height in pixels.
    """
    defaults = panel["fieldConfig"]["defaults"]
    figure, axes = _axes(span, size)
    if defaults["custom"]["drawStyle"] == "bars":
        _stack(axes, answers)
    else:
        for number, one in enumerate(answers):
            color = color_of(number)
            for piece in _pieces(one.points, defaults["custom"]["spanNulls"] / 1000):
                at = [moment(when) for when, _ in piece]
                values = [value for _, value in piece]
                axes.plot(at, values, color=color, linewidth=1.1, marker="o" if len(piece) == 1 else None, markersize=3)
                axes.fill_between(at, values, color=color, alpha=0.1, linewidth=0)
    if defaults["custom"]["thresholdsStyle"]["mode"] != "off":
        for step in defaults["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=COLORS[step["color"]], linestyle="--", linewidth=1)
    low, high = axes.get_ylim()
    axes.set_ylim(defaults.get("min", low), defaults.get("max", max(high, low + 1e-9)))
    if len({value for one in answers for _, value in one.points}) <= 1 and "max" not in defaults:
        # A flat line at zero would else have an axis of millionths.
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=defaults["unit"] == "short" and axes.get_ylim()[1] >= 5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, defaults["unit"])))
    return _svg(figure)


def heat(panel: Json, answers: Sequence[Series], span: tuple[float, float], size: tuple[int, int]) -> str:
    """A heat map of the buckets of a histogram, which Prometheus gives as cumulative counts by `le`."""
    figure, axes = _axes(span, size)
    rows = sorted(answers, key=lambda one: float(one.labels["le"]))
    times = sorted({when for one in rows for when, _ in one.points})
    grid = np.zeros((len(rows), len(times)))
    for row, one in enumerate(rows):
        values = dict(one.points)
        grid[row] = [values.get(when, 0.0) for when in times]
    counts = np.diff(grid, axis=0, prepend=0.0).clip(min=0.0)
    step = min(np.diff(times), default=1.0) if len(times) > 1 else 60.0
    edges = [moment(when - step) for when in times] + [moment(times[-1])]
    # Strongly uneven counts are seen better by their root.
    shown = np.ma.masked_less_equal(np.sqrt(counts), 0.0)
    axes.pcolormesh(edges, np.arange(len(rows) + 1), shown, cmap="Oranges_r", rasterized=False)
    axes.set_yticks(np.arange(len(rows)) + 1.0)
    unit = panel["options"]["yAxis"]["unit"]
    axes.set_yticklabels([written(float(one.labels["le"]), unit) for one in rows], fontsize=7)
    used = np.flatnonzero(counts.sum(axis=1))
    if len(used):
        axes.set_ylim(max(0, used[0] - 1), used[-1] + 2)
    return _svg(figure)


def color_of(number: int) -> str:
    """The colour of the line with this number."""
    return PALETTE[number % len(PALETTE)]


def moment(when: float) -> float:
    """Unix seconds as what an axis of time takes: days."""
    return when / 86_400


def _stack(axes: Any, answers: Sequence[Series]) -> None:
    times = sorted({when for one in answers for when, _ in one.points})
    width = min(np.diff(times), default=60.0) / 86_400 if len(times) > 1 else 60.0 / 86_400
    bottom = np.zeros(len(times))
    for number, one in enumerate(answers):
        values = dict(one.points)
        heights = np.array([values.get(when, 0.0) for when in times])
        axes.bar([moment(when) for when in times], heights, width, bottom, color=color_of(number), align="edge")
        bottom += heights


def _pieces(points: Sequence[tuple[float, float]], gap_s: float) -> list[list[tuple[float, float]]]:
    """The points between gaps of more than so many seconds; infinite ones left out."""
    found: list[list[tuple[float, float]]] = []
    for when, value in points:
        if math.isinf(value):
            continue
        if not found or when - found[-1][-1][0] > gap_s:
            found.append([])
        found[-1].append((when, value))
    return found


def _axes(span: tuple[float, float], size: tuple[int, int]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.set_xlim(moment(span[0]), moment(span[1]))
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=7))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M" if span[1] - span[0] > 600 else "%H:%M:%S"))
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]
