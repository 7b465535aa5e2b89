"""What holds of every program, checked with each pitfall of the demo."""

from __future__ import annotations

import functools

import jax
import pytest

import jitwatch
from jitwatch.demo import pitfalls
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.pitfalls import RULES
from jitwatch.diagnosis.pitfalls.job import UnrolledLoop
from tests.truths import assert_truths


# One of them ends a thread by an exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("example", pitfalls.EXAMPLES, ids=lambda one: one.__name__)
def test_pitfall_of_the_demo_is_reported_correctly(example, monkeypatch):
    """State, explanation and events agree with each other and with the source."""
    # However fast the machine is, an unrolled loop is worth a word here.
    rules = [functools.partial(UnrolledLoop, 0.0) if rule is UnrolledLoop else rule for rule in RULES]
    monkeypatch.setattr("jitwatch.runtime.Diagnosis", functools.partial(Diagnosis, rules=rules))
    if example is pitfalls.growing_cache:
        example = functools.partial(example, steps=10)  # as true of ten compiles as of forty
    elif example is pitfalls.unrolled_loop:
        example = functools.partial(example, layers=100)  # of more than a thousand operations, as 400 are
    with jitwatch.install(port=None) as watch:
        try:
            example()
        finally:
            jax.clear_caches()
        assert_truths(watch)
