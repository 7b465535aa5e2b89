"""The store: what an event changes, what the state shows, and that all of it is bounded."""

from __future__ import annotations

import json
import sys
import threading

import pytest

from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    DonationViolation,
    FunctionWrapped,
    PersistentCacheSaved,
    PitfallFound,
    ProbeFailed,
    RunSummary,
    SteadyViolated,
    Stepped,
    StormEnded,
    StormStarted,
    Uninstalled,
)
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import ALL_LABEL, JAX_LABEL, OTHER_LABEL, PHASES, SCHEMA
from jitwatch.state import aggregates
from jitwatch.state.call_sites import MAX_CALL_SITES
from jitwatch.state.metrics import METRICS
from jitwatch.state.pitfalls import MAX_PITFALLS
from jitwatch.state.store import JAX_RING, USER_RING, Store
from jitwatch.state.tables import MAX_FUNCTIONS, Histogram
from jitwatch.system.launchers import process_id

STEP = Function("train.step", "step", "train.py:10")
LOSS = Function("train.loss", "loss", "train.py:20")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    """Unix time, 2023-11-14 22:13:20 UTC and a quarter of a second."""
    return Clock(1_700_000_000.25)


@pytest.fixture
def monotonic():
    """Monotonic seconds."""
    return Clock(50.0)


@pytest.fixture
def store(clock, monotonic):
    """An empty store with both clocks in the test's hand."""
    return Store(run="run-7", clock=clock, monotonic=monotonic)


def compiled(function: Function = STEP, seconds: float = 1.0, **options) -> Compiled:
    return Compiled(**{"function": function, "trace_s": 0.5, "lower_s": 0.25, "compile_s": seconds, **options})


def failed(function: Function = STEP, seconds: float = 2.0) -> CompileFailed:
    return CompileFailed(function=function, phase="lower", error="TypeError", message="no", spent_s=seconds)


def of_jax(name: str) -> Function:
    return Function(JAX_LABEL, name)


def user(number: int) -> Function:
    return Function(f"train.f{number}", f"f{number}", f"train.py:{number}")


def get(store: Store, name: str, *labels: str) -> float:
    return store.tables().get(name, labels)


def row_of(store: Store, label: str) -> dict:
    (row,) = [row for row in store.snapshot()["functions"] if row["function"] == label]
    return row


# Compiles


def test_apply_first_compile_is_no_recompile(store):
    """The first of a function is `jit.compiled`, number 1."""
    record = store.apply(compiled())

    assert ("jit.compiled", 1) == (record["event"], record["nth"])
    assert (1.0, 0.0) == (get(store, "compiles", "train.step"), get(store, "recompiles", "train.step"))


def test_apply_later_compiles_are_recompiles(store):
    """The second and later ones of the same function are `jit.recompiled` and counted twice over."""
    records = [store.apply(compiled(function)) for function in (STEP, LOSS, STEP, STEP)]

    assert [("jit.compiled", 1), ("jit.compiled", 1), ("jit.recompiled", 2), ("jit.recompiled", 3)] == [
        (record["event"], record["nth"]) for record in records
    ]
    assert (3.0, 2.0) == (get(store, "compiles", "train.step"), get(store, "recompiles", "train.step"))
    assert (1.0, 0.0) == (get(store, "compiles", "train.loss"), get(store, "recompiles", "train.loss"))


def test_apply_compile_adds_up_seconds_by_function_and_phase(store, clock):
    """Seconds of all phases go to the function, each phase to its histogram; a missing one to none."""
    store.apply(compiled(seconds=1.0))
    store.apply(compiled(seconds=2.0, trace_s=None))
    tables = store.tables()
    histograms = tables.histograms["compile_duration_seconds"]

    assert 4.0 == tables.get("compile_seconds", ("train.step",))
    assert {"trace": (1, 0.5), "lower": (2, 0.5), "compile": (2, 3.0)} == {
        phase: (histograms[(phase,)].count, histograms[(phase,)].total) for phase in PHASES
    }
    assert {"trace": 0.5, "lower": 0.5, "compile": 3.0} == row_of(store, "train.step")["phases"]
    assert clock.now == tables.get("last_compile_timestamp_seconds")


def test_apply_persistent_cache_is_counted_by_its_answer(store):
    """Hits and misses are compiles as well; 'off' is neither."""
    for answer in ("hit", "hit", "miss", "off"):
        store.apply(compiled(persistent_cache=answer))

    assert (2.0, 1.0) == (get(store, "persistent_cache_hits"), get(store, "persistent_cache_misses"))
    assert 4.0 == get(store, "compiles", "train.step")


def test_apply_failure_is_no_compile(store):
    """A failure has its own counter, and its seconds count; the next compile is still the first."""
    record = store.apply(failed())
    after = store.apply(compiled())

    assert "jit.compile_failed" == record["event"]
    assert (1.0, 1.0) == (get(store, "compile_failures", "train.step"), get(store, "compiles", "train.step"))
    assert 3.75 == get(store, "compile_seconds", "train.step")
    assert ("jit.compiled", 1) == (after["event"], after["nth"])
    assert 1 == row_of(store, "train.step")["failures"]


def test_apply_jax_own_are_counted_together_but_told_apart_by_name(store):
    """`add` twice is a recompile; `add` and `mul` once each are none. All are under `__jax__`."""
    records = [store.apply(compiled(of_jax(name))) for name in ("add", "mul", "add")]

    assert [1, 1, 2] == [record["nth"] for record in records]
    assert ["add", "mul", "add"] == [record["name"] for record in records]
    assert (3.0, 1.0) == (get(store, "compiles", JAX_LABEL), get(store, "recompiles", JAX_LABEL))
    assert 0.0 == get(store, "tracked_functions")
    assert 3 == row_of(store, JAX_LABEL)["compiles"]


def test_apply_wrapping_is_counted_and_not_logged(store):
    """How often a function was jitted is a counter; there is no record and no number for it."""
    assert store.apply(FunctionWrapped(function=STEP)) is None
    assert store.apply(FunctionWrapped(function=STEP)) is None

    assert 2.0 == get(store, "jit_wrappers", "train.step")
    assert ([], 0) == store.records()
    assert 2 == row_of(store, "train.step")["wrappers"]


def test_apply_negative_saving_does_not_lower_the_counter(store):
    """JAX's estimate can be negative: then nothing was saved."""
    for seconds in (2.0, -5.0, 1.0):
        assert store.apply(PersistentCacheSaved(saved_s=seconds)) is None

    assert 3.0 == get(store, "persistent_cache_saved_seconds")


def test_apply_steps_are_counted_and_timed(store):
    """The first call has no duration; a call for several steps is divided among them."""
    store.apply(Stepped(steps=1, duration_s=None))
    assert {} == store.tables().histograms["step_duration_seconds"]
    store.apply(Stepped(steps=4, duration_s=2.0))

    assert 5.0 == get(store, "steps")
    assert 0.5 == store.tables().histograms["step_duration_seconds"][()].total
    assert 5 == store.snapshot()["step"]


# Series


def test_series_of_a_known_function_start_at_zero(store):
    """`increase()` sees a function's first compile, failure and so on."""
    store.know(STEP)
    tables = store.tables()

    for metric in METRICS:
        if metric.kind == "counter" and metric.labels == ("function",) and metric.name != "calls":
            assert 0.0 == tables.values[metric.name][("train.step",)], metric.name
            assert 0.0 == tables.values[metric.name][(JAX_LABEL,)], metric.name


def test_series_of_the_process_start_at_zero(store):
    """Each phase's histogram, the overflow and the plain counters are there before the first event."""
    tables = store.tables()

    assert {("trace",): 0, ("lower",): 0, ("compile",): 0} == {
        labels: one.count for labels, one in tables.histograms["compile_duration_seconds"].items()
    }
    assert {("function",): 0.0} == tables.values["agent_label_overflow"]
    assert {(): 0.0} == tables.values["compile_busy_seconds"]
    assert {(): 1_700_000_000.25} == tables.values["start_time_seconds"]


def test_series_by_function_are_few(store):
    """At most 20 by function whatever happens to it."""
    for event in (FunctionWrapped(function=STEP), compiled(), compiled(), failed()):
        store.apply(event)
    store.set_by_function("jit_cache_entries", {"train.step": 2})
    found = [metric.name for metric, labels, _ in store.tables().series() if "train.step" in labels]

    assert len(set(found)) == len(found) <= 20


def test_function_labels_past_the_cap_share_one(store):
    """The first hundred keep their names for good, the others are added up and counted."""
    for number in range(MAX_FUNCTIONS + 5):
        store.apply(compiled(user(number)))
    for _ in range(3):
        store.apply(compiled(user(MAX_FUNCTIONS)))
    values = store.tables().values

    assert {user(number).label for number in range(100)} | {OTHER_LABEL, JAX_LABEL} == {
        labels[0] for labels in values["compiles"]
    }
    assert (8.0, 3.0) == (values["compiles"][(OTHER_LABEL,)], values["recompiles"][(OTHER_LABEL,)])
    assert 5.0 == values["agent_label_overflow"][("function",)]
    assert 105.0 == values["tracked_functions"][()]


def test_function_past_the_cap_is_still_known_by_its_name(store):
    """State and events tell apart what the metrics add up; a recompile is one of that function."""
    for number in range(MAX_FUNCTIONS + 5):
        store.apply(compiled(user(number)))
    record = store.apply(compiled(user(103)))
    row = row_of(store, "train.f103")

    assert ("train.f103", "jit.recompiled", 2) == (record["function"], record["event"], record["nth"])
    assert (OTHER_LABEL, 2, 1) == (row["shown_as"], row["compiles"], row["recompiles"])
    assert 1 == row_of(store, "train.f104")["compiles"]


def test_function_past_the_cap_is_not_given_the_entries_of_all_others(store):
    """Cache entries are added up under `__other__`; that sum is no function's own."""
    for number in range(MAX_FUNCTIONS + 5):
        store.know(user(number))
    store.set_by_function("jit_cache_entries", {user(number).label: 1 for number in range(MAX_FUNCTIONS + 5)})

    assert 5.0 == get(store, "jit_cache_entries", OTHER_LABEL)
    assert 1 == row_of(store, "train.f7")["cache_entries"]
    assert row_of(store, "train.f103")["cache_entries"] in (None, 1)


def test_function_past_the_known_ones_does_not_recompile_at_its_first_compile(store):
    """Functions that are no longer told apart must not look like one that recompiles all the time."""
    for number in range(aggregates.MAX_FUNCTIONS):
        store.know(user(number))
    first = aggregates.MAX_FUNCTIONS
    records = [store.apply(compiled(user(number))) for number in range(first, first + 5)]

    assert ["jit.compiled"] * 5 == [record["event"] for record in records]
    assert 0.0 == get(store, "recompiles", OTHER_LABEL)


def test_jax_own_past_the_known_ones_stay_apart(store):
    """However many functions the user has, JAX's own are not filed among them."""
    for number in range(aggregates.MAX_FUNCTIONS):
        store.know(user(number))
    store.apply(compiled(of_jax("add")))

    assert (1.0, 0.0) == (get(store, "compiles", JAX_LABEL), get(store, "compiles", OTHER_LABEL))
    totals = store.snapshot()["totals"]
    assert (0, 1) == (totals["compiles"], totals["jax_compiles"])


def test_set_by_function_replaces_and_adds_up_the_unnamed(store):
    """Series that are not given any more end; unknown labels are under `__other__`."""
    store.know(STEP)
    store.know(LOSS)
    store.set_by_function("jit_cache_entries", {"train.step": 3, "train.loss": 1, "who.knows": 2, "who.else": 4})
    assert {("train.step",): 3.0, ("train.loss",): 1.0, (OTHER_LABEL,): 6.0} == store.tables().values[
        "jit_cache_entries"
    ]

    store.set_by_function("jit_cache_entries", {"train.loss": 2})
    assert {("train.loss",): 2.0} == store.tables().values["jit_cache_entries"]
    assert (None, 2) == (
        row_of(store, "train.step")["cache_entries"],
        row_of(store, "train.loss")["cache_entries"],
    )


def test_summary_detail_has_only_totals(clock):
    """Compiles and recompiles stay, under `__all__`, JAX's own among them."""
    store = Store(is_summary=True, clock=clock)
    for event in (compiled(), compiled(), compiled(of_jax("add")), failed(), FunctionWrapped(function=LOSS)):
        store.apply(event)
    store.set_by_function("jit_cache_entries", {"train.step": 2})
    by_function = {metric.name: store.tables().values[metric.name] for metric in METRICS if metric.is_by_function}

    assert {"compiles": {(ALL_LABEL,): 3.0}, "recompiles": {(ALL_LABEL,): 1.0}} == {
        name: series for name, series in by_function.items() if series
    }


def test_summary_detail_still_knows_every_function(clock):
    """The state and the events keep the functions; only the metrics leave them out."""
    store = Store(is_summary=True, clock=clock)
    store.apply(compiled())

    assert (2, "jit.recompiled") == (store.apply(compiled())["nth"], store.records()[0][1]["event"])
    assert 2 == row_of(store, "train.step")["compiles"]
    assert 2 == store.snapshot()["totals"]["compiles"]


# Plain values


def test_set_total_never_falls(store):
    """A source that starts over does not take the counter with it."""
    for total in (2.0, 5.0, 3.0, float("nan"), 6.0):
        store.set_total("compile_busy_seconds", total)

    assert 6.0 == get(store, "compile_busy_seconds")


def test_counters_never_fall(store):
    """Whatever happens in whatever order, no counter and no bucket goes down."""
    events = [
        compiled(),
        failed(),
        PersistentCacheSaved(saved_s=-1.0),
        compiled(persistent_cache="hit"),
        Stepped(steps=2, duration_s=0.1),
        compiled(of_jax("add"), seconds=0.0),
        FunctionWrapped(function=LOSS),
    ]
    before: dict = {}
    for number in range(70):
        store.apply(events[number % len(events)])
        store.set_total("compile_busy_seconds", float(number % 13))
        now = {}
        for metric, labels, value in store.tables().series():
            if isinstance(value, Histogram):
                now |= {(metric.name, labels, i): count for i, count in enumerate(value.counts)}
            elif metric.kind == "counter":
                now[metric.name, labels] = value
        assert all(now[key] >= value for key, value in before.items())
        before = now


def test_undeclared_metric_is_a_key_error(store):
    """A misspelt name does not vanish in silence, and the store goes on."""
    with pytest.raises(KeyError):
        store.add("compile")
    with pytest.raises(KeyError):
        store.set("compile", 1.0)

    assert 1 == store.apply(compiled())["nth"]


# Records


def test_record_has_the_common_fields_first(store):
    """Time in UTC with milliseconds, name, schema, run, place and number; then the event's own."""
    record = store.apply(compiled(thread="MainThread", cache_entries=1))

    assert {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "event": "jit.compiled",
        "schema": SCHEMA,
        "run": "run-7",
        "process": process_id(),
        "process_index": None,
        "seq": 1,
        "function": "train.step",
        "name": "step",
        "location": "train.py:10",
        "call_site": None,
        "trace_s": 0.5,
        "lower_s": 0.25,
        "compile_s": 1.0,
        "persistent_cache": "off",
        "expected": None,
        "cache_entries": 1,
        "thread": "MainThread",
        "nth": 1,
    } == record
    assert ["timestamp", "event", "schema", "run", "process", "process_index", "seq", "function"] == list(record)[:8]


def test_record_has_the_step_once_there_is_one(store):
    """Before the first `step()` the field is missing, then each record has the present one."""
    assert "step" not in store.apply(Uninstalled())
    store.apply(Stepped(steps=3, duration_s=None))
    assert 3 == store.apply(Uninstalled())["step"]
    store.apply(Stepped(steps=1, duration_s=1.0))
    assert 4 == store.apply(Uninstalled())["step"]


def test_record_has_the_process_index_once_it_is_known(store):
    """Later records say which process of the run they are from, and so does the info metric."""
    assert store.apply(Uninstalled())["process_index"] is None
    store.set_process_place(3, 8)

    assert 3 == store.apply(Uninstalled())["process_index"]
    assert ("3", "8") == store.tables().infos["process"]
    assert 3 == store.snapshot()["process_index"]


def test_record_of_other_events_is_kept_as_it_is(store):
    """Events that count nothing are numbered and shown all the same."""
    record = store.apply(ProbeFailed(probe="cache", reason="renamed"))

    assert ("agent.probe_failed", "cache", "renamed", 1) == tuple(
        record[name] for name in ("event", "probe", "reason", "seq")
    )
    assert ([record], 1) == store.records()


def test_records_since_and_limit(store):
    """`since` is exclusive, `limit` keeps the newest, and the last number comes along."""
    for number in range(10):
        store.apply(compiled(of_jax("add") if number % 2 else STEP))

    def numbers(**options):
        return [record["seq"] for record in store.records(**options)[0]]

    assert list(range(1, 11)) == numbers()
    assert [8, 9, 10] == numbers(since=7)
    assert [] == numbers(since=10) == numbers(since=99)
    assert [9, 10] == numbers(limit=2)
    assert [10] == numbers(since=8, limit=1)
    assert [] == numbers(limit=0)
    assert list(range(1, 11)) == numbers(limit=100)
    assert 10 == store.records(since=99)[1]


def test_records_of_jax_do_not_push_out_the_users(store):
    """JAX's own come in hundreds at start-up and have a ring of their own."""
    for _ in range(10):
        store.apply(compiled())
    for number in range(JAX_RING + 500):
        store.apply(compiled(of_jax(f"op{number}")))
    records, last = store.records()

    assert list(range(1, 11)) == [record["seq"] for record in records if record["function"] == "train.step"]
    assert JAX_RING == sum(record["function"] == JAX_LABEL for record in records)
    assert JAX_RING + 510 == last == records[-1]["seq"]


def test_records_keep_the_newest_of_the_user(store):
    """The oldest go first when the ring is full; numbers are not used again."""
    for _ in range(USER_RING + 50):
        store.apply(Uninstalled())
    records, last = store.records()

    assert (10_000, 51, USER_RING + 50) == (len(records), records[0]["seq"], last)


# The state


def test_snapshot_totals_leave_out_jax(store, monotonic):
    """The user's compiles are the user's; JAX's own have their own totals."""
    for event in (compiled(), compiled(seconds=3.0), compiled(of_jax("add"), seconds=0.25), failed(LOSS)):
        store.apply(event)
    store.set_total("compile_busy_seconds", 5.0)
    monotonic.now += 20.0
    state = store.snapshot()

    assert {
        "compiles": 2,
        "recompiles": 1,
        "failures": 1,
        "compile_seconds": 7.5,
        "storms": 0,
        "steady_violations": 0,
        "storms_active": 0,
        "pitfalls": 0,
        "donation_violations": 0,
        "lost_seconds": 3.75,
        "lost_ratio": 0.1875,
        "lost_steps": None,
        "lost_seconds_since_steady": 0.0,
        "lost_ratio_since_steady": None,
        "jax_compiles": 1,
        "jax_compile_seconds": 1.0,
        "busy_seconds": 5.0,
        "busy_ratio": 0.25,
    } == state["totals"]
    assert 20.0 == state["uptime_seconds"]


def test_snapshot_at_once_divides_by_nothing(store):
    """No time has passed."""
    assert 0.0 == store.snapshot()["totals"]["busy_ratio"]


def test_snapshot_functions_dearest_first(store):
    """Whoever looks sees what to fix first."""
    for function, seconds in ((STEP, 1.0), (LOSS, 9.0), (of_jax("add"), 4.0)):
        store.apply(compiled(function, seconds))

    assert ["train.loss", JAX_LABEL, "train.step"] == [row["function"] for row in store.snapshot()["functions"]]
    assert (None, "train.py:20") == (row_of(store, JAX_LABEL)["location"], row_of(store, "train.loss")["location"])


@pytest.mark.parametrize("is_summary", [False, True])
def test_snapshot_is_strict_json(is_summary):
    """With values everywhere, and with none, it is JSON that any parser takes, and comes back the same."""
    store = Store(is_summary=is_summary)
    empty = store.snapshot()
    assert empty == json.loads(json.dumps(empty, allow_nan=False))

    for event in (
        FunctionWrapped(function=Function('train.<lambda>@"tráin".py:88', "<lambda>")),
        compiled(),
        compiled(of_jax("add")),
        failed(),
        Stepped(steps=2, duration_s=0.1),
        RunSummary(
            wall_s=1.0, compiles=1, recompiles=0, failures=0, compile_s=0.5, busy_s=0.5, jax_compiles=3, top=({"a": 1},)
        ),
    ):
        store.apply(event)
    store.set_by_function("jit_cache_entries", {"train.step": 2})
    store.set_info("build", ("1", "1", "0.10.2", "0.10.2", "3.11.0", "linux"))
    store.set_process_place(0, 2)
    store.set_running([{"function": "train.step", "phase": "trace", "for_s": 1.5, "thread": "MainThread"}])
    full = store.snapshot()

    assert full == json.loads(json.dumps(full, allow_nan=False))
    records = store.records()[0]
    assert records == json.loads(json.dumps(records, allow_nan=False))


def test_snapshot_has_every_metric_under_its_exposed_name(store):
    """The page reads the same names that Prometheus stores."""
    store.apply(compiled())
    store.set_info("process", ("0", "2"))
    metrics = store.snapshot()["metrics"]

    assert {"labels": {"function": "train.step"}, "value": 1.0} in metrics["jitwatch_compiles_total"]
    assert [{"labels": {"process_index": "0", "process_count": "2"}, "value": 1.0}] == metrics["jitwatch_process_info"]
    (row,) = [row for row in metrics["jitwatch_compile_duration_seconds"] if row["labels"] == {"phase": "compile"}]
    assert (1, 1.0, len(row["bounds"]) + 1) == (row["count"], row["sum"], len(row["buckets"]))
    assert {metric.exposed_name for metric, _, _ in store.tables().series()} == set(metrics)


def test_snapshot_shows_what_runs(store):
    """What compiles right now, as the probe saw it last."""
    assert [] == store.snapshot()["in_progress"]
    running = [{"function": "train.step", "phase": "compile", "for_s": 1.5, "thread": "MainThread"}]
    store.set_running(running)

    assert running == store.snapshot()["in_progress"]


def test_snapshot_is_a_copy(store):
    """What a reader does with it changes nothing."""
    store.apply(compiled())
    state = store.snapshot()
    state["functions"][0]["phases"]["trace"] = 99.0
    state["totals"].clear()
    for row in state["metrics"]["jitwatch_compile_duration_seconds"]:
        row["buckets"].clear()

    assert 0.5 == row_of(store, "train.step")["phases"]["trace"]
    assert 1 == store.tables().histograms["compile_duration_seconds"][("compile",)].count


# Economics


def recompiled(seconds: float = 1.25, *, line: int = 88, function: Function = STEP, **options) -> Compiled:
    """A recompile of so many seconds, half a second of which are no XLA."""
    return compiled(
        function,
        seconds - 0.75,
        **{"nth": 2, "causes": ("shape",), "call_site": f"train.py:{line}", "explanation": f"because of {line}"}
        | options,
    )


def violated(seconds: float, since: float | None, *, line: int = 88) -> SteadyViolated:
    return SteadyViolated(function=STEP, call_site=f"train.py:{line}", spent_s=seconds, action="count", since=since)


def costs(row: dict) -> tuple:
    return tuple(row[name] for name in ("lost_seconds", "lost_ratio", "lost_steps"))


def since_steady(row: dict) -> tuple:
    return row["lost_seconds_since_steady"], row["lost_ratio_since_steady"]


def test_lost_seconds_are_those_of_recompiles(store, monotonic):
    """The first compile of a function has to be; each later one is lost, for its function and in all."""
    for event in (compiled(seconds=7.25), recompiled(3.0), recompiled(5.0), recompiled(2.0, function=LOSS)):
        store.apply(event)
    monotonic.now += 80.0
    state = store.snapshot()

    assert (8.0, 0.1, None) == costs(row_of(store, "train.step"))
    assert (2.0, 0.025, None) == costs(row_of(store, "train.loss"))
    assert (10.0, 0.125, None) == costs(state["totals"])


def test_lost_seconds_leave_out_what_was_planned(store):
    """An announced compile and the first use under `grad` count as recompiles and lose nothing."""
    for options in ({"expected": "longer context"}, {"causes": ("transform",)}, {"causes": ("shape", "transform")}):
        store.apply(recompiled(2.0, **options))

    row = row_of(store, "train.step")
    assert (3, 2.0) == (row["recompiles"], row["lost_seconds"])
    assert {"shape": 2, "transform": 2} == row["causes"]


def test_lost_seconds_leave_out_jax_itself(store):
    """What JAX compiles for itself is nobody's loss."""
    for _ in range(3):
        store.apply(compiled(of_jax("add")))

    assert 0.0 == row_of(store, JAX_LABEL)["lost_seconds"] == store.snapshot()["totals"]["lost_seconds"]


def test_call_sites_dearest_first(store, monotonic):
    """By line and function: how many, what they cost, and the last of them in words."""
    for event in (
        recompiled(2.0, line=10),
        recompiled(5.0, line=20),
        recompiled(4.0, line=10, explanation="the last of 10"),
        recompiled(3.0, line=10, function=LOSS),
        recompiled(9.0, line=10, explanation="planned", expected="longer context"),
    ):
        store.apply(event)
    monotonic.now += 100.0
    found = [
        (row["function"], row["call_site"], row["recompiles"], *costs(row), row["explanation"])
        for row in store.snapshot()["call_sites"]
    ]

    assert {store.now()["time"]} == {row["last_time"] for row in store.snapshot()["call_sites"]}
    assert [
        ("train.step", "train.py:10", 3, 6.0, 0.06, None, "the last of 10"),
        ("train.step", "train.py:20", 1, 5.0, 0.05, None, "because of 20"),
        ("train.loss", "train.py:10", 1, 3.0, 0.03, None, "because of 10"),
    ] == found


def test_call_sites_are_bounded(store):
    """Two thousand are told apart, fifty are shown, their words are short; the dearest stay."""
    for line in range(MAX_CALL_SITES + 10):
        store.apply(recompiled(1.0 + line, line=line, explanation="x" * 10_000))
    sites = store.snapshot()["call_sites"]

    assert MAX_CALL_SITES == len(store._aggregates.pitfalls.call_sites)
    assert (50, MAX_CALL_SITES + 10.0) == (len(sites), sites[0]["lost_seconds"])
    assert 500 == max(len(site["explanation"]) for site in sites)


def test_lost_steps_are_measured_in_steps_that_did_not_compile(store):
    """Ten seconds lost in a loop of quarter seconds are forty steps, although one step took over ten."""
    store.apply(compiled(seconds=20.0))
    store.apply(Stepped(steps=1, duration_s=None))
    for duration_s, event in ((0.25, None), (10.25, recompiled(10.0)), (0.25, None), (2.25, failed(seconds=2.0))):
        if event is not None:
            store.apply(event)
        store.apply(Stepped(steps=1, duration_s=duration_s))
    state = store.snapshot()

    assert 0.25 == state["mean_step_seconds"]
    assert [40.0] * 3 == [
        row["lost_steps"] for row in (state["totals"], row_of(store, "train.step"), state["call_sites"][0])
    ]


def test_lost_since_steady_is_a_share_of_that_time(store, clock, monotonic):
    """Violations only, against the wall clock since `steady()`, for functions, lines and all together."""
    store.apply(recompiled(30.0))
    monotonic.now += 100.0
    clock.now += 100.0
    since = clock.now
    store.set("steady_since_timestamp_seconds", since)
    for event in (recompiled(4.0), violated(4.0, since), recompiled(1.0, line=99), violated(1.0, since, line=99)):
        store.apply(event)
    monotonic.now += 50.0
    clock.now += 50.0
    state = store.snapshot()

    assert 50.0 == state["steady_seconds"]
    assert (5.0, 0.1) == since_steady(state["totals"]) == since_steady(row_of(store, "train.step"))
    assert [("train.py:88", 4.0, 0.08), ("train.py:99", 1.0, 0.02)] == [
        (row["call_site"], *since_steady(row)) for row in state["call_sites"]
    ]
    assert 35.0 == state["totals"]["lost_seconds"]


def test_lost_since_steady_begins_anew_with_each_steady_state(store, clock):
    """What an earlier one lost is not held against the present one, before and after its first violation."""
    store.apply(violated(4.0, clock.now))
    clock.now += 10.0
    store.set("steady_since_timestamp_seconds", clock.now)
    clock.now += 10.0
    assert (0.0, 0.0) == since_steady(store.snapshot()["totals"])

    store.apply(violated(1.0, clock.now - 10.0))
    assert (1.0, 0.1) == since_steady(store.snapshot()["totals"])


def test_lost_since_steady_without_a_steady_process(store):
    """In a block of one thread there are violations, but no time that their share could be taken of."""
    store.apply(violated(4.0, None))
    state = store.snapshot()

    assert state["steady_seconds"] is None
    assert (4.0, None) == since_steady(state["totals"])


def test_lost_calls_are_unknown_for_functions_that_nobody_counts(store):
    """A cached call runs no code of ours."""
    store.apply(recompiled())

    assert row_of(store, "train.step")["lost_calls"] is None


def test_pitfalls_are_counted_and_the_last_are_listed(store):
    """By function and kind, and in the order in which they were told."""
    for number in range(MAX_PITFALLS + 3):
        store.apply(
            PitfallFound(function=STEP, pitfall="shape_churn", subject=f"{number}", message=f"{number}", advice="pad")
        )
    state = store.snapshot()

    assert {"shape_churn": MAX_PITFALLS + 3} == row_of(store, "train.step")["pitfalls"]
    assert MAX_PITFALLS + 3 == state["totals"]["pitfalls"] == get(store, "pitfalls_by_kind", "shape_churn")
    assert [str(number) for number in range(3, MAX_PITFALLS + 3)] == [one["message"] for one in state["pitfalls"]]


# Threads and memory


def test_threads_lose_no_event():
    """Eight threads with a thousand events each, while others read: all add up, each number once."""

    def clock():
        for _ in range(20):  # the interpreter may change threads at each turn
            pass
        return 1_700_000_000.0

    store = Store(clock=clock)
    barrier = threading.Barrier(9)
    stop = threading.Event()
    errors: list[BaseException] = []

    def write(number):
        barrier.wait()
        for turn in range(1000):
            store.apply(compiled(user(turn % 7) if turn % 2 else of_jax(f"op{number}")))
            store.add("agent_errors", labels=("compile",))

    def read():
        barrier.wait()
        while not stop.is_set():
            try:
                store.snapshot()
                store.records(limit=10)
            except BaseException as error:
                errors.append(error)
                return

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    reader = threading.Thread(target=read)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in (*writers, reader):
            thread.start()
        for thread in writers:
            thread.join()
    finally:
        stop.set()
        reader.join()
        sys.setswitchinterval(interval)
    state = store.snapshot()
    records, last = store.records()

    assert [] == errors
    assert (4000, 4000) == (state["totals"]["compiles"], state["totals"]["jax_compiles"])
    assert (4000 - 7, 8000.0) == (state["totals"]["recompiles"], get(store, "agent_errors", "compile"))
    assert 8000 == last
    assert len(records) == len({record["seq"] for record in records}) == 4000 + JAX_RING


def test_forget_locks_frees_a_lock_that_a_lost_thread_held(store):
    """In a forked child nobody is left to release it."""
    store._lock.acquire()
    store.forget_locks()

    assert 1 == store.apply(compiled())["nth"]


def test_running_compiles_say_whether_the_function_has_a_program(store):
    """Of JAX's own nobody knows: they are many functions under one label."""
    store.apply(compiled(STEP))
    store.apply(compiled(of_jax("add")))
    rows = [{"function": label, "phase": "compile", "for_s": 1.0} for label in (STEP.label, LOSS.label, JAX_LABEL)]
    store.set_running(rows)

    assert [True, False, False] == [row["is_again"] for row in store.now()["in_progress"]]


def test_totals_are_the_sums_over_the_functions(store, clock):
    """They are kept as things happen; whatever happened, they are what adding up the rows gives."""
    other = Function("train.loss", "loss")
    for event in (
        compiled(),
        compiled(causes=("shape",)),
        compiled(LOSS, expected="a larger batch"),
        compiled(LOSS),
        failed(),
        compiled(of_jax("add")),
        compiled(of_jax("add")),
        CompileFailed(function=of_jax("mul"), phase="compile", error="E", message="", spent_s=0.5),
        StormStarted(function=STEP, recompiles=3, within_s=60.0),
        StormStarted(function=LOSS, recompiles=3, within_s=60.0),
        StormStarted(function=other, recompiles=3, within_s=60.0),
        StormEnded(function=STEP, recompiles=3, lasted_s=1.0, lost_s=1.0),
        StormEnded(function=STEP, recompiles=3, lasted_s=1.0, lost_s=1.0),
        SteadyViolated(function=STEP, call_site=None, spent_s=1.5, action="count", since=1.0),
        SteadyViolated(function=LOSS, call_site=None, spent_s=0.5, action="count", since=2.0),
        PitfallFound(function=STEP, pitfall="shape_churn", message="m", advice="a"),
        PitfallFound(function=of_jax("add"), pitfall="eager_churn", message="m", advice="a"),
        DonationViolation(violation="unusable", function=STEP, leaf="x", shape=(2,), dtype="float32", bytes=8),
    ):
        store.apply(event)
    state = store.snapshot()
    users = [row for row in state["functions"] if row["function"] != JAX_LABEL]
    (own,) = [row for row in state["functions"] if row["function"] == JAX_LABEL]
    sums = {
        "compiles": sum(row["compiles"] for row in users),
        "recompiles": sum(row["recompiles"] for row in users),
        "failures": sum(row["failures"] for row in users),
        "compile_seconds": sum(row["seconds"] for row in users),
        "storms": sum(row["storms"] for row in users),
        "storms_active": sum(row["is_in_storm"] for row in users),
        "steady_violations": sum(row["steady_violations"] for row in users),
        "pitfalls": sum(sum(row["pitfalls"].values()) for row in state["functions"]),
        "donation_violations": sum(sum(row["donation_violations"].values()) for row in users),
        "lost_seconds": sum(row["lost_seconds"] for row in users),
        "lost_seconds_since_steady": sum(row["lost_seconds_since_steady"] for row in users),
        "jax_compiles": own["compiles"],
        "jax_compile_seconds": own["seconds"],
    }

    assert sums == {name: state["totals"][name] for name in sums}
    assert 0 not in sums.values()
    assert state["totals"] == store.now()["totals"]
    assert ["train.loss"] == store.now()["storms"]


def test_newer_gives_what_follows_a_number(store):
    """Records of user functions, oldest first; JAX's own are not among them, their numbers are."""
    store.apply(compiled())
    store.apply(compiled())
    store.apply(compiled(of_jax("add")))

    assert ([1, 2], 3) == ([record["seq"] for record in store.newer(0)[0]], store.newer(0)[1])
    assert [2] == [record["seq"] for record in store.newer(1)[0]]
    assert ([], 3) == store.newer(3)


def test_records_can_be_those_of_one_function(store):
    """The newest so many of it, oldest first."""
    for function in (STEP, LOSS, STEP, LOSS, STEP):
        store.apply(compiled(function))

    assert [3, 5] == [record["seq"] for record in store.records(0, 2, "train.step")[0]]
    assert [2, 4] == [record["seq"] for record in store.records(function="train.loss")[0]]
    assert [2, 4] == [record["seq"] for record in store.records(function="loss")[0]]
    assert ([], 5) == store.records(0, 0)
    assert ([], 5) == store.records(function="train.nothing")


def test_changes_tell_of_pitfalls_whose_figures_have_changed(store):
    """A pitfall is told when it is found, and again when a compile makes it dearer."""
    store.apply(PitfallFound(function=STEP, pitfall="shape_churn", message="2 sizes", advice="pad", lost_s=1.0))
    found = store.changes(0, 10)
    nothing = store.changes(found.revision, 10)
    store.apply(compiled(pitfall="shape_churn", pitfall_message="3 sizes", advice="pad"))
    dearer = store.changes(nothing.revision, 10)

    assert ["2 sizes"] == [one["message"] for one in found.pitfalls]
    assert [] == nothing.pitfalls
    assert ["3 sizes"] == [one["message"] for one in dearer.pitfalls]
