"""Incremental updates for the page: only changes, bounded, and at little cost."""

from __future__ import annotations

import itertools
import json
import os
import threading
import urllib.request
from dataclasses import asdict

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch.model.events import Compiled, DonationViolation, PitfallFound, Stepped, StormEnded, StormStarted
from jitwatch.model.function import Change, Function
from jitwatch.model.thresholds import THRESHOLDS
from jitwatch.server.live import SHOWN, Live
from jitwatch.state.aggregates import MAX_FUNCTIONS
from jitwatch.state.store import Store
from jitwatch.state.timeline import COLUMNS

STEP = Function("train.step", "step", "train.py:10")
LOSS = Function("train.loss", "loss", "train.py:20")
SIZES = "batch int32[8] → int32[6]"
SHRUNK = Change("batch", "shape", "int32[8]", "int32[6]")


class Clock:
    """A clock that the test advances."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Watched:
    """A store and its follower, with one clock and a record of the refreshes."""

    def __init__(self, **options) -> None:
        self.clock = Clock(1_700_000_000.0)
        self.store = Store(run="one", clock=self.clock, monotonic=self.clock, **options)
        self.refreshes: list[float] = []
        self.probes = {"compile": {"up": True, "reason": None}}
        #: CPU seconds that each answer takes, and those that were taken so far.
        self.cost_s, self.cpu_s = 0.0, 0.0
        self.live = Live(self.store, refresh=self.refresh, about=self.about, monotonic=self.clock, cpu=self.cpu)

    def refresh(self) -> None:
        self.refreshes.append(self.clock.now)

    def cpu(self) -> float:
        self.cpu_s += self.cost_s
        return self.cpu_s

    def about(self) -> dict:
        return {"version": "1.2.3", "probes": self.probes}

    def judge(self) -> dict:
        """What the state says of the job's health and levels."""
        return self.live.judge(self.store.snapshot())

    def health(self) -> dict:
        return self.judge()["health"]

    def compile(self, function: Function = STEP, **more) -> None:
        figures = {"trace_s": 0.5, "lower_s": 0.5, "compile_s": 1.0, "causes": ("shape",), "changes": (SHRUNK,)}
        figures |= {"reason": SIZES, "explanation": f"step recompiled: {SIZES}."}
        self.store.apply(Compiled(function=function, **{**figures, **more}))

    def ask(self, before: dict | None = None) -> dict:
        """The next answer to a page that has had one, or the first; half a second later."""
        self.clock.now += 0.5
        if before is None:
            return self.live.answer()
        since = max((row[0] for row in before["timeline"]["rows"]), default=0.0)
        return self.live.answer(before["revision"], before["last_seq"], since)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def names(answer: dict) -> list[str]:
    return [row["function"] for row in answer["functions"]]


def test_answer_begins_with_everything(watched):
    """The first answer has every function, those that recompiled most first, and the present figures."""
    watched.compile(LOSS)
    for _ in range(3):
        watched.compile()
    answer = watched.ask()

    assert ["train.step", "train.loss"] == names(answer)
    assert (4, 2) == (answer["totals"]["compiles"], answer["totals"]["recompiles"])
    assert ["jit.recompiled", "jit.recompiled"] == [event["event"] for event in answer["events"]]
    assert (1, "one", "1.2.3", 2, 0) == (
        answer["schema"],
        answer["run"],
        answer["version"],
        answer["functions_known"],
        answer["functions_left_out"],
    )
    assert (0.5, 4) == (answer["uptime_seconds"], answer["last_seq"])
    assert answer == {**watched.live.answer(), "poll_after_seconds": answer["poll_after_seconds"]}
    assert answer["functions"] == json.loads(json.dumps(answer))["functions"]


def test_answer_has_the_changes_only(watched):
    """Nothing without a change; then the one row, the one record and the one pitfall that are new."""
    watched.compile()
    watched.compile(LOSS)
    first = watched.ask()
    quiet = watched.ask(first)
    watched.compile()
    watched.store.apply(PitfallFound(function=STEP, pitfall="shape_churn", message="m", advice="a"))
    third = watched.ask(quiet)

    assert ([], [], []) == (quiet["functions"], quiet["events"], quiet["pitfalls"])
    assert first["revision"] == quiet["revision"]
    assert ["train.step"] == names(third)
    assert ["jit.recompiled", "jit.pitfall"] == [event["event"] for event in third["events"]]
    assert ["shape_churn"] == [one["pitfall"] for one in third["pitfalls"]]
    assert ([], [], []) == tuple(watched.ask(third)[name] for name in ("functions", "events", "pitfalls"))


def test_answer_has_the_changes_of_each_page(watched):
    """Each page gets the changes since its own last answer."""
    watched.compile()
    slow = watched.ask()
    watched.compile(LOSS)
    fast = watched.ask(slow)
    watched.compile()

    assert ["train.step"] == names(watched.ask(fast))
    assert ["train.step", "train.loss"] == names(watched.ask(slow))


def test_answer_repeats_a_row_after_every_kind_of_change(watched):
    """Cache entries, calls, storms and a fresh steady state are changes of a row too."""
    watched.compile()
    watched.compile(LOSS)
    answer = watched.ask()

    def changed() -> list[str]:
        nonlocal answer
        answer = watched.ask(answer)
        return sorted(names(answer))

    watched.store.set_by_function("jit_cache_entries", {"train.step": 2, "train.loss": 1})
    assert ["train.loss", "train.step"] == changed()
    watched.store.set_by_function("jit_cache_entries", {"train.step": 3, "train.loss": 1})
    assert ["train.step"] == changed()
    assert 3 == answer["functions"][0]["cache_entries"]
    watched.store.set_by_function("jit_cache_entries", {"train.step": 3, "train.loss": 1})
    assert [] == changed()
    watched.store.set_calls({"train.loss": (5, 1.0, 0)})
    assert ["train.loss"] == changed()
    watched.store.set_calls({"train.loss": (5, 1.0, 0)})
    assert [] == changed()
    watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))
    assert ["train.step"] == changed()


def test_answer_to_a_page_of_another_job_holds_everything_that_happened_since(watched):
    """A page that was open before a restart asks with old numbers; the start time shows that it must begin again."""
    watched.compile()
    watched.ask()
    answer = watched.live.answer(revision=900, seq=900, since=watched.clock.now + 1000)

    assert ([], []) == (answer["functions"], answer["events"])
    assert 1_700_000_000.0 == answer["start_time_seconds"]
    assert 1 == answer["last_seq"]
    assert ["train.step"] == names(watched.ask())


def test_answer_is_bounded(watched):
    """Of thousands of functions the worst 500, of thousands of records the newest of each kind."""
    for number in range(700):
        function = Function(f"train.f_{number}", f"f_{number}")
        for _ in range(1 + (number >= 650)):
            watched.compile(function)
    for number in range(2000):
        watched.compile()
        if number == 10:
            watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))
    answer = watched.ask()

    assert (500, 201, 701) == (len(answer["functions"]), answer["functions_left_out"], answer["functions_known"])
    assert "train.step" == names(answer)[0]
    assert {f"train.f_{number}" for number in range(650, 700)} == set(names(answer)[1:51])
    assert len(answer["events"]) <= 300
    assert sorted(event["seq"] for event in answer["events"]) == [event["seq"] for event in answer["events"]]
    assert answer["last_seq"] == answer["events"][-1]["seq"]
    assert "jit.storm_started" in {event["event"] for event in answer["events"]}


def test_answer_leaves_out_events_that_are_only_counted(watched):
    """First compiles are in the counters; steps and slow samples too."""
    watched.compile(LOSS)
    watched.store.apply(Stepped(steps=1, duration_s=None))

    assert [] == watched.ask()["events"]
    assert {"jit.compiled", "memory.sample", "run.summary"}.isdisjoint(SHOWN)


def test_answer_has_the_timeline_up_to_now(watched):
    """The points since the page's last one, and the present figures."""
    watched.compile()
    watched.store.mark()
    first = watched.ask()
    watched.clock.now += 5
    watched.store.mark()
    watched.compile()
    second = watched.ask(first)
    column = {name: at for at, name in enumerate(COLUMNS)}

    assert (COLUMNS, 1) == (first["timeline"]["columns"], len(first["timeline"]["rows"]))
    assert [1_700_000_005.5] == [row[column["time"]] for row in second["timeline"]["rows"]]
    assert (1, 2) == (second["timeline"]["rows"][0][column["compiles"]], second["timeline"]["now"][column["compiles"]])
    assert {"shape": 1} == second["timeline"]["now"][column["causes"]]
    assert second["time"] == second["timeline"]["now"][column["time"]]


def test_mark_shows_memory_that_is_known(watched):
    """Devices that report memory are added up; unknown figures are None."""
    watched.store.set_memory(
        {
            "devices": [
                {"in_use_bytes": 10, "stats_supported": True},
                {"in_use_bytes": 20, "stats_supported": True},
                {"in_use_bytes": 40, "stats_supported": False},
            ],
            "live_arrays": {"bytes": 7},
            "host": None,
        }
    )
    moment = watched.store.moment()

    assert (30, 7, None) == (moment.device_bytes, moment.live_array_bytes, moment.host_bytes)
    assert None is Watched().store.moment().device_bytes


def test_refresh_happens_twice_a_second_at_most(watched):
    """Ten pages that ask at once cost one refresh; all of them see what the store holds."""
    watched.ask()
    watched.compile()
    answers = [watched.live.answer() for _ in range(10)]
    watched.clock.now += 0.49
    watched.live.answer()

    assert [1_700_000_000.5] == watched.refreshes
    assert {1} == {answer["totals"]["compiles"] for answer in answers}
    watched.clock.now += 0.02
    watched.live.answer()
    assert [1_700_000_000.5, 1_700_000_001.01] == pytest.approx(watched.refreshes)


@pytest.mark.parametrize(("pages", "wait"), [(1, 1.7), (3, 1.7), (10, 5.0), (50, 25.0), (70, 30.0)])
def test_answer_says_when_to_ask_again(watched, pages, wait):
    """A few pages ask every 1.7 s; many wait longer, so that together they ask twice a second."""
    due = [watched.clock.now] * pages
    for _ in range(5 * pages):
        page = due.index(min(due))
        watched.clock.now = due[page]
        due[page] += (last := watched.live.answer()["poll_after_seconds"])

    assert wait == pytest.approx(last, rel=0.01)


def test_refresh_holds_no_lock(watched):
    """During a refresh, which calls JAX, other pages are answered and snapshots are taken."""
    watched.compile()
    watched.ask()
    found: list[object] = []

    def refresh() -> None:
        def work() -> None:
            found.append(watched.live.answer()["totals"]["compiles"])
            found.append(watched.health()["level"])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)

    watched.live._refresh = refresh
    watched.ask()

    assert [1, "good"] == found


def test_refresh_that_fails_is_reported_by_the_server(watched):
    """The page gets an error, and the next answer works."""
    refresh, watched.live._refresh = watched.live._refresh, lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        watched.ask()
    watched.live._refresh = refresh

    assert [] == watched.ask()["functions"]


def test_health_follows_what_happens(watched):
    """Calm, a storm, calm again; a violation; a probe that is down."""
    watched.compile()
    levels = [watched.health()["level"]]
    for _ in range(3):
        watched.compile()
    watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))
    storm = watched.health()
    watched.clock.now += 700
    watched.store.apply(StormEnded(function=STEP, recompiles=3, lasted_s=60.0, lost_s=1.0))
    levels.append(watched.health()["level"])
    watched.store.apply(
        DonationViolation(violation="double_donation", function=STEP, leaf="x", shape=(2,), dtype="float32", bytes=8)
    )
    levels.append(watched.health()["level"])
    watched.clock.now += 700
    watched.probes["memory"] = {"up": False, "reason": "no psutil"}

    assert ["good", "good", "warn"] == levels
    assert "bad" == storm["level"]
    assert "step is in a recompile storm: 3 recompiles in the last minute" in storm["sentence"]
    assert "memory is down" in watched.health()["sentence"]


def test_health_of_a_storm_counts_the_last_minute(watched):
    """Recompiles of an hour ago are not those of the last minute."""
    for _ in range(5):
        watched.compile()
    watched.clock.now += 61
    watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))

    assert "none in the last minute" in watched.health()["sentence"]
    watched.compile()
    assert "1 recompile in the last minute" in watched.health()["sentence"]


def test_health_of_a_storm_counts_and_names_its_own_functions_only(watched):
    """Another function that recompiles beside it has nothing to do with it."""
    other = Function("train.other", "other")
    watched.compile()
    watched.compile()
    watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))
    for _ in range(3):
        watched.compile(other, reason="y")

    assert (
        f"step is in a recompile storm: 1 recompile in the last minute. Newest recompile: {SIZES}."
        in (watched.health()["sentence"])
    )


def test_health_reports_a_violation_before_an_unusable_donation(watched):
    """The newer record is the harmless one."""
    for kind in ("use_after_donate", "unusable"):
        watched.store.apply(
            DonationViolation(violation=kind, function=STEP, leaf="x", shape=(2,), dtype="float32", bytes=8)
        )

    assert "x was used after it was donated to a function, just now." == watched.health()["sentence"]


def test_health_is_silent_on_planned_and_ignored_recompiles(watched):
    """Neither their number, nor their reasons, nor their seconds are reported."""
    watched.compile()
    watched.compile()
    watched.compile(LOSS, expected="a longer context", reason="planned", nth=2)
    watched.compile(LOSS, is_ignored=True, reason="ignored", nth=3, compile_s=99.0)
    watched.clock.now += 10

    health = watched.health()
    assert f"step recompiled once in the last minute. Newest recompile: {SIZES}." == health["sentence"]
    assert [] == [one for one in health["others"] if "loss" in one["sentence"]]
    assert [SIZES, "planned"] == sorted(one["reason"] or "planned" for one in watched.ask()["call_sites"])


def test_health_reports_everything_beside_a_storm(watched):
    """All findings in the order of their weight; nearly full memory with its bytes."""
    for _ in range(40):
        watched.compile()
    watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))
    device = {"device": "gpu:0", "in_use_bytes": 78 << 30, "limit_bytes": 80 << 30, "stats_supported": True}
    watched.store.set_memory({"pressure": ["gpu:0", "host"], "devices": [device]})
    watched.clock.now += 10
    health = watched.health()

    assert "bad" == health["level"]
    assert ["Memory is nearly full: gpu:0 (78 GiB of 80 GiB) and host.", "Recompiles have cost"] == [
        one["sentence"][: None if number == 0 else 20] for number, one in enumerate(health["others"])
    ]
    assert f"most of it in step: {SIZES}." in health["others"][1]["sentence"]


def test_levels_agree_with_the_health(watched):
    """A function in a storm, and each that lost a warning share of the run, has a level while a sentence says so."""
    for _ in range(3):
        watched.compile()
        watched.compile(LOSS)
    watched.store.apply(StormStarted(function=STEP, recompiles=3, within_s=60.0))
    watched.clock.now += 100
    levels, rows = watched.judge()["levels"], {row["function"]: row["level"] for row in watched.judge()["functions"]}

    assert {"storms_active": "bad", "lost_seconds": "warn"} == levels["figures"]
    assert {"storms_active": "bad", "lost_seconds": "warn"} == levels["functions"]["train.step"]
    assert {"lost_seconds": "warn"} == levels["functions"]["train.loss"]
    assert {"train.step": "bad", "train.loss": "warn"} == rows


def test_level_of_a_row_falls_without_a_change_of_the_row(watched):
    """Lost seconds are a smaller share of a longer run, though the page does not get the row again."""
    watched.compile()
    watched.compile()
    first = watched.ask()
    watched.clock.now += 70
    warned = watched.ask(first)
    watched.clock.now += 200
    calm = watched.ask(warned)

    assert ({"train.step": {"lost_seconds": "warn"}}, []) == (warned["levels"]["functions"], warned["functions"])
    assert ({}, "good") == (calm["levels"]["functions"], calm["health"]["level"])


@pytest.mark.parametrize(("percent", "level"), [(89, "good"), (90, "warn"), (95, "bad")])
def test_level_of_a_device_agrees_with_the_sentence(watched, percent, level):
    """In the page's table, its figure, and the sentence, in the state as well."""
    device = {"device": "gpu:0", "in_use_bytes": percent, "limit_bytes": 100, "stats_supported": True}
    watched.store.set_memory({"devices": [device], "pressure": []})
    answer, judged = watched.ask(), watched.judge()

    for found in (answer, judged):
        assert [level] == [row["level"] for row in found["memory"]["devices"]]
        assert (level, level) == (found["health"]["level"], found["levels"]["figures"].get("memory", "good"))
    assert {"place": "gpu:0", "ratio": percent / 100, "limit_bytes": 100} == answer["memory"]["fullest"]
    assert "level" not in watched.store.memory()["devices"][0]


def test_pressure_that_goes_on_keeps_its_level(watched):
    """Between two steps memory falls below the threshold, and the pressure goes on."""
    device = {"device": "gpu:0", "in_use_bytes": 40, "limit_bytes": 100, "stats_supported": True}
    watched.store.set_memory({"devices": [device], "pressure": ["gpu:0"]})
    answer = watched.ask()

    assert ("warn", "warn") == (answer["memory"]["devices"][0]["level"], answer["health"]["level"])


def test_answer_has_new_call_sites_once(watched):
    """Call sites with new recompiles since the last answer, with their pitfall."""
    watched.compile()
    watched.compile()
    first = watched.ask()
    nothing = watched.ask(first)
    watched.compile(pitfall="shape_churn")
    again = watched.ask(first)

    assert [(1, SIZES, None)] == [(one["recompiles"], one["reason"], one["pitfall"]) for one in first["call_sites"]]
    assert [] == nothing["call_sites"]
    assert [(2, "shape_churn")] == [(one["recompiles"], one["pitfall"]) for one in again["call_sites"]]


def test_answer_repeats_call_sites_that_a_pitfall_explains(watched):
    """An open page must no longer show them by themselves."""
    static = {"causes": ("static_arg",)}
    for path in ("flip", "mode", "other"):
        watched.compile(**static, changes=(Change(path, "static_arg", "0", "1"),))
        watched.compile(**static, changes=(Change(path, "static_arg", "1", "2"),))
    first = watched.ask()
    watched.compile(LOSS)
    watched.compile(LOSS)
    watched.compile(**static, changes=(Change("mode", "static_arg", "2", "3"),), pitfall="too_many_statics")
    told = {tuple(one["paths"]): one["pitfall"] for one in watched.ask(first)["call_sites"]}

    assert {("flip",): "too_many_statics", ("mode",): "too_many_statics", ("other",): "too_many_statics"} == {
        paths: pitfall for paths, pitfall in told.items() if paths != ("batch",)
    }


def test_answer_has_all_call_sites_that_changed(watched):
    """However many there were between two answers."""
    first = watched.ask()
    for line in range(80):
        watched.compile(call_site=f"train.py:{line}", nth=2)

    assert 80 == len(watched.ask(first | {"revision": 1})["call_sites"])


def test_answer_in_summary_detail(watched):
    """Without series by function the page still has its rows, and a quiet job is quiet."""
    watched = Watched(is_summary=True)
    watched.compile()
    watched.compile()
    watched.store.set_by_function("jit_cache_entries", {"train.step": 2})
    first = watched.ask()
    watched.store.set_by_function("jit_cache_entries", {"train.step": 2})

    assert (["train.step"], None) == (names(first), first["functions"][0]["cache_entries"])
    assert {"shape": 1} == dict(zip(COLUMNS, first["timeline"]["now"], strict=True))["causes"]
    assert [] == watched.ask(first)["functions"]


def test_changes_make_rows_in_small_portions(watched, monkeypatch):
    """The store's lock is given back between a few rows, however many have changed."""
    for number in range(300):
        watched.compile(Function(f"train.f_{number}", f"f_{number}"))
    portions = []
    make = watched.store._rows
    monkeypatch.setattr(watched.store, "_rows", lambda some: portions.append(len(some)) or make(some))
    watched.ask()

    assert 300 == sum(portions)
    assert max(portions) <= 20


def test_quiet_answer_looks_at_one_function(watched):
    """With ten thousand functions, a page that knows them all costs as little as with one: the last is asked."""
    for number in range(MAX_FUNCTIONS):
        watched.store.know(Function(f"train.f_{number}", f"f_{number}"))
    answer = watched.ask()
    seen = []

    class Counting(dict):
        def values(self):
            return Seen(dict.values(self))

    class Seen:
        def __init__(self, values) -> None:
            self.values = values

        def __iter__(self):
            return map(self.saw, self.values)

        def __reversed__(self):
            return map(self.saw, reversed(self.values))

        def saw(self, one):
            seen.append(one)
            return one

    aggregates = watched.store._aggregates
    aggregates.functions = Counting(aggregates.functions)
    aggregates.changed = Counting(aggregates.changed)
    quiet = watched.ask(answer)

    assert ([], 1) == (quiet["functions"], len(seen))


def test_live_endpoint_shows_a_real_compile():
    """Over the port of a real job: the compile, its cause and its change, then nothing new."""
    watch = jitwatch.install(port=0)

    @jax.jit
    def doubled(x):
        return x * 2

    doubled(np.ones(3, np.float32))
    doubled(np.ones(4, np.float32))

    def ask(query: str = "") -> dict:
        with urllib.request.urlopen(f"{watch.url}/api/v1/live{query}", timeout=10) as answer:
            return json.load(answer)

    first = ask()
    again = ask(f"?revision={first['revision']}&seq={first['last_seq']}&since={first['time']}")
    (row,) = [row for row in first["functions"] if ".doubled@" in row["function"]]
    (event,) = [event for event in first["events"] if event["event"] == "jit.recompiled"]

    assert (2, {"shape": 1}, 2) == (row["compiles"], row["causes"], row["cache_entries"])
    assert [("x", "float32[3]", "float32[4]")] == [
        (one["path"], one["before"], one["after"]) for one in event["changes"]
    ]
    assert {"python", "jax", "jaxlib"} == set(first["versions"])
    assert (watch.url, os.getpid()) == (first["url"], first["pid"])
    assert ([], [], []) == (again["functions"], again["events"], again["timeline"]["rows"])
    assert 0 < again["agent"]["overhead_seconds"]["page"] < 1
    state = watch.snapshot()
    assert {"level", "sentence", "others"} == set(state["health"])
    assert (first["health"]["level"], first["levels"]["figures"]) == (
        state["health"]["level"],
        state["levels"]["figures"],
    )
    assert asdict(THRESHOLDS) == state["thresholds"] == first["thresholds"]


def test_forget_locks_lets_a_forked_child_go_on(watched):
    """In a forked child no thread is left to release the lock."""
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with watched.live._lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    watched.live.forget_locks()
    try:
        assert "good" == watched.health()["level"]
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize(("cost_s", "between_s"), [(0.0, 0.5), (0.0005, 0.5), (0.0015, 1.0), (0.003, 2.0), (1.0, 5.0)])
def test_pages_wait_longer_where_an_answer_costs_more(watched, cost_s, between_s):
    """All of them together take no more than their share, however slow the machine or large the job is."""
    watched.compile()
    first = watched.ask()
    watched.cost_s = cost_s
    for _ in range(40):
        watched.clock.now += 60
        watched.live.answer(first["revision"], first["last_seq"])
    turns = [watched.live.answer(first["revision"], first["last_seq"])["poll_after_seconds"] for _ in range(5)]
    assert [pytest.approx(between_s, abs=0.01)] * 4 == [b - a for a, b in itertools.pairwise(turns)]


def test_first_answers_do_not_lengthen_the_wait(watched):
    """Opening a page is expensive, and happens once."""
    watched.compile()
    watched.cost_s = 1.0
    for _ in range(5):
        watched.clock.now += 60
        watched.live.answer()
    turns = [watched.live.answer()["poll_after_seconds"] for _ in range(2)]
    assert 0.5 == pytest.approx(turns[1] - turns[0])
