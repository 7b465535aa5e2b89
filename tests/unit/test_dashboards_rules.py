"""The rules: each alert has its texts, links, runbook, and tests of where it fires and where not."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import promql_parser
import yaml

from dashboards.source import generate
from dashboards.source.board import number_of
from dashboards.source.rules import Alert, Recording
from dashboards.source.settings import GRAFANA_URL
from jitwatch.state.metrics import METRICS
from jitwatch.state.signals import metrics_of_signals

FOLDER = generate.FOLDER
RULES = [rule for group in generate.RULES for rule in group.rules]
ALERTS = [rule for rule in RULES if isinstance(rule, Alert)]
NAMES = sorted({alert.name for alert in ALERTS})
WRITTEN = yaml.safe_load((FOLDER / "prometheus" / "rules" / "jitwatch.yml").read_text(encoding="utf-8"))
TESTS = [
    case
    for path in sorted((FOLDER / "prometheus" / "tests").glob("*.yml"))
    for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
]
#: What the specification asks for.
WANTED = {
    "JitwatchRecompileStorm": {"warning"},
    "JitwatchCompileTimeDominates": {"critical"},
    "JitwatchCompileStuck": {"warning"},
    "JitwatchSteadyStateRecompile": {"warning"},
    "JitwatchCacheGrowth": {"warning"},
    "JitwatchDonationViolation": {"warning", "info"},
    "JitwatchDeviceMemoryHigh": {"warning"},
    "JitwatchDeviceMemoryLeak": {"warning"},
    "JitwatchHostMemoryLeak": {"warning"},
    "JitwatchOutOfMemory": {"warning"},
    "JitwatchProcessesDiverge": {"warning"},
    "JitwatchProgramsDiverge": {"critical"},
    "JitwatchNoProgress": {"critical", "info"},
    "JitwatchTargetsDown": {"warning"},
    "JitwatchRestartLoop": {"warning"},
    "JitwatchAgentErrors": {"warning", "info"},
    "JitwatchLabelOverflow": {"info"},
    "Watchdog": {"none"},
}


#: Metrics by function with few series: those that appear with their first event.
NARROW = {"donation_violations_total", "last_call_timestamp_seconds", "recompile_causes_total", "pitfalls_total"}


def identity(alert):
    return "-".join([alert.name, alert.severity, *alert.labels.values()])


def test_alerts_and_severities_are_those_that_were_agreed():
    """An alert that gets lost, or pages all of a sudden, is noticed."""
    assert WANTED == {name: {alert.severity for alert in ALERTS if alert.name == name} for name in NAMES}


def test_yaml_says_what_the_descriptions_say():
    """The file is YAML with the same rules in the same order."""
    written = [rule for group in WRITTEN["groups"] for rule in group["rules"]]

    assert [getattr(rule, "name", None) or rule.record for rule in RULES] == [
        rule.get("alert") or rule["record"] for rule in written
    ]
    assert [rule.expr for rule in RULES] == [rule["expr"] for rule in written]


def test_expressions_parse():
    """By a second parser, not only Prometheus's."""
    offenders = []
    for rule in RULES:
        try:
            promql_parser.parse(rule.expr)
        except ValueError as error:
            offenders.append(f"{rule}: {error}")
    assert [] == offenders


def test_rules_that_others_use_come_first():
    """A group is evaluated in order, and groups that need a recorded value find it by its name."""
    recorded = {rule.record for rule in RULES if isinstance(rule, Recording)}
    used = {name for rule in RULES for name in re.findall(r"\bjitwatch:\w+:\w+", rule.expr)}
    assert used <= recorded


def test_rules_read_each_metric_by_function_once():
    """A large fleet has tens of thousands of series of it. Of compiles: most, fewest and the number of processes."""
    wide = {metric.exposed_name for metric in METRICS + metrics_of_signals() if metric.is_by_function}
    wide -= {f"jitwatch_{name}" for name in NARROW}
    read = Counter(
        name
        for rule in RULES
        for name, matchers in re.findall(r"\b(jitwatch_\w+)(\{[^}]*\})?", rule.expr)
        if name in wide and 'function="__all__"' not in matchers
    )

    assert {"jitwatch_compiles_total": 3} == {name: count for name, count in read.items() if count > 1}
    assert len(read) > 5


def broken_texts(alert):
    """Summary, description with the figure or name, a link to a panel that exists, a runbook."""
    (written,) = (
        rule
        for group in WRITTEN["groups"]
        for rule in group["rules"]
        if rule.get("alert") == alert.name and rule["expr"] == alert.expr
    )
    texts = written["annotations"]
    link = f"{GRAFANA_URL}/d/{alert.board}?viewPanel={number_of(alert.panel)}"
    panels = {panel.title for board in generate.BOARDS if board.uid == alert.board for panel in board.panels()}
    is_about_a_function = "function" in alert.expr and alert.board == "jitwatch-function"
    rules = {
        "annotations": {"summary", "description", "dashboard_url", "runbook_url"} == set(texts),
        "dashboard_url": texts.get("dashboard_url", "").startswith(link),
        "panel": alert.panel in panels,
        "runbook_url": texts.get("runbook_url", "").endswith(f"/{alert.name}.md"),
        "name of the function": "{{ $labels.function }}" in alert.description or not is_about_a_function,
        "description": alert.description.endswith("."),
    }
    return [rule for rule, holds in rules.items() if not holds]


def test_alerts_have_texts_and_links():
    """Each of them."""
    assert [] == [f"{identity(alert)}: {rule}" for alert in ALERTS for rule in broken_texts(alert)]


def broken_parts(name):
    """A runbook says what its alert means, how to confirm it, what to do, when to silence it."""
    page = (FOLDER / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    headings = ["What it means", "How to confirm it", "What to do", "When to silence it"]
    rules = {
        "title": page.startswith(f"# {name}\n"),
        "headings": headings == parts[1::2],
        "texts": all(len(text.strip()) > 20 for text in parts[2::2]),
        # Prometheus serves the page, and would take these for a template of its own.
        "no template": "{{" not in page,
        "names of alerts": set(re.findall(r"Jitwatch\w+", page)) <= set(NAMES),
    }
    return [rule for rule, holds in rules.items() if not holds]


def test_alerts_have_runbooks():
    """One page a name."""
    assert [] == [f"{name}: {rule}" for name in NAMES for rule in broken_parts(name)]


def test_every_runbook_belongs_to_an_alert():
    """No page is left over."""
    assert NAMES == sorted(path.stem for path in (FOLDER / "runbooks").glob("*.md"))


def test_runbooks_name_panels_that_exist():
    """'Panels' in quotes are titles on some board, or rows."""
    titles = {panel.title for board in generate.BOARDS for panel in board.panels()}
    titles |= {row.title for board in generate.BOARDS for row in board.rows}
    offenders = []
    for name in NAMES:
        page = (FOLDER / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
        named = re.findall(r"(?<!\w)'([A-Z][^'\n]+(?:\n[^'\n]+)?)'", page)
        offenders += [f"{name}: {title}" for title in named if " ".join(title.split()) not in titles | {"Restart"}]
    assert [] == offenders


def missing_cases(alert):
    """What the tests of the rules do not have of an alert: a case in which it fires, one in which it stays silent."""
    cases = [
        (case, test)
        for case in TESTS
        for test in case.get("promql_expr_test", ())
        if f'alertname="{alert.name}"' in test["expr"]
    ]
    samples = " ".join(str(test["exp_samples"]) for _, test in cases)
    # Where a name has several rules, labels tell which one fired.
    is_one_of_several = sum(other.name == alert.name for other in ALERTS) > 1
    labels = {"severity": alert.severity, **alert.labels} if is_one_of_several else {}
    if not any(test["exp_samples"] for _, test in cases):
        yield "never fires"
    for label, value in labels.items():
        if f'{label}="{value}"' not in samples:
            yield f"never fires with {label}={value}"
    is_silent = any(not test["exp_samples"] and case.get("input_series") for case, test in cases)
    if not is_silent and alert.name != "Watchdog":
        yield "is never silent"


def test_alerts_are_tested_where_they_fire_and_where_not():
    """Each rule has a case in which it fires, and each name one with input in which it stays silent."""
    assert [] == [f"{identity(alert)} {what}" for alert in ALERTS for what in missing_cases(alert)]


def test_lint_of_alerts_can_fail():
    """An alert without a link, a text and a case is found."""
    (alert,) = (one for one in ALERTS if one.name == "JitwatchCacheGrowth")
    other = dataclasses.replace(alert, panel="No such panel", description="no point")
    assert ["dashboard_url", "panel"] == [rule for rule in broken_texts(other) if rule in ("dashboard_url", "panel")]
    assert "description" in broken_texts(other)
    assert ["never fires", "is never silent"] == list(missing_cases(dataclasses.replace(alert, name="Unknown")))
