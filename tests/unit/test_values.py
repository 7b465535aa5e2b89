"""Values of the user as short text: nothing of theirs is run, whatever they are, and the text stays short."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import operator
import pathlib
import types
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import jitwatch
from jitwatch.jaxhooks.values import description, parts
from jitwatch.jaxhooks.values.description import Numbers, describe
from tests.recompiles import compile_events

MAX_TEXT = 120


def forbidden(*args, **kwargs):
    raise AssertionError("code of the user was run")


class HostileMeta(type):
    """A class of classes that answers for every attribute, with an error."""

    __eq__ = forbidden
    __hash__ = forbidden
    __repr__ = forbidden
    __getattribute__ = forbidden
    __instancecheck__ = forbidden
    __subclasscheck__ = forbidden


class Hostile:
    """An object whose every method would raise, or hang, or answer nonsense."""

    __slots__ = ("__weakref__", "inside")

    __eq__ = __hash__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = forbidden
    __getattribute__ = __getattr__ = __call__ = __index__ = __float__ = __format__ = forbidden
    __class__ = property(forbidden)  # type: ignore[assignment]


class HostileDict(dict):
    __eq__ = __hash__ = __repr__ = __len__ = __iter__ = __getitem__ = forbidden
    keys = values = items = forbidden


class HostileList(list):
    __eq__ = __hash__ = __repr__ = __len__ = __iter__ = __getitem__ = forbidden


class HostileText(str):
    __eq__ = __hash__ = __repr__ = __str__ = __len__ = __getitem__ = __format__ = forbidden


class HostileNumber(int):
    __eq__ = __hash__ = __repr__ = __str__ = __index__ = __format__ = __int__ = forbidden


class Plain:
    def __init__(self, **state):
        self.__dict__.update(state)


def hostile_class():
    """Made when it is needed: pytest itself asks the classes of a module for their attributes."""
    return HostileMeta("Meta", (), {})


@pytest.fixture
def numbers():
    return Numbers()


def same(value, other, numbers):
    """Whether the two are told apart by nothing."""
    return describe(value, numbers) == describe(other, numbers)


def filled(value):
    hostile = Hostile()
    object.__setattr__(hostile, "inside", value)
    return hostile


def kind_of(value):
    """Name of a case; the texts of some values hold their addresses, which differ between processes."""
    return type(value).__name__


@pytest.mark.parametrize(
    "make",
    [
        Hostile,
        lambda: filled(3),
        lambda: filled(Hostile()),
        hostile_class,
        lambda: object.__new__(hostile_class()),
        lambda: HostileDict(a=1),
        lambda: HostileList([1]),
        lambda: HostileText("text"),
        lambda: HostileNumber(3),
        lambda: {"a": [Hostile(), (Hostile(),)]},
        lambda: {(1, hostile_class): hostile_class()},
        lambda: functools.partial(forbidden, Hostile(), key=Hostile()),
        lambda: Plain(inside=Hostile()),
        lambda: types.MappingProxyType(HostileDict(a=1)),
        lambda: jax.tree_util.tree_structure(jax.tree_util.Partial(forbidden, 1)),
    ],
)
def test_code_of_the_user_is_not_run(make, numbers):
    """No method, property or metaclass is asked, in the value or inside of it."""
    found = describe(make(), numbers)
    assert isinstance(found.text, str)
    assert len(found.text) <= MAX_TEXT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        (True, "True"),
        (-0.5, "-0.5"),
        (1 + 2j, "(1+2j)"),
        ("a'b", '"a\'b"'),
        (b"ab", "b'ab'"),
        ((1,), "(1,)"),
        ((), "()"),
        ([1, "two"], "[1, 'two']"),
        ({"b": 1, "a": (2,)}, "{'a': (2,), 'b': 1}"),
        ({2, 1}, "{1, 2}"),
        (collections.deque([1]), "deque(1)"),
        (Plain(width=8, name="x"), "Plain(width=8, name='x')"),
        (object(), "<object>"),
        (range(3), "range(start=0, stop=3, step=1)"),
        (operator.add, "add"),
        (int, "int"),
        (types, "<module types>"),
        (np.float32, "float32"),
        (np.dtype("int8"), "int8"),
        (np.int8(3), "int8(3)"),
        (np.ones((2, 3)), "float64[2,3]"),
        (jnp.float32, "float32"),
        (jnp.sin, "sin"),
        (jax.nn.relu, "relu"),
        (jax.sharding.PartitionSpec("data", None), "P('data', None)"),
        (jax.ShapeDtypeStruct((2,), np.int32), "int32[2]"),
        (pathlib.PurePosixPath("/data"), "PurePosixPath('/data')"),
        (functools.partial(operator.add, 1), "partial(add, 1)"),
        (jax.tree_util.tree_structure({"a": 1, "b": [2]}), "dict(*, list(*))"),
        ((("width", 8), ("depth", 2)), "('width': 8, 'depth': 2)"),
    ],
    ids=kind_of,
)
def test_text_is_what_a_person_would_write(value, expected, numbers):
    """Simple values, containers, objects and what JAX and numpy make."""
    assert expected == describe(value, numbers).text


def test_function_is_shown_by_name_and_place(numbers):
    """Without source there is still a name; lambdas on one line look the same and are told apart."""
    scope = {}
    exec("def made(x): return x", scope)
    assert "made (<string>:1)" == describe(scope["made"], numbers).text
    one, other = (lambda x: x), (lambda x: x + 1)
    first, second = describe(one, numbers), describe(other, numbers)
    assert f"<lambda> (test_values.py:{one.__code__.co_firstlineno})" in first.text
    assert (first.text, True) == (second.text, first.token != second.token)


def test_bound_method_is_the_same_at_each_access(numbers):
    """Python makes a new object for each access, and JAX takes them for equal."""

    class Model:
        def apply(self, x):
            return x

    model = Model()
    assert same(model.apply, model.apply, numbers)
    assert not same(model.apply, Model().apply, numbers)


@pytest.mark.parametrize("name", ["a\nb", 'q"uote', "{brace}", "ü" * 300, "\ud800", "\x1b[31m"])
def test_odd_name_is_one_short_line(name, numbers):
    """Of classes, functions, fields and keys, as text and as path."""
    function = types.FunctionType(forbidden.__code__, {}, name)
    function.__qualname__ = name
    made = [function, Plain(**{name: 1, "b": 2}), {name: 1, "b": 2}, [(name, 1), ("b", 2)]]
    if name != "\ud800":  # which Python refuses for classes
        made.append(type(name, (), {})())
    for value in made:
        found = describe(value, numbers)
        for text in (found.type, found.text, *[part for field in found.fields for part in field]):
            assert len(text) <= MAX_TEXT
            assert text.isprintable()
            json.dumps(text).encode()


@pytest.mark.parametrize("text", ["x" * 10_000_000, b"x" * 10_000_000], ids=["str", "bytes"])
def test_long_text_is_cut_and_told_from_another(text, numbers):
    """Ten megabytes become a line; another text that begins alike looks different."""
    found, other = describe(text, numbers), describe(text + text[:1], numbers)
    assert len(found.text) <= MAX_TEXT
    assert "10,000,000" in found.text
    changed = describe(text[:-1] + text[:0] + type(text)(b"y" if isinstance(text, bytes) else "y"), numbers)
    assert len({found.text, other.text, changed.text}) == 3


def test_huge_number_is_not_written_out(numbers):
    """Python refuses to print numbers of more than some thousand digits."""
    found = describe(1 << 100_000, numbers)
    assert found.text.startswith("<int of 100001 bits, #")


def test_endless_structure_ends(numbers):
    """An object that contains itself is shown once, and equals itself."""
    value = [1]
    value.append(value)
    knot = Plain(name="knot")
    knot.self = knot
    deep = frozenset()
    for _ in range(5_000):
        deep = frozenset({deep})
    assert "{<frozenset>}" == describe(deep, numbers).text
    assert "[1, …]" == describe(value, numbers).text
    assert "Plain(name='knot', self=…)" == describe(knot, numbers).text
    assert same(value, value, numbers)


def nested(width, depth):
    value: list = []
    for _ in range(depth):
        value = [value] * width
    return value


@pytest.mark.parametrize(
    "value",
    [
        nested(200, 6),
        nested(1, 900),
        list(range(100_000)),
        {str(i): i for i in range(100_000)},
        frozenset(frozenset(range(i, i + 100)) for i in range(100)),
        Plain(x=nested(50, 9)),
    ],
    ids=["bushy", "deep", "long", "mapping", "sets", "object"],
)
def test_work_is_bounded(value, numbers, monkeypatch):
    """However large a value is, so many parts are looked at and so many are kept."""
    looked_into = []

    def counting(*args):
        looked_into.append(1)
        return parts.parts_of(*args)

    monkeypatch.setattr(description, "parts_of", counting)
    found = describe(value, numbers)
    assert len(looked_into) <= parts.MAX_PARTS
    assert len(found.fields) <= 400
    assert len(found.text) <= MAX_TEXT
    assert "plain" != found.hashing, "what was left out may differ"


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", b"1"),
        ((1, 2), [1, 2]),
        ((1, 2), (1, 2, 3)),
        ({"a": 1}, {"b": 1}),
        ({"a": ()}, {"a": []}),
        (tuple(range(300)), (*range(299), 7)),
        (frozenset({1}), frozenset({2})),
        (frozenset({(1, 2)}), frozenset({(1, 3)})),
        (frozenset({frozenset({1})}), frozenset({frozenset({2})})),
        (Plain(a=1), Plain(a=1)),
        ((Plain(a=1),), (Plain(a=1),)),
        (np.ones(2), np.ones(2)),
        (float("nan"), float("nan")),
        (functools.partial(abs), functools.partial(abs)),
    ],
    ids=kind_of,
)
def test_values_that_jax_tells_apart_are_told_apart(value, other, numbers):
    """Values of other contents, and objects that equal only themselves."""
    assert same(value, value, numbers)
    assert not same(value, other, numbers)


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 8
    comment: str = dataclasses.field(default="", compare=False)


Pair = collections.namedtuple("Pair", ["a", "b"])


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Config(comment="one"), Config(comment="two")),
        (Pair(1, (2,)), Pair(1, (2,))),
        (frozenset("abc"), frozenset("cba")),
        (0.0, -0.0),
        (("x" * 100, 1 << 300), ("".join(["x"] * 100), 1 << 300)),
        (np.int32(3), np.int32(3)),
        (pathlib.PurePosixPath("/data"), pathlib.PurePosixPath("/") / "data"),
        (jax.sharding.PartitionSpec("i"), jax.sharding.PartitionSpec("i")),
        (jax.tree_util.tree_structure([1]), jax.tree_util.tree_structure([2])),
    ],
    ids=kind_of,
)
def test_values_that_jax_takes_for_equal_have_one_token(value, other, numbers):
    """Equal contents, whatever the order and the object."""
    assert describe(value, numbers).token == describe(other, numbers).token


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "plain"),
        (Pair(1, 2), "plain"),
        (Config(), "plain"),
        (forbidden, "plain"),
        (Plain(), "identity"),
        (functools.partial(abs), "identity"),
        (filled(1), "custom"),
    ],
    ids=["number", "namedtuple", "dataclass", "function", "object", "partial", "own eq"],
)
def test_way_of_comparing_is_known(value, expected, numbers):
    """By content, by identity, or by code of the class."""
    assert expected == describe(value, numbers).hashing


def test_parts_have_paths(numbers):
    """Each part is found under the expression that leads to it."""
    config = Plain(layers=(Config(4), Config(5)), names={"a": [1]}, empty=())
    expected = {
        ".layers[0].width": "4",
        ".layers[1].width": "5",
        ".names['a'][0]": "1",
        ".empty": "()",
    }
    assert expected == dict(describe(config, numbers).fields)


def test_object_without_weak_references_is_numbered(numbers):
    """One object is one number, two living ones are two."""
    one, other = object(), object()
    assert numbers.of(one) == numbers.of(one) != numbers.of(other)


def test_number_is_not_given_again(numbers):
    """An object at the address of a dead one is another."""
    seen = {numbers.of(Plain()) for _ in range(100)}
    assert 100 == len(seen)


def test_nothing_is_kept_alive(numbers):
    """A described value can die."""
    import gc
    import weakref

    value = Plain(inside=[Plain()])
    describe(value, numbers)
    reference = weakref.ref(value)
    del value
    gc.collect()
    assert reference() is None


# The whole way through the agent


class Nonsense:
    """Compares by code of its own, and shows itself by an error."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return 7

    def __repr__(self):
        raise RuntimeError("no text")


def hostile_statics():
    """Pairs of static arguments that JAX takes as different."""
    scope = {}
    exec("def made(x): return x", scope)
    knot, other_knot = Plain(), Plain()
    knot.self, other_knot.self = knot, other_knot
    one, two = (lambda x: x), (lambda x: x)
    return [
        (Nonsense(1), Nonsense(1)),
        (Plain(a=Hostile()), Plain(a=Hostile())),
        ("x" * 10_000_000, "x" * 9_999_999 + "y"),
        (knot, other_knot),
        (scope["made"], operator.neg),
        (one, two),
        (type("na\nme", (), {})(), type('q"uo{te}', (), {})()),
        (Plain(**{"ü\n": 1}), Plain(**{"ü\n": 2})),
    ]


def test_job_with_hostile_statics_runs_unharmed():
    """Results and compiles are as without the agent, each compile has a reason, and all of it is JSON."""

    def run():
        results = []
        for pair in hostile_statics():
            function = jax.jit(lambda x, static: x + 1, static_argnums=1)
            results += [float(function(1.0, static)) for static in pair]
        return results

    bare = run()
    with jitwatch.install(port=0) as watch:
        assert bare == run()
        events = compile_events(watch)
        json.dumps(watch.snapshot())
    assert 2 * len(hostile_statics()) == len(events)
    for event in events:
        json.dumps(event)
        assert len(json.dumps(event)) < 5_000
        causes = set(event.get("causes", []))
        assert causes <= {"static_arg", "new_function"}
        assert (event["event"] == "jit.recompiled") == bool(causes)


@pytest.mark.parametrize("name", ["a\nb", 'q"uo\\te', "{brace=}", "ünï", "x" * 500])
def test_exposition_of_odd_names_can_be_parsed(name):
    """A name with newlines, quotes, braces or more never breaks the metrics."""

    def target(x, static):
        return x + 1

    target.__name__ = target.__qualname__ = name
    with jitwatch.install(port=0) as watch:
        function = jax.jit(target, static_argnums=1)
        function(1.0, name)
        function(1.0, name * 2)
        with urllib.request.urlopen(f"{watch.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    by_cause = [one for one in samples if one.name == "jitwatch_recompile_causes_total" and one.value]
    assert ["static_arg"] == [one.labels["cause"] for one in by_cause]
    assert by_cause[0].labels["function"].isprintable()


def test_callable_objects_and_c_functions_are_jitted_unharmed():
    """What has no code, or code somewhere else, is named, compiled and compared all the same."""

    class Model:
        def __call__(self, x):
            return x * 2

        def __repr__(self):
            raise RuntimeError("no text")

    with jitwatch.install(port=0) as watch:
        for function in (jax.jit(Model()), jax.jit(operator.neg), jax.jit(functools.partial(operator.add, 1))):
            function(1.0)
            function(np.ones(2, np.float32))
        events = compile_events(watch)
    assert [None, ["shape", "weak_type"]] * 3 == [event.get("causes") for event in events]
