"""How signatures are read: names of arguments and containers, options, and programs that JAX derived."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.refusals import unhashable_static
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.values import arguments, paths
from jitwatch.jaxhooks.values.arguments import names_of_positions, nodes, positions, usable
from jitwatch.jaxhooks.values.contents import Contents, contents_of
from jitwatch.jaxhooks.values.description import Numbers
from jitwatch.jaxhooks.values.parts import field_names
from jitwatch.jaxhooks.values.signatures import SignatureReader
from jitwatch.jaxhooks.values.texts import mesh_text, spec_text
from jitwatch.model.signature import Node


@pytest.fixture
def reader():
    return SignatureReader(Identities())


def ones(*shape):
    return np.ones(shape, np.float32)


def variant(reader, function, *examples):
    """The variant of a program as if JAX had derived it."""
    return reader.derived(jax.make_jaxpr(function)(*examples)).signature.variant


def test_derived_programs_of_other_operations_are_variants(reader):
    """A gradient and a batched call with as many arguments are not compared."""
    assert variant(reader, jnp.sin, ones(2)) != variant(reader, jnp.cos, ones(2))


def test_derived_programs_of_other_sizes_are_one_variant(reader):
    """A larger batch of the same program is compared with the smaller."""
    assert variant(reader, jnp.sin, ones(2)) == variant(reader, jnp.sin, ones(3))


def test_derived_programs_of_other_ranks_are_variants(reader):
    """`vmap` adds an axis."""
    assert variant(reader, jnp.sin, ones(2)) != variant(reader, jnp.sin, ones(2, 2))


def test_derived_program_knows_its_results(reader):
    """They may be all that differs."""
    traced = reader.derived(jax.make_jaxpr(lambda x: jnp.zeros(x.shape))(ones(3)))
    signature = reader.lowered(traced, [None], None, Contents())
    assert ("derived", ["float32"] * 2) == (signature.origin, list(signature.dtypes))
    assert ("result[0]", (3,)) == (signature.paths[-1], signature.shapes[-1])


# Names


def test_names_of_leaves_are_bounded_and_printable():
    """Keys may be anything; two that begin alike stay two."""
    long = ["x['" + "k" * 500 + end + "']" for end in "ab"]
    found = usable(["x.a\nb", *long, "x['ü']"], 4)
    assert all(name.isprintable() and len(name) <= arguments.MAX_PATH for name in found)
    assert 4 == len(set(found))
    assert "x['ü']" == found[-1]
    assert usable(["x.a\nb"], 1)[0].isprintable()


def test_leaves_without_names_are_numbered():
    """Also where JAX tells another number of names."""
    assert ("args[0]", "args[1]") == usable(None, 2) == usable(["x"], 2)


def call(*args, **kwargs):
    """Structure of a call's arguments, as JAX keeps it."""
    return jax.tree_util.tree_structure((args, kwargs))


def test_root_is_named_as_jax_names_its_leaves():
    """A library's wrapper may have parameters of other names than the function that JAX looks at."""
    found = dict(nodes(call({"w": 1}), None, ["guess"], ["args[3]['w']"], Numbers()))
    assert {"args[3]": Node("dict")} == found


def test_container_is_named_as_jax_names_its_leaves():
    """A node's class alone knows the names of its children."""
    leaves = ["x.first.w", "x.second.w"]
    tree = call(({"w": 1}, {"w": 2}))
    assert ["x", "x.first", "x.second"] == [path for path, _ in nodes(tree, None, ["x"], leaves, Numbers())]


@pytest.mark.parametrize("leaf", ["", "?!", "x", "x['unfinished"])
def test_name_of_another_form_is_no_problem(leaf):
    """The container is named by its position then."""
    found = [path for path, _ in nodes(call({"w": [1]}), None, ["x"], [leaf], Numbers())]
    assert ["x", "x['w']"] == found


def test_variadic_keywords_are_named_by_their_dictionary():
    """As JAX names the leaves in them."""

    def target(x, **rest):
        return x

    found = dict(nodes(call(1, a=None, x=None), inspect.signature(target), ["x"], ["x"], Numbers()))
    assert {"rest['a']", "x"} == set(found)


def test_number_of_nodes_is_bounded():
    """A structure of a million containers is read in part."""
    tree = call([[i] for i in range(10_000)])
    leaves = [f"x[{i}][0]" for i in range(10_000)]
    assert len(list(nodes(tree, None, ["x"], leaves, Numbers(), limit=100))) <= 2


def test_positions_of_static_arguments():
    """Counted from both ends, and those that a call does not have are left out."""
    assert {0, 2} == positions((0, -1, 7, -9), 3)
    assert set() == positions((0,), 0)


def test_names_of_positional_arguments():
    """Of `*rest` one by one; a call with more arguments than parameters is numbered."""

    def target(a, /, b, *rest, c=1):
        return a

    def short(a):
        return a

    assert ["a", "b", "rest[0]", "rest[1]"] == names_of_positions(inspect.signature(target), 4)
    assert ["a"] == names_of_positions(inspect.signature(target), 1)
    assert ["a", "args[1]"] == names_of_positions(inspect.signature(short), 2)
    assert ["args[0]"] == names_of_positions(None, 1)


def test_unhashable_static_argument_is_found_by_its_class():
    """Also inside of a tuple, which has a hash only if its items have."""
    info = jax.jit(lambda x, a, b: x, static_argnums=1, static_argnames="b")._jit_info
    assert ("a", "list") == unhashable_static(info, (1.0, []), {})
    assert ("b", "dict") == unhashable_static(info, (1.0, 2), {"b": ((3, {}),)})
    assert unhashable_static(info, (1.0, 2), {"b": (3,)}) is None


@pytest.mark.parametrize("static", [None, (), ((1, 2), (3, 4), (5, 6)), (((), None),) * 3])
@pytest.mark.parametrize("module", ["equinox._jit", "haliax.partitioning"])
def test_names_stay_where_a_library_packs_otherwise(reader, static, module):
    """A later version may do so; the names are JAX's then, and nothing is wrong with the job."""

    def fun_wrapped(donated, others, static):
        pass

    fun_wrapped.__module__ = module
    assert paths._is_packed(fun_wrapped)
    signature = reader.derived(jax.make_jaxpr(jnp.sin)(ones(2))).signature
    layers = [test_root_is_named_as_jax_names_its_leaves]
    args = (None, None, static)
    assert signature is paths.unpacked(fun_wrapped, args, signature, layers, Numbers())
    assert paths.unpacked_names(fun_wrapped, args, ["x"]) is None


# What nodes hold


@dataclasses.dataclass
class Marked:
    w: object
    n: int = dataclasses.field(metadata={"static": True})
    m: int = dataclasses.field(metadata={"pytree_node": False})


def test_fields_are_told_apart_by_their_marks():
    """Those of equinox and of flax; equinox puts something in front."""
    assert (["w"], ["n", "m"]) == field_names(Marked, (2, 3), 1)
    assert (["w"], ["n", "m"]) == field_names(Marked, ("its own", 2, 3), 1)
    assert ([], []) == field_names(Marked, (), 2)


def test_fields_are_told_apart_as_jax_was_told():
    """`register_dataclass` with lists of names leaves no marks."""

    @dataclasses.dataclass
    class Told:
        a: object
        b: object
        c: object

    jax.tree_util.register_dataclass(Told, data_fields=["c", "a"], meta_fields=["b"])
    assert (["c", "a"], ["b"]) == field_names(Told, (2,), 2)


def test_fields_that_jax_keeps_elsewhere_are_unknown():
    """A class that JAX does not know, or one that it flattens by code of the user."""
    assert compat.registered_fields(Marked) is None
    assert compat.registered_fields(list) is None


# Places


def test_axis_that_pmap_makes_has_one_name():
    """JAX names it after an address, which is no difference that anybody made."""
    texts = set()
    for address in ("0x7f00", "0x7f11"):
        name = f"<axis {address}>"
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (name,))
        texts.add((mesh_text(mesh), spec_text(jax.sharding.PartitionSpec(name))))
    assert {("mesh(<axis>=1)", "P('<axis>')")} == texts


def test_axis_that_is_no_text_is_not_asked():
    """Any object may name an axis; its class is shown."""

    class Axis:
        def __repr__(self):
            raise AssertionError("code of the user was run")

    assert "P(<Axis>, ('data', <Axis>), None)" == spec_text((Axis(), ("data", Axis()), None))


@pytest.mark.versions(jax=">=0.9", reason="before, a spec knows no axes that are to be reduced")
def test_spec_with_axes_to_reduce():
    """JAX does not iterate over it."""
    spec = jax.sharding.PartitionSpec(None, ("a", "b"), unreduced={"y", "x"}, reduced={"z"})
    assert "P(None, ('a', 'b'), unreduced={'x', 'y'}, reduced={'z'})" == spec_text(spec)
    assert "P('data', None)" == spec_text(jax.sharding.PartitionSpec("data", None))


class Slotted:
    """A parameter of a program; its class shows that it holds none."""

    __slots__ = ()

    def __getattr__(self, name):
        raise AssertionError(f"{name} was read")


def test_parameters_that_cannot_hold_a_program_are_not_read():
    """Most parameters are such objects, and a large program has tens of thousands of them."""
    inner = jax.make_jaxpr(lambda x: x + ones(3) + x)(ones(3))
    equation = SimpleNamespace(params={"a": Slotted(), "b": (Slotted(), inner)})

    assert 3 <= contents_of(SimpleNamespace(eqns=[equation]), ()).operations


def test_classes_of_parameters_are_not_kept_alive():
    """A notebook defines its classes again with each cell."""
    kind = type("Parameter", (), {"__slots__": ("__weakref__",)})
    contents_of(SimpleNamespace(eqns=[SimpleNamespace(params={"a": kind()})]), ())

    freed = weakref.ref(kind)
    del kind
    gc.collect()
    assert freed() is None
