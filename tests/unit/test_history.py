"""The signatures of each function: the nearest is found, a program that comes again is known, all is bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitwatch.diagnosis.causes import _MAX_CODES, _MAX_HASHES, MAX_SIGNATURES, History
from jitwatch.diagnosis.diff import distance
from jitwatch.model.signature import Node, Placement, Signature, Value

LABEL = "train.step"


def signature(*shapes, **fields):
    """A signature of so many float32 leaves."""
    count = len(shapes)
    return Signature(
        code=fields.pop("code", 1),
        function=fields.pop("function", 1),
        paths=fields.pop("paths", tuple(f"x[{i}]" for i in range(count))),
        shapes=tuple(shapes),
        dtypes=("float32",) * count,
        weak_types=(False,) * count,
        placements=(Placement(),) * count,
        **fields,
    )


def add(history, *signatures, label=LABEL, entries=None, clearings=0):
    """Take in compiles; what was known before the last of them."""
    for one in signatures:
        found = history.add(label, one, entries, clearings)
    return found


def signatures_of(history, label):
    """Those that are kept, oldest first."""
    return list(history._functions[label].signatures)


@pytest.fixture
def history():
    return History()


def test_first_compile_knows_nothing(history):
    """It is the first, and there is nothing to compare it with."""
    found = add(history, signature((2,)))
    assert (1, None, 0, False, False) == (
        found.nth,
        found.nearest,
        found.distance,
        found.is_repeated,
        found.has_others,
    )


def test_compiles_are_counted_by_function(history):
    """Another function's compiles do not count."""
    add(history, signature((2,)), signature((3,)))
    assert 1 == add(history, signature((2,)), label="other").nth
    assert 3 == add(history, signature((4,))).nth


def test_nearest_differs_in_the_fewest_things(history):
    """Not the latest, but the one with one different leaf instead of two."""
    near = signature((2,), (3,))
    add(history, near, signature((8,), (9,)))
    found = add(history, signature((2,), (7,)))
    assert (near, 1) == (found.nearest, found.distance)


def test_latest_of_equally_near_ones_is_taken(history):
    """A person thinks of what happened last."""
    later = signature((4,))
    add(history, signature((2,)), later)
    assert later == add(history, signature((9,))).nearest


@pytest.mark.parametrize(
    "changed",
    [
        {"tree": (("x", Node("list", 1)), ("x[0]", Node("None")))},
        {"statics": (("n", Value("int", "1")),)},
        {"context": (("jax_enable_x64", "True"),)},
        {"keywords": ("x",)},
        {"options": (("donate_argnums", 1),)},
        {"tree_token": 7},
        {"weak_types": (True, False)},
        {"dtypes": ("int32", "float32")},
        {"placements": (Placement("one device", "cpu:0"), Placement())},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_column_counts_as_a_difference(history, changed):
    """No signature that differs in it is taken for the same."""
    known = signature((2,), (2,))
    found = add(history, known, replace(known, **changed))
    assert (known, False) == (found.nearest, found.is_repeated)
    assert found.distance > 0


def test_new_function_object_is_farther_than_a_leaf(history):
    """A wrapper with one more shape is explained by the shape."""
    add(history, signature((2,), (2,), function=2), signature((9,), (9,), function=1))
    found = add(history, signature((9,), (9,), function=2))
    assert (2, 2) == (found.nearest.function, found.distance)


def test_the_very_same_program_is_at_distance_zero(history):
    """Whatever was compiled in between."""
    known = signature((2,))
    add(history, known, signature((3,)))
    found = add(history, known)
    assert (known, 0, True) == (found.nearest, found.distance, found.is_repeated)


def test_constants_and_origin_do_not_make_another_program(history):
    """A call and its compile ahead of time are the same program."""
    known = signature((2,))
    add(history, known)
    assert add(history, replace(known, origin="aot")).is_repeated


def test_other_code_object_starts_anew(history):
    """A notebook cell that was run again: the first compile of another function of that name."""
    add(history, signature((2,), code=1), signature((3,), code=1))
    found = add(history, signature((2,), code=2, function=2))
    assert (1, None) == (found.nth, found.nearest)
    assert 2 == add(history, signature((4,), code=2, function=2)).nth
    assert 3 == add(history, signature((9,), code=1)).nth


def test_derived_program_counts_with_the_code_it_came_from(history):
    """JAX does not tell whose code a gradient is made of; it is the last one's."""
    add(history, signature((2,), code=5))
    found = add(history, signature((2,), code=0, origin="derived", variant="derived 1"))
    assert (2, None, True) == (found.nth, found.nearest, found.has_others)


def test_derived_programs_before_the_first_call_count_too(history):
    """The first call of a function whose gradient was compiled is its second compile."""
    add(history, signature((2,), code=0, origin="derived", variant="derived 1"))
    assert 2 == add(history, signature((2,), code=5)).nth


def test_variants_are_not_compared(history):
    """A function under a library's wrapper is another program than the bare one."""
    add(history, signature((2,), variant="1"))
    assert add(history, signature((2,), variant="2")).nearest is None
    assert "1" == add(history, signature((3,), variant="1")).nearest.variant


def test_derived_programs_with_other_arguments_are_not_compared(history):
    """The backward pass is no forward pass with another number of arguments."""
    add(history, signature((2,), (2,), origin="derived", variant="derived 1"))
    assert add(history, signature((2,), origin="derived", variant="derived 1")).nearest is None


def test_clearing_is_evidence_for_each_program_once(history):
    """Each program that was compiled before the clearing, and none that was compiled after it."""
    one, other = signature((2,)), signature((3,))
    add(history, one, other)
    assert add(history, one, clearings=1).was_cleared
    assert add(history, other, clearings=1).was_cleared
    assert not add(history, one, clearings=1).was_cleared


def test_fewer_entries_are_evidence_for_each_program_once(history):
    """The cache had two entries and has one: what was in it is gone, the first program and the second."""
    one, other = signature((2,)), signature((3,))
    add(history, one, entries=1)
    add(history, other, entries=2)
    assert add(history, one, entries=1).has_fewer_entries
    assert add(history, other, entries=2).has_fewer_entries
    assert not add(history, one, entries=3).has_fewer_entries


def test_unknown_entries_are_no_evidence(history):
    """A function with too many wrappers is not asked for its cache."""
    one = signature((2,))
    add(history, one, entries=None)
    assert not add(history, one, entries=1).has_fewer_entries
    assert not add(history, one, entries=None).has_fewer_entries


def test_so_many_signatures_are_kept(history):
    """The oldest go."""
    add(history, *(signature((i,)) for i in range(100)))
    kept = signatures_of(history, LABEL)
    assert [(i,) for i in range(100 - MAX_SIGNATURES, 100)] == [one.shapes[0] for one in kept]


def test_program_that_is_no_longer_kept_is_recognised(history):
    """Its hash stays, and with it what became of the caches since."""
    first = signature((0,))
    add(history, first, *(signature((i,)) for i in range(1, 100)))
    assert first not in signatures_of(history, LABEL)
    found = add(history, first, clearings=1)
    assert (True, True) == (found.is_repeated, found.was_cleared)


def test_memory_of_one_function_is_bounded_in_bytes():
    """Large signatures: fewer of them, but always the last."""
    history = History(max_bytes_per_function=10_000)
    large = [signature(*[(i, j) for j in range(50)]) for i in range(10)]
    add(history, *large)
    assert history._bytes <= 10_000
    assert large[-1] == signatures_of(history, LABEL)[-1]
    huge = signature(*[(7, j) for j in range(500)])
    add(history, huge)
    assert [huge] == signatures_of(history, LABEL)


def test_memory_of_all_functions_is_bounded_in_bytes():
    """Those that were quiet longest lose their signatures, and keep their counts."""
    history = History(max_bytes=20_000)
    for number in range(100):
        add(history, signature((number,), (1,)), label=f"f{number}")
    assert history._bytes <= 20_000
    assert [] == signatures_of(history, "f0")
    assert 1 == len(signatures_of(history, "f99"))
    assert 2 == add(history, signature((5,)), label="f0").nth


def test_number_of_functions_is_bounded():
    """Beyond it those that were quiet longest are forgotten, with and without a signature."""
    history = History(max_functions=10)
    for number in range(30):
        add(history, signature((1,)), label=f"f{number}")
        history.count_unknown(f"unknown{number}")
    assert len(history._functions) <= 10
    assert 1 == history.count_unknown("f0")


def test_ten_thousand_signatures_stay_flat(history):
    """Bytes and counts after ten thousand are those after a thousand."""

    def size():
        compiles = history._functions[LABEL]
        return history._bytes, len(compiles.signatures), len(compiles.by_code)

    add(history, *(signature((i,), (i + 1,)) for i in range(1_000)))
    after_a_thousand = size()
    add(history, *(signature((i,), (i + 1,)) for i in range(1_000, 10_000)))
    assert after_a_thousand == size()
    assert len(history._functions[LABEL].seen) <= _MAX_HASHES


def test_code_objects_are_bounded(history):
    """A job that runs `exec` for ever is no leak."""
    add(history, *(signature((1,), code=i, function=i) for i in range(1, 3_000)))
    assert len(history._functions[LABEL].by_code) <= _MAX_CODES


def test_equal_columns_are_kept_once(history):
    """A hundred states that differ in one shape share their thousand paths."""
    paths = [f"state['w{i}']" for i in range(1_000)]
    for size in range(5):
        shapes = [(2,)] * 999 + [(size,)]
        # Each compile brings tuples of its own.
        add(history, signature(*shapes, paths=tuple(paths), context=tuple({"jax_enable_x64": "True"}.items())))
    kept = signatures_of(history, LABEL)
    for column in ("paths", "dtypes", "weak_types", "placements", "context"):
        assert 1 == len({id(getattr(one, column)) for one in kept}), column


def test_unknown_compile_counts(history):
    """A compile of which the hooks know nothing is a compile of the last code."""
    add(history, signature((2,)))
    assert 2 == history.count_unknown(LABEL)
    assert 3 == add(history, signature((3,))).nth


def test_nearest_is_the_latest_of_those_that_differ_least(history):
    """Although the search ends early: whatever the order, it finds what a search of all finds."""
    known = [
        replace(signature((size,)), function=function) for size, function in ((1, 1), (2, 2), (1, 3), (2, 1), (3, 4))
    ]
    for new in (replace(signature((size,)), function=function) for size, function in ((1, 9), (2, 1), (7, 7), (3, 4))):
        history = History()
        add(history, *known)
        least = min(distance(one, new) for one in known)
        expected = next(one for one in reversed(known) if distance(one, new) == least)
        compared = add(history, new)
        assert (expected, least) == (compared.nearest, compared.distance)


def test_equal_signatures_share_columns_and_have_one_hash(history):
    """A program that is compiled again is recognised, whether its columns were shared or not."""
    first, other, again = signature((2,)), signature((3,)), signature((2,))
    assert first.paths is not again.paths
    add(history, first, other)
    assert add(history, again).is_repeated
    kept = signatures_of(history, LABEL)
    assert kept[0].dtypes is kept[1].dtypes is kept[2].dtypes


def test_dropped_signatures_leave_no_columns():
    """Of a function without kept signatures, nothing but hashes is kept."""
    history = History(max_bytes=1)
    add(history, signature((2,)))
    add(history, signature((2,)), label="another")
    assert ((), ()) == history._functions[LABEL].last
