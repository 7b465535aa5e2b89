"""Every count that a board shows is the truth: bars are read with the step that Grafana would use, and added up."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import time
from collections import defaultdict

import pytest

from dashboards.source.asking import Question
from dashboards.source.generate import FOLDER
from dashboards.source.settings import SCRAPE_INTERVAL_S
from dashboards.source.substitute import panels_of, substitute
from jitwatch.state.metrics import METRICS
from jitwatch.state.signals import metrics_of_signals
from tests.integration.conftest import need, running_prometheus
from tests.unit.test_dashboards import asked, selectors

pytestmark = pytest.mark.server

BOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
}
BARS = {
    f"{uid}: {panel['title']}": (board, panel)
    for uid, board in BOARDS.items()
    for panel in panels_of(board)
    if panel["fieldConfig"]["defaults"].get("custom", {}).get("drawStyle") == "bars"
}
SECONDS = 1_800
#: Processes: one that runs on, one that is restarted after ten minutes, one that starts after five, one that is not
#: scraped for eight minutes.
STEADY, RESTARTED, LATE, HIDDEN = "a:1", "b:1", "c:1", "d:1"


def scrapes(start):
    """Times of the scrapes, and by process when it started."""
    times = range(start, start + SECONDS + 1, SCRAPE_INTERVAL_S)
    for at in times:
        yield at, STEADY, start - 900
        yield at, RESTARTED, start - 900 if at < start + 600 else start + 597
        if at >= start + 300:
            yield at, LATE, start + 290
        if not start + 900 < at < start + 1_380:
            yield at, HIDDEN, start - 900


def simulated(start):
    """OpenMetrics text of all counters, and how much each rose by labels, as far as bars can know."""
    counters = [metric for metric in METRICS + metrics_of_signals() if metric.kind == "counter"]
    dice, rows, risen = random.Random(4), defaultdict(list), defaultdict(float)
    values, last = {}, {}
    for at, instance, started in scrapes(start):
        place = f'job="jitwatch",run="r",instance="{instance}"'
        rows["jitwatch_start_time_seconds"].append(f"jitwatch_start_time_seconds{{{place}}} {started} {at}")
        was_seen = last.get(instance, (None, None))[0] == at - SCRAPE_INTERVAL_S
        is_new = started > at - 60 and last.get(instance, (0, None))[1] != started
        for metric in counters:
            for labels in itertools.product(*(("first", "second") for _ in metric.labels)):
                # The second ones appear later, with a value that is not 0.
                if "second" in labels and at < start + 420 and instance == STEADY:
                    continue
                key = (metric.exposed_name, labels, instance)
                before = values.get(key, 0.0) if last.get(instance, (0, started))[1] == started else 0.0
                # Mostly nothing, now and then a burst: between two scrapes, wherever the bars' limits are.
                added = dice.choice((0, 0, 0, 0, 0, 1, 2, 500)) if at > start else 7
                values[key] = before + added
                # What a process does in its last interval before a restart is in no bar.
                is_lost = instance == RESTARTED and start + 540 < at < start + 600
                if at > start and (was_seen or is_new) and not is_lost:
                    risen[metric.exposed_name, labels] += added
                shown = "".join(f',{name}="{value}"' for name, value in zip(metric.labels, labels, strict=True))
                rows[metric.exposed_name].append(f"{metric.exposed_name}{{{place}{shown}}} {values[key]} {at}")
        last[instance] = at, started
    text = ""
    for name, found in rows.items():
        kind = "gauge" if name.endswith(("timestamp_seconds", "time_seconds")) else "counter"
        family = name.removesuffix("_total") if kind == "counter" else name
        text += f"# TYPE {family} {kind}\n" + "\n".join(sorted(found, key=lambda row: row.partition("} ")[0])) + "\n"
    return text + "# EOF\n", risen


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A Prometheus that has half an hour of the simulated processes, the end of it, and how much each counter rose."""
    folder = tmp_path_factory.mktemp("history")
    end = int(time.time()) // 60 * 60 - 60
    start = end - SECONDS
    text, risen = simulated(start)
    (folder / "text").write_text(text)
    command = [need("promtool", "prometheus"), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*command, folder / "text", folder / "data"], check=True, capture_output=True)
    with running_prometheus(folder, "scrape_configs: []\n", "--storage.tsdb.retention.time=10y") as prometheus:
        yield prometheus, end, risen


@pytest.mark.parametrize("where", BARS)
def test_bars_add_up_to_the_counter(history, where):
    """In each query of the panel: bursts between bars, restarts, series and processes that are new, missing scrapes."""
    prometheus, end, risen = history
    board, panel = BARS[where]
    # The first bar is the one that ends a minute after the first scrape.
    question = Question(url=prometheus.url, chosen={}, end=end, seconds=SECONDS - 60)
    for target in asked(panel):
        (metric,) = {one.name for one in selectors(substitute(target["expr"], {}, board))} - {
            "jitwatch_start_time_seconds"
        }
        shown = sum(value for series in question.ask(board, {"targets": [target]}) for _, value in series.points)
        expected = sum(rise for (name, _), rise in risen.items() if name == metric)
        assert expected == pytest.approx(shown), (target["expr"], expected)
        assert expected > 0
