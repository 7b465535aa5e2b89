"""`jitwatch activate`: the agent in processes that know nothing of it, and in no others."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from jitwatch import autoinstall
from jitwatch.cli import activate, main
from tests.checkout import PACKAGE

#: A job with workers that start their own interpreters; nobody in it has heard of jitwatch.
POOL = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor

def work(number):
    import jax
    out = float(jax.jit(lambda x: x * number)(2.0))
    watch = sys.modules.get("jitwatch")
    state = watch.snapshot() if watch else {}
    return out, state.get("pid"), state.get("totals", {}).get("compiles")

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(work, range(4)))
    print(json.dumps({"results": results, "parent_has_jax": "jax" in sys.modules}))
"""
LOOK = "import sys, json; print(json.dumps(sorted(n for n in sys.modules if n.startswith('jitwatch'))))"


@pytest.fixture
def python(tmp_path):
    """An environment of its own, with the packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    found = tmp_path / "env" / "bin" / "python"
    here = [sysconfig.get_path("purelib"), str(PACKAGE.parent)]
    there = subprocess.run(
        [found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    Path(there, "packages.pth").write_text("\n".join(dict.fromkeys(here)) + "\n")
    return found


def run(python, *arguments, cwd=None, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
    return subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**environment, "JAX_PLATFORMS": "cpu", **variables},
    )


def records(folder):
    """All that the event logs of a folder hold."""
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def test_workers_of_a_pool_have_the_agent(python, tmp_path):
    """Each worker counts its own compiles; the parent, which has no jax, has no agent and no thread of one."""
    assert 0 == run(python, "-m", "jitwatch", "activate").returncode
    (tmp_path / "pool.py").write_text(POOL)
    done = run(python, "pool.py", cwd=tmp_path, JITWATCH_AUTOINSTALL="1", JITWATCH_PORT="0", JITWATCH_EVENT_LOG="logs/")

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert [0.0, 2.0, 4.0, 6.0] == [out for out, _, _ in found["results"]]
    workers = {pid for _, pid, _ in found["results"]}
    assert None not in workers
    assert not found["parent_has_jax"]
    assert all(compiles >= 1 for _, _, compiles in found["results"])
    installed = [record for record in records(tmp_path / "logs") if record["event"] == "agent.installed"]
    assert workers == {record["pid"] for record in installed}
    assert 1 == len({record["run"] for record in installed})


def test_without_the_variable_nothing_of_jitwatch_is_imported(python):
    """The line is inert; with the variable only the look-out is there until jax comes."""
    run(python, "-m", "jitwatch", "activate")

    assert [] == json.loads(run(python, "-c", LOOK).stdout)
    assert [] == json.loads(run(python, "-c", LOOK, JITWATCH_AUTOINSTALL="0").stdout)
    waiting = json.loads(run(python, "-c", LOOK, JITWATCH_AUTOINSTALL="1").stdout)
    assert "jitwatch.autoinstall" in waiting
    assert "jitwatch.runtime" not in waiting
    jax = "import jax; " + LOOK
    assert "jitwatch.runtime" in json.loads(run(python, "-c", jax, JITWATCH_AUTOINSTALL="1").stdout)
    off = run(python, "-c", jax, JITWATCH_AUTOINSTALL="1", JITWATCH_DISABLE="1").stdout
    assert "jitwatch.runtime" not in json.loads(off)


#: Prints the run of the process, and those of processes that it starts.
FAMILY = """
import os, subprocess, sys
import jitwatch
from jitwatch import config

def run_of_child(**options):
    return subprocess.check_output([sys.executable, "-c", "from jitwatch import config; print(config.load().run)"],
                                   text=True, **options).strip()

print(config.load().run)
print(run_of_child())
print(run_of_child(start_new_session=True))
print(run_of_child(process_group=0))
print(run_of_child(env={name: value for name, value in os.environ.items() if name != "JITWATCH_AUTOINSTALL"}))
jitwatch.uninstall()
print(run_of_child())
"""


def test_processes_that_a_job_starts_are_of_its_run(python, tmp_path):
    """Unless they have a session or a process group of their own, as jobs of a notebook server or a shell."""
    (tmp_path / "family.py").write_text(FAMILY)
    assert 0 == run(python, "-m", "jitwatch", "activate").returncode

    own, child, session, group, unset, after = run(
        python, "family.py", cwd=tmp_path, JITWATCH_AUTOINSTALL="1"
    ).stdout.split()
    assert own == child == unset
    assert 4 == len({own, session, group, after})
    named = run(python, "family.py", cwd=tmp_path, JITWATCH_AUTOINSTALL="1", JITWATCH_RUN="night")
    assert ["night"] * 6 == named.stdout.split()
    bare = run(python, "family.py", cwd=tmp_path).stdout.split()
    assert 6 == len(set(bare))


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_line_does_nothing_where_python_is_told_to_trust_nothing(python, flag):
    """-E and -I mean to ignore the environment, the variable included; -S means no .pth file at all."""
    run(python, "-m", "jitwatch", "activate")
    # With -S the program may still ask for the packages of the environment, whose lines run then.
    program = f"import site; site.main(); {LOOK}" if flag == "-S" else LOOK

    assert "jitwatch.autoinstall" in json.loads(run(python, "-c", program, JITWATCH_AUTOINSTALL="1").stdout)
    assert [] == json.loads(run(python, flag, "-c", program, JITWATCH_AUTOINSTALL="1").stdout)


@pytest.mark.parametrize(("name", "answer"), [("geteuid", -1), ("getegid", -1), ("getuid", -1), ("getgid", -1)])
def test_line_does_nothing_where_a_program_has_rights_that_its_caller_has_not(monkeypatch, name, answer):
    """The environment is the caller's."""
    calls = []
    monkeypatch.setattr(autoinstall, "begin", lambda: calls.append(1))
    monkeypatch.setenv("JITWATCH_AUTOINSTALL", "1")
    exec(autoinstall.PTH_LINE, {})
    assert [1] == calls

    monkeypatch.setattr(os, name, lambda: answer)
    exec(autoinstall.PTH_LINE, {})
    assert [1] == calls


def test_process_that_only_asks_for_jax_gets_no_agent(python):
    """Libraries look which frameworks there are. A later import installs the agent, and shows in no loader."""
    run(python, "-m", "jitwatch", "activate")
    ask = "import importlib.util, threading; importlib.util.find_spec('jax'); print(threading.active_count()); "
    done = run(python, "-c", ask + LOOK, JITWATCH_AUTOINSTALL="1")
    count, modules = done.stdout.splitlines()
    assert ("1", "", False) == (count, done.stderr, "jitwatch.runtime" in json.loads(modules))

    look = "import jax, jitwatch; print(type(jax.__loader__), type(jax.__spec__.loader), bool(jitwatch.snapshot()))"
    bare = run(python, "-c", ask + look).stdout
    done = run(python, "-c", ask + look, JITWATCH_AUTOINSTALL="1", JITWATCH_PORT="0")
    assert bare.replace("False", "True") == done.stdout


def test_bad_option_is_said_and_the_job_runs(python):
    """The job is not to blame, and not to suffer."""
    run(python, "-m", "jitwatch", "activate")
    done = run(
        python, "-c", "import jax; print(jax.jit(lambda x: x + 1)(1))", JITWATCH_AUTOINSTALL="1", JITWATCH_PORT="x"
    )

    assert (0, "2") == (done.returncode, done.stdout.strip())
    assert "jitwatch: the agent was not installed in process " in done.stderr
    assert "JITWATCH_PORT" in done.stderr


def test_worker_says_nothing_of_a_port_or_a_log_that_is_in_use(python, tmp_path):
    """In a pool of workers that would be a line of each; whoever wants to read it asks for it."""
    assert 0 == run(python, "-m", "jitwatch", "activate").returncode
    program = "import jax, jitwatch; jax.jit(abs)(1.0); print(bool(jitwatch.snapshot()))"
    (tmp_path / "log.jsonl").touch()
    options = {"JITWATCH_AUTOINSTALL": "1", "JITWATCH_EVENT_LOG": str(tmp_path / "log.jsonl")}
    with socket.socket() as taken, open(tmp_path / "log.jsonl", "a") as log:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fcntl.flock(log, fcntl.LOCK_EX)
        options["JITWATCH_PORT"] = str(taken.getsockname()[1])

        done = run(python, "-c", program, **options)
        asked = run(python, "-c", program, **options, JITWATCH_LOG_LEVEL="warning")

    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)
    assert f"port {options['JITWATCH_PORT']} is in use" in asked.stderr


def test_deactivate_takes_the_line_away(python):
    """And says so; a second time there is nothing to do."""
    activated = run(python, "-m", "jitwatch", "activate")
    path = Path(activated.stdout.removeprefix("Wrote ").split(". Start a job")[0])
    assert path.is_file()
    assert "JITWATCH_AUTOINSTALL=1" in activated.stdout

    assert f"Removed {path}." in run(python, "-m", "jitwatch", "deactivate").stdout
    assert not path.exists()
    again = run(python, "-m", "jitwatch", "deactivate")
    assert (0, True) == (again.returncode, "nothing to undo" in again.stdout)
    assert [] == json.loads(run(python, "-c", LOOK, JITWATCH_AUTOINSTALL="1").stdout)


def test_environment_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, capsys):
    """It says what to do instead."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(activate, "pth_file", lambda: tmp_path / "file" / "jitwatch.pth")

    assert (1, 1) == (main(["activate"]), main(["deactivate"]))
    first, second = capsys.readouterr().err.splitlines()
    assert "python -m venv" in first
    assert "remove it by hand" in second


#: One recompile, and what the agent knows of it; with the agent installed by the program itself, at different moments.
ONE = """
import json, sys
{before}
import jax, numpy as np
{after}
step = jax.jit(lambda x: x + 1)
step(np.ones(3)); step(np.ones(4))
import jitwatch
state = jitwatch.snapshot()
print(json.dumps([state["totals"]["compiles"], state["totals"]["recompiles"],
                  sorted(name for name, probe in state["probes"].items() if not probe["up"])]))
"""
INSTALL = "import jitwatch; jitwatch.install(port=0)"


@pytest.mark.parametrize(("before", "after"), [("", ""), (INSTALL, ""), ("", INSTALL), (INSTALL, INSTALL)])
def test_program_that_installs_the_agent_itself_has_one(python, tmp_path, before, after):
    """Whenever it does so; nothing is wrapped twice."""
    assert 0 == run(python, "-m", "jitwatch", "activate").returncode
    (tmp_path / "train.py").write_text(ONE.format(before=before, after=after))
    done = run(python, "train.py", cwd=tmp_path, JITWATCH_AUTOINSTALL="1", JITWATCH_PORT="0")

    assert 0 == done.returncode, done.stderr
    assert [2, 1, []] == json.loads(done.stdout)
    assert "does not work" not in done.stderr


@pytest.mark.parametrize("is_activated", [False, True])
def test_commands_go_on_as_ever_where_the_variable_is_set(python, tmp_path, is_activated):
    """`run` has its own agent, and `doctor` looks at a JAX that nobody has touched."""
    if is_activated:
        assert 0 == run(python, "-m", "jitwatch", "activate").returncode
    (tmp_path / "train.py").write_text(ONE.format(before="", after=""))
    done = run(python, "-m", "jitwatch", "run", "--port", "0", "train.py", cwd=tmp_path, JITWATCH_AUTOINSTALL="1")
    assert [2, 1, []] == json.loads(done.stdout), done.stderr
    checks = json.loads(run(python, "-m", "jitwatch", "doctor", "--json", JITWATCH_AUTOINSTALL="1").stdout)
    assert ["ok"] == [one["status"] for one in checks if one["name"] == "hooks"]
