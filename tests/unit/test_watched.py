"""The watched function is JAX's own in every respect but its type, keeps nothing alive, and ends with the agent."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import sys
import traceback
import weakref

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.array import ArrayImpl

import jitwatch
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation import donated_arrays, ledger
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.donation.watched import Watched
from jitwatch.model.function import Function
from tests.unit.donations import donate, short, state_of, train_step, values, violations


@pytest.fixture
def watch():
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


def documented(state: jax.Array, scale: float = 2.0, *, shift: float = 0.0) -> jax.Array:
    """Scale and shift."""
    return state * scale + shift


def test_frame_of_a_call_stands_where_jax_makes_jitted_functions(watch):
    """A live stack or a debugger shows that line, and none that only happens to have the number of one of ours."""
    code, place = Watched.__call__.__code__, compat.CREATE.get().__code__
    assert place.co_filename == code.co_filename
    assert {place.co_firstlineno} == {line for *_, line in code.co_lines()}


@pytest.fixture
def pair(watch):
    """The watched function, and JAX's own for the same one."""
    watched = jax.jit(documented, donate_argnums=0)
    assert type(watched) is Watched
    return watched, watched._calls.jitted


def x():
    return jnp.arange(4.0)


def test_only_functions_that_donate_are_watched(watch):
    """Everybody else gets JAX's object."""
    plain = type(jax.jit(documented, static_argnames="scale"))
    assert "PjitFunction" == plain.__name__
    assert plain is type(jax.jit(documented, donate_argnums=()))
    assert Watched is type(jax.jit(documented, donate_argnames="state"))
    assert Watched is type(functools.partial(jax.jit, donate_argnums=(0,))(documented))


def test_functions_that_jax_makes_for_itself_are_not_watched(watch):
    """What JAX jits on its own way is not handed out watched, also where it donates."""
    from jax._src import pjit

    def made_by_jax(*args, **kwargs):
        return pjit.make_jit(*args, **kwargs)

    # As if the function that asks were a file of JAX.
    code = made_by_jax.__code__.replace(co_filename=pjit.__file__, co_name="some_internal")
    made_by_jax.__code__ = code
    options = {
        name: None
        for name in inspect.signature(pjit.make_jit).parameters
        if name not in ("fun", "keep_unused", "inline", "use_resource_env", "in_shardings", "out_shardings")
    }
    unspecified = inspect.signature(jax.jit).parameters["in_shardings"].default
    made = made_by_jax(
        documented,
        in_shardings=unspecified,
        out_shardings=unspecified,
        keep_unused=False,
        inline=False,
        use_resource_env=False,
        **{**options, "donate_argnums": 0},
    )
    assert "PjitFunction" == type(made).__name__


ATTRIBUTES = ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__wrapped__", "__signature__")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_attribute_is_that_of_jax(pair, attribute):
    """Names, documentation, annotations, signature and the function inside."""
    watched, plain = pair
    assert getattr(plain, attribute) == getattr(watched, attribute)


def test_signature_and_text_are_those_of_jax(pair):
    """`inspect.signature`, `repr`, `inspect.unwrap`, `callable`, `hasattr`."""
    watched, plain = pair
    assert inspect.signature(plain) == inspect.signature(watched)
    assert repr(plain) == repr(watched)
    assert documented is inspect.unwrap(watched)
    assert callable(watched)
    assert not hasattr(watched, "no_such_thing")
    assert {name for name in dir(plain) if not name.startswith("_")} == {
        name for name in dir(watched) if not name.startswith("_")
    }


def test_is_a_wrapped_of_jax(pair):
    """`isinstance` with JAX's protocol, and its methods are found on the class as Python ≥ 3.12 looks for them."""
    watched, _ = pair
    assert isinstance(watched, jax.stages.Wrapped)
    for method in ("lower", "trace", "eval_shape", "clear_cache", "__call__"):
        assert inspect.getattr_static(watched, method) is not None


def test_is_an_instance_of_the_class_of_jitted_functions(pair):
    """`isinstance` sees JAX's class, as code that looks for jitted functions asks."""
    watched, plain = pair
    assert isinstance(watched, type(plain))
    assert watched.__class__ is plain.__class__
    assert not isinstance(watched, type(lambda: None))


def with_custom_jvp(f):
    function = jax.custom_jvp(f)
    function.defjvp(lambda primals, tangents: (f(*primals), tangents[0]))
    return function


CALLS = {
    "plain": lambda f: f(x()),
    "positional": lambda f: f(x(), 3.0),
    "by keyword": lambda f: f(state=x(), shift=1.0, scale=3.0),
    "grad": lambda f: jax.grad(lambda state: f(state).sum())(x()),
    "value_and_grad": lambda f: jax.value_and_grad(lambda state: f(state).sum())(x()),
    "jvp": lambda f: jax.jvp(f, (x(),), (x(),)),
    "vjp": lambda f: jax.vjp(f, x())[1](x()),
    "linearize": lambda f: jax.linearize(f, x())[0],
    "jacobian": lambda f: jax.jacobian(f)(x()),
    "hessian": lambda f: jax.hessian(lambda state: f(state).sum())(x()),
    "vmap": lambda f: jax.vmap(f)(x()),
    "jit": lambda f: jax.jit(f)(x()),
    "jit with donation": lambda f: jax.jit(f, donate_argnums=0)(x()),
    "inside of jit": lambda f: jax.jit(lambda state: f(state) + f(state))(x()),
    "scan": lambda f: jax.lax.scan(lambda carry, _: (f(carry), None), x(), None, length=3)[0],
    "checkpoint": lambda f: jax.grad(lambda state: jax.checkpoint(f)(state).sum())(x()),
    "custom_jvp": lambda f: with_custom_jvp(f)(x()),
    "pmap": lambda f: jax.pmap(f)(jnp.ones((1, 4))),
    "eval_shape": lambda f: f.eval_shape(x()),
    "jax.eval_shape": lambda f: jax.eval_shape(f, x()),
    "lower": lambda f: f.lower(x()).out_info,
    "lower and compile": lambda f: f.lower(x()).compile()(x()),
    "trace": lambda f: str(f.trace(x()).jaxpr),
    "make_jaxpr": lambda f: str(jax.make_jaxpr(f)(x())),
    "StableHLO": lambda f: f.lower(x()).as_text(),
    "export": lambda f: jax.export.export(f)(x()).mlir_module(),
    "partial": lambda f: functools.partial(f, scale=3.0)(x()),
    "wraps": lambda f: functools.wraps(f)(lambda *args: f(*args) + 1)(x()),
    "tree leaf": lambda f: jax.tree.leaves([f])[0](x()),
    "pure callback": lambda f: f(jax.pure_callback(np.asarray, x(), x())),
}


@pytest.mark.parametrize("call", CALLS)
def test_result_is_that_of_jax(pair, call):
    """Same values, types and programs as JAX's own function gives."""
    watched, plain = pair
    expected, actual = CALLS[call](plain), CALLS[call](watched)
    assert jax.tree.structure(expected) == jax.tree.structure(actual)
    for wanted, got in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        assert type(wanted) is type(got)
        if isinstance(wanted, jax.Array):
            np.testing.assert_array_equal(wanted, got)
        else:
            assert wanted == got


def test_error_is_that_of_jax(pair):
    """The same type and text for what is no call of ours to judge; tracebacks show one frame of ours, at most."""
    watched, plain = pair
    for arguments in ((), (x(), 1.0, 2.0, 3.0), ("no array",), (x(), object())):
        with pytest.raises(TypeError) as expected:
            plain(*arguments)
        with pytest.raises(TypeError) as actual:
            watched(*arguments)
        assert str(expected.value) == str(actual.value)
        frames = traceback.extract_tb(actual.value.__traceback__)
        assert 1 >= sum("jitwatch/jaxhooks" in frame.filename for frame in frames)


def test_method_binds(watch):
    """In a class body it is a method, on the class a function."""

    class Model:
        scale = 3.0

        @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
        def apply(self, state):
            return state * self.scale

    model = Model()
    np.testing.assert_array_equal(x() * 3, model.apply(x()))
    np.testing.assert_array_equal(x() * 3, Model.apply(model, x()))
    assert model is model.apply.__self__


def test_attributes_can_be_set(pair):
    """Users mark functions; what they set is there, also on a copy."""
    watched, _ = pair
    watched.note = "mine"
    assert "mine" == watched.note == copy.copy(watched).note == vars(watched)["note"]
    del watched.note
    assert not hasattr(watched, "note")


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy])
def test_copies_work_and_are_watched(watch, pair, twin):
    """A copy runs the same program, donates and is watched."""
    watched, _ = pair
    other = twin(watched)
    given = x()
    np.testing.assert_array_equal(x() * 2, other(given))
    assert other is not watched
    with pytest.raises(RuntimeError):
        other(given)
    assert ["documented"] == [short(event["donated_by"]) for event in violations(watch)]


def test_pickling_fails_as_jax_does(pair):
    """JAX's functions cannot be pickled; the error is JAX's."""
    watched, plain = pair
    with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever JAX raises
        pickle.dumps(plain)
    with pytest.raises(type(expected.value)) as actual:
        pickle.dumps(watched)
    assert str(expected.value) == str(actual.value)


def test_hash_and_equality_are_by_identity(pair):
    """It can be a key and a static argument."""
    watched, _ = pair
    assert 1 == {watched: 1}[watched]
    assert watched != jax.jit(documented, donate_argnums=0)
    caller = jax.jit(lambda f, state: f(state), static_argnums=0)
    np.testing.assert_array_equal(x() * 2, caller(watched, x()))


def test_cache_is_that_of_jax(pair):
    """Size and clearing go to JAX's cache."""
    watched, plain = pair
    watched.clear_cache()
    watched(x())
    assert 1 == watched._cache_size() == plain._cache_size()
    watched.clear_cache()
    assert 0 == watched._cache_size()


def test_compile_is_counted_under_the_users_name(watch):
    """Compiles of the watched function are those of the function, from the user's line."""

    def counted(state):
        return state + 1

    jitted = jax.jit(counted, donate_argnums=0)
    jitted(x())
    (event,) = [one for one in watch.events() if one["event"] == "jit.compiled" and one["name"] == "counted"]
    assert event["call_site"].startswith(__file__)
    for metric in ("jit_wrappers_total", "jit_cache_entries", "compiles_total", "calls_total"):
        assert {"counted": 1} == {name: n for name, n in values(watch, metric).items() if name == "counted"}, metric


def test_program_shows_no_file_of_ours(pair):
    """Locations in the program are the user's and JAX's, so persistent caches see the same program."""
    watched, plain = pair
    expected, actual = (f.lower(x()).as_text(debug_info=True) for f in (plain, watched))
    assert "jitwatch/jaxhooks" not in actual
    assert expected.count("loc(") == actual.count("loc(")


# Lifetime


def test_watched_function_dies_with_its_last_name(watch):
    """Neither the agent nor the books of its calls keep a function alive."""

    def make():
        captured = np.ones(3)

        def local(state):
            return state + captured

        watched = jax.jit(local, donate_argnums=0)
        watched(jnp.ones(3))
        return weakref.ref(watched), weakref.ref(local), weakref.ref(captured)

    alive = make()
    jax.clear_caches()
    gc.collect()
    assert [None, None, None] == [one() for one in alive]


def flat(number: int) -> dict[str, jax.Array]:
    return {f"leaf {i}": jnp.full(3, float(number)) for i in range(4)}


@pytest.fixture(params=["one array", "a tree", "a tree with an array that is not donated"])
def donating(request):
    """A function that donates and has been called, a maker of its donated argument, and of the other ones."""
    if request.param == "one array":
        return jax.jit(lambda state, batch: state + batch, donate_argnums=0), lambda n: jnp.full(3, float(n))
    if request.param == "a tree":
        step = jax.jit(lambda state, batch: jax.tree.map(lambda leaf: leaf + batch, state), donate_argnums=0)
        return step, flat
    # The program does not use the integers.
    step = jax.jit(lambda state, batch: state["leaf"] + batch, donate_argnums=0)
    return step, lambda n: {"leaf": jnp.full(3, float(n)), "unused": jnp.arange(5)}


@pytest.fixture
def no_collector():
    """What is freed is freed without the collector's help."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_arrays_that_are_not_donated_are_not_kept(watch, donating, no_collector):
    """Results and other arguments are freed when the job drops them; so are arrays in a donated tree that live on."""
    step, make = donating
    for n in range(3):
        state, batch = make(n), jnp.ones(3)
        result = step(state, batch)
        leaves = [leaf for leaf in jax.tree.leaves((state, result)) if not leaf.is_deleted()]
        alive = [weakref.ref(one) for one in (*leaves, batch)]
        del state, batch, result, leaves
        assert {None} == {one() for one in alive}


def test_donated_arrays_are_kept_until_the_next_call(watch, donating, no_collector):
    """One more call of the function frees what the call before donated."""
    step, make = donating
    before: list = []
    for n in range(5):
        state = make(n)
        step(state, jnp.ones(3))
        donated = [weakref.ref(leaf) for leaf in jax.tree.leaves(state) if leaf.is_deleted()]
        del state
        assert {None} == {None, *(one() for one in before)}
        before = donated
    assert before


def free_by_sample(watch, step):
    step._calls.donor.ledger.sample()


def free_by_scrape(watch, step):
    watch.snapshot()


def free_by_violation(watch, step):
    other = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.ones(2)
    other(array)
    with pytest.raises((RuntimeError, ValueError)):
        array + 1


def free_by_uninstall(watch, step):
    jitwatch.uninstall()


@pytest.mark.parametrize("free", [free_by_sample, free_by_scrape, free_by_violation, free_by_uninstall])
def test_donated_arrays_are_not_kept_after(watch, donating, no_collector, free):
    """A sample, a scrape, a violation and the end of the agent free them as well."""
    step, make = donating
    for n in range(3):
        state = make(n)
        step(state, jnp.ones(3))
        donated = [weakref.ref(leaf) for leaf in jax.tree.leaves(state) if leaf.is_deleted()]
        del state
    free(watch, step)

    assert donated
    assert {None} == {one() for one in donated}


def copied(leaf: jax.Array) -> weakref.ref:
    """Give the array a copy on the host, as reading it does where the host cannot read the memory of the device."""
    leaf._npy_value = np.array(leaf)
    return weakref.ref(leaf._npy_value)


@pytest.mark.parametrize("mark_donated", [True, False])
@pytest.mark.parametrize("exponents", [(19,), (19, 19, 19), (20, 18), (18, 20, 19)])
def test_copy_on_the_host_is_not_kept(no_collector, mark_donated, exponents):
    """Arrays of 1 MiB or more that the job has read have a copy on the host, which is as large."""
    with jitwatch.install(port=0, sample_interval_s=3600, mark_donated=mark_donated):
        step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
        for _ in range(4):
            state = [jnp.ones(1 << one) for one in exponents]
            copy_of_one = copied(min(state, key=lambda leaf: leaf.nbytes))
            step(state if len(state) > 1 else state[0])
            del state

        assert copy_of_one() is None


@pytest.mark.parametrize("make", [lambda: jnp.zeros(3), lambda: [jnp.zeros(3), jnp.ones(2)]], ids=["array", "tree"])
def test_array_of_an_earlier_call_keeps_its_donor(watch, make):
    """An array that the job keeps is tagged by the next call, whatever is donated by then."""
    step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
    state = make()
    for _ in range(3):  # the first calls are inspected, and tag all they donate
        state = step(state)
    kept = jax.tree.leaves(state)[-1]
    for _ in range(7):
        state = step(state)
    with pytest.raises((RuntimeError, ValueError)):
        kept + 1

    (event,) = [record for record in watch.events(100) if record["event"] == "donation.violation"]
    leaf = "x" if not isinstance(state, list) else "x[1]"
    assert (leaf, 7) == (event["donated_leaf"], event["calls_ago"])


def test_array_donated_before_one_with_a_copy_on_the_host_keeps_its_donor():
    """A call whose arrays are tagged at once, since one has a copy on the host, first tags those of the call before."""
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
        given = [[jnp.ones(1 << 18), jnp.ones(1 << 18)] for _ in range(5)]
        kept = given[3][1]
        host_copy = copied(given[4][0])
        for state in given:
            step(state)
        assert host_copy() is None
        with pytest.raises((RuntimeError, ValueError)):
            kept + 1

        (event,) = [record for record in watch.events(100) if record["event"] == "donation.violation"]
        assert ("state[1]", 2) == (event["donated_leaf"], event["calls_ago"])


def test_tag_that_another_thread_has_set_meanwhile_is_kept(watch):
    """A sample that is slow finds the arrays of a call before the latest."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    for _ in range(3):
        step(jnp.zeros(3))
    kept = jnp.zeros(3)
    step(kept)
    donor = step._calls.donor
    late = donor.pending
    step(jnp.zeros(3))
    step(jnp.zeros(3))
    donor._release(late, 0)
    with pytest.raises((RuntimeError, ValueError)):
        kept + 1

    assert [3] == [event["calls_ago"] for event in violations(watch)]


@pytest.mark.parametrize("leaf", ["key", "x"])
def test_array_of_a_call_that_is_being_recorded_is_of_the_latest_call(watch, monkeypatch, leaf):
    """A signal handler of the job may use it at that time."""
    step = jax.jit(lambda state: {"key": jax.random.split(state["key"])[0], "x": state["x"] + 1}, donate_argnums=0)
    real, used = donated_arrays.Arrays.mark, []

    def mark(self, array, tag):
        real(self, array, tag)
        if array.dtype == (jnp.uint32 if leaf == "key" else jnp.float32):
            used.append(array)
            with pytest.raises((RuntimeError, ValueError)):
                np.asarray(array)

    monkeypatch.setattr(donated_arrays.Arrays, "mark", mark)
    for _ in range(3):
        step({"key": jax.random.key(0), "x": jnp.ones(2)})

    assert len(used) == (3 if leaf == "key" else 1)
    assert {1} == {event["calls_ago"] for event in violations(watch)}


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, x + 1]], ids=["array", "tree"])
def test_bytes_are_right_if_an_earlier_agent_has_seen_the_programs(wrap):
    """A second agent sees the first call of a function that has two programs, and not that they differ in size."""
    given = [jnp.ones(2), jnp.ones(2), jnp.ones(2), jnp.ones(300_000), jnp.ones(300_000)]
    step = None
    for _ in range(2):
        with jitwatch.install(port=0) as watch:
            step = step or jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
            trees = [wrap(jnp.copy(one)) for one in given]
            expected = sum(one.nbytes for one in jax.tree.leaves(trees))
            for tree in trees:
                step(tree)
            assert {"<lambda>": expected} == values(watch, "donated_bytes_total")


def test_ledger_that_is_closed_keeps_no_array(watch):
    """Also if nothing samples it any more."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jnp.zeros(3)
    for _ in range(3):
        state = step(state)
    donor = step._calls.donor
    assert donor.pending is not None
    donor.ledger.close()
    assert donor.pending is None


def test_bytes_and_calls_are_counted_by_the_fast_path(watch):
    """Sizes of one array, of arrays of several shapes and of trees add up."""
    step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
    for start in (jnp.ones(4), jnp.ones(8), [jnp.ones(4), jnp.ones(2)]):
        state = start
        for _ in range(5):
            state = step(state)

    assert {"<lambda>": 15} == values(watch, "calls_total")
    assert {"<lambda>": 5 * 4 * (4 + 8 + 6)} == values(watch, "donated_bytes_total")


def jitted_anew(function, example):
    return jax.jit(function, donate_argnums=0)


def compiled_ahead(function, example):
    return jitted_anew(function, example).lower(example).compile()


@pytest.mark.parametrize("make", [jitted_anew, compiled_ahead])
def test_bytes_of_a_function_with_several_programs(watch, make):
    """Programs of one function for other shapes add up, also if each has an object of its own."""
    for size in (4, 8, 4):
        state = jnp.ones(size)
        step = make(lambda state: state * 2, state)
        for _ in range(3):
            state = step(state)

    assert {"<lambda>": 9} == values(watch, "calls_total")
    assert {"<lambda>": 3 * 4 * (4 + 8 + 4)} == values(watch, "donated_bytes_total")


def test_bytes_of_many_sizes(watch, monkeypatch):
    """Past the bound of counters by size, sizes are added up one by one."""
    monkeypatch.setattr(ledger, "_MAX_SIZES", 1)
    for donated in (0, 1):
        step = jax.jit(lambda x, y: (x + 1, y + 1), donate_argnums=donated)
        for _ in range(5):
            step(jnp.ones(4), jnp.ones(8))

    assert {"<lambda>": 5 * 4 * (4 + 8)} == values(watch, "donated_bytes_total")


def test_call_that_ends_after_the_agent_keeps_nothing(watch, monkeypatch):
    """The agent ends in another thread while a call is inspected: later calls are not recorded."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    make = ledger.Donor.recorder_of_one

    def ended_meanwhile(*args):
        recorder = make(*args)
        jitwatch.uninstall()
        return recorder

    monkeypatch.setattr(ledger.Donor, "recorder_of_one", ended_meanwhile)
    step(jnp.ones(3))

    assert step._calls.record_one is None


@pytest.mark.parametrize("mark_donated", [True, False])
def test_array_that_is_in_a_tree_twice_counts_once(mark_donated):
    """The program uses it once; the other leaf is not donated, and does not name it."""
    with jitwatch.install(port=0, sample_interval_s=3600, mark_donated=mark_donated) as watch:
        step = jax.jit(lambda state: state["a"] + 1, donate_argnums=0)
        for _ in range(4):
            array = jnp.ones(4)
            step({"a": array, "b": array})
        with pytest.raises(RuntimeError):
            repr(array)

        assert {"<lambda>": 4 * 16} == values(watch, "donated_bytes_total")
        assert ["state['a']"] == [event["donated_leaf"] for event in violations(watch)]


def test_compiled_program_dies_with_its_last_name(watch):
    """A program that was compiled ahead of time does not wait for the collector, which would keep its memory."""
    compiled = jax.jit(lambda state: state + 1, donate_argnums=0).lower(x()).compile()
    compiled(x())
    alive = weakref.ref(compiled)
    gc.disable()
    try:
        del compiled
        assert alive() is None
    finally:
        gc.enable()


def test_failed_call_keeps_no_argument_alive(watch):
    """An error that is kept has no frame of ours, which would keep the arguments."""

    def failing(state):
        raise ValueError("no")

    step = jax.jit(failing, donate_argnums=0)
    array = jnp.ones(3)
    alive = weakref.ref(array)
    try:
        step(array)
    except ValueError as error:
        kept = error
    del array
    assert [] == [one for one in _frames(kept) if one.f_code is Watched.__call__.__code__]
    kept.__traceback__ = None
    gc.collect()
    assert alive() is None


def _frames(error):
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def test_memory_does_not_grow_with_calls(watch):
    """What is remembered of 20,000 calls is a handful of places."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.ones(2)
    for _ in range(10):
        array = step(array)
    donor = step._calls.donor
    before = len(donor.ledger._sites)
    for _ in range(20_000):
        array = step(array)
    assert before + 1 == len(donor.ledger._sites)
    assert 4096 >= len(donor._sizes)
    assert {8} == donor._counters.keys()


def test_call_sites_are_bounded():
    """Past the bound a donor is still named, without its line."""
    operations = donated_arrays.Arrays(marks=False)
    ledger = Ledger(operations, (), max_sites=2)
    donor, origins = ledger.donor(Function("train.step", "step")), []
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    for _ in range(5):
        array = jnp.ones(2)
        step(array)
        names = {"record": donor.record, "leaves": [array], "variant": donor.variant((), ("x",)), "sys": sys}
        exec("record(leaves, variant, sys._getframe())", names)
        origins.append(ledger.origin(array))
    assert [("train.step", site) for site in ["<string>:1"] * 2 + [None] * 3] == [
        (one.function.label, one.call_site) for one in origins
    ]


# Uninstalling


def test_uninstall_leaves_plain_functions(watch):
    """A watched function works on, with nothing behind it; `jax.jit` gives JAX's objects again."""
    step, state = jax.jit(train_step, donate_argnums=0), state_of(2, 2)
    state = donate(step, state)
    jitwatch.uninstall()
    for _ in range(3):
        state = donate(step, state)
    assert 4 == int(state["step"])
    assert state["params"]["w1"]._npy_value is None or isinstance(state["params"]["w1"]._npy_value, np.ndarray)
    assert "PjitFunction" == type(jax.jit(train_step, donate_argnums=0)).__name__
    with pytest.raises(RuntimeError) as raised:
        old = state
        donate(step, state)
        repr(old["params"]["w1"])
    assert [] == [note for note in getattr(raised.value, "__notes__", ()) if note.startswith("donated ")]


def test_compiled_program_reports_to_the_agent_that_is_installed(watch):
    """Made under one agent, used without any and under another."""
    compiled = jax.jit(train_step, donate_argnums=0).lower(state_of(2, 2), 1).compile()
    jitwatch.uninstall()
    donate(compiled, state_of(2, 2))
    with jitwatch.install(port=0) as second:
        state = state_of(2, 2)
        donate(compiled, state)
        with pytest.raises(RuntimeError):
            repr(state["step"])
        assert [("train_step", 1)] == [(short(event["donated_by"]), event["calls_ago"]) for event in violations(second)]


def test_calls_without_jit_do_not_confuse(watch):
    """Under `jax.disable_jit()` nothing is donated; afterwards all is as ever."""
    step = jax.jit(train_step, donate_argnums=0)
    with jax.disable_jit():
        kept = state_of(2, 2)
        donate(step, kept)
    assert not kept["step"].is_deleted()
    states = [state_of(2, 2) for _ in range(3)]
    for state in states:
        donate(step, state)
    for state in states:
        with pytest.raises(RuntimeError):
            repr(state["params"]["w2"])
    assert ["state['params']['w2']"] * 3 == [event["donated_leaf"] for event in violations(watch)]
    assert {"train_step": 4} == values(watch, "calls_total")


@pytest.mark.versions(jax="<0.11", reason="from 0.11 on JAX checks itself, and nothing is marked")
def test_dead_arrays_stay_safe_after_uninstall(watch):
    """JAX ≤ 0.10 ends the process when a marked array is asked for these; the guards stay in place."""
    step, array = jax.jit(lambda x: x + 1, donate_argnums=0), jnp.ones(3)
    step(array)
    jitwatch.uninstall()
    assert "cpu" == array.platform()
    for use in (array.is_ready, array.clone, lambda: array._pjrt_layout):
        with pytest.raises(RuntimeError):
            use()
    living = jnp.ones(3)
    assert ("cpu", True) == (living.platform(), bool(living.block_until_ready().is_ready()))
    np.testing.assert_array_equal(living, living.clone())


def test_guards_are_removed_where_nothing_was_marked():
    """Installing alone leaves nothing, and installing twice guards once."""
    before = {name: ArrayImpl.__dict__[name] for name in ("is_ready", "clone", "platform", "_pjrt_layout")}
    donated_arrays.install_guards(ArrayImpl)
    first = ArrayImpl.__dict__["is_ready"]
    donated_arrays.install_guards(ArrayImpl)
    assert first is ArrayImpl.__dict__["is_ready"]
    was_guarded = donated_arrays.is_guard(before["is_ready"])
    if not was_guarded:  # by another test in this process
        donated_arrays.remove_guards(ArrayImpl)
        assert before == {name: ArrayImpl.__dict__[name] for name in before}
