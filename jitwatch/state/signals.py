"""Signals that have a part of the state for themselves: an event, its reducer, and the metrics that it counts.

A new signal is a probe that emits an event (`PROBES`), the event with its fields (`model.events`), and a class here. It
then is in `/metrics`, in the state, in the event log, in the report and in the generated docs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from jitwatch.model.events import Event
from jitwatch.state.metrics import Metric
from jitwatch.state.persistent_cache import PersistentCache
from jitwatch.state.tables import Series


class Signal(Protocol):
    """Reduces the events of one signal.

    Attributes:
        name: Key of its part of the state and of the report.
        events: The classes of events that it reduces.
        metrics: Its metrics that `state.metrics` does not declare.
    """

    name: ClassVar[str]
    events: ClassVar[tuple[type[Event], ...]]
    metrics: ClassVar[tuple[Metric, ...]]

    def reduce(self, event: Any, series: Series) -> None:
        """Count an event of one of its classes, and raise its series."""

    def row(self) -> dict[str, Any]:
        """Its part of the state, JSON-able."""


SIGNALS: list[type[Signal]] = [PersistentCache]


def metrics_of_signals() -> tuple[Metric, ...]:
    """The metrics that signals declare themselves."""
    return tuple(metric for kind in SIGNALS for metric in kind.metrics)
