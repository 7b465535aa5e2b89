"""Compile time from inside, in processes: the user's profiler, forks, the end of the interpreter, a killed job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import pytest

from jitwatch.cli import main
from tests.process.running import run_python
from tests.waiting import wait_until

readable = pytest.mark.versions(jax=">=0.8.3", reason="older ones cannot be profiled")

JOB = """
import json, os, sys, time
import jax, jax.numpy as jnp
import jitwatch

def step(x):
    for _ in range(10):
        x = jnp.tanh(x @ x) + jnp.sin(x)
    return x

def profiled(watch):
    return [one["name"] for one in watch.events() if one["event"] == "jit.compile_profiled"]

def files(folder):
    return sum(name.endswith(".xplane.pb") for _, _, names in os.walk(folder) for name in names)
"""


@readable
class TestUsersProfiler:
    """The user's profiler has priority over the agent's."""

    def test_theirs_runs_first(self, tmp_path):
        """No compile is profiled, and the user's profile is written."""
        done = run_python(
            JOB
            + """
            watch = jitwatch.install(port=0, profile_compiles=100)
            jax.profiler.start_trace(sys.argv[1])
            jax.jit(step)(jnp.ones((8, 8)))
            jax.profiler.stop_trace()
            time.sleep(0.5)
            print(profiled(watch), files(sys.argv[1]))
            jax.jit(lambda x: step(x) + 1)(jnp.ones((8, 8)))
            time.sleep(0.5)
            print(len(profiled(watch)))
            """.replace("\n            ", "\n"),
            str(tmp_path),
        )
        assert "[] 1\n1\n" == done.stdout, done.stderr

    def test_theirs_starts_while_ours_runs(self, tmp_path):
        """The agent's session is stopped, and the user's succeeds: its profile is written, and stopping it works."""
        done = run_python(
            JOB
            + """
            from jax._src import compiler
            watch = jitwatch.install(port=0, profile_compiles=100)
            real = compiler.backend_compile_and_load
            def compile_and_profile(*arguments):
                jax.profiler.start_trace(sys.argv[1])
                return real(*arguments)
            ones = jnp.ones((8, 8))
            compiler.backend_compile_and_load = compile_and_profile
            jax.jit(step)(ones)
            compiler.backend_compile_and_load = real
            jax.profiler.stop_trace()
            time.sleep(0.5)
            print(profiled(watch), files(sys.argv[1]))
            with jitwatch.profile_compiles():
                jax.jit(lambda x: step(x) + 1)(ones)
            print(len(profiled(watch)))
            """.replace("\n            ", "\n"),
            str(tmp_path),
        )
        assert "[] 1\n1\n" == done.stdout, done.stderr

    def test_theirs_starts_in_another_thread(self, tmp_path):
        """The user starts sessions repeatedly while XLA compiles, and each one succeeds."""
        done = run_python(
            JOB
            + """
            import threading
            watch = jitwatch.install(port=0, profile_compiles=1000)
            ones, is_over, traces = jnp.ones((8, 8)), threading.Event(), []
            def profile():
                while not is_over.is_set():
                    jax.profiler.start_trace(f"{sys.argv[1]}/{len(traces)}")
                    time.sleep(0.01)
                    jax.profiler.stop_trace()
                    traces.append(1)
            thread = threading.Thread(target=profile)
            thread.start()
            for number in range(8):
                jax.jit(lambda x: step(x) + number)(ones)
            is_over.set()
            thread.join()
            print(len(traces) == files(sys.argv[1]) > 1)
            """.replace("\n            ", "\n"),
            str(tmp_path),
        )
        assert "True\n" == done.stdout, done.stderr
        assert "Traceback" not in done.stderr

    def test_nothing_is_written_to_stderr_or_left(self, tmp_path):
        """XLA's profiler is silent, and no file is left in the temporary folder."""
        done = run_python(
            JOB
            + """
            watch = jitwatch.install(port=0)
            with jitwatch.profile_compiles():
                jax.jit(step)(jnp.ones((8, 8)))
            print(profiled(watch), os.listdir(os.environ["TMPDIR"]))
            """.replace("\n            ", "\n"),
            TMPDIR=str(tmp_path),
        )
        assert "['step'] []\n" == done.stdout
        assert "" == done.stderr


def test_exit_while_a_trace_is_sampled():
    """The interpreter exits during the trace, with the exit code of the job."""
    done = run_python(
        """
        import os, sys, threading, time
        import jax, jax.numpy as jnp
        import jitwatch
        watch = jitwatch.install(port=0)
        ones = jnp.ones(3)
        watcher = watch._agent._compile_watch
        def step(x):
            while watcher.samples < 5:
                time.sleep(0.05)
            print("ends")
            sys.exit(3)
        jax.jit(step)(ones)
        """
    )
    assert (3, "ends\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_has_no_watcher():
    """The child has one if it installs an agent itself; the parent's watcher continues."""
    done = run_python(
        """
        import os, sys, threading, time, warnings
        warnings.simplefilter("ignore")
        import jax
        import jitwatch
        watch = jitwatch.install(port=0)
        names = lambda: [one.name for one in threading.enumerate() if one.name == "jitwatch-compile-watch"]
        child = os.fork()
        if not child:
            jitwatch.uninstall()
            first = names()
            again = jitwatch.install(port=0)
            second = names()
            jitwatch.uninstall()
            os._exit(0 if (first, len(second)) == ([], 1) else 1)
        print(os.waitpid(child, 0)[1], names())
        """
    )
    assert "0 ['jitwatch-compile-watch']\n" == done.stdout, done.stderr


def test_killed_while_it_compiles(tmp_path, capsys):
    """The log has the compile that never ended, and the report says when it began."""
    log = tmp_path / "log.jsonl"
    job = tmp_path / "job.py"
    job.write_text(
        textwrap.dedent(f"""
        import time
        import jax, jax.numpy as jnp
        import jitwatch
        from jax._src import compiler
        from jitwatch.probes import compile_watch
        watch = jitwatch.install(port=0, event_log={str(log)!r})
        agent = watch._agent
        agent._compile_watch.stop()
        compile_watch.CompileWatch(agent.session, agent.emit, reported_after_s=0.5).start()
        ones = jnp.ones(3)
        compiler.backend_compile_and_load = lambda *arguments: time.sleep(600)
        @jax.jit
        def train_step(x):
            return x + 1
        train_step(ones)
        """)
    )
    process = subprocess.Popen([sys.executable, str(job)])
    try:
        wait_until(lambda: log.exists() and '"train_step"' in log.read_text(), what="the record")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert 0 == main(["report", str(log)])
    text = " ".join(capsys.readouterr().out.split())
    assert 0 == main(["report", str(log), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)["processes"]

    assert "had been compiling train_step at job.py:12 for " in text
    assert "when the log ended, since " in text
    assert ["train_step"] == [one["name"] for one in row["compiling"]]
    assert f"{job}:12" == row["compiling"][0]["call_site"]


def test_gevent_after_install():
    """A green thread is not sampled, the watcher sleeps again, and the process ends without a message."""
    pytest.importorskip("gevent")
    done = run_python(
        """
        import jitwatch
        watch = jitwatch.install(port=0)
        import gevent, gevent.monkey
        gevent.monkey.patch_all()
        import time, jax, jax.numpy as jnp
        watcher, pause = watch._agent._compile_watch, gevent.monkey.get_original("time", "sleep")
        def step(x):
            time.sleep(1.2)
            return x + 1
        other = gevent.spawn(lambda: [time.sleep(0.1) for _ in range(10)])
        print(float(jax.jit(step)(1.0)), watcher.samples, len(watch._agent.session.phases.activity.running()))
        until = time.monotonic() + 20
        while watcher._activity.sleeper is None and time.monotonic() < until:
            pause(0.05)
        print(watcher._activity.sleeper is not None)
        jitwatch.uninstall()
        """
    )
    assert (0, "2.0 0 0\nTrue\n", "") == (done.returncode, done.stdout, done.stderr)
