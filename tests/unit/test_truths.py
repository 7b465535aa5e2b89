"""What holds of every program, of each mistake of the demo."""

from __future__ import annotations

import jax
import pytest

import jitwatch
from jitwatch.demo import mistakes
from tests.truths import assert_truths


# One of them ends a thread by an exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("mistake", mistakes.MISTAKES, ids=lambda one: one.__name__)
def test_mistake_of_the_demo_is_told_truly(mistake, monkeypatch):
    monkeypatch.setattr(mistakes, "GROWING_STEPS", 10)  # as true of ten compiles as of forty
    with jitwatch.install(port=None) as watch:
        try:
            mistake()
        finally:
            jax.clear_caches()
        assert_truths(watch)
