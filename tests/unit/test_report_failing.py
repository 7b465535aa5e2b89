"""Conditions that make a pipeline fail."""

from __future__ import annotations

import pytest

from jitwatch.model.function import Function
from jitwatch.report import compare, conditions
from tests.unit.logs import (
    ADD,
    LOSS,
    compiled,
    document_of,
    ended,
    exhausted,
    failed,
    leaking,
    pitfall,
    recompiled,
    unsteady,
    used_after,
)

LAMBDA = Function("train.<lambda>@train.py:30", "<lambda>", "/home/ada/train.py:30")


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """Two recompiles of one function, one of another, and one of everything else."""
    events = (
        compiled(),
        recompiled(cache_entries=7),
        recompiled(5),
        recompiled(function=LAMBDA),
        compiled(ADD),
        failed(),
        used_after(),
        unsteady(),
        exhausted(),
        leaking(),
        pitfall(),
        ended(100.0),
    )
    return document_of(tmp_path_factory.mktemp("log"), *events)


def holds(document, text: str) -> list[str]:
    return conditions.parse(text, is_compared=False).findings(document, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recompiles > 2", True),
        ("recompiles > 3", False),
        ("recompiles >= 3", True),
        ("recompiles < 3", False),
        ("recompiles < 4", True),
        ("recompiles <= 3", True),
        ("recompiles <= 2", False),
        ("recompiles == 3", True),
        ("recompiles == 4", False),
        ("recompiles != 4", True),
        ("recompiles != 3", False),
        ("recompiles>2", True),
        ("  recompiles  >  2.5  ", True),
        ("compiles == 4", True),
        ("failures == 1", True),
        ("lost_seconds > 5.9", True),
        ("lost_seconds > 6.1", False),
        ("lost_ratio > 0.05", True),
        ("lost_ratio > 6e-2", False),
        ("storms > 0", False),
        ("pitfalls == 1", True),
        ("donation_violations == 1", True),
        ("steady_violations == 1", True),
        ("leaks == 1", True),
        ("oom == 1", True),
        ("jax_compiles == 1", True),
        ("busy_ratio == 0.1", True),
        ("train.step:recompiles == 2", True),
        ("step:recompiles == 2", True),
        ("train.s*:recompiles == 2", True),
        ("train.*:recompiles > 1", True),
        ("train.*:recompiles > 2", False),
        ("train.loss:failures > 0", True),
        ("step:cache_entries >= 7", True),
        ("step:pitfalls > 0", True),
        ("step:donation_violations > 0", True),
        ("train.<lambda>@train.py:30:recompiles == 1", True),
        ("*:jax_compiles > 0", None),
        ("*:compiles > 1", True),
        ("__jax__:compiles == 1", True),
    ],
)
def test_failing_reads_and_compares(document, text, expected):
    """Totals, one function, patterns; with and without blanks; None for a name that functions do not have."""
    if expected is None:
        with pytest.raises(conditions.ExpressionError):
            holds(document, text)
    else:
        assert expected == bool(holds(document, text))


def test_failing_reports_the_function_and_the_value(document):
    """For the totals the value, for functions each one's."""
    assert ["the value is 3"] == holds(document, "recompiles > 0")
    assert ["the value is 0.06"] == holds(document, "lost_ratio > 0")
    assert ["2 in train.step", "1 in train.<lambda>@train.py:30"] == holds(document, "train.*:recompiles > 0")


def test_failing_counts_an_absent_function_as_one_without_compiles(document):
    """So that `must compile` can be said as well."""
    assert ["0 in nowhere.step"] == holds(document, "nowhere.step:compiles < 1")
    assert [] == holds(document, "nowhere.step:recompiles > 0")


def test_failing_leaves_jax_out_of_patterns(tmp_path):
    """A thousand small compiles of JAX's own are no function of the job."""
    document = document_of(tmp_path, compiled(LOSS), *[compiled(ADD, nth=2)] * 3)

    assert [] == holds(document, "*:recompiles > 0")
    assert ["3 in __jax__"] == holds(document, "__jax__:compiles > 1")


def test_failing_names_a_few_of_many_functions(tmp_path):
    """Five, and how many more."""
    functions = [Function(f"train.f{number}", f"f{number}") for number in range(9)]
    document = document_of(tmp_path, *(compiled(function) for function in functions))
    found = holds(document, "*:compiles > 0")

    assert (6, "and in 4 more functions") == (len(found), found[-1])


def test_failing_compares_with_another_run(tmp_path):
    """More recompiles, more seconds lost."""
    now = document_of(tmp_path, compiled(), recompiled(), name="now.jsonl")
    before = document_of(tmp_path, compiled(), name="before.jsonl")
    comparison = compare.compare(now, before)
    found = [
        conditions.parse(text, is_compared=True).findings(now, comparison)
        for text in ("more_recompiles > 0", "more_lost_seconds >= 2", "more_recompiles < 0")
    ]

    assert [["the value is 1"], ["the value is 2"], []] == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid condition"),
        ("recompiles", "invalid condition"),
        ("recompiles > ", "invalid condition"),
        ("recompiles => 1", "invalid condition"),
        ("recompiles > 1 > 2", "invalid condition"),
        ("recompiles > 1; import os", "invalid condition"),
        ("__import__('os') > 1", "invalid condition"),
        ("recompile > 0", "unknown name 'recompile'"),
        ("step:oom > 0", "unknown name 'oom'"),
        ("recompiles > many", "'many' is not a number"),
        ("recompiles > nan", "'nan' is not a number"),
        ("recompiles > inf", "'inf' is not a number"),
        ("more_recompiles > 0", "needs another run to compare with (--against)"),
    ],
)
def test_failing_reports_what_is_invalid_in_an_expression(text, reason):
    """And which names there are, where that helps."""
    with pytest.raises(conditions.ExpressionError) as caught:
        conditions.parse(text, is_compared=False)

    assert reason in str(caught.value)
    if "condition" in reason or "unknown name" in reason:
        assert "Names: recompiles, compiles, failures," in str(caught.value)


def test_failing_takes_hopeless_expressions_quickly():
    """A long text is no work for the regular expression."""
    with pytest.raises(conditions.ExpressionError):
        conditions.parse("a:" * 5_000, is_compared=False)
