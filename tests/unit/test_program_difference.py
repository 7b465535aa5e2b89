"""What differs between two programs: real texts of JAX, and others."""

from __future__ import annotations

import json
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jitwatch.programs import Change, Outline, compare_texts, difference, outline_of
from jitwatch.programs.tally import Tally
from jitwatch.render import programs as wording
from tests.unit.lowering import BATCH, STATE, lowered, make_step


def generic(function, *arguments, **options) -> str:
    """The text in the generic form."""
    module = jax.jit(function, **options).lower(*arguments).compiler_ir("stablehlo")
    return module.operation.get_asm(print_generic_op_form=True, enable_debug_info=True)


def compared(new: str, old: str | None = None):
    """The difference from the base program; the rows of the outlines show it too, with fewer details."""
    old = old if old is not None else lowered(make_step(), STATE, BATCH)
    found = compare_texts(old, new)
    rows = [json.loads(json.dumps(outline_of(text).row(), allow_nan=False)) for text in (old, new)]
    from_rows = difference(*map(Outline.of_row, rows))
    assert found.is_equal == from_rows.is_equal
    assert [one.kind for one in found.changes] == [one.kind for one in from_rows.changes]
    assert (found.same is None) == (from_rows.same is None)
    if found.same is not None:
        assert from_rows.same <= found.same
    json.dumps(found.row(), allow_nan=False)
    return found


def source_line(operation) -> str:
    """The text of the source line of an operation."""
    path, _, number = operation.source.rpartition(":")
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()[int(number) - 1]


# Programs that differ


def test_changed_constant_is_named_with_both_values():
    """The source line is that of the user's code that uses it, although JAX locates a constant at the call."""
    found = compared(lowered(make_step(0.002), STATE, BATCH))

    assert "The constant 0.001 changed to 0.002." == wording.summary(found)
    assert (Change("constant", "tensor<f32>", "1.000000e-03", "2.000000e-03"),) == found.changes
    assert "1.000000e-03" in found.before.text
    assert "2.000000e-03" in found.after.text
    assert "total * rate" in source_line(found.before)
    assert "main" == found.after.function
    assert "stablehlo.constant" in lowered(make_step(0.002), STATE, BATCH).splitlines()[found.after.line - 1]


def test_donated_argument_is_named():
    """In both directions; by name if the text has locations, else by number."""
    plain, donated = (lowered(make_step(), STATE, BATCH, **options) for options in ({}, {"donate_argnums": 0}))

    assert "Argument state['w'] is donated now." == wording.summary(compared(donated, plain))
    assert "Argument state['w'] is no longer donated." == wording.summary(compared(plain, donated))
    bare = lowered(make_step(), STATE, BATCH, debug_info=False, donate_argnums=0)
    assert "Argument state['w'] is donated now." == wording.summary(compared(bare, plain))
    both_bare = compared(bare, lowered(make_step(), STATE, BATCH, debug_info=False))
    assert "Argument 0 is donated now." == wording.summary(both_bare)
    assert both_bare.before is both_bare.after is both_bare.same is None


def test_two_causes_are_in_one_sentence():
    """The constant and the donation."""
    found = compared(lowered(make_step(0.002), STATE, BATCH, donate_argnums=0))

    assert "Argument state['w'] is donated now, and the constant 0.001 changed to 0.002." == wording.summary(found)


def test_added_operation_is_found_with_its_line():
    """The first operation that differs is the added one, and no other operation is in one program only."""
    found = compared(lowered(make_step(is_capped=True), STATE, BATCH))

    assert "1 tanh operation was added." == wording.summary(found)
    assert (Change("operation", "stablehlo.tanh", 0, 1),) == found.changes
    assert found.after.text.startswith("%")
    assert "stablehlo.tanh" in found.after.text
    assert "the line of the tanh" in source_line(found.after)
    assert () == found.only_before
    assert [found.after] == list(found.only_after)
    assert "1 tanh operation was removed." == wording.summary(
        compare_texts(lowered(make_step(is_capped=True), STATE, BATCH), lowered(make_step(), STATE, BATCH))
    )


def test_changed_shape_is_named_by_the_argument_first():
    """Changes that follow from it come later."""
    found = compared(lowered(make_step(), STATE, jnp.ones((5, 4))))

    assert wording.summary(found).startswith("Argument x changed from float32[3,4] to float32[5,4], ")
    assert "argument" == found.changes[0].kind


def test_changed_dtype_is_named_by_the_argument_first():
    """Constants have different types as well."""
    found = compared(lowered(make_step(), {"w": jnp.ones(4, jnp.bfloat16)}, BATCH.astype(jnp.bfloat16)))

    expected = "Argument state['w'] changed from float32[4] to bfloat16[4], argument x changed from "
    assert wording.summary(found).startswith(expected)


def test_scan_length_is_a_constant():
    """The source line is that of the scan."""
    found = compared(lowered(make_step(length=4), STATE, BATCH))

    assert "The constant 3 changed to 4." == wording.summary(found)
    assert "jax.lax.scan" in source_line(found.after)


def test_swapped_operands_are_a_difference():
    """The same operations with different operands are a different program."""
    found = compared(lowered(make_step(is_swapped=True), STATE, BATCH))

    assert "The operations are in a different order or have different operands." == wording.summary(found)
    assert "stablehlo.subtract" in found.before.text
    assert "stablehlo.subtract" in found.after.text


def test_changed_attribute_is_found_by_the_kind_of_operation():
    """The precision of a product, also from the outlines alone."""
    found = compared(lowered(make_step(precision="highest"), STATE, BATCH))

    assert "Dot_general has different types or attributes." == wording.summary(found)
    assert (Change("operation_types", "stablehlo.dot_general"),) == found.changes


def test_large_constant_is_compared_by_its_hash():
    """One of a thousand values differs."""
    values = np.arange(4_000.0, dtype="float32").reshape(1_000, 4)
    other = values.copy()
    other[500, 2] = -1
    texts = [lowered(lambda x, c=one: x + c, jnp.ones((1_000, 4))) for one in (values, other)]

    assert compare_texts(texts[0], lowered(lambda x: x + values, jnp.ones((1_000, 4)))).is_equal
    found = compared(texts[1], texts[0])
    assert "A constant float32[1000,4] has different values." == wording.summary(found)
    assert len(found.before.text) < 250
    assert len(json.dumps(outline_of(texts[0]).row())) < 2_000


def test_added_and_removed_arguments_are_matched_by_name():
    """An argument that is added in front does not change the others."""
    found = compare_texts(
        lowered(lambda b, c: b + c, jnp.ones(3), jnp.ones(3)),
        lowered(lambda a, b, c: b + c + a, jnp.ones(2)[0], jnp.ones(3), jnp.ones(3)),
    )
    assert Change("argument", "argument a", None, "tensor<f32>") == found.changes[0]
    assert 1 == sum(one.kind == "argument" for one in found.changes)


def test_reordered_dictionary_is_no_difference():
    """JAX sorts the keys of a dictionary, but not those of an ordered structure."""

    def step(state):
        return state["b"] * 2 - state["a"]

    ordered, other = {"a": jnp.ones(2), "b": jnp.ones(3)[0]}, {"b": jnp.ones(3)[0], "a": jnp.ones(2)}
    assert compared(lowered(step, other), lowered(step, ordered)).is_equal
    pairs = [lowered(lambda *xs: xs[0] * 2, *xs) for xs in ((jnp.ones(2), jnp.ones(3)), (jnp.ones(3), jnp.ones(2)))]
    assert not compared(*pairs).is_equal


def test_other_name_of_a_result_is_a_difference():
    """The name is part of the program, and of JAX's key for the persistent cache."""
    found = compared(lowered(lambda x: {"b": x}, BATCH), lowered(lambda x: {"a": x}, BATCH))

    assert [("result", "result 0")] == [(one.kind, one.what) for one in found.changes]


def test_name_of_the_function_is_a_difference():
    """The name shows that two files were mixed up."""

    def first(x):
        return x

    def second(x):
        return x

    assert "The name changed from jit_first to jit_second." == wording.summary(
        compared(lowered(second, BATCH), lowered(first, BATCH))
    )


def test_generic_and_pretty_form_are_compared_by_types_and_constants():
    """The sentence says so."""
    old, new = lowered(make_step(), STATE, BATCH), generic(make_step(0.002), STATE, BATCH, donate_argnums=0)
    found = compared(new, old)

    kinds = [one.kind for one in found.changes]
    assert ["form", "donation", "constant"] == kinds
    assert compare_texts(generic(make_step(), STATE, BATCH), generic(make_step(), STATE, BATCH)).is_equal
    assert ["state['w']", "x"] == [one.name for one in outline_of(new).arguments]


# Programs that do not differ


def test_same_program_is_equal():
    """Lowered twice, with and without locations, by a function that was defined again on another line."""
    first, again = (lowered(make_step(), STATE, BATCH, debug_info=debug) for debug in (True, False))

    assert "The programs are equal." == wording.summary(compared(first))
    assert compared(again).is_equal
    assert outline_of(first) == outline_of(again)


ODD = {
    "callback": lambda x: jax.pure_callback(np.sin, x, x) * 3,
    "print": lambda x: (jax.debug.print("{x}", x=x), x * 3)[1],
    "random": lambda x: x + jax.random.normal(jax.random.key(0), (3, 4)),
    "linalg": lambda x: jnp.linalg.svd(x)[1],
    "cond": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "while": lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x),
    "sort": lambda x: jnp.sort(x, axis=0),
    "conv": lambda x: jax.lax.conv(x[None, None], jnp.ones((1, 1, 2, 2)), (1, 1), "SAME"),
    "top_k": lambda x: jax.lax.top_k(x, 2),
    "grad": jax.grad(lambda x: jax.nn.softmax(x @ x.T).sum()),
    "int4": lambda x: x.astype(jnp.int4),
    "complex": lambda x: jnp.fft.fft(x) * (1 + 2j),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_programs_are_read_in_each_form(name):
    """Lowered twice they are equal; in the generic form they have the same types and constants."""

    def make(factor):
        def run(x):
            return ODD[name](x * factor)

        return run

    texts = [lowered(make(2.0), BATCH, debug_info=debug) for debug in (True, False)]
    forms = [generic(make(2.0), BATCH) for _ in range(2)]

    assert compared(texts[1], texts[0]).is_equal
    assert compared(forms[1], forms[0]).is_equal
    assert ["form"] == [one.kind for one in compare_texts(texts[0], forms[0]).changes]
    assert "The constant 2 changed to 1.5" in wording.summary(compared(lowered(make(1.5), BATCH), texts[0]))


def test_exported_program_is_read():
    """With symbolic sizes."""
    sizes = jax.export.symbolic_shape("b, 3")
    exported = jax.export.export(jax.jit(lambda x: jnp.sin(x) * 2))(jax.ShapeDtypeStruct(sizes, jnp.float32))
    outline = outline_of(exported.mlir_module())

    assert ["tensor<?x3xf32>"] == [one.type for one in outline.arguments]
    assert "jax.uses_shape_polymorphism = true" == outline.attributes


def test_other_locations_are_no_difference():
    """All of them replaced, aliases renumbered."""
    text = lowered(make_step(), STATE, BATCH)
    other = re.sub(r'"[^"\n]*\.py":\d+:\d+', '"/elsewhere/other.py":7:1', text)
    other = re.sub(r"#loc(\d+)", lambda found: f"#loc{int(found[1]) + 900}", other)

    assert text != other
    assert compared(other).is_equal


def test_other_names_of_values_are_no_difference():
    """Each value renamed."""
    text = lowered(make_step(), STATE, BATCH)
    renamed = re.sub(r"%([a-zA-Z]\w*|\d+)", lambda found: f"%value_{found[1]}x", text)

    assert renamed != text
    assert compared(renamed).is_equal
    assert outline_of(text).hash == outline_of(renamed).hash


def test_other_names_of_private_functions_are_no_difference():
    """Their counters depend on what was lowered before them."""
    text = lowered(make_step(), STATE, BATCH)
    assert "@_where" in text
    assert "@relu" in text
    renamed = text.replace("@_where", "@_where_17").replace("@relu", "@relu_3")

    assert compared(renamed).is_equal
    other = generic(make_step(), STATE, BATCH)
    renamed = other.replace("@_where", "@_where_17").replace('"_where"', '"_where_17"')
    assert compare_texts(other, renamed).is_equal


def test_other_target_of_a_custom_call_is_a_difference():
    """The target is a name, but not that of a function of the program."""
    line = "module @m {{\n  func.func public @main(%arg0: tensor<f32>) -> tensor<f32> {{\n    %0 = {}\n  }}\n}}\n"
    call = "stablehlo.custom_call @{}(%arg0) : (tensor<f32>) -> tensor<f32>"
    texts = [line.format(call.format(target)) for target in ("Sharding", "Other")]

    found = compared(texts[1], texts[0])
    assert [("Sharding", 1, 0), ("Other", 0, 1)] == [(one.what, one.before, one.after) for one in found.changes]
    assert not found.is_equal


# Outlines


def test_row_is_small_for_a_large_program():
    """Hundreds of arguments and layers take a few kilobytes, and the row has what the outline has."""

    def train(weights, x):
        for number, weight in enumerate(weights):
            x = jnp.tanh(x @ weight) + 0.001 * number
        return [weight * 0.9 for weight in weights], x

    weights = [jnp.ones((4, 4)) for _ in range(300)]
    outline = outline_of(lowered(train, weights, jnp.ones((2, 4)), donate_argnums=0))
    row = outline.row()

    assert len(json.dumps(row)) < 8_000
    assert 301 == outline.argument_count == len(outline.arguments)
    assert Outline.of_row(json.loads(json.dumps(row))).row() == row
    assert 301 == len(Outline.of_row(row).arguments)


def test_rows_of_large_programs_name_no_constant_that_is_in_both():
    """Both rows leave out constants; a constant is compared only if it is known whether the other program has it."""

    def text(values):
        lines = [
            f"    %{number} = stablehlo.constant dense<{value}> : tensor<i32>" for number, value in enumerate(values)
        ]
        return "module @m {\n  func.func public @main() {\n" + "\n".join(lines) + "\n  }\n}\n"

    old, new = text(range(10_000)), text([*range(5_000), *range(5_001, 10_000), 77_777])
    outlines = [Outline.of_row(outline_of(one).row()) for one in (old, new)]
    found = difference(*outlines)

    assert {one.before for one in found.changes} <= {"5000", None, 1}
    assert {one.after for one in found.changes} <= {"77777", None, 2}
    assert not found.is_equal


def test_hash_finds_the_place_of_the_first_difference():
    """Without texts, the place is known to within a power of two."""

    def text(changed=None):
        lines = [f"    %{n} = stablehlo.{'tanh' if n == changed else 'sine'} %arg0 : tensor<f32>" for n in range(5_000)]
        return "module @m {\n  func.func public @main(%arg0: tensor<f32>) {\n" + "\n".join(lines) + "\n  }\n}\n"

    old, new = (Outline.of_row(outline_of(one).row()) for one in (text(), text(3_000)))
    found = difference(old, new)
    assert 2_700 < found.same <= 3_000
    assert 3_000 == compare_texts(text(), text(3_000)).same


@pytest.mark.parametrize("row", [None, [], {}, {"version": 1}, {"version": 99}, "x", {"version": 1, "name": []}])
def test_invalid_row_is_a_value_error(row):
    """An index file may be truncated or from a different version."""
    with pytest.raises(ValueError, match="not the row of an outline"):
        Outline.of_row(row)


def test_row_with_invalid_parts_is_a_value_error():
    """Each part is replaced by a value of another type."""
    row = outline_of(lowered(make_step(), STATE, BATCH)).row()
    for name in row:
        for value in (None, "x", [1], {"of": 1}, -1, {"count": 1, "hash": "", "kinds": [], "runs": [[1, 5]]}):
            try:
                found = Outline.of_row(row | {name: value})
            except ValueError:
                continue
            json.dumps(found.row())
            difference(found, Outline.of_row(row))


def test_tally_knows_what_it_left_out():
    """Counts of kept keys are exact, even if others were left out."""
    tally = Tally(10)
    for _ in range(3):
        for number in range(1_000):
            tally.add(f"key {number}")

    assert 10 <= len(tally) <= 20
    assert {3} == {tally.get(key)[0] for key in tally}
    assert all(tally.knows(key) for key in tally)
    assert not all(tally.knows(f"key {number}") for number in range(1_000))


# Texts that are cut, hostile or none


@pytest.mark.parametrize(
    "text", ["", "\n" * 50, "HloModule jit_f\n", "\x00\x01", "}" * 99, "module", "#loc1 = loc(#loc1)"]
)
def test_text_that_is_no_program_has_no_operations(text):
    """The command line rejects such a text."""
    outline = outline_of(text)
    assert 0 == outline.total
    assert Outline.of_row(outline.row()).row() == outline.row()


def test_texts_of_a_program_are_cleaned():
    """Names, types and lines may have control characters for a terminal."""
    evil = 'module @m {\n  func.func public @main(%arg0: tensor<\x1b[31mf32> {mhlo.sharding = "\u202e\x07"}'
    evil += ' loc("\x1bx")) {\n'
    evil += '    %0 = stablehlo.\x1badd %arg0 : \u202etensor<f32> loc("\x1b\n'
    found = compare_texts("module @n {\n  func.func public @main() {\n  %0 = a.b\n", evil)
    texts = [wording.summary(found), *wording.changes(found), wording.position(found), json.dumps(found.row())]
    texts += [one.text + wording.place(one) for one in (found.before, found.after, *found.only_after) if one]
    assert [] == [text for text in texts if not text.isprintable()]


def test_locations_are_followed_to_the_users_code():
    """Through aliases, names, call sites and fused locations; a file of a library is used only if there is no other."""
    text = """#loc1 = loc("x")
module @m {
  func.func public @main(%arg0: tensor<f32> loc("x")) -> tensor<f32> {
    %0 = stablehlo.tanh %arg0 : tensor<f32> loc(#loc7)
    %1 = stablehlo.sine %arg0 : tensor<f32> loc(#loc9)
    %2 = stablehlo.add %arg0 : tensor<f32> loc(fused<"m">[#loc8, "/home/ada/b \\22q\\22.py":5:1])
    %3 = stablehlo.abs %arg0 : tensor<f32> loc(#loc99)
    %4 = stablehlo.exponential %arg0 : tensor<f32>
    return %4 : tensor<f32> loc(unknown)
  } loc(unknown)
} loc(unknown)
#loc = loc(unknown)
#loc2 = loc("/venv/lib/python3.11/site-packages/flax/dense.py":12:3 to :9)
#loc3 = loc("/home/ada/model.py":88:3 to :9)
#loc4 = loc("dense"(#loc2))
#loc5 = loc("model"(#loc3))
#loc6 = loc(callsite(#loc4 at #loc5))
#loc7 = loc("jit(f)/tanh"(#loc6))
#loc8 = loc(callsite(#loc8 at #loc))
#loc9 = loc("jit(f)/sine"(#loc4))
"""
    empty = "module @m {\n  func.func public @main(%arg0: tensor<f32>) -> tensor<f32> {\n  }\n}\n"
    only = {one.text.split()[2]: one.source for one in compare_texts(text, empty).only_before}

    assert "/home/ada/model.py:88" == only["stablehlo.tanh"]
    assert "/venv/lib/python3.11/site-packages/flax/dense.py:12" == only["stablehlo.sine"]
    assert '/home/ada/b "q".py:5' == only["stablehlo.add"]
    assert None is only["stablehlo.abs"]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1.000000e-03", "tensor<f32>", "0.001"),
        ("0.899999976", "tensor<f32>", "0.9"),
        ("0xFF800000", "tensor<f32>", "-inf"),
        ("0x7FC00000", "tensor<4xf32>", "nan"),
        ("0xFF80", "tensor<bf16>", "-inf"),
        ("0x7C00", "tensor<f16>", "inf"),
        ("0x7FF0000000000000", "tensor<f64>", "inf"),
        ("true", "tensor<i1>", "true"),
        ("-7", "tensor<i32>", "-7"),
        ("(1.0,2.0)", "tensor<complex<f32>>", "(1.0,2.0)"),
        ("0x" + "F" * 90, "tensor<f32>", "0x" + "F" * 90),
        ("0xZZ", "tensor<f32>", "0xZZ"),
    ],
)
def test_constants_are_written_as_people_do(value, kind, expected):
    """Infinities, which MLIR writes as bits, as well."""
    assert expected == wording.constant_text(value, kind)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tensor<8x4xf32>", "float32[8,4]"),
        ("tensor<f32>", "float32[]"),
        ("tensor<2xi1>", "bool[2]"),
        ("tensor<?x4xbf16>", "bfloat16[?,4]"),
        ("tensor<3xui8>", "uint8[3]"),
        ("tensor<complex<f32>>", "complex64[]"),
        ("!stablehlo.token", "!stablehlo.token"),
        ("no attributes", "no attributes"),
    ],
)
def test_types_are_written_as_jax_does(kind, expected):
    """`float32[8,4]` instead of MLIR's."""
    assert expected == wording.type_text(kind)


def test_sentence_is_short_whatever_differs():
    """Two programs without anything in common."""
    found = compared(lowered(lambda x: [x * number for number in range(40)], BATCH))

    text = wording.summary(found)
    assert text.count(",") < 12
    assert len(text) < 400
    assert re.search(r"and there are \d+ further differences\.$", text)
