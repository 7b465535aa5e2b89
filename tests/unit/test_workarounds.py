"""The table of version-dependent code is complete, correct and in the documentation."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import jitwatch
from jitwatch.jaxhooks.workarounds import WORKAROUNDS, table

ROOT = Path(jitwatch.__file__).parents[1]


@pytest.mark.parametrize("workaround", WORKAROUNDS, ids=lambda one: one.place)
def test_workaround_is_found_at_its_place(workaround):
    """Code that was removed is removed from the table, too."""
    module, name = workaround.place, []
    while True:
        module, _, last = module.rpartition(".")
        name.insert(0, last)
        try:
            found = importlib.import_module(f"jitwatch.jaxhooks.{module}")
            break
        except ModuleNotFoundError:
            assert module
    for part in name:
        found = getattr(found, part)
    assert all((workaround.versions, workaround.why, workaround.source, workaround.until))


def test_documentation_has_the_table():
    """`docs/hooks.md` shows what the table says."""
    text = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    begin, end = "<!-- branches -->\n", "<!-- /branches -->"
    assert table() == text.partition(begin)[2].partition(end)[0].strip("\n") + "\n"


def test_every_module_that_compares_versions_is_in_the_table():
    """Code that asks for a version of JAX or Python has a row."""
    asking = re.compile(r"parse_version\(|sys\.version_info|__version_info__|_CHECKS_ITSELF|INFER_0_9_0\.missing")
    folder = ROOT / "jitwatch" / "jaxhooks"
    listed = {one.place.rpartition(".")[0] for one in WORKAROUNDS} | {one.place for one in WORKAROUNDS}
    for path in folder.rglob("*.py"):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        if asking.search(path.read_text()) and name != "workarounds":
            assert any(place == name or place.startswith(f"{name}.") for place in listed), name
