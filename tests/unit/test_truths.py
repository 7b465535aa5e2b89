"""What holds of every program, checked with each pitfall of the demo."""

from __future__ import annotations

import functools

import jax
import pytest

import jitwatch
from jitwatch.demo import pitfalls
from tests.truths import assert_truths


# One of them ends a thread by an exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("example", pitfalls.EXAMPLES, ids=lambda one: one.__name__)
def test_pitfall_of_the_demo_is_reported_correctly(example):
    """State, explanation and events agree with each other and with the source."""
    if example is pitfalls.growing_cache:
        example = functools.partial(example, steps=10)  # as true of ten compiles as of forty
    with jitwatch.install(port=None) as watch:
        try:
            example()
        finally:
            jax.clear_caches()
        assert_truths(watch)
