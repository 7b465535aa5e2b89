"""Text in the columns of a terminal: nothing steers it, nothing is wider than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitwatch.top.cells import clean, fit, padded, short_name, size, size_of, width, wrapped


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("train.<lambda>@train.py:88", "train.<lambda>@train.py:88"),
        ("[bold red]x[/] <locals>", "[bold red]x[/] <locals>"),
        ("length 11 → 12", "length 11 → 12"),
        ("a\x1b[2Jb", "a?[2Jb"),
        ("a\x9b2Jb\x07", "a?2Jb?"),
        ("one\ntwo\tthree\r", "one two three "),
        ("\u202egnp.exe", "?gnp.exe"),
        ("\ud800", "?"),
        ("a\u2028b\u200bc", "a b?c"),
        (None, ""),
        (7, ""),
        (["x"], ""),
    ],
)
def test_clean_leaves_what_can_be_read_and_nothing_that_steers(value, expected):
    """Escapes, direction marks and what is no text at all are gone; brackets and arrows stay."""
    assert expected == clean(value)


@given(st.text())
def test_clean_text_is_printable(text):
    """Whatever came, every character is one that a terminal shows."""
    assert all(one.isprintable() or (one.isspace() and one not in "\n\r\t\x0b\x0c") for one in clean(text))


def test_clean_shortens_what_has_no_end():
    """A job cannot fill our memory by a name."""
    assert 1000 == len(clean("x" * 10_000))


@given(st.text(max_size=60), st.integers(0, 30))
def test_fit_and_padded_keep_the_width(text, columns):
    """Wide and combining characters are counted as a terminal does."""
    text = clean(text)

    assert width(fit(text, columns)) <= columns
    assert columns == width(padded(text, columns)) == width(padded(text, columns, is_right=True))


def test_fit_says_that_it_cut():
    """By an ellipsis in the last column; a wide character that does not fit is left out whole."""
    assert ("train_step", "train_s…", "模…") == (fit("train_step", 10), fit("train_step", 8), fit("模型名", 4))


@given(st.text(max_size=200), st.integers(0, 40), st.integers(0, 4))
def test_wrapped_keeps_width_and_number_of_lines(text, columns, lines):
    """Whatever the text."""
    found = wrapped(clean(text), columns, lines, indent="  ")

    assert len(found) <= lines
    assert all(width(line) <= columns for line in found)


def test_wrapped_says_that_there_is_more():
    """The last line is full and ends with an ellipsis."""
    assert ["one two", "  thre…"] == wrapped("one two three four", 7, 2, indent="  ")


@pytest.mark.parametrize(
    ("label", "columns", "expected"),
    [
        ("train.train_step", 16, "train.train_step"),
        ("train.train_step", 15, "train_step"),
        ("train.train_step", None, "train_step"),
        ("train.train_step", 5, "trai…"),
        ("train.make.<locals>.loss@train.py:9", 15, "loss@train.py:9"),
        ("train.make.<locals>.loss@train.py:9", 14, "loss"),
        ("train.make.<locals>.loss@train.py:9", None, "loss"),
        ("train.<lambda>@train.py:88", None, "<lambda>@train.py:88"),
        ("train.<lambda>@train.py:88", 12, "<lambda>@tr…"),
        ("train.Model.step", 10, "step"),
        ("odd.", 3, "od…"),
        ("", 3, ""),
    ],
)
def test_short_name_keeps_what_tells_functions_apart(label, columns, expected):
    """The module goes first, then the place, but not that of a lambda."""
    assert expected == short_name(label, columns)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 B"), (999, "999 B"), (16_640, "16.2 KiB"), (500 * 2**20, "500 MiB"), (34.25 * 2**30, "34.2 GiB"),
     (2**60, "1048576 TiB")],
)  # fmt: skip
def test_size_has_three_digits(number, expected):
    """In the unit that a person would use."""
    assert expected == size(number)


def test_size_of_names_a_common_unit_once():
    """As a person would say it."""
    assert ("34.0 of 80.0 GiB", "34.0 MiB of 80.0 GiB") == (
        size_of(34 * 2**30, 80 * 2**30),
        size_of(34 * 2**20, 80 * 2**30),
    )
