"""What jobs answer, as typed rows: read from any answer, followed over time, merged and ordered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitwatch
from jitwatch.top.model import (
    SORTS,
    Answer,
    Process,
    clean,
    counted,
    fullest,
    functions_of,
    in_order,
    recompiles_of,
    state_of,
)  # fmt: skip
from tests.unit.top_states import URL, cleaned, function, health, pitfall, process, site, state, tracked


def test_state_is_that_of_the_answer():
    """What is shown is as it was answered; call sites without a recompile and functions without a name are left out."""
    rows = [function(compiles=3, recompiles=2, lost_seconds=6.0, lost_ratio=0.01), function("__jax__", compiles=9)]
    given = state(
        *rows, function(""),
        call_sites=[site(), site(reason="")],
        pitfalls=[pitfall(), pitfall("train.other", lost_seconds=0.0)],
        in_progress=[{"function": "train.train_step", "phase": "compile", "for_s": 12.5, "thread": "MainThread"}],
        metrics={"jitwatch_oom_total": [{"labels": {}, "value": 2.0}]},
        steady_seconds=10.0,
        levels={"figures": {"recompiles": "warn"}, "functions": {"train.train_step": {"recompiles": "warn"}}},
    )  # fmt: skip
    found = state_of(given)

    for name in ("run", "process_index", "pid", "step", "mean_step_seconds", "uptime_seconds", "steady_seconds"):
        assert given[name] == found[name]
    for kind, shown in (("functions", rows), ("call_sites", [site()]), ("pitfalls", given["pitfalls"])):
        assert shown == [
            {name: one[name] if one[name] != "" else row[name] for name in row}
            for one, row in zip(found[kind], shown, strict=True)
        ]
    assert 12.5 == found["in_progress"][0]["for_s"]
    assert given["totals"].items() <= found["totals"].items()
    assert {"recompiles": "warn"} == found["levels"]["figures"]
    assert 2.0 == found["metrics"]["jitwatch_oom_total"][0]["value"]
    assert 500 * 2**20 == found["memory"]["host"]["resident_bytes"]
    assert ("gpu:0", 34 * 2**30, 80 * 2**30) == tuple(fullest(found).values())[:3]


def test_texts_are_cleaned():
    """A function's name is whatever the job made it."""
    found = cleaned(function("a\x1b[2Jb"), call_sites=[site(reason="x\x07")], pitfalls=[pitfall(advice="\x9b")])

    assert ("a?[2Jb", "x?", "?") == (
        found["functions"][0]["function"], found["call_sites"][0]["reason"], found["pitfalls"][0]["advice"]
    )  # fmt: skip


@pytest.mark.parametrize("answer", [None, [], "x", 7, {}, {"totals": None}, {"functions": []}])
def test_what_is_no_state_is_none(answer):
    """Another server answers there."""
    assert None is state_of(answer)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, 10**400, True, "7", None, [7]])
def test_what_is_no_amount_is_zero(odd):
    """A value that cannot be shown, or written as JSON, is 0."""
    found = cleaned(function(seconds=odd), uptime_seconds=odd, mean_step_seconds=odd)

    assert (0.0, 0.0, 0.0) == (
        found["functions"][0]["seconds"], found["uptime_seconds"], found["mean_step_seconds"] or 0.0
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "read"), [("bad", "bad"), ("good", "good"), (None, "good"), ("purple", "warn"), ([], "warn")]
)
def test_levels_are_those_of_the_job(given, read):
    """One that a newer version has added is a warning."""
    assert read == cleaned(function(level=given))["functions"][0]["level"]


def test_state_of_a_real_agent():
    """The names are those that `snapshot()` really has: nothing of it is odd."""
    with jitwatch.install(port=0, run="real") as watch:
        given = json.loads(json.dumps(watch.snapshot()))
        found = state_of(given)

    assert {"health", "levels", "memory"} <= set(found) <= set(given)
    assert [] == list(odd(given, found))


def odd(given, found, path=""):
    """Where a value of a state is another one than in the answer."""
    if isinstance(found, dict):
        for name in found.keys() & given.keys():
            yield from odd(given[name], found[name], f"{path}/{name}")
    elif isinstance(found, list):
        for number, one in enumerate(found):
            yield from odd(given[number], one, f"{path}/{number}")
    elif found != given:
        yield f"{path}: {given!r}, {found!r}"


def test_newest_recompiles_come_first():
    """Their age is by the clock of the job; those of unknown age follow, the most lost seconds first."""
    found = cleaned(
        call_sites=[
            site("old", lost_seconds=9.0), site("dear", last_time=1000.0, lost_seconds=8.0),
            site("new", last_time=1599.0, lost_seconds=0.1), site("cheap", lost_seconds=1.0),
            site("future", last_time=1700.0, lost_seconds=0.0),
        ]
    )  # fmt: skip

    assert [("new", 1.0), ("dear", 600.0), ("old", None), ("cheap", None), ("future", None)] == [
        (one["function"], seconds_ago) for seconds_ago, one in recompiles_of([found])
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("train.<lambda>@train.py:88", "train.<lambda>@train.py:88"),
        ("[bold red]x[/] <locals>", "[bold red]x[/] <locals>"),
        ("length 11 → 12", "length 11 → 12"),
        ("a\x1b[2Jb", "a?[2Jb"),
        ("a\x9b2Jb\x07", "a?2Jb?"),
        ("one\ntwo\tthree\r", "one two three "),
        ("\u202egnp.exe", "?gnp.exe"),
        ("\ud800", "?"),
        ("a\u2028b\u200bc", "a b?c"),
        (None, ""),
        (7, ""),
        (["x"], ""),
    ],
)
def test_clean_replaces_control_characters(value, expected):
    """Escapes and direction marks become `?`; brackets and arrows stay; a value that is no text is empty."""
    assert expected == clean(value)


@given(st.text())
def test_clean_text_is_printable(text):
    """Every character is one that a terminal shows."""
    assert all(one.isprintable() or (one.isspace() and one not in "\n\r\t\x0b\x0c") for one in clean(text))


def test_clean_shortens_what_has_no_end():
    """A job cannot fill the memory by a name."""
    assert 1000 == len(clean("x" * 10_000))


GONE = Answer(problem="nothing listens there", is_gone=True)
SLOW = Answer(problem="no response within 5 s")
ASKED_TOO_OFTEN = Answer(problem="the job limits its requests", retry_after_s=3.0)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], ("new", 10.0, "", False)),
        ([(100.0, GONE)], ("new", 10.0, "nothing listens there", False)),
        ([(101.0, state())], ("live", 0.0, "", True)),
        ([(101.0, state()), (103.0, SLOW)], ("silent", 9.0, "no response within 5 s", True)),
        ([(101.0, state()), (103.0, GONE)], ("ended", 9.0, "nothing listens there", True)),
        ([(101.0, state()), (103.0, SLOW), (105.0, GONE)], ("ended", 9.0, "nothing listens there", True)),
        ([(101.0, state()), (103.0, GONE), (105.0, state())], ("live", 0.0, "", True)),
        # It answers, only not with figures: the recent ones stay.
        ([(101.0, state()), (103.0, ASKED_TOO_OFTEN)], ("live", 0.0, "", True)),
        ([(40.0, state()), (103.0, ASKED_TOO_OFTEN)], ("silent", 70.0, ASKED_TOO_OFTEN.problem, True)),
        ([(101.0, state()), (102.0, SLOW), (103.0, ASKED_TOO_OFTEN)], ("silent", 9.0, ASKED_TOO_OFTEN.problem, True)),
        ([(100.0, ASKED_TOO_OFTEN)], ("new", 10.0, ASKED_TOO_OFTEN.problem, False)),
    ],
)
def test_status_follows_the_answers(answers, expected):
    """The last figures stay, with the time since they arrived."""
    start = [] if answers and answers[0][0] == 100.0 else [(100.0, Answer())]
    found = tracked(*start, *answers, now=110.0)

    assert expected == (found.status, found.quiet_s, found.problem, found.state is not None)


def test_recompiles_grow_older_between_two_answers():
    """A job that does not answer any more has not recompiled just now."""
    before = state(call_sites=[site(last_time=1598.0), site("train.other")])
    found = tracked((100.0, before), (103.0, SLOW), now=110.0)

    assert [12.0, None] == [seconds_ago for seconds_ago, _ in recompiles_of([found.state])]


STORM = ("bad", "train_step is in a recompile storm: 12 recompiles in the last minute.")
LEAK = ("warn", "Host memory keeps growing.")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (process(), ("good", "Healthy: no function has recompiled.")),
        (process(health=health(STORM, LEAK)), STORM),
        (process(health={}), ("warn", "The job responds, but reports no health.")),
        (process(health=health(("purple", "Something new."))), ("warn", "Something new.")),
        (Process(URL, "new"), ("gone", "No response yet.")),
        (Process(URL, "new", problem="nothing listens there"), ("gone", "nothing listens there.")),
        (
            replace(process(health=health(STORM), status="silent"), quiet_s=12.0, problem="no response within 5 s"),
            ("warn", "Not responding for 12 s: no response within 5 s."),
        ),
        (
            replace(process(health=health(STORM), status="ended"), quiet_s=12.0),
            ("gone", "Ended 12 s ago: nothing listens at 127.0.0.1:10431 any more."),
        ),
    ],
)
def test_finding_is_the_agents_own_while_it_answers(given, expected):
    """What it reported last is not repeated once it does not answer."""
    found = given.findings[0]

    assert expected == (found["level"], found["sentence"])
    assert given.level == found["level"]


def test_findings_are_all_that_the_agent_says_in_its_order():
    """A storm does not hide that memory grows."""
    found = process(health=health(STORM, LEAK)).findings

    assert [STORM, LEAK] == [(one["level"], one["sentence"]) for one in found]


def test_in_order_puts_the_living_first():
    """Jobs are ordered by run and process index, so that a row keeps its place."""
    gone = process(url="http://a:1", run="a", status="ended")
    late = process(url="http://b:1", run="b", process_index=10)
    early = process(url="http://b:2", run="b", process_index=9)
    never = tracked((1.0, Answer(problem="x")), now=2.0)

    assert [early, late, never, gone] == in_order([gone, late, never, early])


def test_functions_of_sums_over_processes_and_marks_what_differs():
    """Where they agree nothing is marked; a process without the function counts as 0."""
    step = function(compiles=2, recompiles=1, seconds=2.0, lost_seconds=6.0, cache_entries=None, causes={"shape": 1})
    first = cleaned(step, function("train.evaluate"), run="both")
    more = {"compiles": 4, "recompiles": 3, "causes": {"shape": 2, "dtype": 1}, "cache_entries": 4, "level": "warn"}
    second = cleaned(step | more, run="both")
    both, alone = functions_of([first, second])

    assert [6, 4, 4.0, 12.0, 0.01, "warn"] == [
        both[name] for name in ("compiles", "recompiles", "seconds", "lost_seconds", "lost_ratio", "level")
    ]
    assert ({"shape": 3, "dtype": 1}, 4) == (both["causes"], both["cache_entries"])
    assert ((2, 4), (1, 3)) == (both["compiles_spread"], both["recompiles_spread"])
    assert ((0, 1), None, 1) == (alone["compiles_spread"], alone["recompiles_spread"], alone["compiles"])


def test_functions_of_does_not_compare_different_runs():
    """They are other jobs; their sums are shown, and a spread within one of them."""
    one, other = cleaned(function(compiles=1), run="a"), cleaned(function(compiles=5), run="b")
    twin = cleaned(function(compiles=2), run="a")

    assert [(6, None)] == [(row["compiles"], row["compiles_spread"]) for row in functions_of([one, other])]
    assert [(8, (1, 2))] == [(row["compiles"], row["compiles_spread"]) for row in functions_of([one, other, twin])]


def test_functions_of_leaves_a_single_process_alone():
    """As it is."""
    one = cleaned(function(compiles=3))

    assert one["functions"] == functions_of([one])


def test_counted_leaves_out_what_has_ended():
    """Unless nothing else is left."""
    living, ended = process(function()), process(function("old"), status="ended")

    assert [living.state] == counted([living, ended])
    assert [ended.state] == counted([ended])


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("lost", "abcd"), ("seconds", "dbca"), ("recompiles", "cabd"), ("compiles", "bdca"), ("name", "abcd")],
)
def test_functions_of_sorts_by_each_key(sort, expected):
    """The highest value is first; functions that never compiled are left out."""
    rows = [
        function("b", seconds=3.0, lost_seconds=2.0, recompiles=1, compiles=9),
        function("a", seconds=1.0, lost_seconds=3.0, recompiles=2, compiles=1),
        function("c", seconds=2.0, lost_seconds=1.0, recompiles=3, compiles=2),
        function("d", seconds=4.0, lost_seconds=0.0, recompiles=0, compiles=3),
        function("e", compiles=0),
    ]

    assert ["lost", "seconds", "recompiles", "compiles", "name"] == list(SORTS)
    assert expected == "".join(one["function"] for one in functions_of([cleaned(*rows)], sort))
