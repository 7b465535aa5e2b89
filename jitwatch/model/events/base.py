"""The base class of all events, and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, TypeVar

from jitwatch.model.cleaning import clean_fields, cleaned
from jitwatch.model.copies import reader, replaced
from jitwatch.model.function import Change, Function

T = TypeVar("T", bound="Event")

#: The events that are logged, by the field `event` of their records.
EVENT_TYPES: dict[str, type[Event]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event: declares its record's fields once, with their units in the names.

    A subclass is registered in `EVENT_TYPES`. The event log writes its `payload()`, the report decodes it, and
    `docs/events.md` lists it, all from the fields' names, types and defaults.
    """

    #: The field `event` of the record; events without one are counted but not logged.
    kind: ClassVar[str] = ""
    #: The field `event` of the second and later events of this class, if it differs.
    repeated_kind: ClassVar[str] = ""
    #: Whether it is written to the event log before the call that caused it continues.
    is_urgent: ClassVar[bool] = False
    #: Fields that are not in the record, and fields that are in the record only if they are not empty.
    hidden: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()
    #: Fields that are written for other readers of the log: the report does not decode them.
    log_only: ClassVar[frozenset[str]] = frozenset()
    #: Fields without which the report ignores a record.
    required: ClassVar[tuple[str, ...]] = ()
    #: Names of fields in the record, where they differ.
    renamed: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        for kind in filter(None, (cls.kind, cls.repeated_kind)):
            EVENT_TYPES[kind] = cls

    def __post_init__(self) -> None:
        clean_fields(self, *self.__slots__)

    def changed(self: T, **changes: object) -> T:
        """Return a copy with other values of some fields, as `dataclasses.replace` does in several times the time."""
        return replaced(self, **{name: cleaned(value) for name, value in changes.items()})

    def payload(self) -> dict[str, Any]:
        """The event's own fields as JSON values, in order; a function becomes three fields."""
        shown: dict[str, Any] = {}
        kind: Any = type(self)
        names, keys = _shown(kind)
        for (key, is_optional), value in zip(keys, reader(names)(self), strict=True):
            if is_optional and not value:
                continue
            if type(value) is Function:
                shown["function"], shown["name"], shown["location"] = value.label, value.name, value.location
            elif type(value) is tuple:
                shown[key] = [one.payload() if type(one) is Change else one for one in value]
            else:
                shown[key] = value
        return shown


@cache
def _shown(kind: type[Event]) -> tuple[tuple[str, ...], tuple[tuple[str, bool], ...]]:
    """The fields that are in the record of an event, and their names there and whether they are optional."""
    names = tuple([one.name for one in fields(kind) if one.name not in kind.hidden])
    return names, tuple([(kind.renamed.get(name, name), name in kind.optional) for name in names])
