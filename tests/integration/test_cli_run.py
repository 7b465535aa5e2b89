"""`jitwatch run`: a job behaves as under `python`, and what the agent has to say stays on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.waiting import wait_until

TIMEOUT_S = 60
RANK_VARIABLES = (
    "LOCAL_RANK",
    "SLURM_LOCALID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
)
MODULE = [sys.executable, "-m", "jitwatch"]
COMMANDS = {"console": [str(Path(sys.executable).with_name("jitwatch"))], "module": MODULE}
BANNER = re.compile(r"^jitwatch: (http://127\.0\.0\.1:(\d+))(?:, event log (.+))?$", re.MULTILINE)
SUMMARY = re.compile(
    r"^jitwatch: \d+ compiles? .* compiling took .*, including \d+ programs? of JAX's own$", re.MULTILINE
)

#: What a script can see of how it was started.
SURROUNDINGS = '''"""A docstring."""
import os, sys
def annotated(x: int) -> str: ...
print(annotated.__annotations__, __annotations__)
print(sys.argv, os.getcwd(), sys.path)
print(__name__, __file__, __doc__, repr(__package__), __cached__ if "__cached__" in globals() else "-")
print(__spec__ and __spec__.name, type(__loader__).__name__, __builtins__ is sys.modules["builtins"])
print(sorted(globals()), sys.modules["__main__"].__dict__ is globals(), sys.excepthook is sys.__excepthook__)
'''

SCRIPTS = {
    "surroundings": SURROUNDINGS,
    "exits with 3": "import sys; print('x'); sys.exit(3)",
    "exits with text": "import sys; sys.exit('the reason')",
    "raises": "def f(x):\n    return 1 / x\nf(0)\n",
    "raises with a cause": (
        "def f():\n    try:\n        {}['k']\n    except KeyError as error:\n"
        "        raise ValueError('second') from error\nf()\n"
    ),
    "raises in handling": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    [][1]\n",
    "raises a group": "raise ExceptionGroup('several', [ValueError(1), KeyError('k')])",
    "raises an error of jitwatch": "import jitwatch\nraise jitwatch.ConfigError('of the script')",
    "raises in another file": "import json\njson.loads('{')",
    "has a syntax error": "print('never')\nx = = 1\n",
    "imports what is not there": "import there_is_no_such_module",
    "interrupts itself": "print('x', flush=True)\nraise KeyboardInterrupt",
    "gets SIGINT": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()",
    "gets SIGTERM": "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()",
    "has a hook for exceptions": (
        "import sys, traceback\ndef hook(*error):\n    print(''.join(traceback.format_exception(*error)))\n"
        "sys.excepthook = hook\n1 / 0\n"
    ),
    "has another encoding": "# -*- coding: latin-1 -*-\nprint(ascii('\u00c3\u00a9'))",
    "writes bytes": "import sys; sys.stdout.buffer.write(bytes(range(256)))",
    "pickles its own class": (
        "import pickle\nclass Batch:\n    x = 3\none = pickle.loads(pickle.dumps(Batch()))\n"
        "print(one.x, type(one) is Batch, Batch.__module__)\n"
    ),
    "spawns a process": (
        "import multiprocessing, os\ndef square(x):\n    return x * x, __name__\n"
        "if __name__ == '__main__':\n    context = multiprocessing.get_context('spawn')\n"
        "    with context.Pool(1) as pool:\n        print(pool.map(square, [2, 3]))\n"
    ),
    "has an exit handler": (
        "import atexit, sys\n@atexit.register\ndef last():\n"
        "    print('last', sys.modules['__main__'].last is last)\nprint('first')\n"
    ),
    "raises under jit": "import jax\n@jax.jit\ndef step(x):\n    raise ValueError('inner')\nstep(1.0)\n",
}


def environment(**extra: str) -> dict[str, str]:
    """The test's environment without a launcher and without options of jitwatch."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JITWATCH_") and name not in RANK_VARIABLES
    }
    return {**kept, "JAX_PLATFORMS": "cpu", **extra}


def call(command: list[str], cwd: Path | str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, timeout=TIMEOUT_S)


def run(*arguments: str, cwd: Path | str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    """`jitwatch run` on any free port."""
    return call([*MODULE, "run", "--port", "0", *arguments], cwd, **extra)


def wait_until_paused(pid: int) -> None:
    """Wait until the main thread sits in `signal.pause()`, so that the interrupt hits that very line.

    A wait for a lock (futex, 202 or 98) is one for the interpreter, and a write (1 or 64) is the print before it.
    """
    call = Path(f"/proc/{pid}/task/{pid}/syscall")
    wait_until(
        lambda: call.read_text().split()[0] not in ("running", "1", "64", "202", "98"), what="the script in its pause"
    )


def outcome(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, str]:
    """Exit code, stdout and the script's part of stderr."""
    lines = done.stderr.decode().splitlines()
    return done.returncode, done.stdout, "\n".join(line for line in lines if not line.startswith("jitwatch: "))


def strict_lines(path: Path) -> list[dict]:
    """The objects of a file of JSON lines; NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def write(folder: Path, text: str, name: str = "train.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def taken_port():
    """A port that somebody listens on, with free ones after it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port():
    """A port that was free a moment ago, above 3."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def without_jax(tmp_path):
    """Environment in which jax cannot be found."""
    folder = tmp_path / "blocker"
    write(
        folder,
        "import sys\nclass Blocker:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('jax', 'jaxlib'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n",
        "sitecustomize.py",
    )
    return {"PYTHONPATH": str(folder)}


class TestLikePython:
    """What the script, its parent and its reader of logs see."""

    @pytest.mark.parametrize("source", SCRIPTS.values(), ids=list(SCRIPTS))
    def test_run_has_the_outcome_of_python(self, tmp_path, source):
        """Exit code, stdout and stderr are python's, and --quiet adds nothing to them."""
        write(tmp_path, source)

        expected = call([sys.executable, "train.py", "a", "--port", "3", "--", "-m"], tmp_path)
        actual = run("--quiet", "train.py", "a", "--port", "3", "--", "-m", cwd=tmp_path)

        assert (expected.returncode, expected.stdout, expected.stderr.decode()) == (
            actual.returncode,
            actual.stdout,
            actual.stderr.decode(),
        )

    @pytest.mark.parametrize("name", ["surroundings", "exits with 3", "raises with a cause", "has a syntax error"])
    def test_run_adds_two_lines_to_stderr(self, tmp_path, name):
        """Where it listens comes first and the summary last; the rest is the script's."""
        write(tmp_path, SCRIPTS[name])

        expected = outcome(call([sys.executable, "train.py"], tmp_path))
        done = run("train.py", cwd=tmp_path)
        lines = done.stderr.decode().splitlines()

        assert expected == outcome(done)
        assert BANNER.fullmatch(lines[0])
        assert SUMMARY.fullmatch(lines[-1])
        assert 2 == sum(line.startswith("jitwatch: ") for line in lines)

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
    @pytest.mark.parametrize("job", [["-m", "package.part"], ["-m", "package"], ["-mpackage"], ["folder"], ["app.zip"]])
    def test_run_starts_modules_folders_and_zip_files(self, tmp_path, command, job):
        """`-m`, a folder and a zip file see the surroundings they have under python."""
        write(tmp_path, "", "package/__init__.py")
        for name in ("package/part.py", "package/__main__.py", "folder/__main__.py"):
            write(tmp_path, SURROUNDINGS + "if '--fail' in sys.argv: 1 / 0\n", name)
        with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
            archive.write(tmp_path / "folder/__main__.py", "__main__.py")

        for arguments in (["--lr", "3e-4", "--", "--port=1"], ["--fail"]):
            expected = call([sys.executable, *job, *arguments], tmp_path)
            actual = call([*command, "run", "--port=0", "--quiet", *job, *arguments], tmp_path)
            assert (expected.returncode, expected.stdout, expected.stderr.decode()) == (
                actual.returncode,
                actual.stdout,
                actual.stderr.decode(),
            )

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
    def test_run_puts_the_folder_of_the_script_first(self, tmp_path, command):
        """sys.path is python's whichever way jitwatch was started, also for a script behind a link."""
        write(tmp_path / "real", SURROUNDINGS)
        (tmp_path / "link.py").symlink_to(tmp_path / "real/train.py")

        for script in ("link.py", "real/train.py", str(tmp_path / "link.py")):
            expected = call([sys.executable, script], tmp_path)
            actual = call([*command, "run", "--port", "0", script], tmp_path)
            assert outcome(expected) == outcome(actual)

    def test_run_of_a_missing_script_exits_with_2(self, tmp_path):
        """A script that is not there is told as by python, before the agent starts."""
        expected = call([sys.executable, "nope.py"], tmp_path)
        actual = run("nope.py", cwd=tmp_path)

        assert 2 == expected.returncode == actual.returncode
        assert expected.stderr.decode().partition(": ")[2] == actual.stderr.decode().partition(": ")[2]
        assert [] == list(tmp_path.glob("*.jsonl"))

    def test_run_of_a_missing_module_exits_with_1(self, tmp_path):
        """As does python."""
        expected = call([sys.executable, "-m", "no_such_module"], tmp_path)
        actual = run("--quiet", "-m", "no_such_module", cwd=tmp_path)

        assert (1, b"") == (expected.returncode, expected.stdout) == (actual.returncode, actual.stdout)
        assert expected.stderr.decode().partition(": ")[2] == actual.stderr.decode().partition(": ")[2]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_run_ends_by_a_signal_from_outside(self, tmp_path, number):
        """The parent sees the signal, and after an interrupt the traceback and the summary."""
        script = "import signal\nprint('ready', flush=True)\nwhile True:\n    signal.pause()\n"
        write(tmp_path, script)
        outcomes = []
        for command in ([sys.executable], [*MODULE, "run", "--port", "0"]):
            with subprocess.Popen(
                [*command, "train.py"],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                try:
                    assert b"ready\n" == process.stdout.readline()
                    wait_until_paused(process.pid)
                    process.send_signal(number)
                    out, err = process.communicate(timeout=TIMEOUT_S)
                finally:
                    process.kill()
            outcomes.append(outcome(subprocess.CompletedProcess([], process.returncode, out, err)))

        assert -number == outcomes[0][0]
        assert outcomes[0] == outcomes[1]

    def test_run_says_nothing_on_stdout_when_stderr_is_closed(self, tmp_path):
        """The two lines have nowhere to go then, and are left out."""
        write(tmp_path, "print('only this')")
        command = " ".join([*MODULE, "run --port 0 train.py 2>&-"])

        done = call(["/bin/sh", "-c", command], tmp_path)

        assert (0, b"only this\n") == (done.returncode, done.stdout)

    def test_run_sums_up_once_when_the_script_forks(self, tmp_path):
        """A child that leaves by sys.exit() says nothing."""
        write(
            tmp_path,
            "import os, sys\nchild = os.fork()\nif not child:\n    sys.exit(0)\nprint(os.waitpid(child, 0)[1])",
        )

        done = run("train.py", cwd=tmp_path)

        assert (0, b"0\n") == (done.returncode, done.stdout)
        assert 1 == len(SUMMARY.findall(done.stderr.decode()))


class TestAgent:
    """What comes with it."""

    def test_run_writes_a_strict_event_log_into_the_working_directory(self, tmp_path):
        """It names the functions as they compile and ends with the summary, also if the script changes folders."""
        write(
            tmp_path,
            "import os, jax, numpy as np\nos.mkdir('elsewhere'); os.chdir('elsewhere')\n"
            "@jax.jit\ndef train_step(x):\n    return x * 2\n"
            "for n in (3, 3, 4):\n    train_step(np.ones(n))\njax.jit(lambda x: x + 1)(2.0)\n",
        )

        done = run("--run", "night 7", "train.py", cwd=tmp_path)
        records = strict_lines(tmp_path / "jitwatch-night-7.jsonl")

        assert 0 == done.returncode, done.stderr
        assert ["agent.installed"] == [record["event"] for record in records[:1]]
        assert ["run.summary", "agent.uninstalled"] == [record["event"] for record in records[-2:]]
        assert list(range(1, len(records) + 1)) == [record["seq"] for record in records]
        assert {("night-7", 1)} == {(record["run"], record["schema"]) for record in records}
        assert [
            ("jit.compiled", "__main__.train_step", 1, f"{tmp_path / 'train.py'}:3"),
            ("jit.recompiled", "__main__.train_step", 2, f"{tmp_path / 'train.py'}:3"),
            ("jit.compiled", "__main__.<lambda>@train.py:8", 1, f"{tmp_path / 'train.py'}:8"),
        ] == [
            (record["event"], record["function"], record["nth"], record["location"])
            for record in records
            if record["event"].startswith("jit.") and record["function"] != "__jax__"
        ]
        assert (3, 1, 0) == tuple(records[-2][name] for name in ("compiles", "recompiles", "failures"))
        assert "3 compiles (1 recompile)" in done.stderr.decode()
        assert f"jitwatch: for details: jitwatch report {tmp_path / 'jitwatch-night-7.jsonl'}" in (
            done.stderr.decode().splitlines()
        )

    def test_run_names_the_report_after_an_interrupted_compile(self, tmp_path):
        """Which compile it was is there; a job that only compiled gets no such line."""
        write(
            tmp_path,
            "import sys, jax\n@jax.jit\ndef train_step(x):\n    if len(sys.argv) > 1:\n"
            "        raise KeyboardInterrupt\n    return x\ntrain_step(1.0)\n",
        )
        log = tmp_path / "log.jsonl"

        fine = run("--event-log", str(log), "train.py", cwd=tmp_path)
        interrupted = run("--event-log", str(log), "train.py", "now", cwd=tmp_path)

        assert "jitwatch report" not in fine.stderr.decode()
        assert f"jitwatch: for details: jitwatch report {log}" in interrupted.stderr.decode().splitlines()

    def test_run_says_what_ran_out_of_memory(self, tmp_path):
        """Also of an error that names no program: its temporaries tell which it was."""
        write(
            tmp_path,
            "import jax, jax.numpy as jnp\n@jax.jit\ndef pairwise(x):\n"
            "    d = jax.vmap(lambda a: jax.vmap(lambda b: jnp.sort(jnp.abs(a - b)))(x))(x)\n"
            "    return jnp.sort(d.reshape(-1)).sum()\n"
            "float(pairwise(jnp.ones((200_000, 8))))\n",
        )
        told = " ".join(run("train.py", cwd=tmp_path).stderr.decode().split())
        assert "jitwatch: Memory ran out" in told
        assert "pairwise needs 2.33 TiB for temporaries and 6.1 MiB for arguments" in told
        assert "jitwatch: for details: jitwatch report" in told

    def test_run_says_what_the_persistent_cache_did(self, tmp_path, monkeypatch):
        """Where the job has one: the second process does not find what was too short to be written."""
        write(tmp_path, "import jax\n@jax.jit\ndef train_step(x):\n    return x\ntrain_step(1.0)\n")
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
        told = [" ".join(run("train.py", cwd=tmp_path).stderr.decode().split()) for _ in range(2)]
        assert all("jitwatch: Persistent compilation cache: 0 hits, 1 miss. 1 program" in one for one in told)
        assert all("less than jax_persistent_cache_min_compile_time_secs" in one for one in told)

    def test_run_writes_the_default_log_beside_the_job(self, tmp_path):
        """Without a name it is jitwatch-<run>.jsonl, and the banner says where."""
        write(tmp_path, "")

        done = run("train.py", cwd=tmp_path, SLURM_JOB_ID="4711")

        assert str(tmp_path / "jitwatch-4711.jsonl") == BANNER.search(done.stderr.decode())[3]
        assert (tmp_path / "jitwatch-4711.jsonl").exists()

    def test_run_lets_the_script_install_as_well(self, tmp_path):
        """A script that has jitwatch.install() in it gets the agent that runs."""
        write(tmp_path, "import jitwatch\nwatch = jitwatch.install()\nprint(watch.url, watch.is_active)")

        done = run("train.py", cwd=tmp_path)

        assert f"{BANNER.search(done.stderr.decode())[1]} True\n" == done.stdout.decode()

    def test_run_with_the_agent_disabled_is_python(self, tmp_path):
        """JITWATCH_DISABLE=1 leaves not one line, thread or file."""
        write(tmp_path, "import threading\nprint(threading.active_count())")

        done = run("train.py", cwd=tmp_path, JITWATCH_DISABLE="1")

        assert (0, b"1\n", b"") == (done.returncode, done.stdout, done.stderr)
        assert [] == list(tmp_path.glob("*.jsonl"))

    def test_run_raises_the_port_by_the_local_rank(self, tmp_path, free_port):
        """Each process of a node has a port and a log of its own."""
        write(tmp_path, "")
        command = [*MODULE, "run", "--port", str(free_port - 3), "--run", "r", "train.py"]

        done = call(command, tmp_path, SLURM_LOCALID="3")

        assert [(str(free_port), str(tmp_path / "jitwatch-r.p3.jsonl"))] == [
            match[1:] for match in BANNER.findall(done.stderr.decode())
        ]

    def test_run_moves_from_a_taken_port_and_says_so(self, tmp_path, taken_port):
        """The job goes on with the next free one."""
        write(tmp_path, "print('ran')")

        done = call([*MODULE, "run", "--port", str(taken_port), "train.py"], tmp_path)
        moved_to = int(BANNER.search(done.stderr.decode())[2])

        assert (0, b"ran\n") == (done.returncode, done.stdout)
        assert taken_port < moved_to <= taken_port + 63
        assert (
            f"jitwatch: port {taken_port} is in use; serving on http://127.0.0.1:{moved_to}\n" in done.stderr.decode()
        )

    def test_run_that_is_quiet_moves_from_a_taken_port_in_silence(self, tmp_path, taken_port):
        """--quiet is about warnings as well."""
        write(tmp_path, "print('ran')")

        done = call([*MODULE, "run", "--quiet", "--port", str(taken_port), "train.py"], tmp_path)

        assert (0, b"ran\n", b"") == (done.returncode, done.stdout, done.stderr)

    def test_run_serves_the_metrics_of_the_script(self, tmp_path):
        """A script can be scraped while it runs, here by itself."""
        write(
            tmp_path,
            "import urllib.request, jax, jitwatch\n@jax.jit\ndef step(x):\n    return x + 1\nstep(1.0)\n"
            "print(urllib.request.urlopen(jitwatch.install().url + '/metrics', timeout=10).read().decode())\n",
        )

        done = run("train.py", cwd=tmp_path, no_proxy="127.0.0.1")

        assert 'jitwatch_compiles_total{function="__main__.step"} 1.0' in done.stdout.decode().splitlines()


class TestWithoutAgent:
    """The job comes first: it runs when the agent cannot, unless --strict says otherwise."""

    # Even root can make no file in /proc.

    def test_run_without_a_writable_working_directory_has_no_log(self, tmp_path):
        """The agent serves all the same."""
        script = write(tmp_path, "print('ran')")

        done = run(str(script), cwd="/proc")

        assert (0, b"ran\n") == (done.returncode, done.stdout)
        assert [None] == [match[3] for match in BANNER.finditer(done.stderr.decode())]
        assert re.search(
            r"^jitwatch: no event log: event_log: '/proc/jitwatch-.*cannot be written", done.stderr.decode()
        )

    @pytest.mark.parametrize("options", [["--event-log", "/proc/x/y"], []])
    def test_run_with_an_unwritable_log_runs_without_the_agent(self, tmp_path, options):
        """The message names the path that was asked for."""
        write(tmp_path, "print('ran')")
        extra = {} if options else {"JITWATCH_EVENT_LOG": "/proc/x/y"}

        done = run(*options, "train.py", cwd=tmp_path, **extra)

        assert (0, b"ran\n") == (done.returncode, done.stdout)
        assert re.fullmatch(
            r"jitwatch: event_log: '/proc/x/y' cannot be written .*; the script runs without jitwatch\n",
            done.stderr.decode(),
        )

    def test_run_without_jax_says_what_to_do(self, tmp_path, without_jax):
        """A script that needs no jax runs."""
        write(tmp_path, "print('ran')")

        done = run("train.py", cwd=tmp_path, **without_jax)

        assert (0, b"ran\n") == (done.returncode, done.stdout)
        assert re.fullmatch(
            r"jitwatch: jax is not installed .*pip install 'jax.*; the script runs without jitwatch\n",
            done.stderr.decode(),
        )

    def test_run_with_a_bad_variable_names_it(self, tmp_path):
        """Whoever set it can find it."""
        write(tmp_path, "print('ran')")

        done = call([*MODULE, "run", "train.py"], tmp_path, JITWATCH_PORT="abc")

        assert (0, b"ran\n") == (done.returncode, done.stdout)
        assert (
            "jitwatch: JITWATCH_PORT: expected a port number from 0 to 65535, got 'abc'; "
            "correct or unset it; the script runs without jitwatch\n" == done.stderr.decode()
        )

    def test_run_with_warnings_as_errors_runs(self, tmp_path):
        """An unknown variable is only a warning, whatever the job's filters make of it."""
        write(tmp_path, "print('ran')")

        done = run("train.py", cwd=tmp_path, JITWATCH_PROT="1", PYTHONWARNINGS="error")

        assert (0, b"ran\n") == (done.returncode, done.stdout)
        assert "jitwatch: JITWATCH_PROT is unknown and ignored; known: " in done.stderr.decode()

    @pytest.mark.parametrize("strict", [["--strict"], []])
    @pytest.mark.parametrize("cause", ["no jax", "bad variable", "log asked for", "default log"])
    def test_run_that_is_strict_fails_before_the_script(self, tmp_path, without_jax, cause, strict):
        """Exit code 1, the reason in one line, and not a line of the script; by option or by variable."""
        script = write(tmp_path, "print('ran')")
        options = {"log asked for": ["--event-log", "/proc/x/y"]}.get(cause, [])
        extra = {**(without_jax if cause == "no jax" else {}), **({} if strict else {"JITWATCH_STRICT": "1"})}
        extra |= {"JITWATCH_STORM_THRESHOLD": "many"} if cause == "bad variable" else {}
        cwd = "/proc" if cause == "default log" else tmp_path

        done = run(*strict, *options, str(script), cwd=cwd, **extra)

        assert (1, b"") == (done.returncode, done.stdout)
        assert re.fullmatch(r"jitwatch: .+\n", done.stderr.decode())


@pytest.mark.parametrize("option", [("--port", "abc"), ("--port", "99999"), ("--run", ""), ("--detail", "some")])
def test_run_refuses_a_bad_option(tmp_path, option):
    """What is typed wrong is told before anything runs, as for every wrong option; only surroundings are forgiven."""
    write(tmp_path, "print('ran')")

    done = run(*option, "train.py", cwd=tmp_path)

    assert (2, b"") == (done.returncode, done.stdout)
    assert f"error: argument {option[0]}: " in done.stderr.decode()


def test_run_leaves_by_the_script_without_delay(tmp_path):
    """Stopping the agent is no wait that a launcher would notice."""
    write(tmp_path, "import time\nprint(time.time())")

    done = run("train.py", cwd=tmp_path)
    took = time.time() - float(done.stdout)

    assert took < 2.0
