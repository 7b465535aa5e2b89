"""Pitfall rules by themselves: where time, number or place decides."""

from __future__ import annotations

import itertools

import pytest

from jitwatch.diagnosis.bounded import MAX_ENTRIES, BoundedMap
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.pitfalls import RULES, in_order
from jitwatch.diagnosis.pitfalls.flips import holding_both
from jitwatch.diagnosis.pitfalls.shapes import best_buckets
from jitwatch.model.events import Compiled, FunctionWrapped, PitfallFound, SteadyViolated
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import PITFALLS


def test_every_pitfall_has_one_rule():
    """In the order of the list: the advice of the most specific one is given."""
    assert list(PITFALLS) == [rule.name for rule in RULES]


def test_rule_with_an_unknown_name_is_named():
    """The error tells a contributor which class and which name it is about."""

    class Misspelled(RULES[0]):
        name = "mispelled"

    message = "'mispelled', the name of the rule Misspelled, is not in PITFALLS"
    with pytest.raises(ValueError, match=message):
        in_order([*RULES, Misspelled])


def test_mutable_default_is_told_once():
    """However often the function is jitted."""
    diagnosis = Diagnosis(storm_threshold=5, storm_window_s=600.0)
    wrapped = FunctionWrapped(function=Function("f", "f", "/project/train.py:3"), mutable_defaults=("options",))
    assert [1, 0] == [len(diagnosis.diagnose(wrapped)[1]) for _ in range(2)]


def test_pitfall_of_a_steady_violation_says_the_reason():
    """The finding carries the cause that the violation has."""
    diagnosis = Diagnosis(storm_threshold=5, storm_window_s=600.0)
    function = Function("train.step", "step", "train.py:3")
    violated = SteadyViolated(
        function=function, call_site="train.py:9", spent_s=2.0, action="count", reason="x [3] → [4]"
    )
    _, (found,) = diagnosis.diagnose(violated)
    assert isinstance(found, PitfallFound)
    assert "it compiled in the steady state: x [3] → [4]" == found.message


def test_memory_forgets_what_was_quiet_longest():
    """A rule remembers a bounded number of functions, the last used ones."""
    memory = BoundedMap(list)
    memory.entry("kept").append(1)
    for number in range(MAX_ENTRIES - 1):
        memory.entry(number)
    assert [1] == memory.entry("kept")
    memory.entry("one more")
    assert MAX_ENTRIES == len(memory)
    assert [1] == memory.entry("kept")
    assert [] == memory.entry(0)


@pytest.mark.parametrize(
    ("sizes", "buckets", "overhead"),
    [
        ([31, 32], [32], 64 / 63 - 1),
        ([100, 200, 400], [200, 400], 800 / 700 - 1),
        ([1, 10, 100, 1000], [100, 1000], 1300 / 1111 - 1),
        ([1, 1000], [1000], 2000 / 1001 - 1),
        (list(range(240, 257)), [256], 17 * 256 / sum(range(240, 257)) - 1),
        ([0, 4], [4], 1.0),
    ],
)
def test_buckets_are_the_fewest_that_cost_a_quarter_at_most(sizes, buckets, overhead):
    """The largest is always one of them; four are the most; all sizes count alike."""
    found, cost = best_buckets(sizes)
    assert (buckets, pytest.approx(overhead)) == (found, cost)


def test_buckets_are_the_best_of_all():
    """No other choice of as many sizes needs less work."""
    sizes = [3, 7, 8, 20, 21, 50, 90, 91, 130]

    def work(chosen):
        return sum(min(bucket for bucket in chosen if bucket >= size) for size in sizes)

    found, cost = best_buckets(sizes)
    others = [(*some, sizes[-1]) for some in itertools.combinations(sizes[:-1], len(found) - 1)]
    assert min(map(work, others)) == work(found)
    assert pytest.approx(work(found) / sum(sizes) - 1) == cost


def test_many_sizes_are_reckoned_in_bounded_work():
    """Of ten thousand sizes a part is looked at, and the largest stays."""
    found, cost = best_buckets(list(range(1, 10_001)))
    assert 10_000 == found[-1]
    assert 0 < cost <= 0.3


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("float32", "int32", "float32"),
        ("int32", "float32", "float32"),
        ("float32", "bool", "float32"),
        ("bool", "int8", "int8"),
        ("int32", "int64", "int64"),
        ("uint8", "int8", "int8"),
        ("uint32", "int8", "uint32"),
        ("bfloat16", "float32", "float32"),
        ("bfloat16", "float16", "float32"),
        ("complex64", "float64", "complex64"),
        ("key<fry>", "uint32", "uint32"),
        ("float8_e4m3fn", "float32", "float32"),
        ("float32", "float8_e4m3fn", "float32"),
    ],
)
def test_advice_on_a_dtype_holds_the_values_of_both(one, other, expected):
    """Whichever came last: rewards must not lose what is behind the point."""
    assert expected == holding_both(one, other)


def test_rule_is_asked_only_about_its_events_and_causes():
    """No rule runs for a compile with other causes than its own."""
    asked = []

    class Picky(RULES[0]):
        events, causes = (Compiled,), ("shape",)

        def check(self, event):
            asked.append(event)

    diagnosis = Diagnosis(storm_threshold=5, storm_window_s=600.0, rules=[Picky])
    function = Function("f", "f", "/project/train.py:3")
    diagnosis.diagnose(FunctionWrapped(function=function))
    one = Compiled(function=function, trace_s=0.0, lower_s=0.0, compile_s=1.0)
    for causes in ((), ("dtype",), ("dtype", "shape")):
        diagnosis._check(one.changed(causes=causes))
    assert [("dtype", "shape")] == [event.causes for event in asked]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.causes], ids=lambda rule: rule.name)
def test_rule_finds_nothing_in_compiles_with_other_causes(rule):
    """So it need not be asked."""
    change = Change("x", "cache_cleared", "held the program", "cleared by clear_caches() or clear_cache()")
    event = Compiled(function=Function("f", "f"), trace_s=0.0, lower_s=0.0, compile_s=1.0, nth=2)
    assert "cache_cleared" not in rule.causes
    assert rule().check(event.changed(causes=("cache_cleared",), changes=(change,))) is None
