"""The compile watcher: where a long trace or lowering spends its time, and compiles that run for long."""

from __future__ import annotations

import json
import os
import sysconfig
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

import jitwatch
from jitwatch.jaxhooks.compile import phases
from jitwatch.model.rows import CONVERSION, RULES
from jitwatch.probes import compile_watch
from jitwatch.probes.compile_watch import CompileWatch
from jitwatch.render import compile_time
from jitwatch.report import html, terminal
from tests.unit import logs
from tests.unit.hostile import HOSTILE
from tests.waiting import wait_until

try:
    from jax.extend.core import Primitive
except ImportError:
    from jax.core import Primitive

ME = str(Path(__file__))


@pytest.fixture
def watch(tmp_path):
    with jitwatch.install(port=0, event_log=tmp_path / "log.jsonl") as installed:
        yield installed


@contextmanager
def watching(watch, sampled_after_s):
    """A watcher with shorter limits, in place of the agent's."""
    agent = watch._agent
    agent._compile_watch.stop()
    own = CompileWatch(
        agent.session, agent.emit, sampled_after_s=sampled_after_s, reported_after_s=0.2, interval_s=0.005
    )
    own.start()
    yield own
    own.stop()


@pytest.fixture
def watcher(watch):
    with watching(watch, sampled_after_s=0.05) as own:
        yield own


@pytest.fixture
def eager_watcher(watch):
    """A watcher that samples each trace."""
    with watching(watch, sampled_after_s=0.001) as own:
        yield own


def records(watch, *kinds):
    """The records of the user's functions."""
    return [one for one in watch.events() if one["event"] in kinds and one["function"] != "__jax__"]


def compiled(watch):
    return records(watch, "jit.compiled", "jit.recompiled")


def line_of(function, marker):
    """`file:line` of the line with a comment."""
    lines = Path(ME).read_text().splitlines()
    first = function.__code__.co_firstlineno
    return f"{ME}:{next(number for number, line in enumerate(lines, 1) if number >= first and marker in line)}"


SAMPLED = """
def sampled(watcher, more=4):
    until, deadline = watcher.samples + more, time.monotonic() + 60
    while watcher.samples < until:
        assert time.monotonic() < deadline, "no samples"
        time.sleep(0.002)

def slowed(real, is_over):
    def slow(*arguments):
        over, deadline = is_over(), time.monotonic() + 60
        while not over():
            assert time.monotonic() < deadline, "not over"
            time.sleep(0.002)
        return real(*arguments)
    return slow
"""
#: `sampled` spends time until the watcher has read further stacks, and `slowed` is a function that first waits: in a
#: file of Python's, which is nobody's hot line or call site.
made: dict[str, Any] = {"time": time}
exec(compile(SAMPLED, os.path.join(sysconfig.get_path("stdlib"), "waiting.py"), "exec"), made)
sampled, slowed = made["sampled"], made["slowed"]


class TestTrace:
    """`trace_hot_lines`."""

    def test_loop_over_layers_is_found(self, watch, watcher):
        """The line that calls the layers is shown, with most of the time, rather than the lines of a layer."""

        def layer(x):
            sampled(watcher)
            return jnp.sin(x)

        @jax.jit
        def step(x):
            for _ in range(6):
                x = layer(x)  # the loop
            return x

        step(jnp.ones(3))
        (record,) = compiled(watch)
        first, *others = record["trace_hot_lines"]

        assert line_of(step.__wrapped__, "# the loop") == first["call_site"]
        assert first["is_in_loop"]
        assert 0.8 < first["share"] <= 1.0
        assert first["seconds"] + sum(one["seconds"] for one in others) <= record["trace_s"] + record["lower_s"]
        assert f"took {record['trace_s'] + record['lower_s']:.2f} s: " in str(watch.explain(step))
        assert f"at {first['call_site'].rpartition('/')[2]} (in a Python loop)" in str(watch.explain())

    def test_caller_of_the_program_is_not_a_hot_line(self, watch, watcher):
        """It would have all of the time, which is no information."""

        @jax.jit
        def step(x):
            sampled(watcher)  # inside
            return x

        def train():
            return step(jnp.ones(3))  # the caller

        train()
        (record,) = compiled(watch)
        sites = [row["call_site"] for row in record["trace_hot_lines"]]

        assert line_of(train, "# the caller") == record["call_site"]
        assert record["call_site"] not in sites
        assert sites

    def test_short_compiles_are_not_sampled(self, watch):
        """With the limits of the agent no stack is read, and no record has the field."""
        for size in range(1, 6):
            jax.jit(lambda x: jnp.cos(x) * 2)(jnp.ones(size))

        assert 5 == len(compiled(watch))
        assert not any("trace_hot_lines" in one for one in watch.events())
        assert 0 == watch._agent._compile_watch.samples
        assert [] == watch.snapshot()["functions"][0]["trace_hot_lines"]

    def test_cached_call_does_not_wake_the_watcher(self, watch, watcher):
        """A cached call starts no phase."""
        step = jax.jit(lambda x: x + 1)
        x = step(jnp.ones(3))
        wait_until(lambda: watcher._activity.sleeper is not None, what="an idle watcher")
        wakes = watcher.wakes
        for _ in range(1_000):
            x = step(x)

        assert wakes == watcher.wakes
        assert watcher._activity.sleeper is not None

    def test_idle_watcher_does_not_wake(self, watch):
        """The watcher does not wake within ten of its intervals."""
        jax.jit(lambda x: x + 1)(jnp.ones(3))
        watcher = watch._agent._compile_watch
        wait_until(lambda: watcher._activity.sleeper is not None, what="an idle watcher")
        wakes, until = watcher.wakes, time.monotonic() + 10 * compile_watch._INTERVAL_S
        wait_until(lambda: time.monotonic() > until, what="time")

        assert wakes == watcher.wakes

    def test_burst_of_short_compiles_wakes_it_once_a_second(self, watch):
        """Only the first phase wakes the watcher."""
        watcher = watch._agent._compile_watch
        wait_until(lambda: watcher._activity.sleeper is not None, what="an idle watcher")
        began, wakes = time.monotonic(), watcher.wakes
        for size in range(1, 30):
            jax.jit(lambda x: x * 3)(jnp.ones(size))

        # It wakes for the first, looks a second later, and may find nothing then.
        assert watcher.wakes - wakes <= 2 + 3 * (time.monotonic() - began)

    def test_exception_in_the_trace_drops_the_samples(self, watch, watcher):
        """The next compile has only its own samples."""
        fails = [True]

        @jax.jit
        def step(x):
            if fails.pop():
                sampled(watcher)
                raise ValueError("no")
            return x

        with pytest.raises(ValueError, match="no"):
            step(jnp.ones(3))
        fails[:] = [False]
        step(jnp.ones(3))

        assert 1 == len(records(watch, "jit.compile_failed"))
        assert "trace_hot_lines" not in compiled(watch)[0]
        assert {} == watcher._watched or wait_until(lambda: not watcher._watched, what="nothing watched")

    def test_compile_inside_a_trace_is_not_part_of_it(self, watch, watcher, monkeypatch):
        """The 0.3 seconds of the compile are not counted for the trace; the seconds of lines are estimates."""
        real = compiler.backend_compile_and_load

        def slow(*arguments):
            until = time.monotonic() + 0.3
            wait_until(lambda: time.monotonic() > until, what="time")
            return real(*arguments)

        @jax.jit
        def step(x):
            with jax.ensure_compile_time_eval():
                monkeypatch.setattr(compiler, "backend_compile_and_load", slow)
                inner = jax.jit(lambda y: jnp.tan(y) + 5)(jnp.ones(2))
                monkeypatch.setattr(compiler, "backend_compile_and_load", real)
            sampled(watcher)
            return x + inner.sum()

        step(jnp.ones(3))
        record = compiled(watch)[-1]
        total = sum(row["seconds"] for row in record["trace_hot_lines"])

        assert "step" == record["name"]
        assert total <= record["trace_s"] + record["lower_s"] + 0.15

    def test_threads_have_their_own_samples(self, watch, watcher):
        """Two threads that trace at the same time."""
        barrier = threading.Barrier(2)

        @jax.jit
        def one(x):
            barrier.wait(30)
            sampled(watcher, 12)  # of one
            return x + 1

        @jax.jit
        def two(x):
            barrier.wait(30)
            sampled(watcher, 12)  # of two
            return x + 2

        threads = [threading.Thread(target=function, args=(jnp.ones(3),)) for function in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {one["name"]: [row["call_site"] for row in one["trace_hot_lines"]] for one in compiled(watch)}

        assert found["one"][0].startswith(ME)
        assert not set(found["one"]) & {line_of(two.__wrapped__, "# of two")}
        assert not set(found["two"]) & {line_of(one.__wrapped__, "# of one")}

    def test_ahead_of_time_compile_has_the_samples_of_its_trace(self, watch, watcher):
        """Traced, lowered and compiled in three calls."""

        @jax.jit
        def step(x):
            sampled(watcher)
            return x

        lowered = step.lower(jnp.ones(3))
        assert [] == compiled(watch)
        lowered.compile()

        assert compiled(watch)[0]["trace_hot_lines"]

    def test_patched_threads_are_not_sampled(self, watch, watcher, monkeypatch):
        """A green thread has no stack of its own that could be read."""
        monkeypatch.setattr(compile_watch, "is_patched", lambda: True)

        @jax.jit
        def step(x):
            until = time.monotonic() + 0.2
            wait_until(lambda: time.monotonic() > until, what="time")
            return x

        step(jnp.ones(3))
        assert 0 == watcher.samples
        assert "trace_hot_lines" not in compiled(watch)[0]

    def test_samples_become_rarer_if_they_are_expensive(self, watch, watcher, monkeypatch):
        """A sample takes at most a hundredth of the interval."""
        times = iter(range(100_000))
        monkeypatch.setattr(compile_watch.time, "thread_time", lambda: next(times) * 0.002)

        @jax.jit
        def step(x):
            sampled(watcher, 2)
            return x

        step(jnp.ones(3))
        assert 0.2 == pytest.approx(watcher._interval_s) or watcher._interval_s == watcher._shortest_s

    def test_uninstall_during_a_trace(self, watch, watcher):
        """The thread ends, and the trace completes."""

        @jax.jit
        def step(x):
            sampled(watcher)
            watcher.stop()
            jitwatch.uninstall()
            return x + 1

        assert [2.0] == step(jnp.ones(1)).tolist()
        assert not watcher._thread.is_alive()

    def test_no_frame_is_kept(self, watch, watcher):
        """An object of the trace is freed when the trace has ended."""

        class Marker:
            pass

        found = []

        @jax.jit
        def step(x):
            marker = Marker()
            found.append(weakref.ref(marker))
            sampled(watcher)
            return x

        step(jnp.ones(3))
        assert found[0]() is None

    def test_hostile_file_names_are_cleaned(self, watch, eager_watcher):
        """Names are clean in the record, in explain() and in the report."""
        for number, name in enumerate(one for one in HOSTILE if "\x00" not in one):
            names: dict = {"sampled": sampled, "watcher": eager_watcher}
            source = f"def layer_{number}(x):\n    sampled(watcher)\n    return x\n"
            exec(compile(source, name, "exec"), names)
            jax.jit(names[f"layer_{number}"])(jnp.ones(3))
            record = compiled(watch)[-1]

            assert f"layer_{number}" == record["name"]
            assert record["trace_hot_lines"]
            assert json.dumps(record)
            assert all(row["call_site"].isprintable() for row in record["trace_hot_lines"])
        text = str(watch.explain())
        page = html._compile_time({"functions": watch.snapshot()["functions"]})
        assert all(line.isprintable() for line in text.split("\n"))
        assert "<script" not in page
        assert "<img" not in page


class TestLowering:
    """JAX's own part, and lowering rules of the user."""

    def primitive(self, name, rule):
        made = Primitive(name)
        made.def_impl(lambda x: x)
        made.def_abstract_eval(lambda x: x)
        mlir.register_lowering(made, rule)
        return made

    def test_rule_of_the_user_is_a_line(self, watch, watcher):
        """The line of the rule has the time."""

        def rule(context, x):
            sampled(watcher)  # the rule
            return [x]

        primitive = self.primitive("users_rule", rule)
        jax.jit(lambda x: primitive.bind(x) + 1)(jnp.ones(3))
        (record,) = compiled(watch)

        assert record["lower_s"] > record["trace_s"]
        assert line_of(rule, "# the rule") == record["trace_hot_lines"][0]["call_site"]

    def test_rule_of_jax_is_named(self, watch, watcher, monkeypatch):
        """There is no line of the user, so the row names the part of JAX."""
        folder = watch._agent.session.identities.jax_folders[0]
        names = {"sampled": sampled, "watcher": watcher}
        source = "def rule(context, x):\n    sampled(watcher)\n    return [x]\n"
        exec(compile(source, f"{folder}rules.py", "exec"), names)
        primitive = self.primitive("jaxs_rule", names["rule"])
        jax.jit(lambda x: primitive.bind(x) + 1)(jnp.ones(3))
        (record,) = compiled(watch)

        assert {RULES, CONVERSION} >= {row["call_site"] for row in record["trace_hot_lines"]} - {""}
        assert "in JAX's lowering rules" in str(watch.explain())


class TestCompiling:
    """`jit.compiling`."""

    @pytest.fixture
    def slow_compile(self, watch, watcher, monkeypatch):
        """A backend compile that lasts until it is reported."""

        def is_over():
            known = len(records(watch, "jit.compiling"))
            return lambda: len(records(watch, "jit.compiling")) > known

        slow = slowed(compiler.backend_compile_and_load, is_over)
        monkeypatch.setattr(compiler, "backend_compile_and_load", slow)

    def test_long_compile_is_reported_while_it_runs(self, watch, slow_compile, tmp_path):
        """The record is emitted once, with function and call site, and is in the log before the compile ends."""

        @jax.jit
        def step(x):
            return x + 1

        def train():
            return step(arguments)  # the call

        arguments = jax.device_put(np.arange(3.0))
        train()
        (record,) = records(watch, "jit.compiling")
        kinds = [one["event"] for one in records(watch, "jit.compiling", "jit.compiled")]

        assert line_of(train, "# the call") == record["call_site"]
        assert "step" == record["name"]
        assert "compile" == record["phase"]
        assert record["for_s"] >= 0.2
        (compiled,) = [one for one in records(watch, "jit.compiled") if one["name"] == "step"]
        assert compiled["program"] == record["program"]
        assert ["jit.compiling", "jit.compiled"] == kinds
        wait_until(lambda: '"jit.compiling"' in (tmp_path / "log.jsonl").read_text(), what="the line of the log")

    def test_program_of_the_work_is_in_the_event(self, watch, watcher):
        """Its fingerprint is known before XLA compiles it."""
        work = phases.Work("compile", module=phases.Module(on_all_processes=False, fingerprint="00ab"))
        running = phases.Running("compile", 0.0, None, works=[work])
        watcher._report(running, 12.0)

        assert "00ab" == watch.events()[-1]["program"]

    def test_short_compile_is_not_reported(self, watch):
        """Ten seconds are the limit of the agent."""
        jax.jit(lambda x: x - 7)(jnp.ones(3))
        assert [] == records(watch, "jit.compiling")

    def test_failed_compile_after_the_report(self, watch, slow_compile, monkeypatch):
        """The record of the failure follows."""
        slow = compiler.backend_compile_and_load

        def failing(*arguments):
            slow(*arguments)
            raise RuntimeError("no")

        monkeypatch.setattr(compiler, "backend_compile_and_load", failing)
        with pytest.raises(RuntimeError, match="no"):
            jax.jit(lambda x: x - 8)(jax.device_put(np.arange(3.0)))

        kinds = [one["event"] for one in records(watch, "jit.compiling", "jit.compile_failed")]
        assert ["jit.compiling", "jit.compile_failed"] == kinds


ROW = {
    "function": "train.step", "pitfalls": {}, "traced_seconds": 41.0, "xla_passes": [], "profiled_seconds": None,
    "autotuning_seconds": None, "trace_hot_lines": [
        {"call_site": "/job/model.py:88", "seconds": 33.2, "share": 0.83, "is_in_loop": True},
        {"call_site": RULES, "seconds": 4.0, "share": 0.1},
    ],
}  # fmt: skip


class TestWords:
    """The sentences."""

    def test_lines_and_parts_of_jax(self):
        """The sentence has the share of each, and advice only for a known cause."""
        where = "83 % at model.py:88 (in a Python loop), 10 % in JAX's lowering rules"
        assert f"tracing and lowering took 41.0 s: {where}." == compile_time.of_trace(ROW)

    def test_advice_for_an_unrolled_loop(self):
        """The pitfall of the function is known."""
        assert "jax.lax.scan" in compile_time.of_trace({**ROW, "pitfalls": {"unrolled_loop": 1}})

    def test_passes_with_their_phase(self):
        """Autotuning is listed separately."""
        row = {
            **ROW, "profiled_seconds": 12.0, "autotuning_seconds": 3.0, "trace_hot_lines": [], "xla_passes": [
                {"name": "fusion", "phase": "HLO passes", "seconds": 6.0, "share": 0.5},
                {"name": "other", "phase": "other", "seconds": 6.0, "share": 0.5},
            ],
        }  # fmt: skip
        expected = "XLA took 12.0 s: 50 % in fusion (HLO passes); autotuning took 3.00 s of it."
        assert expected == compile_time.of_passes(row)
        assert [f"step: {expected}"] == compile_time.sentences([row])

    def test_file_named_like_a_part_of_jax(self):
        """The file is recognized by its line number."""
        line = {"call_site": "JAX: lowering rules:3", "seconds": 1.0, "share": 1.0}
        assert "at JAX: lowering rules:3" == compile_time.place_of(line)

    def test_rows_of_a_damaged_log(self):
        """Fields may be missing."""
        row = {**ROW, "trace_hot_lines": [{}, {"share": 1.0}], "xla_passes": [{}]}
        assert compile_time.of_trace(row) is None
        assert compile_time.of_passes(row) is None
        assert html._compile_time({"functions": [row]}) == ""


class TestReport:
    """The report has what the records have."""

    def test_lines_and_passes(self, tmp_path):
        """Text, HTML and JSON have the longest trace of the function."""
        short = ({"call_site": "/home/ada/other.py:1", "seconds": 0.1, "share": 1.0},)
        found = logs.document_of(
            tmp_path,
            logs.installed(),
            logs.compiled(trace_s=30.0, trace_hot_lines=logs.HOT_LINES),
            logs.profiled(),
            logs.recompiled(trace_s=1.0, trace_hot_lines=short),
            logs.profiled(profiled_s=1.0, xla_passes=({"name": "dce", "phase": "", "seconds": 1.0, "share": 1.0},)),
            logs.uninstalled(),
        )
        text = " ".join(terminal.render(found).split())
        page = html.render(found)
        (row,) = found["functions"]

        assert "Compile time:" in text
        assert "83 % at model.py:88 (in a Python loop), 10 % in JAX's lowering rules." in text
        assert (
            "step: XLA took 12.0 s: 50 % in fusion (HLO passes), 25 % in autotuner (autotuning); autotuning took"
            in text
        )
        assert "other.py" not in text
        assert "dce" not in text
        assert 2 == page.count('class="stacked"')
        assert "<code>model.py:88</code> 83 %" in page
        assert [dict(one) for one in logs.HOT_LINES] == row["trace_hot_lines"]
        assert (12.0, 3.0) == (row["profiled_seconds"], row["autotuning_seconds"])

    def test_nothing_without_samples_and_profiles(self, tmp_path):
        """The report has no section about compile time."""
        found = logs.document_of(tmp_path, logs.installed(), logs.compiled(), logs.uninstalled())
        assert "Compile time" not in terminal.render(found)
        assert 'id="compile-time"' not in html.render(found)

    @pytest.mark.parametrize("end", [logs.compiled, logs.recompiled, lambda: logs.failed(function=logs.STEP)])
    def test_compile_that_ended_is_not_unfinished(self, tmp_path, end):
        """The compile succeeded or failed."""
        found = logs.document_of(tmp_path, logs.installed(), logs.compiling(), end())
        assert [] == found["processes"][0]["compiling"]
        assert "had been compiling" not in terminal.render(found)

    def test_unfinished_compile_says_since_when(self, tmp_path):
        """The duration is that until the last record of the log."""
        found = logs.document_of(tmp_path, logs.installed(), logs.compiling(), logs.pressed(), logs.pressed())
        (row,) = found["processes"][0]["compiling"]

        assert 12.0 == row["for_s"]
        said = "had been compiling step at train.py:88 for 12.0 s when the log ended, since 2025-03-01 "
        assert said in " ".join(terminal.render(found).split())
        assert said in " ".join(html.render(found).split())

    def test_end_of_the_agent_ends_it(self, tmp_path):
        """The agent was uninstalled while another thread compiled."""
        found = logs.document_of(tmp_path, logs.installed(), logs.compiling(), logs.uninstalled())
        assert [] == found["processes"][0]["compiling"]
