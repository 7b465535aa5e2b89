"""Boards and alerts with a real Prometheus, a real Alertmanager and real jobs that misbehave."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest

from dashboards.source.generate import FOLDER
from dashboards.source.substitute import label_values, panels_of, substitute
from tests.integration import jobs
from tests.integration.conftest import free_port, running_job
from tests.integration.stack import Receiver, running_alertmanager, running_stack, target
from tests.unit.test_dashboards import asked
from tests.waiting import wait_until

pytestmark = pytest.mark.server

BOARDS = [
    json.loads((FOLDER / "grafana" / "dashboards" / f"jitwatch-{name}.json").read_text(encoding="utf-8"))
    for name in ("fleet", "job", "function")
]
STARTUP_S = 180


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A misbehaving job, two processes of one run that diverge, and the stack that watches them."""
    folder = tmp_path_factory.mktemp("stack")
    receiver = Receiver()
    with contextlib.ExitStack() as running:
        running.callback(receiver.close)
        alertmanager = running.enter_context(running_alertmanager(folder / "alertmanager", receiver))
        coordinator = f"127.0.0.1:{free_port()}"
        two = [
            running.enter_context(
                running_job(folder / f"one_of_two_{index}.py", jobs.OTHER_PROGRAM, arguments=[str(index), coordinator])
            )
            for index in range(2)
        ]
        bad = running.enter_context(running_job(folder / "misbehaves.py", jobs.MISBEHAVES, arguments=[str(folder)]))
        running.callback(end, [bad, *two])
        url = bad.line()["url"]
        urls = [job.line()["url"] for job in two]
        targets = [target(url, "misbehaves"), *(target(one, "both") for one in urls)]
        prometheus = running.enter_context(running_stack(folder / "prometheus", targets, alertmanager))
        wait_until(lambda: 3 == len(prometheus.query("jitwatch_build_info")), what="three targets")
        for job in two:
            job.tell()
            job.line()
        yield SimpleNamespace(
            prometheus=prometheus, alertmanager=alertmanager, receiver=receiver, url=url, urls=urls, two=two
        )


def end(processes):
    """Let all of them end before anyone waits: processes of one run end together."""
    for job in processes:
        with contextlib.suppress(OSError):
            job.tell()
    for job in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.process.wait(30)


def ask(prometheus, board, target_json, chosen, *, seconds=60.0):
    """What Grafana would get for a query of a panel."""
    query = substitute(
        target_json["expr"], chosen, board, rate_interval="10s", interval_s=2, time_range=f"{seconds:.0f}s"
    )
    if target_json["instant"]:
        return prometheus.query(query)
    now = time.time()
    return prometheus.query_range(query, start=now - seconds, end=now, step=1)


def empty_queries(prometheus, chosen):
    """Queries of panels that get no answer."""
    return [
        (board["uid"], panel["title"], target_json["refId"], target_json["expr"])
        for board in BOARDS
        for panel in panels_of(board)
        for target_json in asked(panel)
        if not ask(prometheus, board, target_json, chosen)
    ]


def test_every_query_of_every_panel_returns_data(stack):
    """With jobs that do everything wrong, no panel is empty."""
    left = []

    def nothing_is_empty():
        left[:] = empty_queries(stack.prometheus, {})
        return not left

    try:
        wait_until(nothing_is_empty, timeout_s=STARTUP_S, what="data for every query")
    except AssertionError:
        raise AssertionError(f"no data for {left}") from None


def test_every_variable_resolves_within_what_was_chosen(stack):
    """Grafana asks for label values, for those within the values chosen before."""
    wait_until(lambda: stack.prometheus.query('jitwatch_compiles_total{function="__main__.sample"}'), what="a scrape")
    found = {}
    for board in BOARDS:
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = label_values(substitute(variable["query"]["query"], {"run": ["misbehaves"]}, board))
            text = urllib.parse.urlencode({"match[]": selector})
            found[board["uid"], variable["name"]] = stack.prometheus.get(f"/api/v1/label/{label}/values?{text}")["data"]
    assert {(board["uid"], "job"): ["jitwatch"] for board in BOARDS}.items() <= found.items()
    assert ["both", "misbehaves"] == found["jitwatch-job", "run"]
    assert [stack.url.removeprefix("http://")] == found["jitwatch-job", "instance"]
    assert {"__main__.sample", "__main__.train_step", "__jax__", "__other__"} <= set(
        found["jitwatch-function", "function"]
    )
    assert any("<lambda>@" in name for name in found["jitwatch-function", "function"])


@pytest.mark.parametrize("uid", [board["uid"] for board in BOARDS])
def test_every_mark_on_the_time_axis_can_be_asked_for(stack, uid):
    """Annotations are queries too; bursts and alerts are there."""
    (board,) = (one for one in BOARDS if one["uid"] == uid)
    for annotation in board["annotations"]["list"]:
        query = substitute(annotation["expr"], {"function": ["__main__.sample"]}, board)
        now = time.time()
        wait_until(
            lambda query=query, now=now: (
                stack.prometheus.query_range(query, start=now - 60, end=time.time(), step=1) or "start_time" in query
            ),
            timeout_s=STARTUP_S,
            what=query,
        )


def test_figures_are_those_of_the_job(stack):
    """What the boards show is what the job itself says."""
    with urllib.request.urlopen(f"{stack.urls[0]}/api/v1/state", timeout=10) as answer:
        totals = json.load(answer)["totals"]
    (board,) = (one for one in BOARDS if one["uid"] == "jitwatch-job")
    shown = {panel["title"]: panel["targets"][0] for panel in panels_of(board) if panel["type"] == "stat"}
    chosen = {"run": ["both"], "instance": [stack.urls[0].removeprefix("http://")]}

    assert totals["recompiles"] == value(ask(stack.prometheus, board, shown["Recompiles"], chosen))
    fleet = next(panel for panel in panels_of(BOARDS[0]) if panel["title"] == "Processes")["targets"][0]
    assert 1 == value(ask(stack.prometheus, BOARDS[0], fleet, chosen))
    assert 2 == value(ask(stack.prometheus, BOARDS[0], fleet, {"run": ["both"]}))


def value(rows):
    (row,) = rows
    return float(row["value"][1])


def test_process_that_compiles_something_else_is_found(stack):
    """In a real distributed run: the recorded spread, the pending alert, and the fleet board name the function."""
    series = 'jitwatch:compiles:spread{run="both"} > 0'
    wait_until(
        lambda: {"__main__.train_step": 1.0} == stack.prometheus.values(series, "function"), what="the divergence"
    )
    wait_until(
        lambda: stack.prometheus.query('ALERTS{alertname="JitwatchProcessesDiverge", alertstate="pending"}'),
        what="the alert being pending",
    )
    (panel,) = (one for one in panels_of(BOARDS[0]) if one["title"] == "Functions that diverge")
    rows = ask(stack.prometheus, BOARDS[0], panel["targets"][0], {"run": ["both"]})
    # Not the function that both compiled once.
    assert [("__main__.train_step", "1")] == [(row["metric"]["function"], row["value"][1]) for row in rows]


def test_other_program_pages(stack):
    """Both processes compiled the function once, for the devices of both, and another program of it."""
    query = 'ALERTS{alertname="JitwatchProgramsDiverge", alertstate="firing", evidence="function"}'
    wait_until(lambda: stack.prometheus.query(query), timeout_s=STARTUP_S, what="the alert")
    (alert,) = stack.prometheus.query(query)
    assert ("both", "__main__.update") == (alert["metric"]["run"], alert["metric"]["function"])
    wait_until(lambda: "JitwatchProgramsDiverge" in stack.receiver.names("on-call"), what="the page")
    found = 'min(jitwatch_programs_diverged{run="both"}) == 1'
    wait_until(lambda: stack.prometheus.query(found), what="both processes report it")


def test_alerts_reach_the_receiver_that_they_should(stack):
    """Storm, violations, out-of-memory, failures of ours: through Alertmanager to whom it concerns."""
    daytime = {
        "JitwatchRecompileStorm",
        "JitwatchDonationViolation",
        "JitwatchSteadyStateRecompile",
        "JitwatchOutOfMemory",
        "JitwatchAgentErrors",
    }
    wait_until(lambda: daytime <= stack.receiver.names("daytime"), timeout_s=STARTUP_S, what="the alerts of the day")
    wait_until(lambda: {"Watchdog"} == stack.receiver.names("watchdog"), what="the watchdog")
    assert stack.receiver.names("on-call") <= {"JitwatchProgramsDiverge"}
    storms = [
        alert
        for alert in stack.receiver.alerts("daytime")
        if (alert["labels"]["alertname"], alert["labels"].get("function"))
        == ("JitwatchRecompileStorm", "__main__.sample")
    ]
    storm = storms[0]
    assert ("misbehaves", stack.url.removeprefix("http://")) == (storm["labels"]["run"], storm["labels"]["instance"])
    assert "__main__.sample" in storm["annotations"]["description"]
    assert "&var-function=__main__.sample" in storm["annotations"]["dashboard_url"]


def test_runbook_of_an_alert_is_a_click_away(stack):
    """Prometheus serves the runbooks: the link in the alert leads to its page."""
    alert = wait_until(lambda: stack.receiver.alerts("daytime"), timeout_s=STARTUP_S, what="an alert")[0]
    with urllib.request.urlopen(alert["annotations"]["runbook_url"], timeout=10) as answer:
        page = answer.read().decode()
    assert page.startswith(f"# {alert['labels']['alertname']}\n")
    for path in sorted((FOLDER / "runbooks").glob("*.md")):
        with urllib.request.urlopen(f"{stack.prometheus.url}/consoles/{path.name}", timeout=10) as answer:
            assert path.read_text(encoding="utf-8") == answer.read().decode()


def test_page_silences_the_smaller_troubles_of_its_process(stack):
    """While a process pages, its warnings are inhibited; those of another process are not."""
    wait_until(lambda: "JitwatchRecompileStorm" in stack.receiver.names("daytime"), timeout_s=STARTUP_S, what="a storm")
    labels = {"job": "jitwatch", "run": "misbehaves", "instance": stack.url.removeprefix("http://")}
    stack.alertmanager.post({"labels": {"alertname": "JitwatchNoProgress", "severity": "critical", **labels}})
    warning = {"alertname": "JitwatchCompileStuck", "severity": "warning"}
    stack.alertmanager.post({"labels": {**warning, **labels}})
    stack.alertmanager.post({"labels": {**warning, **labels, "instance": "other:1"}})

    wait_until(lambda: "JitwatchNoProgress" in stack.receiver.names("on-call"), what="the page")
    states = {
        alert["labels"]["instance"]: alert["status"]["state"]
        for alert in stack.alertmanager.get("/alerts")
        if alert["labels"]["alertname"] == "JitwatchCompileStuck"
    }
    assert {labels["instance"]: "suppressed", "other:1": "active"} == states
