"""A board as one HTML file: each panel where it lies in Grafana's grid."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from dashboards.preview import kinds
from dashboards.preview.asking import Json, Question

#: Pixels: of the page, of a line of the grid and of the gap between panels.
WIDTH = 1600
_INNER, _LINE, _GAP = WIDTH - 16, 38, 8
_COLUMNS = 24
_HEADER = 56


class Page:
    """A board with live data.

    Attributes:
        html: The whole page.
        height: Of the page, in pixels.
        empty: Titles of panels whose queries had no answer.
    """

    def __init__(self, board: Json, question: Question) -> None:
        self._board, self._question = board, question
        self.empty: list[str] = []
        self._bottom = 0
        parts = list(self._parts())
        self.height = _HEADER + self._bottom * _LINE + _GAP
        self.html = self._html(parts)

    def _parts(self) -> Iterator[str]:
        for item in self._board["panels"]:
            grid = item["gridPos"]
            if item["type"] != "row":
                yield self._panel(item)
                continue
            yield f'<h2 style="top:{grid["y"] * _LINE}px">{escape(item["title"])}</h2>'
            # What is inside of a closed row is shown open here.
            for panel in item["panels"]:
                yield self._panel(panel)

    def _panel(self, panel: Json) -> str:
        grid = panel["gridPos"]
        column = _INNER / _COLUMNS
        width, height = round(grid["w"] * column - _GAP), grid["h"] * _LINE - _GAP
        answers = self._question.ask(self._board, panel)
        if not any(one.points for one in answers):
            self.empty.append(panel["title"])
        self._bottom = max(self._bottom, grid["y"] + grid["h"])
        place = f"left:{grid['x'] * column:.0f}px;top:{grid['y'] * _LINE}px;width:{width}px;height:{height}px"
        body = kinds.body(panel, answers, self._question, (width, height))
        title, description = escape(panel["title"]), escape(panel["description"], quote=True)
        return f'<section style="{place}" title="{description}"><h3>{title}</h3>{body}</section>'

    def _html(self, parts: list[str]) -> str:
        style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
        title = escape(self._board["title"])
        start, end = (datetime.fromtimestamp(when, tz=UTC) for when in (self._question.start, self._question.end))
        chosen = ", ".join(f"{name}: {' + '.join(values)}" for name, values in self._question.chosen.items()) or "all"
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
            f"<header><strong>{title}</strong><em>a preview with live data, not Grafana · {escape(chosen)} · "
            f"{start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC</em></header>"
            f'<main style="height:{self._bottom * _LINE}px">{"".join(parts)}</main></html>'
        )
