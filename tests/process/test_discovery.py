"""The file of service discovery, when a process is killed or forks."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

from tests.process.running import run_python


def entries(folder):
    """What Prometheus finds: the content of each *.json."""
    return [entry for path in sorted(Path(folder).glob("*.json")) for entry in json.loads(path.read_text())]


def test_next_process_at_the_address_takes_the_place_of_the_one_that_was_killed(tmp_path):
    """A killed process leaves its entry; a restart at the same port does not add another."""
    program = (
        "import jitwatch, os, signal, sys\n"
        "jitwatch.install(port=int(sys.argv[1]), run=sys.argv[2], sd_dir=sys.argv[3])\n"
        "if sys.argv[4] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(open(os.path.join(sys.argv[3], os.listdir(sys.argv[3])[0])).read())\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def run(name, end):
        return run_python(program, port, name, str(tmp_path), end)

    assert -signal.SIGKILL == run("first", "killed").returncode
    assert ["first"] == [entry["labels"]["run"] for entry in entries(tmp_path)]
    second = run("second", "well")
    assert (0, "second") == (second.returncode, json.loads(second.stdout)[0]["labels"]["run"])
    assert [] == list(tmp_path.iterdir())


def test_forked_child_leaves_the_entry_alone(tmp_path):
    """The child of a data loader ends without taking its parent's entry away."""
    program = (
        "import jitwatch, os, sys\n"
        "jitwatch.install(port=0, sd_dir=sys.argv[1])\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(len(os.listdir(sys.argv[1])))\n"
    )
    done = run_python(program, str(tmp_path))
    assert (0, "1\n") == (done.returncode, done.stdout)
    assert [] == list(tmp_path.iterdir())
