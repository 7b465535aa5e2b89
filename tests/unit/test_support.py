"""What docs/support.md says is what CI runs and what the package asks for."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import jitwatch
from jitwatch.jaxhooks import compat

ROOT = Path(jitwatch.__file__).parent.parent
SUPPORT = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
RUN = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
TRIXIE = (ROOT / ".ci" / "trixie").read_text(encoding="utf-8")


def test_older_versions_are_those_of_ci():
    """The table has a row for each older JAX that CI runs the unit tests on; the oldest supported one is among them."""
    found = re.search(r"^older=\((.*)\)$", RUN, re.MULTILINE)
    assert found is not None
    rows = re.findall(r"^\| the unit tests \| (\S+) \| (\S+) \|$", SUPPORT, re.MULTILINE)
    oldest = ".".join(map(str, compat.OLDEST))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert [version for _, version in rows] == found[1].split()
    assert oldest == found[1].split()[-1]
    assert {project["requires-python"].removeprefix(">=")} == {python for python, _ in rows}
    assert f"JAX {oldest} to the newest release" in SUPPORT


def test_marker_is_documented_as_it_is_used():
    """The examples of `versions` are markers of real tests."""
    examples = re.findall(r"^@pytest\.mark\.versions\(.*\)$", SUPPORT, re.MULTILINE)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))

    assert 2 == len(examples)
    assert [] == [example for example in examples if f"\n{example}\ndef " not in tests]


def test_scripts_are_valid_and_can_be_run():
    """Bash reads them, and they say what they need before they change anything."""
    for name in ("run", "trixie"):
        path = ROOT / ".ci" / name
        assert path.stat().st_mode & 0o111
        assert 0 == subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode
    assert TRIXIE.index('[ "$(id -u)" = 0 ] || fail') < TRIXIE.index("is_usable || make_root")
