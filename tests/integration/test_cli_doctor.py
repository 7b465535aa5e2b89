"""`jitwatch doctor`: what works here, in an environment that works and in ones that do not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

TIMEOUT_S = 120
STATUSES = {"ok", "warn", "fail"}


def doctor(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these variables and no other options of jitwatch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
    return subprocess.run(
        [sys.executable, "-m", "jitwatch", "doctor", *arguments],
        env={**kept, "JAX_PLATFORMS": "cpu", **extra},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def checks_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def healthy():
    """The report of this environment as text and as JSON."""
    return doctor(), doctor("--json")


def test_doctor_exits_with_0_where_the_agent_works(healthy):
    """The suite could not run elsewhere."""
    text, as_json = healthy

    assert (0, "") == (text.returncode, text.stderr), text.stdout
    assert (0, "") == (as_json.returncode, as_json.stderr)


def test_doctor_prints_a_line_for_each_check(healthy):
    """Each begins with its mark; the text and the JSON report have the same checks."""
    text, as_json = healthy
    lines = text.stdout.splitlines()

    assert all(line.startswith(("ok    ", "note  ")) for line in lines)
    assert list(checks_of(as_json)) == [line[6:23].rstrip() for line in lines]


def test_doctor_reports_every_part_as_json(healthy):
    """Packages, JAX, the backend, the probes and a compile of its own."""
    found = checks_of(healthy[1])

    assert STATUSES >= {check["status"] for check in found.values()}
    assert {"name", "status", "text"} == {key for check in found.values() for key in check}
    for name in ("jitwatch", "python", "prometheus-client", "psutil", "structlog", "jax", "hooks", "trial"):
        assert "ok" == found[name]["status"]
    assert "cpu: cpu:0 (cpu)" == found["backend"]["text"]
    assert "one function was compiled and one compile was counted" == found["trial"]["text"]
    assert {"probe compile": "up", "probe cache": "up", "probe process": "up"}.items() <= {
        name: check["text"] for name, check in found.items()
    }.items()


def test_doctor_without_jax_exits_with_1(tmp_path):
    """It says how to install it, for the interpreter that lacks it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Blocker:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('jax', 'jaxlib'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n",
        encoding="utf-8",
    )

    done = doctor("--json", PYTHONPATH=str(tmp_path))
    found = checks_of(done)

    assert 1 == done.returncode
    assert ("fail", f"is not installed; run: {sys.executable} -m pip install 'jax>=0.6.2'") == (
        found["jax"]["status"],
        found["jax"]["text"],
    )
    assert "trial" not in found


def test_doctor_with_a_bad_variable_exits_with_1():
    """It names the variable, and the rest is still checked."""
    done = doctor("--json", JITWATCH_PORT="abc")
    found = checks_of(done)

    assert 1 == done.returncode
    assert (
        "fail",
        "JITWATCH_PORT: expected a port number from 0 to 65535, got 'abc'; correct or unset it; the ",
    ) == (
        found["environment"]["status"],
        found["environment"]["text"].partition("agent")[0],
    )
    assert "options" not in found
    assert "ok" == found["trial"]["status"]


def test_doctor_reports_every_variable_that_is_invalid_or_unknown():
    """All at once; a good one is no reason to look further, and no bad one is called good."""
    done = doctor(JITWATCH_PORT="abc", JITWATCH_DETAIL="some", JITWATCH_BOGUS="1", JITWATCH_RUN="r1")

    assert 1 == done.returncode
    told = [
        line.split(maxsplit=2) for line in done.stdout.splitlines() if line.split()[1] in ("options", "environment")
    ]
    assert ["ok", "options", "JITWATCH_RUN=r1"] == told[0]
    assert [("FAIL", "JITWATCH_DETAIL"), ("FAIL", "JITWATCH_PORT"), ("note", "JITWATCH_BOGUS")] == sorted(
        (mark, text.partition(":")[0]) for mark, _, text in told[1:]
    )
    assert "check the spelling" in told[-1][2]
    assert "" == done.stderr


def test_doctor_notes_a_disabled_agent_and_a_taken_port(tmp_path):
    """Neither stops the agent from working here, and nothing is written to the user's event log."""
    log = tmp_path / "events.jsonl"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = doctor("--json", JITWATCH_DISABLE="1", JITWATCH_PORT=str(port), JITWATCH_EVENT_LOG=str(log))
    found = checks_of(done)

    assert 0 == done.returncode, done.stdout
    assert ("warn", "JITWATCH_DISABLE is set: install() does nothing") == (
        found["environment"]["status"],
        found["environment"]["text"],
    )
    assert "warn" == found["port"]["status"]
    assert f"127.0.0.1:{port} is in use; the agent would use the next free port, " in found["port"]["text"]
    assert "ok" == found["trial"]["status"]
    assert not log.exists()


def test_doctor_fails_an_address_that_is_not_of_this_machine():
    """No other port would help."""
    done = doctor("--json", JITWATCH_HOST="192.0.2.1")
    found = checks_of(done)

    assert 1 == done.returncode
    assert "fail" == found["port"]["status"]
    assert "it is not an address of this machine; use 127.0.0.1" in found["port"]["text"]


def test_doctor_says_what_a_bug_report_needs(healthy):
    """Machine, devices and what they tell, libraries, variables, cache."""
    found = checks_of(healthy[1])

    assert {"machine", "libraries", "backend", "device memory", "compilation cache", "options", "jax options"} <= set(
        found
    )
    assert "flax " in found["libraries"]["text"]
    assert "cpu: cpu:0 (cpu)" == found["backend"]["text"]
    assert "the bytes of its live arrays are used instead" in found["device memory"]["text"]
    assert "JAX_PLATFORMS=cpu" in found["jax options"]["text"]
    assert "no JITWATCH_* variable is set" == found["options"]["text"]


def test_doctor_shows_options_and_no_secret(tmp_path):
    """A token is named and not shown; folders are tried."""
    (tmp_path / "file").touch()
    found = checks_of(
        doctor(
            "--json",
            JITWATCH_TOKEN="s3cret",
            JITWATCH_EVENT_LOG=f"{tmp_path}/logs/",
            JITWATCH_SD_DIR="/proc/nowhere",
            JITWATCH_AUTOINSTALL="1",
        )
    )

    assert "JITWATCH_TOKEN=…" in found["options"]["text"]
    assert "s3cret" not in json.dumps(found)
    assert ("ok", True) == (found["event_log"]["status"], "is writable" in found["event_log"]["text"])
    assert "sd_dir" in found
    assert ("warn", True) == (found["autoinstall"]["status"], "-m jitwatch activate" in found["autoinstall"]["text"])


@pytest.mark.parametrize(
    ("variable", "value", "check", "message"),
    [
        ("JITWATCH_TOKEN_FILE", "/there/is/none", "start", "token_file: /there/is/none cannot be read"),
        ("JITWATCH_PROBES", "compile,foo", "start", "foo"),
        ("JITWATCH_EVENT_LOG", "/proc/x/y.jsonl", "event_log", "/proc is not writable; name another folder"),
        ("JITWATCH_SD_DIR", "/proc/x", "sd_dir", "/proc is not writable; name another folder"),
    ],
)
def test_doctor_fails_options_with_which_no_agent_starts(variable, value, check, message):
    """Also those that look well: it is tried."""
    done = doctor("--json", **{variable: value})
    found = checks_of(done)

    assert 1 == done.returncode
    assert ("fail", True) == (found[check]["status"], message in found[check]["text"]), found[check]


def test_doctor_notes_a_switch_that_does_nothing():
    """`yes` is not what the line looks for."""
    found = checks_of(doctor("--json", JITWATCH_AUTOINSTALL="yes"))
    assert ("warn", "JITWATCH_AUTOINSTALL=yes has no effect: set it to 1, or unset it") == (
        found["autoinstall"]["status"],
        found["autoinstall"]["text"],
    )
