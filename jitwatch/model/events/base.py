"""The base class of all events, and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from jitwatch.model.cleaning import clean_fields
from jitwatch.model.function import Change, Function

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

    def payload(self) -> dict[str, Any]:
        """The event's own fields as JSON values, in order; a function becomes three fields."""
        shown: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in self.hidden or (one.name in self.optional and not value):
                continue
            if isinstance(value, Function):
                shown |= {"function": value.label, "name": value.name, "location": value.location}
                continue
            if isinstance(value, tuple):
                value = [asdict(one) if isinstance(one, Change) else one for one in value]
            shown[self.renamed.get(one.name, one.name)] = value
        return shown
