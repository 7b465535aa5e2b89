"""How jobs are shown as lines of text: what is in them, in what order, and that no line exceeds the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jitwatch.top.model import Process, functions_of
from jitwatch.top.view import (
    advice,
    as_json,
    as_text,
    facts,
    functions_table,
    name_of,
    processes_table,
    recompiles,
    running,
    verdicts,
)
from tests.unit.top_states import URL, cleaned, function, health, pitfall, process, site

STORM = function(
    compiles=13, recompiles=12, is_in_storm=True, seconds=10.0, lost_seconds=9.0, lost_ratio=0.015,
    cache_entries=13, causes={"static_arg": 11, "dtype": 1}, level="bad",
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
    return ["".join(text for text, _ in line).rstrip() for line in lines]


@pytest.mark.parametrize(
    ("label", "columns", "expected"),
    [
        ("train.train_step", 16, "train.train_step"),
        ("train.train_step", 15, "train_step"),
        ("train.train_step", 0, "train_step"),
        ("train.make.<locals>.loss@train.py:9", 15, "loss@train.py:9"),
        ("train.make.<locals>.loss@train.py:9", 0, "loss@train.py:9"),
        ("train.<lambda>@train.py:88", 0, "<lambda>@train.py:88"),
        ("train.Model.step", 10, "step"),
        ("__jax__", 0, "(JAX's own)"),
        ("odd.", 0, "odd."),
        ("", 3, ""),
    ],
)
def test_name_of_keeps_what_distinguishes_functions(label, columns, expected):
    """The module and the functions around it are dropped; the place stays."""
    assert expected == name_of(label, columns)


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
        "(JAX's own)             40          38     3.00     –       –  –",
        "train.evaluate           1           0     2.00     –       –  –",
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


def test_facts_have_the_levels_of_the_job():
    """Those of its findings; memory under pressure is red."""
    levels = {"figures": {"recompiles": "warn", "storms_active": "bad", "busy_seconds": "busy"}}
    memory = {
        "devices": [
            {
                "device": "gpu:0",
                "in_use_bytes": 2**30,
                "in_use_from": "live arrays",
                "in_use_ratio": 0.9,
                "level": "warn",
            },
            {"device": "gpu:1", "in_use_bytes": 2**20, "in_use_from": "live arrays", "level": "bad"},
        ],
        "pressure": ["host"],
        "host": {"resident_bytes": 2**20},
    }
    one = process(STORM, totals={"donation_violations": 3, "failures": 2}, levels=levels, memory=memory)

    assert {
        "13 compiles": "", "12 recompiles": "warn", "1 storm now": "bad", "compiling 25 % of the time": "",
        "3 donation violations": "", "gpu:0 1 GiB of arrays": "warn", "RSS 1 MiB": "bad", "2 compiles failed": "",
    } == {text: style for text, style in facts(one, 200)[1] if text != " · "}  # fmt: skip


@pytest.mark.parametrize(
    ("in_use", "expected"),
    [(999, "999 bytes"), (16_640, "16.2 KiB"), (1010 * 2**20, "1,010 MiB"), (34.25 * 2**30, "34.2 GiB")],
)
def test_memory_has_a_readable_unit(in_use, expected):
    """Three digits, or four before the next unit; never an exponent."""
    memory = {"devices": [{"device": "gpu:0", "in_use_bytes": in_use, "in_use_from": "device"}]}

    assert f"gpu:0 {expected}" in texts(facts(process(memory=memory), 200))[1]


def test_wide_terminal_shows_all_columns():
    """Names are whole, and the column that was left out is there."""
    found = texts(functions_table(functions_of([ILL.state]), 120, 40))

    assert found[0].endswith("  cached  cause")
    assert found[1].startswith("train.train_step ")


def test_functions_table_counts_the_functions_that_do_not_fit():
    """All of them are shown where they fit."""
    many = functions_of([cleaned(*(function(f"train.f{number:02}", seconds=99.0 - number) for number in range(30)))])

    assert ["train.f14", "and 15 more functions"] == [
        one.split("  ")[0] for one in texts(functions_table(many, 80, 16))[-2:]
    ]
    assert 31 == len(functions_table(many, 80, 30))


def test_functions_table_without_functions_says_so():
    """A job that has just started has none."""
    assert ["No function has compiled yet."] == texts(functions_table([], 80, 30))


def test_functions_table_has_the_levels_of_the_job():
    """In the name and the recompiles of a function."""
    _, storm, jax, other = functions_table(functions_of([ILL.state]), 80, 30)

    assert ["bad", "", "bad", "", ""] == [style for _, style in storm[:5]]
    assert {""} == {style for _, style in (*jax, *other)}


def test_cause_is_the_most_frequent_one():
    """The others are counted; of equally frequent ones the first by name is shown."""
    rows = functions_of([cleaned(function(causes={"dtype": 1, "shape": 5, "static_arg": 5}), function("train.f"))])
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
    assert "train.train_step   5 (2–3)           0     2.00     –       2" in found
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
    """The chosen one is shown, too; each row keeps its place."""
    crowd = [process(url=f"http://127.0.0.1:{port}", run="r", process_index=port) for port in range(40)]
    crowd[30] = replace(ILL, url="http://127.0.0.1:30")
    worst, chosen = (texts(processes_table(crowd, one, 80, 8)) for one in (None, crowd[35].url))
    lone = texts(processes_table(crowd, crowd[35].url, 80, 3))

    assert [" ✓ r/0", " ✓ r/1", " ✓ r/2", " ✓ r/3", " ✓ r/4", " ✗ 4711"] == [
        line.split("  ")[0] for line in worst[1:-1]
    ]
    assert " ✗ 4711" == chosen[5].split("  ")[0]
    assert chosen[6].startswith("▸✓ r/35 ")
    assert "  and 34 more processes" == worst[-1] == chosen[-1]
    assert ("▸✓ r/35 ", "  and 39 more processes, 1 unhealthy") == (lone[1][:8], lone[2])


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
            ["! Not responding for 12 s: no response within 5 s."],
        ),
    ],
)
def test_job_that_does_not_answer_is_shown_with_its_last_state(one, expected):
    """What compiles right now is not known."""
    found = as_text([one], 80).split("\n")

    assert expected == [line for line in found if line in expected]
    assert not any("right now" in line for line in found)
    assert (one.state is not None) == any(line.startswith("train.train_step") for line in found)


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
    assert 1 == len(advice([ILL.state, ILL.state]))


def test_recompile_without_a_pitfall_has_advice_too():
    """The most lost seconds are first; a recompile with a pitfall has its advice there only."""
    dear, cheap = site(advice="Pad it", lost_seconds=9.0), site(paths=["x"], advice="Cast it", lost_seconds=0.1)
    same = site(advice="Not again", pitfall="static_arg_churn", causes=["shape"])
    found = advice([cleaned(STORM, call_sites=[cheap, dear, same], pitfalls=[pitfall()])])

    assert ["Pad it", "Pass length as an ordinary argument instead of a static one", "Cast it"] == [
        change for _, change in found
    ]


def test_recompiles_have_their_age_where_it_is_known():
    """The clock is that of the job."""
    found = recompiles([cleaned(STORM, call_sites=[site(last_time=1597.0)])])

    assert [("3 s ago: train_step at train.py:88: length 11 → 12. 2 recompiles, 1.50 s lost.", "")] == found


def test_text_counts_the_entries_that_it_leaves_out():
    """Five of each section are shown."""
    sites = [site(f"train.f{number}") for number in range(9)]
    found = as_text([process(STORM, call_sites=sites)], 100).split("\n")

    assert {"Newest recompiles · 4 more", "Advice · 4 more"} <= set(found)


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


def test_names_of_the_json_are_documented():
    """Each of them, in the section of the command."""
    one = process(
        function(), call_sites=[site()], pitfalls=[pitfall()],
        in_progress=[{"function": "f", "phase": "trace", "for_s": 1.0}],
    )  # fmt: skip
    found = json.loads(as_json([one]))
    figures = found["processes"][0]["figures"]
    names = {*found, *found["processes"][0], *found["processes"][0]["health"][0], *figures, *figures["memory"]}
    for part in ("in_progress", "functions", "newest_recompiles", "pitfalls"):
        names |= set(figures[part][0])
    text = (Path(__file__).parents[2] / "docs/cli.md").read_text(encoding="utf-8")
    section = text.partition("## jitwatch top")[2].partition("\n## ")[0]

    assert set() == {name for name in names if f"`{name}`" not in section}
