"""One log, one process: in a pool, in an allocation, after a restart; and jobs whose disk or descriptors are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jitwatch.cli import main

TIMEOUT_S = 120
ALLOCATION = {"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "PALS_", "RAY_", "PBS_", "LSB_", "FLUX_", "MPI_", "MV2_", "JSM_")

TRAIN = """
import sys
import jax, jax.numpy as jnp
train_step = jax.jit(lambda a: a * 2)
for n in range(int(sys.argv[1])):
    train_step(jnp.ones(3 + n))
"""

#: Workers of a pool have all that launchers say from their parent.
POOL = """
import multiprocessing, os, sys, time

def work(path):
    import jitwatch
    with jitwatch.install(port=0, event_log=path) as watch:
        import jax, jax.numpy as jnp
        jax.jit(lambda x: x + 1)(jnp.ones(3))
        open(f"{os.environ['READY']}.{os.getpid()}", "w").close()
        while len([one for one in os.listdir() if one.startswith("ready.")]) < 2:
            time.sleep(0.01)
        return watch.snapshot()["event_log"]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(*sorted(pool.map(work, [sys.argv[1]] * 2, chunksize=1)))
"""

#: From a moment on, nothing that has to do with a folder ever comes back, in whichever thread.
HANGS = """
import atexit, fcntl, os, sys, threading, time

folder, when = os.path.abspath(sys.argv[1]), sys.argv[2]
is_hung, never = when == "before", threading.Event()

def is_there(target):
    if isinstance(target, int):
        try:
            target = readlink(f"/proc/self/fd/{target}")
        except OSError:
            return False
    return os.fsdecode(target).startswith(folder)

def hang(owner, name):
    real = getattr(owner, name)
    def call(target=".", *rest, **more):
        if is_hung and is_there(target):
            never.wait()
        return real(target, *rest, **more)
    setattr(owner, name, call)

readlink = os.readlink
for name in "open write close fsync fstat stat lstat mkdir unlink rename replace link utime listdir".split():
    hang(os, name)
for name in "flock fcntl".split():
    hang(fcntl, name)

ended = []
atexit.register(lambda: print("exit took", time.monotonic() - ended[0] if ended else None, flush=True))

import jitwatch
begun = time.monotonic()
jitwatch.install(port=0, run="r", event_log=folder + "/logs/", hlo_dir=folder + "/hlo", sd_dir=folder + "/sd")
print("install took", time.monotonic() - begun)
import jax, jax.numpy as jnp
step = jax.jit(lambda x: x * 2)
step(jnp.ones(1))
is_hung = True
jitwatch.steady(on_recompile="count")
for n in range(2, 22):
    step(jnp.ones(n))  # a violation each, which is urgent
print("steps took", time.monotonic() - begun)
ended.append(time.monotonic())
"""

CLOSES = """
import os, sys, time
import jitwatch
jitwatch.install(port=0, event_log=os.path.join(sys.argv[1], "log.jsonl"), run="fd", probes="compile")
import jax, jax.numpy as jnp
f = jax.jit(lambda x: x * 2)
f(jnp.ones(2))
path = os.path.join(sys.argv[1], "log.jsonl")
while "jit.compiled" not in open(path).read():
    time.sleep(0.01)
real = os.path.realpath
numbers = [int(n) for n in os.listdir("/proc/self/fd") if real(f"/proc/self/fd/{n}") == real(path)]
if sys.argv[2] == "closerange":
    for number in numbers:
        os.closerange(number, number + 1)
    files = [open(os.path.join(sys.argv[1], f"checkpoint{i}.bin"), "wb", buffering=0) for i in range(16)]
else:
    files = [open(os.path.join(sys.argv[1], "checkpoint0.bin"), "wb", buffering=0)]
    for number in numbers:
        os.dup2(files[0].fileno(), number)
for file in files:
    file.write(b"CHECKPOINT")
for n in range(3, 8):
    f(jnp.ones(n))
jitwatch.uninstall()
for file in files:
    file.write(b"END")  # still open
print(len(numbers), {open(file.name, "rb").read() for file in files})
"""


def environment(**extra: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JITWATCH_", *LAUNCHERS)) and name not in ("RANK", "LOCAL_RANK", "JAX_PROCESS_ID")
    }
    return {**kept, "JAX_PLATFORMS": "cpu", **extra}


def start(folder: Path, *command: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *command: str, **extra: str) -> tuple[str, str]:
    """Standard output and errors of a job that must succeed."""
    job = start(folder, *command, **extra)
    out, err = job.communicate(timeout=TIMEOUT_S)
    assert 0 == job.returncode, err
    return out, err


def script(folder: Path, text: str) -> str:
    (folder / "job.py").write_text(text)
    return "job.py"


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def report_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert 0 == main(["report", str(folder), "--format", "json"])
    return json.loads(capsys.readouterr().out)


def test_experiments_in_one_allocation_have_logs_of_their_own(tmp_path, capsys):
    """The same SLURM_JOB_ID and SLURM_PROCID, at the same time; the report does not add them up to one process."""
    command = ["-m", "jitwatch", "run", "--port", "0", script(tmp_path, TRAIN)]
    jobs = [start(tmp_path, *command, str(count), **ALLOCATION) for count in (1, 4)]
    errors = [job.communicate(timeout=TIMEOUT_S)[1] for job in jobs]

    logs = sorted(tmp_path.glob("*.jsonl"))
    assert 2 == len(logs)
    assert (tmp_path / "jitwatch-4711.p0.jsonl") in logs
    # Each of them says where its own is, and finds nothing to warn of.
    assert {str(log) for log in logs} == {error.split("event log ")[1].splitlines()[0] for error in errors}
    assert "another process" not in "".join(errors)
    document = report_of(tmp_path, capsys)
    assert ({1, 4}, 2) == ({one["compiles"] for one in document["processes"]}, document["totals"]["processes"])
    assert 0 == document["totals"]["missing_events"]
    for log in logs:
        lines = records(log)
        assert [*range(1, len(lines) + 1)] == [line["seq"] for line in lines]
        assert 1 == len({line["process"] for line in lines})


def test_job_that_was_requeued_is_apart_from_its_first_try(tmp_path, capsys):
    """The same job id, one after the other: two files, also for the programs, and the report shows both."""
    command = ["-m", "jitwatch", "run", "--port", "0", script(tmp_path, TRAIN), "2"]
    for count in (1, 2):
        run(tmp_path, *command, JITWATCH_HLO_DIR="hlo", **ALLOCATION)
        assert (count, 2 * count) == (len(list(tmp_path.glob("*.jsonl"))), len(list((tmp_path / "hlo").iterdir())))

    first, second = (records(path) for path in sorted(tmp_path.glob("*.jsonl"), key=os.path.getmtime))
    assert len({line["process"] for line in first + second}) == 2
    programs = [{line["hlo"] for line in lines if line.get("hlo")} for lines in (first, second)]
    assert set() == programs[0] & programs[1]
    assert programs[0] | programs[1] == {path.name for path in (tmp_path / "hlo").iterdir()}
    assert [2, 2] == [one["compiles"] for one in report_of(tmp_path, capsys)["processes"]]


@pytest.mark.parametrize("is_folder", [True, False])
def test_workers_of_a_pool_have_logs_of_their_own(tmp_path, capsys, is_folder):
    """Also where one file was named for all of them: the second one goes on beside it and its log says so."""
    target = "logs/" if is_folder else "logs/e.jsonl"
    out, _ = run(tmp_path, script(tmp_path, POOL), target, READY="ready", **ALLOCATION)
    logs = [Path(one) for one in out.split()]

    assert 2 == len(set(logs))
    assert set(logs) == set((tmp_path / "logs").glob("*.jsonl"))
    assert 2 == report_of(tmp_path / "logs", capsys)["totals"]["processes"]
    moved = [line for log in logs for line in records(log) if line["event"] == "agent.log_moved"]
    wanted = str(tmp_path / "logs" / "e.p0.jsonl")
    expected = [] if is_folder else [(wanted, "another process writes to it")]
    assert expected == [(line["wanted"], line["because"]) for line in moved]
    assert [] == [line["path"] for line in moved if Path(line["path"]) not in logs or line["path"] == wanted]


def test_logs_in_one_file_are_kept_apart(tmp_path, capsys):
    """Whoever collects the lines of all processes, in whatever order."""
    out, _ = run(tmp_path, script(tmp_path, POOL), "logs/", READY="ready", **ALLOCATION)
    lines = [line for log in out.split() for line in Path(log).read_text().splitlines(keepends=True)]
    lines.sort(key=lambda line: json.loads(line)["timestamp"])
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "all.jsonl").write_text("".join(lines))

    document = report_of(tmp_path / "all", capsys)
    assert (2, [1, 1], 0) == (
        document["totals"]["processes"],
        [one["compiles"] for one in document["processes"]],
        document["totals"]["missing_events"],
    )


@pytest.mark.parametrize("when", ["after", "before"])
def test_disk_that_hangs_delays_a_job_once_and_not_its_end(tmp_path, when):
    """Log, programs and discovery in one folder whose server is gone, from the start or in the middle."""
    folder = tmp_path / "net"
    folder.mkdir()
    started = time.monotonic()
    out, err = run(tmp_path, script(tmp_path, HANGS), str(folder), when)
    took = {line.split(" took ")[0]: float(line.split(" took ")[1]) for line in out.splitlines() if " took " in line}

    assert ({"install", "steps", "exit"}, "") == (set(took), err)
    # Each of the three is waited for once, at most two seconds; twenty violations are not waited for one by one.
    assert took["steps"] < 60
    assert took["exit"] < 4
    assert time.monotonic() - started < TIMEOUT_S


@pytest.mark.parametrize("way", ["closerange", "dup2"])
def test_job_that_closes_our_descriptor_keeps_its_files(tmp_path, way):
    """No line of ours is in its checkpoint, none is lost, and its files stay open."""
    out, err = run(tmp_path, script(tmp_path, CLOSES), str(tmp_path), way)

    assert ("1 {b'CHECKPOINTEND'}\n", "") == (out, err)
    lines = records(tmp_path / "log.jsonl")
    assert [*range(1, len(lines) + 1)] == [line["seq"] for line in lines]
    assert 6 == len([line for line in lines if line.get("name") == "<lambda>" and "compile_s" in line])
