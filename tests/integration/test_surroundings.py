"""A job whose surroundings fail: no descriptors, no ports, patched threads, closed descriptors, clients at its end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.waiting import wait_until

TIMEOUT_S = 120


def run_job(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program as a job, to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


# --- nothing is left to start with

#: Imports what it is told to, uses up every descriptor, installs the agent, gives the descriptors back, and trains.
SHORT_OF_DESCRIPTORS = """
import os, sys
what, strict = sys.argv[1], sys.argv[2] == "strict"
import jitwatch
if what != "nothing":
    import jax
    import jitwatch.runtime
if what == "everything":
    # What is imported when a part first works is there by now.
    with jitwatch.install(port=0, event_log=os.devnull, sd_dir=os.environ["TMPDIR"]) as watch:
        watch.snapshot()
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
if len(sys.argv) > 3:
    for _ in range(int(sys.argv[3])):
        os.close(held.pop())
try:
    watch = jitwatch.install(port=0, event_log=os.path.join(os.environ["TMPDIR"], "log.jsonl"), strict=strict)
except jitwatch.JitwatchError as error:
    watch = None
    print(type(error).__name__, "ulimit -n" in str(error))
for number in held:
    os.close(number)
import jax
print(float(jax.jit(lambda x: x * 2 + 1)(20.5)))
if watch is not None:
    print(watch.is_active, watch.url, watch.snapshot().get("totals", {}).get("compiles"))
"""


@pytest.fixture
def few_descriptors(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n{SHORT_OF_DESCRIPTORS}"
        return run_job(program, *arguments, TMPDIR=str(tmp_path))

    return run


def test_job_without_descriptors_goes_on(few_descriptors):
    """Where the agent is imported, it works without endpoint and event log; its result is that of the bare job."""
    done = few_descriptors("everything", "lenient")
    assert (0, "42.0\nTrue None 1\n") == (done.returncode, done.stdout), done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("jitwatch: the job continues without its event log: ")
    assert "; and without its endpoint: " in said
    assert said.count("ulimit -n") >= 1


@pytest.mark.parametrize("free", range(1, 9))
def test_job_with_few_descriptors_goes_on(few_descriptors, free):
    """However far the agent gets with them."""
    done = few_descriptors("everything", "lenient", str(free))
    assert (0, "42.0") == (done.returncode, done.stdout.splitlines()[0]), done.stderr
    assert done.stdout.splitlines()[1].startswith("True ")
    assert "Traceback" not in done.stderr


def test_job_without_descriptors_for_imports_goes_on(few_descriptors):
    """Where nothing of the agent is imported yet, none starts, which is said in one line."""
    done = few_descriptors("nothing", "lenient")
    assert (0, "42.0\nFalse None None\n") == (done.returncode, done.stdout), done.stderr
    (said,) = done.stderr.splitlines()
    assert "Too many open files" in said
    assert said.endswith("; the job runs without jitwatch")


@pytest.mark.parametrize("what", ["nothing", "everything"])
def test_strict_job_without_descriptors_is_told_what_to_do(few_descriptors, what):
    """An error of ours, and nothing of the agent is left."""
    done = few_descriptors(what, "strict")
    assert 0 == done.returncode, done.stderr
    name, advises = done.stdout.splitlines()[0].split()
    assert name in ("JitwatchError", "ServerError", "ConfigError")
    assert "True" == advises or name == "ConfigError"
    assert "42.0" == done.stdout.splitlines()[1]


@pytest.fixture
def taken_ports() -> Iterator[int]:
    """64 ports in a row that are taken; the first of them."""
    first = 22000 + 64 * (os.getpid() % 100)
    with ExitStack() as held:
        for port in range(first, first + 64):
            with suppress(OSError):  # taken by another program: just as well
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        yield first


def test_run_without_a_free_port_trains_without_an_endpoint(taken_ports, tmp_path):
    """The script's own output and exit code, an event log, and a line that says why there is no address."""
    script = tmp_path / "train.py"
    script.write_text("import jax\nprint(float(jax.jit(lambda x: x + 1)(41.0)))\nraise SystemExit(3)\n")
    command = [sys.executable, "-m", "jitwatch", "run", "--port", str(taken_ports)]
    for more, code, output in (([], 3, "42.0\n"), (["--strict"], 1, "")):
        done = subprocess.run(
            [*command, *more, str(script)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=tmp_path,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        assert (code, output) == (done.returncode, done.stdout), done.stderr
        assert "are in use: stop the processes that use them, name another port" in done.stderr
        assert "Traceback" not in done.stderr
    assert (
        "jitwatch: no endpoint, event log "
        in subprocess.run(
            [*command, str(script)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=tmp_path,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        ).stderr
    )


def test_doctor_says_that_there_is_no_free_port(taken_ports):
    """The agent works without an endpoint, and strict jobs do not start."""
    for strict, code, status in (("0", 0, "warn"), ("1", 1, "fail")):
        done = subprocess.run(
            [sys.executable, "-m", "jitwatch", "doctor", "--json"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JITWATCH_PORT": str(taken_ports),
                "JITWATCH_STRICT": strict,
            },
        )
        (check,) = [one for one in json.loads(done.stdout) if one["name"] == "port"]
        assert (code, status) == (done.returncode, check["status"]), done.stdout
        assert "are in use" in check["text"]


# --- threads that are none

PATCHED_AFTERWARDS = """
import sys
import jitwatch
watch = jitwatch.install(port=0, sample_interval_s=0.2)
import gevent, gevent.monkey
gevent.monkey.patch_all()
import jax, jax.numpy as jnp, time
step = jax.jit(lambda x: x @ x / 100)
x = jnp.ones((100, 100))
print(watch.url, flush=True)
# Nothing here gives way to gevent's loop.
for _ in sys.stdin:
    for _ in range(20):
        step(x).block_until_ready()
    print(watch.snapshot()["uptime_seconds"] > 0, flush=True)
before = time.perf_counter()
jitwatch.uninstall()
print(time.perf_counter() - before < 5, jitwatch.snapshot())
"""


def test_gevent_after_install_changes_nothing():
    """The endpoint answers several clients at once, samples are taken, and the end is quiet and quick."""
    process = subprocess.Popen(
        [sys.executable, "-c", PATCHED_AFTERWARDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        port = int(url.rpartition(":")[2])

        def train() -> None:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert "True\n" == process.stdout.readline()  # type: ignore[union-attr]

        def sampled() -> bool:
            train()
            return b"jitwatch_collect_duration_seconds" in answer_of(port, "/metrics")

        wait_until(sampled, timeout_s=60, what="a sample")
        for path in ("/", "/api/v1/live", "/api/v1/state", "/healthz"):
            train()
            assert answer_of(port, path).startswith(b"HTTP/1.1 200"), path
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    assert ("True {}\n", "", 0) == (out, err, process.returncode)


def answer_of(port: int, path: str) -> bytes:
    """Everything that the endpoint answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize("order", ["patch, import", "import, patch"])
def test_gevent_before_install_is_refused(order):
    """The job runs as without the agent, and one line says why, and what to do instead; a strict one has an error."""
    lines = {"patch": "import gevent.monkey; gevent.monkey.patch_all()", "import": "import jitwatch"}
    program = "\n".join(lines[one] for one in order.split(", "))
    program += """
watch = jitwatch.install(port=0)
import jax
print(watch.is_active, watch.snapshot(), float(jax.jit(lambda x: x + 1)(41.0)))
try:
    jitwatch.install(port=0, strict=True)
except jitwatch.JitwatchError as error:
    print(error)
jitwatch.uninstall()
"""
    done = run_job(program)
    first, second = done.stdout.splitlines()
    assert ("False {} 42.0", 0) == (first, done.returncode), done.stderr
    assert "call jitwatch.install() before monkey.patch_all()" in second
    (said,) = done.stderr.splitlines()
    assert said.endswith("; the job runs without jitwatch")


STARTED_BY_A_DEBUGGER = """
import _thread, threading
def starts(name):
    start = getattr(_thread, name)
    return lambda *args, **kwargs: start(*args, **kwargs)
for name in ("start_new_thread", "start_joinable_thread"):
    if hasattr(_thread, name):
        for module, attribute in ((_thread, name), (threading, "_" + name)):
            setattr(module, attribute, starts(name))
import jitwatch
watch = jitwatch.install(port=0)
import jax
jax.jit(lambda x: x + 1)(1.0)
print(watch.is_active, watch.snapshot()["totals"]["compiles"])
"""


def test_debugger_that_starts_threads_in_its_own_way_is_none():
    """pydevd, of debugpy and of IDEs, replaces what starts a thread; the threads are real, and the agent works."""
    done = run_job(STARTED_BY_A_DEBUGGER)
    assert ("True 1\n", "", 0) == (done.stdout, done.stderr, done.returncode)


#: Looks for locks as eventlet does when it patches, in what is ours: in modules, lists, dicts and attributes.
REPLACEABLE = """
import sys, threading
import jitwatch
watch = jitwatch.install(port=0, event_log=sys.argv[1])
import jax
jax.jit(lambda x: x + 1)(1.0)
watch.snapshot()
seen, found = {}, []
def look(where, path):
    if id(where) in seen:
        return
    seen[id(where)] = where
    if isinstance(where, type(threading.RLock())):
        found.append(path)
    held = dict(where) if isinstance(where, dict) else {}
    held |= dict(enumerate(where)) if isinstance(where, list) else {}
    for name, value in {**held, **getattr(where, "__dict__", {})}.items():
        owner = type(value).__module__.partition(".")[0]
        if owner == "jitwatch" or isinstance(value, (dict, list, type(threading.RLock()))):
            look(value, f"{path}.{name}")
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "jitwatch":
        look(vars(module), name)
print(len(seen) > 100, found)
"""


def test_eventlet_finds_no_lock_of_ours(tmp_path):
    """It would put a green one in its place, for which two real threads cannot wait."""
    done = run_job(REPLACEABLE, f"{tmp_path}/")
    assert ("True []\n", "", 0) == (done.stdout, done.stderr, done.returncode)


IMPORTS = """
import sys, threading, urllib.request
import jitwatch
found = []
def note(event, arguments):
    if event == "import" and threading.current_thread().name.startswith("jitwatch"):
        found.append(arguments[0])
watch = jitwatch.install(port=0, sample_interval_s=0.1, event_log=sys.argv[1], sd_dir=sys.argv[1])
sys.addaudithook(note)
import jax
jax.jit(lambda x: x + 1)(1.0)
while "jitwatch_child_processes" not in watch.snapshot()["metrics"]:
    pass
for path in ("/metrics", "/", "/api/v1/state", "/api/v1/live", "/api/v1/events", "/healthz"):
    urllib.request.urlopen(watch.url + path, timeout=30).read()
print(found)
"""


def test_threads_of_ours_import_nothing_where_gevent_is_installed(tmp_path):
    """A module that one of them imports while the job patches could be imported by nobody any more."""
    done = run_job(IMPORTS, f"{tmp_path}/")
    assert ("[]\n", "") == (done.stdout, done.stderr)


# --- descriptors that the job closes

DAEMONIZES = """
import json, os, sys
import jitwatch
watch = jitwatch.install(port=0, sample_interval_s=0.5)
import jax, jax.numpy as jnp
step = jax.jit(lambda x: x * 2)
step(jnp.ones(2))
print(watch.url, flush=True)
sys.stdin.readline()
os.closerange(3, 256)
files = [open(os.path.join(sys.argv[1], f"{n}.bin"), "w+b", buffering=0) for n in range(32)]
for file in files:
    file.write(b"CHECKPOINT")
print("closed", flush=True)
for line in sys.stdin:
    step(jnp.ones(3))
    print(json.dumps(jitwatch.scalars()), flush=True)
for file in files:
    file.seek(0)
    assert file.read() == b"CHECKPOINT"
jitwatch.uninstall()
for file in files:
    file.write(b" IS MINE")
    file.close()
print(float(step(jnp.float32(21))))
"""


def test_job_that_closes_our_descriptors_keeps_its_files(tmp_path):
    """They are neither written nor closed, the endpoint comes back on its port, and no thread spins."""
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMONIZES, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().strip().rpartition(":")[2])
        # Some are in the middle of something.
        clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        for sock in clients:
            sock.sendall(b"GET /metr")
        process.stdin.write("\n")
        process.stdin.flush()
        assert "closed\n" == process.stdout.readline()

        def answers() -> bool:
            with suppress(OSError):
                return answer_of(port, "/metrics").startswith(b"HTTP/1.1 200")
            return False

        wait_until(answers, timeout_s=60, what="the endpoint being back")
        assert b'jitwatch_agent_errors_total{component="server"}' in answer_of(port, "/metrics")
        process.stdin.write("\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["jitwatch/compiles"] == 2
        out, err = process.communicate(timeout=TIMEOUT_S)
        for sock in clients:
            sock.close()
    finally:
        process.kill()
        process.wait()
    assert ("42.0\n", 0) == (out, process.returncode), err
    assert {b"CHECKPOINT IS MINE"} == {path.read_bytes() for path in tmp_path.glob("*.bin")}


# --- clients at the end of the job

ENDS = """
import atexit, sys, time
import jitwatch
watch = jitwatch.install(port=0, sample_interval_s=0.5)
import jax
jax.jit(lambda x: x + 1)(1.0)
print(watch.url, flush=True)
sys.stdin.readline()
begun = time.perf_counter()
# Registered before the agent's own would run after it; this one runs last of all.
sys.modules["atexit"]._run_exitfuncs()
print(time.perf_counter() - begun, flush=True)
"""


def test_exit_with_clients_attached_is_quick():
    """Idle ones, slow ones, one that reads nothing, one in the middle of a request: all are closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    clients: list[socket.socket] = []
    try:
        port = int(process.stdout.readline().strip().rpartition(":")[2])
        for first in (b"", b"GET / HT", b"GET /api/v1/state HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01"):
            for _ in range(25):
                sock = socket.create_connection(("127.0.0.1", port), timeout=30)
                if first.endswith(b"\r\n\r\n"):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                sock.sendall(first)
                clients.append(sock)
        assert answer_of(port, "/metrics").startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        out, err = process.communicate("\n", timeout=TIMEOUT_S)
        took_s = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
        for sock in clients:
            sock.close()
    assert (0, "") == (process.returncode, err)
    # What the agent does then, and the whole end of the process, jax included, on a machine that is busy.
    assert float(out) < 2.5
    assert took_s < 20
