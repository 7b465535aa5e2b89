"""The event log of a process that is killed, forks, or shares its output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.eventlogs import seqs
from tests.process.running import run_python


def test_urgent_record_survives_a_killed_process(tmp_path: Path) -> None:
    """What an urgent `write` returned from outlives SIGKILL."""
    path = tmp_path / "e.jsonl"
    code = (
        "import os, sys, signal\n"
        "from jitwatch.exporters.eventlog import EventLog\n"
        "log = EventLog(sys.argv[1]); log.start()\n"
        "log.write({'seq': 1}, urgent=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert -signal.SIGKILL == run_python(code, str(path)).returncode
    assert [1] == seqs(path)


def test_abandon_in_a_child_leaves_the_log_of_the_parent_intact(tmp_path: Path) -> None:
    """A forked child writes nothing, holds nothing and cannot hang, whatever was locked at the fork."""
    path = tmp_path / "e.jsonl"
    code = (
        "import os, sys, threading\n"
        "from jitwatch.exporters.eventlog import EventLog\n"
        "log = EventLog(sys.argv[1]); log.start()\n"
        "log.write({'seq': 0}, urgent=True)\n"
        "for seq in range(1, 2000): log.write({'seq': seq})\n"
        "held = threading.Event()\n"
        "def hold():\n"
        "    with log._started._lock: held.set(); threading.Event().wait(0.2)\n"
        "holder = threading.Thread(target=hold); holder.start(); held.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    log.abandon(); log.abandon()\n"
        "    log.write({'seq': 'child'}, urgent=True); log.start(); log.close()\n"
        "    fds = [os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')]\n"
        "    os._exit(3 if os.path.realpath(sys.argv[1]) in fds or threading.active_count() > 1 else 0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "log.write({'seq': 2000}, urgent=True); log.close()\n"
    )
    done = run_python(code, str(path), PYTHONWARNINGS="ignore")
    assert (0, "") == (done.returncode, done.stderr)
    assert list(range(2001)) == seqs(path)


def test_line_cut_by_a_full_disk_spoils_no_other_line(tmp_path: Path) -> None:
    """A write that stops midway, then goes on: the fragment has a line of its own, all else is counted."""
    path = tmp_path / "e.jsonl"
    code = (
        "import json, resource, sys\n"
        "from jitwatch.exporters.eventlog import EventLog\n"
        "now, drops = [0.0], []\n"
        "log = EventLog(sys.argv[1], clock=lambda: now[0], on_drop=lambda why, n: drops.append([why, n]))\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250, hard))\n"
        "for seq in range(6): log.write({'seq': seq, 'text': 'x' * 80})\n"
        "log.start()\n"
        "log.write({'seq': 6}, urgent=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "now[0] = 10.0\n"
        "log.write({'seq': 7}, urgent=True)\n"
        "log.close()\n"
        "print(json.dumps(drops))\n"
    )
    done = run_python(code, str(path))
    assert 0 == done.returncode, done.stderr
    assert 5 == sum(count for why, count in json.loads(done.stdout) if why == "write_failed")
    lines = path.read_text().splitlines()
    assert [0, 1, 7] == [json.loads(line)["seq"] for line in (*lines[:2], lines[-1])]
    assert (4, True) == (len(lines), lines[2].startswith('{"seq": 2, "text": "x'))


def test_forked_child_leaves_a_file_alone_whose_disk_hangs(tmp_path: Path) -> None:
    """Closing may wait for the server as well."""
    code = (
        "import os, sys, threading\n"
        "from jitwatch.exporters.eventlog import EventLog\n"
        "log = EventLog(sys.argv[1]); log.start()\n"
        "fd, answers = log._file._file.fd, threading.Event()\n"
        "real, close = os.write, os.close\n"
        "os.write = lambda n, data: answers.wait() and real(n, data) if n == fd else real(n, data)\n"
        "log.write({'seq': 0}, urgent=True)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.close = lambda n: os._exit(3) if n == fd else close(n)\n"
        "    log.abandon(); log.write({'seq': 1}, urgent=True); log.close()\n"
        "    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "answers.set(); log.close()\n"
    )
    done = run_python(code, str(tmp_path / "e.jsonl"))
    assert (0, "0\n") == (done.returncode, done.stdout)
    assert [0] == seqs(tmp_path / "e.jsonl")


def test_lock_is_gone_with_its_process(tmp_path, opened):
    """A job that was killed and started again goes on in the file that was named for it."""
    path = tmp_path / "e.jsonl"
    code = (
        "import os, sys, signal\n"
        "from jitwatch.exporters.eventlog.rotation import RotatingFile\n"
        "RotatingFile(sys.argv[1], max_bytes=0, backups=0).append([b'first\\n'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert -signal.SIGKILL == run_python(code, str(path)).returncode
    again = opened(path)
    again.append([b"again\n"])
    assert (None, "first\nagain\n") == (again.moved, path.read_text())


def test_job_that_writes_to_the_same_output_is_no_second_writer(tmp_path):
    """`/dev/stdout` may be a file, into which the job prints as well; it is neither left nor renamed."""
    code = (
        "import sys\n"
        "from jitwatch.exporters.eventlog.rotation import RotatingFile\n"
        "file = RotatingFile('/dev/stdout', max_bytes=4, backups=2)\n"
        "for number in range(3):\n"
        "    print('job', number, flush=True)\n"
        "    assert (1, None) == file.append([b'log %d\\n' % number])\n"
        "print(file.path, file.moved, flush=True)\n"
    )
    with (tmp_path / "out").open("a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, timeout=60)
    expected = ["job 0", "log 0", "job 1", "log 1", "job 2", "log 2", "/dev/stdout None"]
    assert expected == (tmp_path / "out").read_text().splitlines()
    assert ["out"] == os.listdir(tmp_path)
