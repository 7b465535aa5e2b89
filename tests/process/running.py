"""Interpreters of their own, for programs of a few lines."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_python(
    code: str, *arguments: str, timeout_s: float = 120.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program with JAX on the CPU and with further variables; its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
