"""The run in a few lines."""

from __future__ import annotations

import pytest

from jitwatch import summary
from jitwatch.events import JAX_LABEL, Compiled, CompileFailed, Function, FunctionWrapped
from jitwatch.store import Store


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
        "3 compiles (1 recompile) took 6.8 s; with 1 small ones of JAX's own, 10% of 60.1 s went into compiling"
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
        "0 compiles (0 recompiles) took 0.0 s; with 0 small ones of JAX's own, 0% of 0.0 s went into compiling"
        == summary.one_line(state_of(seconds=0.0))
    )


@pytest.mark.parametrize(("seconds", "expected"), [(599.0, "599.0 s"), (600.0, "10.0 min"), (5400.0, "90.0 min")])
def test_one_line_long_runs_in_minutes(seconds, expected):
    """Ten minutes and more are told in minutes."""
    assert f"of {expected} went" in summary.one_line(state_of(seconds=seconds))


def test_text_without_compiles_is_the_one_line():
    """A table without rows has no head."""
    state = state_of(FunctionWrapped(function=Function("train.step", "step")))

    assert summary.one_line(state) == summary.text(state)


def test_text_lists_the_dearest_functions_first():
    """Most seconds first, with phases, entries and the place without its folder."""
    clock = Clock()
    store = Store(clock=clock, monotonic=clock)
    store.apply(compiled("train.cheap", 1.0))
    store.apply(compiled("train.dear", 9.0, location="/home/ada/train.py:10"))
    store.set_by_function("jit_cache_entries", {"train.dear": 3})
    _, blank, head, first, second = summary.text(store.snapshot()).splitlines()

    assert "" == blank
    assert ["seconds", "trace", "lower", "compile", "compiles", "entries", "function"] == head.split()
    assert ["9.75", "0.25", "0.50", "9.00", "1", "3", "train.dear", "(train.py:10)"] == first.split()
    assert ["1.75", "0.25", "0.50", "1.00", "1", "-", "train.cheap"] == second.split()


def test_text_columns_stand_below_their_heads():
    """The numbers end where the heads end."""
    _, _, head, row = summary.text(state_of(compiled("train.step", 1234.5))).splitlines()

    assert head.index("function") == row.index("train.step")
    assert head.index("trace") + len("trace") == row.index("0.25") + len("0.25")


def test_text_shows_at_most_eight_functions():
    """The rest is in the log."""
    state = state_of(*(compiled(f"train.f{number}", number) for number in range(20)))
    rows = summary.text(state).splitlines()[3:]

    assert [f"train.f{number}" for number in range(19, 11, -1)] == [row.split()[-1] for row in rows]


def test_text_shows_a_function_that_only_failed():
    """A failure costs time too."""
    failure = CompileFailed(
        function=Function("train.step", "step"), phase="lower", error="TypeError", message="", spent_s=2.0
    )

    assert "train.step" in summary.text(state_of(failure)).splitlines()[-1]
