"""Signals: reducers of events with their own part of the state and their own metrics.

A new signal is a probe that emits an event (`PROBES`), the event with its fields (`model.events`), and a class in
`SIGNALS`. It then is in `/metrics`, the state, the event log, the report and the generated documentation.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from jitwatch.model.events import Event
from jitwatch.state.metrics import Metric
from jitwatch.state.persistent_cache import PersistentCache
from jitwatch.state.programs import Programs
from jitwatch.state.tables import Series


class Signal(Protocol):
    """Reduces the events of one signal.

    Attributes:
        name: Key of its part of the state and of the report.
        events: Classes of the events that it reduces.
        metrics: Metrics that it declares, besides those of `state.metrics`.
    """

    name: ClassVar[str]
    events: ClassVar[tuple[type[Event], ...]]
    metrics: ClassVar[tuple[Metric, ...]]

    def reduce(self, event: Any, series: Series) -> None:
        """Reduce an event of one of its classes, and update its series."""

    def row(self) -> dict[str, Any]:
        """Its part of the state, as JSON values."""


SIGNALS: list[type[Signal]] = [PersistentCache, Programs]


def metrics_of_signals() -> tuple[Metric, ...]:
    """The metrics that signals declare."""
    return tuple(metric for kind in SIGNALS for metric in kind.metrics)
