"""Every output, with a job in which everything that has a name has a hostile one: none steers a terminal or is markup.

The job is real: what it does goes through the hooks, the events, the state and the log to each output.
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

import jitwatch
from jitwatch import guard
from jitwatch.cli.report import _rendered
from jitwatch.model.cleaning import clean, is_clean
from jitwatch.render import notebook, summary
from jitwatch.report import compare, document, sources
from jitwatch.report.read import read_logs
from jitwatch.top.client import Client, Job
from jitwatch.top.view import as_json, as_text
from tests.unit import hostile_job
from tests.unit.hostile import MIXED, harm_in
from tests.unit.test_report_html import Page
from tests.unit.top_states import on_screen

_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
_MARKUP = "<script>alert(1)</script>"


def get(url: str, **headers: str) -> str:
    """What the endpoint answers."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        found: str = answer.read().decode()
        return found


@pytest.fixture(scope="session")
def outputs(tmp_path_factory) -> SimpleNamespace:
    """All outputs by name, as texts, and the folder that the agent wrote to."""
    folder = tmp_path_factory.mktemp("hostile")
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(logging.Formatter().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("jitwatch")
    logger.addHandler(handler)
    guard.reraise = True
    try:
        with jitwatch.install(
            port=0, run="".join(MIXED), event_log=folder / "log.jsonl", hlo_dir=folder / "hlo", sd_dir=folder / "sd"
        ) as watch:
            assert watch.url is not None
            notes = hostile_job.commit()
            state, url = watch.snapshot(), watch.url
            found = {
                "notes and errors": "\n".join(notes),
                "explain": str(jitwatch.explain()),
                "explain of a function": "\n".join(repr(watch.explain(text)) for text in MIXED),
                "explain of an unknown function": "\n".join(str(watch.explain(f"no{text}")) for text in MIXED),
                "summary": "\n".join(summary.text(state, width=width) for width in (60, 100)),
                "state": json.dumps(state),
                "scalars": json.dumps(jitwatch.scalars()),
                "events": json.dumps(watch.events(10_000)),
                "notebook": watch._repr_html_(),
                "metrics": get(f"{url}/metrics"),
                "openmetrics": get(f"{url}/metrics", Accept=_OPEN_METRICS),
                "api state": get(f"{url}/api/v1/state"),
                "api events": get(f"{url}/api/v1/events?since=0"),
                "api events of a function": "\n".join(
                    get(f"{url}/api/v1/events?function={urllib.parse.quote(clean(text, 200))}") for text in MIXED[:4]
                ),
                "api live": get(f"{url}/api/v1/live"),
                "healthz": get(f"{url}/healthz"),
            }
            client = Client([Job(url=url)])
            jobs = client.once()
            found["top"] = "\n".join(as_text(jobs, columns) for columns in (30, 80, 200))
            found["top as JSON"] = as_json(jobs)
            found["top on a screen"] = "\n".join(on_screen(client, size=(120, 90)))
            found["discovery"] = "\n".join(path.read_text() for path in (folder / "sd").iterdir())
    finally:
        guard.reraise = False
        logger.removeHandler(handler)
    found["logger"] = "\n".join(logged)
    found["event log"] = (folder / "log.jsonl").read_text(encoding="utf-8")
    # Half of the functions are gone in the other run.
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "old.jsonl").write_text("\n".join(lines[: len(lines) // 2]), encoding="utf-8")
    now, old = (
        document.document(*read_logs(sources.find([str(folder / name)]))) for name in ("log.jsonl", "old.jsonl")
    )
    for form in ("text", "html", "json"):
        found[f"report as {form}"] = _rendered(form, now, None, 100)
        found[f"comparison as {form}"] = _rendered(form, now, compare.compare(now, old), 60)
    return SimpleNamespace(texts=found, folder=folder, state=state, events=watch.events(10_000))


OUTPUTS = (
    "notes and errors", "explain", "explain of a function", "explain of an unknown function", "summary", "state",
    "scalars", "events", "notebook", "metrics", "openmetrics", "api state", "api events", "api events of a function",
    "api live", "healthz", "top", "top as JSON", "top on a screen", "discovery", "logger", "event log",
    "report as text", "report as html", "report as json",
    "comparison as text", "comparison as html", "comparison as json",
)  # fmt: skip


def test_outputs_have_nothing_that_steers(outputs):
    """No control character but line feeds, nothing that turns letters around or cannot be seen, no half of a pair."""
    assert set(OUTPUTS) == set(outputs.texts)
    assert [] == [(name, harm) for name, text in outputs.texts.items() for harm in harm_in(text)]
    for text in outputs.texts.values():
        text.encode()


def test_outputs_show_the_names(outputs):
    """They are there, cleaned: the test above would pass for an output that shows none."""
    shown = [clean(one, 200)[:12] for one in MIXED]
    escaped = {one: [one, json.dumps(one)[1:-1], one.replace("<", "&lt;").replace(">", "&gt;")] for one in shown}
    # The newest paragraphs are of the last text alone, and a text that is cut is no function's name.
    few = {"explain": shown[:-1], "api events of a function": shown[-1:]}
    assert [] == [
        (name, one)
        for name, text in outputs.texts.items()
        if name not in ("scalars", "healthz", "discovery")
        for one, forms in escaped.items()
        if one not in few.get(name, []) and not any(form in text for form in forms)
    ]


@pytest.mark.parametrize(
    "name", [name for name in OUTPUTS if name.startswith(("api", "state", "events", "top as", "event l"))]
)
def test_json_holds_nothing_that_steers(outputs, name):
    """Not escaped either: whoever reads it shows it somewhere."""
    text = outputs.texts[name]
    for one in text.splitlines() if name in ("event log", "api events of a function") else [text]:
        found = json.loads(one)
        assert is_clean(found), list(dirty(found))


def dirty(value: Any, path: str = "") -> Iterator[str]:
    """Where texts are that are not clean."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from dirty(key, f"{path}/key")
            yield from dirty(one, f"{path}/{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from dirty(one, f"{path}/{number}")
    elif not is_clean(value):
        yield f"{path}: {value!a}"


@pytest.mark.parametrize("name", ["report as html", "comparison as html"])
def test_report_has_only_its_own_elements(outputs, name):
    """No element, attribute or address comes from a name; the names are text."""
    page = Page(outputs.texts[name])
    attributes = {(tag, key) for tag, pairs in page.elements for key in pairs}

    assert {key for _, key in attributes} <= {
        "lang", "charset", "name", "content", "http-equiv", "class", "id", "aria-labelledby", "aria-hidden", "style",
        "scope",
    }  # fmt: skip
    styles = {pairs["style"] for _, pairs in page.elements if "style" in pairs}
    assert all(re.fullmatch(r"width:[0-9.]+%", style) for style in styles)
    assert any(_MARKUP in text for text in page.text)


class Fragment(HTMLParser):
    """Elements and text of a fragment."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_notebook_has_only_its_own_elements(outputs):
    """A link to the page is all that has an attribute."""
    page = Fragment(outputs.texts["notebook"])

    assert {tag for tag, _ in page.elements} <= {"p", "b", "br", "a", "table", "thead", "tbody", "tr", "th", "td"}
    assert [{"href", "target", "rel"}] == [set(pairs) for _, pairs in page.elements if pairs]
    assert any(_MARKUP in text for text in page.text)


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", 'http://h/"><script>alert(1)</script>', "http://h/' onload='alert(1)"]
)
def test_notebook_escapes_an_address(outputs, url):
    """Nothing breaks out of the link; what is no web address is none."""
    page = Fragment(notebook.html_of(outputs.state, url))
    links = [pairs for tag, pairs in page.elements if tag == "a"]

    assert "script" not in {tag for tag, _ in page.elements}
    assert [url] * url.startswith("http") == [pairs["href"] for pairs in links]
    assert all(set(pairs) == {"href", "target", "rel"} for pairs in links)


@pytest.mark.parametrize(("name", "parse"), [("metrics", families), ("openmetrics", open_families)])
def test_metrics_have_only_their_own_families(outputs, name, parse):
    """A name with quotes, braces and line breaks is one label value, and begins no sample or comment."""
    found = list(parse(outputs.texts[name]))
    labels = {sample.labels.get("function") for family in found for sample in family.samples}

    assert {"jitwatch", "process", "python", "host", "child"} >= {family.name.partition("_")[0] for family in found}
    assert {clean(f"{text}.{text}", 200).replace('"', "'") for text in MIXED[:4]} <= labels


def test_files_lie_in_their_folders(outputs):
    """Whatever the functions and the run are called: plain names, and no folder besides."""
    names = sorted(os.listdir(outputs.folder))
    programs = sorted(path.name for path in (outputs.folder / "hlo").iterdir())

    assert ["hlo", "log.jsonl", "old.jsonl", "sd"] == names
    assert programs
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]{1,255}", name) for name in programs)
    assert not any(name.startswith(".") for name in programs)


def test_job_did_everything_that_it_says(outputs):
    """Each kind of event with texts of the job is there, for each of the texts."""
    kinds = {one["event"] for one in outputs.events}
    pitfalls = {one["pitfall"] for one in outputs.events if "pitfall" in one}

    assert {
        "jit.compiled", "jit.recompiled", "jit.compile_failed", "jit.steady_violation", "jit.pitfall",
        "donation.violation", "memory.oom",
    } <= kinds  # fmt: skip
    assert {"identity_hashed_static", "use_after_donate", "double_donation"} <= pitfalls
    violations = [one for one in outputs.events if one["event"] == "donation.violation"]
    assert {"use_after_donate", "double_donation", "unusable"} <= {one["kind"] for one in violations}
    assert Path(outputs.folder, "hlo").is_dir()
