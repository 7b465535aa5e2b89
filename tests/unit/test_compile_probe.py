"""Every compile is counted once, under the name of the user's function, with its cost by phase."""

from __future__ import annotations

import collections
import functools
import inspect
import json
import sys
import threading

import equinox as eqx
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import jit as early_jit

import jitwatch
from jitwatch.jaxhooks import compat
from jitwatch.model.events import Compiled
from jitwatch.model.taxonomy import JAX_LABEL
from tests.conftest import LISTENER_KINDS

try:
    from jax import shard_map
except ImportError:  # until 0.7 it was experimental
    from jax.experimental.shard_map import shard_map

ME = __name__
BACKEND_EVENT = "/jax/core/compile/backend_compile_duration"
PartitionSpec = jax.sharding.PartitionSpec


class BackendCount:
    """An independent count: a listener of the test's own, by the name that JAX gives the program."""

    def __init__(self):
        self.names = collections.Counter()

    def __call__(self, event, duration, **details):
        if event == BACKEND_EVENT:
            self.names[details["fun_name"]] += 1

    @property
    def total(self):
        return sum(self.names.values())

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self)
        return self

    def __exit__(self, *_):
        sys.modules["jax._src.monitoring"]._event_duration_secs_listeners.remove(self)


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as installed:
        yield installed


def compiles(watch) -> dict[str, int]:
    """Compiles of the user's functions, by label without this module's name."""
    rows = watch.snapshot()["functions"]
    return {
        row["function"].removeprefix(f"{ME}."): row["compiles"]
        for row in rows
        if row["function"] != JAX_LABEL and row["compiles"]
    }


def one_device_mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))


# The ways in which functions come to be jitted. Each returns a callable of one array.


def way_jit():
    def target(x):
        return x + 1

    return jax.jit(target)


def way_early_jit():
    def target(x):
        return x + 1

    return early_jit(target)


def way_partial_of_jit():
    decorator = functools.partial(jax.jit, static_argnames="flag")

    @decorator
    def target(x, flag=True):
        return x + 1 if flag else x

    return target


def way_prebuilt_partial():
    @PREBUILT
    def target(x):
        return x + 1

    return target


PREBUILT = functools.partial(jax.jit, donate_argnums=())


def way_method():
    class Thing:
        @functools.partial(jax.jit, static_argnums=0)
        def target(self, x):
            return x + 1

    return Thing().target


def way_bound_method():
    class Thing:
        def target(self, x):
            return x + 1

    return jax.jit(Thing().target)


def way_callable_object():
    class target:
        def __call__(self, x):
            return x + 1

    return jax.jit(target())


def way_decorated():
    def noisy(fun):
        @functools.wraps(fun)
        def inner(*args):
            return fun(*args)

        return inner

    @jax.jit
    @noisy
    def target(x):
        return x + 1

    return target


def way_partial_inside():
    def target(y, x):
        return x + y

    return jax.jit(functools.partial(target, 1.0))


def way_lambda():
    return jax.jit(lambda target: target + 1)


def way_value_and_grad_inside():
    def target(x):
        return (x**2).sum()

    return jax.jit(jax.value_and_grad(target))


def way_vmap_inside():
    def target(x):
        return x + 1

    return jax.jit(jax.vmap(target))


def way_nested():
    @jax.jit
    def inner(x):
        return x * 2

    def target(x):
        return inner(x) + inner(x + 1)

    return jax.jit(target)


def way_donating():
    def target(x):
        return x + 1

    donating = jax.jit(target, donate_argnums=0)
    return lambda x: donating(x.copy())


def way_equinox():
    @eqx.filter_jit
    def target(x, how="up"):
        return x + 1

    return target


def way_equinox_module():
    class Thing(eqx.Module):
        w: jax.Array

        @eqx.filter_jit
        def target(self, x):
            return self.w * x

    return Thing(jnp.float32(2)).target


def way_nnx():
    @nnx.jit
    def target(x):
        return x + 1

    return target


def way_optax():
    transform = optax.sgd(0.1)
    state = transform.init(jnp.ones(3))

    def target(x):
        return transform.update(x, state)[0]

    return jax.jit(target)


def way_pmap():
    def target(x):
        return x + 1

    mapped = jax.pmap(target)
    return lambda x: mapped(x[None])


def way_shard_map():
    def target(x):
        return x + 1

    spec = PartitionSpec("i")
    return jax.jit(shard_map(target, mesh=one_device_mesh(), in_specs=spec, out_specs=spec))


def way_ahead_of_time():
    @jax.jit
    def target(x):
        return x + 1

    return lambda x: target.lower(x).compile()(x)


def way_traced_ahead_of_time():
    @jax.jit
    def target(x):
        return x + 1

    return lambda x: target.trace(x).lower().compile()(x)


def way_with_callback():
    @jax.jit
    def target(x):
        jax.debug.callback(lambda y: None, x)
        return x + 1

    return target


WAYS = [value for name, value in sorted(globals().items()) if name.startswith("way_")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__[4:])
@pytest.mark.parametrize("order", ["jitted before install", "jitted after install"])
def test_function_is_named_and_counted_once(way, order):
    """Each way of jitting is attributed to the user's function, exactly once, and nothing else is."""
    x = jnp.arange(3.0)
    function = way() if order == "jitted before install" else None
    with jitwatch.install(port=0) as watch, BackendCount() as count:
        function = function or way()
        jax.block_until_ready(function(x))
        found = compiles(watch)
        totals = watch.snapshot()["totals"]
    assert [1] == list(found.values())
    assert ("<lambda>" if way is way_lambda else "target") in next(iter(found))
    assert count.total == totals["compiles"] + totals["jax_compiles"]


@pytest.mark.parametrize(
    "way", [way_jit, way_nested, way_equinox, way_pmap, way_donating], ids=lambda way: way.__name__
)
def test_cached_call_counts_nothing(watch, way):
    """A call that JAX answers from its cache changes no figure and writes no event."""
    function, x = way(), jnp.arange(3.0)
    function(x)
    before, seq = compiles(watch), watch.snapshot()["last_seq"]
    for _ in range(5):
        function(x)
    assert (before, seq) == (compiles(watch), watch.snapshot()["last_seq"])


def test_cached_call_runs_no_python_of_ours(watch):
    """On a hit of a function that does not donate, not one frame of ours is entered."""
    function, x = jax.jit(lambda x: x + 1), jnp.arange(3.0)
    function(x)
    entered = []
    sys.setprofile(lambda frame, kind, arg: entered.append((kind, frame.f_code.co_filename)))
    try:
        function(x)
    finally:
        sys.setprofile(None)
    assert [] == [file for kind, file in entered if "jitwatch" in file and "tests" not in file]


def test_profile_of_a_missed_call_sees_us(watch):
    """The check above can fail: a call that misses does enter our hooks."""
    function = jax.jit(lambda x: x + 1)
    entered = set()
    sys.setprofile(lambda frame, kind, arg: entered.add(frame.f_code.co_filename))
    try:
        function(1.0)
    finally:
        sys.setprofile(None)
    assert any(file.endswith("jaxhooks/compile/misses.py") for file in entered)


def test_linen_module_is_named_by_its_method(watch):
    """flax linen's nn.jit is attributed to the module's own method."""

    class Net(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    model, x = Net(), jnp.ones((1, 2))
    variables = model.init(jax.random.key(0), x)
    model.apply(variables, x)
    assert {label.partition("@")[0].rpartition("<locals>.")[2] for label in compiles(watch)} == {"Net.__call__"}


def test_functions_under_one_library_wrapper_are_told_apart(watch):
    """nnx.grad names its functions nowhere; two of them are two functions all the same, with no recompile."""

    def first_target(model, x):
        return (model(x) ** 2).sum()

    def second_target(model, x):
        return (model(x) ** 4).sum()

    model, x = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.ones((1, 2))
    nnx.jit(nnx.grad(first_target))(model, x)
    nnx.jit(nnx.value_and_grad(second_target))(model, x)
    found = {label.partition("@")[0].rpartition(".")[2]: count for label, count in compiles(watch).items()}
    assert {"first_target": 1, "second_target": 1} == found
    assert 0 == watch.snapshot()["totals"]["recompiles"]


def test_only_jax_internals_compile_under_jax(watch):
    """Eager jnp code shows `__jax__` and no function of the user."""
    with BackendCount() as count:
        jnp.linspace(0, 1, 17).reshape(17, 1) @ jnp.ones((1, 5))
    totals = watch.snapshot()["totals"]
    assert {} == compiles(watch)
    assert count.total == totals["jax_compiles"] > 0
    assert {JAX_LABEL} == {record["function"] for record in watch.events() if "function" in record}


def test_transformations_of_a_jitted_function_are_its_compiles(watch):
    """Eager grad and vmap of a jitted function compile derived programs: they are the function's own."""

    @jax.jit
    def target(x):
        return (x**3).sum()

    x = jnp.arange(4.0)
    with BackendCount() as count:
        target(x)
        jax.grad(target)(x)
        jax.vmap(target)(x[None])
    mine = sum(number for name, number in count.names.items() if "target" in name)
    assert [mine] == list(compiles(watch).values())
    assert mine >= 3


def test_phases_are_reported_and_exclusive(watch):
    """trace, lower and compile each take time, and together no more than the wall clock."""

    @jax.jit
    def target(x):
        for _ in range(30):
            x = jnp.sin(x) @ x
        return x

    import time

    started = time.perf_counter()
    target(jnp.ones((4, 4)))
    wall = time.perf_counter() - started
    event = next(record for record in watch.events() if record.get("name") == "target")
    spent = [event["trace_s"], event["lower_s"], event["compile_s"]]
    assert all(seconds > 0 for seconds in spent)
    assert sum(spent) < wall
    assert ("jit.compiled", 1, "off", "MainThread") == (
        event["event"],
        event["nth"],
        event["persistent_cache"],
        event["thread"],
    )


def test_event_names_the_line_that_called(watch):
    """call_site is the user's line, however deep JAX, a library or a decorator is in between."""

    @jax.jit
    def target(x):
        return (x**2).sum()

    def here() -> int:
        return inspect.currentframe().f_back.f_lineno

    x = jnp.ones(3)
    lines = []
    lines.append(here()), target(x)
    lines.append(here()), jax.vmap(target)(x[None])
    lines.append(here()), jax.tree.map(target, {"a": jnp.ones(2)})
    lines.append(here()), target.lower(jnp.ones(7)).compile()
    lines.append(here()), list(map(functools.partial(target), [jnp.ones(9)]))
    with pytest.raises(TypeError):
        lines.append(here()), target(jnp.ones(5), 1, 2)
    compiles = [record for record in watch.events() if record["event"] in (Compiled.kind, Compiled.repeated_kind)]
    sites = [record["call_site"] for record in compiles if record["name"] == "target"]
    assert [f"{__file__}:{line}" for line in lines[:5]] == sites


def test_failed_compile_names_the_line_that_called(watch):
    """A trace that fails says where the call was."""

    @jax.jit
    def target(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        target(1.0)
    line = inspect.currentframe().f_lineno - 1
    assert f"{__file__}:{line}" == watch.events()[-1]["call_site"]


def test_call_from_a_library_alone_names_the_library(watch):
    """Where no line of the user is on the stack, the library's is better than none."""
    thread = threading.Thread(target=jax.jit(lambda x: x * 3), args=(1.0,))
    thread.start()
    thread.join()
    record = next(record for record in watch.events() if record.get("name") == "<lambda>")
    assert record["call_site"].partition(":")[0].endswith("threading.py")


def test_new_sharding_compiles_without_a_trace(watch):
    """Committed inputs lower and compile again; the trace is reported as not run."""

    @jax.jit
    def target(x):
        return x + 1

    x = np.ones(3, np.float32)
    target(jnp.asarray(x))
    target(jax.device_put(x, jax.devices()[0]))
    first, second, pitfall = [
        record for record in watch.events() if record.get("name") == "target" and record["event"] != "program.measured"
    ]
    assert ("jit.pitfall", "sharding_flip") == (pitfall["event"], pitfall["pitfall"])
    assert ("jit.compiled", "jit.recompiled", 2) == (first["event"], second["event"], second["nth"])
    assert first["trace_s"] is not None
    # 0.9.0 alone reports a trace of no length for every call that misses.
    assert second["trace_s"] is None or compat.infer_hook() is compat.INFER_0_9_0
    assert second["compile_s"] > 0


def test_phase_histogram_counts_what_a_listener_counts(watch):
    """compile_duration_seconds_count{phase="compile"} is the number of backend compiles."""
    with BackendCount() as count:
        jax.jit(lambda x: x + 1)(1.0)
        jnp.ones(19) * 2
    counts = {
        row["labels"]["phase"]: row["count"] for row in watch.snapshot()["metrics"]["jitwatch_compile_duration_seconds"]
    }
    assert count.total == counts["compile"] == counts["lower"]


def test_trace_without_compile_is_no_compile(watch):
    """eval_shape, make_jaxpr and lower() alone count nothing."""

    @jax.jit
    def target(x):
        return x + 1

    jax.eval_shape(target, 1.0)
    jax.make_jaxpr(target)(1.0)
    target.lower(1.0)
    assert {} == compiles(watch)


def test_numpy_in_place_of_jax_array_is_no_compile(watch):
    """A C++ miss that XLA need not compile for is not counted."""

    @jax.jit
    def target(x):
        return x + 1

    target(jnp.ones(3, jnp.float32))
    target(np.ones(3, np.float32))
    assert [1] == list(compiles(watch).values())


def test_failed_trace_is_counted_and_raised_unchanged(watch):
    """The user's exception is the same object; the event names function, phase and error."""
    error = ValueError("wrong\nsecret second line")

    @jax.jit
    def target(x):
        raise error

    with pytest.raises(ValueError, match="wrong") as caught:
        target(1.0)
    assert caught.value is error
    record = watch.events()[-1]
    assert ("jit.compile_failed", "trace", "ValueError", "wrong") == (
        record["event"],
        record["phase"],
        record["error"],
        record["message"],
    )
    assert 1 == watch.snapshot()["totals"]["failures"]


@pytest.mark.parametrize(("error", "failures"), [(KeyboardInterrupt, 1), (SystemExit, 0)])
def test_interrupted_compile_is_named(watch, error, failures):
    """Ctrl-C goes on unchanged, and the log says what it interrupted; an exit is the job's own will."""

    @jax.jit
    def target(x):
        raise error

    with pytest.raises(error):
        target(1.0)
    failed = [
        (record["name"], record["phase"], record["error"])
        for record in watch.events()
        if record["event"] == "jit.compile_failed"
    ]
    assert [("target", "trace", error.__name__)] * failures == failed
    assert failures == watch.snapshot()["totals"]["failures"]


def test_failed_trace_inside_another_counts_once_for_the_outer(watch):
    """A nested jit that fails is one failed compile, of the function that was called."""

    @jax.jit
    def inner(x):
        raise ValueError("no")

    @jax.jit
    def outer(x):
        return inner(x)

    with pytest.raises(ValueError, match="no"):
        outer(1.0)
    failed = [row["function"] for row in watch.snapshot()["functions"] if row["failures"]]
    assert [True] == [
        name.endswith(f"outer@test_compile_probe.py:{outer.__wrapped__.__code__.co_firstlineno}") for name in failed
    ]


def test_failed_compile_inside_a_trace_counts_once_for_the_call(watch):
    """What fails while another function is traced fails that function's call, and is one failure."""

    @jax.jit
    def inner(x):
        return x + 1

    @jax.jit
    def target(x):
        inner.lower(1.0).compile(compiler_options={"xla_no_such_option": True})
        return x

    with pytest.raises(Exception, match="xla_no_such_option"):
        target(1.0)
    failed = [row["function"] for row in watch.snapshot()["functions"] if row["failures"]]
    assert [True] == [".target@" in name for name in failed]
    assert 1 == watch.snapshot()["totals"]["failures"]


def test_failed_backend_compile_is_a_failure_and_no_compile(watch):
    """An error of XLA is counted as failed, although JAX reports the phase's duration."""

    @jax.jit
    def target(x):
        return x + 1

    lowered = target.lower(1.0)
    with pytest.raises(Exception, match="xla_no_such_option"):
        lowered.compile(compiler_options={"xla_no_such_option": True})
    totals = watch.snapshot()["totals"]
    assert (0, 1) == (totals["compiles"], totals["failures"])
    assert "compile" == watch.events()[-1]["phase"]
    lowered.compile()
    assert [1] == list(compiles(watch).values())


def test_rejected_argument_is_no_failed_compile(watch):
    """A call that JAX refuses before tracing is the user's TypeError and nothing else."""
    with pytest.raises(TypeError):
        jax.jit(lambda x: x)("text")
    with pytest.raises(ValueError, match=r"[Nn]on-hashable"):
        jax.jit(lambda x, y: x, static_argnums=1)(1.0, [])
    assert 0 == watch.snapshot()["totals"]["failures"]


def test_error_in_eval_shape_is_no_failed_compile(watch):
    """Asking for a shape compiles nothing, so it cannot fail to compile."""

    @jax.jit
    def target(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        jax.eval_shape(target, 1.0)
    assert 0 == watch.snapshot()["totals"]["failures"]


def test_message_of_a_users_exception_class_is_not_evaluated(watch):
    """str() of a user's exception can run anything, so only its type is shown."""

    class Odd(Exception):
        def __str__(self):
            raise AssertionError("must not be called")

    @jax.jit
    def target(x):
        raise Odd("secret")

    with pytest.raises(Odd):
        target(1.0)
    record = watch.events()[-1]
    assert ("Odd", "") == (record["error"], record["message"])


def test_compile_inside_a_trace_is_counted_and_its_time_taken_out(watch):
    """Constants computed at trace time compile for themselves; no second is counted twice."""

    @jax.jit
    def target(x):
        with jax.ensure_compile_time_eval():
            table = jnp.arange(23.0) ** 3
        return x + table.sum()

    import time

    started = time.perf_counter()
    with BackendCount() as count:
        target(1.0)
    wall = time.perf_counter() - started
    totals = watch.snapshot()["totals"]
    assert count.total == totals["compiles"] + totals["jax_compiles"]
    assert 1 == totals["compiles"]
    assert totals["compile_seconds"] + totals["jax_compile_seconds"] < wall


def test_function_compiled_inside_a_trace_keeps_its_name(watch):
    """A jitted function of the user that runs while another is traced is attributed to itself."""

    @jax.jit
    def helper_target(x):
        return jnp.sort(jnp.sin(x)) + x

    @jax.jit
    def target(x):
        with jax.ensure_compile_time_eval():
            table = helper_target(np.arange(29.0, dtype=np.float32))
        return x + table.sum()

    target(1.0)
    names = {label.partition("@")[0].rpartition(".")[2]: count for label, count in compiles(watch).items()}
    assert {"helper_target": 1, "target": 1} == names


def test_threads_compile_side_by_side(watch):
    """Eight threads' compiles are counted each for its own function, and busy time is no more than the wall's."""
    import time

    def make(number):
        def target(x):
            return x + number

        target.__qualname__ = f"target{number}"
        return jax.jit(target)

    functions = [make(number) for number in range(8)]
    started = time.perf_counter()
    threads = [threading.Thread(target=function, args=(1.0,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    assert {f"target{number}": 1 for number in range(8)} == compiles(watch)
    busy = watch.snapshot()["totals"]["busy_seconds"]
    assert 0 < busy <= wall
    assert 0 == watch.snapshot()["metrics"]["jitwatch_compiles_in_progress"][0]["value"]


def test_running_compile_is_visible(watch):
    """While a function traces, the state names it, its phase and its age, and busy time grows."""
    seen = []

    @jax.jit
    def target(x):
        first, second = watch.snapshot(), watch.snapshot()
        seen.append((first, second))
        return x + 1

    target(1.0)
    (first, second) = seen[0]
    running = first["in_progress"]
    assert [("trace", True)] == [(one["phase"], ".target@" in one["function"]) for one in running]
    assert 1 == first["metrics"]["jitwatch_compiles_in_progress"][0]["value"]
    assert 0 < first["metrics"]["jitwatch_compile_oldest_in_progress_seconds"][0]["value"]
    assert first["totals"]["busy_seconds"] < second["totals"]["busy_seconds"]
    assert [] == watch.snapshot()["in_progress"]


def test_persistent_cache_hits_and_misses(watch, tmp_path):
    """A program found in the persistent cache is a compile with `hit`, and the saved time is counted."""
    from jax.experimental.compilation_cache import compilation_cache

    options = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        for _ in range(2):
            jax.jit(lambda x: jnp.tanh(x) * 11)(1.0)
            jax.clear_caches()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    mine = [
        record["persistent_cache"]
        for record in watch.events()
        if record.get("name") == "<lambda>" and record["event"] != "program.measured"
    ]
    assert ["miss", "hit"] == mine
    metrics = watch.snapshot()["metrics"]
    assert metrics["jitwatch_persistent_cache_hits_total"][0]["value"] >= 1
    assert metrics["jitwatch_persistent_cache_misses_total"][0]["value"] >= 1


def test_jitted_function_behaves_the_same():
    """Signature, protocols and transformations of a jitted function do not change under the agent."""

    def observe():
        @functools.partial(jax.jit, static_argnames="n")
        def target(x, n=2):
            """Doc."""
            return (x * n).sum()

        x = jnp.arange(3.0)
        return {
            "type": type(target),
            "wrapped": isinstance(target, jax.stages.Wrapped),
            "signature": str(inspect.signature(target)),
            "doc": target.__doc__,
            "lower": "stablehlo" in target.lower(x).as_text(),
            "text": target.lower(x).as_text(),
            "vmap": jax.vmap(target)(x[None]).tolist(),
            "grad": jax.grad(target)(x).tolist(),
            "scan": jax.lax.scan(lambda c, v: (c + target(v[None]), v), 0.0, x)[0].tolist(),
            "nested": jax.jit(lambda v: target(v) + 1)(x).tolist(),
            "export": jax.export.export(target)(x).call(x).tolist(),
            "shape": str(jax.eval_shape(target, x)),
            "jaxpr": str(jax.make_jaxpr(target)(x)),
            "cache": (target._cache_size(), target.clear_cache()),
        }

    bare = observe()
    with jitwatch.install(port=0):
        watched = observe()
    assert bare == watched
    assert watched["wrapped"]


def test_traceback_shows_no_frame_of_ours(watch):
    """A user's error in a jitted function reads as without the agent."""
    import traceback

    @jax.jit
    def target(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        target(1.0)
    text = "".join(traceback.format_exception(caught.value))
    assert "misses.py" not in text.partition("The above exception")[0] or jax.config.jax_traceback_filtering == "off"
    frames = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert [] == [name for name in frames if "jitwatch/jaxhooks" in name.replace("\\", "/")]


def test_program_text_names_no_file_of_ours(watch):
    """The StableHLO locations of a program are those of a job without the agent."""

    @jax.jit
    def target(x):
        return x + 1

    lowered = target.lower(1.0)
    assert "jaxhooks" not in lowered.as_text(debug_info=True)


def test_functions_and_arrays_are_not_kept_alive(watch):
    """What the job drops dies, although it was compiled under watch."""
    import gc
    import weakref

    array = jnp.arange(1000.0)

    def target(x):
        return x + array  # noqa: F821 - deleted below, after its use

    jitted = jax.jit(target)
    jitted(array)
    references = [weakref.ref(one) for one in (array, target, jitted)]
    del array, target, jitted
    jax.clear_caches()
    gc.collect()
    assert [None, None, None] == [reference() for reference in references]


def test_records_are_strict_json(watch):
    """Every event can be written as JSON."""
    jax.jit(lambda x: x * 5)(1.0)
    json.dumps(watch.events(), allow_nan=False)


def test_listener_kinds_exist():
    """The monitoring lists that we register in are there in this JAX."""
    module = sys.modules["jax._src.monitoring"]
    assert all(isinstance(getattr(module, f"_{kind}_listeners"), list) for kind in LISTENER_KINDS)


def test_leak_checker_finds_nothing_of_ours(watch):
    """jax.checking_leaks passes code that is right: no tracer is kept by our bookkeeping."""

    @jax.jit
    def target(x):
        @jax.jit
        def inner(y):
            return x + y

        return inner(1.0)

    with jax.checking_leaks():
        assert 2.0 == float(target(1.0))


def test_failed_trace_of_a_partial_is_counted(watch):
    """What fails is the function inside of partials and other wrappers."""

    def target(y, x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        jax.jit(functools.partial(target, 1.0))(2.0)
    assert 1 == watch.snapshot()["totals"]["failures"]
