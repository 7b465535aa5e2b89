"""An out-of-memory error that ends a job."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap


def test_uncaught_error_is_logged_before_the_job_ends(tmp_path):
    """As `jitwatch run` starts it: same traceback, same exit code; the log has the snapshot."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        import jax, jax.numpy as jnp
        from jax.errors import JaxRuntimeError
        kept = jnp.ones((100, 100))
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        """)
    )
    log = tmp_path / "log.jsonl"
    ended = subprocess.run(
        [sys.executable, "-m", "jitwatch", "run", "--port", "0", "--event-log", str(log), str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (event,) = [json.loads(line) for line in log.read_text().splitlines() if '"memory.oom"' in line]

    assert 1 == ended.returncode, ended.stderr
    assert 1 == ended.stderr.count("Traceback")
    assert f"{script}:5" == event["call_site"]
    assert [[100, 100]] == [row["shape"] for row in event["arrays"] if row["bytes"] == 40_000]
