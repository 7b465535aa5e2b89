"""Clearing JAX's caches is seen, does what it did, and leaves nothing behind."""

from __future__ import annotations

import inspect

import jax
import numpy as np
import pytest
from jaxlib._jax import PjitFunction

import jitwatch
from jitwatch import guard
from jitwatch.jaxhooks.compile.misses import watch_clearing
from jitwatch.jaxhooks.patcher import Patcher
from tests.recompiles import compile_events


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as installed:
        yield installed


@pytest.fixture
def cleared():
    """Hooks without an agent: one entry for each clearing that was told of."""
    seen: list[str] = []
    patcher = Patcher()
    watch_clearing(patcher, lambda: seen.append("cleared"))
    yield seen
    patcher.restore()


def fresh():
    return jax.jit(lambda x: x + 1)


def causes(watch):
    return [event.get("causes") for event in compile_events(watch)]


def test_clear_caches_is_told_once_and_works(cleared):
    """The caches are empty afterwards."""
    f = fresh()
    f(1.0)
    jax.clear_caches()
    assert (["cleared"], 0) == (cleared, f._cache_size())


def test_clear_cache_of_a_function_is_told_once_and_works(cleared):
    """The function's own cache is empty, that of another is not."""
    f, g = fresh(), fresh()
    f(1.0)
    g(1.0)
    f.clear_cache()
    assert (["cleared"], 0, 1) == (cleared, f._cache_size(), g._cache_size())


def test_clear_cache_of_an_older_function_is_told():
    """The method belongs to the class, so functions that were jitted before are seen too."""
    f = fresh()
    f(1.0)
    seen: list[str] = []
    patcher = Patcher()
    watch_clearing(patcher, lambda: seen.append("cleared"))
    f.clear_cache()
    patcher.restore()
    assert (["cleared"], 0) == (seen, f._cache_size())


def test_function_jitted_in_between_is_told_and_put_back(cleared):
    """JAX sets the method on the class whenever it makes a function; that does not undo ours, nor keep it."""
    fresh()
    fresh().clear_cache()
    assert ["cleared"] == cleared


def test_functions_stay_those_of_jax(monkeypatch):
    """Whoever imported them before or looks at them later has JAX's own objects, and their code is put back."""
    before = jax.clear_caches, jax._src.api.clear_caches, PjitFunction.clear_cache
    code = [one.__code__ for one in before]
    patcher = Patcher()
    watch_clearing(patcher, lambda: None)
    fresh()
    assert before == (jax.clear_caches, jax._src.api.clear_caches, PjitFunction.clear_cache)
    assert code != [one.__code__ for one in before]
    assert [] == patcher.restore()
    assert code == [one.__code__ for one in before]


def test_names_and_signatures_stay(cleared):
    """Whoever looks at the functions sees JAX's."""
    assert "clear_caches" == jax.clear_caches.__name__
    assert [] == list(inspect.signature(jax.clear_caches).parameters)
    assert "Clear all compilation" in (jax.clear_caches.__doc__ or "")


def test_error_of_ours_does_not_reach_the_job(monkeypatch):
    """The caches are cleared all the same."""
    monkeypatch.setattr(guard, "reraise", False)
    patcher = Patcher()

    def fail():
        raise ValueError("ours")

    watch_clearing(patcher, fail)
    f = fresh()
    f(1.0)
    jax.clear_caches()
    f.clear_cache()
    patcher.restore()
    assert 0 == f._cache_size()


def test_recompile_after_clearing_says_so(watch):
    """Of the function that was cleared, and of all of them after `clear_caches`."""
    f, g = fresh(), jax.jit(lambda x: x - 1)
    for _ in range(2):
        f(1.0)
        g(1.0)
        f.clear_cache()
    assert [None, None, ["cache_cleared"]] == causes(watch)
    jax.clear_caches()
    g(1.0)
    assert ["cache_cleared"] == causes(watch)[-1]


def test_clearing_without_a_compile_is_no_event(watch):
    """It is no compile, and what does not compile again costs nothing."""
    fresh()(1.0)
    before = len(watch.events())
    jax.clear_caches()
    assert before == len(watch.events())


def test_clearing_explains_no_new_shape(watch):
    """A program that was never compiled was not lost."""
    f = fresh()
    f(1.0)
    jax.clear_caches()
    f(np.ones(3, np.float32))
    assert ["shape", "weak_type"] == causes(watch)[-1]


def test_second_clearing_is_needed_for_a_second_recompile(watch):
    """One clearing explains one recompile of each program."""
    f = fresh()
    f(1.0)
    jax.clear_caches()
    f(1.0)
    f(np.ones(3, np.float32))
    jax.clear_caches()
    f(np.ones(3, np.float32))
    assert [None, ["cache_cleared"], ["shape", "weak_type"], ["cache_cleared"]] == causes(watch)
