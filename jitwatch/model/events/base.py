"""What all events have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from jitwatch.model.cleaning import clean_fields
from jitwatch.model.function import Change, Function


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event. `kind` is the field `event` of the log; an empty one is never logged."""

    kind: ClassVar[str] = ""
    #: Written to the event log before the call that caused it goes on.
    is_urgent: ClassVar[bool] = False
    #: Fields that stay inside of the agent, and fields that are only shown when they hold something.
    hidden: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        clean_fields(self, *self.__slots__)

    def payload(self) -> dict[str, Any]:
        """The event's own fields, in order, ready for JSON; a function becomes three fields."""
        shown: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in self.hidden or (one.name in self.optional and not value):
                continue
            if isinstance(value, Function):
                shown |= {"function": value.label, "name": value.name, "location": value.location}
            elif isinstance(value, tuple):
                shown[one.name] = [asdict(one) if isinstance(one, Change) else one for one in value]
            else:
                shown[one.name] = value
        return shown
