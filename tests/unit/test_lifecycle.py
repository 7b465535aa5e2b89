"""install, uninstall and what they leave behind."""

from __future__ import annotations

import importlib
import json
import logging
import threading
import urllib.error
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch import guard
from jitwatch.probes.memory import MemoryProbe
from jitwatch.probes.sampler import Sampler
from tests.conftest import listeners, open_files, own_threads, patched_names
from tests.waiting import wait_until


def test_install_twice_returns_the_same_handle():
    """Installing is idempotent, also when eight threads do it at once."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(jitwatch.install(port=0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(set(map(id, found)))
    assert 8 == len(found)


def test_install_with_other_options_warns():
    """A second call cannot change options, and says which it ignores."""
    jitwatch.install(port=0, run="one")
    with pytest.warns(UserWarning, match="this call cannot change run"):
        jitwatch.install(port=0, run="two")


def test_uninstall_puts_back_every_name():
    """The objects behind all patched names are the originals again, and the endpoint is gone."""
    names, heard = patched_names(), listeners()
    watch = jitwatch.install(port=0)
    url = watch.url
    assert names != patched_names()
    jitwatch.uninstall()
    assert names == patched_names()
    assert heard == listeners()
    assert [] == own_threads()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=2)


def test_uninstall_closes_the_event_log(tmp_path):
    """No descriptor of a file of ours stays open, and the log has its last line."""
    path = str(tmp_path / "log.jsonl")
    with jitwatch.install(port=0, event_log=path):
        assert path in open_files().values()
        jax.jit(lambda x: x * 3)(1.0)
    assert path not in open_files().values()
    *_, summed, last = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert ("run.summary", "agent.uninstalled") == (summed["event"], last["event"])
    assert [1] == [row["compiles"] for row in summed["top"]]


def test_uninstall_leaves_what_other_code_patched_over_us(monkeypatch, caplog):
    """A name that was replaced after us stays replaced, also where it goes on calling what it found."""
    from jax._src import pjit

    code = pjit._cpp_pjit.__code__
    jitwatch.install(port=0)
    found = pjit._cpp_pjit

    def theirs(*args, **kwargs):
        return found(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pjit, "_cpp_pjit", theirs)
        jitwatch.uninstall()
        assert pjit._cpp_pjit is theirs
        assert found.__code__ is code
        assert 3.0 == float(jax.jit(lambda x: x + 1)(2.0))
    assert "" == caplog.text


def test_uninstall_leaves_code_that_was_replaced_after_ours(caplog):
    """Code that other code has put in the place of ours stays, and is named."""
    from jax._src import pjit

    original = pjit._cpp_pjit.__code__
    jitwatch.install(port=0)
    theirs = pjit._cpp_pjit.__code__.replace(co_name="theirs")
    pjit._cpp_pjit.__code__ = theirs
    try:
        jitwatch.uninstall()
        assert pjit._cpp_pjit.__code__ is theirs
        assert "jax._src.pjit._cpp_pjit was replaced by other code" in caplog.text
    finally:
        pjit._cpp_pjit.__code__ = original


def test_handle_as_context_manager_uninstalls():
    """`with jitwatch.install()` ends with the block; the state stays readable."""
    with jitwatch.install(port=0) as watch:
        jax.jit(lambda x: x * 3)(1.0)
    assert not watch.is_active
    assert 1 == watch.snapshot()["totals"]["compiles"]
    assert {} == jitwatch.snapshot()


def test_functions_jitted_meanwhile_work_afterwards():
    """A function jitted under the agent is JAX's own object and goes on working."""
    before = type(jax.jit(lambda x: x))
    jitwatch.install(port=0)
    function = jax.jit(lambda x: x + 1)
    assert type(function) is before
    jitwatch.uninstall()
    assert 2.0 == float(function(1.0))


def test_failed_install_rolls_back(tmp_path):
    """When the last part cannot start, nothing of the others is left."""
    names = patched_names()
    with pytest.raises(jitwatch.ServerError):
        jitwatch.install(port=0, host="203.0.113.7", event_log=tmp_path / "log.jsonl", strict=True)
    assert names == patched_names()
    assert [] == own_threads()
    assert {} == jitwatch.snapshot()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"port": 70000}, "port number from 0 to 65535"),
        (
            {"probes": "nonsense"},
            "expected all or names of compile, cache, donation, memory, process, divergence, got nonsense",
        ),
        ({"token_file": "/nonexistent/token"}, "cannot be read"),
        ({"tls_cert": "/nonexistent/cert"}, "set both or neither"),
    ],
)
def test_bad_option_is_a_config_error_that_helps(options, match):
    """The message says what was expected."""
    with pytest.raises(jitwatch.ConfigError, match=match):
        jitwatch.install(**{"port": 0, **options})


def test_unwritable_event_log_is_a_config_error(tmp_path):
    """A path below a file cannot be a log."""
    (tmp_path / "file").write_text("")
    with pytest.raises(jitwatch.ConfigError, match="event_log"):
        jitwatch.install(port=0, event_log=tmp_path / "file" / "log.jsonl")


def test_chosen_probes_only(monkeypatch):
    """`probes` leaves out the others."""
    watch = jitwatch.install(port=0, probes="compile")
    assert ["compile"] == list(watch.snapshot()["probes"])


def test_disable_switch_returns_an_inert_handle(monkeypatch):
    """JITWATCH_DISABLE=1 changes nothing in JAX and breaks no code that uses the handle."""
    monkeypatch.setenv("JITWATCH_DISABLE", "1")
    names = patched_names()
    watch = jitwatch.install(port=0)
    assert names == patched_names()
    assert (None, {}, [], False) == (watch.url, watch.snapshot(), watch.events(), watch.is_active)
    jitwatch.step()
    watch.uninstall()


def test_step_counts_steps_and_marks_events():
    """After step() every event carries the step."""
    watch = jitwatch.install(port=0)
    jitwatch.step()
    jitwatch.step(3)
    jax.jit(lambda x: x - 1)(1.0)
    metrics = watch.snapshot()["metrics"]
    assert 4 == metrics["jitwatch_steps_total"][0]["value"]
    assert 1 == metrics["jitwatch_step_duration_seconds"][0]["count"]
    assert 4 == watch.events(1)[0]["step"]


def test_state_over_http_is_the_snapshot():
    """The API and snapshot() show the same."""
    watch = jitwatch.install(port=0)
    jax.jit(lambda x: x - 1)(1.0)
    with urllib.request.urlopen(f"{watch.url}/api/v1/state", timeout=10) as answer:
        over_http = json.load(answer)
    state = watch.snapshot()
    assert state["functions"] == over_http["functions"]
    assert set(state) == set(over_http)
    with urllib.request.urlopen(f"{watch.url}/api/v1/events?since=0", timeout=10) as answer:
        assert watch.events(10_000) == json.load(answer)["events"]


def test_sampled_figures_arrive():
    """The sampler reads the machine and the process within seconds of installing."""
    watch = jitwatch.install(port=0, sample_interval_s=0.1)
    wait_until(lambda: "jitwatch_child_processes" in watch.snapshot()["metrics"], what="a sample of the process")
    metrics = watch.snapshot()["metrics"]
    assert metrics["jitwatch_host_memory_total_bytes"][0]["value"] > 1e8
    assert 0 <= metrics["jitwatch_host_cpu_ratio"][0]["value"] <= 1
    assert metrics["jitwatch_process_threads"][0]["value"] >= 2


def test_own_failure_is_counted_logged_once_and_kept_from_the_job(monkeypatch, caplog):
    """A bug of ours in a hook costs a log line and a counter, never the user's call."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())
    watch = jitwatch.install(port=0, probes=["compile", "cache"])
    monkeypatch.setattr("jitwatch.state.store.Store.apply", lambda self, event: 1 / 0)
    function = jax.jit(lambda x: x + 1)
    assert 2.0 == float(function(1.0))
    assert [2.0, 2.0] == list(function(jnp.ones(2)))
    monkeypatch.undo()
    errors = watch.snapshot()["metrics"]["jitwatch_agent_errors_total"]
    assert {"compile", "cache"} == {row["labels"]["component"] for row in errors}
    assert 1 == caplog.text.count("the compile component failed")


def test_cleared_listeners_are_registered_again():
    """jax.monitoring.clear_event_listeners() cannot blind the agent for longer than a sample."""
    kept = listeners()
    watch = jitwatch.install(port=0, sample_interval_s=0.1)
    installed = {kind: len(found) for kind, found in listeners().items()}
    from jax._src import monitoring

    monitoring.clear_event_listeners()
    try:
        wait_until(lambda: listeners()["event"] and listeners()["event_duration_secs"], what="the listeners")
        jax.jit(lambda x: x * 7)(1.0)
        assert 1 == watch.snapshot()["totals"]["compiles"]
        assert installed["scalar"] >= 1
    finally:
        jitwatch.uninstall()
        for kind, found in kept.items():
            getattr(monitoring, f"_{kind}_listeners")[:] = found


def test_sample_that_is_under_way_comes_before_the_last_records(tmp_path, monkeypatch):
    """Whoever reads a log may take the end for the end."""
    under_way, ending = threading.Event(), threading.Event()
    sample, stop = MemoryProbe.sample, Sampler.stop

    def slow(self):
        under_way.set()
        assert ending.wait(20)
        sample(self)

    monkeypatch.setattr(MemoryProbe, "sample", slow)
    monkeypatch.setattr(Sampler, "stop", lambda self, *args, **options: (ending.set(), stop(self, *args, **options))[1])
    with jitwatch.install(port=0, event_log=str(tmp_path / "e.jsonl")):
        assert under_way.wait(20)
    records = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert "memory.sample" in [record["event"] for record in records]
    assert ["run.summary", "agent.uninstalled"] == [record["event"] for record in records[-2:]]


@pytest.mark.parametrize(
    ("attribute", "owner"),
    [("lower_sharding_computation", "jax._src.interpreters.pxla"), ("_cpp_pjit", "jax._src.pjit")],
)
def test_missing_private_hook_degrades_and_says_so(monkeypatch, caplog, attribute, owner):
    """Without one hook the rest works: compiles are still counted, the probe reports itself down."""
    module = importlib.import_module(owner)
    original = getattr(module, attribute)

    def renamed(first, *args, **kwargs):
        return original(first, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, attribute, renamed)
        with jitwatch.install(port=0) as watch:
            jax.jit(lambda x: x + 5)(1.0)
            state = watch.snapshot()
    down = [name for name, probe in state["probes"].items() if not probe["up"]]
    assert down
    assert attribute in caplog.text
    assert 1 == state["totals"]["compiles"] + state["totals"]["jax_compiles"]
    assert "agent.probe_failed" in [record["event"] for record in watch.events()]


def test_strict_raises_where_a_hook_is_missing(monkeypatch):
    """With strict=True a missing hook is an error, and nothing is left behind."""
    from jax._src import pjit

    original = pjit._cpp_pjit
    with monkeypatch.context() as patch:
        patch.setattr(pjit, "_cpp_pjit", lambda first, *args: original(first, *args))  # noqa: PLW0108 - another signature is the point
        names = patched_names()
        with pytest.raises(jitwatch.UnsupportedJaxError, match="_cpp_pjit"):
            jitwatch.install(port=0, strict=True)
        assert names == patched_names()


def test_newer_jax_is_probed_like_any_other(monkeypatch, caplog):
    """No version turns the hooks off: one line says that this one was not tested, and functions have their names."""
    monkeypatch.setattr(jax, "__version__", "0.99.0")
    with caplog.at_level(logging.INFO, logger="jitwatch"):
        watch = jitwatch.install(port=0)
    jax.jit(lambda x: x + 5)(1.0)
    assert 1 == caplog.text.count("jax 0.99.0 is newer than 0.12, the newest tested version")
    assert 1 == watch.snapshot()["totals"]["compiles"]
    assert all(probe["up"] for probe in watch.snapshot()["probes"].values())


def test_older_jax_is_counted_by_name(monkeypatch, caplog):
    """Below the supported range only public hooks are used, with a warning that says what to do."""
    monkeypatch.setattr(jax, "__version__", "0.5.3")
    watch = jitwatch.install(port=0)
    jax.jit(lambda x: x + 5)(1.0)
    assert "jax 0.5.3 is older than 0.6.2" in caplog.text
    totals = watch.snapshot()["totals"]
    assert (0, 1) == (totals["compiles"], totals["jax_compiles"])


def test_interrupted_uninstall_leaves_nothing(monkeypatch):
    """Ctrl-C in the middle of uninstall() goes on to the job, and JAX is put back all the same."""
    names = patched_names()
    jitwatch.install(port=0)

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("jitwatch.runtime.Agent.refresh", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jitwatch.uninstall()
    assert names == patched_names()
    assert [] == own_threads()


def test_processes_of_a_job_have_logs_of_their_own(tmp_path, monkeypatch):
    """Under a launcher the place among all processes is in the name, on whichever machine it runs."""
    names = []
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        monkeypatch.setenv("SLURM_LOCALID", "0")
        monkeypatch.setenv("SLURM_PROCID", rank)
        with jitwatch.install(port=0, event_log=tmp_path) as watch:
            names.append(watch.snapshot()["event_log"])
    assert [str(tmp_path / f"jitwatch-77.p{rank}.jsonl") for rank in (0, 1)] == names
