"""Recompiles that are alike: of one function, from one line, for the same causes and the same arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jitwatch.model.events import Compiled
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL


@dataclass(slots=True)
class Group:
    """Recompiles that are alike.

    Attributes:
        newest, record: The newest of them, as an event and as it was logged.
        recompiles: How many there are.
        lost_s, spent_s: Seconds of all of them; those that were planned are spent, not lost.
        pitfall: The known mistake that the newest of those that show one shows.
    """

    newest: Compiled
    record: dict[str, Any]
    recompiles: int = 0
    lost_s: float = 0.0
    spent_s: float = 0.0
    pitfall: str | None = None

    def add(self, event: Compiled) -> None:
        """Count an older one, or the newest itself."""
        self.recompiles += 1
        self.lost_s += event.lost_s
        self.spent_s += event.total_s
        self.pitfall = self.pitfall or event.pitfall


def grouped(records: Sequence[dict[str, Any]]) -> list[Group]:
    """The recompiles of the user's functions among the records, the newest group first."""
    groups: dict[object, Group] = {}
    for record in reversed(records):
        if record["event"] != Compiled.repeated_kind or record["function"] == JAX_LABEL:
            continue
        event = _event(record)
        paths = tuple(change.path for change in event.changes)
        key = (event.function.label, event.call_site, event.causes, paths, event.expected)
        groups.setdefault(key, Group(event, record)).add(event)
    return list(groups.values())


def _event(record: dict[str, Any]) -> Compiled:
    """The event that a record was made of, as far as words need it."""
    return Compiled(
        function=Function(record["function"], record["name"], record["location"]),
        call_site=record["call_site"],
        trace_s=record["trace_s"],
        lower_s=record["lower_s"],
        compile_s=record["compile_s"],
        expected=record["expected"],
        nth=record["nth"],
        causes=tuple(record.get("causes", ())),
        changes=tuple(Change(**change) for change in record.get("changes", ())),
        changes_left_out=record.get("changes_left_out", 0),
        pitfall=record.get("pitfall"),
        advice=record.get("advice"),
    )
