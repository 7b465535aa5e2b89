"""install and uninstall in processes of their own: orders, forks, exits, signals."""

from __future__ import annotations

import json

import pytest

from tests.process.running import run_python


@pytest.mark.parametrize("order", ["install, import", "import, install", "import, jit, install"])
def test_order_of_import_install_and_jit_does_not_matter(order):
    """However the job orders them, its function's compile is counted, and no backend exists before it."""
    lines = {
        "install": "watch = jitwatch.install(port=0)",
        "import": "import jax",
        "jit": "from jax import jit\nf = jit(lambda x: x + 1)",
    }
    program = "import jitwatch\n" + "\n".join(lines[one] for one in order.split(", "))
    program += """
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
f = globals().get("f") or jax.jit(lambda x: x + 1)
f(1.0); f(2.0); f(1)
print(watch.snapshot()["totals"]["compiles"])
"""
    done = run_python(program)
    assert ("False\n2\n", "") == (done.stdout, done.stderr)


def test_install_before_import_leaves_jax_platforms_to_the_job():
    """Variables that JAX reads when imported still work after install()."""
    done = run_python(
        """
        import os, jitwatch
        os.environ.pop("JAX_PLATFORMS")
        jitwatch.install(port=0)
        os.environ["JAX_PLATFORMS"] = "nonexistent"
        import jax
        print(jax.config.jax_platforms)
        """
    )
    assert "nonexistent\n" == done.stdout


def test_forked_child_is_silent_and_the_parent_goes_on(tmp_path):
    """A fork inherits no socket, thread or patched name; both processes go on working."""
    log = tmp_path / "log.jsonl"
    done = run_python(
        f"""
        import os, sys, threading, warnings
        warnings.simplefilter("ignore")
        import jax, jitwatch
        watch = jitwatch.install(port=0, event_log={str(log)!r})
        f = jax.jit(lambda x: x + 1)
        f(1.0)
        from jax._src import pjit
        child = os.fork()
        if child == 0:
            numbers = [n for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{{n}}")]
            left = [os.readlink(f"/proc/self/fd/{{n}}") for n in numbers]
            ok = (jitwatch.snapshot() == {{}} and pjit._cpp_pjit.__module__ == "jax._src.pjit"
                  and threading.active_count() == 1 and not any("log.jsonl" in one for one in left)
                  and watch.snapshot()["totals"]["compiles"] == 1 and not watch.is_active)
            os._exit(0 if ok else 7)  # a forked XLA cannot finalise, with or without the agent
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        f(1)
        print(watch.snapshot()["totals"]["compiles"])
        """
    )
    assert ("0\n2\n", "") == (done.stdout, done.stderr)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert 1 == events.count("agent.uninstalled")
    assert 1 == events.count("run.summary")


def test_finalizer_of_a_donated_array_runs_once_despite_a_fork(tmp_path):
    """The ledger keeps the arrays of the latest call: a child that inherited them would finalize them again."""
    done = run_python(
        """
        import os, warnings, weakref
        warnings.simplefilter("ignore")
        import jax, jax.numpy as jnp, jitwatch
        jitwatch.install(port=0, sample_interval_s=3_600)
        f = jax.jit(lambda x: x + 1, donate_argnums=0)
        x = f(f(jnp.ones(3)))
        weakref.finalize(x, lambda: os.write(1, f"finalized {os.getpid() == parent}\\n".encode()))
        parent = os.getpid()
        x = f(x)
        child = os.fork()
        if child == 0:
            import gc
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        print("forked", flush=True)
        """
    )
    assert ("finalized True\nforked\n", "") == (done.stdout, done.stderr)


def test_child_that_is_forked_while_the_agent_imports_can_import(tmp_path):
    """Python never releases the lock of a module that another thread was importing at the fork."""
    (tmp_path / "slowly.py").write_text("import time\ntime.sleep(1)\n")
    done = run_python(
        f"""
        import os, signal, sys, threading, time, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, {str(tmp_path)!r})
        import jitwatch
        from jitwatch import agent_parts
        jitwatch.install(port=0, sample_interval_s=3600)
        agent_parts._LAZY_IMPORTS = ("slowly",)
        importing = threading.Thread(target=agent_parts.import_the_rest)
        importing.start()
        while "slowly" not in sys.modules:
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            import slowly
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        importing.join()
        """
    )
    assert ("0\n", "") == (done.stdout, done.stderr)


def test_exit_writes_the_summary_and_is_quick(tmp_path):
    """A job that just ends leaves a complete log."""
    log = tmp_path / "log.jsonl"
    done = run_python(
        f"""
        import jitwatch
        jitwatch.install(port=0, event_log={str(log)!r})
        import jax
        jax.jit(lambda x: x + 1)(1.0)
        """
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert ["run.summary", "agent.uninstalled"] == [record["event"] for record in records[-2:]]
    assert 1 == records[-2]["compiles"]


def test_missing_jax_says_what_to_install():
    """Without jax install() explains, and uninstall has nothing to do."""
    done = run_python(
        """
        import importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "jax" else real(name, package)
        import jitwatch
        try:
            jitwatch.install(port=0)
        except jitwatch.UnsupportedJaxError as error:
            print(error)
        """
    )
    assert "jax is not installed" in done.stdout
    assert "pip install 'jax>=0.6.2'" in done.stdout


def test_signal_handler_may_compile_while_the_agent_counts():
    """A checkpoint handler that runs in the middle of our bookkeeping finishes, and both compiles count."""
    done = run_python(
        """
        import signal, jitwatch, jax
        from jitwatch.state.tables import MetricTables
        watch = jitwatch.install(port=0)
        signal.signal(signal.SIGUSR1, lambda *_: jax.jit(lambda x: x * 2)(1.0))
        original = MetricTables.add
        def add(self, name, *args, **kwargs):
            if name == "compiles":
                MetricTables.add = original
                signal.raise_signal(signal.SIGUSR1)
            return original(self, name, *args, **kwargs)
        MetricTables.add = add
        jax.jit(lambda x: x + 1)(1.0)
        print(watch.snapshot()["totals"]["compiles"])
        """,
        timeout_s=60,
    )
    assert ("2\n", "") == (done.stdout, done.stderr)


def test_install_while_another_thread_imports_jax():
    """Whoever installs in the middle of somebody else's `import jax` is attached once that has ended."""
    done = run_python(
        """
        import sys, threading, time, jitwatch
        thread = threading.Thread(target=__import__, args=("jax",))
        thread.start()
        while "jax" not in sys.modules:
            pass
        watch = jitwatch.install(port=0, sample_interval_s=0.1)
        thread.join()
        import jax
        deadline = time.monotonic() + 30
        while not watch.snapshot()["probes"].get("compile", {}).get("up"):
            assert time.monotonic() < deadline
        jax.jit(lambda x: x + 1)(1.0)
        print(watch.snapshot()["totals"]["compiles"])
        jitwatch.uninstall()
        print([finder for finder in sys.meta_path if type(finder).__module__.startswith("jitwatch")])
        """
    )
    assert ("1\n[]\n", "") == (done.stdout, done.stderr)


def test_process_index_of_jax_distributed_reaches_the_events():
    """Events know the process's place in its run although nobody scrapes."""
    done = run_python(
        """
        import socket, time
        import jax, jitwatch
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        watch = jitwatch.install(port=0, sample_interval_s=0.1)
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=1, process_id=0)
        f = jax.jit(lambda x: x + 1)
        deadline, n = time.monotonic() + 30, 1
        while True:
            f(jax.numpy.ones(n))
            if watch.events(1)[0]["process_index"] == 0:
                break
            n += 1
            time.sleep(0.05)
            assert time.monotonic() < deadline
        print(watch.snapshot()["metrics"]["jitwatch_process_info"][0]["labels"])
        """
    )
    assert "{'process_index': '0', 'process_count': '1'}\n" == done.stdout


def test_resources_of_jax_are_found_before_it_is_imported():
    """Looking at jax without importing it works as without the agent."""
    done = run_python(
        """
        import importlib.util, pkgutil, jitwatch
        jitwatch.install(port=0)
        spec = importlib.util.find_spec("jax")
        print(spec.loader.is_package("jax"), spec.loader.get_filename("jax") == spec.origin)
        print(len(pkgutil.get_data("jax", "version.py")) > 100)
        """
    )
    assert ("True True\nTrue\n", "") == (done.stdout, done.stderr)


def test_unknown_variable_does_not_end_a_strict_job():
    """Where the job turns warnings into errors too, a stray variable is a line in the log."""
    done = run_python(
        "import warnings, jitwatch; warnings.simplefilter('error'); print(jitwatch.install(port=0).is_active)",
        JITWATCH_FOO="1",
    )
    assert "True\n" == done.stdout
    assert done.stderr.startswith("jitwatch: JITWATCH_FOO is unknown and ignored; known: JITWATCH_ALLOWED_HOSTS, ")
