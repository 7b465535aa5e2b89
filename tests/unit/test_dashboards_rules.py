"""The rules: each alert has its texts, links, runbook, and tests of where it fires and where not."""

from __future__ import annotations

import re

import promql_parser
import pytest
import yaml

from dashboards.source import generate
from dashboards.source.model import number_of
from dashboards.source.rules import Alert, Recording
from dashboards.source.settings import GRAFANA_URL

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
    "JitwatchNoProgress": {"critical", "info"},
    "JitwatchTargetsDown": {"warning"},
    "JitwatchRestartLoop": {"warning"},
    "JitwatchAgentErrors": {"warning", "info"},
    "JitwatchLabelOverflow": {"info"},
    "Watchdog": {"none"},
}


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


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: getattr(rule, "record", None) or identity(rule))
def test_expression_parses(rule):
    """By a second parser, not only Prometheus's."""
    promql_parser.parse(rule.expr)


def test_rules_that_others_use_come_first():
    """A group is evaluated in order, and groups that need a recorded value find it by its name."""
    recorded = {rule.record for rule in RULES if isinstance(rule, Recording)}
    used = {name for rule in RULES for name in re.findall(r"\bjitwatch:\w+:\w+", rule.expr)}
    assert used <= recorded


@pytest.mark.parametrize("alert", ALERTS, ids=identity)
def test_alert_has_texts_and_links(alert):
    """Summary, description with the figure or name, a link to a panel that exists, a runbook."""
    (written,) = (
        rule
        for group in WRITTEN["groups"]
        for rule in group["rules"]
        if rule.get("alert") == alert.name and rule["expr"] == alert.expr
    )
    texts = written["annotations"]

    assert {"summary", "description", "dashboard_url", "runbook_url"} == set(texts)
    assert texts["dashboard_url"].startswith(f"{GRAFANA_URL}/d/{alert.board}?viewPanel={number_of(alert.panel)}")
    assert alert.panel in {
        panel.title for board in generate.BOARDS if board.uid == alert.board for panel in board.panels()
    }
    assert texts["runbook_url"].endswith(f"/{alert.name}.md")
    if "function" in alert.expr and alert.board == "jitwatch-function":
        assert "{{ $labels.function }}" in alert.description
    assert alert.description.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_alert_has_a_runbook(name):
    """One page a name: what it means, how to confirm it, what to do, when to silence it."""
    page = (FOLDER / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)

    assert page.startswith(f"# {name}\n")
    assert ["What it means", "How to confirm it", "What to do", "When to silence it"] == parts[1::2]
    assert all(len(text.strip()) > 20 for text in parts[2::2])
    # Prometheus serves the page, and would take these for a template of its own.
    assert "{{" not in page
    for alert in re.findall(r"Jitwatch\w+", page):
        assert alert in NAMES


def test_every_runbook_belongs_to_an_alert():
    """No page is left over."""
    assert NAMES == sorted(path.stem for path in (FOLDER / "runbooks").glob("*.md"))


@pytest.mark.parametrize("name", NAMES)
def test_runbook_names_panels_that_exist(name):
    """'Panels' in quotes are titles on some board, or rows."""
    titles = {panel.title for board in generate.BOARDS for panel in board.panels()}
    titles |= {row.title for board in generate.BOARDS for row in board.rows}
    page = (FOLDER / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    named = re.findall(r"(?<!\w)'([A-Z][^'\n]+(?:\n[^'\n]+)?)'", page)
    assert [] == [title for title in named if " ".join(title.split()) not in titles | {"Restart"}]


@pytest.mark.parametrize("alert", ALERTS, ids=identity)
def test_alert_is_tested_where_it_fires_and_where_not(alert):
    """Each rule has a case in which it fires, and each name one with input in which it stays silent."""
    cases = [
        (case, test)
        for case in TESTS
        for test in case.get("promql_expr_test", ())
        if f'alertname="{alert.name}"' in test["expr"]
    ]
    samples = " ".join(str(test["exp_samples"]) for _, test in cases)

    assert any(test["exp_samples"] for _, test in cases)
    # Where a name has several rules, labels tell which one fired.
    if sum(other.name == alert.name for other in ALERTS) > 1:
        assert f'severity="{alert.severity}"' in samples
        assert all(f'{label}="{value}"' in samples for label, value in alert.labels.items())
    if alert.name != "Watchdog":
        assert any(not test["exp_samples"] and case.get("input_series") for case, test in cases)
