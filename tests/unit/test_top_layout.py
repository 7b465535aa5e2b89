"""A whole picture: what is in it, in what order, and that it never exceeds the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitwatch.top.cells import width
from jitwatch.top.fetching import Answer
from jitwatch.top.frame import SORTS, Frame, in_order
from jitwatch.top.header import duration
from jitwatch.top.layout import lay_out
from jitwatch.top.lines import plain
from jitwatch.top.tracking import Process
from tests.unit.top_states import URL, function, health, pitfall, process, site, tracked

STORM = function(
    compiles=13, recompiles=12, is_in_storm=True, seconds=10.0, lost_seconds=9.0, lost_ratio=0.015,
    cache_entries=13, causes={"static_arg": 11, "dtype": 1},
)  # fmt: skip
ILL = process(
    STORM,
    function("train.evaluate", seconds=2.0),
    function("__jax__", compiles=40, recompiles=38, seconds=3.0),
    health=health(("bad", "train_step is in a recompile storm: 12 recompiles in the last minute. The newest: length.")),
    call_sites=[site(pitfall="static_arg_churn")],
    pitfalls=[pitfall()],
)


def rows(frame: Frame, columns: int = 80, lines: int = 24) -> list[str]:
    return [plain(one) for one in lay_out(frame, columns, lines)]


def test_picture_of_one_process_has_everything():
    """In the size of an old terminal."""
    assert [
        "4711 · 127.0.0.1:10431 · up 10 min · step 1,200, 250 ms each",
        "14 compiles · 12 recompiles · compiling 25 % of the time · 1 storm now",
        "0 donation violations · gpu:0 34.0 of 80.0 GiB · RSS 500 MiB",
        "✗ train_step is in a recompile storm: 12 recompiles in the last minute. The",
        "  newest: length.",
        "  nothing compiles right now",
        "",
        "function          compiles  recompiles  seconds  lost  of run  cause",
        "train.train_step        13          12    10.00  9.00     2 %  static_arg +1",
        "(JAX's own)             40          38     3.00     –       –",
        "train.evaluate           1           0     2.00     –       –",
        "",
        "Newest recompiles",
        "- train_step at train.py:88: length 11 → 12. 2 recompiles, 1.50 s lost.",
        "",
        "What to change",
        "- static_arg_churn in train_step at train.py:88: the static argument length too…",
        "  → Pass length as an ordinary argument instead of a static one.",
        "",
        "",
        "",
        "",
        "",
        " q quit  s sort by lost  p pause",
    ] == rows(Frame(processes=[ILL], keys=True))


def test_picture_uses_a_wide_terminal():
    """Whole names, and the column that was left out."""
    found = rows(Frame(processes=[ILL]), 120, 40)

    assert any(one.startswith("function") and "  cached  cause" in one for one in found)
    assert any(one.startswith("train.train_step ") for one in found)
    assert any(one.endswith("took 12 different values, and each one is a") for one in found)


def test_picture_of_a_small_terminal_keeps_what_matters():
    """The verdict and the costliest function."""
    found = rows(Frame(processes=[ILL], keys=True), 40, 10)

    assert 10 == len(found)
    assert "✗ train_step is in a recompile storm: 1…" in found
    assert any(one.startswith("train.train_step") and "9.00" in one for one in found)


def test_picture_of_a_tiny_terminal_begins_at_its_beginning():
    """What does not fit is what is below."""
    assert ["4711 · 127.0.0.1:10431 · up 10 min", "14 compiles · 12 recompiles"] == rows(
        Frame(processes=[ILL], keys=True), 40, 3
    )[:2]


def test_many_functions_are_counted_where_they_do_not_fit():
    """And all are shown where they do."""
    many = process(*(function(f"train.f{number:02}", seconds=99.0 - number) for number in range(30)))
    small, large = rows(Frame(processes=[many])), rows(Frame(processes=[many]), 80, 50)

    assert "and 14 more functions" == small[-1].strip()
    assert 30 - 14 == sum(one.startswith("train.f") for one in small)
    assert 30 == sum(one.startswith("train.f") for one in large)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("lost", "abcd"), ("seconds", "dbca"), ("recompiles", "cabd"), ("compiles", "bdca"), ("name", "abcd")],
)
def test_functions_are_sorted_as_the_user_chose(sort, expected):
    """Each key of the order, the highest first; functions that never compiled are left out."""
    given_rows = [
        function("b", seconds=3.0, lost_seconds=2.0, recompiles=1, compiles=9),
        function("a", seconds=1.0, lost_seconds=3.0, recompiles=2, compiles=1),
        function("c", seconds=2.0, lost_seconds=1.0, recompiles=3, compiles=2),
        function("d", seconds=4.0, lost_seconds=0.0, recompiles=0, compiles=3),
        function("e", compiles=0),
    ]
    found = rows(Frame(processes=[process(*given_rows)], sort=sort))
    table = [one[0] for one in found if len(one) > 2 and one[0] in "abcde" and one[1] == " "]

    assert list(SORTS) == ["lost", "seconds", "recompiles", "compiles", "name"]
    assert expected == "".join(table)


def test_several_processes_have_a_row_each_and_one_table():
    """Summed, and marked where the processes of the run differ."""
    first = process(function(compiles=2), url=URL, run="both", process_index=0)
    second = process(function(compiles=3), url="http://127.0.0.1:10432", run="both", process_index=1)
    found = rows(Frame(processes=[first, second], keys=True))

    assert found[0].startswith("  process")
    assert found[1].startswith(" ✓ both/0")
    assert found[2].startswith(" ✓ both/1")
    assert "train.train_step   5 (2–3)           0     2.00     –       –       2" in found
    assert "✓ All 2 processes are healthy." in found
    assert found[-1].endswith("tab process: all")


def test_chosen_process_is_marked_and_alone_in_the_table():
    """What is said is said of it."""
    other = process(function("other.f"), url="http://127.0.0.1:10432", run="other")
    found = rows(Frame(processes=[ILL, other], chosen=other.url, keys=True))

    assert "▸✓ other" == found[2][:8]
    assert "✓ Healthy: nothing was compiled twice." in found
    assert not any("train_step" in one for one in found)
    assert found[-1].endswith("tab process: other")


def test_worst_process_is_named():
    """And a healthy one is not heard beside it."""
    well = process(function("other.f"), url="http://127.0.0.1:10432", run="other")
    found = rows(Frame(processes=[well, ILL]))

    assert "✗ 4711: train_step is in a recompile storm: 12 recompiles in the last minute." in found
    assert not any("Healthy" in one for one in found)


def test_too_many_processes_show_the_worst_and_count_the_rest():
    """Or those around the chosen one."""
    crowd = [process(url=f"http://127.0.0.1:{port}", run="r", process_index=port) for port in range(40)]
    crowd[30] = replace(ILL, url="http://127.0.0.1:30")
    ill = rows(Frame(processes=crowd))
    chosen = rows(Frame(processes=crowd, chosen=crowd[20].url))

    assert any(one.startswith(" ✗ 4711") for one in ill)
    assert "  and 34 more processes" in ill
    assert any(one.startswith("▸✓ r/20") for one in chosen)
    assert "  and 34 more processes, 1 of them not well" in chosen


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (Process(URL, "new", problem="nothing listens there"), ["127.0.0.1:10431", "– nothing listens there."]),
        (
            replace(ILL, status="ended", quiet_s=12.0),
            ["– Ended 12 s ago: nothing listens at 127.0.0.1:10431 any more."],
        ),
        (
            replace(ILL, status="silent", quiet_s=12.0, problem="no answer within 5 s"),
            ["! Not answering since 12 s: no answer within 5 s."],
        ),
    ],
)
def test_job_that_does_not_answer_is_shown_with_its_last_state(one, expected):
    """And nothing is said of what compiles right now."""
    found = rows(Frame(processes=[one]))

    assert expected == [line for line in found if line in expected]
    assert not any("right now" in line for line in found)
    assert (one.figures is not None) == any(line.startswith("train.train_step") for line in found)


def test_what_compiles_now_is_said_with_how_long():
    """The longest first, in which process where there are several, and that it is not for the first time."""
    running = [
        {"function": "train.f", "phase": "trace", "for_s": 0.25},
        {"function": "train.g", "phase": "compile", "for_s": 75.0},
    ]
    one = process(function(), in_progress=running)
    two = process(function(), url="http://127.0.0.1:10432", run="other")

    again = process(function("train.g"), in_progress=[running[1] | {"is_again": True}])

    assert "  compiles now: g for 75.0 s (compile) · f for 250 ms (trace)" in rows(Frame(processes=[one]))
    assert "  compiles now: g again for 75.0 s (compile)" in rows(Frame(processes=[again]))
    assert "  compiles now: g in 4711 for 75.0 s (compile)" in rows(Frame(processes=[one, two]), 60)


def test_nothing_found_is_said():
    """With what to do."""
    assert ["No job, none", "at all.", "", " q quit  s so…"] == rows(
        Frame(processes=[], note="No job, none at all.", keys=True), 14, 4
    )


def test_pause_is_shown():
    """So that nobody takes an old picture for a new one."""
    assert " q quit  s sort by lost  p go on  paused" == rows(Frame(processes=[ILL], keys=True, is_paused=True))[-1]


def test_advice_is_shown_once_for_all_processes():
    """All processes of a run commit the same mistakes."""
    found = rows(Frame(processes=[ILL, replace(ILL, url="http://127.0.0.1:10432")]), 100, 50)

    assert 1 == sum(one.startswith("- static_arg_churn") for one in found)


def test_recompile_without_a_pitfall_has_advice_too():
    """Nothing else would say what to change; the dearest comes first, and what does not fit is counted."""
    dear, cheap = site(advice="Pad it", lost_seconds=9.0), site(paths=["x"], advice="Cast it", lost_seconds=0.1)
    found = rows(Frame(processes=[process(STORM, call_sites=[cheap, dear], pitfalls=[pitfall()])]), 80, 18)
    told = found[found.index("What to change · 1 more") :]

    assert ["Pad it", "Pass length as an ordinary argument instead of a static one"] == [
        one.removeprefix("  → ").removesuffix(".") for one in told if "→ " in one and not one.startswith("-")
    ]


def test_recompile_of_a_pitfall_is_advised_on_once():
    """By the mistake."""
    found = rows(Frame(processes=[ILL]), 100, 50)

    assert 1 == sum("→ Pass length" in one for one in found)


def test_age_of_a_recompile_is_told_where_it_is_known():
    """By the job's own clock."""
    found = rows(Frame(processes=[process(STORM, call_sites=[site(last_time=1597.0)])]))

    assert any(line.startswith("- 3 s ago: train_step at train.py:88: length") for line in found)


NAMES = st.text(st.characters(), min_size=1, max_size=80) | st.sampled_from(["train.<lambda>@train.py:88", "模型" * 30])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.integers(0, 10**9), st.floats(0, 10**7)), max_size=40),
    st.integers(0, 6),
    st.integers(1, 200),
    st.integers(1, 60),
    st.booleans(),
)
def test_picture_never_exceeds_the_terminal(named, others, columns, lines, keys):
    """Whatever the names and figures, however small or large it is; and nothing in it steers the terminal."""
    functions = [
        function(name, compiles=number, recompiles=number, seconds=seconds, lost_seconds=seconds, causes={name: 1})
        for name, number, seconds in named
    ]
    texts = [site(name, reason=name, advice=name) for name, _, _ in named]
    mistakes = [pitfall(name, message=name, advice=name) for name, _, _ in named]
    processes = [
        process(*functions, url=f"http://127.0.0.1:{port}", run=named[0][0] if named else "r", process_index=port,
                call_sites=texts, pitfalls=mistakes)
        for port in range(others)
    ]  # fmt: skip
    found = rows(Frame(processes=processes, note="none", keys=keys), columns, lines)

    assert len(found) <= lines
    assert all(width(one) <= columns for one in found)
    assert all(character.isprintable() or character.isspace() for one in found for character in one)


def test_in_order_puts_the_living_first():
    """Then by run and place in it, so that a row stays where it is."""
    gone = process(url="http://a:1", run="a", status="ended")
    late = process(url="http://b:1", run="b", process_index=10)
    early = process(url="http://b:2", run="b", process_index=9)
    never = tracked((1.0, Answer(problem="x")), now=2.0)

    assert [early, late, never, gone] == in_order([gone, late, never, early])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (3700, "1 h 01 min"),
        (90_000, "1 d 01 h"),
    ],
)
def test_duration_has_two_units_at_most(seconds, expected):
    """As a person would say it."""
    assert expected == duration(seconds)
