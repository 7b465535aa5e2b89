"""Asks Prometheus what the panels of a board ask, as Grafana would."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.source.settings import SCRAPE_INTERVAL_S
from dashboards.source.substitute import substitute

Json = dict[str, Any]
#: Points of a line, about as many as a panel has pixels in two.
_POINTS = 300
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Series:
    """An answer to one query.

    Attributes:
        ref: The query's letter.
        legend: Its name, from the legend's format.
        labels: All labels.
        points: Unix seconds and values, `nan` left out; one point for an instant query.
    """

    ref: str
    legend: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value; `nan` where there is none."""
        return self.points[-1][1] if self.points else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whom to ask, and about what.

    Attributes:
        url: Prometheus, as `http://127.0.0.1:9090`.
        chosen: Values of a board's variables; one that is missing is at 'All'.
        end: End of the time range, Unix seconds.
        seconds: Its length.
        scrape_s: Prometheus's scrape interval, which Grafana knows from the data source.
    """

    url: str
    chosen: Mapping[str, Sequence[str]]
    end: float
    seconds: float
    scrape_s: float = SCRAPE_INTERVAL_S

    @property
    def start(self) -> float:
        """Start of the time range."""
        return self.end - self.seconds

    def step_s(self, target: Json) -> float:
        """Seconds between two points: a pixel, a scrape or the least step of the query."""
        least = float(target.get("interval", "").removesuffix("s") or 0)
        # Tests scrape more often than the stack does.
        return max(self.seconds / _POINTS, self.scrape_s, least * self.scrape_s / SCRAPE_INTERVAL_S)

    def ask(self, board: Json, panel: Json) -> list[Series]:
        """The answers to all queries of a panel, in their order."""
        return [series for target in panel["targets"] for series in self._ask(board, target)]

    def _ask(self, board: Json, target: Json) -> list[Series]:
        step_s = self.step_s(target)
        query = substitute(
            target["expr"],
            self.chosen,
            board,
            # Grafana's own rule: four scrapes, or a point and a scrape.
            rate_interval=f"{max(4 * self.scrape_s, step_s + self.scrape_s):.0f}s",
            interval_s=round(step_s),
            time_range=f"{self.seconds:.0f}s",
        )
        if target["instant"]:
            rows = self._get("query", query=query, time=self.end)
            points = [[row["value"]] for row in rows]
        else:
            # On multiples of the step, so that a later picture has the same points.
            end = self.end // step_s * step_s
            start = end - self.seconds // step_s * step_s
            rows = self._get("query_range", query=query, start=start, end=end, step=step_s)
            points = [row["values"] for row in rows]
        return [
            Series(
                target["refId"],
                _legend(target["legendFormat"], row["metric"]),
                row["metric"],
                tuple((float(at), float(value)) for at, value in found if not math.isnan(float(value))),
            )
            for row, found in zip(rows, points, strict=True)
        ]

    def _get(self, path: str, **arguments: Any) -> list[Json]:
        text = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(  # noqa: S310 - the Prometheus that the caller names
            f"{self.url}/api/v1/{path}?{text}", timeout=_TIMEOUT_S
        ) as answer:
            found: list[Json] = json.load(answer)["data"]["result"]
        return found


def _legend(form: str, labels: Mapping[str, str]) -> str:
    if form == "__auto":
        return ", ".join(value for name, value in labels.items() if name != "__name__") or "value"
    for name in sorted(labels, key=len, reverse=True):
        form = form.replace("{{" + name + "}}", labels[name])
    return form
