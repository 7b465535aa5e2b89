"""What the README says is so: names, options, commands, versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import jitwatch
from jitwatch.model.taxonomy import PITFALLS
from jitwatch.probes import PROBES
from jitwatch.state.metrics import METRICS

ROOT = Path(jitwatch.__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_metric_names_exist():
    """Every metric that the README shows is one that the agent exports."""
    exposed = {metric.exposed_name for metric in METRICS}
    suffixes = ("", "_bucket", "_count", "_sum")
    named = set(re.findall(r"jitwatch_[a-z_]+", README)) - {"jitwatch_events"}  # a pytest fixture
    assert named
    assert set() == {name for name in named if not any(name == one + end for one in exposed for end in suffixes)}


def test_table_of_mistakes_is_complete():
    """The table has every pitfall, and no other."""
    table = README.partition("### The mistakes it names")[2].partition("\n### ")[0]
    names = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(PITFALLS) == sorted(names)


def test_probe_names_are_those_of_the_agent():
    """The option `probes` is explained with the real names."""
    assert ", ".join(f"`{probe.name}`" for probe in PROBES) in README


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

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = ".".join(map(str, compat.OLDEST))
    assert f"jax>={oldest}" in project["dependencies"]
    assert f"| {oldest} |" in README
    assert "test" in project["optional-dependencies"]


def test_links_to_files_resolve():
    """No link of the README leads nowhere."""
    targets = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert targets
    assert [] == [target for target in targets if not (ROOT / target).exists()]


def test_no_placeholder_is_left():
    """The README is finished."""
    assert [] == re.findall(r"@@\w+@@|TODO|FIXME", README)
