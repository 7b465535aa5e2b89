"""What differs between two signatures, column by column."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitwatch.diagnosis.causes import MAX_CHANGES, Causes
from jitwatch.diagnosis.diff import ABSENT, changes, distance, values
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.model.signature import Node, Placement, Signature, Value

COMMITTED = Placement("one device", "cpu:0")
LEAVES = {"x": (2, 3), "y": (4,)}


def signature(leaves=None, **fields):
    """A signature of float32 leaves, by path and shape."""
    leaves = LEAVES if leaves is None else leaves
    count = len(leaves)
    columns = {
        "paths": tuple(leaves),
        "shapes": tuple(leaves.values()),
        "dtypes": ("float32",) * count,
        "weak_types": (False,) * count,
        "placements": (Placement(),) * count,
        "code": 1,
        "function": 1,
    }
    return Signature(**columns | fields)


def value(text, *fields, type="Config", token=0, hashing="plain", tokens=()):  # noqa: A002
    return Value(type=type, text=text, fields=fields, token=token or hash((text, fields)), hashing=hashing)


def found(old, new, **options):
    """The changes as plain tuples."""
    return [(one.kind, one.path, one.before, one.after) for one in changes(old, new, **options)]


BASE = signature()
CASES = {
    "nothing": ({}, []),
    "shape": ({"shapes": ((2, 3), (5,))}, [("shape", "y", "float32[4]", "float32[5]")]),
    "symbolic shape": ({"shapes": ((2, "b"), (4,))}, [("shape", "x", "float32[2,3]", "float32[2,b]")]),
    "dtype": ({"dtypes": ("float32", "int8")}, [("dtype", "y", "float32", "int8")]),
    "weak type": (
        {"weak_types": (True, False)},
        [("weak_type", "x", "float32, strong type", "float32, weak type")],
    ),
    "dtype with a weak type": (
        {"dtypes": ("int32", "float32"), "weak_types": (True, False)},
        [("dtype", "x", "float32", "int32")],
    ),
    "shape and dtype of one leaf": (
        {"shapes": ((2, 3), (5,)), "dtypes": ("float32", "int8")},
        [("shape", "y", "float32[4]", "int8[5]"), ("dtype", "y", "float32", "int8")],
    ),
    "committed": (
        {"placements": (COMMITTED, Placement())},
        [("committed", "x", "not committed", "committed to cpu:0")],
    ),
    "sharded": (
        {"placements": (Placement("P('i') on mesh(i=2)", "cpu:0, cpu:1"), Placement())},
        [("sharding", "x", "not committed", "P('i') on mesh(i=2), devices cpu:0, cpu:1")],
    ),
    "sharded over no device": (
        {"placements": (Placement("P('i') on a mesh"), Placement())},
        [("sharding", "x", "not committed", "P('i') on a mesh")],
    ),
    "layout": (
        {"placements": (Placement(layout="major_to_minor=(1, 0)"), Placement())},
        [("layout", "x", "default layout", "major_to_minor=(1, 0)")],
    ),
    "layout and committed": (
        {"placements": (replace(COMMITTED, layout="tiled"), Placement())},
        [("layout", "x", "default layout", "tiled"), ("committed", "x", "not committed", "committed to cpu:0")],
    ),
    "static": (
        {"statics": (("n", value("3")),)},
        [("static_arg", "n", "default", "3")],
    ),
    "context": (
        {"context": (("jax_enable_x64", "True"), ("mesh", "mesh(i=2)"))},
        [("config", "jax_enable_x64", "not set", "True"), ("config", "mesh", "not set", "mesh(i=2)")],
    ),
    "function": (
        {"function": 2},
        [("new_function", "function", "one function object", "another for the same code")],
    ),
    "options": (
        {"options": (("donate_argnums", 1), ("inline", 1))},
        [("new_function", "options of jax.jit", "as before", "another donate_argnums, inline")],
    ),
    "options of a new function": (
        {"function": 2, "options": (("inline", 1),)},
        [("new_function", "function", "one function object", "another for the same code")],
    ),
    "keyword": ({"keywords": ("y",)}, [("tree_structure", "y", "by position", "by keyword")]),
    "structure that nobody can name": (
        {"tree_token": 7},
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_change_of_a_column_is_told(case):
    """Each column alone, with the text before and after."""
    changed, expected = CASES[case]
    assert expected == found(BASE, replace(BASE, **changed))


@pytest.mark.parametrize("case", [case for case, (_, expected) in CASES.items() if expected])
def test_distance_is_zero_only_without_changes(case):
    """Both sides of the search for the nearest signature agree."""
    changed, _ = CASES[case]
    other = replace(BASE, **changed)
    assert 0 == distance(BASE, replace(BASE))
    assert distance(BASE, other) == distance(other, BASE) > 0


def test_other_device_is_nearer_than_another_sharding():
    """One half of the placement differs, or both."""
    rows, columns = Placement("rows", "cpu:0"), Placement("columns", "cpu:0")
    here = signature({"x": (2,)}, placements=(rows,))
    there = replace(here, placements=(replace(rows, devices="cpu:1"),))
    assert distance(here, there) < distance(here, replace(here, placements=(columns,)))
    assert [("device", "x", "rows, devices cpu:0", "rows, devices cpu:1")] == found(here, there)


def test_leaves_are_matched_by_path_and_not_by_order():
    """A key in front of the others changes nothing about them."""
    old = signature({"s['b']": (2,), "s['c']": (3,)}, tree=(("s", Node("dict")),), tree_token=1)
    new = signature({"s['a']": (1,), "s['b']": (2,), "s['c']": (4,)}, tree=(("s", Node("dict")),), tree_token=2)
    assert [
        ("tree_structure", "s['a']", ABSENT, "float32[1]"),
        ("shape", "s['c']", "float32[3]", "float32[4]"),
    ] == found(old, new)


# Structures: nodes before and after, beside one leaf `s.w` that stays


def structured(*nodes, leaves=None):
    leaves = {"s.w": (2,)} if leaves is None else leaves
    return signature(leaves, tree=nodes, tree_token=hash((nodes, tuple(leaves))) or 1)


NODE = ("s", Node("State"))
STRUCTURES = {
    "container came": (
        structured(NODE),
        structured(NODE, ("s.extra", Node("dict"))),
        [("s.extra", ABSENT, "dict")],
    ),
    "container went with what it held": (
        structured(NODE, ("s.m", Node("list", 1)), leaves={"s.m[0]": (2,), "s.w": (2,)}),
        structured(NODE),
        [("s.m", "list of 1", ABSENT)],
    ),
    "leaf became a container": (
        structured(NODE),
        structured(NODE, ("s.w", Node("tuple", 2)), leaves={"s.w[0]": (2,), "s.w[1]": (2,)}),
        [("s.w", "float32[2]", "tuple of 2")],
    ),
    "leaf became None": (
        structured(NODE),
        structured(NODE, ("s.w", Node("None")), leaves={}),
        [("s.w", "float32[2]", "None")],
    ),
    "container of another kind": (
        structured(("s", Node("list", 1)), leaves={"s[0]": (2,)}),
        structured(("s", Node("dict")), leaves={"s['a']": (2,)}),
        [("s", "list of 1", "dict")],
    ),
    "longer list": (
        structured(("s", Node("list", 1)), leaves={"s[0]": (2,)}),
        structured(("s", Node("list", 2)), leaves={"s[0]": (2,), "s[1]": (2,)}),
        [("s[1]", ABSENT, "float32[2]")],
    ),
    "class of the same name": (
        structured(("s", Node("State", number=1))),
        structured(("s", Node("State", number=2))),
        [("s", "State", "another class State")],
    ),
    "other order": (
        structured(("s", Node("OrderedDict", order=("'a'", "'b'"))), leaves={"s['a']": (), "s['b']": ()}),
        structured(("s", Node("OrderedDict", order=("'b'", "'a'"))), leaves={"s['b']": (), "s['a']": ()}),
        [("s", "OrderedDict in the order 'a', 'b'", "OrderedDict in the order 'b', 'a'")],
    ),
    "what a node holds": (
        structured(("s", Node("State", aux=value("3", type="int")))),
        structured(("s", Node("State", aux=value("4", type="int")))),
        [("s", "State with 3", "State with 4")],
    ),
    "field that a node holds": (
        structured(("s", Node("State", aux=value("(3,)", (".n", "3"), type="tuple")))),
        structured(("s", Node("State", aux=value("(4,)", (".n", "4"), type="tuple")))),
        [("s.n", "3", "4")],
    ),
    "what only one node holds": (
        structured(("s", Node("State", aux=value("3")))),
        structured(("s", Node("State"))),
        [("s", "3", "None")],
    ),
    "a key that is no prefix": (
        structured(leaves={"s['a']": (2,), "s['ab']": (2,)}),
        structured(leaves={"s['ab']": (2,)}),
        [("s['a']", "float32[2]", ABSENT)],
    ),
    "only JAX knows": (
        structured(NODE),
        replace(structured(NODE), tree_token=77),
        [("arguments", "one structure", "another with the same leaves")],
    ),
}


@pytest.mark.parametrize("case", STRUCTURES)
def test_structure_is_told_where_it_begins_to_differ(case):
    """At the outermost container that is another one, and not again for everything below it."""
    old, new, expected = STRUCTURES[case]
    assert [("tree_structure", *one) for one in expected] == found(old, new)


# Values


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (value("3"), value("4"), [("n", "3", "4")]),
        (None, value("4"), [("n", "default", "4")]),
        (value("3"), None, [("n", "3", "default")]),
        (
            value("C(a=1)", (".a", "1"), (".b", "2")),
            value("C(a=2)", (".a", "2"), (".b", "2")),
            [("n.a", "1", "2")],
        ),
        (
            value("C(a=1)", (".a", "1")),
            value("C(a=1, b=2)", (".a", "1"), (".b", "2")),
            [("n.b", ABSENT, "2")],
        ),
        (value("()"), value("(1,)", ("[0]", "1")), [("n", "()", "(1,)")]),
        (
            value("A(a=1)", (".a", "1"), type="A"),
            value("B(a=1)", (".a", "1"), type="B"),
            [("n", "A(a=1)", "B(a=1)")],
        ),
        (
            value("C()", token=1, hashing="identity"),
            value("C()", token=2, hashing="identity"),
            [("n", "C()", "another Config with the same contents")],
        ),
        (value("f", token=1), value("f", token=2), [("n", "f", "another Config that looks the same")]),
        (value("float32[2]", token=1), value("float32[2]", token=2), [("n", "float32[2]", "another float32[2]")]),
    ],
)
def test_values_differ_in_their_parts_or_as_a_whole(old, new, expected):
    """The fields that differ; the whole where there are none to compare."""
    assert [("static_arg", *one) for one in expected] == [
        (one.kind, one.path, one.before, one.after) for one in values("n", "static_arg", old, new)
    ]


def test_parts_that_look_the_same_are_told_apart_by_their_tokens():
    """A function in a field that was made anew."""
    one, other = (Value("C", "C(f=g)", ((".f", "g"), (".n", "1")), token, "plain", (token, 9)) for token in (1, 2))
    assert [("n.f", "g", "another g that looks the same")] == [
        (change.path, change.before, change.after) for change in values("n", "static_arg", one, other)
    ]


def statics(**named):
    return signature(statics=tuple(named.items()))


def test_doubtful_value_is_left_out_beside_a_sure_change():
    """Only the class of the value knows whether two that look the same differ; the shape explains enough."""
    old = statics(config=value("C()", token=1, hashing="custom"))
    new = statics(config=value("C()", token=2, hashing="custom"))
    assert ["config"] == [path for _, path, _, _ in found(old, new)]
    assert ["y"] == [path for _, path, _, _ in found(old, replace(new, shapes=((2, 3), (7,))))]


def test_function_among_the_statics_is_the_one_that_was_made_anew():
    """A library that passes the function as a static argument is not blamed on the argument."""
    old, new = statics(fun=value("f", token=1)), statics(fun=value("f", token=2))
    assert ["static_arg"] == [kind for kind, *_ in found(old, new)]
    assert ["new_function"] == [kind for kind, *_ in found(old, replace(new, function=2))]


def test_captured_variables_of_a_new_function_are_named():
    """Those that differ; that it is a new function goes without saying then."""
    old = signature(captured=(("k", value("1")), ("m", value("2"))))
    new = replace(old, function=2, captured=(("k", value("7")), ("m", value("2"))))
    assert [("new_function", "k", "1", "7")] == found(old, new)
    assert [("new_function", "function", "one function object", "another for the same code")] == found(
        old, replace(old, function=2)
    )


def test_results_of_a_derived_program_are_told_only_alone():
    """What comes out follows from what goes in."""
    derived = signature({"x": (2,), "result[0]": (2,)}, origin="derived")
    both = replace(derived, shapes=((3,), (3,)))
    alone = replace(derived, shapes=((2,), (3,)))
    assert ["x"] == [path for _, path, _, _ in found(derived, both)]
    assert ["result[0]"] == [path for _, path, _, _ in found(derived, alone)]


def test_user_argument_named_result_is_told():
    """Only what JAX derived has results."""
    old = signature({"result[0]": (2,), "y": (2,)})
    assert ["result[0]", "y"] == [path for _, path, _, _ in found(old, replace(old, shapes=((3,), (3,))))]


# Redaction


def test_redacted_changes_show_no_values():
    """Neither of static arguments, nor of what nodes hold, nor of captured variables; names stay."""
    old = replace(
        structured(("s", Node("State", aux=value("(secret,)", (".key", "'secret1'"), type="tuple")))),
        statics=(("config", value("C(token=secret)", (".token", "'secret2'"))), ("n", value("'secret3'"))),
        captured=(("k", value("'secret4'")),),
    )
    new = replace(
        structured(("s", Node("State", aux=value("(secret,)", (".key", "'secret5'"), type="tuple")))),
        statics=(("config", value("C(token=secret)", (".token", "'secret6'"))), ("m", value("'secret7'"))),
        captured=(("k", value("'secret8'")),),
        function=2,
    )
    shown = found(old, new, is_redacted=True)
    assert [
        ("tree_structure", "s.key", "redacted", "redacted"),
        ("static_arg", "config.token", "redacted", "redacted"),
        ("static_arg", "n", "redacted", "default"),
        ("static_arg", "m", "default", "redacted"),
        ("new_function", "k", "redacted", "redacted"),
    ] == shown


def test_redacted_changes_still_say_what_is_no_value():
    """Shapes, structures, and that an object is another one."""
    old = replace(structured(NODE), statics=(("c", value("C(1)", token=1, hashing="identity")),))
    new = replace(
        structured(("s", Node("dict")), leaves={"s['w']": (2,)}),
        statics=(("c", value("C(1)", token=2, hashing="identity")),),
    )
    assert [
        ("tree_structure", "s", "State", "dict"),
        ("static_arg", "c", "redacted", "another Config with the same contents"),
    ] == found(old, new, is_redacted=True)


# Causes


def compiled(one, entries=None):
    return Compiled(
        function=Function("train.step", "step"),
        trace_s=0.1,
        lower_s=0.1,
        compile_s=0.1,
        signature=one,
        cache_entries=entries,
    )


def causes_of(*signatures):
    """Causes and changes of the last of some compiles."""
    causes = Causes()
    for one in signatures:
        event = causes.add(compiled(one))
    return event.causes, event.changes


def test_causes_are_in_the_order_of_the_contract():
    """Whatever order the changes have, and each once."""
    other = replace(BASE, shapes=((9,), (9,)), dtypes=("int8", "int8"), statics=(("n", value("1")),), function=2)
    assert ("shape", "dtype", "static_arg", "new_function") == causes_of(BASE, other)[0]


def test_first_compile_has_no_causes():
    """There is nothing that it could differ from."""
    assert ((), ()) == causes_of(BASE)


def test_compile_without_a_signature_is_unknown():
    """The hooks saw nothing of it; the first one needs no reason."""
    assert ((), ()) == causes_of(None)
    assert (("unknown",), ()) == causes_of(None, None)


def test_same_program_again_without_evidence_is_unknown():
    """Nothing is claimed that nobody saw."""
    assert (("unknown",), ()) == causes_of(BASE, BASE)


def test_same_program_ahead_of_time_is_aot():
    """In whichever order the call and the compile ahead of time come."""
    ahead = replace(BASE, origin="aot")
    assert ("aot",) == causes_of(BASE, ahead)[0]
    assert ("aot",) == causes_of(ahead, BASE)[0]
    assert ("shape", "aot") == causes_of(BASE, replace(ahead, shapes=((9,), (4,))))[0]


def test_derived_program_again_is_a_transformation():
    """What JAX derives may differ in what no signature holds; a clearing that was seen comes first."""
    derived = replace(BASE, origin="derived", variant="derived 1")
    assert ("transform",) == causes_of(BASE, derived)[0]
    assert ("transform",) == causes_of(BASE, derived, derived)[0]
    causes = Causes()
    for one in (BASE, derived):
        causes.add(compiled(one))
    causes.caches_cleared()
    assert ("cache_cleared",) == causes.add(compiled(derived)).causes


def test_doubtful_value_gives_way_to_a_clearing():
    """Objects that only their class can compare may be equal, and the cache was emptied."""
    old = statics(config=value("C()", token=1, hashing="custom"))
    new = statics(config=value("C()", token=2, hashing="custom"))
    causes = Causes()
    causes.add(compiled(old))
    causes.caches_cleared()
    assert ("cache_cleared",) == causes.add(compiled(new)).causes
    assert ("static_arg",) == causes_of(old, new)[0]


def test_so_many_changes_are_listed():
    """The others are counted."""
    old = signature({f"x[{i}]": (2,) for i in range(50)})
    causes = Causes()
    causes.add(compiled(old))
    event = causes.add(compiled(replace(old, shapes=((3,),) * 50)))
    assert (MAX_CHANGES, 50 - MAX_CHANGES) == (len(event.changes), event.changes_left_out)


@pytest.mark.parametrize("limit", [0, 1, 3, 4])
def test_distance_up_to_a_limit_decides_as_the_whole_one(limit):
    """The search for the nearest signature asks only whether another one is nearer."""
    for changed, _ in CASES.values():
        other = replace(BASE, **changed)
        whole, cut = distance(BASE, other), distance(BASE, other, limit)
        assert (whole < limit) == (cut < limit)
        assert cut == whole or limit <= cut <= whole
