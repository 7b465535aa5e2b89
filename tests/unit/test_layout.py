"""Text in columns of a terminal: its width, cut, wrapped, in lines of items and in tables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitwatch.model.cleaning import clean
from jitwatch.render import formats
from jitwatch.render.layout import fit, flowed, table, width, wrapped

FEW = settings(max_examples=40)


def texts(lines) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


@FEW
@given(st.text(max_size=60), st.integers(0, 30))
def test_fit_keeps_the_width(text, columns):
    """Wide and combining characters are counted as a terminal does."""
    assert width(fit(clean(text), columns)) <= columns


def test_fit_marks_a_cut_text():
    """An ellipsis is in the last column; a wide character that does not fit is left out as a whole."""
    assert ("train_step", "train_s…", "模…") == (fit("train_step", 10), fit("train_step", 8), fit("模型名", 4))


@FEW
@given(st.text(max_size=200), st.integers(0, 40), st.integers(0, 4))
def test_wrapped_keeps_width_and_number_of_lines(text, columns, lines):
    """Any text is wrapped into the given size."""
    found = wrapped(clean(text), columns, lines)

    assert len(found) <= lines
    assert all(width(line) <= columns for line in found)


def test_wrapped_marks_a_cut_text():
    """The last line is full and ends with an ellipsis."""
    assert ["one two", "  thre…"] == wrapped("one two three four", 7, 2)


def test_flowed_breaks_no_item():
    """An item that does not fit into the last line is left out, and a shorter one takes its place."""
    items = [("aaaa", ""), ("bbbb", ""), ("cccccccccc", ""), ("d", "")]

    assert [] == flowed([], 13, 1)
    assert ["aaaa · bbbb"] == texts(flowed(items, 13, 1))
    assert ["aaaa · bbbb", "cccccccccc"] == texts(flowed(items, 13, 2))
    assert ["aaaa · d"] == texts(flowed(items, 8, 1))


def rows(**columns: list[str]) -> list[dict[str, tuple[str, str]]]:
    """Rows of these columns; an empty text is no value."""
    return [
        {title: (text, "") for title, text in zip(columns, cells, strict=True) if text}
        for cells in zip(*columns.values(), strict=True)
    ]


def test_table_aligns_and_shortens_names_only():
    """Numbers are right-aligned and whole; what has no value is a dash."""
    found = rows(name=["train_step", "f"], n=["1", "1,200"], why=["shape", ""])
    ranks = dict.fromkeys(("name", "n", "why"), 0)

    assert ["name            n  why  ", "train_step      1  shape", "f           1,200  –    "] == texts(
        table(ranks, found, 80, left={"why"})
    )
    assert ["name          n  why  ", "train_s…      1  shape", "f         1,200  –    "] == texts(
        table(ranks, found, 22, left={"why"})
    )


def test_table_leaves_out_columns_of_the_highest_rank_first():
    """Those of rank 0 stay, whatever room there is."""
    found, ranks = rows(name=["train_step"], aa=["1"], bb=["2"], cc=["3"]), {"name": 0, "aa": 1, "bb": 2, "cc": 0}

    assert ["name        aa  cc", "train_step   1   3"] == texts(table(ranks, found, 18))
    assert ["name        cc", "train_step   3"] == texts(table(ranks, found, 14))
    assert ["…  cc", "…   3"] == texts(table(ranks, found, 4))


def test_table_leaves_out_columns_without_a_value():
    """Those of rank 0 stay."""
    assert ["name  bb", "f      –"] == texts(table({"name": 0, "aa": 1, "bb": 0}, rows(name=["f"], aa=[""]), 80))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (599, "9 min 59 s"),
        (600, "10 min"), (3700, "1 h 01 min"), (90_000, "1 d 01 h"),
    ],
)  # fmt: skip
def test_duration_has_two_units_at_most(seconds, expected):
    """Seconds, minutes, hours and days."""
    assert expected == formats.duration(seconds)
