"""The run in a few lines."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch.model.events import Compiled, CompileFailed, FunctionWrapped, PitfallFound, Stepped
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import summary, wording
from jitwatch.state.store import Store

STEP = Function("train.step", "step", "/home/ada/train.py:10")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def state_of(*events, seconds: float = 10.0, busy_s: float = 0.0) -> dict:
    clock = Clock()
    store = Store(clock=clock, monotonic=clock)
    for event in events:
        store.apply(event)
    store.set_total("compile_busy_seconds", busy_s)
    clock.now += seconds
    return store.snapshot()


def compiled(label: str, seconds: float, *, name: str = "f", location: str | None = None) -> Compiled:
    return Compiled(function=Function(label, name, location), trace_s=0.25, lower_s=0.5, compile_s=seconds)


def test_one_line_counts_the_users_compiles_and_jax_apart():
    """Compiles, recompiles, their seconds, and the share of the run."""
    state = state_of(
        compiled("train.step", 1.25),
        compiled("train.step", 2.25),
        compiled("train.loss", 1.0),
        compiled(JAX_LABEL, 1.0, name="add"),
        seconds=60.06,
        busy_s=6.0,
    )

    assert (
        "3 compiles (1 recompile) took 6.8 s; compiling took 10 % of 60.1 s, including 1 program of JAX's own"
        == summary.one_line(state)
    )


def test_one_line_names_failures():
    """Failures are shown when there are any."""
    failure = CompileFailed(
        function=Function("train.step", "step"), phase="trace", error="TypeError", message="", spent_s=0.5
    )

    assert summary.one_line(state_of(failure)).startswith("0 compiles (0 recompiles, 1 failed) took 0.5 s;")


def test_one_line_of_an_empty_run():
    """Nothing compiled and no time passed: no division by zero."""
    assert (
        "0 compiles (0 recompiles) took 0.0 s; compiling took 0 % of 0.0 s, including 0 programs of JAX's own"
        == summary.one_line(state_of(seconds=0.0))
    )


@pytest.mark.parametrize(("seconds", "expected"), [(599.0, "599.0 s"), (600.0, "10.0 min"), (5400.0, "90.0 min")])
def test_one_line_long_runs_in_minutes(seconds, expected):
    """Ten minutes and more are told in minutes."""
    assert f"of {expected}," in summary.one_line(state_of(seconds=seconds))


def test_text_without_compiles_is_the_one_line():
    """A table without rows has no head."""
    state = state_of(FunctionWrapped(function=Function("train.step", "step")))

    assert summary.one_line(state) == summary.text(state)


def test_text_lists_functions_by_compile_time():
    """Most seconds first, with the place without its folder."""
    state = state_of(compiled("train.cheap", 1.0), compiled("train.dear", 9.0, location="/home/ada/train.py:10"))
    _, blank, head, first, second = summary.text(state).splitlines()

    assert "" == blank
    assert ["seconds", "compiles", "recompiles", "lost", "of", "run", "function"] == head.split()
    assert ["9.75", "1", "0", "-", "-", "train.dear", "(train.py:10)"] == first.split()
    assert ["1.75", "1", "0", "-", "-", "train.cheap"] == second.split()


def with_entries(**entries: int) -> dict:
    """A state of functions with so many entries in their jit caches."""
    clock = Clock()
    store = Store(clock=clock, monotonic=clock)
    for name in entries:
        store.apply(compiled(f"train.{name}", 1.0))
    store.set_by_function("jit_cache_entries", {f"train.{name}": count for name, count in entries.items()})
    clock.now += 10.0
    return store.snapshot()


def test_text_has_caches_with_many_entries():
    """The three largest, largest first, and all entries there are."""
    state = with_entries(few=19, a=20, b=21, c=1022, d=23)

    assert (
        "Jit caches: 1,105 entries, most in train.c (1,022), train.d (23), train.b (21). Each keeps a program in "
        "memory "
        "while the function lives." == summary.caches(state)
    )
    assert "\nJit caches: 1,105 entries" in summary.text(state)


def test_text_is_silent_about_caches_with_few_entries():
    """One program for each of a few shapes is as it should be."""
    assert summary.caches(with_entries(a=19, b=19)) is None


def test_text_columns_stand_below_their_heads():
    """The numbers end where the heads end, also where nothing was lost."""
    events = [compiled("train.step", 1234.5), compiled("train.step", 0.25), compiled("train.loss", 0.5)]
    head, first, second = summary.text(state_of(*events, seconds=2000.0)).splitlines()[3:]

    assert "  seconds  compiles  recompiles     lost    of run  function" == head
    assert "  1236.25         2           1     1.00 under 1 %  train.step" == first
    assert "     1.25         1           0        -         -  train.loss" == second


def test_text_shows_at_most_eight_functions():
    """And says how many more there are; the rest is in the log."""
    state = state_of(*(compiled(f"train.f{number}", number) for number in range(20)))
    *rows, more = summary.text(state).splitlines()[3:]

    assert "and 12 more functions" == more
    assert [f"train.f{number}" for number in range(19, 11, -1)] == [row.split()[-1] for row in rows]


def test_text_shows_a_function_that_only_failed():
    """A failure costs time too."""
    failure = CompileFailed(
        function=Function("train.step", "step"), phase="lower", error="TypeError", message="", spent_s=2.0
    )

    assert "train.step" in summary.text(state_of(failure)).splitlines()[-1]


# Advice


def recompiled(size: int = 6, *, site: str | None = "/home/ada/train.py:88", function: Function = STEP, **options):
    """A recompile of two seconds, as the diagnosis hands it on."""
    event = Compiled(
        **{
            "function": function,
            "call_site": site,
            "trace_s": 0.25,
            "lower_s": 0.75,
            "compile_s": 1.0,
            "nth": 2,
            "causes": ("shape",),
            "changes": (Change("batch", "shape", "int32[8]", f"int32[{size}]"),),
        }
        | options
    )
    return replace(event, explanation=wording.of_recompile(event))


def pitfall(name: str = "shape_churn", *, function: Function = STEP, lost_s: float = 2.0, line: int = 88, **options):
    """A mistake that was told."""
    return PitfallFound(
        **{
            "function": function,
            "call_site": f"/home/ada/train.py:{line}",
            "pitfall": name,
            "message": "batch had 9 sizes in 10 compiles",
            "advice": "Pad it to 8",
            "lost_s": lost_s,
        }
        | options
    )


def told(state: dict) -> list[str]:
    """The paragraphs, each in one line."""
    return [" ".join(one.split()) for one in summary.advice(state)]


def test_text_has_the_cost_of_recompiles():
    """Seconds, their share of the run, and the steps that would have fitted in."""
    steps = [Stepped(steps=1, duration_s=None), Stepped(steps=20, duration_s=1.0)]
    state = state_of(compiled("train.step", 1.0), recompiled(), recompiled(5), *steps, seconds=100.0)

    assert "Recompiles: 4.00 s lost, 4 % of the run, equivalent to 80 steps" == summary.text(state).splitlines()[1]


def test_text_names_the_causes_of_each_function():
    """The most frequent three, with their counts, behind the place."""
    causes = ["shape"] * 4 + ["dtype"] * 3 + ["device"] * 2 + ["config"]
    state = state_of(*(recompiled(causes=(cause,)) for cause in causes))
    row = summary.text(state).splitlines()[4]

    assert row.endswith("train.step (train.py:10): 4 shape, 3 dtype, 2 device, …")


def test_advice_has_a_paragraph_for_each_pitfall():
    """Name, function, both places, what happened, what it costs by now, and what to change."""
    state = state_of(recompiled(), recompiled(7, pitfall="shape_churn"), pitfall(), recompiled(5), seconds=100.0)

    assert [
        "shape_churn in step (train.py:10) at train.py:88: batch had 9 sizes in 10 compiles. "
        "3 recompiles: 6.00 s lost, 6 % of the run. Pad it to 8."
    ] == told(state)
    assert summary.text(state).endswith("\nAdvice:\n" + "\n".join(summary.advice(state)))


def test_advice_begins_with_the_pitfall_of_most_lost_seconds():
    """And no cost where a mistake costs no recompiles, whatever else its function lost."""
    loss = Function("train.loss", "loss")
    events = [recompiled(pitfall="shape_churn"), *2 * [recompiled(function=loss, pitfall="dtype_flip")]]
    found = [pitfall("mutable_default", lost_s=0.0), pitfall(), pitfall("dtype_flip", function=loss)]
    paragraphs = told(state_of(*events, *found))

    assert [
        "dtype_flip in loss at",
        "shape_churn in step (train.py:10) at",
        "mutable_default in step (train.py:10) at",
    ] == [one.partition(" train.py:88:")[0] for one in paragraphs]
    assert [True, True, False] == ["lost" in one for one in paragraphs]


def test_advice_calls_a_lambda_by_its_place():
    """`<lambda>` alone says nothing, and its place need not be told twice."""
    function = Function("train.<lambda>@train.py:30", "<lambda>", "/home/ada/train.py:30")

    assert told(state_of(pitfall(function=function)))[0].startswith(
        "shape_churn in <lambda>@train.py:30 at train.py:88:"
    )
    row = summary.text(state_of(compiled(function.label, 1.0, location=function.location))).splitlines()[-1]
    assert row.endswith("  train.<lambda>@train.py:30")


def test_advice_has_call_sites_without_a_pitfall():
    """The last recompile in the log's words, and all from that line together where there were several."""
    state = state_of(
        recompiled(site="/home/ada/eval.py:7"),
        recompiled(),
        recompiled(5),
        recompiled(4),
        pitfall("mutable_default", line=99, lost_s=0.0),
        seconds=50.0,
    )

    assert [
        "step recompiled at train.py:88: batch int32[8] → int32[4]. 2.00 s lost. If that is the last batch of an "
        "epoch, drop the remainder or pad it to 8. In total for this cause: "
        "3 recompiles, 6.00 s lost, 12 % of the run.",
        "step recompiled at eval.py:7: batch int32[8] → int32[6]. 2.00 s lost. If that is the last batch of an "
        "epoch, drop the remainder or pad it to 8.",
    ] == told(state)[:-1]


def test_advice_is_ordered_by_lost_seconds():
    """Whether it has a name or not."""
    loss = Function("train.loss", "loss")
    dear = recompiled(function=loss, site="/home/ada/train.py:7")
    churn = recompiled(pitfall="shape_churn")
    state = state_of(churn, pitfall(), pitfall("mutable_default", lost_s=0.0), dear, dear)

    assert ["loss", "shape_churn", "mutable_default"] == [one.split()[0] for one in told(state)]


def test_advice_is_silent_on_lines_that_a_pitfall_explains():
    """What is told as a pitfall is not told again."""
    assert 1 == len(told(state_of(recompiled(), recompiled(5, pitfall="shape_churn"), pitfall())))


def test_advice_has_other_recompiles_of_a_call_site_with_a_pitfall():
    """A mistake is charged with its own recompiles only, and hides no other reason, at whatever line."""
    epoch = (Change("epoch", "static_arg", "3", "4"),)
    options = {"causes": ("static_arg",), "changes": epoch, "pitfall_message": "epoch changes", "advice": "Pass it"}
    churn = recompiled(pitfall="static_arg_churn", pitfall_subject="epoch", **options)
    state = state_of(churn, pitfall("static_arg_churn", subject="epoch", message="epoch changes"), recompiled(), churn)

    assert [
        "static_arg_churn in step (train.py:10) at train.py:88: epoch changes. 2 recompiles: 4.00 s lost, 40 % of the "
        "run. Pass it.",
        "step recompiled at train.py:88: batch int32[8] → int32[6]. 2.00 s lost. If that is the last batch of an "
        "epoch, drop the remainder or pad it to 8.",
    ] == told(state)


def test_advice_is_silent_on_planned_recompiles():
    """What the job announced, or a first use under grad, is nothing to change and nothing lost."""
    state = state_of(recompiled(expected="longer context"), recompiled(causes=("transform",), site="/home/ada/x.py:1"))

    assert [] == told(state)
    assert "lost" not in summary.text(state).splitlines()[1]
    assert 0.0 == state["totals"]["lost_seconds"]


def test_advice_has_at_most_three_call_sites():
    """The rest is in `explain()`."""
    state = state_of(*(recompiled(site=f"/home/ada/train.py:{line}") for line in range(10)))

    assert 3 == len(told(state))


def test_advice_has_at_most_twenty_five_pitfalls():
    """And says how many more there are, and where."""
    state = state_of(*(pitfall(line=line, subject=str(line)) for line in range(32)))

    assert 26 == len(told(state))
    assert "7 more pitfalls: see jitwatch.explain()." == told(state)[-1]


def test_text_of_a_normal_job_fits_on_a_screen():
    """Eight functions, two pitfalls, recompiles elsewhere: 25 lines, none wider than a terminal but for long names."""
    functions = [Function(f"train.f{number}", f"f{number}", f"/home/ada/train.py:{number}") for number in range(8)]
    state = state_of(
        *(compiled(one.label, 1.0, name=one.name, location=one.location) for one in functions),
        recompiled(function=functions[0], site="/home/ada/train.py:80", pitfall="shape_churn"),
        recompiled(function=functions[1], site="/home/ada/train.py:81", pitfall="dtype_flip"),
        recompiled(function=functions[2], site="/home/ada/train.py:82"),
        pitfall(function=functions[0], line=80),
        pitfall("dtype_flip", function=functions[1], line=81),
    )
    lines = summary.text(state).splitlines()

    assert 25 >= len(lines)
    assert 110 >= max(map(len, lines))


# The event


def test_event_has_the_facts_of_the_text():
    """Losses in all, causes and losses by function, pitfalls with their lines and what they cost by now."""
    state = state_of(
        compiled("train.step", 1.0), recompiled(pitfall="shape_churn"), pitfall(), recompiled(5), seconds=100.0
    )
    event = summary.event(state)

    assert (4.0, 0.04, None) == (event.lost_s, event.lost_ratio, event.lost_steps)
    assert {
        "function": "train.step",
        "location": None,
        "compiles": 3,
        "recompiles": 2,
        "seconds": 5.75,
        "lost_seconds": 4.0,
        "lost_ratio": 0.04,
        "lost_steps": None,
        "lost_calls": None,
        "causes": {"shape": 2},
    } == event.top[0]
    assert (
        {
            "pitfall": "shape_churn",
            "function": "train.step",
            "name": "step",
            "location": "/home/ada/train.py:10",
            "call_site": "/home/ada/train.py:88",
            "message": "batch had 9 sizes in 10 compiles",
            "advice": "Pad it to 8",
            "subject": "",
            "lost_s": 4.0,
        },
    ) == event.pitfalls
    assert event.payload() == json.loads(json.dumps(event.payload(), allow_nan=False))


def test_event_is_bounded():
    """Ten functions and twenty-five pitfalls, and how many more there are."""
    functions = [Function(f"train.f{number}", f"f{number}") for number in range(40)]
    state = state_of(*(compiled(one.label, 1.0) for one in functions), *(pitfall(function=one) for one in functions))
    event = summary.event(state)

    assert (10, 25, 15) == (len(event.top), len(event.pitfalls), event.pitfalls_left_out)


def test_summary_of_a_job_names_function_line_and_argument():
    """From real compiles: the line that recompiled, the argument, both shapes, and the advice."""
    with jitwatch.install(port=0) as watch:

        def summed_target(tokens):
            return tokens.sum()

        function = jax.jit(summed_target)
        function(np.zeros((8, 3), np.int32))
        function(np.zeros((6, 3), np.int32))
        state = watch.snapshot()
    (paragraph,) = told(state)

    assert "summed_target recompiled at test_summary.py:" in paragraph
    assert "tokens int32[8,3] → int32[6,3]" in paragraph
    assert paragraph.endswith("If that is the last batch of an epoch, drop the remainder or pad it to 8.")
    assert "test_summary.py:" in summary.text(state).splitlines()[4]
    assert summary.text(state).splitlines()[4].endswith(": 1 shape")


def test_text_fits_a_narrow_terminal():
    """Names lose their beginning, causes go below them, and no line is broken by the terminal."""
    long = Function("a_package.of_somebody.with_long_names.train_step", "train_step", "/home/ada/train.py:10")
    state = state_of(compiled(long.label, 1.0, location=long.location), *3 * [recompiled(function=long)])
    lines = summary.text(state, width=72).splitlines()

    assert 72 >= max(map(len, lines))
    assert any(line.endswith("p (train.py:10):") for line in lines)
    assert any(line.strip() == "3 shape" for line in lines)
