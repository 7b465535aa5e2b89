"""Reads the wire format of Protocol Buffers: the fields of a message, without its schema.

The content is not trusted: each length is checked, nothing is copied, nested messages are read only by the caller, and
the time is linear in the number of fields. Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

#: The end of a field that is a number.
NUMBER = -1
_MAX_SHIFT = 63
_ALL_BITS = (1 << 64) - 1
_SIGN = 1 << 63


class MalformedError(ValueError):
    """Bytes that are not a message, or that end within one."""


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of a message: the field's number, and its value with `NUMBER`, or where its bytes start and end.

    Numbers of fixed size are bytes, too; a negative number is as in `int64`.

    Raises:
        MalformedError: The bytes are not a message; the fields before were.
    """
    end = len(data) if end is None else end
    while start < end:
        key = data[start]
        if key < 0x80:
            start += 1
        else:
            key, start = varint(data, start, end)
        kind, number = key & 7, key >> 3
        if not number:
            raise MalformedError("a field has the number 0")
        if kind == 0:
            value, start = varint(data, start, end)
            yield number, value - (1 << 64) if value >= _SIGN else value, NUMBER
            continue
        if kind == 2:
            length, start = varint(data, start, end)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise MalformedError(f"a field has the type {kind}")
        if length > end - start:
            raise MalformedError("the bytes end within a field")
        yield number, start, start + length
        start += length


def varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the unsigned number of variable length at a position, and where it ends."""
    value = shift = 0
    while start < end:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _ALL_BITS, start
        shift += 7
        if shift > _MAX_SHIFT:
            raise MalformedError("a number is too long")
    raise MalformedError("the bytes end within a number")


def packed(data: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the numbers of a packed repeated field, or the only one if `end` is `NUMBER`."""
    if end == NUMBER:
        yield start
        return
    while start < end:
        value, start = varint(data, start, end)
        yield value - (1 << 64) if value >= _SIGN else value


def encoded(value: int) -> bytes:
    """Return a whole number as a number of variable length."""
    value &= _ALL_BITS
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def text(data: bytes, start: int, end: int, limit: int) -> str:
    """Return a string field, cut to so many bytes; empty for a number."""
    return data[start : min(end, start + limit)].decode("utf-8", "replace") if end != NUMBER else ""
