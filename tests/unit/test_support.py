"""What docs/support.md says is what CI runs and what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from jitwatch.jaxhooks import compat
from tests.checkout import ROOT

SUPPORT = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
RUN = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_older_versions_are_those_of_ci():
    """The table has a row for each older JAX that CI runs; the oldest supported one is among them."""
    found = re.search(r"^older=\((.*)\)$", RUN, re.MULTILINE)
    assert found is not None
    rows = re.findall(r"^\| the unit, property and process tests \| (\S+) \| (\S+) \|$", SUPPORT, re.MULTILINE)
    oldest = ".".join(map(str, compat.OLDEST))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert [version for _, version in rows] == found[1].split()
    assert oldest == found[1].split()[-1]
    assert {project["requires-python"].removeprefix(">=")} == {python for python, _ in rows}
    assert f"JAX {oldest} to the newest release" in SUPPORT


def test_marker_is_documented_as_it_is_used():
    """The examples of `versions` are markers of real tests."""
    examples = re.findall(r"^@pytest\.mark\.versions\(.*\)$", SUPPORT, re.MULTILINE)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].glob("*/test_*.py"))

    assert 2 == len(examples)
    assert [] == [example for example in examples if f"\n{example}\ndef " not in tests]
