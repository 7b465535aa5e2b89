"""Divergence in real jobs of several processes: found while they run and in their logs, with no false reports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jitwatch.report import sources
from jitwatch.report.document import document
from jitwatch.report.read import read_logs
from tests.waiting import wait_until

JOB = Path(__file__).parent / "divergence_job.py"
ROOT = Path(__file__).parents[2]


class Job:
    """A job of several processes, and their logs."""

    def __init__(self, folder: Path, mode: str, processes: int, flags: dict[int, str] | None = None) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.processes = []
        for index in range(processes):
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
            environment["XLA_FLAGS"] = (flags or {}).get(index, "")
            command = [sys.executable, str(JOB), str(index), str(processes), address, mode, str(folder)]
            self.processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )

    def finish(self) -> None:
        """Wait for all processes; each must end without an error."""
        for process in self.processes:
            output, _ = process.communicate(timeout=120)
            assert 0 == process.returncode, output

    def kill(self) -> None:
        """End the processes that still run."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind, of all processes; without the line that is being written."""
        found = []
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            found += [record for record in map(json.loads, lines) if record["event"] == kind]
        return found

    def metrics(self, name: str) -> list[list[float]]:
        """The values of a metric by process, in the order of processes."""
        return [json.loads(path.read_text())[name] for path in sorted(self.folder.glob("*.metrics"))]

    def report(self) -> dict[str, Any]:
        """The report over the logs of all processes."""
        return document(*read_logs(sources.find([str(self.folder)])))


@pytest.mark.parametrize(
    ("mode", "processes"), [("constant", 4), ("shape", 2), ("option", 2)], ids=["constant", "shape", "option"]
)
def test_other_program_is_found_while_the_job_runs_and_in_its_logs(tmp_path, mode, processes) -> None:
    """The process that differs and process 0 report the difference; the other processes report nothing."""
    job = Job(tmp_path, mode, processes)
    try:
        job.finish()
    finally:
        job.kill()
    last = processes - 1
    found = job.events("programs.diverged")
    assert {0, last} == {one["process_index"] for one in found}
    assert 1 == len({one["message"] for one in found})
    assert {"train_step"} == {one["name"] for one in found}
    # As many programs, and others: the alert fires.
    assert 1 == len({number for (number,) in job.metrics("programs")})
    assert 2 == len({one for (one,) in job.metrics("programs_fingerprint")})
    first = job.report()["first_divergence"]
    assert ("program", "__main__.train_step", 1) == (first["kind"], first["function"], first["nth"])
    assert [list(range(last)), [last]] == [one["processes"] for one in first["programs"]]
    # The programs are in hlo_dir.
    changed = {
        "constant": "The constant 0.1 changed to 0.2.",
        "shape": "float32[16,4] to float32[32,4]",
        "option": "dot_general",
    }[mode]
    assert changed in first["difference"]["summary"].replace("Dot", "dot")
    assert f"{JOB.name}:" in first["difference"]["place"]


def test_other_program_is_found_while_the_others_hang(tmp_path) -> None:
    """One process compiled a different program and never joins the collective in which the others wait."""
    job = Job(tmp_path, "hang", 2)
    try:
        wait_until(lambda: 2 == len(job.events("programs.diverged")), what="both processes report it")
        assert [None, None] == [process.poll() for process in job.processes]
    finally:
        job.kill()
    assert "normalize" in job.report()["first_divergence"]["message"]


def test_program_of_one_process_is_in_the_report_only(tmp_path) -> None:
    """Only one process may take a branch, or the others may be slower."""
    job = Job(tmp_path, "extra", 2)
    try:
        job.finish()
    finally:
        job.kill()
    assert [] == job.events("programs.diverged")
    first = job.report()["first_divergence"]
    assert ("extra", "__main__.evaluate") == (first["kind"], first["function"])
    assert "Only process 1 has compiled __main__.evaluate" in first["message"]


def test_other_flags_are_in_the_report(tmp_path) -> None:
    """The programs are equal, but XLA compiles them differently; a folder for dumps is no difference."""
    flags = {0: "--xla_cpu_enable_fast_math=false", 1: "--xla_dump_hlo_as_text=false"}
    job = Job(tmp_path, "equal", 2, flags)
    try:
        job.finish()
    finally:
        job.kill()
    assert [] == job.events("programs.diverged")
    first = job.report()["first_divergence"]
    assert "compiler" == first["kind"]
    assert "--xla_cpu_enable_fast_math=false in process 0" in first["message"]
    assert "dump" not in first["message"]


@pytest.mark.parametrize(
    ("mode", "processes"),
    [("evaluation", 2), ("looks", 2), ("local", 2), ("behind", 2), ("threads", 2), ("stages", 4)],
    ids=["evaluation on process 0", "only looked at", "local shapes", "behind", "threads", "stages of a pipeline"],
)
def test_job_without_divergence_reports_nothing(tmp_path, mode, processes) -> None:
    """Neither the processes nor the report show a difference, and the fingerprints of all programs are equal."""
    job = Job(tmp_path, mode, processes)
    try:
        job.finish()
    finally:
        job.kill()
    assert [] == job.events("programs.diverged") + job.events("agent.probe_failed")
    assert job.report()["first_divergence"] is None
    assert processes == len({one["process"] for one in job.events("run.compiler")})
    assert 1 == len({one for (one,) in job.metrics("programs_fingerprint")}) or mode == "looks"
    assert {0.0} == {one for (one,) in job.metrics("compiling_fingerprint")}
