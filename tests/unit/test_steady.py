"""The steady state: what is a violation, and what the job wants done about it."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch.diagnosis.steady import current


@pytest.fixture(autouse=True)
def nothing_holds():
    """No steady state survives a test."""
    yield
    while (state := current()) is not None:
        state.end()


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as installed:
        yield installed


@pytest.fixture
def warm():
    """A function that has compiled for one shape."""

    def warm_target(x):
        return x * 2 + 1

    function = jax.jit(warm_target)
    function(np.ones(1, np.float32))
    return function


def shape(size):
    return np.ones(size, np.float32)


def violations(watch):
    """Violations by the metric, and the events of them."""
    rows = watch.snapshot()["metrics"]["jitwatch_steady_violations_total"]
    events = [record for record in watch.events() if record["event"] == "jit.steady_violation"]
    return sum(row["value"] for row in rows), events


def test_compile_after_steady_is_a_violation(watch, warm, caplog):
    """It is counted, logged with function, line and cost, and warned of in the job's log."""
    state = jitwatch.steady()
    warm(shape(2))
    warm(shape(2))
    count, (event,) = violations(watch)
    assert 1 == count
    assert ("warn", True) == (event["action"], event["function"].split("@")[0].endswith("warm_target"))
    assert event["call_site"].startswith(__file__)
    assert 1 == caplog.text.count("in the steady state")
    assert "jitwatch.expected(...)" in caplog.text
    state.end()
    warm(shape(3))
    assert 1 == violations(watch)[0]


def test_count_says_nothing_in_the_log(watch, warm, caplog):
    """`count` counts, and the event is there, but the job's log stays quiet."""
    with jitwatch.steady(on_recompile="count"):
        warm(shape(2))
    assert 1 == violations(watch)[0]
    assert "steady" not in caplog.text


def test_first_compile_of_another_function_is_a_violation_too(watch, warm):
    """Warm-up is over for every function of the user; JAX's own small compiles are no violation."""
    with jitwatch.steady(on_recompile="count"):
        jax.jit(lambda x: x - 1)(1.0)
        jnp.ones(37) + 1
    assert 1 == violations(watch)[0]


def test_raise_comes_after_the_compile_and_before_the_execution(watch):
    """Donated inputs stay alive, the program is kept, and calling again runs without a compile."""

    def target(state, x):
        return {"w": state["w"] + x.sum()}

    step = jax.jit(target, donate_argnums=0)
    state = step({"w": jnp.ones(4)}, shape(2))
    with jitwatch.steady(on_recompile="raise"):
        with pytest.raises(jitwatch.RecompileError, match="calling again runs it") as caught:
            step(state, shape(3))
        assert not state["w"].is_deleted()
        before = watch.snapshot()["totals"]["compiles"]
        state = step(state, shape(3))
    assert [6.0] * 4 == state["w"].tolist()
    assert before == watch.snapshot()["totals"]["compiles"] == 2
    assert caught.value.function.split("@")[0].endswith("target")
    assert caught.value.call_site.startswith(__file__)
    assert isinstance(caught.value, jitwatch.JitwatchError)


def test_raise_leaves_jax_in_order(watch, warm):
    """After the error other functions, transformations and nested jits go on working."""
    with jitwatch.steady(on_recompile="raise"), pytest.raises(jitwatch.RecompileError):
        warm(shape(2))
    assert jax.core.trace_state_clean() if hasattr(jax.core, "trace_state_clean") else True
    assert [3.0, 3.0] == warm(shape(2)).tolist()
    assert 2.0 == float(jax.grad(jax.jit(lambda y: y * 2))(1.0))


def test_raise_inside_of_a_trace_only_counts(watch, warm):
    """A function that compiles while another is traced does not break that trace; the outer call raises."""

    @jax.jit
    def outer(x):
        with jax.ensure_compile_time_eval():
            table = warm(shape(23))
        return x + table.sum()

    with jitwatch.steady(on_recompile="raise"):
        with pytest.raises(jitwatch.RecompileError, match="outer"):
            outer(1.0)
        assert 70.0 == float(outer(1.0))
    assert 2 == violations(watch)[0]


def test_budget_allows_so_many_compiles_of_each_function(watch, warm):
    """The budget is by function, and counts from the start of the steady state."""
    other = jax.jit(lambda x: x - 1)
    with jitwatch.steady(on_recompile="count", budget=2):
        for size in (2, 3, 4):
            warm(shape(size))
            other(shape(size))
    assert 2 == violations(watch)[0]


def test_allowed_function_may_compile(watch, warm):
    """`allow` takes patterns of function names, one or many."""
    for allow in ("*warm_target*", ["nothing", "*warm_target*"]):
        with jitwatch.steady(on_recompile="raise", allow=allow):
            warm(shape(len(allow)))
    assert (0, []) == violations(watch)


def test_expected_compile_is_no_violation(watch, warm):
    """A compile that the job announces is none, also where violations raise."""
    with jitwatch.steady(on_recompile="raise"), jitwatch.expected("a longer context"):
        warm(shape(2))
    assert (0, []) == violations(watch)


def test_ignored_function_is_no_violation(warm):
    """Functions that `install(ignore=…)` names never alarm."""
    with jitwatch.install(port=0, ignore="*warm_target*") as watch, jitwatch.steady(on_recompile="raise"):
        warm(shape(2))
        assert (0, []) == violations(watch)


def test_block_holds_for_its_thread_and_a_call_for_all(watch, warm):
    """Another thread may compile during a block, but not during a process-wide steady state."""

    def elsewhere(size):
        thread = threading.Thread(target=warm, args=(shape(size),))
        thread.start()
        thread.join()
        return violations(watch)[0]

    with jitwatch.steady(on_recompile="count"):
        assert 0 == elsewhere(2)
    state = jitwatch.steady(on_recompile="count")
    assert 1 == elsewhere(3)
    state.end()
    assert 1 == elsewhere(4)


def test_innermost_state_decides(watch, warm):
    """A block inside of a stricter state can be laxer, and afterwards the outer one holds again."""
    outer = jitwatch.steady(on_recompile="raise")
    with jitwatch.steady(on_recompile="count"):
        warm(shape(2))
    with pytest.raises(jitwatch.RecompileError):
        warm(shape(3))
    outer.end()
    outer.end()
    assert not outer.is_active


def test_begin_is_exported(watch):
    """steady_since_timestamp_seconds is the time of the call, and 0 when it has ended."""

    def since():
        rows = watch.snapshot()["metrics"].get("jitwatch_steady_since_timestamp_seconds")
        return rows[0]["value"] if rows else None

    seen = [since()]
    state = jitwatch.steady()
    seen.append(since())
    state.end()
    seen.append(since())
    assert [None, state.since, 0.0] == seen


def test_before_install_holds_afterwards(warm):
    """The order of steady() and install() does not matter."""
    jitwatch.steady(on_recompile="count")
    with jitwatch.install(port=0) as watch:
        warm(shape(2))
        assert 1 == violations(watch)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_recompile": "explode"}, "expected 'warn', 'raise' or 'count', got 'explode'"),
        ({"budget": -1}, "expected a whole number of at least 0, got -1"),
        ({"budget": True}, "expected a whole number of at least 0, got True"),
        ({"allow": [1]}, "expected function names or patterns"),
    ],
)
def test_bad_argument_is_a_config_error(options, message):
    """The message says what can be given, and nothing holds."""
    with pytest.raises(jitwatch.ConfigError, match=message):
        jitwatch.steady(**options)
    assert current() is None
