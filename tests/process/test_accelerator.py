"""The checks for accelerators run on a processor as far as they can, so that the script itself is known to work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jitwatch.jaxhooks import compat
from tests.accelerator import __main__ as script
from tests.accelerator.checks import CHECKS, Check, Findings

ROOT = Path(__file__).parents[2]
#: Figures of the cost take time, and say nothing on a shared machine; the demo has tests of its own.
LONG = {"overhead", "demo", "persistent_cache", "fingerprints"}


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    return subprocess.run(
        [sys.executable, "-m", "tests.accelerator", "--output", str(tmp_path / "table"), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env={**inherited, **environment},
    )


def test_without_an_accelerator_nothing_is_checked(tmp_path):
    """It says why, names the command for a processor, and is no failure."""
    ended = run(tmp_path, JAX_PLATFORMS="cpu")
    assert 0 == ended.returncode, ended.stderr
    assert "this machine has no GPU or TPU" in ended.stdout
    assert "--platform cpu" in ended.stdout
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(set(CHECKS) - LONG))
def test_check_passes_on_a_processor(tmp_path, name):
    """Each check in its own process; what a processor cannot show is in the table."""
    ended = run(tmp_path, "--platform", "cpu", "--only", name)
    content = json.loads((tmp_path / "table.json").read_text())
    (outcome,) = content["checks"]
    # Only old versions of jaxlib cannot profile.
    is_left_out = name == "profiles" and compat.profiling_problem() is not None
    expected = "skipped" if is_left_out else "passed"
    assert expected == outcome["result"], (outcome["problems"], outcome["output"])
    assert 0 == ended.returncode, ended.stderr
    table = (tmp_path / "table.md").read_text()
    assert f"| {outcome['title']} | {expected}, " in table
    assert outcome["figures"] or is_left_out
    assert {"device", "Python", "jax", "jaxlib", "jitwatch", "date"} <= set(content["machine"])


@pytest.mark.parametrize("name", sorted(LONG - {"overhead", "demo"}))
def test_long_check_passes_on_a_processor(tmp_path, name):
    """Those that start processes one after the other."""
    ended = run(tmp_path, "--platform", "cpu", "--only", name)
    (outcome,) = json.loads((tmp_path / "table.json").read_text())["checks"]
    assert ("passed", 0) == (outcome["result"], ended.returncode), outcome["problems"]


def simulate(monkeypatch, code: str, limit_s: float = 60.0) -> script.Outcome:
    """The outcome of a check whose process runs this code, with `findings` in its names."""
    prelude = (
        "import sys; from pathlib import Path; from tests.accelerator.checks import Findings;"
        "findings = Findings(Path(sys.argv[1]), 'cpu');"
    )

    def run_in_process(command, environment, limit):
        return original([sys.executable, "-c", prelude + code, command[5]], environment, limit)

    original = script.run_in_process
    monkeypatch.setattr(script, "run_in_process", run_in_process)
    check = Check("simulated", "Simulated", lambda _: None, limit_s, is_alone=False)
    return script.run_check(check, "cpu", None, script.time.monotonic() + 60)


def test_crash_keeps_what_was_found(monkeypatch):
    """As a segmentation fault of a driver: the figures before it, and the signal."""
    outcome = simulate(monkeypatch, "findings.figure('before', 7); import os; os.kill(os.getpid(), 11)")
    assert ("failed", {"before": 7}) == (outcome.result, outcome.figures)
    assert any("SIGSEGV" in text for text in outcome.problems)


def test_hang_ends_at_its_limit(monkeypatch):
    """The rest of the run goes on."""
    outcome = simulate(monkeypatch, "findings.figure('before', 7); import threading; threading.Event().wait()", 3.0)
    assert ("failed", {"before": 7}) == (outcome.result, outcome.figures)
    assert any("within 3 s" in text for text in outcome.problems)
    assert outcome.seconds < 20


def test_failed_check_fails_the_run(monkeypatch, tmp_path):
    """Also if it ended well; a skipped one does not."""

    def run_check(check, kind, wanted, until):
        result = {"donation": "failed", "several_devices": "skipped"}.get(check.name, "passed")
        return script.Outcome(check.name, check.title, result, left_out=["one device"], problems=["wrong | value"])

    monkeypatch.setattr(script, "run_check", run_check)
    found = {"platform": "gpu", "kind": "card", "count": 1, "platform_version": "cuda 13", "python": "3.12"}
    monkeypatch.setattr(script, "devices", lambda wanted: (found, ""))
    monkeypatch.setattr(script, "driver", lambda found: "580")
    output = ["--output", str(tmp_path / "table")]
    assert 1 == script.main(["--only", "donation,compiles", *output])
    assert r"**wrong \| value**" in (tmp_path / "table.md").read_text()
    assert 0 == script.main(["--only", "several_devices,compiles", *output])


def test_no_time_left_is_a_failure(tmp_path):
    """A check that did not run has shown nothing."""
    outcomes = script.run_all([CHECKS["donation"]], "cpu", "cpu", jobs=1, total_s=0)
    assert [("not run", ["no time was left"])] == [(one.result, one.problems) for one in outcomes]


def test_missing_program_says_nothing():
    """Neither git nor the driver's program is needed."""
    assert "" == script.said(["no-such-program"]) == script.said([sys.executable, "-c", "raise SystemExit(1)"])
    assert "one" == script.said([sys.executable, "-c", "print('one\\ntwo')"])


def test_missing_dependency_is_named(monkeypatch, capsys):
    """Before any process is started."""
    monkeypatch.setattr(script, "_has", lambda name: name != "structlog")
    assert 2 == script.main([])
    assert "not installed: structlog" in capsys.readouterr().err


def test_expectations_do_not_end_a_check(tmp_path):
    """One run tells as much as it can."""
    findings = Findings(tmp_path / "file", "cpu")
    assert not findings.expect(0, "first")
    assert findings.expect(1, "second")
    findings.figure("last", 1)
    assert ["problem", "figure"] == [json.loads(line)["kind"] for line in (tmp_path / "file").read_text().splitlines()]
