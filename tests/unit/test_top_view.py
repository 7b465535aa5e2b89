"""How jobs are shown as lines of text: what is in them, in what order, and that no line exceeds the terminal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitwatch.top.model import Process, clean, functions_of
from jitwatch.top.view import (
    Column,
    advice,
    as_json,
    as_text,
    cut,
    duration,
    facts,
    fit,
    flowed,
    functions_table,
    padded,
    plain,
    processes_table,
    recompiles,
    running,
    short_name,
    table,
    verdicts,
    width,
    wrapped,
)
from tests.unit.top_states import URL, figures, function, health, pitfall, process, site

STORM = function(
    compiles=13, recompiles=12, is_in_storm=True, seconds=10.0, lost_seconds=9.0, lost_ratio=0.015,
    cache_entries=13, causes={"static_arg": 11, "dtype": 1},
)  # fmt: skip
ILL = process(
    STORM,
    function("train.evaluate", seconds=2.0),
    function("__jax__", compiles=40, recompiles=38, seconds=3.0),
    health=health(
        ("bad", "train_step is in a recompile storm: 12 recompiles in the last minute. Newest recompile: length.")
    ),
    call_sites=[site(pitfall="static_arg_churn")],
    pitfalls=[pitfall()],
)
OTHER = "http://127.0.0.1:10432"


def texts(lines) -> list[str]:
    return [plain(one) for one in lines]


@given(st.text(max_size=60), st.integers(0, 30))
def test_fit_and_padded_keep_the_width(text, columns):
    """Wide and combining characters are counted as a terminal does."""
    text = clean(text)

    assert width(fit(text, columns)) <= columns
    assert columns == width(padded(text, columns)) == width(padded(text, columns, is_right=True))


def test_fit_marks_a_cut_text():
    """An ellipsis is in the last column; a wide character that does not fit is left out as a whole."""
    assert ("train_step", "train_s…", "模…") == (fit("train_step", 10), fit("train_step", 8), fit("模型名", 4))


@given(st.text(max_size=200), st.integers(0, 40), st.integers(0, 4))
def test_wrapped_keeps_width_and_number_of_lines(text, columns, lines):
    """Any text is wrapped into the given size."""
    found = wrapped(clean(text), columns, lines, indent="  ")

    assert len(found) <= lines
    assert all(width(line) <= columns for line in found)


def test_wrapped_marks_a_cut_text():
    """The last line is full and ends with an ellipsis."""
    assert ["one two", "  thre…"] == wrapped("one two three four", 7, 2, indent="  ")


@pytest.mark.parametrize(
    ("label", "columns", "expected"),
    [
        ("train.train_step", 16, "train.train_step"),
        ("train.train_step", 15, "train_step"),
        ("train.train_step", None, "train_step"),
        ("train.train_step", 5, "trai…"),
        ("train.make.<locals>.loss@train.py:9", 15, "loss@train.py:9"),
        ("train.make.<locals>.loss@train.py:9", 14, "loss"),
        ("train.make.<locals>.loss@train.py:9", None, "loss"),
        ("train.<lambda>@train.py:88", None, "<lambda>@train.py:88"),
        ("train.<lambda>@train.py:88", 12, "<lambda>@tr…"),
        ("train.Model.step", 10, "step"),
        ("odd.", 3, "od…"),
        ("", 3, ""),
    ],
)
def test_short_name_keeps_what_distinguishes_functions(label, columns, expected):
    """The module is dropped first, then the place, except that of a lambda."""
    assert expected == short_name(label, columns)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (599, "9 min 59 s"),
        (600, "10 min"), (3700, "1 h 01 min"), (90_000, "1 d 01 h"),
    ],
)  # fmt: skip
def test_duration_has_two_units_at_most(seconds, expected):
    """Seconds, minutes, hours and days."""
    assert expected == duration(seconds)


def test_cut_shortens_the_text_that_is_too_long():
    """The styles of the others stay."""
    assert (("one", "bold"), (" t…", "dim")) == cut((("one", "bold"), (" two", "dim"), ("x", "")), 6)


def test_flowed_breaks_no_item():
    """An item that does not fit into the last line is left out, and a shorter one takes its place."""
    items = [("aaaa", ""), ("bbbb", ""), ("cccccccccc", ""), ("d", "")]

    assert ["aaaa · bbbb"] == texts(flowed(items, 13, 1))
    assert ["aaaa · bbbb", "cccccccccc"] == texts(flowed(items, 13, 2))
    assert ["aaaa · d"] == texts(flowed(items, 8, 1))


def test_table_aligns_and_shortens_names_only():
    """Numbers are right-aligned and whole."""
    names = Column("name", ["train_step", "f"])
    others = [Column("n", ["1", "1,200"]), Column("why", ["shape", ""], is_right=False)]

    assert ["name            n  why", "train_step      1  shape", "f           1,200"] == texts(
        table(names, others, 80)
    )
    assert ["name          n  why", "train_s…      1  shape", "f         1,200"] == texts(table(names, others, 22))


def test_table_leaves_out_columns_of_the_highest_rank_first():
    """Those of rank 0 stay, and then the line is cut."""
    names = Column("name", ["train_step"])
    others = [Column("aa", ["1"], 1), Column("bb", ["2"], 2), Column("cc", ["3"])]

    assert ["name        aa  cc", "train_step   1   3"] == texts(table(names, others, 18))
    assert ["name        cc", "train_step   3"] == texts(table(names, others, 14))
    assert ["…  …", "…  …"] == texts(table(names, others, 4))


def test_text_of_one_process_has_every_fact():
    """Run, counts, memory, health, functions, recompiles and advice are in it, with no blank at the end of a line."""
    assert [
        "4711 · 127.0.0.1:10431 · up 10 min · step 1,200, 250 ms each",
        "14 compiles · 12 recompiles · compiling 25 % of the time · 1 storm now",
        "0 donation violations · gpu:0 34 GiB of 80 GiB · RSS 500 MiB",
        "✗ train_step is in a recompile storm: 12 recompiles in the last minute. Newest",
        "  recompile: length.",
        "  no compile in progress",
        "",
        "function          compiles  recompiles  seconds  lost  of run  cause",
        "train.train_step        13          12    10.00  9.00     2 %  static_arg +1",
        "(JAX's own)             40          38     3.00     –       –",
        "train.evaluate           1           0     2.00     –       –",
        "",
        "Newest recompiles",
        "- train_step at train.py:88: length 11 → 12. 2 recompiles, 1.50 s lost.",
        "",
        "Advice",
        "- static_arg_churn in train_step at train.py:88: the static argument length had",
        "  12 different values, and each one needed a compile.",
        "  → Pass length as an ordinary argument instead of a static one.",
        "",
    ] == as_text([ILL], 80).split("\n")


def test_facts_mark_what_is_wrong():
    """Recompiles are yellow; storms, donation violations and memory under pressure are red."""
    one = process(STORM, totals={"donation_violations": 3}, steady_seconds=1.0)
    memory = {"devices": [{"device": "gpu:0", "in_use_bytes": 2**30, "in_use_from": "arrays"}], "pressure": ["gpu:0"]}
    styles = {text: style for line in facts(one, 200) for text, style in line}
    full = process(memory=memory | {"host": {"resident_bytes": 2**20}}, totals={"failures": 2})

    assert ("warn", "bad", "bad") == (styles["12 recompiles"], styles["1 storm now"], styles["3 donation violations"])
    assert ("gpu:0 1 GiB of arrays", "bad") in facts(full, 200)[1]
    assert ("2 compiles failed", "") in facts(full, 200)[1]


@pytest.mark.parametrize(
    ("in_use", "expected"),
    [(999, "999 bytes"), (16_640, "16.2 KiB"), (1010 * 2**20, "1,010 MiB"), (34.25 * 2**30, "34.2 GiB")],
)
def test_memory_has_a_readable_unit(in_use, expected):
    """Three digits, or four before the next unit; never an exponent."""
    memory = {"devices": [{"device": "gpu:0", "in_use_bytes": in_use, "in_use_from": "device"}]}

    assert f"gpu:0 {expected}" in plain(facts(process(memory=memory), 200)[1])


def test_wide_terminal_shows_all_columns():
    """Names are whole, and the column that was left out is there."""
    found = texts(functions_table(functions_of([ILL]), 120, 40))

    assert found[0].endswith("  cached  cause")
    assert found[1].startswith("train.train_step ")


def test_functions_table_counts_the_functions_that_do_not_fit():
    """All of them are shown where they fit."""
    many = functions_of([process(*(function(f"train.f{number:02}", seconds=99.0 - number) for number in range(30)))])

    assert ["train.f14", "and 15 more functions"] == [
        one.split("  ")[0] for one in texts(functions_table(many, 80, 16))[-2:]
    ]
    assert 31 == len(functions_table(many, 80, 30))


def test_functions_table_without_functions_says_so():
    """A job that has just started has none."""
    assert ["No function has compiled yet."] == texts(functions_table([], 80, 30))


def test_functions_table_marks_storms_and_recompiles():
    """A function in a storm is red; JAX's own recompiles are not marked."""
    _, storm, jax, other = functions_table(functions_of([ILL]), 80, 30)

    assert ("bad", "", "") == (storm[0][1], jax[0][1], other[0][1])
    assert ("warn", "", "") == (storm[2][1], jax[2][1], other[2][1])


def test_cause_is_the_most_frequent_one():
    """The others are counted; of equally frequent ones the first by name is shown."""
    rows = functions_of([process(function(causes={"dtype": 1, "shape": 5, "static_arg": 5}), function("train.f"))])
    _, other, one = texts(functions_table(rows, 120, 30))

    assert (True, False) == (one.endswith("  shape +2"), "shape" in other)


def test_several_processes_have_a_row_each_and_one_table():
    """Counts are summed, with least and most where the processes of the run differ."""
    first = process(function(compiles=2), url=URL, run="both", process_index=0)
    second = process(function(compiles=3), url=OTHER, run="both", process_index=1)
    found = as_text([first, second], 80).split("\n")

    assert found[0].startswith("  process")
    assert found[1].startswith(" ✓ both/0")
    assert found[2].startswith(" ✓ both/1")
    assert "train.train_step   5 (2–3)           0     2.00     –       –       2" in found
    assert "✓ All 2 processes are healthy." in found


def test_chosen_process_is_marked():
    """The others are not."""
    other = process(function("other.f"), url=OTHER, run="other")

    assert [" ✗ 4711", "▸✓ other"] == [
        one[:8].rstrip() for one in texts(processes_table([ILL, other], OTHER, 80, 9))[1:]
    ]


def test_worst_process_is_named():
    """A healthy one is not mentioned beside it."""
    well = process(function("other.f"), url=OTHER, run="other")

    assert [
        "✗ 4711: train_step is in a recompile storm: 12 recompiles in the last minute.",
        "  Newest recompile: length.",
    ] == texts(verdicts([well, ILL], 80))


def test_too_many_processes_show_the_worst_and_count_the_rest():
    """Around a chosen one its neighbours are shown instead."""
    crowd = [process(url=f"http://127.0.0.1:{port}", run="r", process_index=port) for port in range(40)]
    crowd[30] = replace(ILL, url="http://127.0.0.1:30")
    worst, chosen = texts(processes_table(crowd, None, 80, 8)), texts(processes_table(crowd, crowd[20].url, 80, 8))

    assert (8, True, "  and 34 more processes") == (len(worst), worst[1].startswith(" ✗ 4711"), worst[-1])
    assert (8, "  and 34 more processes, 1 unhealthy") == (len(chosen), chosen[-1])
    assert any(one.startswith("▸✓ r/20") for one in chosen)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (Process(URL, "new", problem="nothing listens there"), ["127.0.0.1:10431", "– nothing listens there."]),
        (
            replace(ILL, status="ended", quiet_s=12.0),
            ["– Ended 12 s ago: nothing listens at 127.0.0.1:10431 any more."],
        ),
        (
            replace(ILL, status="silent", quiet_s=12.0, problem="no response within 5 s"),
            ["! Not responding, last response 12 s ago: no response within 5 s."],
        ),
    ],
)
def test_job_that_does_not_answer_is_shown_with_its_last_state(one, expected):
    """What compiles right now is not known."""
    found = as_text([one], 80).split("\n")

    assert expected == [line for line in found if line in expected]
    assert not any("right now" in line for line in found)
    assert (one.figures is not None) == any(line.startswith("train.train_step") for line in found)


def test_processes_table_shows_the_status_of_each():
    """A job that never answered has its address for a name."""
    silent = replace(process(url=OTHER, run="b"), status="silent", quiet_s=75.0)
    ended = replace(process(url=OTHER, run="c"), status="ended", quiet_s=75.0)
    never = Process("http://node7:1", "new")
    found = texts(processes_table([process(), silent, ended, never], None, 200, 9))

    assert ["10 min", "silent 1 min 15 s", "ended", "no response"] == [
        next(status for status in ("10 min", "silent 1 min 15 s", "ended", "no response") if status in line)
        for line in found[1:]
    ]
    assert found[4].startswith(" – node7:1")


def test_running_compiles_are_shown_with_their_time():
    """The longest is first, with its process where there are several, and whether the function has a program."""
    compiles = [
        {"function": "train.f", "phase": "trace", "for_s": 0.25},
        {"function": "train.g", "phase": "compile", "for_s": 75.0},
    ]
    one = process(function(), in_progress=compiles)
    two = process(function(), url=OTHER, run="other")
    again = process(function("train.g"), in_progress=[compiles[1] | {"is_again": True}])

    assert ["  compiling: g for 75.0 s (compile) · f for 250 ms (trace)"] == texts(running([one], 80))
    assert ["  compiling: g again for 75.0 s (compile)"] == texts(running([again], 80))
    assert ["  compiling: g in 4711 for 75.0 s (compile)"] == texts(running([one, two], 60))


def test_advice_is_shown_once_for_all_processes():
    """The processes of a run have the same pitfalls."""
    assert 1 == len(advice([ILL.figures, ILL.figures]))


def test_recompile_without_a_pitfall_has_advice_too():
    """The most lost seconds are first; a recompile with a pitfall has its advice there only."""
    dear, cheap = site(advice="Pad it", lost_seconds=9.0), site(paths=["x"], advice="Cast it", lost_seconds=0.1)
    same = site(advice="Not again", pitfall="static_arg_churn", causes=["shape"])
    found = advice([figures(STORM, call_sites=[cheap, dear, same], pitfalls=[pitfall()])])

    assert ["Pad it", "Pass length as an ordinary argument instead of a static one", "Cast it"] == [
        change for _, change in found
    ]


def test_recompiles_have_their_age_where_it_is_known():
    """The clock is that of the job."""
    found = recompiles([figures(STORM, call_sites=[site(last_time=1597.0)])])

    assert [("3 s ago: train_step at train.py:88: length 11 → 12. 2 recompiles, 1.50 s lost.", "")] == found


def test_text_counts_the_entries_that_it_leaves_out():
    """Five of each section are shown."""
    sites = [site(f"train.f{number}") for number in range(9)]
    found = as_text([process(STORM, call_sites=sites)], 100).split("\n")

    assert {"Newest recompiles · 4 more", "Advice · 4 more"} <= set(found)


NAMES = st.text(st.characters(), min_size=1, max_size=80) | st.sampled_from(["train.<lambda>@train.py:88", "模型" * 30])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.integers(0, 10**9), st.floats(0, 10**7)), max_size=40),
    st.integers(1, 6),
    st.integers(1, 200),
)
def test_no_line_exceeds_the_terminal(named, others, columns):
    """Names and numbers of any size stay within its width, and no character steers it."""
    functions = [
        function(name, compiles=number, recompiles=number, seconds=seconds, lost_seconds=seconds, causes={name: 1})
        for name, number, seconds in named
    ]
    sites = [site(name, reason=name, advice=name) for name, _, _ in named]
    mistakes = [pitfall(name, message=name, advice=name) for name, _, _ in named]
    processes = [
        process(*functions, url=f"http://127.0.0.1:{port}", run=named[0][0] if named else "r", process_index=port,
                call_sites=sites, pitfalls=mistakes)
        for port in range(others)
    ]  # fmt: skip
    found = as_text(processes, columns).split("\n")

    assert all(width(one) <= columns for one in found)
    assert all(character.isprintable() or character.isspace() for one in found for character in one)


def test_as_json_has_the_figures_of_each_process():
    """They are those that the screen shows."""
    rows = (function(), function("train.f", recompiles=3, compiles=4, lost_seconds=2.0, is_in_storm=True))
    one = process(*rows, call_sites=[site()], pitfalls=[pitfall()], health=health(("bad", "F!"), ("warn", "G.")))
    found = json.loads(as_json([one, Process("http://node7:1", "new", 3.0, "no response within 5 s")]))
    first, second = found["processes"]

    assert ["processes", "schema", "time"] == sorted(found)
    assert (1, URL, "live", "") == (found["schema"], first["url"], first["status"], first["problem"])
    assert [{"level": "bad", "sentence": "F!"}, {"level": "warn", "sentence": "G."}] == first["health"]
    assert [{"level": "gone", "sentence": "no response within 5 s."}] == second["health"]
    assert ["train.f", "train.train_step"] == [row["function"] for row in first["figures"]["functions"]]
    assert (4711, 5, 3, 1) == (
        int(first["figures"]["run"]), first["figures"]["compiles"], first["figures"]["recompiles"],
        first["figures"]["storms_active"],
    )  # fmt: skip
    assert (None, "new", 3.0) == (second["figures"], second["status"], second["quiet_seconds"])


def test_as_json_names_are_those_of_its_docstring():
    """Every name is documented."""
    one = process(
        function(), call_sites=[site()], pitfalls=[pitfall()],
        in_progress=[{"function": "f", "phase": "trace", "for_s": 1.0}],
    )  # fmt: skip
    found = json.loads(as_json([one]))
    names = set(found) | set(found["processes"][0]) | set(found["processes"][0]["figures"])
    for part in ("in_progress", "functions", "newest_recompiles", "pitfalls"):
        names |= set(found["processes"][0]["figures"][part][0])
    names |= set(found["processes"][0]["figures"]["memory"]) | set(found["processes"][0]["health"][0])

    assert set() == {
        name for name in names if f"`{name}`" not in as_json.__doc__ and f'"{name}"' not in as_json.__doc__
    }
