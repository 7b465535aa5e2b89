"""`jitwatch report` on the logs of real jobs."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from jitwatch.cli import main
from tests.integration.conftest import free_port, running_job
from tests.integration.jobs import ONE_OF_TWO
from tests.properties import test_report_fuzz
from tests.waiting import wait_until

EXAMPLES = max(100, test_report_fuzz.EXAMPLES)

#: Compiles a step for three shapes, one of them announced, and uses an array that it has donated.
JOB = """
import functools, sys
import jax, jitwatch
import numpy as np

@functools.partial(jax.jit, donate_argnums=0)
def update(state, batch):
    return state + batch.sum()

@jax.jit
def evaluate(batch):
    return batch.mean()

state = jax.numpy.zeros(4)
for size in (8, 8, 6):
    state = update(state, np.ones(size, np.float32))
with jitwatch.expected("the last phase"):
    state = update(state, np.ones(5, np.float32))
evaluate(np.ones(8, np.float32))
old = jax.numpy.zeros(4)
update(old, np.ones(8, np.float32))
try:
    np.asarray(old)
except (RuntimeError, ValueError):
    pass
if sys.argv[1:] == ["killed"]:
    import os, signal, time
    deadline = time.monotonic() + 30
    while "donation.violation" not in open("events.jsonl").read() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_job(folder: Path, *arguments: str) -> Path:
    """Run the job under `jitwatch run`; the path of its log."""
    (folder / "train.py").write_text(JOB)
    log = folder / "events.jsonl"
    command = [
        sys.executable,
        "-m",
        "jitwatch",
        "run",
        "--quiet",
        "--port",
        "0",
        "--event-log",
        str(log),
        "--run",
        "r1",
    ]
    done = subprocess.run(
        [*command, "train.py", *arguments],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (-9 if arguments else 0), done.stderr
    return log


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return run_job(tmp_path_factory.mktemp("job"))


def document_of(capsys, *arguments: object) -> dict:
    assert 0 == main(["report", *map(str, arguments), "--format", "json"])
    found: dict = json.loads(capsys.readouterr().out)
    return found


def test_report_of_a_real_job(log, capsys):
    """Every compile, what was lost and what was planned, the donation, the versions; nothing is left out."""
    document = document_of(capsys, log)
    rows = {row["function"]: row for row in document["functions"]}
    summary = next(json.loads(line) for line in log.read_text().splitlines() if '"run.summary"' in line)

    assert {"shape": 2} == rows["__main__.update"]["causes"]
    assert (3, 2) == (rows["__main__.update"]["compiles"], rows["__main__.update"]["recompiles"])
    assert (1, 0) == (rows["__main__.evaluate"]["compiles"], rows["__main__.evaluate"]["recompiles"])
    assert [("use_after_donate", "__main__.update")] == [
        (one["kind"], one["donated_by"]) for one in document["donation_violations"]
    ]
    for ours, theirs in (("compiles", "compiles"), ("recompiles", "recompiles"), ("jax_compiles", "jax_compiles")):
        assert summary[theirs] == document["totals"][ours]
    assert pytest.approx(summary["compile_s"]) == document["totals"]["compile_seconds"]
    assert pytest.approx(summary["lost_s"]) == document["totals"]["lost_seconds"]
    assert summary["wall_s"] == document["wall_seconds"]
    assert 0 == document["totals"]["missing_events"] == document["log"]["unreadable"] == document["log"]["incomplete"]
    assert document["processes"][0]["is_ended"]


def test_report_of_a_real_job_in_words(log, capsys):
    """The text names function, line and change; the page is whole."""
    assert 0 == main(["report", str(log)])
    text = " ".join(capsys.readouterr().out.split())
    assert 0 == main(["report", str(log), "--format", "html"])
    page = capsys.readouterr().out

    assert "2 recompiles: " in text
    assert "update recompiled at train.py:" in text
    assert "float32[8] → float32[6]" in text
    assert "after it was donated to update at train.py:" in text.partition("Donation violations:")[2]
    assert page.endswith("</html>\n")


def test_report_of_a_job_that_was_killed(tmp_path, log, capsys):
    """What it had written counts, and compares with the run that was not."""
    killed = run_job(tmp_path, "killed")
    with open(killed, "ab") as file:
        file.write(b'{"timestamp": "2025')
    document = document_of(capsys, killed, "--against", log)

    assert (1, False) == (document["log"]["torn"], document["processes"][0]["is_ended"])
    # It was killed once its last event was in the log.
    assert 2 == document["totals"]["recompiles"]
    assert 0 == document["comparison"]["more_recompiles"]


def index_of(url: str) -> int | None:
    """What a running job's agent says is its index."""
    with urllib.request.urlopen(f"{url}/api/v1/state", timeout=10) as answer:
        found: int | None = json.load(answer)["process_index"]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="jax.distributed on one machine")
def test_report_of_two_processes_names_the_one_that_compiled_more(tmp_path, capsys):
    """Process 1 has a last batch of its own, process 0 evaluates alone: their logs say which is which."""
    coordinator = f"127.0.0.1:{free_port()}"
    logs = tmp_path / "logs"
    program = ONE_OF_TWO.replace("**options)", "event_log=sys.argv[4], **options)")
    assert program != ONE_OF_TWO

    def job(index: int):
        arguments = [str(index), coordinator, "", str(logs / f"events.p{index}.jsonl")]
        return running_job(tmp_path / f"job{index}" / "train.py", program, arguments=arguments)

    with job(0) as first, job(1) as second:
        for index, process in enumerate((first, second)):
            url = process.line()["url"]
            wait_until(lambda url=url, index=index: index_of(url) == index, what=f"process {index} knowing its index")
        for process in (first, second):
            process.tell()
            process.line()
        # Each waits for the other at its end.
        for process in (first, second):
            process.tell()
        for process in (first, second):
            assert 0 == process.end()
    document = document_of(capsys, logs)

    assert ["both"] == document["runs"]
    assert [(0, 2), (1, 2)] == [(one["process_index"], one["compiles"]) for one in document["processes"]]
    assert [0, 1] == [one["recompiles"] for one in document["processes"]]
    assert 1 == main(["report", str(logs), "--fail-on", "*.train_step:recompiles > 0"])


def test_report_of_a_line_of_two_gigabytes_takes_little_memory(tmp_path):
    """A file that is one line is read in blocks, compressed too, and the lines before and behind it count."""
    good = b'{"timestamp": "2025-03-01T12:00:00.000Z", "event": "jit.compiled", "schema": 1, "run": "r1", "seq": %d, '
    good += b'"function": "train.step", "compile_s": 1.0}\n'
    (tmp_path / "logs").mkdir()
    with open(tmp_path / "logs" / "a.jsonl", "wb") as file:
        file.write(good % 1)
        file.seek(2 * 2**30, os.SEEK_CUR)  # a hole, which is read as zeros
        file.write(b"\n" + good % 2)
    with gzip.open(tmp_path / "logs" / "b.jsonl.gz", "wb", compresslevel=1) as packed:
        packed.write(good % 3)
        for _ in range(200):
            packed.write(b"x" * 2**20)
        packed.write(b"\n" + good % 4)
    # Not `getrusage`, whose maximum is that of the test process as well.
    program = "import re, sys; from jitwatch.cli import main; code = main(sys.argv[1:]); "
    program += "status = open('/proc/self/status').read(); "
    program += "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024, file=sys.stderr); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", program, "report", str(tmp_path / "logs"), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (4, 2) == (document["totals"]["compiles"], document["log"]["unreadable"])
    assert [("a.jsonl", 2, "longer than 1 MiB"), ("b.jsonl.gz", 2, "longer than 1 MiB")] == [
        (one["log"], one["line"], one["reason"]) for one in document["log"]["problems"]
    ]
    assert int(done.stderr) < 200


def test_report_survives_damage_to_the_log_of_a_real_job(tmp_path):
    """Bytes flipped, cut, doubled and put in, in a hundred ways; each report can be read."""
    log = run_job(tmp_path).read_bytes()
    dice = random.Random(7)
    found = [test_report_fuzz.checked(test_report_fuzz.mutated(log, dice), before=log) for _ in range(EXAMPLES)]

    assert len([one for one in found if one is not None]) > EXAMPLES / 2
