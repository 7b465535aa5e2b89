"""Donation: who took an array, told when somebody uses it again, in every way that Python can see."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from tests.unit.donations import (
    DONATED_AT,
    notes,
    short,
    state_of,
    taken,
    train_step,
    values,
    violations,
)

SHAPE = (2, 4)
NOTE = (
    f"donated to train_step(state) at {os.path.basename(DONATED_AT)}, leaf state['params']['w1']; "
    "if the result of that call is the next value of state, assign it to state; if not, do not donate state, or "
    "copy it before the call: jax.tree.map(jnp.copy, state)"
)


@pytest.fixture
def watch():
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


@pytest.fixture
def step(watch):
    """A watched function that donates its state."""
    return jax.jit(train_step, donate_argnums=0)


@jax.jit
def user(x):
    """A jitted function that does not donate."""
    return x * 2


def use_fast_path(array):
    user(jnp.ones(array.shape))
    user(array)


def use_slow_path(array):
    def fresh_user(x):
        return x * 3

    jax.jit(fresh_user)(array)


def use_in_a_tree(array):
    def tree_user(batch):
        return batch["x"] * 3

    jax.jit(tree_user)({"x": array})


def use_by_keyword(array):
    def keyword_user(*, x):
        return x * 3

    jax.jit(keyword_user)(x=array)


def use_compiled_ahead(array):
    compiled = user.lower(jnp.ones(array.shape)).compile()
    compiled(jnp.ones(array.shape))
    compiled(array)


def use_in_pmap(array):
    def pmap_user(x):
        return x * 2

    mapped = jax.pmap(pmap_user)
    mapped(jnp.ones((1, 4)))
    mapped(array)


def use_under_grad(array):
    jax.grad(lambda x: user(x).sum())(array)


def use_under_vmap(array):
    jax.vmap(user)(array)


def use_in_a_closure(array):
    def closure_user(y):
        return y + array

    jax.jit(closure_user)(1.0)


def use_again_as_donor(array):
    state = {"params": {"w1": array, "w2": jnp.ones(3)}, "step": jnp.zeros((), jnp.int32)}
    jax.jit(train_step, donate_argnums=0)(state, 1)


#: Way of using it, whose call that is (None where no jitted function of the user is called), path there, shape.
WAYS = {
    "fast path": (use_fast_path, "user", "x", SHAPE),
    "slow path": (use_slow_path, "fresh_user", "x", SHAPE),
    "in a tree": (use_in_a_tree, "tree_user", "batch['x']", SHAPE),
    "by keyword": (use_by_keyword, "keyword_user", "x", SHAPE),
    "as a donor's argument": (use_again_as_donor, "train_step", "state['params']['w1']", SHAPE),
    "compiled ahead of time": (use_compiled_ahead, None, None, SHAPE),
    "pmap": (use_in_pmap, "pmap_user", "x", (1, 4)),
    "under grad": (use_under_grad, "user", "x", SHAPE),
    "under vmap": (use_under_vmap, "user", "x", SHAPE),
    "in a closure": (use_in_a_closure, "closure_user", "", SHAPE),
    "jnp operation": (jnp.sin, None, None, SHAPE),
    "jnp.stack": (lambda array: jnp.stack([array, array]), None, None, SHAPE),
    "arithmetic": (lambda array: array + 1, None, None, SHAPE),
    "reversed arithmetic": (lambda array: 1 - array, None, None, SHAPE),
    "comparison": (lambda array: array == 1, None, None, SHAPE),
    "eager grad": (jax.grad(lambda x: (x * 2).sum()), None, None, SHAPE),
    "eager vmap": (jax.vmap(lambda x: x * 2), None, None, SHAPE),
    "eager cond": (lambda array: jax.lax.cond(True, lambda x: x, lambda x: x * 2, array), None, None, SHAPE),
    "tree.map": (lambda array: jax.tree.map(lambda x: x * 2, {"a": array}), None, None, SHAPE),
    "np.asarray": (np.asarray, None, None, SHAPE),
    "numpy function": (np.sin, None, None, SHAPE),
    "repr": (repr, None, None, SHAPE),
    "str": (str, None, None, SHAPE),
    "format": (lambda array: f"{array}", None, None, SHAPE),
    "float": (float, None, None, ()),
    "bool": (bool, None, None, ()),
    "item": (lambda array: array.item(), None, None, ()),
    "tolist": (lambda array: array.tolist(), None, None, SHAPE),
    "indexing": (lambda array: array[0], None, None, SHAPE),
    "at": (lambda array: array.at[0].set(1), None, None, SHAPE),
    "iteration": (list, None, None, SHAPE),
    "reshape": (lambda array: array.reshape(-1), None, None, SHAPE),
    "copy": (lambda array: array.copy(), None, None, SHAPE),
    "deepcopy": (copy.deepcopy, None, None, SHAPE),
    "pickle": (pickle.dumps, None, None, SHAPE),
    "device_get": (jax.device_get, None, None, SHAPE),
    "device_get of a tree": (lambda array: jax.device_get({"a": array}), None, None, SHAPE),
    "device_put to a device": (lambda array: jax.device_put(array, jax.devices()[0]), None, None, SHAPE),
    "block_until_ready": (lambda array: array.block_until_ready(), None, None, SHAPE),
    "jax.block_until_ready": (jax.block_until_ready, None, None, SHAPE),
    "block_until_ready of a tree": (lambda array: jax.block_until_ready([jnp.ones(2), array]), None, None, SHAPE),
    "dlpack": (np.from_dlpack, None, None, SHAPE),
    "shards": (lambda array: array.addressable_shards, None, None, SHAPE),
    "copy to host": (lambda array: array.copy_to_host_async(), None, None, SHAPE),
    "is_ready": (lambda array: array.is_ready(), None, None, SHAPE),
}


@pytest.mark.parametrize("way", WAYS)
def test_use_after_donate_is_told_once(watch, step, way):
    """Kind, function, leaf, donor, donor's line, count of calls; the error is JAX's own with one note."""
    use, function, leaf, shape = WAYS[way]
    array = taken(step, *shape)
    with pytest.raises(RuntimeError) as raised:
        use(array)
    (event,) = violations(watch)
    donor_leaf = "state['params']['w1']"
    assert "use_after_donate" == event["kind"]
    assert (function or "train_step") == short(event["function"])
    assert (donor_leaf if function is None else leaf) == event["leaf"]
    assert ("train_step", DONATED_AT, donor_leaf, 2) == (
        short(event["donated_by"]),
        *(event[name] for name in ("donated_at", "donated_leaf", "calls_ago")),
    )
    assert (list(shape), "float32", 4 * int(np.prod(shape))) == (event["shape"], event["dtype"], event["bytes"])
    assert [NOTE] == notes(raised.value)
    assert 1 == sum(values(watch, "donation_violations_total").values())
    assert "deleted" in str(raised.value)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("fast path", "compiled ahead of time", "pmap")])
def test_unmarked_use_after_donate_is_told(way):
    """Without marking, everything that Python sees is told just as well: all but what JAX has in its caches."""
    use, _, _, shape = WAYS[way]
    with jitwatch.install(port=0, mark_donated=False) as watch:
        # A length of its own: JAX has no program in its caches that takes it.
        length = 100 + list(WAYS).index(way)
        array = taken(jax.jit(train_step, donate_argnums=0), *(shape and (2, length)))
        with pytest.raises((RuntimeError, ValueError)) as raised:
            use(array)
        (event,) = violations(watch)
    assert ("train_step", DONATED_AT, "state['params']['w1']") == (
        short(event["donated_by"]),
        event["donated_at"],
        event["donated_leaf"],
    )
    assert 1 == len(notes(raised.value))


def test_error_is_the_same_object_and_type(watch, step):
    """What the user catches is what JAX raised, also when it is caught and raised again."""
    array = taken(step, *SHAPE)
    for _ in range(2):
        with pytest.raises(RuntimeError) as raised:
            try:
                np.asarray(array)
            except RuntimeError as error:
                caught = error
                raise
        assert caught is raised.value
        assert type(caught) is RuntimeError
        assert [NOTE] == notes(caught)
    assert 2 == len(violations(watch))


def test_swallowed_errors_are_counted(watch, step):
    """An error that the job catches is a violation as well, each time."""
    array = taken(step, *SHAPE)
    for _ in range(3):
        try:
            user(array)
        except RuntimeError:
            continue
    assert {"user": 3} == values(watch, "donation_violations_total")
    assert 3 == len(violations(watch))


def test_errors_in_other_threads_are_counted(watch, step):
    """A worker's error is told like any other."""
    array = taken(step, *SHAPE)
    failed = []

    def work():
        try:
            np.asarray(array)
        except RuntimeError as error:
            failed.append(notes(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [[NOTE]] * 4 == failed
    assert {("train_step", DONATED_AT)} == {(short(one["donated_by"]), one["donated_at"]) for one in violations(watch)}
    assert 4 == len(violations(watch))


def test_call_site_is_the_users_line(watch, step):
    """The event says where the dead array was used, too."""
    array = taken(step, *SHAPE)
    with pytest.raises(RuntimeError):
        jax.device_get(array)
    (event,) = violations(watch)
    line = int(event["call_site"].rpartition(":")[2])
    code = test_call_site_is_the_users_line.__code__
    assert event["call_site"].startswith(__file__)
    assert code.co_firstlineno < line <= code.co_firstlineno + 5


def test_donors_on_one_line_of_a_loop_are_told_apart_by_call(watch):
    """How many calls ago: by the donor's own count, whatever other functions did."""
    step = jax.jit(train_step, donate_argnums=0)
    other = jax.jit(lambda x: x + 1, donate_argnums=0)
    olds, state = [], state_of(*SHAPE)
    for _ in range(5):
        olds.append(state)
        state = step(state, 1)
        other(jnp.ones(3))
    for old in olds:
        with pytest.raises(RuntimeError):
            np.asarray(old["step"])
    assert [5, 4, 3, 2, 1] == [event["calls_ago"] for event in violations(watch)]
    assert {"state['step']"} == {event["donated_leaf"] for event in violations(watch)}


def test_every_leaf_of_a_call_has_its_path(watch):
    """Two donated arguments, one by keyword, nested: each leaf is named as the user would write it."""

    def update(config, params, batch, opt):
        return jax.tree.map(lambda leaf: leaf + batch, (params, opt))

    update = jax.jit(update, static_argnums=0, donate_argnums=(1,), donate_argnames=("opt", "params"))
    params, opt = {"b": [jnp.ones(2), jnp.ones(3)], "a": jnp.ones(4)}, (jnp.ones(5), {"m": jnp.ones(6)})
    update("fast", params, 1.0, opt=opt)
    for array in (*params["b"], params["a"], opt[0], opt[1]["m"]):
        with pytest.raises(RuntimeError):
            repr(array)
    assert ["params['b'][0]", "params['b'][1]", "params['a']", "opt[0]", "opt[1]['m']"] == [
        event["donated_leaf"] for event in violations(watch)
    ]


def test_same_buffer_given_twice_is_a_double_donation(watch):
    """Function and leaf are told, on the first call and on a cached one; the error has one note."""

    def double_step(state, other):
        return state["a"] + other

    step = jax.jit(double_step, donate_argnums=0)
    for _ in range(2):
        array = jnp.ones((2, 4))
        with pytest.raises(Exception, match="donate") as raised:
            step({"a": array}, array)
        assert [
            "donated and passed again: one call of double_step donates state['a'], which shares its buffer with "
            "other; copy other before the call (jnp.copy), or do not donate it"
        ] == notes(raised.value)
        step({"a": jnp.ones((2, 4))}, jnp.ones((2, 4)))
    assert [("double_donation", "double_step", "state['a']", "other", 32)] * 2 == [
        (event["kind"], short(event["function"]), event["leaf"], event["other_leaf"], event["bytes"])
        for event in violations(watch)
    ]
    assert {"double_step": 2} == values(watch, "donation_violations_total")
    assert "donated_by" not in violations(watch)[0]


def blended(state, other):
    """An array is needed twice, and may be overwritten once."""
    return state * 0.9 + other * 0.1


def given_twice_ahead_of_time(step, array):
    compiled = step.lower(jnp.copy(array), jnp.copy(array)).compile()
    compiled(array, array)


def given_twice_to_a_parallel_function(step, array):
    array = array[None]
    jax.pmap(blended, donate_argnums=0)(array, array)


@pytest.mark.parametrize(
    "call",
    [
        lambda step, array: step(array, array),
        lambda step, array: step(array, other=array),
        lambda step, array: jax.vmap(step)(array, array),
        lambda step, array: jax.grad(lambda a: step(a, a).sum())(array),
        lambda step, array: jax.jvp(step, (array, array), (jnp.ones((2, 4)), jnp.ones((2, 4)))),
        given_twice_ahead_of_time,
        pytest.param(
            given_twice_to_a_parallel_function,
            marks=pytest.mark.versions(jax=">=0.8", reason="JAX's older pmap takes one buffer twice"),
        ),
    ],
    ids=["call", "keyword", "vmap", "grad", "jvp", "aot", "pmap"],
)
def test_double_donation_is_told_however_the_function_is_called(watch, call):
    """Once, with the function and the second place of the array, and a note on the error."""
    step = jax.jit(blended, donate_argnums=0)
    with pytest.raises(Exception, match="donate") as raised:
        call(step, jnp.ones((2, 4)))
    (note,) = notes(raised.value)
    assert "donated and passed again: one call of blended donates" in note
    assert [("double_donation", "blended", {"state", "other"}, 32)] == [
        (event["kind"], short(event["function"]), {event["leaf"], event["other_leaf"]}, event["bytes"])
        for event in violations(watch)
    ]


def test_unusable_donation_is_told_whatever_the_filters_say(watch):
    """Kind, leaf and wasted bytes once for each program, though the warning is ignored; cached calls say nothing."""

    def summing_step(state, batch):
        return {"a": state["a"].sum(), "b": state["b"] + batch}

    step = jax.jit(summing_step, donate_argnums=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in (3, 3, 4):
            step({"a": jnp.ones(size), "b": jnp.ones(2)}, 1.0)
    assert [("unusable", "summing_step", "state['a']", 12), ("unusable", "summing_step", "state['a']", 16)] == [
        (event["kind"], short(event["function"]), event["leaf"], event["bytes"]) for event in violations(watch)
    ]
    assert {"summing_step": 28} == values(watch, "donation_wasted_bytes_total")
    assert {"summing_step": 3 * 8} == values(watch, "donated_bytes_total")


def test_unusable_donation_under_eager_grad_has_a_name_for_each_leaf(watch):
    """What JAX does not name is called by its number."""
    step = jax.jit(lambda state: sum(leaf.sum() for leaf in state.values()), donate_argnums=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax.grad(step)({"p": jnp.ones(2), "q": jnp.ones(3)})
    leaves = [event["leaf"] for event in violations(watch) if event["kind"] == "unusable"]

    assert leaves
    assert [] == [leaf for leaf in leaves if not leaf or leaf.startswith(" ")]


def test_warning_of_an_unusable_donation_is_still_the_users(watch):
    """JAX's warning comes once, from JAX's own line, and may be an error."""
    with pytest.warns(UserWarning, match="donated buffers were not usable") as caught:
        jax.jit(lambda x: x.sum(), donate_argnums=0)(jnp.ones(3))
    assert [os.path.join("interpreters", "mlir.py")] == [one.filename[-len("interpreters/mlir.py") :] for one in caught]
    with pytest.raises(UserWarning, match="donated buffers"):
        jax.jit(lambda x: x.sum() + 1, donate_argnums=0)(jnp.ones(3))
    assert 2 == len(violations(watch))


def vmapped(step, array):
    jax.vmap(step, in_axes=(0, None))(array, 2.0)


def differentiated(step, array):
    jax.grad(lambda x: step(x, 2.0).sum())(array)


def linearized(step, array):
    jax.linearize(lambda x: step(x, 2.0), array)


def pushed_forward(step, array):
    jax.jvp(lambda x: step(x, 2.0), (jnp.ones(4),), (array,))


def compiled_ahead(step, array):
    compiled = step.lower(array, 2.0).compile()
    for one in (jnp.ones(4), array):
        compiled(one, 2.0)


def traced_ahead(step, array):
    step.trace(array, 2.0).lower().compile()(array, 2.0)


def as_a_method(step, array):
    class Trainer:
        train = jax.jit(lambda self, x: step(x, 2.0), static_argnums=0, donate_argnums=1)

    Trainer().train(array)


#: How a donating function is called beside a plain call, and how the leaf is named.
INDIRECT = {
    "vmap": (vmapped, "eager_step", "x"),
    "grad": (differentiated, "eager_step", "x"),
    "linearize": (linearized, "eager_step", "x"),
    "jvp, the tangent": (pushed_forward, "eager_step", "args[1]"),
    "lower and compile": (compiled_ahead, "eager_step", "x"),
    "trace, lower and compile": (traced_ahead, "eager_step", "x"),
    "method": (as_a_method, "<lambda>", "x"),
}


@pytest.mark.parametrize("way", INDIRECT)
def test_donor_beside_a_plain_call_is_named(watch, way):
    """Eager transformations and programs compiled ahead of time take arrays as well."""
    call, function, leaf = INDIRECT[way]

    def eager_step(x, y):
        return x * y

    array = jnp.ones(4)
    call(jax.jit(eager_step, donate_argnums=0), array)
    assert array.is_deleted()
    with pytest.raises(RuntimeError):
        user(array)
    (event,) = violations(watch)
    assert (function, leaf, 1) == (short(event["donated_by"]), event["donated_leaf"], event["calls_ago"])
    code = call.__code__
    line = int(event["donated_at"].rpartition(":")[2])
    assert code.co_firstlineno < line < code.co_firstlineno + 10


def test_donor_in_pmap_is_named(watch):
    """`pmap` takes arrays, too; the leaf has the name of the user's parameter."""

    def pmap_step(state, batch):
        return {"a": state["a"] * batch}

    mapped = jax.pmap(pmap_step, donate_argnums=0)
    for _ in range(2):
        array = jax.pmap(lambda x: x * 1)(np.ones((1, 4), np.float32))
        mapped({"a": array}, np.ones((1, 4), np.float32))
        with pytest.raises(RuntimeError):
            repr(array)
    events = violations(watch)
    assert [("pmap_step", "state['a']")] * 2 == [(short(one["donated_by"]), one["donated_leaf"]) for one in events]
    assert {__file__} == {one["donated_at"].rpartition(":")[0] for one in events}


def test_random_keys_are_donated_as_well(watch):
    """A key's array is marked, and its later use is told."""

    def key_step(state):
        return {"key": jax.random.split(state["key"])[0], "x": state["x"] + 1}

    step = jax.jit(key_step, donate_argnums=0)
    for _ in range(4):
        state = {"key": jax.random.key(0), "x": jnp.ones(2)}
        step(state)
    assert {"key_step": 4 * (8 + 8)} == values(watch, "donated_bytes_total")
    with pytest.raises(RuntimeError):
        jax.random.split(state["key"])
    (event,) = violations(watch)
    assert ("key_step", "state['key']", 1) == (short(event["donated_by"]), event["donated_leaf"], event["calls_ago"])


def test_donor_made_before_is_unknown_and_not_guessed():
    """A cached call of a function that was jitted before the agent came runs none of our code."""
    early = jax.jit(lambda x: x + 1, donate_argnums=0)
    early(jnp.ones(4))
    with jitwatch.install(port=0) as watch:
        array = jnp.ones(4)
        early(array)
        with pytest.raises(RuntimeError) as raised:
            np.asarray(array)
        (event,) = violations(watch)
    assert ("use_after_donate", "unknown", "unknown", "") == tuple(
        event[name] for name in ("kind", "function", "donated_by", "leaf")
    )
    assert "donated_at" not in event
    (note,) = notes(raised.value)
    assert "the call that donated its buffer is unknown" in note


def test_donor_made_before_is_named_when_its_call_compiles():
    """A call that misses JAX's cache comes by, whenever the function was jitted."""

    def early_step(state):
        return state + 1

    early = jax.jit(early_step, donate_argnums=0)
    with jitwatch.install(port=0) as watch:
        array = jnp.ones(4)
        early(array)
        with pytest.raises(RuntimeError):
            user(array)
        (event,) = violations(watch)
    assert ("early_step", "state") == (short(event["donated_by"]), event["donated_leaf"])


def test_unknown_donor_is_told_when_a_watched_call_meets_the_array():
    """On JAX ≤ 0.10 an array that nobody marked fails in C++; a watched call sees that it does."""
    early = jax.jit(lambda x: x + 1, donate_argnums=0)
    early(jnp.ones(4))
    with jitwatch.install(port=0) as watch:
        step = jax.jit(lambda state: state * 2, donate_argnums=0)
        step(jnp.ones(4))
        array = jnp.ones(4)
        early(array)
        with pytest.raises((RuntimeError, ValueError)) as raised:
            step(array)
        (event,) = violations(watch)
    assert ("use_after_donate", "unknown", "state") == tuple(event[name] for name in ("kind", "donated_by", "leaf"))
    assert 1 == len(notes(raised.value))


@pytest.mark.parametrize("early", [jax.jit, functools.partial(jax.jit, donate_argnums=0)], ids=["jit", "partial"])
def test_early_bound_jit_makes_watched_functions(watch, early):
    """`from jax import jit` and partials that were made before are followed: the making is watched, not the name."""
    step = early(train_step, **({} if isinstance(early, functools.partial) else {"donate_argnums": 0}))
    with pytest.raises(RuntimeError) as raised:
        repr(taken(step, *SHAPE))
    assert [NOTE] == notes(raised.value)


def test_arrays_taken_by_an_earlier_agent_are_unknown():
    """An array that was taken under another agent is told without a donor; numbers are never used twice."""
    with jitwatch.install(port=0):
        array = taken(jax.jit(train_step, donate_argnums=0), *SHAPE)
    with jitwatch.install(port=0) as watch:
        taken(jax.jit(train_step, donate_argnums=0), *SHAPE)
        with pytest.raises(RuntimeError):
            repr(array)
        assert ["unknown"] == [event["donated_by"] for event in violations(watch)]


def test_reinstalled_agent_watches_older_watched_functions(watch, step):
    """A watched function reports to whatever agent is installed."""
    taken(step, *SHAPE)
    jitwatch.uninstall()
    with jitwatch.install(port=0) as second, pytest.raises(RuntimeError) as raised:
        repr(taken(step, *SHAPE))
    assert [NOTE] == notes(raised.value)
    assert ["train_step"] == [short(event["donated_by"]) for event in violations(second)]


def test_call_that_fails_after_taking_is_recorded(watch):
    """A callback that raises ends a call whose arguments are gone; the next use names that call."""

    def failing_step(state):
        jax.debug.callback(lambda: 1 / 0)
        return state + 1

    step = jax.jit(failing_step, donate_argnums=0)
    array = jnp.ones(4)
    try:
        jax.block_until_ready(step(array))
        jax.effects_barrier()
    except Exception:
        assert array.is_deleted()
    with pytest.raises(RuntimeError):
        user(array)
    (event,) = violations(watch)
    assert ("failing_step", "state") == (short(event["donated_by"]), event["donated_leaf"])


def test_calls_bytes_and_last_call_are_exact(watch):
    """Calls of watched functions, cached or not, and the bytes of calls of different size."""
    step = jax.jit(lambda state: {name: leaf + 1 for name, leaf in state.items()}, donate_argnums=0)
    for size in (1, 2, 1, 2, 2):
        step({"a": jnp.ones(size), "b": jnp.ones(1)})
    for _ in range(3):
        step({"a": jnp.ones(1)})
    assert {"<lambda>": 8} == values(watch, "calls_total")
    assert {"<lambda>": 4 * (1 + 2 + 1 + 2 + 2 + 5 + 3)} == values(watch, "donated_bytes_total")
    (last,) = values(watch, "last_call_timestamp_seconds").values()
    assert watch.snapshot()["start_time_seconds"] <= last <= watch.snapshot()["time"]


def test_calls_are_exact_with_threads(watch):
    """No call is lost when several threads use one function."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    step(jnp.ones(2))

    def work():
        x = jnp.ones(2)
        for _ in range(200):
            x = step(x)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {"<lambda>": 801} == values(watch, "calls_total")
    assert {"<lambda>": 801 * 8} == values(watch, "donated_bytes_total")


def test_donating_function_starts_at_zero_and_others_have_no_calls(watch):
    """`increase()` sees the first call; a function whose calls nobody counts has no such series."""
    step, other = jax.jit(train_step, donate_argnums=0), jax.jit(lambda x: x)
    other(1.0)
    rows = watch.snapshot()["metrics"]["jitwatch_calls_total"]
    assert [("train_step", 0.0)] == [(short(row["labels"]["function"]), row["value"]) for row in rows]
    rows = {short(row["function"]): row["calls"] for row in watch.snapshot()["functions"]}
    assert (0, None) == (rows["train_step"], rows["<lambda>"])
    del step


def test_kinds_start_at_zero(watch):
    """The process totals by kind are there before anything goes wrong."""
    rows = watch.snapshot()["metrics"]["jitwatch_donation_violations_by_kind_total"]
    assert {"use_after_donate": 0.0, "unusable": 0.0, "double_donation": 0.0} == {
        row["labels"]["kind"]: row["value"] for row in rows
    }


def test_violation_is_a_pitfall_with_advice(watch, step):
    """The pitfall is told once for a leaf, in words, with the line to write instead."""
    array = taken(step, *SHAPE)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            repr(array)
    (pitfall,) = watch.snapshot()["pitfalls"]
    assert "use_after_donate" == pitfall["pitfall"]
    assert pitfall["advice"].startswith("If the result of that call is the next value of state, assign it to state; ")
    where = os.path.basename(DONATED_AT)
    expected = (
        f"state['params']['w1'] (float32[2,4]) was used after train_step(state) at {where} had donated its buffer"
    )
    assert expected == pitfall["message"]


def test_violation_through_another_name_says_so(watch):
    """Where the line rebinds the name already, rebinding it would be no advice: the old value lives on elsewhere."""
    step, double = jax.jit(train_step, donate_argnums=0), jax.jit(lambda x: x * 2, donate_argnums=0)
    state = best = state_of(*SHAPE)
    state = step(state, 1)
    x = kept = jnp.ones(3)
    x = double(x)
    with pytest.raises(RuntimeError) as of_tree:
        repr(best["params"]["w1"])
    with pytest.raises(RuntimeError) as of_array:
        repr(kept)
    notes = [note for caught in (of_tree, of_array) for note in caught.value.__notes__ if "donated to" in note]
    advice = [one["advice"] for one in watch.snapshot()["pitfalls"]]

    for copied, note, told in zip(("jax.tree.map(jnp.copy, state)", "jnp.copy(x)"), notes, advice, strict=True):
        assert "the array that was used is another reference to the" in note
        assert told.startswith("That line assigns its result to ")
        assert told.endswith(f"or copy it before the call: {copied}")
    del state, x


def test_violation_of_an_argument_that_was_not_rebound_names_it(watch):
    """Though the same line rebinds another one; whether the result is its next value is not guessed."""
    update = jax.jit(lambda params, opt: (params + opt, opt * 2), donate_argnums=(0, 1))
    params, opt = jnp.ones(3), jnp.ones(3)
    params, new_opt = update(params, opt)
    with pytest.raises(RuntimeError) as caught:
        repr(opt)
    (note,) = [one for one in caught.value.__notes__ if "donated to" in one]

    assert "if the result of that call is the next value of opt, assign it to opt; if not, do not donate opt" in note
    del params, new_opt


def test_violation_is_in_the_event_log_before_the_error_goes_on(tmp_path):
    """Who reads the log after a crash finds it."""
    log = tmp_path / "log.jsonl"
    with jitwatch.install(port=0, event_log=log):
        array = taken(jax.jit(train_step, donate_argnums=0), *SHAPE)
        with pytest.raises(RuntimeError):
            repr(array)
        assert '"donation.violation"' in log.read_text()
