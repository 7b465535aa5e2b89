"""What tests of the event log have in common: a clock, a counter of drops, readers."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

THREAD = "jitwatch-eventlog"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Drops:
    """Counts what the log drops, by reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __call__(self, reason: str, count: int) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def record(seq: int, **more: Any) -> dict[str, Any]:
    return {"timestamp": "2025-03-01T12:00:00Z", "event": "jit.compiled", "schema": 1, "run": "r", "seq": seq, **more}


def parse(path: Path) -> list[dict[str, Any]]:
    """Read a log as a strict reader would: every line is one JSON object, without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_bytes().decode("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.split("\n")[:-1]]


def seqs(path: Path) -> list[int]:
    return [one["seq"] for one in parse(path)]


def open_files(path: Path) -> list[str]:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return [link for link in links if link.startswith(str(path))]
