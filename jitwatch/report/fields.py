"""Fields of a record that somebody else wrote: of the right type and size, or as if they were absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

#: Characters kept of a text; an explanation has some hundred.
MAX_TEXT = 1_000
#: Elements kept of a list.
_MAX_LIST = 32
#: No run lasts so many seconds, and no memory has so many bytes.
_MAX_NUMBER = 1e18


class FieldError(ValueError):
    """A record lacks a field without which it says nothing."""


def text(record: Record, name: str) -> str | None:
    """A text, shortened; None where there is none."""
    value: Any = record.get(name)
    if type(value) is not str:
        return None
    return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"


def needed(record: Record, name: str) -> str:
    """A text that must be there.

    Raises:
        FieldError: It is not.
    """
    value = text(record, name)
    if value is None:
        raise FieldError(name)
    return value


def number(record: Record, name: str) -> float:
    """A number from 0 up; 0 where there is none."""
    value: Any = record.get(name)
    # NaN fails both comparisons. A bool is no number.
    if type(value) is float:
        return value if 0 <= value < _MAX_NUMBER else 0.0
    return float(value) if type(value) is int and 0 <= value < _MAX_NUMBER else 0.0


def whole(record: Record, name: str) -> int | None:
    """A whole number from 0 up; None where there is none."""
    value: Any = record.get(name)
    return int(value) if type(value) in (float, int) and 0 <= value < _MAX_NUMBER else None


def texts(record: Record, name: str) -> tuple[str, ...]:
    """The texts of a list; none where there is no list."""
    value: Any = record.get(name)
    return tuple([one for one in value[:_MAX_LIST] if type(one) is str]) if type(value) is list else ()


def rows(record: Record, name: str, limit: int = _MAX_LIST) -> Sequence[Record]:
    """The objects of a list; none where there is no list."""
    value: Any = record.get(name)
    return [one for one in value[:limit] if type(one) is dict] if type(value) is list else []


def shape(record: Record, name: str) -> list[int]:
    """The whole numbers of a list."""
    value: Any = record.get(name)
    return [one for one in value[:_MAX_LIST] if type(one) is int] if type(value) is list else []


def instant(record: Record) -> str:
    """The timestamp, which sorts as text; empty where there is none that does."""
    value: Any = record.get("timestamp")
    is_stamp = type(value) is str and 20 <= len(value) <= 35 and value[4] == "-" and value[10] == "T"
    return value if is_stamp and value[-1] == "Z" else ""
