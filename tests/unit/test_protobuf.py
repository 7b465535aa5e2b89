"""The reader of Protocol Buffers: fields, limits, and bytes that are no message."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitwatch.system.protobuf import NUMBER, MalformedError, encoded, fields, packed, text, varint


def field(number: int, value: int | bytes) -> bytes:
    """A field as it is written."""
    if isinstance(value, int):
        return encoded(number << 3) + encoded(value)
    return encoded(number << 3 | 2) + encoded(len(value)) + value


def test_fields_are_numbers_or_positions():
    """A number has its value, any other field the position of its bytes; nothing is copied."""
    data = field(1, 300) + field(70, b"abc") + encoded(3 << 3 | 1) + bytes(8) + encoded(4 << 3 | 5) + bytes(4)
    found = list(fields(data))

    assert (1, 300, NUMBER) == found[0]
    assert [70, 3, 4] == [number for number, _, _ in found[1:]]
    assert [b"abc", bytes(8), bytes(4)] == [data[start:end] for _, start, end in found[1:]]


def test_negative_numbers_are_negative():
    """As in `int64`, they have ten bytes."""
    assert [(1, -1, NUMBER)] == list(fields(field(1, -1)))
    assert [-5, 7] == list(packed(encoded(-5) + encoded(7), 0, 11))
    assert [9] == list(packed(b"", 9, NUMBER))


def test_text_is_cut_and_never_refused():
    """Bytes that are not valid text are replaced."""
    assert ("ab", "", "\ufffd") == (text(b"abc", 0, 3, 2), text(b"abc", 5, NUMBER, 2), text(b"\xff", 0, 1, 9))


@given(st.integers(0, 2**64 - 1))
def test_number_is_read_as_it_was_written(value):
    """All 64 bits are kept."""
    data = encoded(value)
    assert (value, len(data)) == varint(data, 0, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08\x80",  # a number that is cut
        b"\x08" + b"\xff" * 11,  # a number that is too long
        b"\x12\x05abc",  # bytes that are cut
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # longer than any memory
        b"\x09\x00",  # a number of eight bytes that is cut
        b"\x00\x00",  # the field 0
        b"\x0b",  # a group
        b"\x0f",  # no type
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    """Any such bytes raise the same error."""
    with pytest.raises(MalformedError):
        list(fields(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    """No other error is raised, and no field is outside of the bytes."""
    try:
        found = list(fields(data))
    except MalformedError:
        return
    assert all(end == NUMBER or 0 <= start <= end <= len(data) for _, start, end in found)


def test_time_is_linear():
    """The message has a megabyte of the smallest fields."""
    started = time.thread_time()
    assert 500_000 == sum(1 for _ in fields(b"\x08\x00" * 500_000))
    assert time.thread_time() - started < 10
