"""What a field of a record may hold. A value of another type or out of range is left out and counted.

Records come from files that anybody may have written or damaged. They are checked here once, so that everything
behind can rely on texts that are clean and bounded, on finite numbers of sane size, and on times that exist. Numbers
are read as floats, whole ones too: a number of thousands of digits costs no more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from jitwatch.model.cleaning import clean

Record = Mapping[str, Any]

#: Characters kept of a text; an explanation has some hundred.
MAX_TEXT: Final = 1_000
#: Elements kept of a list.
_MAX_LIST: Final = 256
#: No run lasts longer, in seconds.
_MAX_SECONDS: Final = 1e10
#: Less is nothing, so that no quotient of two numbers is too large for a float.
_LEAST: Final = 1e-9
#: The largest whole number that a float holds exactly: 8 PiB, or a million events a second for 285 years.
_MAX_WHOLE: Final = 2**53
_MAX_INDEX: Final = 2**31
_MAX_RATIO: Final = 1e6
_MAX_AMOUNT: Final = 1e15
#: Times are from these years.
_YEARS: Final = range(1970, 2200)
_MAX_SHOWN: Final = 40


class FieldError(ValueError):
    """A record lacks a field without which it says nothing."""


class MisfitError(ValueError):
    """A list has elements that do not fit.

    Args:
        rest: Those that do.
        reasons: Why the others do not.
    """

    def __init__(self, rest: Any, reasons: list[str]) -> None:
        super().__init__(*reasons)
        self.rest = rest
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold.

    Attributes:
        expected: The same in words.
        read: The value as it is used from then on, None where it does not fit.
    """

    expected: str
    read: Callable[[Any], Any]


Kinds = Mapping[str, Kind]


def fitting(record: Record, kinds: Kinds, misfits: list[str]) -> dict[str, Any]:
    """The fields that are declared and fit; null is the same as none at all.

    Args:
        record: As it was read.
        kinds: What each field may hold; others are left out without a word, a newer version may write more.
        misfits: Where to add why a field is left out.
    """
    found = {}
    for name, value in record.items():
        kind = kinds.get(name)
        if kind is None or value is None:
            continue
        try:
            fits = kind.read(value)
        except MisfitError as error:
            fits = error.rest
            misfits += [f"{name}: {reason}" for reason in error.reasons]
        if fits is None:
            misfits.append(f"{name} is {shown(value)}, expected {kind.expected}")
        else:
            found[name] = fits
    return found


def shown(value: Any) -> str:
    """A value that does not fit, in a few characters."""
    if isinstance(value, str):
        return f"'{clean(value, _MAX_SHOWN)}'"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return str(value).lower() if isinstance(value, bool) or value is None else f"{value:g}"


# The kinds


def _text(value: Any) -> str | None:
    if type(value) is not str:
        return None
    return value if len(value) <= MAX_TEXT and value.isprintable() else clean(value, MAX_TEXT)


def _instant(value: Any) -> str | None:
    # In this form times sort as texts.
    if type(value) is not str or not 20 <= len(value) <= 32 or value[-1] != "Z":
        return None
    if value[10] != "T" or not value[4] == value[7] == "-":
        return None
    moment = parsed(value)
    return value if moment is not None and moment.year in _YEARS else None


def _flag(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _up_to(highest: float) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        # NaN fails both comparisons.
        if type(value) is not float or not 0 <= value <= highest:
            return None
        return value if value >= _LEAST else 0.0

    return read


def _whole(lowest: int, highest: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        return int(value) if type(value) is float and lowest <= value <= highest and value.is_integer() else None

    return read


def parsed(stamp: str) -> datetime | None:
    """A timestamp as a time; None for an empty or impossible one."""
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None


def _list_of(kind: Kind) -> Callable[[Any], Any]:
    def read(value: Any) -> list[Any] | None:
        if type(value) is not list:
            return None
        found = [kind.read(one) for one in value[:_MAX_LIST]]
        if None not in found:
            return found
        rest = [one for one in found if one is not None]
        odd = next(one for one, fits in zip(value, found, strict=False) if fits is None)
        raise MisfitError(rest, [f"{shown(odd)} in the list, expected {kind.expected}"])

    return read


def _rows_of(kinds: Kinds) -> Callable[[Any], Any]:
    def read(value: Any) -> list[dict[str, Any]] | None:
        if type(value) is not list:
            return None
        misfits: list[str] = []
        found = []
        for one in value[:_MAX_LIST]:
            if type(one) is dict:
                found.append(fitting(one, kinds, misfits))
            else:
                misfits.append(f"{shown(one)} in the list, expected an object")
        if misfits:
            raise MisfitError(found, misfits)
        return found

    return read


TEXT: Final = Kind("a text", _text)
INSTANT: Final = Kind(f"a time in UTC from {_YEARS[0]} to {_YEARS[-1]}, as 2025-03-01T12:00:00.000Z", _instant)
FLAG: Final = Kind("true or false", _flag)
SECONDS: Final = Kind(f"seconds from 0 to {_MAX_SECONDS:g}", _up_to(_MAX_SECONDS))
RATIO: Final = Kind(f"a number from 0 to {_MAX_RATIO:g}", _up_to(_MAX_RATIO))
AMOUNT: Final = Kind(f"a number from 0 to {_MAX_AMOUNT:g}", _up_to(_MAX_AMOUNT))
NUMBER: Final = Kind(f"a whole number from 0 to {_MAX_WHOLE:g}", _whole(0, _MAX_WHOLE))
SEQUENCE: Final = Kind(f"a whole number from 1 to {_MAX_WHOLE:g}", _whole(1, _MAX_WHOLE))
INDEX: Final = Kind(f"a whole number from 0 to {_MAX_INDEX:g}", _whole(0, _MAX_INDEX))
TEXTS: Final = Kind("a list of texts", _list_of(TEXT))
SHAPE: Final = Kind("a list of whole numbers", _list_of(NUMBER))


def rows(**kinds: Kind) -> Kind:
    """A list of objects with these fields."""
    return Kind("a list of objects", _rows_of(kinds))


# What is in a record that was checked


def text(record: Record, name: str) -> str | None:
    """A text; None where there is none."""
    return record.get(name)


def needed(record: Record, name: str) -> str:
    """A text that must be there.

    Raises:
        FieldError: It is not.
    """
    value: str | None = record.get(name)
    if value is None:
        raise FieldError(name)
    return value


def number(record: Record, name: str) -> float:
    """A number; 0 where there is none."""
    value: float = record.get(name, 0.0)
    return value


def whole(record: Record, name: str) -> int | None:
    """A whole number; None where there is none."""
    return record.get(name)


def instant(record: Record) -> str:
    """The timestamp, which sorts as text; empty where there is none."""
    value: str = record.get("timestamp", "")
    return value
