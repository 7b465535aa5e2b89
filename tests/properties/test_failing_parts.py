"""One part of the agent fails: every verb answers with what there is, and the end puts everything back."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
from collections import Counter

import jax
import pytest

import jitwatch
from jitwatch import guard
from jitwatch.diagnosis.steady import current
from tests.conftest import open_files, open_sockets, own_threads, patched_names
from tests.unit.faults import called_by, failing
from tests.waiting import wait_until

MODULES = (
    "diagnosis.expected",
    "diagnosis.steady",
    "agent_parts",
    "server.live",
    "runtime",
    "probes.compile_watch",
    "probes.sampler",
    "server.connections",
    "server.http",
    "server.listener",
    "server.loop",
    "server.workers",
    "state.aggregates",
    "state.views",
    "state.store",
    "render.summary",
)
#: What reading the state and stopping come by. A function that is missing here fails the last test.
_PARTS = {
    "diagnosis.findings": """
        findings RecentRecords.newest
    """,
    "diagnosis.steady": """
        Steady._activate Steady._deactivate steady_since
    """,
    "server.live": """
        Live._facts Live._follow Live.judge _judged _with_levels
    """,
    "runtime": """
        Agent._about Agent._describe Agent._refresh_all Agent._refresh_live Agent._stop_import_watch
        Agent._stop_compile_watch Agent._stop_sampler Agent.emit Agent.explain Agent.refresh Agent.restore Agent.scalars
        Agent._summarize Agent.snapshot Agent.step Agent.stop Agent.url
    """,
    "probes.compile_watch": """
        CompileWatch.is_running CompileWatch.stop CompileWatch.wait_for_profiles
    """,
    "probes.sampler": """
        Sampler.stop
    """,
    "server.connections": """
        Connections.closers
    """,
    "server.http": """
        Server.close Server.url _join
    """,
    "server.loop": """
        EventLoop._wake EventLoop.close_all EventLoop.stop
    """,
    "server.workers": """
        WorkerPool.stop WorkerPool.threads run_all
    """,
    "server.listener": """
        Listener._owned Listener.closers Listener.wake OwnedSocket.close OwnedSocket.is_valid _identity_of url_of
    """,
    "state.aggregates": """
        Aggregates._stepped Aggregates.apply Aggregates.begin_steady Aggregates.next_revision Aggregates.shown_as
        Aggregates.touch
        FunctionStats.seconds
    """,
    "state.store": """
        Store._envelope Store._pace Store._present Store._row Store.add Store.apply Store.costliest Store.has
        Store.largest_programs Store.memory Store.newer Store.now Store.records Store.set Store.set_by_function
        Store.set_calls Store.set_info Store.set_running Store.set_total Store.slowest Store.snapshot
        _sequence
    """,
    "render.health": """
        sentence summary
    """,
    "render.summary": """
        _pitfalls _seconds _selected event one_line
    """,
    "state.views": """
        function_row metric_rows totals_row
    """,
    "system.threads": """
        Latch.set
    """,
}
PARTS = [f"{module}:{name}" for module, names in _PARTS.items() for name in names.split()]
#: Public verbs, small and guarded within: whoever calls them calls these themselves.
VERBS = {
    "diagnosis.expected:Expected.__enter__",
    "diagnosis.expected:Expected.__exit__",
    "diagnosis.expected:Expected.__init__",
    "diagnosis.expected:expected",
    "diagnosis.steady:Steady.__enter__",
    "diagnosis.steady:Steady.__exit__",
    "diagnosis.steady:Steady.__init__",
    "diagnosis.steady:Steady.end",
    "diagnosis.steady:steady",
    # Asked once, when the page or the state is first shown, and kept.
    "runtime:Agent._summarize",
    "runtime:Agent._versions",
}
#: Threads that cannot be stopped when this fails: it is what stops them.
HTTP = {"jitwatch-http", "jitwatch-http-1"}
STAY = {
    "runtime:Agent._stop_sampler": {"jitwatch-sampler"},
    "probes.sampler:Sampler.stop": {"jitwatch-sampler"},
    "runtime:Agent._stop_compile_watch": {"jitwatch-compile-watch"},
    "probes.compile_watch:CompileWatch.stop": {"jitwatch-compile-watch"},
    "system.threads:Latch.set": {"jitwatch-sampler", *HTTP},
    "server.http:Server.close": HTTP,
    "server.loop:EventLoop.stop": HTTP,
    "server.workers:run_all": HTTP,
    "server.workers:WorkerPool.threads": HTTP,
    "server.workers:WorkerPool.stop": {"jitwatch-http-1"},
    # The loop sleeps on, for five seconds at the most.
    "server.loop:EventLoop._wake": HTTP,
    "server.listener:Listener.wake": HTTP,
    "server.listener:OwnedSocket.is_valid": HTTP,
    "server.listener:_identity_of": HTTP,
}
#: Here the counter itself fails, or it is gone already.
UNCOUNTED = {"state.store:Store.add", "runtime:Agent.restore"}
#: And here nobody is left to say so.
UNLOGGED = {"state.store:Store.add"}


def read(watch: jitwatch.Watch) -> None:
    """Every verb that reads, and those that a training loop calls."""
    json.dumps([jitwatch.snapshot(), watch.snapshot(), jitwatch.scalars()])
    state = jitwatch.steady(on_recompile="count")
    jitwatch.snapshot()
    assert isinstance(watch.events(5), list)
    assert isinstance(watch.url, str | None)
    str(jitwatch.explain())
    str(watch.explain())
    repr(watch)
    watch._repr_html_()
    for _ in range(2):
        jitwatch.step()
    with jitwatch.steady(on_recompile="count"), jitwatch.expected("a test"):
        pass
    state.end()
    jitwatch.snapshot()


@pytest.fixture
def agent(tmp_path):
    """An agent that has seen a compile, with an event log and an endpoint."""
    watch = jitwatch.install(port=0, event_log=tmp_path / "log.jsonl", sample_interval_s=3600)
    jax.jit(lambda x: x + 1)(1.0)
    return watch


@pytest.fixture
def production(monkeypatch):
    """Failures of ours are counted and logged, as in a job."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())


@pytest.mark.parametrize("name", PARTS)
def test_part_that_fails_ends_nothing_else(agent, production, caplog, capfd, tmp_path, name):  # noqa: PLR0917
    """Reading and stopping go on, JAX is as before, the failure is counted and logged once, and stderr is empty."""
    running = agent._agent
    with caplog.at_level(logging.WARNING, logger="jitwatch"), failing(name):
        read(agent)
        jitwatch.uninstall()
        # A thread that nobody has waited for ends all the same.
        allowed = STAY.get(name, set())
        wait_until(lambda: set(own_threads()) <= allowed, what="the end of the threads")
    # What the fault has kept from stopping, for the next test.
    running._compile_watch.stop()
    for part in (running._sampler._ending.set, running._sampler.stop, running._server.close, running._log.close):
        part()
    wait_until(lambda: own_threads() == [], what="the end of the threads")
    assert {} == jitwatch.snapshot()
    assert None is guard._sink
    assert str(tmp_path / "log.jsonl") not in open_files().values()
    logged = Counter(
        (record.args[0], record.exc_info[2].tb_lineno)
        for record in caplog.records
        if record.exc_info and "injected fault" in str(record.exc_info[1])
    )
    assert logged or name in UNLOGGED
    if name not in UNCOUNTED:
        assert agent.snapshot()["metrics"]["jitwatch_agent_errors_total"]
    assert "" == capfd.readouterr().err


@pytest.fixture(autouse=True)
def jax_is_as_before():
    """Also when the end of the agent failed."""
    before, finders, sockets = patched_names(), list(sys.meta_path), open_sockets()
    yield
    jitwatch.uninstall()
    while (state := current()) is not None:
        state.end()
    assert before == patched_names()
    assert finders == sys.meta_path
    if not open_sockets() <= sockets:
        gc.collect()
    assert open_sockets() <= sockets


def test_snapshot_without_one_part_has_the_others(agent, production):
    """What can be had is there, and what cannot is left out."""
    everything = set(agent.snapshot())
    missing = {}
    for name in (
        "runtime:Agent._about",
        "state.store:Store.snapshot",
        "server.live:Live.judge",
        "runtime:Agent.refresh",
    ):
        with failing(name):
            missing[name] = everything - set(agent.snapshot())
    assert {"health", "levels"} == missing["server.live:Live.judge"]
    assert set() == missing["runtime:Agent.refresh"]
    assert {"totals", "metrics", "functions"} <= missing["state.store:Store.snapshot"]
    assert {"pid", "url", "probes", "health", "levels"} <= missing["runtime:Agent._about"]


def test_interrupt_goes_on_to_the_job_and_the_rest_is_put_back(agent, monkeypatch):
    """Ctrl-C while a sample is waited for is the job's."""

    def interrupted(self, timeout_s=None):
        raise KeyboardInterrupt

    sampler = agent._agent._sampler
    stop = sampler.stop
    with monkeypatch.context() as patch:
        patch.setattr("jitwatch.probes.sampler.Sampler.stop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jitwatch.uninstall()
    stop()
    assert {} == jitwatch.snapshot()


@pytest.mark.parametrize("bad", ["3", 1.5, None])
def test_bad_number_of_events_is_a_type_error(agent, bad):
    """An argument of the user's is no failure of ours."""
    with pytest.raises(TypeError):
        agent.events(bad)


def test_table_of_parts_is_complete(agent):
    """Everything that reading and stopping come by is tried above."""

    def all_of_it() -> None:
        read(agent)
        jitwatch.uninstall()

    called = called_by(all_of_it, MODULES)
    assert set() == called - set(PARTS) - VERBS
    assert threading.active_count()
