"""Why a function was compiled again: each cause alone, several at once, and what must stay silent."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import operator
import types
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recompiles import Table, check_recompiling, check_silent, compiles_of

table = Table()
recompiles, stays_silent = table.recompiles, table.stays_silent

FUNCTION = ("new_function", "function", "one function object", "another for the same code")
TRANSFORM = ("transform", "function")
CLEARED = ("cache_cleared", "jit cache", "held the program", "cleared by clear_caches() or clear_cache()")
AHEAD = ("aot", "function", "compiled before", "compiled ahead of time by .lower().compile()")

try:
    enable_x64 = jax.enable_x64
except AttributeError:  # until 0.7 it was experimental
    from jax.experimental import enable_x64


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def passing():
    """A function that hands on what it gets; a new one for each case, for JAX knows functions for ever."""

    def target(x):
        return x

    return target


def mesh_of_two():
    return jax.sharding.Mesh(np.array(jax.devices()[:2]), ("i",))


def state_of(leaves=200, **changed):
    """A nested state of that many leaves."""
    half = leaves // 2
    layers = {f"layer_{i}": {"w": ones(2, 3), "b": ones(3)} for i in range(half)}
    return layers | changed


class Batch(NamedTuple):
    tokens: Any
    labels: Any


class Options(NamedTuple):
    width: int = 8
    name: str = "adam"


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class Config:
    hidden_dim: int = 8
    inner: Inner = Inner()
    tags: tuple[str, ...] = ("a",)


class Plain:
    """A class that leaves comparing to Python, which then goes by identity."""

    def __init__(self, width):
        self.width = width


class Mapping(dict):
    """A mapping that can be hashed."""

    def __hash__(self):
        return hash(tuple(sorted(self.items())))


class Mode(enum.Enum):
    TRAIN = 1
    EVAL = 2


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "rest"], meta_fields=["steps"])
@dataclasses.dataclass
class Registered:
    w: Any
    steps: int
    rest: Any = None


@jax.tree_util.register_pytree_node_class
class Node:
    def __init__(self, w, kind):
        self.w, self.kind = w, kind

    def tree_flatten(self):
        return (self.w,), self.kind

    @classmethod
    def tree_unflatten(cls, kind, children):
        return cls(children[0], kind)


@jax.tree_util.register_pytree_with_keys_class
class Box:
    """A node that names its child, as equinox and flax do."""

    def __init__(self, inside):
        self.inside = inside

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.GetAttrKey("inside"), self.inside),), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


# Shapes


@recompiles(("shape", "x", "float32[2]", "float32[3]"))
def shape_of_an_array():
    f = jax.jit(lambda x: x)
    f(ones(2))
    f(ones(3))


@recompiles(("shape", "x", "float32[2]", "float32[1,2]"))
def rank_of_an_array():
    f = jax.jit(passing())
    f(ones(2))
    f(ones(1, 2))


@recompiles(("shape", "batch['tokens']", "int32[8,512]", "int32[8,498]"))
def shape_in_a_dict():
    f = jax.jit(lambda batch: batch["tokens"])
    for length in (512, 498):
        f({"tokens": np.ones((8, length), np.int32), "mask": ones(8)})


@recompiles(("shape", "batch.tokens"), ("shape", "batch.labels"))
def shape_of_two_fields_of_a_namedtuple():
    f = jax.jit(lambda batch: batch.tokens)
    f(Batch(ones(4, 2), ones(4)))
    f(Batch(ones(3, 2), ones(3)))


@recompiles(("shape", "state['layer_57']['w']", "float32[2,3]", "float32[2,4]"))
def shape_of_one_leaf_of_two_hundred():
    f = jax.jit(lambda state: state["layer_0"]["w"])
    f(state_of())
    f(state_of(layer_57={"w": ones(2, 4), "b": ones(3)}))


@recompiles(("shape", "mask"))
def shape_of_a_keyword_argument():
    f = jax.jit(lambda x, mask: mask)
    f(ones(2), mask=ones(2))
    f(ones(2), mask=ones(5))


@recompiles(("shape", "rest[1]"))
def shape_of_a_variadic_argument():
    f = jax.jit(lambda x, *rest: x)
    f(1.0, ones(2), ones(2))
    f(1.0, ones(2), ones(3))


@recompiles(("shape", "rest['mask']"))
def shape_of_a_variadic_keyword():
    f = jax.jit(lambda x, **rest: x)
    f(1.0, mask=ones(2))
    f(1.0, mask=ones(3))


@recompiles(("shape", "x", "float32[4]", "float32[5]"), compiles=4)
def shape_against_the_nearest_of_several():
    f = jax.jit(lambda x, y: x)
    f(ones(4), ones(2))
    f(ones(2), ones(9))
    f(ones(3, 3), ones(7))
    f(ones(5), ones(2))


@recompiles(("shape", "x", "float32[2]", "float32[0]"))
def shape_without_elements():
    f = jax.jit(passing())
    f(ones(2))
    f(ones(0))


@recompiles(("shape", "x", "float32[3]", "float32[4]"), compiles=4)
def shape_growing_in_a_loop():
    f = jax.jit(passing())
    for size in range(1, 5):
        f(ones(size))


@recompiles(("shape", "carry"), compiles=2)
def shape_of_what_a_scan_carries():
    f = jax.jit(lambda carry, xs: jax.lax.scan(lambda c, x: (c + x.sum(), x), carry, xs))
    f(ones(2), ones(3, 2))
    f(ones(4), ones(3, 2))


# Dtypes and weak types


@recompiles(("dtype", "x", "float32", "int32"))
def dtype_of_an_array():
    f = jax.jit(passing())
    f(ones(2))
    f(ones(2, dtype=np.int32))


@recompiles(("dtype", "state['layer_3']['b']", "float32", "float16"))
def dtype_of_one_leaf_of_two_hundred():
    f = jax.jit(lambda state: state["layer_0"]["w"])
    f(state_of())
    f(state_of(layer_3={"w": ones(2, 3), "b": ones(3, dtype=np.float16)}))


@recompiles(("dtype", "step", "int32", "float32"))
def dtype_of_a_python_number():
    f = jax.jit(lambda step: step)
    f(1)
    f(1.0)


@recompiles(("dtype", "flag", "bool", "int32"))
def dtype_of_a_python_flag():
    f = jax.jit(lambda flag: flag)
    f(True)
    f(1)


@recompiles(("shape", "key", "uint32[2]", "key<fry>[]"), ("dtype", "key", "uint32", "key<fry>"))
def dtype_of_a_random_key():
    f = jax.jit(lambda key: 1)
    f(jax.random.PRNGKey(0))
    f(jax.random.key(0))


@recompiles(("shape", "x"), ("dtype", "x"), ("dtype", "y"))
def shape_and_dtype_at_once():
    f = jax.jit(lambda x, y: x)
    f(ones(2), ones(2))
    f(ones(3, dtype=np.int32), ones(2, dtype=np.int32))


@recompiles(("weak_type", "x", "float32, weak type", "float32, strong type"))
def weak_type_of_a_python_number():
    f = jax.jit(passing())
    f(1.0)
    f(np.float32(1))


@recompiles(("weak_type", "state['step']", "int32, weak type", "int32, strong type"))
def weak_type_of_a_step_counter():
    f = jax.jit(lambda state: state["step"] + 1)
    f({"step": 0, "w": ones(2)})
    f({"step": jnp.int32(1), "w": ones(2)})


@recompiles(("weak_type", "state['lr']", "float32, strong type", "float32, weak type"), ("shape", "x"))
def weak_type_with_a_shape():
    f = jax.jit(lambda state, x: x)
    f({"lr": np.float32(0.1)}, ones(2))
    f({"lr": 0.1}, ones(3))


# Structures


@recompiles(("tree_structure", "batch['mask']", "absent", "float32[2]"))
def structure_gains_a_key():
    f = jax.jit(lambda batch: batch["x"])
    f({"x": ones(2)})
    f({"x": ones(2), "mask": ones(2)})


@recompiles(("tree_structure", "batch['mask']", "float32[2]", "absent"))
def structure_loses_a_key():
    f = jax.jit(lambda batch: batch["x"])
    f({"x": ones(2), "mask": ones(2)})
    f({"x": ones(2)})


@recompiles(("tree_structure", "mask", "None", "float32[3]"))
def structure_none_becomes_an_array():
    f = jax.jit(lambda x, mask: x)
    f(ones(2), None)
    f(ones(2), ones(3))


@recompiles(("tree_structure", "state['layer_9']['b']", "float32[3]", "None"))
def structure_leaf_of_two_hundred_becomes_none():
    f = jax.jit(lambda state: state["layer_0"]["w"])
    f(state_of())
    f(state_of(layer_9={"w": ones(2, 3), "b": None}))


@recompiles(("tree_structure", "xs[2]", "absent", "float32[2]"))
def structure_longer_list():
    f = jax.jit(lambda xs: xs[0])
    f([ones(2)] * 2)
    f([ones(2)] * 3)


@recompiles(("tree_structure", "xs", "list of 2", "tuple of 2"))
def structure_list_becomes_a_tuple():
    f = jax.jit(lambda xs: xs[0])
    f([ones(2)] * 2)
    f((ones(2),) * 2)


@recompiles(("tree_structure", "x['extra']", "absent", "dict"))
def structure_gains_an_empty_dict():
    f = jax.jit(lambda x: x["w"])
    f({"w": ones(2)})
    f({"w": ones(2), "extra": {}})


@recompiles(
    ("tree_structure", "x", "OrderedDict in the order 'a', 'b'", "OrderedDict in the order 'b', 'a'"),
)
def structure_order_of_an_ordered_dict():
    f = jax.jit(lambda x: x["a"])
    f(collections.OrderedDict(a=ones(2), b=ones(2)))
    f(collections.OrderedDict(b=ones(2), a=ones(2)))


@recompiles(("tree_structure", "x", "defaultdict with int", "defaultdict with float"))
def structure_default_of_a_dict():
    f = jax.jit(lambda x: x["a"])
    for factory in (int, float):
        f(collections.defaultdict(factory, a=1.0))


@recompiles(("tree_structure", "pair", "Pair", "another class Pair"))
def structure_class_of_the_same_name():
    f = jax.jit(lambda pair: pair[0])
    for _ in range(2):
        f(collections.namedtuple("Pair", ["a"])(1.0))


@recompiles(("tree_structure", "batch", "tuple of 2", "Batch"))
def structure_tuple_becomes_a_namedtuple():
    f = jax.jit(lambda batch: batch[0])
    f((ones(2), ones(2)))
    f(Batch(ones(2), ones(2)))


@recompiles(("tree_structure", "y", "by position", "by keyword"))
def structure_argument_passed_by_keyword():
    f = jax.jit(lambda x, y: x)
    f(1.0, 2.0)
    f(1.0, y=2.0)


@recompiles(("tree_structure", "y", "absent", "int32[]"))
def structure_default_that_is_given():
    f = jax.jit(lambda x, y=3: x)
    f(1.0)
    f(1.0, 4)


@recompiles(("tree_structure", "rest['b']", "absent", "None"))
def structure_variadic_keyword_that_is_none():
    f = jax.jit(lambda x, **rest: x)
    f(1.0, a=1.0)
    f(1.0, a=1.0, b=None)


@recompiles(("tree_structure", "model.steps", "1", "2"))
def structure_field_of_a_registered_dataclass():
    f = jax.jit(lambda model: model.w)
    f(Registered(ones(2), 1))
    f(Registered(ones(2), 2))


@recompiles(("tree_structure", "model.rest", "None", "dict"), compiles=2)
def structure_field_that_was_none():
    f = jax.jit(lambda model: model.w)
    f(Registered(ones(2), 1))
    f(Registered(ones(2), 1, {"v": ones(2)}))


@recompiles(("tree_structure", "box.inside['extra']", "absent", "dict"))
def structure_inside_of_a_node_with_keys():
    f = jax.jit(lambda box: box.inside["w"])
    f(Box({"w": ones(2)}))
    f(Box({"w": ones(2), "extra": {}}))


@recompiles(("tree_structure", "node", "Node with 'relu'", "Node with 'tanh'"))
def structure_auxiliary_data_of_a_node():
    f = jax.jit(lambda node: node.w)
    f(Node(ones(2), "relu"))
    f(Node(ones(2), "tanh"))


@recompiles(("tree_structure", "x['a']", "float32[2]", "absent"), ("tree_structure", "x['b']"), ("shape", "x['c']"))
def structure_renamed_key_and_a_shape():
    f = jax.jit(lambda x: x["c"])
    f({"a": ones(2), "c": ones(2)})
    f({"b": ones(2), "c": ones(3)})


@recompiles(("tree_structure", "x", "None", "list of 1"), compiles=2)
def structure_none_becomes_a_list():
    f = jax.jit(lambda x: 1)
    f(None)
    f([{"deep": ones(2)}])


# Static arguments


@recompiles(("static_arg", "n", "0", "1"))
def static_by_number():
    f = jax.jit(lambda x, n: x, static_argnums=1)
    f(1.0, 0)
    f(1.0, 1)


@recompiles(("static_arg", "mode", "'train'", "'eval'"))
def static_by_name():
    f = jax.jit(lambda x, mode: x, static_argnames="mode")
    f(1.0, mode="train")
    f(1.0, mode="eval")


@recompiles(("static_arg", "n", "2", "3"))
def static_counted_from_the_end():
    f = jax.jit(lambda x, n: x, static_argnums=-1)
    f(1.0, 2)
    f(1.0, 3)


@recompiles(("static_arg", "options.width", "8", "16"))
def static_field_of_a_namedtuple():
    f = jax.jit(lambda x, options: x, static_argnums=1)
    f(1.0, Options())
    f(1.0, Options(width=16))


@recompiles(("static_arg", "config.hidden_dim", "8", "16"))
def static_field_of_a_frozen_dataclass():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Config())
    f(1.0, Config(hidden_dim=16))


@recompiles(("static_arg", "config.inner.depth", "2", "3"), ("static_arg", "config.tags[0]", "'a'", "'b'"))
def static_fields_below_fields():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Config())
    f(1.0, Config(inner=Inner(3), tags=("b",)))


@recompiles(("static_arg", "config['depth']", "2", "3"))
def static_key_of_a_mapping():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Mapping(width=8, depth=2))
    f(1.0, Mapping(width=8, depth=3))


@recompiles(("static_arg", "sizes[1]", "2", "5"), ("static_arg", "sizes[2]", "absent", "6"))
def static_items_of_a_tuple():
    f = jax.jit(lambda x, sizes: x, static_argnums=1)
    f(1.0, (1, 2))
    f(1.0, (1, 5, 6))


@recompiles(("static_arg", "config", "Plain(width=8)", "another Plain with the same contents"))
def static_that_no_other_object_equals():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Plain(8))
    f(1.0, Plain(8))


@recompiles(("static_arg", "config.width", "8", "9"))
def static_that_no_other_object_equals_with_another_field():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Plain(8))
    f(1.0, Plain(9))


@recompiles(("static_arg", "config[0]", "Plain(width=8)", "another Plain(width=8) that looks the same"))
def static_tuple_around_what_no_other_object_equals():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, (Plain(8), 1))
    f(1.0, (Plain(8), 1))


@recompiles(("static_arg", "mode", "Mode.TRAIN", "Mode.EVAL"))
def static_member_of_an_enum():
    f = jax.jit(lambda x, mode: x, static_argnums=1)
    f(1.0, Mode.TRAIN)
    f(1.0, Mode.EVAL)


@recompiles(("static_arg", "dtype", "float32", "bfloat16"))
def static_dtype():
    f = jax.jit(lambda x, dtype: x, static_argnums=1)
    f(1.0, jnp.float32)
    f(1.0, jnp.bfloat16)


@recompiles(("static_arg", "n", "float32(1.0)", "float32(2.0)"))
def static_number_of_numpy():
    f = jax.jit(lambda x, n: x, static_argnums=1)
    f(1.0, np.float32(1))
    f(1.0, np.float32(2))


@recompiles(("static_arg", "n", "1", "True"))
def static_number_that_equals_a_flag():
    f = jax.jit(lambda x, n: x, static_argnums=1)
    f(1.0, 1)
    f(1.0, True)


@recompiles(("static_arg", "activation", "sin", "cos"))
def static_function_of_jax():
    f = jax.jit(lambda x, activation: activation(x), static_argnums=1)
    f(1.0, jnp.sin)
    f(1.0, jnp.cos)


@recompiles(("static_arg", "activation"))
def static_lambda_made_anew():
    f = jax.jit(lambda x, activation: activation(x), static_argnums=1)
    for _ in range(2):
        f(1.0, lambda x: x)


@recompiles(("static_arg", "activation", "partial(mul, 2)", "another partial with the same contents"))
def static_partial_made_anew():
    f = jax.jit(lambda x, activation: activation(x), static_argnums=1)
    for _ in range(2):
        f(1.0, functools.partial(operator.mul, 2))


@recompiles(("static_arg", "tags", "{'a', 'b'}", "{'a', 'c'}"))
def static_set():
    f = jax.jit(lambda x, tags: x, static_argnums=1)
    f(1.0, frozenset("ab"))
    f(1.0, frozenset("ac"))


@recompiles(("static_arg", "flag", "True by default", "True by keyword"))
def static_default_that_is_given():
    f = jax.jit(lambda x, flag=True: x, static_argnames="flag")
    f(1.0)
    f(1.0, flag=True)


@recompiles(("static_arg", "flag", "True by position", "True by keyword"))
def static_argument_passed_by_keyword():
    f = jax.jit(lambda x, flag=True: x, static_argnames="flag")
    f(1.0, True)
    f(1.0, flag=True)


@recompiles(("static_arg", "a", "1", "2"), ("static_arg", "b", "1", "2"), ("dtype", "x"))
def static_arguments_and_a_dtype():
    f = jax.jit(lambda x, a, b: x, static_argnames=("a", "b"))
    f(1.0, a=1, b=1)
    f(1, a=2, b=2)


@recompiles(("static_arg", "config", "None", "Options(width=8, name='adam')"))
def static_of_another_type():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, None)
    f(1.0, Options())


@recompiles(("shape", "x"))
def shape_beside_a_field_that_is_not_compared():
    @dataclasses.dataclass(frozen=True)
    class Named:
        width: int
        comment: str = dataclasses.field(default="", compare=False)

    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(ones(2), Named(8, "one"))
    f(ones(3), Named(8, "two"))


@recompiles(("shape", "x"))
def shape_beside_a_static_with_its_own_eq():
    class Own:
        def __init__(self):
            self.width = 8

        def __eq__(self, other):
            return self.width == other.width

        def __hash__(self):
            return 1

    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(ones(2), Own())
    f(ones(3), Own())


# Classes


@recompiles(("static_arg", "self", "Model(scale=2)", "another Model with the same contents"))
def method_of_a_new_instance():
    class Model:
        def __init__(self, scale):
            self.scale = scale

        @functools.partial(jax.jit, static_argnums=0)
        def step(self, x):
            return x * self.scale

    Model(2).step(1.0)
    Model(2).step(1.0)


@recompiles(("static_arg", "self.scale", "2", "3"), ("shape", "x"), ("weak_type", "x"))
def method_of_another_instance_and_a_shape():
    class Model:
        def __init__(self, scale):
            self.scale = scale

        @functools.partial(jax.jit, static_argnums=0)
        def step(self, x):
            return x * self.scale

    Model(2).step(1.0)
    Model(3).step(ones(2))


@recompiles(("shape", "x"), ("weak_type", "x"))
def method_that_is_jitted_bound():
    class Model:
        def __init__(self):
            self.step = jax.jit(self._step)

        def _step(self, x):
            return x

    model = Model()
    model.step(1.0)
    model.step(ones(2))


@recompiles(FUNCTION)
def method_that_is_jitted_for_each_instance():
    class Model:
        def __init__(self):
            self.step = jax.jit(self._step)

        def _step(self, x):
            return x

    Model().step(1.0)
    Model().step(1.0)


@recompiles(("shape", "self.w", "float32[2]", "float32[3]"))
def method_of_a_pytree():
    @functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=[])
    @dataclasses.dataclass
    class Model:
        w: Any

        @jax.jit
        def step(self, x):
            return x * self.w

    Model(ones(2)).step(1.0)
    Model(ones(3)).step(1.0)


# New functions


@recompiles(FUNCTION, compiles=3)
def function_jitted_in_a_loop():
    for _ in range(3):
        jax.jit(lambda x: x + 1)(1.0)


@recompiles(FUNCTION)
def function_defined_in_a_loop():
    for _ in range(2):

        @jax.jit
        def step(x):
            return x + 1

        step(1.0)


@recompiles(("new_function", "scale", "1", "2"))
def function_that_captures_a_loop_variable():
    for scale in (1, 2):
        jax.jit(lambda x: x * scale)(1.0)  # noqa: B023


@recompiles(("new_function", "config['width']", "1", "2"), ("new_function", "name", "'a'", "'b'"))
def function_that_captures_several_variables():
    def make(config, name):
        return jax.jit(lambda x: x * config["width"] + len(name))

    make({"width": 1, "depth": 1}, "a")(1.0)
    make({"width": 2, "depth": 1}, "b")(1.0)


@recompiles(("new_function", "table", "float32[2]", "another float32[2]"))
def function_that_captures_an_array():
    for value in (1, 2):
        table = np.full(2, value, np.float32)
        jax.jit(lambda x: x * table)(1.0)  # noqa: B023


@recompiles(("new_function", "scale", "1", "2"))
def function_of_a_partial_that_is_rebuilt():
    def step(x, scale):
        return x * scale

    for scale in (1, 2):
        jax.jit(functools.partial(step, scale=scale))(1.0)


@recompiles(("new_function", "scale", "1", "2"))
def function_of_a_partial_with_a_positional_argument():
    def step(scale, x):
        return x * scale

    for scale in (1, 2):
        jax.jit(functools.partial(step, scale))(1.0)


@recompiles(FUNCTION)
def function_of_a_gradient_that_is_rebuilt():
    def loss(x):
        return x * x

    for _ in range(2):
        jax.jit(jax.grad(loss))(1.0)


@recompiles(FUNCTION)
def function_of_a_decorator_that_is_rebuilt():
    def decorated(fun):
        @functools.wraps(fun)
        def inner(*args):
            return fun(*args)

        return inner

    target = passing()
    for _ in range(2):
        jax.jit(decorated(target))(1.0)


@recompiles(("new_function", "options of jax.jit", "as before", "another donate_argnums"))
def function_jitted_with_other_options():
    target = passing()
    jax.jit(target)(jnp.ones(2))
    jax.jit(target, donate_argnums=0)(jnp.ones(2))


@recompiles(FUNCTION, ("shape", "x"))
def function_in_a_loop_with_a_shape():
    for size in (2, 3):
        jax.jit(lambda x: x + 1)(ones(size))


# Configuration and contexts


@recompiles(("config", "jax_default_matmul_precision", "not set", "float32"))
def config_of_matmul_precision():
    f = jax.jit(lambda x: x @ x)
    f(ones(2, 2))
    with jax.default_matmul_precision("float32"):
        f(ones(2, 2))


@recompiles(("config", "jax_enable_x64", "False", "True"))
def config_of_x64():
    f = jax.jit(passing())
    f(ones(2))
    with enable_x64(True):
        f(ones(2))


@recompiles(("config", "jax_enable_x64"), ("dtype", "x", "float32", "float64"))
def config_of_x64_with_a_dtype():
    f = jax.jit(passing())
    f(1.0)
    with enable_x64(True):
        f(1.0)


@recompiles(("config", "jax_default_device", "not set", "cpu:1"))
def config_of_the_default_device():
    f = jax.jit(passing())
    f(ones(2))
    with jax.default_device(jax.devices()[1]):
        f(ones(2))


@recompiles(("config", "jax_numpy_dtype_promotion", "standard", "strict"))
def config_of_dtype_promotion():
    f = jax.jit(passing())
    f(ones(2))
    with jax.numpy_dtype_promotion("strict"):
        f(ones(2))


@recompiles(("config", "jax_threefry_partitionable"), ("config", "jax_default_matmul_precision"))
def config_of_two_options():
    f = jax.jit(passing())
    f(ones(2))
    is_on = jax.config.jax_threefry_partitionable
    with jax.threefry_partitionable(not is_on), jax.default_matmul_precision("float32"):
        f(ones(2))


@recompiles(("config", "mesh", "not set", "mesh(i=2) by `with mesh`"))
def config_of_a_mesh():
    f = jax.jit(passing())
    f(ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 0.10 `jax.set_mesh` is to be preferred
        with mesh_of_two():
            f(ones(2))


@recompiles(("config", "mesh", "not set", "mesh(i=2)"))
def config_of_a_mesh_that_is_set():
    f = jax.jit(passing())
    f(ones(2))
    set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
    with set_mesh(mesh_of_two()):
        f(ones(2))


@recompiles(("config", "xla_metadata_context_manager", "not set", "{'a': 1}"))
def config_of_metadata():
    from jax.experimental.xla_metadata import set_xla_metadata

    f = jax.jit(passing())
    f(ones(2))
    with set_xla_metadata(a=1):
        f(ones(2))


# Transformations


@recompiles(TRANSFORM, compiles=3)
def transformed_by_grad():
    f = jax.jit(lambda x: (x * x).sum())
    f(ones(2))
    jax.grad(f)(ones(2))


@recompiles(TRANSFORM)
def transformed_by_vmap():
    f = jax.jit(lambda x: x.sum())
    f(ones(2))
    jax.vmap(f)(ones(3, 2))


@recompiles(TRANSFORM, compiles=4)
def transformed_by_grad_and_then_vmap():
    f = jax.jit(lambda x: (x * x).sum())
    f(ones(2))
    jax.grad(f)(ones(2))
    jax.vmap(f)(ones(3, 2))


@recompiles(TRANSFORM, compiles=3)
def transformed_by_vmap_with_a_named_axis():
    f = jax.jit(lambda x: x.sum())
    f(ones(2))
    jax.vmap(f)(ones(3, 2))
    jax.vmap(f, axis_name="batch")(ones(3, 2))


@recompiles(TRANSFORM)
def transformed_by_jvp():
    f = jax.jit(lambda x: jnp.sin(x) + 1)
    f(ones(2))
    jax.jvp(f, (ones(2),), (ones(2),))


@recompiles(TRANSFORM)
def transformed_before_it_is_called():
    f = jax.jit(lambda x: x.sum())
    jax.vmap(f)(ones(3, 2))
    f(ones(2))


@recompiles(("shape", "x", "float32[3,2]", "float32[4,2]"), compiles=3)
def transformed_with_another_batch():
    f = jax.jit(lambda x: x.sum())
    f(ones(2))
    jax.vmap(f)(ones(3, 2))
    jax.vmap(f)(ones(4, 2))


@recompiles(("shape", "result[0]", "float32[2]", "float32[3]"), compiles=5)
def transformed_by_grad_with_another_shape():
    # Backwards the gradient of a sum has one number going in, whatever the shape of what comes out.
    f = jax.jit(lambda x: x.sum())
    f(ones(2))
    jax.grad(f)(ones(2))
    jax.grad(f)(ones(3))


@recompiles(TRANSFORM)
def transformed_inside_of_jit():
    def loss(x):
        return x * x

    jax.jit(loss)(1.0)
    jax.jit(jax.grad(loss))(1.0)


@recompiles(TRANSFORM)
def transformed_in_two_ways_inside_of_jit():
    def loss(x):
        return (x * x).sum()

    jax.jit(jax.grad(loss))(ones(2))
    jax.jit(jax.vmap(loss))(ones(3, 2))


@recompiles(("shape", "x"))
def shape_inside_of_a_jitted_gradient():
    step = jax.jit(jax.value_and_grad(lambda x: (x * x).sum()))
    step(ones(2))
    step(ones(3))


# Caches


@recompiles(CLEARED)
def caches_cleared():
    f = jax.jit(passing())
    f(ones(2))
    jax.clear_caches()
    f(ones(2))


@recompiles(CLEARED)
def cache_of_one_function_cleared():
    f = jax.jit(passing())
    f(ones(2))
    f.clear_cache()
    f(ones(2))


@recompiles(CLEARED, compiles=4)
def caches_cleared_with_several_programs():
    f = jax.jit(passing())
    for _ in range(2):
        f(ones(2))
        f(ones(3))
        jax.clear_caches()


@recompiles(CLEARED, compiles=4)
def caches_cleared_under_vmap():
    f = jax.jit(lambda x: x.sum())
    for _ in range(2):
        f(ones(2))
        jax.vmap(f)(ones(3, 2))
        jax.clear_caches()


@recompiles(("shape", "x"))
def caches_cleared_and_a_shape():
    f = jax.jit(passing())
    f(ones(2))
    jax.clear_caches()
    f(ones(3))


@recompiles(("cache_cleared", "jit cache", "held the program", "lost entries since"))
def entries_lost_without_a_clearing_that_was_seen():
    f = jax.jit(passing())
    f(ones(2))
    _clear_unseen()
    f(ones(2))


@recompiles(("cache_cleared", "jit cache", "held the program", "lost entries since"), compiles=4)
def entries_lost_of_several_programs():
    f = jax.jit(passing())
    f(ones(2))
    f(ones(3))
    _clear_unseen()
    f(ones(2))
    f(ones(3))


#: Before any agent instruments it.
_CLEAR = types.FunctionType(jax.clear_caches.__code__, jax.clear_caches.__globals__)


def _clear_unseen():
    """As code does that empties JAX's caches by other names."""
    _CLEAR()


# Ahead of time


@recompiles(AHEAD, ("shape", "x"))
def ahead_of_time_for_another_shape():
    f = jax.jit(passing())
    f(ones(2))
    f.lower(ones(3)).compile()


@recompiles(AHEAD)
def ahead_of_time_with_compiler_options():
    f = jax.jit(passing())
    f(ones(2))
    f.lower(ones(2)).compile(compiler_options={"xla_embed_ir_in_executable": True})


@pytest.mark.parametrize("case", table.recompiling, ids=operator.attrgetter("name"))
def test_recompile_is_explained(case):
    """The last compile of the program has exactly these causes, paths and texts."""
    check_recompiling(case)


# What must stay silent


@stays_silent()
def silent_values_that_change():
    f = jax.jit(lambda x, y: x + y)
    for value in range(5):
        f(np.full(2, value, np.float32), value)


@stays_silent()
def silent_numpy_in_place_of_jax():
    f = jax.jit(passing())
    f(jnp.ones(2))
    f(ones(2))
    f(jnp.zeros(2))


@stays_silent()
def silent_eval_shape_and_make_jaxpr():
    f = jax.jit(passing())
    f(ones(2))
    f.eval_shape(ones(3))
    jax.make_jaxpr(f)(ones(4))
    jax.eval_shape(f, ones(5))


@stays_silent()
def silent_lowering_alone():
    f = jax.jit(passing())
    f(ones(2))
    f.lower(ones(3))
    f.trace(ones(4))


@stays_silent(compiles=3)
def silent_warm_up_of_several_functions():
    for f in (jax.jit(lambda x: x), jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)):
        for _ in range(3):
            f(ones(2))


@stays_silent()
def silent_equal_frozen_dataclass():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Config())
    f(1.0, Config())


@stays_silent()
def silent_equal_namedtuple():
    f = jax.jit(lambda x, options: x, static_argnums=1)
    f(1.0, Options())
    f(1.0, Options())


@stays_silent()
def silent_equal_text():
    f = jax.jit(lambda x, name: x, static_argnums=1)
    f(1.0, "a" * 100)
    f(1.0, "".join(["a"] * 100))


@stays_silent()
def silent_equal_mapping_in_another_order():
    f = jax.jit(lambda x, config: x, static_argnums=1)
    f(1.0, Mapping(a=1, b=2))
    f(1.0, Mapping(b=2, a=1))


@stays_silent()
def silent_same_function_jitted_twice():
    target = passing()
    f, g = jax.jit(target), jax.jit(target)
    f(ones(2))
    g(ones(2))


@stays_silent()
def silent_numbers_of_the_same_type():
    f = jax.jit(passing())
    f(np.float32(1))
    f(jnp.float32(2))
    f(jnp.asarray(3, jnp.float32))


@stays_silent()
def silent_python_numbers_of_other_values():
    f = jax.jit(passing())
    for value in (1, 2, -7, 100_000):
        f(value)


@stays_silent()
def silent_keywords_in_another_order():
    f = jax.jit(lambda a, b: a)
    f(a=1.0, b=2.0)
    f(b=2.0, a=1.0)


@stays_silent()
def silent_dict_in_another_order():
    f = jax.jit(lambda x: x["a"])
    f({"a": ones(2), "b": ones(3)})
    f({"b": ones(3), "a": ones(2)})


@stays_silent(compiles=3)
def silent_notebook_cell_that_runs_again():
    source = "import jax\n@jax.jit\ndef step(x):\n    return x * 2\n"
    for _ in range(3):
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(source, "/tmp/ipykernel_7/1.py", "exec"), scope)
        scope["step"](1.0)
        scope["step"](2.0)


@stays_silent()
def silent_uses_inside_of_another_function():
    inner = jax.jit(lambda x: x + 1)

    @jax.jit
    def outer(x, y):
        return inner(x).sum() + inner(y).sum()

    outer(ones(2), ones(3))
    outer(ones(2), ones(3))


@stays_silent()
def silent_result_fed_back():
    f = jax.jit(lambda state: {"w": state["w"] + 1})
    state = {"w": jnp.ones(3)}
    for _ in range(4):
        state = f(state)


@stays_silent()
def silent_donated_state_fed_back():
    f = jax.jit(lambda state: {"w": state["w"] + 1}, donate_argnums=0)
    state = {"w": jnp.ones(3)}
    for _ in range(4):
        state = f(state)


@stays_silent()
def silent_context_that_changes_no_program():
    f = jax.jit(passing())
    f(ones(2))
    with jax.named_scope("later"), jax.log_compiles(False):
        f(ones(2))


@stays_silent()
def silent_bound_method_of_one_object():
    class Model:
        def scale(self, x):
            return x * 2

    model = Model()
    f = jax.jit(lambda x, function: function(x), static_argnums=1)
    f(1.0, model.scale)
    f(1.0, model.scale)


@stays_silent(compiles=2)
def silent_two_lambdas_on_one_line():
    f, g = jax.jit(lambda x: x + 1), jax.jit(lambda x: x - 1)
    for _ in range(2):
        f(1.0)
        g(1.0)


@stays_silent(compiles=0)
def silent_nothing_compiled():
    f = jax.jit(passing())
    f.lower(ones(2))
    with jax.disable_jit():
        f(ones(2))


@pytest.mark.parametrize("case", table.silent, ids=operator.attrgetter("name"))
def test_program_stays_silent(case):
    """Nothing is a recompile, and the number of compiles is the expected one."""
    check_silent(case)


def test_training_flag_gives_two_compiles():
    """True and False as a static argument are two programs; the third to last calls compile nothing."""

    def program():
        f = jax.jit(lambda x, training: x, static_argnames="training")
        for training in (True, False) * 5:
            f(1.0, training=training)

    first, second = compiles_of(program)
    assert ("jit.compiled", "jit.recompiled") == (first["event"], second["event"])
    (change,) = second["changes"]
    assert {"path": "training", "kind": "static_arg", "before": "True", "after": "False"} == change


def test_recurring_batch_sizes_give_one_recompile():
    """A training and an evaluation batch that take turns are two programs."""

    def program():
        f = jax.jit(passing())
        for size in (8, 2) * 5:
            f(ones(size))

    assert [None, ["shape"]] == [event.get("causes") for event in compiles_of(program)]


def test_many_changes_are_counted():
    """Of a state that changes in all of its leaves twenty are listed, and the rest is counted."""

    def program():
        f = jax.jit(lambda state: state["layer_0"]["w"])
        f(state_of())
        f({name: {"w": ones(5, 5), "b": ones(7)} for name in state_of()})

    _, event = compiles_of(program)
    assert (["shape"], 20, 180) == (event["causes"], len(event["changes"]), event["changes_left_out"])


def test_cases_are_as_many_as_promised():
    """A table that lost its cases would pass without testing anything."""
    names = [case.name for case in table.recompiling + table.silent]
    assert len(names) == len(set(names))
    assert len(table.recompiling) >= 60
    assert len(table.silent) >= 15
