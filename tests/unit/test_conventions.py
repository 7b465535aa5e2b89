"""What holds for the tests themselves."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
#: The one place that polls, a fault that makes a function slow, and a job whose processes wait for each other.
MAY_SLEEP = {"waiting.py", "faults/injection.py", "process/divergence_job.py"}


def sleeps(source: str) -> list[int]:
    """Lines that call `time.sleep` or name it in an import."""
    if "sleep" not in source:
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "time" and "sleep" in {name.name for name in node.names}:
            found.append(node.lineno)
    return found


def test_no_test_sleeps():
    """They wait for a condition (`tests.waiting`); programs in strings are jobs, and may."""
    sources = {str(path.relative_to(TESTS)): path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    assert [] == [f"{name}:{line}" for name, text in sources.items() if name not in MAY_SLEEP for line in sleeps(text)]


def test_a_sleep_is_found():
    """The test above can fail."""
    assert [2, 3] == sleeps("import time\nfrom time import sleep\ntime.sleep(1)\n")
