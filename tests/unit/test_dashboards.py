"""The boards agree with their descriptions, with the metrics, with Grafana's types and with the rules of lint."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.source import generate
from dashboards.source.substitute import UnknownVariableError, label_values, panels_of, substitute
from jitwatch.state.metrics import METRICS
from jitwatch.state.signals import metrics_of_signals

FOLDER = Path(generate.FOLDER)
BOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
}
RULES = (FOLDER / "prometheus" / "rules" / "jitwatch.yml").read_text(encoding="utf-8")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
#: Names that Prometheus itself makes, and those of prometheus_client's process collector.
FOREIGN = {
    "up",
    "ALERTS",
    "ALERTS_FOR_STATE",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "process_resident_memory_bytes",
} | {"process_open_fds"}
EVERY_METRIC = METRICS + metrics_of_signals()
EXPOSED = {metric.exposed_name + suffix for metric in EVERY_METRIC for suffix in SUFFIXES.get(metric.kind, ("",))}
EACH_PANEL = {f"{uid}: {panel['title']}": panel for uid, board in BOARDS.items() for panel in panels_of(board)}


def expressions(board):
    """Every expression of a board: of panels, variables and annotations."""
    for panel in panels_of(board):
        yield from (target["expr"] for target in panel["targets"])
    for annotation in board["annotations"]["list"]:
        yield annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield label_values(variable["query"]["query"])[0]


def selectors(expression):
    """Every selector of an expression: name, and its matchers as text."""
    found = []

    def walk(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("expr", "lhs", "rhs", "vs", "param"):
            inner = getattr(node, name, None)
            if inner is not None:
                walk(inner)
        for inner in getattr(node, "args", None) or ():
            walk(inner)

    walk(promql_parser.parse(expression))
    return found


def test_committed_files_are_what_their_descriptions_say():
    """Whoever changes a description also writes the files: python -m dashboards.source.generate."""
    assert [] == generate.differing()


def test_check_notices_a_file_that_was_edited(tmp_path):
    """The test above can fail."""
    for name, text in generate.files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [] == generate.differing(tmp_path)

    edited = tmp_path / "grafana" / "dashboards" / "jitwatch-job.json"
    edited.write_text(edited.read_text().replace('"editable": false', '"editable": true'))
    (tmp_path / "prometheus" / "rules" / "jitwatch.yml").unlink()

    assert ["grafana/dashboards/jitwatch-job.json", "prometheus/rules/jitwatch.yml"] == sorted(
        generate.differing(tmp_path)
    )


@pytest.mark.parametrize("name", generate.files())
def test_no_generated_file_has_control_characters(name):
    """YAML does not allow them: text that was decoded with the wrong encoding has some, and kustomize refuses it."""
    assert [] == [one for one in generate.files()[name] if not one.isprintable() and one != "\n"]


@pytest.mark.parametrize("uid", BOARDS)
def test_every_expression_parses(uid):
    """With values in the place of variables, each expression is PromQL; an unknown variable fails."""
    for expression in expressions(BOARDS[uid]):
        promql_parser.parse(substitute(expression, {}, BOARDS[uid]))
        promql_parser.parse(substitute(expression, {"job": ["a"], "function": ['f."<x>"\\', "g"]}, BOARDS[uid]))


def test_unknown_variable_is_an_error():
    """A misspelt variable is found."""
    with pytest.raises(UnknownVariableError):
        substitute('up{job=~"$jobs"}', {}, BOARDS["jitwatch-job"])


def test_every_metric_that_is_named_exists():
    """No board and no rule asks for a metric that the agent does not export, or for a label that it does not have."""
    labels = {
        metric.exposed_name + suffix: set(metric.labels)
        for metric in EVERY_METRIC
        for suffix in SUFFIXES.get(metric.kind, ("",))
    }
    recorded = set(re.findall(r"record: (\S+)", RULES))
    rules = [rule.expr for group in generate.RULES for rule in group.rules]
    asked = [(expression, board) for board in BOARDS.values() for expression in expressions(board)]
    parsed = [substitute(expression, {}, board) for expression, board in asked] + rules
    for expression in parsed:
        for selector in selectors(expression):
            assert selector.name in EXPOSED | FOREIGN | recorded, expression
            matched = {matcher.name for matcher in selector.matchers.matchers} - {"job", "run", "instance", "le"}
            if selector.name in labels:
                assert matched <= labels[selector.name], expression


def test_every_metric_is_shown_or_alerted_on():
    """What nobody looks at need not be measured."""
    shown = " ".join(expression for board in BOARDS.values() for expression in expressions(board)) + RULES
    named = set(re.findall(r"\bjitwatch_\w+", shown))
    missing = [
        metric.exposed_name
        for metric in EVERY_METRIC
        if not any(metric.exposed_name + suffix in named for suffix in SUFFIXES.get(metric.kind, ("",)))
    ]
    assert [] == missing


@pytest.mark.parametrize("uid", BOARDS)
def test_nothing_is_lost_in_grafanas_own_model(uid):
    """Each field that we write is one that Grafana's own types of dashboards and panels know."""
    register_default_plugins()
    board = BOARDS[uid]
    known = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    # The model leaves out what the Prometheus plugin adds to annotations, and what Grafana writes beside `query`.
    foreign = {"titleFormat", "textFormat", "tagKeys", "step", "useValueForTime", "definition"}
    assert [] == [path for path in lost(board, known) if path.rpartition(".")[2] not in foreign]


def lost(ours, theirs, path=""):
    """Paths of fields that are in ours and not, or with another value, in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{path}.{key}")
            elif value not in ({}, [], None, ""):
                yield f"{path}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for position, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{path}[{position}]")
    elif ours != theirs:
        yield path


def test_lost_notices_an_unknown_field():
    """The comparison above can fail."""
    board = json.loads(json.dumps(BOARDS["jitwatch-fleet"]))
    board["panels"][1]["fieldConfig"]["defaults"]["noValues"] = "x"
    board["panels"][1]["options"]["colourMode"] = "value"
    register_default_plugins()

    known = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))

    assert {".panels[1].fieldConfig.defaults.noValues", ".panels[1].options.colourMode"} <= set(lost(board, known))


@pytest.mark.parametrize("uid", BOARDS)
def test_board_is_one_that_file_provisioning_takes(uid):
    """Classic JSON with a fixed uid, not editable, linked by its tag, with no trace of one Grafana in it."""
    board = BOARDS[uid]
    text = json.dumps(board)

    assert (uid, 39, False, ["jitwatch"], "30s", 1) == tuple(
        board[key] for key in ("uid", "schemaVersion", "editable", "tags", "refresh", "graphTooltip")
    )
    assert "id" not in board
    assert ("dashboards", ["jitwatch"], True, True) == tuple(
        board["links"][0][key] for key in ("type", "tags", "asDropdown", "includeVars")
    )
    assert [] == re.findall(r"__inputs|\$\{DS_|__requires", text)
    assert {"${datasource}"} == {found for found in re.findall(r'"uid": "([^"]+)"', text) if found != uid}
    assert [{}] * len(board["templating"]["list"]) == [one["current"] for one in board["templating"]["list"]]


@pytest.mark.parametrize("uid", BOARDS)
def test_variables_are_chained(uid):
    """datasource, job, run, instance (and function), each within what was chosen before; 'All' is short."""
    variables = BOARDS[uid]["templating"]["list"]
    names = [variable["name"] for variable in variables]

    assert ["datasource", "job", "run", "instance", "function"][: len(names)] == names
    assert (5 if uid == "jitwatch-function" else 4) == len(names)
    for position, variable in enumerate(variables[1:], 1):
        assert (True, True, 2) == (variable["multi"], variable["includeAll"], variable["refresh"])
        assert (".*" if variable["name"] == "run" else ".+") == variable["allValue"]
        assert set(names[1:position]) == set(re.findall(r"\$(\w+)", variable["query"]["query"]))


def rules_broken_by(panel):
    """Title, description, unit, a text for no data, thresholds of its own, the data source that was chosen."""
    defaults = panel["fieldConfig"]["defaults"]
    rules = {
        "has no title": panel["title"],
        "has no description": len(panel["description"]) > 40,
        "has a description that does not end": panel["description"].endswith("."),
        "has no unit": defaults["unit"],
        "has no text for no data": "noValue" in defaults,
        "asks for nothing": panel["targets"],
        # Left-over from a template: red at 80, whatever the unit.
        "has thresholds of a template": 80 not in {step["value"] for step in defaults["thresholds"]["steps"]},
        "has a data source of its own": {"${datasource}"}
        == {one["datasource"]["uid"] for one in [panel, *panel["targets"]]},
        "is too wide": panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24,
    }
    return [rule for rule, holds in rules.items() if not holds]


def rules_broken_by_query(expression):
    """Every selector has job, run and instance; rates use $__rate_interval; nothing shows raw series."""
    for name, matchers in re.findall(r"\b(jitwatch_\w+|up|process_\w+|scrape_\w+)(\{[^}]*\}|\b(?!\())", expression):
        if name in ("process_index", "process_count"):
            continue
        for label in ("job", "run", "instance"):
            if f'{label}=~"${label}"' not in matchers:
                yield f"{name} without {label}"
    for found in re.findall(r"\b(?:i?rate)\([^[]*\[(?!\$__rate_interval\])", expression):
        yield f"{found} without $__rate_interval"
    if not re.search(r"\b(sum|max|min|avg|count|topk|bottomk|histogram_quantile)\b", expression):
        yield "raw series"


def test_panels_keep_the_rules():
    """On each board, also those in rows."""
    assert [] == [f"{where} {rule}" for where, panel in EACH_PANEL.items() for rule in rules_broken_by(panel)]


def test_panels_ask_for_what_was_chosen_and_aggregate():
    """In each query of each panel."""
    assert [] == [
        f"{where}: {rule} in {target['expr']}"
        for where, panel in EACH_PANEL.items()
        for target in panel["targets"]
        for rule in rules_broken_by_query(target["expr"])
    ]


def test_lint_of_panels_can_fail():
    """Each rule finds the panel that breaks it."""
    defaults = {"unit": "", "thresholds": {"steps": [{"value": 80}]}}
    position = {"x": 20, "w": 5}
    own = {"datasource": {"uid": "mine"}}
    empty = {"title": "", "description": "", "fieldConfig": {"defaults": defaults}, "gridPos": position, **own}
    assert 9 == len(rules_broken_by({**empty, "targets": []}))
    assert ["up without run", "up without instance", "rate(up[ without $__rate_interval", "raw series"] == list(
        rules_broken_by_query('rate(up[5m]) > up{job=~"$job"}')
    )[3:]


@pytest.mark.parametrize("uid", BOARDS)
def test_titles_and_ids_are_unique(uid):
    """Links point at panels by id, and ids come from titles."""
    items = [*BOARDS[uid]["panels"], *(inner for row in BOARDS[uid]["panels"] for inner in row.get("panels", ()))]

    assert [] == [
        title for title, count in Counter(one["title"] for one in panels_of(BOARDS[uid])).items() if count > 1
    ]
    assert len(items) == len({item["id"] for item in items})


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_do_not_overlap(uid):
    """No two panels lie on the same cell of the grid."""
    taken = Counter(
        (x, y)
        for panel in [*panels_of(BOARDS[uid]), *(one for one in BOARDS[uid]["panels"] if one["type"] == "row")]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    assert [] == [cell for cell, count in taken.items() if count > 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ".+"),
        (["train.step"], r"train\\.step"),
        (["a", "b"], "(a|b)"),
        (["train.<lambda>@train.py:88"], r"train\\.<lambda>@train\\.py:88"),
        (['say "hi"'], r"say \\\"hi\\\""),
        (["\\"], "\\\\\\\\"),
        (["it's {x}[0]"], r"it\\'s \\{x\\}\\[0\\]"),
    ],
)
def test_chosen_values_are_escaped_as_grafana_does(values, expected):
    """Names of functions may hold whatever Python allows."""
    assert f'{{function=~"{expected}"}}' == substitute(
        '{function=~"$function"}', {"function": values}, BOARDS["jitwatch-function"]
    )


# As Grafana draws them: each fact was seen in Grafana 12.3

#: Panels of a board at most.
MOST_PANELS = {"jitwatch-fleet": 16, "jitwatch-job": 45, "jitwatch-function": 16}
#: Pixels of a column of the grid on a screen of 1600 pixels.
COLUMN_PX = 65


def longest_title(width):
    """Characters of a title that are visible beside the icon of the description: 9 at a width of 3, 14 at 4."""
    return 5 * width - 6


def asked(panel):
    """The queries of a panel, without the one that only says why there is nothing."""
    return [target for target in panel["targets"] if not target["expr"].startswith("vector(NaN)")]


def faults_of_timeline(panel):
    if panel["fieldConfig"]["defaults"]["color"]["mode"] == "thresholds" and panel["options"]["mergeValues"]:
        yield "value mappings are discarded"


def faults_of_bar_gauge(panel):
    if (panel["options"]["namePlacement"], panel["options"]["sizing"]) != ("left", "manual"):
        yield "names are squeezed out"
    if not panel["fieldConfig"]["defaults"].get("displayName"):
        yield "a single bar has no name"


def faults_of_series(panel):
    defaults, custom = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["defaults"]["custom"]
    if custom["drawStyle"] == "bars":
        for target in asked(panel):
            window = re.findall(r"\[([^\]]+)\]", target["expr"])
            if not target.get("interval") or window or "offset $__interval" not in target["expr"]:
                yield "bars do not add up to the count"
    if panel["options"]["legend"]["displayMode"] == "table":
        yield "rows of the legend are not visible"
    if "max" not in defaults and not custom.get("axisSoftMax"):
        yield "the axis of an idle job has no sensible end"


def faults_of_table(panel):
    widths, units = {}, {}
    for override in panel["fieldConfig"]["overrides"]:
        properties = {one["id"]: one["value"] for one in override["properties"]}
        name = override["matcher"]["options"]
        widths[name], units[name] = properties.get("custom.minWidth", 150), properties["unit"]
    if sum(widths.values()) > COLUMN_PX * panel["gridPos"]["w"] - 24:
        yield f"columns need {sum(widths.values())} pixels"
    if any(len(name) * 8 + 16 > width for name, width in widths.items()):
        yield "headings are cut"
    if units[panel["options"]["sortBy"][0]["displayName"]] == "string":
        yield "sorted alphabetically"


def faults_of_heatmap(panel):
    if panel["fieldConfig"]["defaults"]["unit"] != "short" or not panel["options"]["yAxis"].get("unit"):
        yield "the legend counts cells in the unit of the buckets"


FAULTS_OF = {
    "state-timeline": faults_of_timeline,
    "bargauge": faults_of_bar_gauge,
    "timeseries": faults_of_series,
    "table": faults_of_table,
    "heatmap": faults_of_heatmap,
}


def faults_of(panel):
    """What Grafana does not draw as meant."""
    defaults = panel["fieldConfig"]["defaults"]
    yield from FAULTS_OF.get(panel["type"], lambda _: ())(panel)
    if not re.search("[a-z]{2}", defaults.get("noValue", "")):
        yield "an error or absent data looks like a value"
    if panel["type"] in ("stat", "table") and defaults["thresholds"]["steps"][0]["color"] == "green":
        yield "an error or absent data is green"
    if panel["type"] in ("timeseries", "state-timeline") and len(asked(panel)) == len(panel["targets"]):
        yield "without data there is only an error"
    if len(panel["title"]) > longest_title(panel["gridPos"]["w"]):
        yield "the title is cut"


def faults_of_annotation(annotation):
    """A text for a boolean is true; what lasts would colour the whole graph."""
    if annotation["useValueForTime"] is not False:
        yield "is at the time of its value"
    if " unless (" not in annotation["expr"]:
        yield "is a region"


def holes_of(board):
    """Lines of the grid that are not full, or whose panels have several heights."""
    rows = [board["panels"], *(panel["panels"] for panel in board["panels"] if panel["type"] == "row")]
    for panels in rows:
        lines = {}
        for panel in panels:
            if panel["type"] != "row":
                lines.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
        for y, found in lines.items():
            if sum(one["w"] for one in found) != 24 or len({one["h"] for one in found}) > 1:
                yield y


def test_grafana_draws_each_panel_as_meant():
    """Names, colours, units, counts, titles, columns, and what is shown without data."""
    assert [] == [f"{where}: {fault}" for where, panel in EACH_PANEL.items() for fault in faults_of(panel)]


def test_grafana_draws_marks_and_not_regions():
    """Each annotation is the onset of something."""
    annotations = [one for board in BOARDS.values() for one in board["annotations"]["list"]]
    assert [] == [f"{one['name']}: {fault}" for one in annotations for fault in faults_of_annotation(one)]


@pytest.mark.parametrize("uid", BOARDS)
def test_board_can_be_read(uid):
    """Few panels, no holes between them, and what matters most on the first screen of 900 pixels."""
    board = BOARDS[uid]
    panels = panels_of(board)

    assert len(panels) <= MOST_PANELS[uid]
    assert [] == list(holes_of(board))
    # 38 pixels a line of the grid, under 130 pixels of header and variables.
    first = [panel for panel in board["panels"] if 38 * (panel["gridPos"]["y"] + panel["gridPos"]["h"]) <= 900 - 130]
    if uid == "jitwatch-job":
        kinds = [panel["type"] for panel in first]
        assert ["stat"] * 8 + ["table"] + ["timeseries"] * 4 == kinds
    open_rows = [panel for panel in board["panels"] if panel["type"] == "row" and not panel["collapsed"]]
    assert uid != "jitwatch-job" or open_rows == []


#: What the boards were before: a state of each kind of panel that Grafana does not draw as meant.
OLD = {
    "value mappings are discarded": {
        "type": "state-timeline",
        "options": {"mergeValues": True},
        "fieldConfig": {"defaults": {"color": {"mode": "thresholds"}}},
    },
    "names are squeezed out": {"type": "bargauge", "options": {"namePlacement": "top", "sizing": "auto"}},
    "a single bar has no name": {"type": "bargauge", "options": {"namePlacement": "left", "sizing": "manual"}},
    "bars do not add up to the count": {
        "type": "timeseries",
        "targets": [{"expr": "sum(increase(x[$__rate_interval]))"}],
        "fieldConfig": {"defaults": {"custom": {"drawStyle": "bars"}}},
    },
    "rows of the legend are not visible": {"type": "timeseries", "options": {"legend": {"displayMode": "table"}}},
    "the axis of an idle job has no sensible end": {"type": "timeseries"},
    "without data there is only an error": {"type": "timeseries"},
    "columns need 1650 pixels": {"type": "table", "columns": 11},
    "sorted alphabetically": {"type": "table", "columns": 1},
    "the legend counts cells in the unit of the buckets": {
        "type": "heatmap",
        "options": {"yAxis": {"unit": "s"}},
        "fieldConfig": {"defaults": {"unit": "s"}},
    },
    "an error or absent data looks like a value": {"type": "stat", "fieldConfig": {"defaults": {"noValue": "0"}}},
    "an error or absent data is green": {"type": "stat"},
    "the title is cut": {"type": "stat", "title": "Donation violations"},
}


@pytest.mark.parametrize("fault", OLD)
def test_lint_finds_what_grafana_does_not_draw(fault):
    """Each fact above fails where it should."""
    given = OLD[fault]
    properties = [{"id": "unit", "value": "string"}]
    defaults = {
        "unit": "short",
        "noValue": "none",
        "thresholds": {"steps": [{"color": "green"}]},
        "color": {"mode": "palette-classic"},
        "custom": {"drawStyle": "line"},
        **given.get("fieldConfig", {}).get("defaults", {}),
    }
    panel = {
        "type": given["type"],
        "title": given.get("title", "Title"),
        "gridPos": {"w": 24 if given["type"] == "table" else 3},
        "targets": given.get("targets", [{"expr": "x"}]),
        "options": {"legend": {"displayMode": "list"}, "sortBy": [{"displayName": "c0"}], **given.get("options", {})},
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [
                {"matcher": {"options": f"c{number}"}, "properties": properties}
                for number in range(given.get("columns", 0))
            ],
        },
    }
    assert fault in list(faults_of(panel))


def test_lint_finds_regions_and_holes():
    """The old annotation, and panels that leave a hole."""
    assert ["is at the time of its value", "is a region"] == list(
        faults_of_annotation({"useValueForTime": "false", "expr": "x > 0"})
    )
    places = [{"y": 0, "w": 12, "h": 4}, {"y": 0, "w": 12, "h": 5}, {"y": 5, "w": 12, "h": 4}]
    assert [0, 5] == list(holes_of({"panels": [{"type": "stat", "gridPos": place} for place in places]}))


def test_alerts_are_listed_with_the_most_severe_first():
    """By a number; each with its runbook, its run and its function."""
    for uid in ("jitwatch-job", "jitwatch-fleet"):
        panel = EACH_PANEL[f"{uid}: Alerts that fire now"]
        fields = {one["matcher"]["options"]: one["properties"] for one in panel["fieldConfig"]["overrides"]}
        links = {
            name: link["url"]
            for name, properties in fields.items()
            for one in properties
            if one["id"] == "links"
            for link in one["value"]
        }
        assert [{"displayName": "Severity", "desc": True}] == panel["options"]["sortBy"]
        assert "3 * max by" in panel["targets"][0]["expr"]
        assert links["Alert"].endswith("/${__data.fields.Alert}.md")
        assert "var-run=${__data.fields.Run:percentencode}" in links["Run"]
        assert "var-run=${__data.fields.Run:percentencode}" in links["Function"]
