"""What JAX compiles outside of jit: bodies of control flow, operations, and JAX's own functions that the job jits."""

from __future__ import annotations

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch.diagnosis.eager import EAGER, EagerCallSites
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.model.signature import Placement, Signature
from jitwatch.model.taxonomy import JAX_LABEL

HOUR = 3600.0
ME = __name__
POINTS = jnp.arange(8.0)


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as installed:
        yield installed


def rows(watch):
    """Recompiles of the functions that compiled, by label without this module's name."""
    return {
        row["function"].removeprefix(f"{ME}.").partition("@")[0]: row["recompiles"]
        for row in watch.snapshot()["functions"]
        if row["function"] != JAX_LABEL and row["compiles"]
    }


def pitfalls(watch):
    return [(one["pitfall"], one["message"], one["advice"]) for one in watch.snapshot()["pitfalls"]]


# Bodies that are made anew in each call of an operation outside of jit


def mapped(keys):
    def one_draw(key):
        return POINTS + key

    return jax.lax.map(one_draw, keys)


def scanned(keys):
    def step(carry, key):
        return carry + key, carry

    return jax.lax.scan(step, jnp.float32(0), keys)[1]


def looped(keys):
    return jax.lax.fori_loop(0, 3, lambda i, x: x + i, keys)


def repeated(keys):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, keys)


def chosen(keys):
    return jax.lax.cond(keys[0] < 9, lambda x: x + 1, lambda x: x - 1, keys)


def wrapped_in_a_partial(keys):
    return jax.lax.map(functools.partial(lambda scale, key: scale * key, 2.0), keys)


class Model:
    def __init__(self):
        self.scale = 3.0

    def predict(self, keys):
        def row(key):
            return key * self.scale

        return jax.lax.map(row, keys)


OPERATIONS = {
    mapped: "jax.lax.map",
    scanned: "jax.lax.scan",
    looped: "jax.lax.fori_loop",
    repeated: "jax.lax.while_loop",
    chosen: "jax.lax.cond",
    wrapped_in_a_partial: "jax.lax.map",
    Model().predict: "jax.lax.map",
}


@pytest.mark.parametrize("call", OPERATIONS, ids=lambda call: call.__name__)
def test_body_that_is_made_anew_is_the_jobs_loss(watch, call):
    """It has the body's name and the line of the operation, counts as lost, and says what to change."""
    for number in range(6):
        call(jnp.arange(4.0) + number)
    ((name, recompiles),) = rows(watch).items()
    assert 5 == recompiles
    state = watch.snapshot()
    assert 0 < state["totals"]["lost_seconds"]
    ((pitfall, message, advice),) = pitfalls(watch)
    assert "eager_churn" == pitfall
    assert f"{OPERATIONS[call]} is called with a new function object of " in message
    assert "in a jitted function" in advice if OPERATIONS[call] == "jax.lax.map" else "Define" in advice
    assert name.rpartition(".")[2] in message
    assert "good" != state["health"]["level"]
    assert "new function object" in str(jitwatch.explain())


def test_advice_for_a_body_brings_what_it_promises(watch):
    """Defined once, and called through one `jax.jit`: no further compile, and the same results."""
    keys = [jnp.arange(4.0) + number for number in range(3)]
    expected = [scanned(one) for one in keys]

    def step(carry, key):
        return carry + key, carry

    once = [jax.lax.scan(step, jnp.float32(0), one)[1] for one in keys]
    predict, draw = jax.jit(scanned), jax.jit(mapped)
    assert {"scanned.<locals>.step": 2, "test_advice_for_a_body_brings_what_it_promises.<locals>.step": 0} == rows(
        watch
    )
    np.testing.assert_array_equal(expected, once)
    np.testing.assert_array_equal(expected, [predict(one) for one in keys])
    np.testing.assert_array_equal([mapped(one) for one in keys], [draw(one) for one in keys])
    assert (0, 0) == (rows(watch)["scanned"], rows(watch)["mapped"])


def test_jax_lax_map_needs_jit(watch):
    """JAX makes a function of its own around the body, so that defining the body once does not help."""

    def one_draw(key):
        return POINTS + key

    for number in range(4):
        jax.lax.map(one_draw, jnp.arange(4.0) + number)
    ((_, _, advice),) = pitfalls(watch)
    assert {"test_jax_lax_map_needs_jit.<locals>.one_draw": 3} == rows(watch)
    assert "in a jitted function" in advice


def body_once(carry, key):
    return carry + key, carry


@pytest.mark.parametrize(
    "innocent",
    [
        lambda number: jax.lax.scan(body_once, jnp.float32(0), jnp.arange(4.0) + number),
        lambda number: jax.jit(functools.partial(mapped))(jnp.arange(4.0)) if number == 0 else None,
        lambda number: jax.vmap(body_once)(jnp.arange(4.0), jnp.arange(4.0) + number),
    ],
    ids=["one body", "under jit", "vmap without jit"],
)
def test_body_that_stays_is_silent(watch, innocent):
    """The same function object, whatever it is called with."""
    for number in range(6):
        innocent(number)
    assert [] == pitfalls(watch)
    assert 0 == watch.snapshot()["totals"]["recompiles"]


def test_body_with_another_shape_is_a_change_of_shape(watch):
    """The function object is the same, and what differs is named."""
    for size in (41, 42):
        jax.lax.scan(body_once, jnp.float32(0), jnp.arange(float(size)))
    (record,) = [one for one in watch.events() if one["event"] == "jit.recompiled" and one["function"] != JAX_LABEL]
    assert ["shape"] == record["causes"]


def test_bodies_of_several_threads_are_one_function(watch):
    """Each thread makes its own body."""
    threads = [threading.Thread(target=mapped, args=(jnp.arange(4.0),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"mapped.<locals>.one_draw": 3} == rows(watch)


# JAX's own functions that the job jits


def test_jaxs_function_that_the_job_jits_is_the_jobs(watch):
    """Named after the body that it gets, or after the function and the line that jits it."""
    rollout = jax.jit(functools.partial(jax.lax.scan, body_once))
    norm = jax.jit(jnp.linalg.norm)
    for size in range(4, 10):
        rollout(np.float32(0), np.ones(size, np.float32))
        norm(np.ones(size, np.float32))
    assert {"body_once": 5, "norm": 5} == rows(watch)
    assert ["shape_churn", "shape_churn"] == [pitfall for pitfall, _, _ in pitfalls(watch)]


def test_pullback_that_is_jitted_in_a_loop(watch):
    """Each `jax.vjp` returns another function, which holds arrays; the advice is to jit a function that calls it."""
    for number in range(6):
        _, pull = jax.vjp(lambda x: jnp.tanh(x) * x, jnp.full(4, float(number)))
        jax.jit(pull)(jnp.ones(4))
    assert {"pullback": 5} == rows(watch)
    ((pitfall, _, advice),) = pitfalls(watch)
    assert "jit_in_loop" == pitfall
    assert "calls jax.vjp inside" in advice

    @jax.jit
    def pulled(x, cotangent):
        return jax.vjp(lambda x: jnp.tanh(x) * x, x)[1](cotangent)

    for number in range(6):
        pulled(jnp.full(4, float(number)), jnp.ones(4))
    assert 0 == rows(watch)["test_pullback_that_is_jitted_in_a_loop.<locals>.pulled"]


def test_jaxs_function_that_jax_jits_stays_jaxs(watch):
    """What a function of JAX jits inside is no function of the job."""
    jnp.linalg.norm(jnp.ones(3))
    jnp.linalg.norm(jnp.ones(4))
    jax.random.normal(jax.random.key(0), (3,))
    assert {} == rows(watch)


# Operations


def test_operations_while_jit_is_disabled(watch):
    """They are compiled one by one; the line is the job's, and the option is named."""
    with jax.disable_jit():
        for number in range(6):
            jnp.float32(3) ** number
    ((pitfall, message, advice),) = pitfalls(watch)
    assert "eager_churn" == pitfall
    assert "jax_disable_jit is on" in message
    assert "jax.config.update('jax_disable_jit', False)" in advice
    ((label, _),) = rows(watch).items()
    assert label.endswith(EAGER)


def compiled(program: int = 0, name: str = "cumsum", site: str = "/job/train.py:8") -> Compiled:
    """A compile of an operation of JAX's own; equal numbers are equal programs."""
    signature = Signature(shapes=((program,),), dtypes=("float32",), weak_types=(False,), placements=(Placement(),))
    return Compiled(
        function=Function(JAX_LABEL, name),
        trace_s=None,
        lower_s=None,
        compile_s=0.01,
        call_site=site,
        signature=signature,
    )


def counted(sites: EagerCallSites, *events: tuple[float, Compiled]) -> list[float]:
    """The times of the compiles that count as the job's own."""
    return [now for now, event in events if not sites.attribute(event, now).function.is_internal]


def test_new_programs_after_start_up_count_from_the_fifth_on():
    """After the first minute, five new programs of one operation at one line over ten seconds to ten minutes."""
    sites = EagerCallSites()
    assert [] == counted(sites, *((float(n), compiled(n)) for n in range(10)))
    assert [HOUR + 12, HOUR + 15] == counted(sites, *((HOUR + 3 * n, compiled(100 + n)) for n in range(6)))


def test_restore_of_many_shapes_is_silent():
    """Each shape is compiled once, one right after the other."""
    sites = EagerCallSites()
    counted(sites, (0.0, compiled()))
    assert [] == counted(sites, *((HOUR + 0.1 * n, compiled(100 + n)) for n in range(40)))


def test_new_programs_far_apart_are_silent():
    """Five over more than ten minutes, and those of five operations or call sites."""
    sites = EagerCallSites()
    counted(sites, (0.0, compiled()))
    assert [] == counted(sites, *((HOUR + 151 * n, compiled(100 + n)) for n in range(20)))
    assert [] == counted(sites, *((2 * HOUR + 4 * n, compiled(n, name=name)) for n, name in enumerate("abcde")))
    assert [] == counted(sites, *((3 * HOUR + 4 * n, compiled(n, site=f"a.py:{n}")) for n in range(5)))


def test_very_many_new_programs_count_at_once():
    """Also at start-up."""
    sites = EagerCallSites()
    assert [5.0] == counted(sites, *((0.1 * n, compiled(n)) for n in range(51)))[1:]


def test_program_that_is_compiled_again_counts():
    """JAX should have had it; nobody has cleared its caches."""
    sites = EagerCallSites()
    assert [3.0, 4.0] == counted(sites, *((float(n), compiled(1)) for n in range(5)))
    sites.caches_cleared()
    assert [] == counted(sites, *((10.0 + n, compiled(1)) for n in range(3)))


def test_line_becomes_a_function():
    """With the line in its label, and what changed."""
    sites = EagerCallSites()
    for number in range(60):
        event = sites.attribute(compiled(number), float(number))
    assert (f"{EAGER}@train.py:8", EAGER, "/job/train.py:8") == (
        event.function.label,
        event.function.name,
        event.function.location,
    )
    assert (60, ("shape",)) == (event.nth, event.causes)


def test_objects_of_the_job_in_an_operation_are_not_asked(watch):
    """A callback's object may have a text, a hash and an equality of its own."""

    class Callback:
        def __call__(self, x):
            return x

        def __repr__(self):
            raise AssertionError("nobody may ask")

        __str__ = __repr__

    callback = Callback()
    for _ in range(3):
        jax.pure_callback(callback, jax.ShapeDtypeStruct((3,), jnp.float32), jnp.ones(3))
    assert [] == pitfalls(watch)


def test_operations_of_other_parameters_are_other_programs(watch):
    """Equal shapes in and out, and another axis: no program is compiled twice."""
    square = jnp.ones((5, 5))
    for axis in (0, 1, -1, -2):
        for reverse in (False, True):
            jax.lax.cumsum(square, axis=axis % 2, reverse=reverse)
    assert [] == pitfalls(watch)
