"""How a jitted callable gets its name."""

from __future__ import annotations

import functools
import operator
import types

import jax
import jax.numpy as jnp
import pytest

from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.model.taxonomy import JAX_LABEL

HERE = "test_identity.py"


def plain(x):
    return x


def decorated(fun):
    @functools.wraps(fun)
    def inner(*args):
        return fun(*args)

    return inner


class Model:
    def step(self, x):
        return x

    @classmethod
    def build(cls, x):
        return x

    @staticmethod
    def pure(x):
        return x

    def __call__(self, x):
        return x


class SubModel(Model):
    pass


@pytest.fixture
def identities():
    found = Identities()
    found.find_jax_folders()
    return found


def line_of(fun) -> int:
    return fun.__code__.co_firstlineno


@pytest.mark.parametrize(
    ("fun", "expected"),
    [
        (plain, "plain"),
        (functools.partial(plain, 1), "plain"),
        (functools.partial(functools.partial(plain)), "plain"),
        (jax.tree_util.Partial(plain), "plain"),
        (decorated(plain), "plain"),
        (jax.jit(plain), "plain"),
        (jax.grad(plain), "plain"),
        (jax.value_and_grad(plain), "plain"),
        (jax.vmap(plain), "plain"),
        (jax.checkpoint(plain), "plain"),
        (jax.vmap(jax.grad(plain)), "plain"),
        (jax.custom_vjp(plain), "plain"),
        (Model().step, "Model.step"),
        (Model.build, "Model.build"),
        (Model.pure, "Model.pure"),
        (Model(), "Model.__call__"),
        (SubModel(), "SubModel.__call__"),
    ],
)
def test_label_is_module_and_qualname_of_the_users_function(identities, fun, expected):
    """Wrappers, transformations and bound methods are named as the function of the user inside."""
    assert f"{__name__}.{expected}" == identities.of(fun).label


def test_location_is_file_and_line_of_the_definition(identities):
    """The location leads to the source."""
    assert f"{__file__}:{line_of(plain)}" == identities.of(jax.grad(plain)).location


def test_lambda_and_local_function_carry_file_and_line(identities):
    """Names that are not unique are told apart by where they are."""
    anonymous = lambda x: x  # noqa: E731

    def local(x):
        return x

    where = f"{__name__}.test_lambda_and_local_function_carry_file_and_line.<locals>"
    assert f"{where}.<lambda>@{HERE}:{line_of(anonymous)}" == identities.of(anonymous).label
    assert f"{where}.local@{HERE}:{line_of(local)}" == identities.of(local).label


@pytest.mark.parametrize("filename", ["/tmp/ipykernel_812/3489571.py", "<ipython-input-7-0a2>"])
def test_notebook_cell_is_called_cell(identities, filename):
    """A cell's file name changes at every run, so it is no part of the label."""
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile("f = lambda x: x", filename, "exec"), scope)
    assert "__main__.<lambda>@cell:1" == identities.of(scope["f"]).label


@pytest.mark.parametrize("fun", [jnp.sin, jnp.linalg.norm, jax.nn.relu, jax.lax.add])
def test_jax_function_is_jax_own(identities, fun):
    """What JAX defines is filed under one label, with its name kept."""
    found = identities.of(fun)
    assert (JAX_LABEL, True) == (found.label, found.is_internal)
    assert found.name


def test_c_function_has_no_location(identities):
    """A function without code is named, and its place is unknown."""
    found = identities.of(operator.add)
    assert ("_operator.add", None) == (found.label, found.location)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\nb", "a b"),
        ("a\x1b[31m\x9bb", "a?[31m?b"),
        ("a\u202eb\u2066\u200b", "a?b??"),
        ('q"uo\\te}', "q'uo\\te}"),
        ("ü" * 3, "üüü"),
        ("\ud800", "?"),
        ("x" * 1000, "x" * 192 + "…"),
    ],
)
def test_hostile_name_is_made_printable_and_short(identities, name, expected):
    """Control characters and lone surrogates cannot break a line of text; length is bounded."""
    fun = types.FunctionType(plain.__code__, {}, name)
    fun.__qualname__, fun.__module__ = name, "module"
    assert f"module.{expected}" == identities.of(fun).label


def test_name_that_is_no_text_is_not_asked_for_one(identities):
    """An object in place of a name is shown by its type; its methods are not run."""

    class Trap:
        def __call__(self, x):
            return x

        def __repr__(self):
            raise AssertionError("must not be called")

    trap = Trap()
    trap.__qualname__ = trap
    assert ".Trap" in identities.of(trap).label


def test_endless_wrapping_ends(identities):
    """A function that says it wraps itself is named all the same."""

    def snake(x):
        return x

    snake.__wrapped__ = snake
    assert ".snake@" in identities.of(snake).label


def test_answer_to_every_attribute_is_no_wrapping(identities):
    """An object that has every attribute (a mock, a proxy) is not unwrapped for ever."""

    class Yes:
        def __getattr__(self, name):
            return Yes()

        def __call__(self, x):
            return x

    assert ".Yes" in identities.of(Yes()).label


def test_identity_keeps_nothing_alive(identities):
    """Functions that were named can die."""
    import gc
    import weakref

    fun = functools.partial(plain, 3)
    identities.of(fun)
    reference = weakref.ref(fun)
    del fun
    gc.collect()
    assert reference() is None


def test_new_function_of_known_code_is_resolved_by_its_code(identities, monkeypatch):
    """A function that is made anew in a loop is not unwrapped again; one with an attribute is."""

    def made():
        def step(x):
            return x

        return step

    first = identities.of(made())
    resolved = []
    resolve = identities._resolve
    monkeypatch.setattr(identities, "_resolve", lambda fun: resolved.append(fun) or resolve(fun))
    assert identities.of(made()) is first
    assert [] == resolved
    wrapping, renamed = made(), made()
    wrapping.__wrapped__ = plain
    renamed.__qualname__ = "another"
    assert ("plain", "another") == (
        identities.of(wrapping).label.rpartition(".")[2],
        identities.of(renamed).label.rpartition(".")[2],
    )
    assert [wrapping, renamed] == resolved


def test_function_of_a_library_that_wraps_is_never_plain(identities):
    """What it wraps is in its closure, and another function has the same code."""
    namespace = {"__name__": "flax.nnx.transforms"}
    exec("def grad(f):\n    def inner(x):\n        return f(x)\n    return inner", namespace)
    assert "inner" == identities.of(namespace["grad"]("no function")).name
    assert "plain" == identities.of(namespace["grad"](plain)).name
