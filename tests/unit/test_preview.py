"""Pictures of the boards: numbers as Grafana writes them, and panels of every kind from given answers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from dashboards.preview import kinds
from dashboards.preview.asking import Question, Series
from dashboards.preview.page import Page
from dashboards.preview.units import written
from dashboards.source.generate import FOLDER
from dashboards.source.substitute import panels_of

BOARD = json.loads((Path(FOLDER) / "grafana" / "dashboards" / "jitwatch-job.json").read_text(encoding="utf-8"))
QUESTION = Question(url="http://nowhere", chosen={}, end=1_000_000.0, seconds=600.0, scrape_s=15.0)
SIZE = (600, 296)


def panel_of(kind: str, *, title: str | None = None) -> dict:
    """The first panel of a kind, or the one with the title."""
    return next(one for one in panels_of(BOARD) if one["type"] == kind and title in (None, one["title"]))


def series(legend: str, *values: float, ref: str = "A", **labels: str) -> Series:
    """An answer with a point every 15 seconds, the last at the end of the range."""
    first = QUESTION.end - 15 * (len(values) - 1)
    return Series(ref, legend, labels, tuple((first + 15 * number, value) for number, value in enumerate(values)))


def text_of(html: str) -> str:
    """What a reader sees, one blank between words."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0, "short", "0"),
        (1234, "short", "1.23 K"),
        (0.614, "percentunit", "61.4%"),
        (1.0, "percentunit", "100%"),
        (0.0022, "s", "2.2 ms"),
        (90, "s", "1.5 mins"),
        (0, "s", "0 s"),
        (1536, "bytes", "1.5 KiB"),
        (80 * 2**30, "bytes", "80 GiB"),
        (1500, "Bps", "1.5 kB/s"),
        (4.87, "ops", "4.87 ops/s"),
        (2e12, "flops", "2 TFLOPS"),
        (1, "bool_yes_no", "Yes"),
        (0, "bool_yes_no", "No"),
        (940_000, "dateTimeFromNow", "1 minute ago"),
        (math.nan, "short", "-"),
        (math.inf, "s", "∞"),
    ],
)
def test_numbers_have_the_unit_of_the_panel(value, unit, expected):
    """Base units in, what a person reads out; a moment is told from now on."""
    assert expected == written(value, unit, now=1000.0)


@pytest.mark.parametrize("kind", ["stat", "timeseries", "bargauge", "table", "heatmap", "state-timeline"])
def test_panel_without_data_says_its_own_words(kind):
    """An empty panel is seen to be empty."""
    panel = panel_of(kind)
    expected = panel["fieldConfig"]["defaults"]["noValue"]

    assert expected == text_of(kinds.body(panel, [], QUESTION, SIZE))
    assert expected == text_of(kinds.body(panel, [Series("A", "x", {}, ())], QUESTION, SIZE))


def test_stat_has_the_colour_of_the_threshold_that_it_reached():
    """Red from where the alert fires."""
    panel = panel_of("stat", title="Time spent compiling")

    assert "70%" == text_of(kinds.body(panel, [series("", 0.7)], QUESTION, SIZE))
    assert "#f2495c" in kinds.body(panel, [series("", 0.7)], QUESTION, SIZE)
    assert "#73bf69" in kinds.body(panel, [series("", 0.01)], QUESTION, SIZE)


def test_lines_have_a_legend_with_last_and_max():
    """Six lines are named, the others counted."""
    panel = panel_of("timeseries")
    answers = [series(f"run {number}", 0.5, 0.25) for number in range(8)]
    html = kinds.body(panel, answers, QUESTION, SIZE)
    legend = text_of(html[html.index("</svg>") :])

    assert legend.startswith("last max run 0 25% 50% run 1 25% 50%")
    assert legend.endswith("run 5 25% 50% … and 2 more")


def test_line_has_a_gap_where_the_process_was_down():
    """A line is not drawn over more than two minutes without a value."""
    panel = panel_of("timeseries")
    whole, torn = series("a", *[0.5] * 20), series("a", *[0.5] * 20)
    torn = Series("A", "a", {}, (*torn.points[:5], *torn.points[15:]))

    def pieces(one):
        return kinds.body(panel, [one], QUESTION, SIZE).count("fill-opacity: 0.1")

    assert (1, 2) == (pieces(whole), pieces(torn))


def test_heat_map_shows_the_buckets_that_are_in_use():
    """Counts come cumulative by `le`."""
    panel = panel_of("heatmap")
    answers = [series("", 0, 0, le="0.1"), series("", 2, 3, le="1"), series("", 2, 3, le="+Inf")]
    html = kinds.body(panel, answers, QUESTION, SIZE)

    assert {"100 ms", "1 s"} <= set(re.findall(r">([^<>]+)</text>", html))


def test_bars_are_as_long_as_their_values():
    """The longest fills the panel."""
    html = kinds.body(panel_of("bargauge"), [series("slow", 8.0), series("<b>", 2.0)], QUESTION, SIZE)

    assert ["100.0", "25.0"] == re.findall(r"width:([\d.]+)%", html)
    assert "slow 8 s &lt;b&gt; 2 s" == text_of(html)


def test_bands_have_the_names_of_their_states():
    """A band for each sample, and what the colours mean."""
    html = kinds.body(panel_of("state-timeline", title="Storms"), [series("f", 0, 1)], QUESTION, SIZE)

    assert ["no storm", "storm"] == re.findall(r'title="([\w ]+)"', html)
    assert "f no storm storm" == text_of(html)


def test_table_joins_answers_with_the_same_labels():
    """One row for each function, with a cell for each query; sorted as the panel says."""
    panel = panel_of("table", title="Functions")
    first, second = (target["refId"] for target in panel["targets"][:2])
    answers = [
        series("", 1, ref=first, function="train.cheap"),
        series("", 3, ref=first, function="train.<lambda>@train.py:8"),
        series("", 2, ref=second, function="train.cheap"),
    ]
    html = kinds.body(panel, answers, QUESTION, SIZE)
    rows = [text_of(row) for row in re.findall(r"<tr>(.*?)</tr>", html)]

    assert 3 == len(rows)
    assert rows[0].startswith("Function")
    assert "train.cheap 1 s 2 -" in " ".join(rows[1:])
    assert "train.&lt;lambda&gt;@train.py:8 3 s -" in " ".join(rows[1:])


class Silent(Question):
    """A Prometheus that knows nothing."""

    def ask(self, board, panel):
        return []


def test_page_names_the_panels_that_are_empty():
    """All of them here; each lies where it lies in Grafana, those in closed rows too."""
    page = Page(BOARD, Silent(url="", chosen={"run": ["r<1>"]}, end=1e6, seconds=600.0))
    titles = [panel["title"] for panel in panels_of(BOARD)]

    assert sorted(titles) == sorted(page.empty)
    assert len(titles) == page.html.count("<section ")
    assert "not Grafana" in text_of(page.html)
    assert "run: r&lt;1&gt;" in text_of(page.html)
    assert page.height > 38 * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels_of(BOARD))
