"""What jobs answer, as typed rows: read from any answer, followed over time, merged and ordered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jitwatch
from jitwatch.top.model import (
    SORTS,
    Answer,
    DeviceMemory,
    Process,
    clean,
    counted,
    figures_of,
    functions_of,
    in_order,
    merged,
    shown_of,
    verdicts_of,
    verdicts_of_all,
)
from tests.unit.top_states import URL, figures, function, health, pitfall, process, site, state, tracked

ODD = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_figures_are_those_of_the_state():
    """Counts, times, the fullest device, functions, recompiles and pitfalls."""
    rows = (function(compiles=3, recompiles=2, lost_seconds=6.0, lost_ratio=0.01), function("__jax__", compiles=9))
    found = figures(
        *rows,
        call_sites=[site(), site(reason="")],
        pitfalls=[pitfall(), pitfall("train.other", lost_seconds=0.0)],
        in_progress=[{"function": "train.train_step", "phase": "compile", "for_s": 12.5, "thread": "MainThread"}],
        metrics={"jitwatch_oom_total": [{"labels": {}, "value": 2.0}]},
        steady_seconds=10.0,
    )

    assert ("4711", None, 7, 1200, 0.25) == (found.run, found.process_index, found.pid, found.step, found.step_seconds)
    assert (3, 2, 6.0, 0.01, 0.25) == (
        found.compiles, found.recompiles, found.lost_seconds, found.lost_ratio, found.compiling_ratio
    )  # fmt: skip
    assert (2, True, 500 * 2**20) == (found.out_of_memory, found.is_steady, found.host_resident_bytes)
    assert found.memory == DeviceMemory(
        device="gpu:0", in_use_bytes=34 * 2**30, limit_bytes=80 * 2**30, is_estimate=False
    )
    assert [("train.train_step", "compile", 12.5)] == [
        (one.function, one.phase, one.for_seconds) for one in found.in_progress
    ]
    assert ["train.train_step", "__jax__"] == [one.function for one in found.functions]
    assert ["/home/user/train.py:88"] == [one.call_site for one in found.newest_recompiles]
    assert [0.5, 0.0] == [one.lost_seconds for one in found.pitfalls]


def test_texts_are_cleaned():
    """A function's name is whatever the job made it."""
    found = figures(function("a\x1b[2Jb"), call_sites=[site(reason="x\x07")], pitfalls=[pitfall(advice="\x9b")])

    assert ("a?[2Jb", "x?", "?") == (
        found.functions[0].function,
        found.newest_recompiles[0].reason,
        found.pitfalls[0].advice,
    )


@pytest.mark.parametrize("answer", [None, [], "x", 7, {}, {"totals": None}, {"functions": []}])
def test_what_is_no_state_has_no_figures(answer):
    """Another server answers there."""
    assert None is figures_of(answer)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, 10**400, True, "7", None, [7]])
def test_what_is_no_amount_is_none(odd):
    """A value that cannot be shown, or written as JSON, is 0."""
    found = figures(function(seconds=odd), uptime_seconds=odd, mean_step_seconds=odd)

    assert (0.0, 0.0, None) == (found.functions[0].seconds, found.uptime_seconds, found.step_seconds)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_figures_of_never_fails(data):
    """Any part may be missing or odd; what comes out can always be written as JSON."""
    whole = state(function(), call_sites=[site()], pitfalls=[pitfall()])
    for name in data.draw(st.sets(st.sampled_from(sorted(set(whole) - {"totals"})))):
        whole[name] = data.draw(ODD)
    whole["totals"] = data.draw(st.dictionaries(st.sampled_from(sorted(whole["totals"])), ODD))
    whole["functions"] = data.draw(st.lists(st.dictionaries(st.sampled_from(sorted(function())), ODD)) | ODD)

    found = figures_of(whole)

    assert found is not None
    assert json.dumps([found.compiles, found.uptime_seconds, found.lost_ratio], allow_nan=False)


def test_figures_of_a_real_agent():
    """The names are those that `snapshot()` really has."""
    with jitwatch.install(port=0, run="real") as watch:
        found = figures_of(json.loads(json.dumps(watch.snapshot())))

    assert found is not None
    assert ("real", True) == (found.run, found.uptime_seconds > 0)
    assert found.pid is not None
    assert found.host_resident_bytes is None or found.host_resident_bytes > 0


def test_newest_recompiles_come_first():
    """Their age is by the clock of the job; those of unknown age follow, the most lost seconds first."""
    found = figures(
        call_sites=[
            site("old", lost_seconds=9.0), site("dear", last_time=1000.0, lost_seconds=8.0),
            site("new", last_time=1599.0, lost_seconds=0.1), site("cheap", lost_seconds=1.0),
        ]
    )  # fmt: skip

    assert [("new", 1.0), ("dear", 600.0), ("old", None), ("cheap", None)] == [
        (one.function, one.seconds_ago) for one in found.newest_recompiles
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

    assert expected == (found.status, found.quiet_s, found.problem, found.figures is not None)


def test_recompiles_grow_older_between_two_answers():
    """A job that does not answer any more has not recompiled just now."""
    before = state(call_sites=[site(last_time=1598.0), site("train.other")])
    found = tracked((100.0, before), (103.0, SLOW), now=110.0)

    assert [12.0, None] == [one.seconds_ago for one in found.figures.newest_recompiles]


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
            ("warn", "Not responding, last response 12 s ago: no response within 5 s."),
        ),
        (
            replace(process(health=health(STORM), status="ended"), quiet_s=12.0),
            ("gone", "Ended 12 s ago: nothing listens at 127.0.0.1:10431 any more."),
        ),
    ],
)
def test_verdict_is_the_agents_own_while_it_answers(given, expected):
    """What it reported last is not repeated once it does not answer."""
    found = verdicts_of(given)[0]

    assert expected == (found.level, found.sentence)


def test_verdicts_are_all_that_the_agent_says_in_its_order():
    """A storm does not hide that memory grows."""
    found = verdicts_of(process(health=health(STORM, LEAK)))

    assert [STORM, LEAK] == [(one.level, one.sentence) for one in found]


def test_in_order_puts_the_living_first():
    """Jobs are ordered by run and process index, so that a row keeps its place."""
    gone = process(url="http://a:1", run="a", status="ended")
    late = process(url="http://b:1", run="b", process_index=10)
    early = process(url="http://b:2", run="b", process_index=9)
    never = tracked((1.0, Answer(problem="x")), now=2.0)

    assert [early, late, never, gone] == in_order([gone, late, never, early])


def test_merged_sums_over_processes_and_marks_what_differs():
    """Where they agree nothing is marked; a process without the function counts as 0."""
    step = function(compiles=2, recompiles=1, seconds=2.0, lost_seconds=6.0, cache_entries=None, causes={"shape": 1})
    first = figures(step, function("train.evaluate"), run="both")
    second = figures(
        step | {"compiles": 4, "recompiles": 3, "causes": {"shape": 2, "dtype": 1}, "cache_entries": 4}, run="both"
    )
    found = {one.function: one for one in merged([first, second])}
    both, alone = found["train.train_step"], found["train.evaluate"]

    assert (6, 4, 4.0, 12.0, 0.01) == (
        both.compiles, both.recompiles, both.seconds, both.lost_seconds, both.lost_ratio
    )  # fmt: skip
    assert ({"shape": 3, "dtype": 1}, 4) == (both.causes, both.cache_entries)
    assert ((2, 4), (1, 3)) == (both.compiles_spread, both.recompiles_spread)
    assert ((0, 1), None, 1) == (alone.compiles_spread, alone.recompiles_spread, alone.compiles)


def test_merged_does_not_compare_different_runs():
    """They are other jobs; their sums are shown, and a spread within one of them."""
    one, other = figures(function(compiles=1), run="a"), figures(function(compiles=5), run="b")
    twin = figures(function(compiles=2), run="a")

    assert [(6, None)] == [(row.compiles, row.compiles_spread) for row in merged([one, other])]
    assert [(8, (1, 2))] == [(row.compiles, row.compiles_spread) for row in merged([one, other, twin])]


def test_merged_leaves_a_single_process_alone():
    """As it is."""
    one = figures(function(compiles=3))

    assert list(one.functions) == merged([one])


def test_counted_leaves_out_what_has_ended():
    """Unless nothing else is left."""
    living, ended = process(function()), process(function("old"), status="ended")

    assert [living.figures] == counted([living, ended])
    assert [ended.figures] == counted([ended])


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
    assert expected == "".join(one.function for one in functions_of([process(*rows)], sort))


def test_shown_of_is_the_chosen_process_or_all():
    """An address that is not there any more chooses nothing."""
    one, other = process(url="a"), process(url="b")

    assert ([one], [one, other], [one, other]) == (
        shown_of([one, other], "a"), shown_of([one, other], None), shown_of([one, other], "c")
    )  # fmt: skip


def test_verdicts_of_all_are_the_worst_of_each_process():
    """A healthy process is not mentioned beside one with a problem."""
    well, ill = process(url="a"), process(url="b", health=health(LEAK, ("busy", "It compiles.")))
    worse = process(url="c", health=health(STORM, LEAK))
    found = verdicts_of_all([well, ill, worse])

    assert [(worse, STORM), (ill, LEAK)] == [(one, (verdict.level, verdict.sentence)) for one, verdict in found]


def test_verdicts_of_all_are_one_sentence_if_all_are_healthy():
    """A single process has the agent's own sentence instead."""
    found = verdicts_of_all([process(url="a"), process(url="b")])

    assert [("good", "All 2 processes are healthy.")] == [(one.level, one.sentence) for _, one in found]
    assert ["Healthy: no function has recompiled."] == [one.sentence for _, one in verdicts_of_all([process()])]
