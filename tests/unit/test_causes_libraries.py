"""Recompiles of functions that flax, equinox and optax wrap, and of the states that these libraries make."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.recompiles import Table, check_recompiling, check_silent

eqx = pytest.importorskip("equinox")
flax = pytest.importorskip("flax")
nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
train_state = pytest.importorskip("flax.training.train_state")
optax = pytest.importorskip("optax")

table = Table()
recompiles, stays_silent = table.recompiles, table.stays_silent


def ones(*shape):
    return jnp.ones(shape)


def key():
    return jax.random.key(0)


# optax


def states_of(optimizer, params):
    return params, optimizer.init(params)


@recompiles(("tree_structure", "state[0]", "EmptyState", "TraceState"))
def optax_with_momentum():
    f = jax.jit(lambda params, state: params)
    f(*states_of(optax.sgd(0.1), {"w": ones(2)}))
    f(*states_of(optax.sgd(0.1, momentum=0.9), {"w": ones(2)}))


@recompiles(("dtype", "state[0].mu['w']", "float32", "bfloat16"))
def optax_with_another_dtype_of_the_moments():
    f = jax.jit(lambda params, state: params)
    f(*states_of(optax.adam(0.1), {"w": ones(2)}))
    f(*states_of(optax.adam(0.1, mu_dtype=jnp.bfloat16), {"w": ones(2)}))


@recompiles(("weak_type", "state[0].count", "int32, strong type", "int32, weak type"))
def optax_with_a_python_counter():
    f = jax.jit(lambda params, state: params)
    params, state = states_of(optax.adam(0.1), {"w": ones(2)})
    f(params, state)
    f(params, (state[0]._replace(count=0), state[1]))


@recompiles(
    ("tree_structure", "params['b']", "absent", "float32[3]"),
    ("tree_structure", "state[0].mu['b']"),
    ("tree_structure", "state[0].nu['b']"),
)
def optax_with_one_more_parameter():
    f = jax.jit(lambda params, state: params)
    f(*states_of(optax.adam(0.1), {"w": ones(2)}))
    f(*states_of(optax.adam(0.1), {"w": ones(2), "b": ones(3)}))


@stays_silent()
def optax_step_that_repeats():
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state)
        return optax.apply_updates(params, updates), state

    params, state = states_of(optimizer, {"w": ones(2)})
    for _ in range(3):
        params, state = step(params, state)


# flax linen


@recompiles(("shape", "args[0]"))
def linen_apply_with_another_batch():
    model = nn.Dense(3)
    variables = model.init(key(), ones(1, 2))
    f = jax.jit(model.apply)
    f(variables, ones(1, 2))
    f(variables, ones(4, 2))


@recompiles(("tree_structure", "variables", "dict", "FrozenDict"))
def linen_variables_that_are_frozen():
    model = nn.Dense(3)
    variables = model.init(key(), ones(1, 2))
    f = jax.jit(lambda variables, x: model.apply(variables, x) + 1)
    f(variables, ones(1, 2))
    f(flax.core.freeze(variables), ones(1, 2))


@recompiles(("shape", "args[3]"), compiles=2)
def linen_jitted_module_with_another_batch():
    class Net(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, ())

    variables = {"params": {"scale": ones()}}
    Net().apply(variables, ones(1, 2))
    Net().apply(variables, ones(4, 2))


MODEL = nn.Dense(3)


def trained(transformation):
    return train_state.TrainState.create(apply_fn=MODEL.apply, params={"w": ones(2)}, tx=transformation)


@recompiles(("tree_structure", "state.tx", "one object", "another that looks the same"))
def linen_train_state_with_a_new_optimizer():
    f = jax.jit(lambda state: state.params)
    f(trained(optax.sgd(0.1)))
    f(trained(optax.sgd(0.1)))


@recompiles(("tree_structure", "state.opt_state", "tuple of 2", "None"))
def linen_train_state_without_its_optimizer_state():
    f = jax.jit(lambda state: state.params)
    state = trained(optax.sgd(0.1))
    f(state)
    f(state.replace(opt_state=None))


@stays_silent()
def linen_train_state_that_moves_on():
    f = jax.jit(lambda state: state.apply_gradients(grads={"w": ones(2)}))
    state = trained(optax.sgd(0.1)).replace(step=jnp.int32(0))
    for _ in range(3):
        state = f(state)


# flax nnx


@recompiles(("shape", "x", "float32[1,2]", "float32[4,2]"))
def nnx_with_another_batch():
    @nnx.jit
    def step(model, x):
        return model(x)

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    step(model, ones(1, 2))
    step(model, ones(4, 2))


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(x)


@recompiles(("tree_structure", "model.deterministic", "False", "True"))
def nnx_in_evaluation():
    @nnx.jit
    def step(model, x):
        return model(x)

    model = Noisy(nnx.Rngs(0))
    step(model, ones(2))
    model.eval()
    step(model, ones(2))


@recompiles(("static_arg", "scale", "1", "2"))
def nnx_with_a_static_argument():
    @functools.partial(nnx.jit, static_argnames="scale")
    def step(model, x, scale):
        return model(x) * scale

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    step(model, ones(1, 2), scale=1)
    step(model, ones(1, 2), scale=2)


@recompiles(("new_function", "function"))
def nnx_jitted_in_a_loop():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    for _ in range(2):
        nnx.jit(lambda model, x: model(x))(model, ones(1, 2))


@stays_silent()
def nnx_training_that_repeats():
    @nnx.jit
    def step(model, optimizer, x):
        optimizer.update(model, nnx.grad(lambda model: model(x).sum())(model))

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    for _ in range(3):
        step(model, optimizer, ones(1, 2))


# equinox


class Scaled(eqx.Module):
    w: jax.Array
    times: int = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.w * x * self.times


@recompiles(("tree_structure", "model.times", "1", "2"))
def equinox_static_field_in_plain_jit():
    f = jax.jit(lambda model, x: model(x))
    f(Scaled(ones(2), 1), 1.0)
    f(Scaled(ones(2), 2), 1.0)


@recompiles(("shape", "model.w", "float32[2]", "float32[3]"))
def equinox_leaf_in_plain_jit():
    f = jax.jit(lambda model, x: model(x))
    f(Scaled(ones(2), 1), 1.0)
    f(Scaled(ones(3), 1), 1.0)


def linear(width, **options):
    return eqx.nn.Linear(2, width, key=key(), **options)


@recompiles(("shape", "x", "float32[2]", "float32[5,2]"))
def equinox_filter_jit_with_another_batch():
    @eqx.filter_jit
    def step(model, x):
        return x * model.times

    step(Scaled(ones(2), 1), ones(2))
    step(Scaled(ones(2), 1), ones(5, 2))


@recompiles(
    ("shape", "model.weight", "float32[3,2]", "float32[5,2]"),
    ("shape", "model.bias", "float32[3]", "float32[5]"),
    ("tree_structure", "model.out_features", "3", "5"),
)
def equinox_filter_jit_with_a_wider_model():
    @eqx.filter_jit
    def step(model, x):
        return model(x)

    step(linear(3), ones(2))
    step(linear(5), ones(2))


@recompiles(
    ("tree_structure", "model.bias", "float32[3]", "None"),
    ("tree_structure", "model.use_bias", "True", "False"),
)
def equinox_filter_jit_without_a_leaf():
    @eqx.filter_jit
    def step(x, model):
        return model(x)

    step(ones(2), linear(3))
    step(ones(2), linear(3, use_bias=False))


@recompiles(("static_arg", "times", "2", "3"))
def equinox_filter_jit_with_a_python_number():
    @eqx.filter_jit
    def step(x, times):
        return x * times

    step(ones(2), 2)
    step(ones(2), 3)


@recompiles(("static_arg", "config['times']", "2", "3"), ("dtype", "config['x']"))
def equinox_filter_jit_with_a_keyword():
    @eqx.filter_jit
    def step(x, config):
        return x * config["times"]

    step(ones(2), config={"times": 2, "x": ones(2)})
    step(ones(2), config={"times": 3, "x": jnp.ones(2, jnp.int32)})


@recompiles(("shape", "x"))
def equinox_filter_jit_of_a_partial():
    def step(scale, x):
        return x * scale

    f = eqx.filter_jit(functools.partial(step, 2))
    f(ones(2))
    f(ones(3))


@recompiles(("shape", "function.weight"), ("shape", "function.bias"))
def equinox_filter_jit_of_models():
    for width in (3, 5):
        eqx.filter_jit(linear(width))(ones(2))


@recompiles(("shape", "rest[1]"))
def equinox_filter_jit_with_variadic_arguments():
    @eqx.filter_jit
    def step(x, *rest):
        return x

    step(ones(2), ones(2), ones(2))
    step(ones(2), ones(2), ones(3))


@recompiles(("shape", "state['w']"))
def equinox_filter_jit_that_donates():
    @functools.partial(eqx.filter_jit, donate="all")
    def step(state, x):
        return state

    step({"w": ones(2)}, ones(2))
    step({"w": ones(3)}, ones(2))


@recompiles(("tree_structure", "self.times", "1", "2"))
def equinox_method_under_filter_jit():
    class Model(eqx.Module):
        w: jax.Array
        times: int = eqx.field(static=True)

        @eqx.filter_jit
        def step(self, x):
            return self.w * x * self.times

    Model(ones(2), 1).step(ones(2))
    Model(ones(2), 2).step(ones(2))


@recompiles(("shape", "x"))
def equinox_gradient_under_filter_jit():
    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model, x):
        return model(x).sum()

    loss(Scaled(ones(), 1), ones(2))
    loss(Scaled(ones(), 1), ones(3))


@stays_silent()
def equinox_filter_jit_that_repeats():
    @eqx.filter_jit
    def step(model, x):
        return model(x)

    for _ in range(3):
        step(Scaled(ones(2), 1), ones(2))


@recompiles(("new_function", "scale", "0", "1"))
def equinox_filter_jit_in_a_loop():
    for scale in range(2):

        @eqx.filter_jit
        def step(x):
            return x * scale  # noqa: B023

        step(ones(2))


@pytest.mark.parametrize("case", table.recompiling, ids=operator.attrgetter("name"))
def test_recompile_is_explained(case):
    """The last compile of the program has exactly these causes, paths and texts."""
    check_recompiling(case)


@pytest.mark.parametrize("case", table.silent, ids=operator.attrgetter("name"))
def test_program_stays_silent(case):
    """Nothing is a recompile, and the number of compiles is the expected one."""
    check_silent(case)
