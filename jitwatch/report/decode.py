"""Decodes records of the event log into events. A value of another type or out of range is ignored and counted.

The content of logs is not trusted. Records are checked here once, so that later code can rely on clean and bounded
texts, finite numbers in a sane range, and valid times. All numbers are read as floats, integers included, so that a
number of thousands of digits takes no longer than others.

The valid values of a field follow from its declaration in `model.events`: its type, and the unit at the end of its
name.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from jitwatch.model.cleaning import clean
from jitwatch.model.events import Event
from jitwatch.model.events.base import EVENT_TYPES
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL, OTHER_LABEL

Record = Mapping[str, Any]

#: Maximum length of a text; explanations have some hundred characters.
MAX_TEXT: Final = 1_000
#: Maximum number of elements of a list.
_MAX_LIST: Final = 256
#: Maximum duration in seconds.
_MAX_SECONDS: Final = 1e10
#: Smaller numbers are read as 0, so that no quotient of two numbers is too large for a float.
_LEAST: Final = 1e-9
#: The largest integer that a float represents exactly: 8 PiB, or a million events a second for 285 years.
_MAX_WHOLE: Final = 2**53
_MAX_INDEX: Final = 2**31
_MAX_RATIO: Final = 1e6
_MAX_AMOUNT: Final = 1e15
#: Years of valid times.
_YEARS: Final = range(1970, 2200)
_MAX_SHOWN: Final = 40
#: Maximum number of changes of a recompile.
_MAX_CHANGES: Final = 32


class MisfitError(ValueError):
    """A list has invalid elements.

    Args:
        rest: The valid elements.
        reasons: Why the others are invalid.
    """

    def __init__(self, rest: Any, reasons: list[str]) -> None:
        super().__init__(*reasons)
        self.rest = rest
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value that a field may have.

    Attributes:
        expected: Description of valid values, for messages.
        read: Returns the checked value; None if it is invalid.
    """

    expected: str
    read: Callable[[Any], Any]


Kinds = Mapping[str, Kind]


def fitting(record: Record, kinds: Kinds, misfits: list[str]) -> dict[str, Any]:
    """The declared fields of a record with a valid value; null is the same as a missing field.

    Args:
        record: The record as it was read.
        kinds: The kind of each field; other fields are ignored, since a newer version may write more.
        misfits: The list to which the reasons for invalid fields are added.
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
    """An invalid value as a short text."""
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
    # Times in this format are compared as texts.
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
    """A timestamp as a datetime; None for an empty or invalid one."""
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
    """The kind of a list of objects with these fields."""
    return Kind("a list of objects", _rows_of(kinds))


# The kinds of an event's fields

#: Kinds of fields that are lists of objects, by the name of the field; others are not read.
_ROWS: Final[Mapping[str, Kind]] = {
    "devices": rows(
        device=TEXT,
        device_kind=TEXT,
        platform=TEXT,
        stats_supported=FLAG,
        in_use_bytes=NUMBER,
        in_use_from=TEXT,
        peak_bytes=NUMBER,
        limit_bytes=NUMBER,
        in_use_ratio=RATIO,
        reserved_bytes=NUMBER,
        largest_free_block_bytes=NUMBER,
        live_arrays=NUMBER,
        live_array_bytes=NUMBER,
        problem=TEXT,
    ),
    "executables": rows(
        function=TEXT,
        total_bytes=NUMBER,
        argument_bytes=NUMBER,
        output_bytes=NUMBER,
        temporary_bytes=NUMBER,
        code_bytes=NUMBER,
        aliased_bytes=NUMBER,
        peak_bytes=NUMBER,
    ),
    "arrays": rows(shape=SHAPE, dtype=TEXT, sharding=TEXT, devices=TEXT, count=NUMBER, bytes=NUMBER),
    "pitfalls": rows(
        function=TEXT,
        name=TEXT,
        location=TEXT,
        call_site=TEXT,
        pitfall=TEXT,
        subject=TEXT,
        message=TEXT,
        advice=TEXT,
        lost_s=SECONDS,
    ),
}
#: Only the path of a change is read: call sites are distinguished by it.
_CHANGES: Final = rows(path=TEXT)
#: Fields of every record, besides those of its event.
COMMON: Final[Kinds] = {
    "timestamp": INSTANT,
    "schema": NUMBER,
    "run": TEXT,
    "process": TEXT,
    "process_index": INDEX,
    "seq": SEQUENCE,
}
_FUNCTION: Final[Kinds] = {"function": TEXT, "name": TEXT, "location": TEXT}


def kind_of(name: str, annotation: Any) -> Kind | None:
    """The kind of an event's field; None for a field that is not read.

    Args:
        name: Name of the field.
        annotation: Its type.
    """
    options = [one for one in get_args(annotation) if one is not type(None)]
    is_union = get_origin(annotation) in (Union, types.UnionType)
    if is_union and len(options) > 1:
        # A union of texts: a newer version may add further values.
        return TEXT if all(kind_of(name, one) is TEXT for one in options) else None
    if is_union:
        return kind_of(name, options[0])
    if get_origin(annotation) is Literal:
        return TEXT
    if get_origin(annotation) is tuple:
        inner = options[0]
        if inner is Change:
            return _CHANGES
        if get_origin(inner) is dict:
            return _ROWS.get(name)
        kind = kind_of("", inner)
        return TEXTS if kind is TEXT else SHAPE if kind is NUMBER else None
    if annotation is float:
        return SECONDS if name.endswith("_s") else RATIO if name.endswith("ratio") else AMOUNT
    return {str: TEXT, bool: FLAG, int: NUMBER}.get(annotation)


class _Decoder:
    """Creates events of one class from checked records.

    Args:
        event: The class.
    """

    def __init__(self, event: type[Event]) -> None:
        hints = get_type_hints(event)
        self.kinds: dict[str, Kind] = dict(COMMON)
        self.required = event.required
        self._event = event
        self._function: Any = None
        self._slots: list[Any] = []
        self._defaults: dict[str | None, Any] = {}
        self._converters: dict[str, Callable[[Any], Any]] = {}
        for one in fields(event):
            slot, annotation = getattr(event, one.name).__set__, hints[one.name]
            if annotation is Function:
                self.kinds |= _FUNCTION
                self._function = slot
                continue
            name = event.renamed.get(one.name, one.name)
            kind = None if one.name in event.hidden | event.log_only else kind_of(one.name, annotation)
            if kind is not None:
                self.kinds[name] = kind
                if get_origin(annotation) is tuple:
                    self._converters[name] = _changes if kind is _CHANGES else tuple
            self._slots.append(slot)
            self._defaults[name] = _default_of(one, annotation)
        # One call returns all values. Two unused names are added: with a single name, itemgetter returns no tuple.
        self._values = operator.itemgetter(*self._defaults, None, None)
        self._defaults[None] = None

    def event(self, record: Record) -> Event:
        """Create the event of a checked record, whose texts are clean already."""
        values = self._defaults.copy()
        values.update(record)
        for name, convert in self._converters.items():
            if name in record:
                values[name] = convert(record[name])
        made = self._event.__new__(self._event)
        if self._function is not None:
            self._function(made, _function(record["function"], record.get("name"), record.get("location")))
        # An event is frozen: its slots are set directly, as its own constructor does.
        for slot, value in zip(self._slots, self._values(values), strict=False):
            slot(made, value)
        return made


_decoders: dict[type[Event], _Decoder] = {}


def decoder_of(event: type[Event]) -> _Decoder:
    """The decoder of a class of events."""
    if event not in _decoders:
        _decoders[event] = _Decoder(event)
    return _decoders[event]


class Decoded(NamedTuple):
    """A checked record.

    Attributes:
        fields: The declared fields with a valid value.
        event: The event; None for an unknown event, or one without a required field.
        is_known: Whether this version knows the event.
        missing: Name of the required field that the record lacks.
    """

    fields: dict[str, Any]
    event: Event | None = None
    is_known: bool = False
    missing: str = ""


def decode(record: Record, misfits: list[str]) -> Decoded:
    """Check a record, and create its event.

    Args:
        record: A JSON object, with integers read as floats.
        misfits: The list to which the reasons for invalid fields are added.
    """
    name = record["event"]
    known = EVENT_TYPES.get(name) if type(name) is str else None
    if known is None:
        return Decoded(fitting(record, COMMON, misfits) | {"event": ""})
    decoder = decoder_of(known)
    found = fitting(record, decoder.kinds, misfits)
    found["event"] = name
    for required in decoder.required:
        if required not in found:
            return Decoded(found, is_known=True, missing=required)
    if known.repeated_kind:
        # The name of the event shows whether it was the first compile.
        found["nth"] = max(2, found.get("nth", 2)) if name == known.repeated_kind else 1
    return Decoded(found, decoder.event(found), is_known=True)


@functools.lru_cache(maxsize=4_096)
def _function(label: str, name: str | None, location: str | None) -> Function:
    is_shared = label in (JAX_LABEL, OTHER_LABEL)
    return Function(label, name or label, None if is_shared else location)


def _changes(found: list[dict[str, Any]]) -> tuple[Change, ...]:
    return tuple([_change(one["path"]) for one in found[:_MAX_CHANGES] if "path" in one])


@functools.lru_cache(maxsize=4_096)
def _change(path: str) -> Change:
    return Change(path, "unknown", "", "")


def _default_of(field: Field[Any], annotation: Any) -> Any:
    """The value of a field that is not in the record."""
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    if type(None) in get_args(annotation):
        return None
    return {str: "", float: 0.0, int: 0, bool: False}.get(annotation, () if get_origin(annotation) is tuple else "")
