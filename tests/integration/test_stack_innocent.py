"""Jobs that do nothing wrong, and some that look odd: no broken panel, no false page."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from types import SimpleNamespace

import pytest

from dashboards.source.asking import Question
from dashboards.source.generate import FOLDER
from dashboards.source.substitute import panels_of
from tests.integration import jobs
from tests.integration.conftest import free_port, running_job
from tests.integration.stack import running_stack, target
from tests.waiting import wait_until

pytestmark = pytest.mark.server

BOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
}
#: What fires when all is well.
CALM = {"Watchdog"}
#: Good to know, and nobody's mail: a hundred functions and more share a name.
FOR_INFORMATION = {"JitwatchLabelOverflow"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """An idle job, and one with over a hundred functions of strange names, started twice at the same address."""
    folder = tmp_path_factory.mktemp("innocent")
    port = str(free_port())
    with contextlib.ExitStack() as running:
        idle = running.enter_context(running_job(folder / "idle.py", jobs.IDLE))
        first = running.enter_context(running_job(folder / "many.py", jobs.MANY, arguments=[port]))
        lines = [idle.line(), first.line()]
        targets = [target(line["url"], run) for line, run in zip(lines, ("idle", "many"), strict=True)]
        prometheus = running.enter_context(running_stack(folder / "prometheus", targets))
        known = 'jitwatch_compiles_total{run="many"}'
        wait_until(lambda: len(prometheus.query(known)) > 100, what="the functions")
        began = prometheus.values("jitwatch_start_time_seconds", "run")["many"]
        wait_until(
            lambda: prometheus.query('count_over_time(jitwatch_start_time_seconds{run="many"}[1m]) > 3'),
            what="three scrapes",
        )
        first.end()
        second = running.enter_context(running_job(folder / "many.py", jobs.MANY, arguments=[port]))
        running.callback(end, [idle, second])
        names = second.line()["names"]
        wait_until(
            lambda: began < prometheus.values("jitwatch_start_time_seconds", "run").get("many", 0),
            what="the restarted job",
        )
        wait_until(lambda: len(prometheus.query(known)) > 100, what="the functions after the restart")
        yield SimpleNamespace(prometheus=prometheus, names=names)


def end(running):
    """Let them end."""
    for job in running:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            job.end()


def question(stack, **chosen):
    return Question(url=stack.prometheus.url, chosen=chosen, end=time.time(), seconds=60.0, scrape_s=1.0)


def panel_of(uid, title):
    return BOARDS[uid], next(panel for panel in panels_of(BOARDS[uid]) if panel["title"] == title)


@pytest.mark.parametrize("run", ["idle", "many", "none"])
@pytest.mark.parametrize("uid", sorted(BOARDS))
def test_no_query_fails(stack, uid, run):
    """Prometheus answers every query of every panel: with nothing, perhaps, but never with an error."""
    asked = question(stack, run=[run])
    for panel in panels_of(BOARDS[uid]):
        found = [one for one in asked.ask(BOARDS[uid], panel) if one.points]
        assert run != "none" or not found or panel["title"] == "Alerts that fire now", panel["title"]


def test_every_function_can_be_chosen_whatever_its_name(stack):
    """Quotes, backslashes, brackets and what regular expressions mean by them: the board shows that function alone."""
    board, panel = panel_of("jitwatch-function", "Compiles, by process")
    _, numbers = panel_of("jitwatch-function", "In numbers")
    count = {"targets": numbers["targets"][:1]}
    compiles = {
        row["metric"]["function"]: float(row["value"][1])
        for row in stack.prometheus.query('jitwatch_compiles_total{run="many"}')
    }
    strange = [name.replace('"', "'") for name in stack.names if not name.startswith(("f_", "__"))]
    assert [] == [name for name in compiles if '"' in name]
    assert len(strange) >= 8
    for name in [*strange, "f_30", "__other__", "__jax__"]:
        asked = question(stack, run=["many"], function=[name])
        (one,) = asked.ask(board, count)
        assert compiles[name] == one.last, name
        assert asked.ask(board, panel), name


def test_lines_are_not_doubled_by_a_restart(stack):
    """A line for each function before and after, and the counters begin anew without a jump."""
    for title in ("Compiles, by function", "Jit cache entries, by function"):
        board, panel = panel_of("jitwatch-job", title)
        legends = [one.legend for one in question(stack, run=["many"]).ask(board, panel) if one.points]
        assert sorted(set(legends)) == sorted(legends)
    board, panel = panel_of("jitwatch-job", "Recompiles")
    assert [0.0] == [one.last for one in question(stack, run=["many"]).ask(board, panel)]
    (build,) = stack.prometheus.query('count(jitwatch_build_info{run="many"})')
    assert "1" == build["value"][1]


def test_restart_is_marked_on_the_time_axis(stack):
    """The annotation of each board sees it."""
    for board in BOARDS.values():
        (mark,) = (one for one in board["annotations"]["list"] if one["name"] == "Restarts")
        marked = {
            **panel_of("jitwatch-job", "Steps/s, by process")[1]["targets"][0],
            "expr": mark["expr"],
            "instant": False,
        }
        assert question(stack, run=["many"]).ask(board, {"targets": [marked]}), board["uid"]


def test_nothing_pages(stack):
    """No alert fires or waits to, but those that always do; the hundred names are for information."""
    found = {row["metric"]["alertname"] for row in stack.prometheus.query("ALERTS")}

    assert CALM <= found <= CALM | FOR_INFORMATION


def test_job_without_device_statistics_says_so(stack):
    """An idle process has no devices yet: the panels say what is missing instead of a 0 that looks like a figure."""
    for title in ("Device memory in use", "Fullest device"):
        board, panel = panel_of("jitwatch-job", title)
        found = question(stack, run=["idle"]).ask(board, panel)
        assert [] == [one for one in found if one.points]
        assert ["no device reports a limit (CPUs have none)"] == [one.legend for one in found] or not found
        assert panel["fieldConfig"]["defaults"]["noValue"] not in ("", "0")
