"""Texts of programs that are cut, broken or hostile."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitwatch.programs import Outline, compare_texts, outline_of
from jitwatch.render import programs as wording
from tests.unit.lowering import BATCH, STATE, lowered, make_step


def test_cut_text_is_read_as_far_as_it_goes():
    """The text is cut at each hundredth character: the outline has the types and constants before, without an error."""
    text = lowered(make_step(), STATE, BATCH)
    for end in range(0, len(text), 101):
        found = compare_texts(text, text[:end])
        wording.summary(found)
        wording.changes(found)
    assert not compare_texts(text, text[: text.index("stablehlo.dot")]).is_equal


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_broken_text_is_never_an_error(data):
    """A real text with parts removed, repeated and replaced."""
    text = _REAL
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 400)))
        some = data.draw(
            st.sampled_from(['"', "(", ")", "{", "<", ">", "loc(", "%", "@", "\n", "\\", "dense<", " = ", "€\udc80"])
        )
        text = text[:start] + some * data.draw(st.integers(0, 3)) + text[end:]
    found = compare_texts(_REAL, text)
    assert found.is_equal or wording.summary(found)
    wording.changes(found)
    row = outline_of(text).row()
    assert Outline.of_row(json.loads(json.dumps(row))).row() == row
    assert len(json.dumps(row)) < 20_000


_REAL = lowered(make_step(), STATE, BATCH)


_MANY = 100_000


@pytest.mark.parametrize(
    "body",
    [
        '"' * _MANY,
        "%0 = stablehlo.add " + '\\"' * _MANY,
        '%0 = stablehlo.add "' + '\\"' * _MANY,
        "%0 = stablehlo.add %1 " + "loc(" * _MANY,
        '%0 = stablehlo.add %1 loc("' + "(" * _MANY,
        "%0 = a.b " + "%a" * _MANY,
        "%0 = a.b " + "%a = " * _MANY,
        "%0 = a.b " + "@a" * _MANY,
        "%0 = stablehlo.constant " + "dense<" * _MANY,
        '%0 = stablehlo.constant dense<"0x' + "AB" * _MANY,
        "%0 = stablehlo.constant dense<[" + "1.0, " * _MANY + "]> : tensor<9xf32>",
        "a." * _MANY,
        " " * _MANY,
        "func.func public @main(" + "(" * _MANY,
        "func.func public @main(" + "%arg: tensor<f32> loc(#loc1), " * 20_000,
        "func.func public @main(%a: t {" + "jax.result_info = " * _MANY,
        "func.func public @main(%a: t {" + "sdy.sharding = #sdy.sharding<" * _MANY,
        "module @m attributes {" + "x = {" * _MANY,
        "#loc1 = loc(callsite(#loc1 at #loc1))\n" * 20_000,
        "".join(f"%{n} = x.k{n}\n" for n in range(20_000)),
        "".join(f"%{n} = stablehlo.constant dense<{n}> : tensor<i{n}>\n" for n in range(20_000)),
        '"func.func"() <{function_type = ' + "(" * _MANY,
        "%0 = stablehlo.custom_call " + 'call_target_name = "' * _MANY,
    ],
    ids=str.__len__,
)
def test_hostile_text_takes_time_in_proportion(body):
    """Texts that take minutes with a quadratic pattern take seconds, and the row stays small."""
    text = f"module @m {{\n  func.func public @f(%arg0: tensor<4xf32>) {{\n{body}"
    started = time.process_time()
    found = compare_texts(text, f"{text[:-9]}\n%0 = x.y")
    wording.summary(found)
    outline = outline_of(text)
    assert time.process_time() - started < 20
    assert len(json.dumps(outline.row())) < 20_000


def test_long_line_among_the_locations_is_not_searched_for_each_argument():
    """Their number times its length would be minutes."""
    arguments = ", ".join(f"%arg{n}: tensor<f32> loc(#loc{n + 2})" for n in range(10_000))
    text = f'module @m {{\n  func.func public @main({arguments}) {{\n  }}\n}}\n#loc1 = loc("{"x" * 20_000_000}\n'
    started = time.process_time()
    assert 10_000 == outline_of(text).argument_count
    assert time.process_time() - started < 5
