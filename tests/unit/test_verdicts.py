"""The verdict on programs that people write: pitfall, subject, words that must be there and words that must not.

Each kind of mistake has variations, and neighbours that are innocent. Where an advice can be followed, the program that
follows it is run as well: it compiles as often as promised, with the same results.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import jitwatch
from jitwatch.diagnosis.findings import Facts, findings
from jitwatch.diagnosis.pitfalls.job import UnrolledLoop
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.values.contents import contents_of
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import PITFALLS
from jitwatch.model.thresholds import THRESHOLDS
from jitwatch.render.health import sentence
from tests.checkout import ROOT
from tests.truths import assert_truths

X = np.ones(3, np.float32)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an agent says of a program.

    Attributes:
        pitfalls: Name and subject of each.
        text: `explain()`, on one line.
        recompiles: Of all functions of the job.
    """

    pitfalls: list[tuple[str, str]]
    text: str
    recompiles: int
    lost_s: float


def verdict_on(program) -> Verdict:
    with jitwatch.install(port=0) as watch:
        program()
        assert_truths(watch)
        state = watch.snapshot()
        text = " ".join(str(watch.explain()).split())
    return Verdict(
        [(one["pitfall"], one["subject"]) for one in state["pitfalls"]],
        text,
        state["totals"]["recompiles"],
        state["totals"]["lost_seconds"],
    )


# Objects that equal only themselves


def optimizer_as_static():
    @functools.partial(jax.jit, static_argnames="optimizer")
    def train(params, optimizer):
        return optimizer.update(params, optimizer.init(params))[0]

    for _ in range(4):
        train({"w": X}, optimizer=optax.adam(1e-3))


def optimizer_with_a_rate():
    @functools.partial(jax.jit, static_argnames="optimizer")
    def train(params, optimizer):
        return optimizer.update(params, optimizer.init(params))[0]

    for rate in (0.1, 0.05, 0.02):
        train({"w": X}, optimizer=optax.sgd(rate))


def train_state_of_each_trial():
    @jax.jit
    def train(state):
        return state.apply_gradients(grads=state.params)

    for _ in range(3):
        train(TrainState.create(apply_fn=APPLY, params={"w": jnp.ones(3)}, tx=optax.adam(1e-3)))


def module_with_a_new_activation():
    class Net(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(3))
            self.act = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)

    @nnx.jit
    def loss(m):
        return m.act(m.w[...]).sum()

    for _ in range(3):
        loss(Net())


def equinox_module_that_jits_in_its_init():
    class Net(eqx.Module):
        w: jax.Array
        forward: Any = eqx.field(static=True)

        def __init__(self):
            self.w = jnp.ones(3)
            self.forward = jax.jit(lambda x: x * 2)

    @eqx.filter_jit
    def step(model):
        return model.forward(model.w)

    for _ in range(3):
        step(Net())


def static_that_is_a_donating_jit():
    def make():
        return jax.jit(lambda x: x + 1, donate_argnums=0)

    @functools.partial(jax.jit, static_argnames="step")
    def drive(x, step):
        return step(x)

    for _ in range(4):
        drive(X, step=make())


def list_of_lambdas():
    @functools.partial(jax.jit, static_argnames="layers")
    def run(x, layers):
        return layers[1](layers[0](x))

    for _ in range(3):
        run(X, layers=(jnp.sin, lambda x: x * 2))


class Agent:
    def __init__(self):
        self.w = jnp.ones(3)

    @functools.partial(jax.jit, static_argnums=0)
    def act(self, x):
        return x * self.w


def static_self_with_arrays():
    for _ in range(3):
        Agent().act(X)


class Config:
    def __init__(self, width):
        self.width = width


def config_without_eq():
    f = jax.jit(lambda x, config: x * config.width, static_argnames="config")
    for _ in range(3):
        f(X, config=Config(8))


MADE_ANEW = {
    optimizer_as_static: ("optimizer", "Create optimizer once", "Pass optimizer as an ordinary argument"),
    optimizer_with_a_rate: ("optimizer", "optax.inject_hyperparams", "Pass optimizer as an ordinary argument"),
    train_state_of_each_trial: ("state.tx", "Create state.tx once", "the same keys"),
    module_with_a_new_activation: ("m.act", "Create m.act once", "the same keys"),
    equinox_module_that_jits_in_its_init: ("model.forward", "Create model.forward once", "NamedTuple"),
    static_that_is_a_donating_jit: ("step", "Create step once", "Pass step as an ordinary argument"),
    list_of_lambdas: ("layers[1]", "Create layers[1] once", "Pass layers as an ordinary argument"),
    static_self_with_arrays: ("self", "Make Agent a pytree", "frozen=True"),
    config_without_eq: ("config", "make Config a NamedTuple", "Pass config as an ordinary argument"),
}


def APPLY(variables, x):
    return x


@pytest.mark.parametrize("program", MADE_ANEW, ids=lambda program: program.__name__)
def test_object_that_is_made_anew_is_named_with_its_path(program):
    """And with advice that fits what it holds."""
    subject, advice, forbidden = MADE_ANEW[program]
    found = verdict_on(program)
    assert ("identity_hashed_static", subject) in found.pitfalls
    assert {"identity_hashed_static", "jit_in_loop"} >= {name for name, _ in found.pitfalls}
    assert advice in found.text
    assert forbidden not in found.text


def test_rate_inside_of_an_optimizer_is_named():
    """With the number before and after."""
    text = verdict_on(optimizer_with_a_rate).text
    assert "step_size -0.05 → -0.02" in text


def optimizer_made_once():
    @functools.partial(jax.jit, static_argnames="optimizer")
    def train(params, optimizer):
        return optimizer.update(params, optimizer.init(params))[0]

    optimizer = optax.adam(1e-3)
    for _ in range(4):
        train({"w": X}, optimizer=optimizer)


def agent_as_a_pytree():
    @jax.tree_util.register_pytree_node_class
    class Tree:
        def __init__(self, w):
            self.w = w

        def tree_flatten(self):
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    act = jax.jit(lambda self, x: x * self.w)
    for _ in range(4):
        act(Tree(jnp.ones(3)), X)


def rate_as_an_argument():
    @jax.jit
    def train(params, state):
        return OPTIMIZER.update(params, state)

    state = OPTIMIZER.init({"w": X})
    for rate in (0.1, 0.05, 0.02):
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        _, state = train({"w": X}, state)


OPTIMIZER = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)


def config_as_a_named_tuple():
    class Settings(NamedTuple):
        width: int

    f = jax.jit(lambda x, config: x * config.width, static_argnames="config")
    for _ in range(4):
        f(X, config=Settings(8))


@pytest.mark.parametrize(
    "program",
    [optimizer_made_once, agent_as_a_pytree, rate_as_an_argument, config_as_a_named_tuple],
    ids=lambda program: program.__name__,
)
def test_advice_for_it_needs_one_compile(program):
    """Followed as it is written, nothing recompiles and nothing is said."""
    found = verdict_on(program)
    assert ([], 0) == (found.pitfalls, found.recompiles)


# Values that a function captures


def sweep_over_a_captured_rate():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    def make(cfg):
        net = Net()

        def train(params, x):
            return jax.grad(lambda p: (net.apply(p, x) ** 2).sum())(params), cfg["LR"]

        return jax.jit(train)

    params = Net().init(jax.random.key(0), X)
    for rate in (0.1, 0.2, 0.3, 0.4, 0.5):
        make({"LR": rate, "NAME": "ppo"})(params, X)


def test_captured_value_is_named_once_and_without_counters_of_libraries():
    """The user's value, with its path; what a library's object counts for itself is left out."""
    found = verdict_on(sweep_over_a_captured_rate)
    assert [("closure_capture", "cfg")] == found.pitfalls
    assert 1 == found.text.count("was jitted again")
    assert "cfg['LR'] 0.4 → 0.5" in found.text
    assert "Pass cfg['LR'] as an argument" in found.text
    assert "_id" not in found.text


def update_of_each_optimizer():
    state, params = optax.sgd(0.1).init({"w": X}), {"w": X}
    for rate in (0.1, 0.05, 0.02, 0.01, 0.005):
        jax.jit(optax.sgd(rate).update)(params, state)


def test_number_inside_of_captured_functions_is_named():
    """Functions cannot be passed as arguments; what changes can."""
    found = verdict_on(update_of_each_optimizer)
    assert ["closure_capture"] == [name for name, _ in found.pitfalls]
    assert "step_size -0.01 → -0.005" in found.text
    assert "optax.inject_hyperparams" in found.text
    assert "Pass update_fns as an argument" not in found.text


# New functions under a transformation


@pytest.mark.parametrize(
    "call",
    [
        lambda f: jax.vmap(f)(jnp.ones((4, 3))),
        lambda f: jax.grad(lambda x: f(x).sum())(jnp.ones(3)),
        lambda f: jax.jvp(f, (jnp.ones(3),), (jnp.ones(3),)),
        lambda f: jax.linearize(f, jnp.ones(3))[1](jnp.ones(3)),
        lambda f: jax.vjp(f, jnp.ones(3))[1](jnp.ones(3)),
    ],
    ids=["vmap", "grad", "jvp", "linearize", "vjp"],
)
def test_new_function_under_a_transformation_is_no_first_use(call):
    """`jax.jit` of a new function in each iteration, whatever is done to it; the same object under it is normal."""

    def anew():
        for _ in range(8):
            call(jax.jit(lambda x: jnp.tanh(x) * 3))

    found = verdict_on(anew)
    assert [("jit_in_loop", "")] == found.pitfalls
    assert found.lost_s > 0
    assert "jax.jit was called on the same code 8 times" in found.text

    once = jax.jit(lambda x: jnp.tanh(x) * 5)

    def again():
        for _ in range(8):
            once(jnp.ones(3))
            call(once)

    found = verdict_on(again)
    assert ([], 0.0) == (found.pitfalls, found.lost_s)


# Structures that change


@flax.struct.dataclass
class Counted:
    w: jax.Array
    epoch: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class CountedAsData:
    w: jax.Array
    epoch: jax.Array


def metadata_that_counts():
    step = jax.jit(lambda state: state.replace(w=state.w + 1))
    for epoch in range(8):
        step(Counted(jnp.ones(3), epoch))


def metadata_as_data():
    step = jax.jit(lambda state: state.replace(w=state.w + 1))
    for epoch in range(8):
        step(CountedAsData(jnp.ones(3), jnp.int32(epoch)))


def meta_field_of_jax():
    @functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["step"])
    @dataclasses.dataclass
    class State:
        w: Any
        step: int

    f = jax.jit(lambda state: state.w * 2)
    for number in range(8):
        f(State(jnp.ones(3), number))


def scalars_in_a_list():
    likelihood = jax.jit(lambda data: sum(x * x for x in data))
    for size in (20, 21, 22):
        likelihood([float(i) for i in range(size)])


def list_of_arrays():
    total = jax.jit(lambda parts: sum(part.sum() for part in parts))
    for size in (2, 3, 4):
        total([X] * size)


def optional_argument():
    f = jax.jit(lambda x, mask: x if mask is None else x * mask)
    f(X, None)
    f(X, X)


def key_that_comes_later():
    f = jax.jit(lambda batch: sum(batch.values()))
    f({"a": X})
    f({"a": X, "b": X})


class Pair(NamedTuple):
    a: Any
    b: Any


def named_tuple_and_tuple():
    f = jax.jit(lambda pair: pair[0] + pair[1])
    f((X, X))
    f(Pair(X, X))


def evaluation_mode():
    @flax.struct.dataclass
    class Model:
        w: jax.Array
        training: bool = flax.struct.field(pytree_node=False)

    f = jax.jit(lambda m: m.w * 2 if m.training else m.w)
    for _ in range(3):
        f(Model(jnp.ones(3), True))
        f(Model(jnp.ones(3), False))


def keyword_and_position():
    f = jax.jit(lambda x, y: x + y)
    f(X, X)
    f(X, y=X)


STRUCTURES = {
    metadata_that_counts: ("static_arg_churn", "state.epoch", "had 8 values", "Make state.epoch an array"),
    meta_field_of_jax: ("static_arg_churn", "state.step", "had 8 values", "Make state.step an array"),
    scalars_in_a_list: ("tree_flip", "data", "sequence of 22 scalars", "jnp.asarray(data)"),
    list_of_arrays: ("tree_flip", "parts", "the length of parts changed", "stack it into one padded array"),
    optional_argument: ("tree_flip", "mask", "mask was None", "Pass an array in every call"),
    key_that_comes_later: ("tree_flip", "batch", "batch['b'] was absent", "Keep the same keys"),
    named_tuple_and_tuple: ("tree_flip", "pair", "pair was tuple of 2 and is Pair now", "same kind of container"),
    evaluation_mode: ("tree_flip", "m.training", "m.training was True and is False", "nothing to do"),
    keyword_and_position: ("tree_flip", "y", "y was passed by position", "Pass it the same way"),
}


@pytest.mark.parametrize("program", STRUCTURES, ids=lambda program: program.__name__)
def test_advice_fits_what_changed_in_a_structure(program):
    """Metadata, lengths, optional arguments, keys, classes, modes and ways to pass are distinguished."""
    pitfall, subject, message, advice = STRUCTURES[program]
    found = verdict_on(program)
    assert [(pitfall, subject)] == found.pitfalls
    assert message in found.text
    assert advice in found.text


def array_in_place_of_a_list():
    likelihood = jax.jit(lambda data: (data * data).sum())
    for size in (20, 21, 22):
        likelihood(jnp.asarray(np.pad(np.arange(size, dtype=np.float32), (0, 32 - size))))


@pytest.mark.parametrize("program", [metadata_as_data, array_in_place_of_a_list], ids=lambda one: one.__name__)
def test_advice_for_a_structure_needs_one_compile(program):
    """Followed as it is written, nothing recompiles."""
    found = verdict_on(program)
    assert ([], 0) == (found.pitfalls, found.recompiles)


def test_sizes_that_metadata_mirrors_are_a_change_of_shape():
    """One finding, about the shape."""

    @jax.tree_util.register_pytree_node_class
    class Named:
        def __init__(self, array):
            self.array = array

        def tree_flatten(self):
            return (self.array,), ("pos", self.array.shape[0])

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls.__new__(cls)._with(children[0])

        def _with(self, array):
            self.array = array
            return self

    def program():
        f = jax.jit(lambda ids: ids.array * 2)
        for size in range(4, 12):
            f(Named(jnp.ones(size)))

    assert ["shape_churn"] == [name for name, _ in verdict_on(program).pitfalls]


def test_static_that_is_equal_and_passed_otherwise():
    """JAX has a program for each way; the value is not what changed."""

    def program():
        f = jax.jit(lambda x, n=3: x * n, static_argnames="n")
        f(X)
        f(X, n=3)
        f(X, 3)

    found = verdict_on(program)
    assert ([], 2) == (found.pitfalls, found.recompiles)
    assert "n is 3 in both calls, but was passed by default and then by keyword" in found.text
    assert "Pass it the same way in every call" in found.text


# Places


def test_one_program_for_each_device_is_normal():
    """Nothing moves, nothing is lost."""

    def program():
        policy = jax.jit(lambda params, x: x @ params)
        for _ in range(3):
            for device in jax.devices():
                policy(jax.device_put(jnp.ones((3, 2)), device), jax.device_put(X, device))

    found = verdict_on(program)
    assert ([], 1, 0.0) == (found.pitfalls, found.recompiles, found.lost_s)
    assert "One program for each device is expected" in found.text


def test_program_that_was_compiled_ahead_of_time_for_something_else():
    """The difference to what the calls pass, and how to compile for that."""

    def program():
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        step = jax.jit(lambda batch: batch * 2)
        step.lower(jax.ShapeDtypeStruct((4, 3), jnp.float32)).compile()
        for _ in range(3):
            step(jax.device_put(jnp.ones((4, 3)), rows))

    found = verdict_on(program)
    assert 1 == found.recompiles
    assert "batch not committed → P('data')" in found.text
    assert "compiled ahead of time" in found.text
    assert "sharding=…" in found.text


# Types


def test_kinds_of_random_keys_are_wrapped_and_not_converted():
    """A raw key and a typed one; the advice runs."""

    def program():
        sample = jax.jit(lambda rng: jax.random.normal(rng, (2,)))
        sample(jax.random.PRNGKey(0))
        sample(jax.random.key(0))

    found = verdict_on(program)
    assert [("dtype_flip", "rng")] == found.pitfalls
    assert "jax.random.wrap_key_data(rng)" in found.text
    assert "jnp.asarray" not in found.text
    raw = jax.random.PRNGKey(0)
    np.testing.assert_array_equal(jax.random.normal(raw), jax.random.normal(jax.random.wrap_key_data(raw)))


# Shapes


def videos():
    track = jax.jit(lambda frames, points: frames.sum() + points.sum())
    sizes = np.random.default_rng(0).integers((5, 8, 8, 2), (11, 16, 16, 9), size=(8, 4))
    for frames, height, width, points in sizes:
        track(np.ones((frames, height, width), np.float32), np.ones((points, 2), np.float32))


def graphs():
    energy = jax.jit(lambda graph: sum(part.sum() for part in graph.values()))
    sizes = np.random.default_rng(1).integers((20, 50), (40, 90), size=(10, 2))
    for nodes, edges in sizes:
        energy({"nodes": np.ones((nodes, 4), np.float32), "senders": np.ones(edges), "receivers": np.ones(edges)})


@pytest.mark.parametrize(("program", "axes"), [(videos, 4), (graphs, 2)], ids=["videos", "graphs"])
def test_sizes_that_vary_independently_are_padded_together(program, axes):
    """The number of compiles that is promised is that of the program with all of them padded."""
    found = verdict_on(program)
    assert ["shape_churn"] == [name for name, _ in found.pitfalls]
    assert f"{axes} sizes vary independently" in found.text
    assert "drop the remainder" not in found.text


def test_promised_number_of_compiles_is_that_of_the_padded_program():
    """The sizes are read from the advice, and the program is run with them."""

    def lengths():
        f = jax.jit(lambda x, y: x.sum() + y.sum())
        for n, m in zip((3, 5, 7, 9, 11, 13), (30, 41, 52, 33, 44, 35), strict=True):
            f(np.ones(n, np.float32), np.ones(m, np.float32))

    advice = verdict_on(lengths).text
    promised = int(re.search(r"would have needed (\d+) compile", advice)[1])
    pads = {
        name: [int(size) for size in re.findall(r"\d+", sizes)]
        for name, sizes in re.findall(r"(\w) \(axis 0\) to ((?:\d+(?: or )?)+)", advice)
    }
    assert {"x", "y"} == pads.keys()

    def padded():
        f = jax.jit(lambda x, y: x.sum() + y.sum())
        for n, m in zip((3, 5, 7, 9, 11, 13), (30, 41, 52, 33, 44, 35), strict=True):
            lengths = [min(size for size in pads[name] if size >= one) for name, one in (("x", n), ("y", m))]
            f(*(np.ones(length, np.float32) for length in lengths))

    assert promised - 1 == verdict_on(padded).recompiles


def test_two_sizes_that_recur_are_silent():
    """A training and an evaluation batch, and the last one of an epoch."""

    def program():
        f = jax.jit(lambda x: x * 2)
        for _ in range(5):
            for size in (32, 64, 17):
                f(np.ones(size, np.float32))

    found = verdict_on(program)
    assert ([], 2) == (found.pitfalls, found.recompiles)


# Constants


@pytest.mark.parametrize("inside", ["plain", "jit", "scan", "remat", "cond", "grad", "vmap"])
def test_constants_of_inner_functions_count(inside):
    """A large array that an inner function captures, under whatever it is called by."""
    table = jnp.ones((1100, 1000))

    def use(x):
        return (table * x).sum()

    calls = {
        "plain": use,
        "jit": jax.jit(use),
        "scan": lambda x: jax.lax.scan(lambda carry, _: (carry + use(x), None), 0.0, None, length=2)[0],
        "remat": jax.checkpoint(use),
        "cond": lambda x: jax.lax.cond(x > 0, use, lambda x: x, x),
        "grad": jax.grad(use),
        "vmap": lambda x: jax.vmap(use)(jnp.stack([x, x])).sum(),
    }

    def program():
        jax.jit(calls[inside])(jnp.float32(2))

    assert ("captured_constant", "") in verdict_on(program).pitfalls


# What there is to say


def test_expensive_first_compile_is_mentioned():
    """A job of which most was spent compiling is not merely healthy."""
    facts = Facts(totals={"compiles": 1}, uptime_s=41.0, busy_s=36.0, last={}, slowest=("job.train_step", 36.0, 1))
    (found,) = findings(facts)
    assert ("busy", "Compiling took 36.0 s of 41.0 s so far: 36.0 s for the first compile of train_step.") == (
        found.level,
        sentence(found, facts),
    )
    assert "good" == findings(dataclasses.replace(facts, uptime_s=400.0))[0].level


def test_job_that_mostly_compiles_is_not_healthy():
    """By a real compile, for which a twentieth of a second is long enough."""

    def program():
        @jax.jit
        def slow(x):
            for _ in range(150):
                x = jnp.sin(x) @ x
            return x

        slow(jnp.ones((16, 16)))

    with jitwatch.install(port=None) as watch:
        program()
        state, slowest = watch.snapshot(), watch._agent.store.slowest()
    facts = Facts(
        totals=state["totals"],
        uptime_s=state["uptime_seconds"],
        busy_s=state["busy_seconds"],
        last={},
        slowest=slowest,
        thresholds=dataclasses.replace(THRESHOLDS, busy_notice_s=0.05),
    )
    (found,) = findings(facts)
    assert "busy" == found.level
    assert "for the first compile of slow" in sentence(found, facts)


def test_operations_alone_are_told():
    """Where no function of the job has compiled, and JAX has."""

    def program():
        jnp.arange(7.0).sum().block_until_ready()
        jnp.cumsum(jnp.arange(13.0))

    assert "operations outside of jit" in verdict_on(program).text


# Loops


def unrolled(times, operations=1_320, compile_s=4.0):
    """A compile of a program that has an inner function so many times."""
    signature = Signature(operations=operations, repeated=("block", times))
    return Compiled(function=Function("f", "f"), trace_s=0.0, lower_s=0.0, compile_s=compile_s, signature=signature)


def test_unrolled_loop_is_named_where_it_costs():
    """With the inner function and how often it is there; a cheap program and a few layers are silent."""
    rule = UnrolledLoop()
    found = rule.check(unrolled(60))
    assert "contains block 60 times" in found.message
    assert "jax.lax.scan" in found.advice
    assert rule.check(unrolled(60, operations=200)) is None
    assert rule.check(unrolled(12)) is None
    assert rule.check(unrolled(60, compile_s=0.1)) is None


def test_inner_functions_of_the_job_are_counted():
    """In all layers of a program; JAX's own do not count."""

    @jax.jit
    def block(x):
        return jax.nn.relu(jnp.tanh(x)) + x

    @jax.jit
    def deep(x):
        for _ in range(7):
            x = block(x)
            for _ in range(3):
                x = jax.nn.relu(x)
        return x

    identities = Identities()
    identities.find_jax_folders()
    contents = contents_of(deep.trace(jnp.ones(3)).jaxpr, identities.jax_folders)
    assert ("block", 7) == contents.repeated
    assert contents.operations > 28
    assert 0 == verdict_on(lambda: deep(jnp.ones(3))).recompiles


def test_documentation_has_a_row_for_each_pitfall():
    """With when it is reported, when not, and what to do."""
    text = (ROOT / "docs" / "pitfalls.md").read_text()
    table = text.partition("\n## The pitfalls\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(PITFALLS) == sorted(named)
    assert {4} == {len(row) for row in rows}


@pytest.mark.parametrize(
    ("before", "after"),
    [(jnp.float32, jnp.bfloat16), (jnp.sin, jnp.cos), ("adam", "sgd"), (None.__class__, int)],
    ids=["dtype", "function of JAX", "text", "class"],
)
def test_metadata_is_known_by_its_place(before, after):
    """Whatever it looks like, it is no container of another kind."""

    @flax.struct.dataclass
    class Model:
        w: jax.Array
        what: Any = flax.struct.field(pytree_node=False)

    def program():
        f = jax.jit(lambda m: m.w * 2)
        f(Model(jnp.ones(3), before))
        f(Model(jnp.ones(3), after))

    found = verdict_on(program)
    assert [("tree_flip", "m.what")] == found.pitfalls
    assert "which is static metadata and not an array" in found.text
    assert "same kind of container" not in found.text


def test_metadata_that_counts_is_reported_without_its_values():
    """With redacted values, too."""
    with jitwatch.install(port=0, redact=True) as watch:
        metadata_that_counts()
        state = watch.snapshot()
    assert [("static_arg_churn", "state.epoch")] == [(one["pitfall"], one["subject"]) for one in state["pitfalls"]]
    assert "had 8 values" in state["pitfalls"][0]["message"]


def test_private_attribute_of_the_job_counts():
    """It may be what changed, beside something public."""

    class Settings:
        def __init__(self, width, name):
            self._width, self.name = width, name

        def __eq__(self, other):
            return (self._width, self.name) == (other._width, other.name)

        def __hash__(self):
            return hash((self._width, self.name))

    def program():
        f = jax.jit(lambda x, settings: x * settings._width, static_argnames="settings")
        f(X, settings=Settings(8, "a"))
        f(X, settings=Settings(16, "b"))

    assert "settings._width 8 → 16" in verdict_on(program).text
