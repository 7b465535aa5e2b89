"""Builds the rows of the state, for the whole state, for the changes since a cursor, and for the report."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from jitwatch.model.events import ExecutableMeasured
from jitwatch.model.rows import ProgramRow
from jitwatch.state.aggregates import FunctionStats, Totals
from jitwatch.state.cost import Pace
from jitwatch.state.schema import FunctionRow, TotalsRow
from jitwatch.state.tables import Histogram, MetricTables


def function_row(stats: FunctionStats, pace: Pace, cache_entries: int | None) -> FunctionRow:
    """The row of a function.

    Args:
        stats: Aggregates of the function.
        pace: What lost seconds are related to.
        cache_entries: Entries of its jit caches.
    """
    traced, profiled = stats.traced, stats.profiled
    return {
        "function": stats.function.label,
        "shown_as": stats.shown_as,
        "location": stats.function.location,
        "compiles": stats.compiles,
        "recompiles": stats.recompiles,
        "failures": stats.failures,
        "wrappers": stats.wrappers,
        "storms": stats.storms,
        "is_in_storm": stats.is_in_storm,
        "steady_violations": stats.steady_violations,
        "causes": dict(stats.causes),
        "pitfalls": dict(stats.pitfalls),
        "calls": stats.calls,
        "last_call": stats.last_call,
        "donation_violations": dict(stats.donation_violations),
        "donation_opportunity_bytes": stats.donation_opportunity,
        **pace.cost(stats.lost_s, stats.steady_lost_s),
        "seconds": stats.seconds,
        "phases": dict(stats.phase_s.items()),
        "captured_constant_bytes": stats.captured_constant_bytes,
        "executable": program_row(stats.executable) if stats.executable is not None else None,
        "cache_entries": cache_entries,
        "trace_hot_lines": list(traced.lines) if traced is not None else [],
        "traced_seconds": traced.seconds if traced is not None else None,
        "xla_passes": list(profiled.xla_passes) if profiled is not None else [],
        "profiled_seconds": profiled.profiled_s if profiled is not None else None,
        "autotuning_seconds": profiled.autotuning_s if profiled is not None else None,
    }


def program_row(program: ExecutableMeasured) -> ProgramRow:
    """The row of a program; bytes on each device."""
    row: ProgramRow = {
        "function": program.function.label,
        "total_bytes": program.total,
        "argument_bytes": program.arguments,
        "output_bytes": program.outputs,
        "temporary_bytes": program.temporaries,
        "code_bytes": program.code,
        "aliased_bytes": program.aliased,
        "peak_bytes": program.peak,
        "flops": program.flops,
        "bytes_accessed": program.bytes_accessed,
        "peak_buffers": list(program.peak_buffers),
    }
    if program.buffers_unknown:
        row["buffers_unknown"] = program.buffers_unknown
    return row


def totals_row(totals: Totals, pace: Pace) -> TotalsRow:
    """The row of totals.

    Args:
        totals: Sums over all functions.
        pace: What lost seconds are related to.
    """
    found: Any = {
        **asdict(totals),
        **pace.cost(totals.lost_seconds, totals.lost_seconds_since_steady),
        "busy_seconds": pace.busy_s,
        "busy_ratio": pace.busy_s / pace.wall_s if pace.wall_s > 0 else 0.0,
    }
    row: TotalsRow = found
    return row


def metric_rows(tables: MetricTables, names: Collection[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """All series by exposed name; the counts of a histogram's buckets are not cumulative.

    Args:
        tables: The values.
        names: Exposed names of the metrics to include; None for all.
    """
    exposed: dict[str, list[dict[str, Any]]] = {}
    for metric, labels, value in tables.series():
        if names is not None and metric.exposed_name not in names:
            continue
        row: dict[str, Any] = {"labels": dict(zip(metric.labels, labels, strict=True))}
        if isinstance(value, Histogram):
            row |= {"count": value.count, "sum": value.total, "buckets": value.counts, "bounds": list(value.bounds)}
        else:
            row["value"] = value
        exposed.setdefault(metric.exposed_name, []).append(row)
    return exposed
