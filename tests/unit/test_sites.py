"""What recompiles cost, by call site and by what changed, and which pitfall they show."""

from __future__ import annotations

from jitwatch.state.call_sites import MAX_AT_CALL_SITE, CallSites, Cost, total
from jitwatch.state.cost import Pace

STATIC, SHAPE = ("static_arg",), ("shape",)


def sites(limit=10):
    return CallSites(limit)


def add(known, *, causes=SHAPE, paths=("batch",), call_site="train.py:8", function="train.step", lost_s=1.0):
    """A recompile of so many seconds."""
    site = known.entry(function, call_site, causes, paths)
    site.recompiles += 1
    site.lost_s += lost_s
    return site


def test_one_line_has_a_site_for_each_reason():
    """By causes and by which arguments changed; the same reason again is the same site."""
    known = sites()
    for _ in range(2):
        add(known)
        add(known, causes=STATIC, paths=("length",))
        add(known, paths=("labels",))
        add(known, call_site="eval.py:3")

    assert [2] * 4 == [one.recompiles for one in known]


def test_leaves_of_an_argument_are_one_reason():
    """A tree that has other leaves each time, and a batch of a hundred, is one argument that changes."""
    known = sites()
    for number in range(100):
        add(known, paths=(f"batch[{number}]", f"batch['x'].y[{number}]", "state.step"))

    assert [(("batch", "state"), 100)] == [(one.paths, one.recompiles) for one in known]


def test_a_line_is_told_apart_up_to_a_limit():
    """What is past it is counted together, so that one line does not take the place of all others."""
    known = sites(100)
    for number in range(MAX_AT_CALL_SITE + 5):
        add(known, paths=(f"x{number}",))
    add(known, call_site="eval.py:3")

    assert MAX_AT_CALL_SITE + 2 == len(known)
    assert [5] == [one.recompiles for one in known if one.paths == ()]
    assert 1 == add(known, paths=("x0",)).recompiles - 1


def test_sites_are_bounded_and_make_room_for_new_ones():
    """The cheapest of those that did not change for longest goes; what all of them lost is still known."""
    known = sites(3)
    for line, lost_s in enumerate((9.0, 1.0, 5.0, 2.0, 3.0)):
        add(known, call_site=f"a.py:{line}", lost_s=lost_s)

    assert (["a.py:0", "a.py:2", "a.py:4"], 2) == ([one.call_site for one in known], known.left_out)
    for number in range(2 * MAX_AT_CALL_SITE):
        add(known, call_site="a.py:4", paths=(f"x{number}",))
    assert 3 == len(known)


def test_newest_is_the_one_that_changed_last():
    """And the last at a line is the newest of that line."""
    known = sites()
    first, second = add(known), add(known, paths=("labels",))
    assert [second, first] == list(known.newest())
    add(known)
    assert [first, second] == list(known.newest())
    assert first is known.last_at("train.step", "train.py:8")
    assert None is known.last_at("train.step", "train.py:9")


def test_mistake_about_an_argument_claims_its_site_with_what_came_before():
    """And no other: that one has another fix."""
    known = sites()
    mistake = ("train.step", "static_arg_churn", "length")
    add(known, lost_s=2.0)
    other = add(known, causes=STATIC, paths=("flag",))
    for _ in range(3):
        site = add(known, causes=STATIC, paths=("length",))
    assert [site] == known.claim(site, mistake)

    assert {mistake: Cost(3, 3.0)} == known.costs()
    assert None is other.pitfall


def test_mistake_about_the_function_claims_its_sites_of_that_cause():
    """Too many statics: whichever of them had changed; but neither another cause, nor another function or mistake."""
    known = sites()
    mistake, own = ("train.step", "too_many_statics", ""), ("train.step", "static_arg_churn", "flip")
    shape, other = add(known), add(known, causes=STATIC, paths=("flip",), function="train.other")
    churn = add(known, causes=STATIC, paths=("flip",))
    known.claim(churn, own)
    earlier, site = add(known, causes=STATIC, paths=("negate",)), add(known, causes=STATIC, paths=("mode",))
    assert [site, earlier] == known.claim(site, mistake)
    assert [site] == known.claim(site, mistake)

    assert {mistake: Cost(2, 2.0), own: Cost(1, 1.0)} == known.costs()
    # As ones that have changed, so that whoever follows hears of them.
    assert [earlier, site] == list(known.newest())[:2]
    assert [None, None] == [shape.pitfall, other.pitfall]


def test_row_has_what_the_state_shows():
    """With shares of the run, and null for an unknown line."""
    known = sites()
    site = add(known, call_site=None, lost_s=2.0)
    site.reason, site.advice, site.explanation = "batch int32[8] → int32[6]", "Pad it", "step recompiled"
    row = site.row(Pace(wall_s=20.0, step_s=0.5))

    assert (None, "train.step", ["shape"], ["batch"], 1, None) == tuple(
        row[name] for name in ("call_site", "function", "causes", "paths", "recompiles", "pitfall")
    )
    assert (2.0, 0.1, 4.0) == tuple(row[name] for name in ("lost_seconds", "lost_ratio", "lost_steps"))
    assert ("batch int32[8] → int32[6]", "Pad it", "step recompiled") == tuple(
        row[name] for name in ("reason", "advice", "explanation")
    )


def test_steady_losses_begin_anew_and_costs_add_up():
    """For all sites at once."""
    known = sites()
    add(known).steady_lost_s = 4.0
    known.forget_steady()

    assert [0.0] == [one.steady_lost_s for one in known]
    assert Cost(3, 5.0, 7.0) == total([Cost(1, 2.0, 3.0), Cost(2, 3.0, 4.0)])


def test_dearest_is_a_function_with_its_dearest_site():
    """Many cheap reasons of one function outweigh one dear reason of another."""
    known = sites()
    add(known, function="train.other", lost_s=5.0)
    for number in range(4):
        add(known, paths=(f"x{number}",), lost_s=1.0 + number)
    function, lost_s, site = known.costliest()

    assert ("train.step", 10.0, ("x3",)) == (function, lost_s, site.paths)
    assert ("", 0.0, None) == sites().costliest()
