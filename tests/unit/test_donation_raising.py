"""Python ≥ 3.12: errors that C raises straight into the user's code are seen as well."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from tests.unit.donations import DONATED_AT, notes, short, taken, train_step, violations

pytestmark = pytest.mark.versions(python=">=3.12", reason="sys.monitoring is there from Python 3.12 on")


@pytest.fixture
def watch():
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


def run(code: str, **names) -> BaseException:
    """Run code as a module does; returns the error it ends in."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - its kind differs by version
        exec(compile(code, "job.py", "exec"), names)
    return raised.value


@pytest.mark.parametrize("marks", [True, False])
def test_memoryview_of_a_dead_array_names_the_donor(marks):
    """The one dead array of the frame is the one; counted once."""
    with jitwatch.install(port=0, mark_donated=marks) as watch:
        array = taken(jax.jit(train_step, donate_argnums=0), 2, 4)
        error = run("memoryview(array)", array=array, other=jnp.ones(3))
        (event,) = violations(watch)
    assert isinstance(error, BufferError)
    assert ("use_after_donate", "train_step", DONATED_AT) == (
        event["kind"],
        short(event["donated_by"]),
        event["donated_at"],
    )
    assert 1 == len(notes(error))


def test_memoryview_with_two_dead_arrays_guesses_nothing(watch):
    """Which of them it was is not known, so the donor is not named."""
    step = jax.jit(train_step, donate_argnums=0)
    run("memoryview(first)", first=taken(step, 2), second=taken(step, 2))
    (event,) = violations(watch)
    assert ("use_after_donate", "unknown") == (event["kind"], event["donated_by"])


def test_memoryview_of_a_deleted_array_is_no_violation(watch):
    """Deleted on purpose."""
    array = jnp.ones(3)
    array.delete()
    run("memoryview(array)", array=array)
    assert [] == violations(watch)


def test_double_donation_to_an_unwatched_function_is_told():
    """Its name is not known, but that it happened is."""
    early = jax.jit(lambda a, b: a + b, donate_argnums=0)
    early(jnp.ones(3), jnp.ones(3))
    with jitwatch.install(port=0) as watch:
        array = jnp.ones(3)
        run("early(array, array)", early=early, array=array)
        (event,) = violations(watch)
    assert ("double_donation", "unknown") == (event["kind"], event["function"])


def test_unmarked_array_in_a_cached_call_is_told():
    """Neither the donor nor the user of the array is watched; the error comes from C++ until JAX 0.10."""
    early, user = jax.jit(lambda x: x + 1, donate_argnums=0), jax.jit(lambda x: x * 2)
    early(jnp.ones(3))
    user(jnp.ones(3))
    with jitwatch.install(port=0) as watch:
        array = jnp.ones(3)
        early(array)
        error = run("user(array)", user=user, array=array)
        (event,) = violations(watch)
    assert ("use_after_donate", "unknown") == (event["kind"], event["donated_by"])
    assert 1 == len(notes(error))


def test_other_errors_are_left_alone(watch):
    """An error with the same words that is not JAX's kind, and one of the kind with other words."""
    for code in ("raise KeyError('deleted or donated')", "raise ValueError('no')", "raise ValueError()", "int('x')"):
        assert [] == notes(run(code))
    assert [] == violations(watch)


def test_one_number_is_enough():
    """Everything that listens to errors shares it: other tools need some as well."""
    before = [sys.monitoring.get_tool(number) for number in range(6)]
    with jitwatch.install(port=0):
        assert 1 == [sys.monitoring.get_tool(number) for number in range(6)].count("jitwatch")
    assert before == [sys.monitoring.get_tool(number) for number in range(6)]


def test_taken_numbers_are_respected():
    """Where both numbers belong to others, the agent does without."""
    for tool in (3, 4):
        sys.monitoring.use_tool_id(tool, "somebody")
    try:
        with jitwatch.install(port=0) as watch:
            array = taken(jax.jit(train_step, donate_argnums=0), 2)
            run("memoryview(array)", array=array)
            assert [] == violations(watch)
    finally:
        for tool in (3, 4):
            sys.monitoring.free_tool_id(tool)
