"""Prometheus exposition: a custom collector for the store, on a registry of its own.

The metric classes of `prometheus_client` are slower to render and would be in the user's global registry, so only its
collector protocol and its text formats are used. Its encoders are slow as well (10 µs a sample), and few series change
between two scrapes. So each series is encoded by `prometheus_client` once, which gives the text before its value, and a
family whose values have not changed is not rendered again. The bytes are those that the encoder makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, core
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from jitwatch.state.metrics import PREFIX, Metric
from jitwatch.state.tables import Histogram, LabelValues, MetricTables
from jitwatch.system.threads import pause

_FALLBACK_ACCEPT = "text/plain"
#: The end of an exposition in OpenMetrics.
_END = b"# EOF\n"
#: Formats whose rendered families are kept; scrapers of one job use one or two.
_MAX_FORMATS = 4
#: Series that are encoded at once, and seconds of rendering, before other threads may run.
_AT_ONCE = 20
_WORK_S = 0.0003

#: A number as it is rendered.
_text_of: Callable[[float], str] = floatToGoString
#: Labels and value of each series of a family.
_Rows = list[tuple[LabelValues, Any]]
_Encoder = Callable[[Collector], bytes]
_Starts = dict[LabelValues, tuple[str, ...] | None]


class StoreCollector(Collector):
    """Converts a copy of the store's tables, made once per scrape, to metric families."""

    def __init__(self, tables: Callable[[], MetricTables]) -> None:
        self._tables = tables

    def collect(self) -> Iterable[core.Metric]:
        """Yield a family for each metric that has a series."""
        for metric, rows in self.rows():
            yield family_of(metric, rows)

    def rows(self) -> Iterator[tuple[Metric, _Rows]]:
        """Yield each metric that has a series, with its series."""
        for metric, rows in groupby(self._tables().series(), key=itemgetter(0)):
            yield metric, [(labels, value) for _, labels, value in rows]


class Exposition:
    """Renders `/metrics`."""

    def __init__(self, tables: Callable[[], MetricTables]) -> None:
        self._store = StoreCollector(tables)
        #: The other collectors, registered here rather than in the user's registry.
        self._others = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._others)
        PlatformCollector(registry=self._others)
        #: The rendered families by content type and name.
        self._formats: dict[str, dict[str, _Family]] = {}

    def render(self, accept: str = _FALLBACK_ACCEPT) -> tuple[bytes, str]:
        """Return body and content type in the format that the `Accept` header requests."""
        encoder, content_type = _chosen(accept)
        families = self._formats.get(content_type)
        if families is None:
            if len(self._formats) >= _MAX_FORMATS:
                self._formats = {}
            families = self._formats.setdefault(content_type, {})
        turns = _Turns()
        parts = []
        for metric, rows in self._store.rows():
            family = families.get(metric.name)
            if family is None:
                family = families.setdefault(metric.name, _Family(metric, encoder))
            parts.append(family.render(rows, turns))
            turns.take()
        parts.append(encoder(self._others))
        return b"".join(parts), content_type

    def content_type(self, accept: str) -> str:
        """The content type that `render` would return."""
        return _chosen(accept)[1]


class _Turns:
    """Lets other threads run after some work: the training thread need not wait for the switch interval (5 ms)."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def take(self) -> None:
        """Release the GIL if this thread has worked for long enough."""
        if time.perf_counter() - self._since > _WORK_S:
            pause(0)
            self._since = time.perf_counter()


class _Family:
    """Renders a family in one format, and keeps the result. Several threads may render it at the same time."""

    def __init__(self, metric: Metric, encoder: _Encoder) -> None:
        self._metric = metric
        self._encoder = encoder
        self._head = self._encoded([])
        #: By labels, the text before the value of each line of a series; None if the format has no such lines.
        self._starts: _Starts = {}
        #: The last rows and their text, replaced together.
        self._last: tuple[_Rows, bytes] = ([], b"")

    def render(self, rows: _Rows, turns: _Turns) -> bytes:
        """The text of the family with these rows."""
        known, text = self._last
        # A value that only changes its sign from 0.0 to -0.0 is not rendered again.
        if known == rows:
            return text
        starts = self._starts  # another thread may replace it meanwhile
        new = [row for row in rows if row[0] not in starts]
        for first in range(0, len(new), _AT_ONCE):
            starts.update(self._learned(new[first : first + _AT_ONCE]))
            turns.take()
        if all(starts[labels] is not None for labels, _ in rows):
            text = self._rendered(rows, starts).encode("utf-8")
        else:
            text = self._encoded(rows).encode("utf-8")
        self._last = rows, text
        if len(starts) > 2 * len(rows):
            # Series that were removed.
            self._starts = {labels: starts[labels] for labels, _ in rows}
        return text

    def _rendered(self, rows: _Rows, starts: _Starts) -> str:
        lines = [self._head]
        for labels, value in rows:
            for start, number in zip(starts[labels] or (), _numbers(value), strict=True):
                lines.append(f"{start} {_text_of(number)}\n")
        return "".join(lines)

    def _learned(self, rows: _Rows) -> _Starts:
        """Let the encoder make the lines of new series; return the text before their values."""
        found: _Starts = {}
        # Not splitlines(): a label may contain other line separators.
        lines = [f"{line}\n" for line in self._encoded(rows)[len(self._head) :].split("\n")]
        position = 0
        for labels, value in rows:
            texts = [f" {_text_of(number)}\n" for number in _numbers(value)]
            own = lines[position : position + len(texts)]
            position += len(texts)
            is_known = len(own) == len(texts) and all(map(str.endswith, own, texts))
            starts = [line.removesuffix(text) for line, text in zip(own, texts, strict=False)]
            found[labels] = tuple(starts) if is_known else None
        return found

    def _encoded(self, rows: Sequence[tuple[LabelValues, Any]]) -> str:
        return self._encoder(_One(family_of(self._metric, rows))).removesuffix(_END).decode("utf-8")


class _One(Collector):
    """A registry with one family."""

    def __init__(self, family: core.Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[core.Metric]:
        return (self._family,)


def _numbers(value: Any) -> Sequence[float]:
    """The values of the lines of a series, in the order in which they are rendered."""
    if type(value) is not Histogram:
        return (value,)
    buckets = list(accumulate(value.counts))
    return (*buckets, buckets[-1], value.total)


def _chosen(accept: str) -> tuple[_Encoder, str]:
    try:
        return choose_encoder(accept)
    except Exception:
        # prometheus_client 0.26 raises on a malformed version parameter; any scraper reads text.
        return choose_encoder(_FALLBACK_ACCEPT)


def family_of(metric: Metric, rows: Iterable[tuple[LabelValues, Any]]) -> core.Metric:
    """The family of a metric with these series."""
    name = PREFIX + metric.name
    if metric.kind == "info":
        info = core.InfoMetricFamily(name, metric.help)
        for labels, _ in rows:
            info.add_metric((), dict(zip(metric.labels, labels, strict=True)))
        return info
    if metric.kind == "histogram":
        histogram = core.HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for labels, value in rows:
            bounds = [*(str(float(bound)) for bound in value.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(value.counts), strict=True))
            histogram.add_metric(labels, buckets, sum_value=value.total)
        return histogram
    kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
