"""Lines and tables: what does not fit goes, in the right order."""

from __future__ import annotations

from jitwatch.top.lines import Column, Span, cut, flowed, line, plain, table


def test_cut_shortens_the_span_that_goes_too_far():
    """And keeps the styles of the others."""
    assert (Span("one", "bold"), Span(" t…", "dim")) == cut(line(Span("one", "bold"), Span(" two", "dim"), "x"), 6)


def test_flowed_breaks_no_item():
    """What does not fit into the last line is left out, and a shorter one takes its place."""
    items = [Span("aaaa"), Span("bbbb"), Span("cccccccccc"), Span("d")]

    assert ["aaaa · bbbb"] == [plain(one) for one in flowed(items, 13, 1)]
    assert ["aaaa · bbbb", "cccccccccc"] == [plain(one) for one in flowed(items, 13, 2)]
    assert ["aaaa · d"] == [plain(one) for one in flowed(items, 8, 1)]


def test_table_aligns_and_cuts_names_only():
    """Figures are to the right, and whole."""
    first = Column("name", ["train_step", "f"])
    others = [Column("n", ["1", "1,200"]), Column("why", ["shape", ""], is_right=False)]

    assert ["name            n  why", "train_step      1  shape", "f           1,200"] == [
        plain(one) for one in table(first, others, 80, least=8)
    ]
    assert ["name          n  why", "train_s…      1  shape", "f         1,200"] == [
        plain(one) for one in table(first, others, 22, least=8)
    ]


def test_table_gives_up_columns_of_the_highest_rank_first():
    """Those of rank 0 stay, and then the line is cut."""
    first = Column("name", ["train_step"])
    others = [Column("aa", ["1"], 1), Column("bb", ["2"], 2), Column("cc", ["3"])]

    assert ["name        aa  cc", "train_step   1   3"] == [plain(one) for one in table(first, others, 18, least=10)]
    assert ["name        cc", "train_step   3"] == [plain(one) for one in table(first, others, 14, least=10)]
    assert ["…  …", "…  …"] == [plain(one) for one in table(first, others, 4, least=10)]
