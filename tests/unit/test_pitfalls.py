"""The known mistakes: each is named on its seed example, and silent once it is fixed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch

X = np.ones(3, np.float32)


@pytest.fixture(autouse=True)
def thread_errors():
    """What ended a thread goes here, not to the terminal."""
    original, errors = threading.excepthook, []
    threading.excepthook = lambda args: errors.append(args.exc_type)
    yield errors
    threading.excepthook = original


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as installed:
        yield installed


def told(watch):
    """Pitfall and subject of each one that was told, in order."""
    return [(row["pitfall"], row["subject"]) for row in watch.snapshot()["pitfalls"]]


def array(*shape):
    return np.ones(shape, np.float32)


class Settings(NamedTuple):
    width: int = 4
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    width: int = 4


class Plain:
    """No `__eq__` and no `__hash__`: every object equals only itself."""

    def __init__(self, width):
        self.width = width


class Careful(Plain):
    """Compares by content."""

    def __eq__(self, other):
        return isinstance(other, Careful) and other.width == self.width

    def __hash__(self):
        return hash(self.width)


def jitted_with_static():
    return jax.jit(lambda x, n: x * 2, static_argnums=1)


# Seed examples. Each function commits its mistake once.


def static_counter():
    step = jitted_with_static()
    for n in range(7):
        step(X, n)


def static_field():
    step = jitted_with_static()
    for n in range(7):
        step(X, Settings(seed=n))


def static_by_name():
    step = jax.jit(lambda x, *, rate: x * rate, static_argnames="rate")
    for n in range(7):
        step(X, rate=n / 10)


def identity_hashed():
    step = jitted_with_static()
    step(X, Plain(3))
    step(X, Plain(3))


def identity_hashed_partial():
    step = jitted_with_static()
    step(X, functools.partial(max, 1))
    step(X, functools.partial(max, 1))


def lambda_as_static():
    step = jitted_with_static()
    for _ in range(2):
        step(X, lambda: 1)


def five_statics():
    step = jax.jit(lambda x, a, b, c, d, e: x * 2, static_argnames=("a", "b", "c", "d", "e"))
    for a in (0, 1):
        for b in (0, 1):
            step(X, a=a, b=b, c=0, d=0, e=0)


def jit_in_a_loop():
    for _ in range(4):
        jax.jit(lambda x: x * 2)(X)


def jit_in_a_method():
    class Model:
        def predict(self, x):
            return jax.jit(lambda y: y + 1)(x)

    model = Model()
    for _ in range(4):
        model.predict(X)


def captured_loop_variable():
    for scale in range(4):
        jax.jit(lambda x: x * scale)(X)  # noqa: B023 - the mistake


def list_of_captured_loop_variables():
    def make(scale):
        return jax.jit(lambda x: x * scale)

    for function in [make(scale) for scale in range(4)]:
        function(X)


def rebuilt_partial():
    def scaled(scale, x):
        return x * scale

    for number in range(4):
        jax.jit(functools.partial(scaled, number))(X)


def mutable_default_list():
    jax.jit(lambda x, options=[]: x)


def mutable_default_array():
    jax.jit(lambda x, bias=np.zeros(3): x)  # noqa: B008 - the mistake


def unhashable_static():
    step, layers = jitted_with_static(), [1, 2]
    in_a_thread_that_fails(lambda: step(X, layers))


def unhashable_static_in_a_method():
    class Model:
        @functools.partial(jax.jit, static_argnums=(0, 2))
        def apply(self, x, layers):
            return x

    model = Model()
    in_a_thread_that_fails(lambda: model.apply(X, {"width": 3}))


def unhashable_static_by_name():
    step = jax.jit(lambda x, *, a, b: x * 2, static_argnames=("a", "b"))
    in_a_thread_that_fails(
        lambda: step(
            X,
            a=1,  # ä
            b=np.zeros(3),
        )
    )


def in_a_thread_that_fails(call):
    """Python 3.11 shows errors that are raised in C++ only where nobody catches them."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def last_batches():
    step = jax.jit(lambda batch: batch["tokens"].sum())
    for size in (32, 31, 30, 29):
        step({"tokens": array(size, 8)})


def growing_sequence_in_two_arrays():
    step = jax.jit(lambda tokens, mask: tokens.sum() + mask.sum())
    for size in (8, 9, 10, 11):
        step(array(4, size), array(4, size, size))


def dtype_flips():
    step = jax.jit(lambda x: x * 2)
    step(np.ones(3, np.float32))
    step(np.ones(3, np.int32))


def weak_type_flips():
    step = jax.jit(lambda x, count: (x * 2, count + 1))
    step(X, 0)
    step(X, jnp.int32(1))


def committed_flips():
    step = jax.jit(lambda state: state["w"] * 2)
    step({"w": X})
    step({"w": jax.device_put(X, jax.devices()[0])})


def tree_flips():
    step = jax.jit(lambda state: state["w"] * 2)
    step({"w": X})
    step({"w": X, "ema": X})


def none_flips():
    step = jax.jit(lambda x, mask: x * 2)
    step(X, None)
    step(X, X)


def config_flips():
    step = jax.jit(lambda x: x @ x)
    step(X)
    with jax.default_matmul_precision("highest"):
        step(X)


def caches_cleared_in_a_loop():
    step = jax.jit(lambda x: x * 2)
    for _ in range(4):
        step(X)
        jax.clear_caches()


#: Sizes that no test has used: JAX has no program for them in its caches.
FRESH = itertools.count(1_000)


def eager_operations():
    for size in itertools.islice(FRESH, 51):
        jnp.negative(np.ones(size, np.float32))


def large_constant():
    table = jnp.ones((1024, 1024 + 1))
    jax.jit(lambda x: x + table.sum())(1.0)


def late_compile():
    step = jax.jit(lambda x: x * 2)
    with jitwatch.steady(on_recompile="count"):
        step(X)


SEEDS = [
    (static_counter, "static_arg_churn", "n"),
    (static_field, "static_arg_churn", "n"),
    (static_by_name, "static_arg_churn", "rate"),
    (identity_hashed, "identity_hashed_static", "n"),
    (identity_hashed_partial, "identity_hashed_static", "n"),
    (lambda_as_static, "identity_hashed_static", "n"),
    (five_statics, "too_many_statics", ""),
    (jit_in_a_loop, "jit_in_loop", ""),
    (jit_in_a_method, "jit_in_loop", ""),
    (captured_loop_variable, "closure_capture", "scale"),
    (list_of_captured_loop_variables, "closure_capture", "scale"),
    (rebuilt_partial, "closure_capture", "scale"),
    (mutable_default_list, "mutable_default", "options"),
    (mutable_default_array, "mutable_default", "bias"),
    (unhashable_static, "unhashable_static", "n"),
    (unhashable_static_in_a_method, "unhashable_static", "layers"),
    (unhashable_static_by_name, "unhashable_static", "b"),
    (last_batches, "shape_churn", "batch"),
    (growing_sequence_in_two_arrays, "shape_churn", "tokens"),
    (dtype_flips, "dtype_flip", "x"),
    (weak_type_flips, "weak_type", "count"),
    (committed_flips, "sharding_flip", "state"),
    (tree_flips, "tree_flip", "state"),
    (none_flips, "tree_flip", "mask"),
    (config_flips, "config_flip", "jax_default_matmul_precision"),
    (caches_cleared_in_a_loop, "cache_thrash", ""),
    (large_constant, "captured_constant", ""),
    (late_compile, "compile_during_steady", ""),
]


@pytest.mark.parametrize(("commit", "pitfall", "subject"), SEEDS, ids=[seed[0].__name__ for seed in SEEDS])
def test_mistake_is_named_once(watch, commit, pitfall, subject):
    """Its seed example gives exactly this pitfall, with what it is about, and no other; again it is not told again."""
    commit()
    assert [(pitfall, subject)] == told(watch)
    commit()
    assert 1 == [name for name, _ in told(watch)].count(pitfall)


def test_eager_operations_are_named_with_their_line(watch):
    """Operations outside of jit that compile again and again are charged to the user's line."""
    eager_operations()
    ((pitfall, site),) = told(watch)
    assert "eager_churn" == pitfall
    assert site.startswith(f"{__file__}:")
    rows = watch.snapshot()["metrics"]["jitwatch_pitfalls_total"]
    ((labels, count),) = [(row["labels"], row["value"]) for row in rows]
    assert ("eager_churn", 1) == (labels["pitfall"], count)
    # The line is a function of its own.
    assert labels["function"].startswith("eager_operations.<eager>@test_pitfalls.py:")


def test_mistake_that_causes_no_recompile_is_charged_with_none(watch):
    """A captured constant is there in each compile of its function; why that was needed is another matter."""
    table = jnp.ones((1024, 1024 + 1))
    step = jax.jit(lambda x: x.sum() + table.sum())
    for size in (8, 6):
        step(array(size))
    state = watch.snapshot()
    (constant,), (site,) = state["pitfalls"], state["call_sites"]

    assert ("captured_constant", 0, 0.0) == (constant["pitfall"], constant["recompiles"], constant["lost_seconds"])
    assert (None, "x float32[8] → float32[6]") == (site["pitfall"], site["reason"])
    assert "drop the remainder or pad it to 8" in site["advice"]
    (event,) = [one for one in watch.events() if one["event"] == "jit.recompiled" and one["name"] == "<lambda>"]
    assert "pitfall" not in event
    assert event["advice"] == site["advice"]


def test_ignored_function_is_neither_advised_on_nor_worth_a_word():
    """It is counted, and that is all."""
    with jitwatch.install(port=0, ignore=["*ignored_step*"]) as watch:

        @jax.jit
        def ignored_step(x):
            return x + 1

        for size in range(1, 8):
            ignored_step(array(size))
        state = watch.snapshot()
        (row,) = [row for row in state["functions"] if "ignored_step" in row["function"]]

    assert (7, 6) == (row["compiles"], row["recompiles"])
    assert ([], []) == (state["call_sites"], state["pitfalls"])
    # On a slow machine compiling takes most of so short a run, which is worth a word; recompiles are not.
    assert state["health"]["level"] in ("good", "busy")
    assert [] == state["health"]["others"]


# Fixed forms and what only looks like a mistake. None of them may alarm.


def dynamic_argument():
    step = jax.jit(lambda x, n: x * n)
    for n in range(20):
        step(X, n)


def training_flag():
    step = jax.jit(lambda x, training: x * 2, static_argnames="training")
    for n in range(20):
        step(X, training=bool(n % 2))


def four_static_modes():
    step = jitted_with_static()
    for n in range(20):
        step(X, ("train", "eval", "test", "warm")[n % 4])


def frozen_config():
    step = jitted_with_static()
    for _ in range(20):
        step(X, Frozen())


def equal_by_content():
    step = jitted_with_static()
    for _ in range(20):
        step(X, Careful(3))


def same_bound_method():
    step = jitted_with_static()
    bound = Bound()
    for size in (3, 4, 3, 4):
        step(array(size), bound.method)


class Bound:
    def method(self):
        return 1


def five_statics_that_never_vary():
    step = jax.jit(lambda x, a, b, c, d, e: x * 2, static_argnames=("a", "b", "c", "d", "e"))
    for size in (3, 4, 5):
        step(array(size), a=1, b=2, c=3, d=4, e=5)


def three_statics_that_vary():
    step = jax.jit(lambda x, a, b, c: x * 2, static_argnames=("a", "b", "c"))
    for a in (0, 1):
        for b in (0, 1):
            step(X, a=a, b=b, c=0)


def jitted_once():
    step = jax.jit(lambda x: x * 2)
    for _ in range(20):
        step(X)


def jitted_with_different_options():
    def target(x):
        return x * 2

    for options in ({}, {"inline": True}, {"keep_unused": True}, {"donate_argnums": ()}):
        jax.jit(target, **options)(X)


def notebook_cell_again():
    for _ in range(6):
        scope = {"jax": jax}
        exec(compile("def step(x):\n    return x * 2\nstep = jax.jit(step)\n", "<ipython-input-7>", "exec"), scope)
        scope["step"](X)


def three_models_of_a_factory():
    def make(scale):
        return jax.jit(lambda x: x * scale)

    actor, critic, target = make(1), make(2), make(3)
    for _ in range(3):
        actor(X)
        critic(X)
        target(X)


def immutable_defaults():
    jax.jit(lambda x, a=1, b=(1, 2), c=None, d="s", e=frozenset(), f=Frozen(): x)


def hashable_static():
    jitted_with_static()(X, (1, 2))


def train_and_eval_batch():
    step = jax.jit(lambda batch: batch.sum())
    for n in range(12):
        step(array((32, 7, 16)[n % 3], 8))


def one_dtype():
    step = jax.jit(lambda x: x * 2)
    for _ in range(5):
        step(np.ones(3, np.float32))


def numpy_for_jax_arrays():
    step = jax.jit(lambda x: x * 2)
    step(X)
    step(jnp.asarray(X))


def counter_as_array():
    step = jax.jit(lambda x, count: (x * 2, count + 1))
    count = jnp.asarray(0, jnp.int32)
    for _ in range(5):
        _, count = step(X, count)


def committed_from_the_start():
    step = jax.jit(lambda state: state["w"] * 2)
    for _ in range(3):
        step({"w": jax.device_put(X, jax.devices()[0])})


def same_keys_in_another_order():
    step = jax.jit(lambda state: state["w"] * 2)
    step({"w": X, "ema": X})
    step({"ema": X, "w": X})


def keywords_in_another_order():
    step = jax.jit(lambda *, a, b: a + b)
    step(a=X, b=X)
    step(b=X, a=X)


def precision_at_every_call():
    step = jax.jit(lambda x: x @ x)
    for _ in range(3):
        with jax.default_matmul_precision("highest"):
            step(X)


def one_clearing_of_many_signatures():
    step = jax.jit(lambda x: x.sum())
    for _ in range(2):
        for size in (3, 4, 5):
            step(array(size))
        jax.clear_caches()


def eager_start_up():
    for size in range(1, 20):
        jnp.negative(np.ones(size, np.float32))


def small_constant():
    table = jnp.ones((1024, 1024 - 1))
    jax.jit(lambda x: x + table.sum())(1.0)


def expected_late_compile():
    step = jax.jit(lambda x: x * 2)
    with jitwatch.steady(on_recompile="count"), jitwatch.expected("phase two"):
        step(X)


def allowed_late_compile():
    step = jax.jit(lambda x: x * 2)
    with jitwatch.steady(on_recompile="count", allow="*allowed_late_compile*"):
        step(X)


def eager_transforms():
    step = jax.jit(lambda x: (x * 2).sum())
    step(X)
    jax.grad(step)(X)
    jax.vmap(step)(array(2, 3))


FIXED = [
    dynamic_argument,
    training_flag,
    four_static_modes,
    frozen_config,
    equal_by_content,
    same_bound_method,
    five_statics_that_never_vary,
    three_statics_that_vary,
    jitted_once,
    jitted_with_different_options,
    notebook_cell_again,
    three_models_of_a_factory,
    immutable_defaults,
    hashable_static,
    train_and_eval_batch,
    one_dtype,
    numpy_for_jax_arrays,
    counter_as_array,
    committed_from_the_start,
    same_keys_in_another_order,
    keywords_in_another_order,
    precision_at_every_call,
    one_clearing_of_many_signatures,
    eager_start_up,
    small_constant,
    expected_late_compile,
    allowed_late_compile,
    eager_transforms,
]


@pytest.mark.parametrize("behave", FIXED, ids=[one.__name__ for one in FIXED])
def test_fixed_form_is_silent(watch, behave):
    """What the advice says, and what merely looks like a mistake, is no pitfall."""
    behave()
    assert [] == told(watch)
    totals = watch.snapshot()["metrics"]["jitwatch_pitfalls_by_kind_total"]
    assert {0} == {row["value"] for row in totals}


def test_many_compiles_are_one_storm_and_one_pitfall(watch):
    """The loop counter as a static argument: 50 compiles, one storm, one pitfall that names it; as advised: none."""

    def step(x, n):
        return x + n

    churning = jax.jit(step, static_argnums=1)
    for n in range(50):
        churning(X, n)
    before = watch.snapshot()
    (row,) = [row for row in before["functions"] if ".<locals>.step@" in row["function"]]
    assert (50, 49, 1) == (row["compiles"], row["recompiles"], row["storms"])
    assert {"static_arg": 49} == row["causes"]
    assert {"static_arg_churn": 1} == row["pitfalls"]
    assert [("static_arg_churn", "n")] == told(watch)
    kinds = [record["event"] for record in watch.events(10_000) if record.get("name") == "step"]
    # The sampler reads programs at any time.
    kinds = [kind for kind in kinds if kind != "program.measured"]
    kinds.remove("jit.pitfall")
    assert ["jit.recompiled", "jit.storm_started"] == kinds[20:22]
    assert 1 == kinds.count("jit.storm_started")

    def advised(x, n):
        return x + n

    dynamic = jax.jit(advised)
    for n in range(50):
        dynamic(X, n)
    (row,) = [row for row in watch.snapshot()["functions"] if ".<locals>.advised@" in row["function"]]
    assert (1, 0, 0, {}) == (row["compiles"], row["recompiles"], row["storms"], row["pitfalls"])
    assert [("static_arg_churn", "n")] == told(watch)


def test_event_says_what_where_and_what_to_do(watch):
    """The pitfall's event has function, line, subject, cost, a sentence and an advice; the recompile has its name."""
    last_batches()
    (event,) = [one for one in watch.events() if one["event"] == "jit.pitfall"]
    assert "shape_churn" == event["pitfall"]
    assert event["function"].endswith(".last_batches.<locals>.<lambda>@" + event["location"].rpartition("/")[2])
    assert event["call_site"].startswith(f"{__file__}:")
    assert event["lost_s"] > 0
    assert "axis 0 of batch['tokens'] had 4 sizes, from 29 to 32, and each one needed a compile" == event["message"]
    advice = "Pad to a few sizes: padding to 32 would have needed 1 compile instead of 4, at 5 % more work"
    assert advice == event["advice"]
    last = [one for one in watch.events() if one["event"] == "jit.recompiled"][-1]
    assert ("shape_churn", advice) == (last["pitfall"], last["advice"])
    assert last["explanation"].endswith(f"{advice}.")


def test_advice_goes_with_the_sizes_seen(watch):
    """Every further recompile reckons again, although the pitfall is told once."""
    step = jax.jit(lambda x: x.sum())
    for size in (512, 500, 490, 480, 250):
        step(array(size))
    last = [one for one in watch.events() if one["event"] == "jit.recompiled"][-1]
    assert "padding to 512 would have needed 1 compile instead of 5, at 15 % more work" in last["advice"]
    assert 1 == len(told(watch))
    (row,) = watch.snapshot()["pitfalls"]
    assert "axis 0 of x had 5 sizes, from 250 to 512, and each one needed a compile" == row["message"]
    assert last["advice"] == row["advice"]
    (event,) = [one for one in watch.events() if one["event"] == "jit.pitfall"]
    assert "axis 0 of x had 4 sizes, from 480 to 512, and each one needed a compile" == event["message"]


def test_ignored_function_has_no_pitfall():
    """`ignore` holds for pitfalls as for storms."""
    with jitwatch.install(port=0, ignore="*ignored_step*") as watch:

        def ignored_step(x, n):
            return x

        step = jax.jit(ignored_step, static_argnums=1)
        for n in range(8):
            step(X, n)
        assert [] == told(watch)


def test_redacted_run_still_names_the_mistake():
    """With `redact` the argument is named and none of its values."""
    with jitwatch.install(port=0, redact=True) as watch:
        step = jitted_with_static()
        for n in range(7):
            step(X, f"secret-{n}")
        assert [("static_arg_churn", "n")] == told(watch)
        assert "secret" not in repr((watch.snapshot(), watch.events()))
