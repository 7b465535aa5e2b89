"""The pages in docs/ are complete, up to date with the code, and refer to what exists."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from dataclasses import dataclass
from typing import ClassVar

import pytest
import yaml

import jitwatch
from jitwatch.cli import build_parser
from jitwatch.jaxhooks import compat
from jitwatch.model.events import Event
from jitwatch.model.events.base import EVENT_TYPES
from jitwatch.model.taxonomy import CAUSES
from tests.checkout import PACKAGE, ROOT, path_of

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
#: Files that the pages name and that are about to be made; empty it when they exist.
PENDING: set[str] = set()


@pytest.fixture(scope="module")
def generate():
    """The generator, loaded from its file: docs/ is no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Event):
    """It was slow.

    Attributes:
        wait_s, work_s: How long it took,
            or None.
        size_bytes: How large it was.
        inner: Not shown.
    """

    kind: ClassVar[str] = "test.slow"
    hidden: ClassVar[frozenset[str]] = frozenset({"inner"})
    optional: ClassVar[frozenset[str]] = frozenset({"size_bytes"})

    wait_s: float | None
    work_s: float
    size_bytes: int = 0
    inner: str = ""


# Only these tests know it.
EVENT_TYPES.pop(Slow.kind)


class TestGenerated:
    """Reference pages that follow from the code."""

    def test_pages_are_up_to_date(self, generate):
        """What is committed is what the code says."""
        assert [] == generate.stale_pages(), "run: python docs/generate.py"

    def test_stale_page_is_found(self, generate, tmp_path):
        """A page that differs by one word is named, and only that one."""
        for name, text in generate.pages().items():
            (tmp_path / name).write_text(text.replace("# Metrics", "# Meters"), encoding="utf-8")

        assert ["metrics.md"] == generate.stale_pages(tmp_path)

    def test_check_says_what_is_out_of_date(self, generate, monkeypatch, capsys):
        """`--check`, which nox and pre-commit run, exits with 1 and writes nothing."""
        monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
        assert 0 == generate.main()

        monkeypatch.setattr(generate, "metrics_page", lambda: "other")
        assert 1 == generate.main()
        assert "out of date: metrics.md; run python docs/generate.py\n" == capsys.readouterr().err
        assert "other" != (DOCS / "metrics.md").read_text(encoding="utf-8")

    def test_every_field_of_a_record_is_described(self, generate):
        """No event has a field that the page leaves unexplained."""
        bare = [
            f"{kind.kind}.{name}"
            for kind in generate.logged_events()
            for name, (_, _, meaning) in generate.described_fields(kind).items()
            if not meaning.removeprefix("*Optional.*").strip()
        ]
        assert [] == bare

    def test_docstring_describes_fields_with_units(self, generate):
        """Names before a colon share a text, lines are joined, None is JSON's null, hidden fields are left out."""
        assert {
            "wait_s": ("number or null", "s", "How long it took, or null."),
            "work_s": ("number", "s", "How long it took, or null."),
            "size_bytes": ("integer", "bytes", "*Optional.* How large it was."),
        } == generate.described_fields(Slow)

    def test_every_metric_is_listed_once(self, generate):
        """The groups of the page are all metrics, in the order of their declaration."""
        text = generate.metrics_page()
        listed = re.findall(r"^\| `(jitwatch_\w+)`", text, re.MULTILINE)
        assert [metric.exposed_name for metric in generate.METRICS + generate.metrics_of_signals()] == listed


def test_every_page_is_in_the_navigation():
    """Each page can be found, and each entry has a page."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    entries = set(_targets(site["nav"]))
    runbooks = {f"runbooks/{path.name}" for path in (ROOT / "dashboards" / "runbooks").glob("*.md")}
    elsewhere = {"examples/README.md", "benchmarks.md", "changelog.md", "security-policy.md"}

    assert {path.name for path in PAGES} | runbooks | elsewhere == entries


def _targets(nav):
    for entry in nav:
        for value in entry.values():
            yield from _targets(value) if isinstance(value, list) else [value]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_of_a_page_resolve(path):
    """Links name a file by its place in the repository, so that they work in a checkout, too."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [] == [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(path):
    """A file or folder in backquotes, from the top of the repository or from jitwatch/, exists."""
    named = re.findall(r"`((\w+)/(?:[\w-]+/)*(?:[\w.-]+\.\w+)?)`", path.read_text(encoding="utf-8"))
    top = {PACKAGE.name, *(one.name for one in ROOT.iterdir())}
    inner = {one.name for one in PACKAGE.iterdir() if one.is_dir()}
    found = {name if first in top else f"jitwatch/{name}" for name, first in named if first in top | inner}
    assert set() == {name for name in found if not path_of(name).exists()} - PENDING


def test_modules_that_use_hooks_exist():
    """docs/hooks.md names, beside each hook, modules below jitwatch/jaxhooks/."""
    rows = re.findall(r"<br>.*?((?:`\w+\.\w+`(?:, )?)+) \|", (DOCS / "hooks.md").read_text(encoding="utf-8"))
    modules = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    files = {f"jitwatch/jaxhooks/{name.replace('.', '/')}.py" for name in modules}

    assert len(files) > 7
    assert set() == {name for name in files if not path_of(name).exists()} - PENDING


def test_pages_load_nothing_from_elsewhere():
    """The site works offline: no fonts, scripts or pictures of other hosts."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in site
    assert "extra_javascript" not in site
    for path in PAGES:
        assert [] == re.findall(r"!\[[^]]*\]\(https?:", path.read_text(encoding="utf-8")), path.name


def test_every_hook_is_documented():
    """docs/hooks.md has each private name of JAX that `compat` declares, with our name for it."""
    text = (DOCS / "hooks.md").read_text(encoding="utf-8")
    hooks = [value for value in vars(compat).values() if isinstance(value, compat.Hook)]

    assert len(hooks) > 20
    assert [] == [hook.attribute for hook in hooks if hook.attribute not in text]
    assert [] == [hook.name for hook in hooks if not re.search(rf"\*[^*\n]*\b{hook.name}\b[^*\n]*\*", text)]


def test_every_cause_is_explained():
    """The table of causes is complete, in the order of the code."""
    table = (DOCS / "contract.md").read_text(encoding="utf-8").partition("## Causes")[2].partition("\n## ")[0]
    assert list(CAUSES) == re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_every_command_is_described():
    """docs/cli.md has each command, and no other."""
    commands = next(action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    rows = re.findall(r"^\| \[(`.*?`)\]", (DOCS / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(commands) == sorted(name for row in rows for name in re.findall(r"`(\w+)`", row))


def test_every_public_name_is_in_the_contract():
    """docs/contract.md has each name that the package exports."""
    text = (DOCS / "contract.md").read_text(encoding="utf-8")
    assert [] == [name for name in jitwatch.__all__ if not name.startswith("__") and f"`{name}" not in text]


def test_every_alert_has_a_row_and_a_runbook():
    """docs/dashboards.md names each alert of the rules, with a link to its runbook."""
    rules = yaml.safe_load((ROOT / "dashboards/prometheus/rules/jitwatch.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    text = (DOCS / "dashboards.md").read_text(encoding="utf-8")
    assert alerts == set(re.findall(r"\[(\w+)\]\(\.\./dashboards/runbooks/\1\.md\)", text))


def test_ci_builds_the_site_with_the_packages_of_the_extra():
    """CI installs what the extra `docs` asks for, without the package itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    installed = next(line for line in run.splitlines() if "mkdocs" in line and "pip install" in line)

    assert sorted(project["optional-dependencies"]["docs"]) == sorted(re.findall(r"'([^']+)'", installed))
    assert "mkdocs build --quiet --strict" in run
