"""The state as JSON-able values: one row a function, totals, every metric. Pure shaping, no lock."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from jitwatch.model.events import ExecutableMeasured
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL, PHASES, Phase
from jitwatch.state.cost import Pace
from jitwatch.state.tables import Histogram, MetricTables


@dataclass(slots=True)
class FunctionStats:
    """What is known of one function; durations in seconds."""

    function: Function
    shown_as: str
    #: The store's revision when it last changed.
    revision: int = 0
    compiles: int = 0
    recompiles: int = 0
    failures: int = 0
    wrappers: int = 0
    is_called: bool = False
    storms: int = 0
    is_in_storm: bool = False
    steady_violations: int = 0
    #: Seconds of recompiles: what would not have been spent, had the first program been used.
    lost_s: float = 0.0
    #: Seconds of the compiles that violated the steady state, the present one or else the last.
    steady_lost_s: float = 0.0
    causes: dict[str, int] = field(default_factory=dict)
    pitfalls: dict[str, int] = field(default_factory=dict)
    captured_constant_bytes: int = 0
    #: The program that needs most memory.
    executable: ExecutableMeasured | None = None
    donation_violations: dict[str, int] = field(default_factory=dict)
    #: Bytes that a call would save by donating.
    donation_opportunity: int | None = None
    #: Calls and when the last one was (Unix time); None for functions whose calls nobody watches.
    calls: int | None = None
    last_call: float | None = None
    phase_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @property
    def seconds(self) -> float:
        """Seconds of all phases of all compiles, failed ones included."""
        return sum(self.phase_s.values())


@dataclass(slots=True)
class Sums:
    """Over all functions, which may be thousands: kept as things happen, so that nobody has to add them up.

    Attributes:
        jax_compiles, jax_compile_seconds: Of JAX's own functions, which are in none of the others but `pitfalls`.
    """

    compiles: int = 0
    recompiles: int = 0
    failures: int = 0
    compile_seconds: float = 0.0
    storms: int = 0
    steady_violations: int = 0
    pitfalls: int = 0
    donation_violations: int = 0
    lost_seconds: float = 0.0
    lost_seconds_since_steady: float = 0.0
    storms_active: int = 0
    jax_compiles: int = 0
    jax_compile_seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """For the state."""
        return {name: getattr(self, name) for name in self.__slots__}

    def compiled(self, seconds: float, *, is_internal: bool) -> None:
        """A compile succeeded."""
        if is_internal:
            self.jax_compiles += 1
            self.jax_compile_seconds += seconds
        else:
            self.compiles += 1
            self.compile_seconds += seconds

    def failed(self, seconds: float, *, is_internal: bool) -> None:
        """A compile did not."""
        if is_internal:
            self.jax_compile_seconds += seconds
        else:
            self.failures += 1
            self.compile_seconds += seconds


def whole(value: float | None) -> int | None:
    """A count that was kept as a float; None stays None."""
    return None if value is None else int(value)


def row_of(stats: FunctionStats, pace: Pace) -> dict[str, Any]:
    """What the state shows of one function."""
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
        "phases": dict(stats.phase_s),
        "captured_constant_bytes": stats.captured_constant_bytes,
        "executable": row_of_executable(stats.executable) if stats.executable is not None else None,
    }


def row_of_executable(program: ExecutableMeasured) -> dict[str, Any]:
    """What the state shows of a function's program; bytes on each device."""
    return {
        "function": program.function.label,
        "total_bytes": program.total,
        "argument_bytes": program.arguments,
        "output_bytes": program.outputs,
        "temporary_bytes": program.temporaries,
        "code_bytes": program.code,
        "aliased_bytes": program.aliased,
        "peak_bytes": program.peak,
        "flops": program.flops,
    }


def sums_over(functions: Iterable[FunctionStats]) -> Sums:
    """The sums of functions that nobody has kept any for."""
    sums = Sums()
    for stats in functions:
        sums.pitfalls += sum(stats.pitfalls.values())
        if stats.function.label == JAX_LABEL:
            sums.jax_compiles += stats.compiles
            sums.jax_compile_seconds += stats.seconds
            continue
        sums.compiles += stats.compiles
        sums.recompiles += stats.recompiles
        sums.failures += stats.failures
        sums.compile_seconds += stats.seconds
        sums.storms += stats.storms
        sums.storms_active += stats.is_in_storm
        sums.steady_violations += stats.steady_violations
        sums.donation_violations += sum(stats.donation_violations.values())
        sums.lost_seconds += stats.lost_s
        sums.lost_seconds_since_steady += stats.steady_lost_s
    return sums


def totals_of(sums: Sums, pace: Pace) -> dict[str, Any]:
    """The sums, and what they amount to."""
    return {
        **sums.row(),
        **pace.cost(sums.lost_seconds, sums.lost_seconds_since_steady),
        "busy_seconds": pace.busy_s,
        "busy_ratio": pace.busy_s / pace.wall_s if pace.wall_s > 0 else 0.0,
    }


def metrics_of(tables: MetricTables, names: Collection[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every series, or those of the metrics named, by its exposed name; a histogram's buckets are not cumulative."""
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
