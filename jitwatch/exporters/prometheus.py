"""Prometheus exposition: a custom collector for the store, on a registry of its own.

The metric classes of `prometheus_client` are slower to render and would be in the user's global registry, so only its
collector protocol and its text formats are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, core
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from jitwatch.state.metrics import PREFIX, Metric
from jitwatch.state.tables import LabelValues, MetricTables
from jitwatch.system.threads import pause

_FALLBACK_ACCEPT = "text/plain"


class StoreCollector(Collector):
    """Converts a copy of the store's tables, made once per scrape, to metric families."""

    def __init__(self, tables: Callable[[], MetricTables]) -> None:
        self._tables = tables

    def collect(self) -> Iterable[core.Metric]:
        """Yield a family for each metric that has a series."""
        for metric, rows in groupby(self._tables().series(), key=itemgetter(0)):
            yield _family(metric, rows)
            # It has been rendered. Releases the GIL, so that the training thread need not wait for the switch interval
            # of the interpreter (5 ms).
            pause(0)


class Exposition:
    """Renders `/metrics`."""

    def __init__(self, tables: Callable[[], MetricTables]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(StoreCollector(tables))
        # Registered here rather than in the user's registry.
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, accept: str = _FALLBACK_ACCEPT) -> tuple[bytes, str]:
        """Return body and content type in the format that the `Accept` header requests."""
        encoder, content_type = _chosen(accept)
        return encoder(self._registry), content_type

    def content_type(self, accept: str) -> str:
        """The content type that `render` would return."""
        return _chosen(accept)[1]


def _chosen(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except Exception:
        # prometheus_client 0.26 raises on a malformed version parameter; any scraper reads text.
        return choose_encoder(_FALLBACK_ACCEPT)


def _family(metric: Metric, rows: Iterable[tuple[Metric, LabelValues, Any]]) -> core.Metric:
    name = PREFIX + metric.name
    if metric.kind == "info":
        info = core.InfoMetricFamily(name, metric.help)
        for _, labels, _ in rows:
            info.add_metric((), dict(zip(metric.labels, labels, strict=True)))
        return info
    if metric.kind == "histogram":
        histogram = core.HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for _, labels, value in rows:
            bounds = [*(str(float(bound)) for bound in value.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(value.counts), strict=True))
            histogram.add_metric(labels, buckets, sum_value=value.total)
        return histogram
    kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for _, labels, value in rows:
        family.add_metric(labels, value)
    return family
