"""Run the checks on this machine's accelerator, and write a table: `python -m tests.accelerator`.

Needs a checkout and jitwatch's dependencies (jax, prometheus-client, psutil, structlog), no network and no pytest. Each
check runs in a separate process with a time limit: if it crashes or hangs, the others still run. Exit status: 0
if no check failed, also if this machine has no accelerator; 1 if one failed or did not run; 2 if JAX cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.accelerator import checks, compile_checks, cost_checks, donation_checks, memory_checks
from tests.accelerator.checks import CHECKS, Check

#: The checks that tell most come first: a run may be cut short.
_MODULES = [one.__name__ for one in (memory_checks, donation_checks, compile_checks, cost_checks)]
_ROOT = Path(__file__).resolve().parents[2]
_NEEDED = ("jax", "jaxlib", "prometheus-client", "psutil", "structlog")
#: Seconds in which all checks should end; a check that would start later does not run.
_TOTAL_S = 285.0
_CPU_TOTAL_S = 1200.0
_DEVICES_S = 90.0
_TAIL = 6000
#: Checks at the same time. Each uses a small part of a GPU's memory; a TPU belongs to one process.
_JOBS = {"gpu": 3, "tpu": 1, "cpu": 1}
_DEVICES = """
import json, jax
devices = jax.local_devices()
client = devices[0].client
print("DEVICES " + json.dumps({
    "platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices),
    "platform_version": getattr(client, "platform_version", ""),
    "compute_capability": str(getattr(devices[0], "compute_capability", "")),
    "python": __import__("sys").version.split()[0],
}))
"""


@dataclass
class Outcome:
    """What became of a check: `passed`, `failed`, `skipped` or `not run`."""

    name: str
    title: str
    result: str = "not run"
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    exit_status: int | None = None
    output: str = ""


def environment_of(check: Check, wanted: str | None) -> dict[str, str]:
    """The environment of a check's process; on a CPU it is divided into devices."""
    environment = {**os.environ, **check.environment}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    if wanted is not None:
        environment["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(wanted, wanted)
    if wanted == "cpu":
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={check.cpu_devices}".strip()
    return environment


def run_in_process(command: list[str], environment: dict[str, str], limit_s: float) -> tuple[int | None, str]:
    """Exit status (None past the limit) and the end of the output of a process, which leaves no child behind."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=_ROOT, start_new_session=True
        )
        status: int | None
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _TAIL))
        return status, output.read().decode("utf-8", "replace")


def run_check(check: Check, kind: str, wanted: str | None, until: float) -> Outcome:
    """Run a check in a process of its own."""
    outcome = Outcome(check.name, check.title)
    left_s = until - time.monotonic()
    if left_s < 1:
        outcome.problems.append("no time was left")
        return outcome
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jitwatch-check-") as folder:
        file = Path(folder) / "findings.jsonl"
        command = [sys.executable, "-m", "tests.accelerator", "--child", check.name, str(file), "--platform", kind]
        environment = {**environment_of(check, wanted), "CHECK_FOLDER": folder}
        limit_s = min(check.limit_s, left_s)
        outcome.exit_status, outcome.output = run_in_process(command, environment, limit_s)
        read(file, outcome)
    outcome.seconds = round(time.monotonic() - started, 1)
    if outcome.exit_status is None:
        outcome.problems.append(f"it did not end within {limit_s:.0f} s")
    elif outcome.exit_status != 0:
        status = outcome.exit_status
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        outcome.problems.append(f"its process {how}: {outcome.output[-300:].strip()}")
    if outcome.problems:
        outcome.result = "failed"
    elif outcome.result != "skipped":
        outcome.result = "passed"
    return outcome


def read(file: Path, outcome: Outcome) -> None:
    """Read what a check wrote down, as far as it came."""
    is_ended = False
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):  # a line that was being written
            row = json.loads(line)
            match row["kind"]:
                case "figure":
                    outcome.figures[row["name"]] = row["value"]
                case "problem":
                    outcome.problems.append(row["text"])
                case "left_out":
                    outcome.left_out.append(row["text"])
                case "skipped":
                    outcome.result = "skipped"
                    outcome.left_out.append(row["text"])
                case _:
                    is_ended = is_ended or row.get("name") == "end"
                    outcome.details.append(row)
    if not is_ended:
        outcome.problems.append("it did not come to its end")


def devices(wanted: str | None) -> tuple[dict[str, Any] | None, str]:
    """JAX's devices, asked in a process of its own; None and why not."""
    environment = environment_of(next(iter(CHECKS.values())), wanted)
    status, output = run_in_process([sys.executable, "-c", _DEVICES], environment, _DEVICES_S)
    for line in output.splitlines():
        if line.startswith("DEVICES "):
            found: dict[str, Any] = json.loads(line[len("DEVICES ") :])
            return found, output
    return None, f"JAX lists no devices (exit status {status}): {output[-1500:].strip()}"


def machine(found: dict[str, Any]) -> dict[str, str]:
    """Machine and versions, for the head of the table."""
    from jitwatch._version import __version__

    rows = {
        "device": f"{found['count']} × {found['kind']} ({found['platform']})",
        "driver": driver(found),
        "backend": " ".join(str(found["platform_version"]).split())[:120],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "Python": found["python"],
        "jitwatch": __version__,
    }
    for name in _NEEDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            rows[name] = importlib.metadata.version(name)
    if commit := said(["git", "rev-parse", "HEAD"]):
        rows["commit"] = commit[:12]
    rows["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    for name in ("XLA_FLAGS", *sorted(name for name in os.environ if name.startswith("XLA_PYTHON_CLIENT"))):
        if os.environ.get(name):
            rows[name] = os.environ[name]
    return rows


def driver(found: dict[str, Any]) -> str:
    """Version of the driver, where a program says it."""
    if found["platform"] != "gpu":
        return "–"
    return said(["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]) or "unknown"


def said(command: list[str]) -> str:
    """The first line that a program prints; empty if it is not there or fails."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20, cwd=_ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.partition("\n")[0].strip() if ended.returncode == 0 else ""


def table(rows: dict[str, str], outcomes: Iterable[Outcome]) -> str:
    """The results as Markdown."""
    lines = ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows.items()), ""]
    lines += ["| check | result | figures |", "|---|---|---|"]
    for one in outcomes:
        parts = [f"{name}: {value}" for name, value in one.figures.items()]
        parts += [f"not here: {text}" for text in one.left_out]
        parts += [f"**{text.strip().splitlines()[-1][:300]}**" for text in one.problems if text.strip()]
        lines.append(f"| {one.title} | {one.result}, {one.seconds:.0f} s | {'<br>'.join(map(_cell, parts))} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def run_all(chosen: list[Check], kind: str, wanted: str | None, *, jobs: int, total_s: float) -> list[Outcome]:
    """Run the checks: some at the same time, then those that must be alone."""
    until = time.monotonic() + total_s
    done: dict[str, Outcome] = {}

    def run(check: Check) -> None:
        done[check.name] = outcome = run_check(check, kind, wanted, until)
        print(f"{outcome.result:8} {outcome.seconds:6.1f} s  {check.name}", *outcome.problems[:3], sep="  ", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, (check for check in chosen if not check.is_alone)))
    for check in chosen:
        if check.is_alone:
            run(check)
    return [done[check.name] for check in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tests.accelerator", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--platform", choices=("gpu", "tpu", "cpu"), help="default: what JAX finds, except cpu")
    parser.add_argument("--only", metavar="NAMES", help="names of checks, separated by commas")
    parser.add_argument("--list", action="store_true", help="list the checks, and run none")
    parser.add_argument(
        "--output", type=Path, default=Path("accelerator"), metavar="PREFIX", help="writes PREFIX.md, .json"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="checks at the same time (default: 3 on a GPU, else 1)")
    parser.add_argument(
        "--total",
        type=float,
        metavar="SECONDS",
        help=f"time limit (default: {_TOTAL_S:.0f}, on a CPU {_CPU_TOTAL_S:.0f})",
    )
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        checks.run_check(given.child[0], Path(given.child[1]), given.platform)
        return 0
    names = given.only.split(",") if given.only else _in_order()
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"unknown checks: {', '.join(unknown)}; the checks are {', '.join(CHECKS)}")
    if given.list:
        print("\n".join(f"{name}: {CHECKS[name].title}" for name in names))
        return 0
    missing = [name for name in _NEEDED if not _has(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    found, problem = devices(given.platform)
    if found is None:
        print(problem, file=sys.stderr)
        return 2
    kind = {"cuda": "gpu", "rocm": "gpu"}.get(found["platform"], found["platform"])
    if kind == "cpu" and given.platform != "cpu":
        print(
            "no check was run: this machine has no GPU or TPU that JAX can use (it found only the CPU). "
            "`python -m tests.accelerator --platform cpu` runs the parts that a CPU can show."
        )
        return 0
    rows = machine(found)
    outcomes = run_all(
        [CHECKS[name] for name in names],
        kind,
        given.platform,
        jobs=given.jobs or _JOBS.get(kind, 1),
        total_s=given.total or (_CPU_TOTAL_S if kind == "cpu" else _TOTAL_S),
    )
    text = table(rows, outcomes)
    given.output.with_suffix(".md").write_text(text, encoding="utf-8")
    content = {"machine": rows, "devices": found, "checks": [asdict(one) for one in outcomes]}
    given.output.with_suffix(".json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\n{text}\nwritten: {given.output.with_suffix('.md')}, {given.output.with_suffix('.json')}")
    return int(any(one.result in ("failed", "not run") for one in outcomes))


def _in_order() -> list[str]:
    return sorted(CHECKS, key=lambda name: _MODULES.index(CHECKS[name].run.__module__))


def _has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
