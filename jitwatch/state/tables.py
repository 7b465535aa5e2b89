"""Tables of metric values by label values, with bounded labels. Not thread-safe: the store holds a lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from jitwatch.model.taxonomy import ALL_LABEL, JAX_LABEL, OTHER_LABEL
from jitwatch.state.metrics import METRICS, Metric

LabelValues = tuple[str, ...]

#: Maximum number of values of the label `function` in a process; further functions share `__other__`.
MAX_FUNCTIONS = 100
#: Counters by function that `detail="summary"` exports as process totals.
SUMMARY_TOTALS = ("compiles", "recompiles")
_RESERVED = frozenset({JAX_LABEL, OTHER_LABEL, ALL_LABEL})


@dataclass(slots=True)
class Histogram:
    """A histogram: counts by bucket, not cumulative (one more than bounds, for +Inf), and the sum of values."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Add one value, in the histogram's unit."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Number of values seen."""
        return sum(self.counts)

    def copy(self) -> Histogram:
        """A copy that does not change with later values."""
        return Histogram(self.bounds, list(self.counts), self.total)


class Series(Protocol):
    """Where the reducers count metrics, by the names of `state.metrics`."""

    def add(self, name: str, amount: float = 1.0, labels: LabelValues = ()) -> None:
        """Increment a counter."""

    def set(self, name: str, value: float, labels: LabelValues = ()) -> None:
        """Set a gauge."""

    def get(self, name: str, labels: LabelValues = ()) -> float:
        """The value of a counter or gauge; 0 if it has none."""

    def observe(self, name: str, value: float, labels: LabelValues = ()) -> None:
        """Add a value to a histogram."""

    def start_function(self, label: str) -> None:
        """Export 0 for every counter of a function."""

    def admit(self, label: str, *, is_called: bool, is_library: bool) -> str:
        """The value of the metric label `function` for a function's label."""


class NoSeries:
    """Counts nothing: the series of a state without metrics, such as the report's."""

    def add(self, name: str, amount: float = 1.0, labels: LabelValues = ()) -> None: ...

    def set(self, name: str, value: float, labels: LabelValues = ()) -> None: ...

    def get(self, name: str, labels: LabelValues = ()) -> float:
        return 0.0

    def observe(self, name: str, value: float, labels: LabelValues = ()) -> None: ...

    def start_function(self, label: str) -> None: ...

    def admit(self, label: str, *, is_called: bool, is_library: bool) -> str:
        return label


class FunctionLabels:
    """Limits the values of the label `function`: once assigned they stay, further functions share `__other__`."""

    def __init__(self, limit: int = MAX_FUNCTIONS) -> None:
        self._limit = limit
        self._named: dict[str, None] = {}

    def admit(self, label: str, *, is_called: bool = True, is_library: bool = False) -> tuple[str, bool]:
        """Return the value of the metric label for a function's label, and whether it was just assigned.

        Libraries jit hundreds of helpers when they are imported, and most of them are never called. Functions that
        were not called get at most half of the labels, those of libraries at most four fifths.
        """
        if label in _RESERVED or label in self._named:
            return label, False
        share = 0.5 if not is_called else 0.8 if is_library else 1.0
        if len(self._named) >= self._limit * share or (is_library and not is_called):
            return OTHER_LABEL, False
        self._named[label] = None
        return label, True

    def __len__(self) -> int:
        return len(self._named)


class MetricTables:
    """Values of all declared metrics.

    Args:
        is_summary: Keep no series by function, only process totals (`detail="summary"`).
        metrics: The declared metrics; the name of another one is a `KeyError`.
    """

    def __init__(self, *, is_summary: bool = False, metrics: tuple[Metric, ...] = METRICS) -> None:
        self._is_summary = is_summary
        self._metrics = metrics
        self._by_name = {metric.name: metric for metric in metrics}
        self._labels = FunctionLabels()
        self.values: dict[str, dict[LabelValues, float]] = {metric.name: {} for metric in metrics}
        self.histograms: dict[str, dict[LabelValues, Histogram]] = {
            metric.name: {} for metric in metrics if metric.kind == "histogram"
        }
        self.infos: dict[str, LabelValues] = {}
        for metric in metrics:
            if metric.starts_at_zero and not metric.labels:
                self.start_series(metric.name, ())
        for name in SUMMARY_TOTALS if is_summary else ():
            self.start_series(name, (ALL_LABEL,))

    def admit(self, label: str, *, is_called: bool, is_library: bool) -> str:
        """The value of the metric label `function`: the function's label, or `__other__` past the limit."""
        return self._labels.admit(label, is_called=is_called, is_library=is_library)[0]

    def start_function(self, label: str) -> None:
        """Export 0 for every counter of a new function."""
        if self._is_summary:
            return
        for metric in self._metrics:
            if metric.starts_at_zero and metric.labels == ("function",):
                self.values[metric.name].setdefault((label,), 0.0)

    def start_series(self, name: str, labels: LabelValues) -> None:
        """Export 0 for one series whose labels are known from the start."""
        metric = self._by_name[name]
        if metric.kind == "histogram":
            self.histograms[name].setdefault(labels, Histogram(metric.buckets))
        else:
            self.values[name].setdefault(labels, 0.0)

    def add(self, name: str, amount: float = 1.0, labels: LabelValues = ()) -> None:
        """Increment a counter; in a summary, functions are added up or left out."""
        if self._is_summary and self._by_name[name].is_by_function:
            if name not in SUMMARY_TOTALS:
                return
            labels = (ALL_LABEL, *labels[1:])
        table = self.values[name]
        table[labels] = table.get(labels, 0.0) + amount

    def set(self, name: str, value: float, labels: LabelValues = ()) -> None:
        """Set a gauge; in a summary, gauges by function are left out."""
        if self._is_summary and self._by_name[name].is_by_function:
            return
        self.values[name][labels] = value

    def replace(self, name: str, series: dict[LabelValues, float]) -> None:
        """Replace all series of a gauge."""
        metric = self._by_name[name]
        if not (self._is_summary and metric.is_by_function):
            self.values[name] = dict(series)

    def observe(self, name: str, value: float, labels: LabelValues = ()) -> None:
        """Add a value to a histogram."""
        table = self.histograms[name]
        if labels not in table:
            self.start_series(name, labels)
        table[labels].observe(value)

    def get(self, name: str, labels: LabelValues = ()) -> float:
        """The value of a counter or gauge; 0 if it has none."""
        return self.values[name].get(labels, 0.0)

    def copy(self) -> MetricTables:
        """A copy that does not change, for rendering without the lock."""
        twin = MetricTables.__new__(MetricTables)
        twin._is_summary, twin._metrics, twin._by_name = self._is_summary, self._metrics, self._by_name
        twin._labels = self._labels
        twin.values = {name: dict(table) for name, table in self.values.items()}
        twin.histograms = {
            name: {labels: one.copy() for labels, one in table.items()} for name, table in self.histograms.items()
        }
        twin.infos = dict(self.infos)
        return twin

    def series(self) -> Iterator[tuple[Metric, LabelValues, float | Histogram]]:
        """Iterate over all series, in the order in which the metrics are declared."""
        for metric in self._metrics:
            if metric.kind == "histogram":
                yield from ((metric, labels, one) for labels, one in self.histograms[metric.name].items())
            elif metric.kind == "info":
                if metric.name in self.infos:
                    yield metric, self.infos[metric.name], 1.0
                # An info metric with several rows, such as the devices.
                yield from ((metric, labels, value) for labels, value in self.values[metric.name].items())
            else:
                yield from ((metric, labels, value) for labels, value in self.values[metric.name].items())
