"""The command `jitwatch report` as a process: encodings, pipes, imports."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.unit.logs import compiled, ended, lines, pitfall, recompiled, written


@pytest.fixture
def log(tmp_path):
    return written(tmp_path / "now" / "a.jsonl", lines(compiled(), recompiled(), pitfall(), ended(100.0)))


def run(*arguments: str, code: str = "", **options) -> subprocess.CompletedProcess:
    program = f"import sys; from jitwatch.cli import main\ncode = main(sys.argv[1:])\n{code}\nsys.exit(code)"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, timeout=60, **options)


def test_report_imports_no_jax(log):
    """A laptop with a log has none, and need not wait for it."""
    heavy = ("jax", "numpy", "structlog", "prometheus_client", "psutil")
    done = run("report", log, code=f"print([name for name in {heavy} if name in sys.modules])")

    assert b"[]" == done.stdout.splitlines()[-1]


def test_report_is_readable_in_any_encoding(tmp_path):
    """Also where the standard output is ASCII."""
    log = written(tmp_path / "a.jsonl", lines(recompiled()))
    done = run("report", log, env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})

    assert (0, b"") == (done.returncode, done.stderr)
    assert "int32[8] → int32[6]" in done.stdout.decode()


def test_report_into_a_closed_pipe_is_silent(log):
    """Who pipes it into `head` has seen enough."""
    program = [sys.executable, "-m", "jitwatch", "report", log]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"" == process.stderr.read()
        assert 0 == process.wait(60)
