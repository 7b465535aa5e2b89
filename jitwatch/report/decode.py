"""Decodes records of the event log into events. A value of another type or out of range is ignored and counted.

The content of logs is not trusted. Records are checked here once, so that later code can rely on clean and bounded
texts, finite numbers in a sane range, and valid times. All numbers are read as floats, integers included, so that a
number of thousands of digits takes no longer than others.

The valid values of a field follow from its declaration in `model.events`: its type, and the unit at the end of its
name.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from datetime import datetime
from typing import (
    Any,
    Final,
    Literal,
    NamedTuple,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from jitwatch.model.cleaning import clean
from jitwatch.model.events import Compiled, Event
from jitwatch.model.events.base import EVENT_TYPES
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL, OTHER_LABEL

Record = Mapping[str, Any]

#: Maximum length of a text; explanations have some hundred characters.
MAX_TEXT: Final = 1_000
#: Maximum number of elements of a list.
_MAX_LIST: Final = 256
#: Maximum number of elements of a list of texts that is cached.
_MAX_CACHED: Final = 4
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
_FIRST_YEAR: Final = str(_YEARS.start)
_END_YEAR: Final = str(_YEARS.stop)
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
        highest: The largest valid value of a number that is read as a float; -1 for other kinds.
    """

    expected: str
    read: Callable[[Any], Any]
    highest: float = -1.0


Kinds = Mapping[str, Kind]


def fitting(record: Record, kinds: Kinds, misfits: list[str]) -> dict[str, Any]:
    """The declared fields of a record with a valid value; null is the same as a missing field.

    Args:
        record: The record as it was read.
        kinds: The kind of each field; other fields are ignored, since a newer version may write more.
        misfits: The list to which the reasons for invalid fields are added.
    """
    found = {}
    for name, kind in kinds.items():
        value = record.get(name)
        if value is not None and (fits := _checked(name, value, kind, misfits)) is not None:
            found[name] = fits
    return found


def _checked(name: str, value: Any, kind: Kind, misfits: list[str]) -> Any:
    """The checked value of a field; None if it is invalid."""
    try:
        fits = kind.read(value)
    except MisfitError as error:
        misfits += [f"{name}: {reason}" for reason in error.reasons]
        return error.rest
    if fits is None:
        misfits.append(f"{name} is {shown(value)}, expected {kind.expected}")
    return fits


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


_from_text: Final = datetime.fromisoformat


def _moment(value: Any) -> datetime | None:
    # Times in this format are compared as texts.
    if type(value) is not str or not 20 <= len(value) <= 32 or value[-1] != "Z":
        return None
    if value[10] != "T" or not value[4] == value[7] == "-" or not _FIRST_YEAR <= value < _END_YEAR:
        return None
    try:
        return _from_text(value)
    except ValueError:
        return None


def _instant(value: Any) -> str | None:
    return value if _moment(value) is not None else None


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
        return _from_text(stamp)
    except ValueError:
        return None


def _list_of(kind: Kind, make: Callable[[Iterable[Any]], Any] = tuple) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not list:
            return None
        if kind is TEXT and len(value) <= _MAX_CACHED:
            try:
                return make(_texts(*value))
            except TypeError:  # not all are texts
                pass
        found = [kind.read(one) for one in value[:_MAX_LIST]]
        if None not in found:
            return make(found)
        rest = make([one for one in found if one is not None])
        odd = next(one for one, fits in zip(value, found, strict=False) if fits is None)
        raise MisfitError(rest, [f"{shown(odd)} in the list, expected {kind.expected}"])

    return read


@functools.lru_cache(maxsize=256)
def _texts(*values: Any) -> tuple[str, ...]:
    """The values, such as the causes of a compile, of which there are few.

    Raises:
        TypeError: Not all are valid texts. An error is not cached, and the values may be large.
    """
    if not all(type(one) is str and _text(one) == one for one in values):
        raise TypeError
    return values


def _rows_of(kinds: Kinds, make: Callable[[list[dict[str, Any]]], Any] = tuple) -> Callable[[Any], Any]:
    read_row = _row_reader(kinds)

    def read(value: Any) -> Any:
        if type(value) is not list:
            return None
        misfits: list[str] = []
        found = []
        for one in value[:_MAX_LIST]:
            if type(one) is dict:
                found.append(read_row(one, misfits))
            else:
                misfits.append(f"{shown(one)} in the list, expected an object")
        if misfits:
            raise MisfitError(make(found), misfits)
        return make(found)

    return read


TEXT: Final = Kind("a text", _text)
INSTANT: Final = Kind(f"a time in UTC from {_YEARS[0]} to {_YEARS[-1]}, as 2025-03-01T12:00:00.000Z", _instant)
FLAG: Final = Kind("true or false", _flag)
SECONDS: Final = Kind(f"seconds from 0 to {_MAX_SECONDS:g}", _up_to(_MAX_SECONDS), _MAX_SECONDS)
RATIO: Final = Kind(f"a number from 0 to {_MAX_RATIO:g}", _up_to(_MAX_RATIO), _MAX_RATIO)
AMOUNT: Final = Kind(f"a number from 0 to {_MAX_AMOUNT:g}", _up_to(_MAX_AMOUNT), _MAX_AMOUNT)
NUMBER: Final = Kind(f"a whole number from 0 to {_MAX_WHOLE:g}", _whole(0, _MAX_WHOLE))
SEQUENCE: Final = Kind(f"a whole number from 1 to {_MAX_WHOLE:g}", _whole(1, _MAX_WHOLE))
INDEX: Final = Kind(f"a whole number from 0 to {_MAX_INDEX:g}", _whole(0, _MAX_INDEX))
_PLURAL: Final = {TEXT: "texts", NUMBER: "whole numbers"}


# Functions that check many fields


def _row_reader(kinds: Kinds) -> Callable[[Record, list[str]], dict[str, Any]]:
    """A function that does the same as `fitting` for these kinds."""
    lines = ["def read(record, misfits):", " get, found = record.get, {}"]
    for name, kind in kinds.items():
        lines += _checking(name, kind, f"found[{name!r}]", "pass", "pass")
    return _executed([*lines, " return found"], {"checked": _checked, "kinds": kinds})


def _checking(name: str, kind: Kind, target: str, absent: str, invalid: str) -> Iterator[str]:
    """Statements that set a target to the checked value of a field.

    They run for each line of a log: a loop over the fields takes twice as long. Most fields need no call.

    Args:
        name: Name of the field in the record.
        kind: Its kind.
        target: What is assigned to.
        absent: Statements for a missing field.
        invalid: Statements for an invalid one.
    """
    yield f" value = get({name!r})"
    yield f" if value is None: {absent}"
    if kind is TEXT:
        yield f" elif type(value) is str and len(value) <= {MAX_TEXT} and value.isprintable(): {target} = value"
    elif kind is NUMBER:
        yield f" elif type(value) is float and 0 <= value <= {_MAX_WHOLE} and value.is_integer(): {target} = int(value)"
    elif kind is FLAG:
        yield f" elif value is True or value is False: {target} = value"
    elif kind.highest > 0:
        yield f" elif type(value) is float and {_LEAST!r} <= value <= {kind.highest!r}: {target} = value"
    yield " else:"
    yield f"  value = checked({name!r}, value, kinds[{name!r}], misfits)"
    yield f"  if value is None: {invalid}"
    yield f"  else: {target} = value"


def _executed(lines: list[str], known: dict[str, Any]) -> Callable[..., Any]:
    """The function `read` of a source."""
    exec("\n".join(lines), known)  # noqa: S102 - only names of fields that are declared
    return known["read"]  # type: ignore[no-any-return]


# The kinds of an event's fields


@functools.lru_cache(maxsize=4_096)
def _change(path: Any) -> Change:
    """The change of a path.

    Raises:
        TypeError: It is invalid. An error is not cached, and the path may be large.
    """
    if path is None or _text(path) != path:
        raise TypeError
    return Change(path, "unknown", "", "")


def _changes(value: Any) -> tuple[Change, ...] | None:
    """The changes of a list of objects. Only their paths are read: call sites are distinguished by them."""
    try:
        return tuple([_change(one["path"]) for one in value[:_MAX_CHANGES]])
    except (LookupError, TypeError):  # another type
        return _each_change(value)  # type: ignore[no-any-return]


_each_change: Final = _rows_of(
    {"path": TEXT}, lambda rows: tuple([_change(one["path"]) for one in rows[:_MAX_CHANGES] if "path" in one])
)
_CHANGES: Final = Kind("a list of objects", _changes)


#: Fields of every record, besides those of its event.
COMMON: Final[Kinds] = {
    "timestamp": INSTANT,
    "seq": SEQUENCE,
    "schema": NUMBER,
    "run": TEXT,
    "process": TEXT,
    "process_index": INDEX,
}
_FUNCTION: Final[Kinds] = {"function": TEXT, "name": TEXT, "location": TEXT}


def kind_of(name: str, annotation: Any) -> Kind | None:
    """The kind of an event's field; None for a field that is not read.

    Args:
        name: Name of the field.
        annotation: Its type.
    """
    origin, options = get_origin(annotation), [one for one in get_args(annotation) if one is not type(None)]
    if origin is NotRequired:
        return kind_of(name, options[0])
    if origin in (Union, types.UnionType):
        kinds = {kind_of(name, one) for one in options}
        # A union of texts: a newer version may add further values.
        return kinds.pop() if len(kinds) == 1 else None
    if origin is Literal:
        return TEXT
    if origin in (tuple, list):
        return _kind_of_list(options[0], origin)
    if annotation is float:
        return SECONDS if name.endswith("_s") else RATIO if name.endswith("ratio") else AMOUNT
    return {str: TEXT, bool: FLAG, int: NUMBER}.get(annotation)


def _kind_of_list(element: Any, make: Callable[[Iterable[Any]], Any]) -> Kind | None:
    if element is Change:
        return _CHANGES
    if is_typeddict(element):
        hints = get_type_hints(element, include_extras=True)
        kinds = {name: kind for name, hint in hints.items() if (kind := kind_of(name, hint)) is not None}
        return Kind("a list of objects", _rows_of(kinds, make))
    kind = kind_of("", element)
    return Kind(f"a list of {_PLURAL[kind]}", _list_of(kind, make)) if kind in _PLURAL else None


class _Decoder:
    """Creates events of one class from records.

    Args:
        event: The class.

    Attributes:
        kinds: The kind of each field that is read.
        event: Creates the event of a record, with the defaults for missing and invalid fields, from the record, its
            field `event`, and the list to which the reasons for invalid fields are added. Returns the event and "";
            or None, and the name of the first required field without a valid value.
    """

    def __init__(self, event: type[Event]) -> None:
        self._event = event
        hints = get_type_hints(event)
        self.kinds: dict[str, Kind] = {}
        #: Name and default of a field of an event, by the field's name in the record.
        self._fields: dict[str, tuple[str, Any]] = {}
        #: The same for fields that are not read.
        self._unread: list[tuple[str, Any]] = []
        self._function = ""
        for one in fields(event):
            annotation = hints[one.name]
            if annotation is Function:
                self._function = one.name
                self.kinds |= _FUNCTION
                continue
            default = _default_of(one, annotation)
            kind = None if one.name in event.hidden | event.log_only else kind_of(one.name, annotation)
            if kind is None:
                self._unread.append((one.name, default))
                continue
            name = event.renamed.get(one.name, one.name)
            self.kinds[name] = kind
            self._fields[name] = one.name, default
        self.event: Callable[[Record, str, list[str]], tuple[Event | None, str]] = self._compiled()

    def _compiled(self) -> Callable[[Record, str, list[str]], tuple[Event | None, str]]:
        event = self._event
        known: dict[str, Any] = {"checked": _checked, "kinds": self.kinds, "event": event, "draft": _draft_of(event)}
        known |= {"new": object.__new__, "function_of": _function, "checked_function": _checked_function}
        lines = ["def read(record, name, misfits):", " get, invalid, made = record.get, [], new(draft)"]
        if self._function:
            lines += [
                " try: function = function_of(get('function'), get('name'), get('location'))",
                " except TypeError: function = checked_function(record, misfits)",
                f" made.{self._function} = function",
            ]
        for number, (name, (attribute, default)) in enumerate(self._fields.items()):
            known[f"default_{number}"] = default
            use_default = f"made.{attribute} = default_{number}"
            lines += _checking(
                name, self.kinds[name], f"made.{attribute}", use_default, f"{use_default}; invalid.append({name!r})"
            )
        for number, (attribute, default) in enumerate(self._unread, len(self._fields)):
            known[f"default_{number}"] = default
            lines.append(f" made.{attribute} = default_{number}")
        for name in event.required:
            is_missing = "not function.label" if name == "function" else f"get({name!r}) is None or {name!r} in invalid"
            lines.append(f" if {is_missing}: return None, {name!r}")
        if event is Compiled:
            # The name of the event shows whether it was the first compile.
            lines.append(f" if name != {event.repeated_kind!r}: made.nth = 1")
            lines.append(" elif made.nth is None or made.nth < 2: made.nth = 2")
        lines += [" made.__class__ = event", " return made, ''"]
        return _executed(lines, known)


def _draft_of(event: type[Event]) -> type[Event]:
    """A class with the slots of a class of events, whose fields can be set by assignment.

    An instance becomes an event with the assignment of its class. Setting the fields of a frozen event, by
    `object.__setattr__` or through its slots, takes ten times as long as an assignment.
    """
    namespace = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    # Not a kind of event of its own.
    return type(event.__name__, (event,), namespace | {"kind": "", "repeated_kind": ""})


_decoders: dict[type[Event], _Decoder] = {}


def decoder_of(event: type[Event]) -> _Decoder:
    """The decoder of a class of events."""
    if event not in _decoders:
        _decoders[event] = _Decoder(event)
    return _decoders[event]


class Header(NamedTuple):
    """The fields that most records of a log have in common; None for one without a valid value."""

    schema: int | None = None
    run: str | None = None
    process: str | None = None
    process_index: int | None = None


class Decoded(NamedTuple):
    """A checked record.

    Attributes:
        header: The fields that identify the process.
        timestamp: Its time as text; "" without a valid one.
        moment: Its time; None without a valid one.
        seq: Its number among the records of the process.
        name: Name of the event; "" for one that this version does not know.
        event: The event; None for an unknown event, or one without a required field.
        missing: Name of the required field that the record lacks.
    """

    header: Header
    timestamp: str
    moment: datetime | None
    seq: int | None
    name: str = ""
    event: Event | None = None
    missing: str = ""


_new: Final = tuple.__new__


def decode(record: Record, misfits: list[str]) -> Decoded:
    """Check a record, and create its event.

    Args:
        record: A JSON object, with integers read as floats.
        misfits: The list to which the reasons for invalid fields are added.
    """
    get, name = record.get, record["event"]
    try:
        header = _header(get("schema"), get("run"), get("process"), get("process_index"))
    except TypeError:  # a list or an object
        header = None
    timestamp: Any = get("timestamp")
    seq = get("seq")
    moment = _moment(timestamp)
    seq = int(seq) if type(seq) is float and 1 <= seq <= _MAX_WHOLE and seq.is_integer() else None
    if header is None or moment is None or seq is None:
        found = fitting(record, COMMON, misfits)
        header = Header(*map(found.get, Header._fields))
        timestamp, seq = found.get("timestamp", ""), found.get("seq")
    known = EVENT_TYPES.get(name) if type(name) is str else None
    if known is None:
        return Decoded(header, timestamp, moment, seq)
    decoder = _decoders.get(known) or decoder_of(known)
    event, missing = decoder.event(record, name, misfits)
    # Not Decoded(…), which takes twice as long.
    return _new(Decoded, (header, timestamp, moment, seq, name, event, missing))


@functools.lru_cache(maxsize=64, typed=True)
def _header(*values: Any) -> Header | None:
    """The header with these values; None if one is invalid."""
    misfits: list[str] = []
    found = fitting(dict(zip(Header._fields, values, strict=True)), COMMON, misfits)
    return None if misfits else Header(*map(found.get, Header._fields))


def _checked_function(record: Record, misfits: list[str]) -> Function:
    """The function of a record with invalid values; its label is "" without a valid one."""
    found = fitting(record, _FUNCTION, misfits)
    return _made(found.get("function", ""), found.get("name"), found.get("location"))


@functools.lru_cache(maxsize=4_096)
def _function(label: Any, name: Any, location: Any) -> Function:
    """The function with these values.

    Raises:
        TypeError: One is invalid. An error is not cached, and the values may be large.
    """
    if label is None or not all(value is None or _text(value) == value for value in (label, name, location)):
        raise TypeError
    return _made(label, name, location)


def _made(label: str, name: str | None, location: str | None) -> Function:
    is_shared = label in (JAX_LABEL, OTHER_LABEL)
    return Function(label, name or label, None if is_shared else location)


def _default_of(field: Field[Any], annotation: Any) -> Any:
    """The value of a field that is not in the record."""
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    if type(None) in get_args(annotation):
        return None
    return {str: "", float: 0.0, int: 0, bool: False}.get(annotation, () if get_origin(annotation) is tuple else "")
