"""Text that others made, cleaned where it enters."""

from __future__ import annotations

import io
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitwatch.model.cleaning import MAX_TEXT, clean, clean_lines, clean_record, cleaned, is_clean
from jitwatch.model.events import Compiled, CompileFailed, DonationViolation
from jitwatch.model.function import Change, Function
from jitwatch.render import donations
from tests.unit.hostile import HOSTILE, ascii_start, harm_in


def test_clean_leaves_nothing_that_steers():
    """Whatever it is; and once is enough."""
    assert [] == [(ascii_start(text), harm) for text in HOSTILE for harm in harm_in(clean(text))]
    assert [] == [ascii_start(text) for text in HOSTILE if clean(text) != clean(clean(text))]


@given(st.text(st.characters(exclude_categories=())))
def test_clean_leaves_nothing_that_steers_of_any_text(text):
    """Each character becomes one; those that can be read stay."""
    shown = clean(text)

    assert [] == harm_in(shown)
    assert len(text) == len(shown)
    assert all(one == other for one, other in zip(text, shown, strict=True) if other not in " ?")


@pytest.mark.parametrize(
    "text",
    [
        "", "a b", "train.<lambda>@train.py:88", "größe", "損失", "חישוב", "دالة", "x² · ∂f/∂x → 🙂", "a\u00a0b\u3000c",
        "{{ template }} [red] \"q\" 'q' \\n %s $x `y`",
    ],
)  # fmt: skip
def test_clean_leaves_names_of_every_language(text):
    """And quotes, markup and braces, which each output escapes for itself."""
    assert text == clean(text)


def test_clean_shows_line_breaks_and_tabs_as_blanks():
    """Words stay apart."""
    assert "a b c d e f" == clean("a\nb\tc\rd\u2028e\u2029f")


def test_clean_bounds_the_length():
    """A cut text ends with an ellipsis."""
    assert ("x" * 9 + "…", MAX_TEXT) == (clean("x" * 11, 10), len(clean("x" * 10**6)))


def test_clean_lines_keeps_lines():
    """And nothing else that steers; of whatever length."""
    assert f"a?[2J\n\n{'x' * 9_000}" == clean_lines(f"a\x1b[2J\n\n{'x' * 9_000}")


def test_clean_calls_nothing_of_the_users_class():
    """A subclass of str may answer as it likes."""

    class Trap(str):
        __slots__ = ()

        def isprintable(self):
            return True

        def __str__(self):
            raise AssertionError("must not be called")

        __repr__ = __len__ = __getitem__ = __iter__ = __str__

    found = cleaned((Trap("a\x1bb"),))

    assert (("a?b",), str) == (found, type(found[0]))


def test_cleaned_keeps_the_object_where_nothing_is_to_be_done():
    """Most facts are clean."""
    value = {"a": ("b", ["c", 1, 2.0, None, {"d": True}])}

    assert is_clean(value)
    assert value is cleaned(value)
    assert {"a?": ("b", ["c?", 1, None])} == cleaned({"a\x07": ("b", ["c\x9b", 1, None])})


def logged(text):
    """The lines of a log about an error: the message, its arguments, and the traceback with its notes."""
    logger = logging.Logger("jitwatch")
    logger.addFilter(clean_record)
    stream = io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    try:
        raise OSError(2, text, text) from ValueError(text)
    except OSError as error:
        error.add_note(text)
        logger.warning("%s failed", text, exc_info=error)
    return stream.getvalue()


def test_clean_record_leaves_no_line_of_a_log_that_steers():
    """What was logged is there, and cleaned."""
    lines = {text: logged(text) for text in HOSTILE}

    assert [] == [(ascii_start(text), harm) for text, found in lines.items() for harm in harm_in(found)]
    parts = ("Traceback (most recent call last):\n  File ", " failed\n")
    assert [] == [(ascii_start(text), part) for text, found in lines.items() for part in parts if part not in found]


def test_clean_record_raises_nothing():
    """Whoever logs is not to be disturbed, whatever is wrong with the record."""
    assert clean_record(logging.LogRecord("jitwatch", 30, "", 0, "%d", ("x",), None))
    assert clean_record(logging.LogRecord("jitwatch", 30, "", 0, "a", None, (None, None, None)))


def events_with(text):
    """Events whose functions, changes and own fields have this text."""
    function = Function(text, text, text)
    change = Change(text, "shape", text, text)
    return (
        Compiled(
            function=function, trace_s=0, lower_s=0, compile_s=0, changes=(change,), expected=text, thread=text,
            reason=text,
        ),
        CompileFailed(function=function, phase="trace", error=text, message=text, spent_s=0, call_site=text),
        DonationViolation(
            violation="use_after_donate", function=function, leaf=text, shape=(), dtype=text, bytes=0,
            donated_leaf=text, donated_at=text, donor=function,
        ),
    )  # fmt: skip


def test_every_event_is_clean_when_it_is_made():
    """Notes and warnings are as clean as the log."""
    events = {text: events_with(text) for text in HOSTILE}

    assert [] == [
        f"{ascii_start(text)}: {type(one).__name__}"
        for text, found in events.items()
        for one in found
        if not is_clean(one.payload())
    ]
    assert [] == [
        (ascii_start(text), harm) for text, found in events.items() for harm in harm_in(donations.note(found[2]))
    ]


def test_what_steers_is_known_by_its_category():
    """The corpus has each of them."""
    found = {unicodedata.category(one) for text in HOSTILE for one in text}

    assert {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} <= found
