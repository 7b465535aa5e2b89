"""Refused static arguments that end a job, or that it catches."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run_job(tmp_path, body):
    """Run a job with the agent; its answer, and the refusals that it logged."""
    script = tmp_path / "job.py"
    script.write_text(
        "import jax, numpy as np, jitwatch\n"
        f"jitwatch.install(port=0, event_log={str(tmp_path / 'log.jsonl')!r})\n"
        "step = jax.jit(lambda x, n: x, static_argnums=1)\n" + textwrap.dedent(body)
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    return ended, [line for line in lines if "unhashable_static" in line and '"jit.pitfall"' in line]


def test_uncaught_refusal_is_logged_before_the_job_ends(tmp_path):
    """The job ends as it would without the agent: same traceback, same exit code; the log has the reason."""
    ended, (line,) = run_job(tmp_path, "step(np.ones(3), [1])\n")
    assert 1 == ended.returncode
    assert ended.stderr.count("Traceback") == 1
    assert "jitwatch/jaxhooks" not in ended.stderr
    assert f"{tmp_path / 'job.py'}:4" in line


@pytest.mark.versions(python=">=3.12", reason="Python 3.11 does not report errors that the job catches")
def test_caught_refusal_is_seen(tmp_path):
    """From Python 3.12 on a refusal that the job catches is told too, once for several frames and calls."""
    body = """
    def inner():
        step(np.ones(3), [1])
    def outer():
        inner()
    for _ in range(3):
        try:
            outer()
        except ValueError:
            pass
    """
    ended, lines = run_job(tmp_path, body)
    assert (0, 1) == (ended.returncode, len(lines))
