"""Where the arguments lie: sharding, device, committed or not, layout; on two host devices."""

from __future__ import annotations

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from tests.recompiles import Table, check_recompiling, check_silent

try:  # until 0.6, where the later names mean something else
    from jax.experimental.layout import DeviceLocalLayout as Layout
    from jax.experimental.layout import Layout as Format
except ImportError:
    from jax.experimental.layout import Format, Layout

table = Table()
recompiles, stays_silent = table.recompiles, table.stays_silent

BY_ROWS = "P('i') on mesh(i=2), devices cpu:0, cpu:1"
BY_COLUMNS = "P(None, 'i') on mesh(i=2), devices cpu:0, cpu:1"
EVERYWHERE = "P() on mesh(i=2), devices cpu:0, cpu:1"


def passing():
    def target(x):
        return x

    return target


def device(number):
    return jax.devices()[number]


def mesh(order=(0, 1)):
    return jax.sharding.Mesh(np.array([device(i) for i in order]), ("i",))


def spread(*spec, shape=(2, 2), order=(0, 1)):
    """Ones on both devices."""
    return jax.device_put(np.ones(shape, np.float32), NamedSharding(mesh(order), PartitionSpec(*spec)))


def ones(*shape):
    return jnp.ones(shape or (2, 2))


def large_state(**changed):
    return {f"layer_{i}": {"w": ones(2, 2), "b": ones(2)} for i in range(100)} | changed


@recompiles(("sharding", "x", BY_ROWS, BY_COLUMNS))
def sharding_of_another_axis():
    f = jax.jit(passing())
    f(spread("i"))
    f(spread(None, "i"))


@recompiles(("sharding", "x", BY_ROWS, EVERYWHERE))
def sharding_that_is_lost():
    f = jax.jit(passing())
    f(spread("i"))
    f(spread())


@recompiles(("sharding", "x", "not committed", BY_ROWS))
def sharding_that_comes_late():
    f = jax.jit(passing())
    f(ones())
    f(spread("i"))


@recompiles(("sharding", "state['layer_57']['w']", BY_ROWS, BY_COLUMNS))
def sharding_of_one_leaf_of_two_hundred():
    f = jax.jit(lambda state: state["layer_57"]["w"])
    f(large_state(layer_57={"w": spread("i"), "b": ones(2)}))
    f(large_state(layer_57={"w": spread(None, "i"), "b": ones(2)}))


@recompiles(("sharding", "x"), ("shape", "x", "float32[2,2]", "float32[4,2]"), ("dtype", "y"))
def sharding_with_a_shape_and_a_dtype():
    f = jax.jit(lambda x, y: x)
    f(spread("i"), 1)
    f(spread(None, "i", shape=(4, 2)), 1.0)


@recompiles(("sharding", "x", "not committed", BY_ROWS), ("new_function", "options of jax.jit"))
def sharding_asked_for_when_jitting():
    target = passing()
    x = ones()
    jax.jit(target)(x)
    jax.jit(target, in_shardings=NamedSharding(mesh(), PartitionSpec("i")))(x)


@recompiles(("new_function", "options of jax.jit", "as before", "another out_shardings"))
def sharding_asked_for_the_result():
    target = passing()
    x = ones()
    jax.jit(target)(x)
    jax.jit(target, out_shardings=NamedSharding(mesh(), PartitionSpec("i")))(x)


@recompiles(("device", "x", "committed to cpu:0", "committed to cpu:1"))
def device_of_an_array():
    f = jax.jit(passing())
    f(jax.device_put(ones(), device(0)))
    f(jax.device_put(ones(), device(1)))


@recompiles(("device", "x"))
def device_order_of_a_mesh():
    f = jax.jit(passing())
    f(spread("i"))
    f(spread("i", order=(1, 0)))


@recompiles(("committed", "x", "not committed", "committed to cpu:0"))
def committed_by_device_put():
    f = jax.jit(passing())
    f(ones())
    f(jax.device_put(ones(), device(0)))


@recompiles(("committed", "x", "committed to cpu:0", "not committed"))
def committed_no_longer():
    f = jax.jit(passing())
    f(jax.device_put(ones(), device(0)))
    f(ones())


@recompiles(("committed", "state['layer_9']['b']", "not committed", "committed to cpu:0"))
def committed_leaf_of_two_hundred():
    f = jax.jit(lambda state: state["layer_9"]["b"])
    f(large_state())
    f(large_state(layer_9={"w": ones(2, 2), "b": jax.device_put(ones(2), device(0))}))


@recompiles(("committed", "state['b']"), ("committed", "state['w']"))
def committed_when_restored():
    f = jax.jit(lambda state: {name: leaf + 1 for name, leaf in state.items()})
    state = f({"w": ones(2), "b": ones(3)})
    saved = jax.device_get(state)
    f(jax.device_put(saved, device(0)))


@recompiles(("layout", "x", "default layout", "major_to_minor=(1, 0)"))
def layout_of_an_array():
    f = jax.jit(passing())
    place = SingleDeviceSharding(device(0))
    f(jax.device_put(ones(2, 4), place))
    f(jax.device_put(ones(2, 4), Format(Layout((1, 0)), place)))


@recompiles(("shape", "args[0]"), compiles=2)
def shape_under_pmap():
    f = jax.pmap(lambda x: x + 1)
    f(np.ones((2, 3), np.float32))
    f(np.ones((2, 4), np.float32))


@recompiles(("new_function", "function"), compiles=2)
def pmap_in_a_loop():
    for _ in range(2):
        jax.pmap(lambda x: x + 1)(np.ones((2, 3), np.float32))


@stays_silent()
def silent_when_a_sharding_is_written_differently():
    f = jax.jit(passing())
    f(spread("i"))
    f(spread("i", None))


@stays_silent()
def silent_when_the_result_comes_back():
    f = jax.jit(lambda x: x + 1)
    x = spread("i")
    for _ in range(3):
        x = f(x)


@stays_silent()
def silent_when_an_argument_that_is_not_used_moves():
    f = jax.jit(lambda x, y: x)
    f(ones(), ones())
    f(ones(), jax.device_put(ones(), device(0)))


@stays_silent()
def silent_when_committed_stays_committed():
    f = jax.jit(passing())
    for _ in range(2):
        f(jax.device_put(ones(), device(1)))


@pytest.mark.parametrize("case", table.recompiling, ids=operator.attrgetter("name"))
def test_move_is_explained(case):
    """The last compile of the program has exactly these causes, paths and texts."""
    check_recompiling(case)


@pytest.mark.parametrize("case", table.silent, ids=operator.attrgetter("name"))
def test_program_stays_silent(case):
    """Nothing is a recompile, and the number of compiles is the expected one."""
    check_silent(case)
