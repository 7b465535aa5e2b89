"""What the README and the pages it links to say is so: names, options, commands, versions, figures."""

from __future__ import annotations

import re
import tomllib

import pytest

from jitwatch.model.taxonomy import PITFALLS
from jitwatch.probes import PROBES
from jitwatch.state.metrics import METRICS
from jitwatch.state.signals import metrics_of_signals
from tests.checkout import ROOT, path_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_LINES = 200


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table_names(text: str) -> list[str]:
    """Names in backquotes in the first column of the tables of a text."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([a-z_]+)`", row)]


def test_readme_is_short():
    """The README is an overview; details belong to the pages in docs/."""
    assert len(README.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_metric_names_exist(path):
    """Every metric that a page shows is one that the agent exports."""
    exposed = {metric.exposed_name for metric in METRICS + metrics_of_signals()}
    suffixes = ("", "_bucket", "_count", "_sum")
    named = set(re.findall(r"\bjitwatch_[a-z_]+(?![a-z_*(.])\b", (ROOT / path).read_text(encoding="utf-8")))
    named = {name for name in named if not name.endswith("_")} - {"jitwatch_events"}  # a pytest fixture
    assert set() == {name for name in named if not any(name == one + end for one in exposed for end in suffixes)}


def test_table_of_pitfalls_is_complete():
    """The table has every pitfall, and no other."""
    table = page("pitfalls.md").partition("## The pitfalls")[2].partition("\n## ")[0]
    assert sorted(PITFALLS) == sorted(table_names(table))


def test_probe_names_are_those_of_the_agent():
    """The option `probes` is explained with the real names."""
    assert ", ".join(f"`{probe.name}`" for probe in PROBES) in page("options.md")


@pytest.mark.parametrize("marker", ["demo-command", "test-command"])
def test_setup_command_is_one_line(marker):
    """Each set-up command is one line that starts from a bare Python."""
    block = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    command = block.group(1)
    assert 1 == command.count("\n")
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_extras_and_oldest_jax_are_those_of_the_package():
    """The versions named in the README, the package data and the hooks agree."""
    from jitwatch.jaxhooks import compat

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = ".".join(map(str, compat.OLDEST))
    assert f"jax>={oldest}" in project["dependencies"]
    assert f"| {oldest} |" in README
    assert f"JAX {oldest} or newer" in README
    assert {"test", "top", "docs"} <= set(project["optional-dependencies"])


def table_rows(text):
    """The cells of the rows of the first table in a text, the heading first."""
    rows = re.findall(r"^\|(.+)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows if not set(row) <= set("-|")]


def test_figures_are_those_of_the_performance_page():
    """Each cost that the README names is a figure of the page that has all of them."""
    heading, *rows = table_rows(README.partition("## What it costs")[2].partition("\n## ")[0])
    all_heading, *all_rows = table_rows(page("performance.md").partition("## Calls, compiles, scrapes")[2])
    columns = [all_heading.index(one) for one in heading]
    figures = [[row[column] for column in columns] for row in all_rows if len(row) == len(all_heading)]
    assert 7 == len(rows)
    assert [] == [row for row in rows if row not in figures]


def test_links_to_files_resolve():
    """No link of the pages at the top of the repository leads nowhere."""
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert targets
        assert [] == [target for target in targets if not path_of(target).exists()]


def test_no_placeholder_is_left():
    """The README is finished."""
    assert [] == re.findall(r"@@\w+@@|TODO|FIXME", README)
