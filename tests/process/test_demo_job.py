"""The demo job of the containers, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A shell that runs the tests in the background ignores SIGINT, and so do all processes below it.
START = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_demo_job_runs_examples_until_it_is_interrupted():
    """It serves, runs one example after the other, and ends normally with SIGINT, which the image and Compose send."""
    with subprocess.Popen(
        [sys.executable, "-c", START, ROOT / "dashboards" / "demo" / "job.py"],
        env={**os.environ, "JITWATCH_PORT": "0", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()

    assert lines[0].startswith("serving on http://127.0.0.1:"), errors
    assert ["static_arg_churn", "identity_hashed_static"] == [line.partition(":")[0] for line in lines[1:]], errors
    assert 0 == process.returncode, errors
