"""The functions of several processes as one table."""

from __future__ import annotations

from jitwatch.top.merging import counted, merged
from tests.unit.top_states import figures, function, process


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
