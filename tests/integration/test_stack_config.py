"""The configuration files, checked by the programs that read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.source.generate import FOLDER
from tests.integration.conftest import need

PROMETHEUS = FOLDER / "prometheus"


def run(*command, cwd=None):
    """Run a checker; its output if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.server
def test_prometheus_accepts_its_configuration():
    """promtool reads the configuration with its rules, those for other setups too."""
    promtool = need("promtool", package="prometheus")

    code, output = run(promtool, "check", "config", "prometheus.yml", cwd=PROMETHEUS)

    assert 0 == code, output
    assert "39 rules found" in output


@pytest.mark.server
@pytest.mark.parametrize("path", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_written(path: Path):
    """promtool plays hours of series to the rules and compares what fires, and when."""
    promtool = need("promtool", package="prometheus")

    code, output = run(promtool, "test", "rules", path.name, cwd=path.parent)

    assert 0 == code, output


@pytest.mark.server
def test_alertmanager_accepts_its_configuration():
    """amtool reads it, and each severity goes where it should."""
    amtool = need("amtool", package="prometheus-alertmanager")
    config = FOLDER / "alertmanager" / "alertmanager.yml"

    code, output = run(amtool, "check-config", config)
    assert 0 == code, output
    routed = {
        labels: run(amtool, "config", "routes", "test", f"--config.file={config}", *labels)[1].splitlines()[0]
        for labels in (
            ("alertname=JitwatchNoProgress", "severity=critical"),
            ("alertname=JitwatchRecompileStorm", "severity=warning"),
            ("alertname=JitwatchNoProgress", "severity=info"),
            ("alertname=Watchdog", "severity=none"),
        )
    }
    assert ["on-call", "daytime", "for-information", "watchdog"] == list(routed.values())


def test_alerts_take_labels_as_data_only():
    """A function is called what its author likes: no text of it is run as a template, and none ends a link's part."""
    rules = yaml.safe_load((PROMETHEUS / "rules" / "jitwatch.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    found = {
        (name, action)
        for alert in alerts
        for name, text in alert["annotations"].items()
        for action in re.findall(r"\{\{-?\s*(.*?)\s*-?\}\}", text)
    }

    assert alerts
    plain = re.compile(r"\$labels\.\w+|\$value( \| humanize\w*)?")
    quoted = re.compile(r"\$labels\.\w+ \| urlquery|\$externalURL")
    assert [] == [one for one in sorted(found) if not (quoted if one[0].endswith("_url") else plain).fullmatch(one[1])]
