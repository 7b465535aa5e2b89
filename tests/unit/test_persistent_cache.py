"""What is said of JAX's persistent compilation cache: hits, misses, programs that it never gets, and why."""

from __future__ import annotations

import contextlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import io_callback
from jax.experimental.compilation_cache import compilation_cache

import jitwatch
from jitwatch.jaxhooks import compat
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL, UnwrittenReason
from jitwatch.render import persistent_cache, summary
from jitwatch.state.persistent_cache import REASONS, PersistentCache
from jitwatch.state.tables import NoSeries
from tests.unit.logs import read

pytestmark = pytest.mark.usefixtures("compiled_anew")

WRITES_ALL = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@contextlib.contextmanager
def options_of_jax(**options):
    """JAX with these options, and a persistent cache that reads them."""
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def cache_in(folder, **options):
    """JAX with a persistent cache in a folder."""
    return options_of_jax(**{"jax_compilation_cache_dir": str(folder), **WRITES_ALL, **options})


def plain():
    @jax.jit
    def train_step(x):
        return jnp.tanh(x) * 3

    return train_step


def prints():
    @jax.jit
    def train_step(x):
        jax.debug.print("{}", x)
        return x * 3

    return train_step


def calls_back():
    @jax.jit
    def train_step(x):
        io_callback(lambda value: None, None, x)
        return x * 3

    return train_step


def run(make, times=2):
    """As several processes would, one after the other; the state, `explain()` and the records of the function."""
    with jitwatch.install(port=0) as watch:
        for _ in range(times):
            make()(1.0)
            jax.clear_caches()
        records = [
            record for record in watch.events() if record["event"].startswith("jit.") and record["name"] == "train_step"
        ]
        return watch.snapshot(), " ".join(str(watch.explain()).split()), records


def test_hit_and_miss(tmp_path):
    with cache_in(tmp_path):
        state, text, records = run(plain)
    assert [("miss", None), ("hit", None)] == [
        (one["persistent_cache"], one.get("persistent_cache_reason"))
        for one in records
        if one["event"].startswith("jit.")
    ]
    assert {} == state["persistent_cache"]["unwritten"]
    assert f"Persistent compilation cache: 1 hit, {state['persistent_cache']['misses']} miss" in text


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("jax_persistent_cache_min_compile_time_secs", 3600.0, "short_compile"),
        ("jax_persistent_cache_min_entry_size_bytes", 2**30, "small_entry"),
    ],
)
def test_program_below_a_threshold_is_not_written(tmp_path, option, value, reason):
    """The second process misses again; the reason names the option, and with its advice the program is written."""
    with cache_in(tmp_path, **{option: value}):
        state, text, records = run(plain)
    assert [("miss", reason)] * 2 == [
        (one["persistent_cache"], one["persistent_cache_reason"]) for one in records if one["event"].startswith("jit.")
    ]
    unwritten = state["persistent_cache"]["unwritten"]
    assert [reason] == list(unwritten)
    assert [2] == list(unwritten[reason]["functions"].values())
    assert 0 < unwritten[reason]["seconds"]
    assert option in text
    assert re.search(r"train_step@\S+ 2 times", text)

    advised = {name: value for name, value in WRITES_ALL.items() if f'jax.config.update("{name}", {value})' in text}
    assert [option] == list(advised)
    with cache_in(tmp_path, **advised):
        assert {} == run(plain)[0]["persistent_cache"]["unwritten"]


@pytest.mark.parametrize("make", [prints, calls_back])
def test_program_that_calls_back_is_not_written(tmp_path, make, capfd):
    """By JAX before 0.12; later ones write it."""
    with cache_in(tmp_path):
        state, text, records = run(make)
    last = [one for one in records if one["event"].startswith("jit.")][-1]
    if compat._refuses_host_callbacks():
        assert ("miss", "host_callback") == (last["persistent_cache"], last["persistent_cache_reason"])
        assert "jax.debug.print" in text
        assert ["host_callback"] == list(state["persistent_cache"]["unwritten"])
    else:
        assert {} == state["persistent_cache"]["unwritten"]


def test_program_of_another_process_is_not_written(tmp_path, monkeypatch):
    with cache_in(tmp_path, jax_persistent_cache_min_compile_time_secs=3600.0):
        monkeypatch.setattr(compat, "process_place", lambda: (1, 2))
        state, text, _ = run(plain, times=1)
    assert ["other_process"] == list(state["persistent_cache"]["unwritten"])
    assert "only process 0 writes to it" in text


def test_nothing_is_said_without_a_cache():
    state, text, records = run(plain)
    assert {"hits": 0, "misses": 0, "unwritten": {}, "reasons": {}, "missed": []} == state["persistent_cache"]
    assert "Persistent compilation" not in text
    assert all("persistent_cache_reason" not in one for one in records)


def test_summary_and_report_say_the_same(tmp_path):
    """From the state of the running job, and from its event log."""
    log = tmp_path / "log.jsonl"
    with (
        cache_in(tmp_path / "cache", jax_persistent_cache_min_compile_time_secs=3600.0),
        jitwatch.install(port=0, event_log=log) as watch,
    ):
        plain()(1.0)
        state = watch.snapshot()
    told = persistent_cache.sentences(state["persistent_cache"])
    assert 2 == len(told)
    assert all(one in " ".join(summary.text(state).split()) for one in told)
    assert state["persistent_cache"] == read(log)["persistent_cache"]
    assert state["persistent_cache"] == summary.event(state).payload()["persistent_cache"]


def compiled(cache, label, result, reason, compile_s):
    """Count a compile for which the cache answered so."""
    event = Compiled(
        function=Function(label, label),
        trace_s=None,
        lower_s=None,
        compile_s=compile_s,
        persistent_cache=result,
        persistent_cache_reason=reason,
    )
    cache.reduce(event, NoSeries())


def test_functions_are_named_up_to_a_limit():
    cache = PersistentCache()
    for number in range(12):
        compiled(cache, f"job.step_{number}", "miss", "short_compile", 0.5)
    compiled(cache, JAX_LABEL, "miss", "short_compile", 0.25)
    compiled(cache, "job.other", "miss", "", 2.0)
    compiled(cache, "job.other", "off", "", 2.0)
    row = cache.row()
    assert (0, 14) == (row["hits"], row["misses"])
    [head, text] = persistent_cache.sentences(row)
    assert "0 hits, 14 misses" in head
    named = "job.step_0, job.step_1, job.step_2, job.step_3, job.step_4"
    assert (
        f"13 programs ({named}; 7 more programs; 1 small program of JAX's own), 6.25 s in XLA, were not written" in text
    )


def test_every_reason_has_a_sentence():
    assert list(persistent_cache._WHY) == list(REASONS)
    assert UnwrittenReason.__args__ == REASONS


def test_hostile_reasons_of_a_log_are_left_out():
    cache = PersistentCache()
    compiled(cache, "f", "miss", "<b>", 1.0)
    assert {"hits": 0, "misses": 1, "unwritten": {}, "reasons": {}, "missed": []} == cache.row()
