"""What a check is: a function that runs in a process of its own and writes down what it finds, line by line.

What was written before a crash or a time limit is kept, so that a run on a machine that is rarely at hand brings as
much as possible. An expectation that does not hold does not end the check.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.waiting import wait_until

#: All checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}
#: A small part of the device's memory, so that checks can run side by side and memory runs out soon. Read by JAX on
#: GPUs; other backends ignore it.
SMALL = MappingProxyType({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.04"})


class NotHereError(Exception):
    """The check cannot run on this machine; the message says why."""


class Findings:
    """Writes findings to a file, one JSON object a line.

    Args:
        path: The file.
        platform: `cpu`, `gpu` or `tpu`, what is checked.
    """

    def __init__(self, path: Path, platform: str) -> None:
        self._path = path
        self.platform = platform
        self.is_accelerator = platform != "cpu"
        self._started = time.monotonic()

    def _write(self, kind: str, **content: Any) -> None:
        line = json.dumps({"kind": kind, "at_s": round(time.monotonic() - self._started, 3), **content}, default=str)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def figure(self, name: str, value: Any) -> None:
        """A figure for the table."""
        self._write("figure", name=name, value=value)

    def detail(self, name: str, value: Any) -> None:
        """What only the JSON file has."""
        self._write("detail", name=name, value=value)

    def expect(self, condition: object, otherwise: str) -> bool:
        """Note a problem unless the condition holds; returns whether it does."""
        if not condition:
            self._write("problem", text=otherwise)
        return bool(condition)

    def left_out(self, what: str, reason: str) -> None:
        """A part of the check that cannot run here."""
        self._write("left_out", text=f"{what}: {reason}")

    def skipped(self, reason: str) -> None:
        """The whole check cannot run here."""
        self._write("skipped", text=reason)


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        title: What is checked, for the table.
        limit_s: Seconds after which its process is ended.
        is_alone: Whether no other check may run at the same time.
        environment: Environment variables of its process.
        cpu_devices: Devices that a CPU is divided into.
    """

    name: str
    title: str
    run: Callable[[Findings], None]
    limit_s: float
    is_alone: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_devices: int = 1


def check(
    title: str,
    *,
    limit_s: float = 60.0,
    is_alone: bool = False,
    environment: Mapping[str, str] = SMALL,
    cpu_devices: int = 1,
) -> Callable[[Callable[[Findings], None]], Callable[[Findings], None]]:
    """Register a function as a check; its name is the check's."""

    def register(function: Callable[[Findings], None]) -> Callable[[Findings], None]:
        name = function.__name__
        CHECKS[name] = Check(name, title, function, limit_s, is_alone, environment, cpu_devices)
        return function

    return register


def run_check(name: str, path: Path, platform: str) -> None:
    """Run a check in this process."""
    findings = Findings(path, platform)
    try:
        CHECKS[name].run(findings)
    except NotHereError as reason:
        findings.skipped(str(reason))
    except BaseException:
        findings.expect(condition=False, otherwise=traceback.format_exc()[-4000:])
    findings.detail("end", value=True)


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Poll a condition; returns its last value, also if that is false."""
    try:
        return wait_until(condition, what="the condition", timeout_s=timeout_s)
    except AssertionError:
        return condition()


def records(watch: Any, *kinds: str) -> list[dict[str, Any]]:
    """The agent's records of these kinds, oldest first."""
    return [record for record in watch.events(10_000) if record["event"] in kinds]


def metrics_of(watch: Any) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and values of the agent's metrics by name, as the endpoint serves them."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, rows in watch.snapshot()["metrics"].items():
        found[name] = [(row["labels"], row["value"]) for row in rows if "value" in row]
    return found


def short(label: str | None) -> str | None:
    """The last part of a function's label."""
    return label and label.partition("@")[0].rpartition(".")[2]


def mib(size: float | None) -> str:
    """Bytes in words."""
    return "none" if size is None else f"{size / (1 << 20):,.1f} MiB"
