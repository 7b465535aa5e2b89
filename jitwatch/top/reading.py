"""An answer of a job as figures: checked and cleaned. Pure.

The answer comes over the network and may hold anything: a missing or odd value is None, 0 or empty, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from jitwatch.top.cells import clean
from jitwatch.top.figures import (
    Figures,
    FunctionFigures,
    MemoryFigures,
    PitfallFigures,
    RecompileFigures,
    RunningFigures,
)

#: Rows that are read of each list; the agent itself keeps fewer.
_MAX_ROWS: Final = 20_000
#: Nothing that is measured or counted is more. Less is nothing, so that each quotient of two numbers is finite.
_MOST, _LEAST = 1e16, 1e-9


def figures_of(state: object) -> Figures | None:
    """The figures of an answer to `GET /api/v1/state`; None if it is none."""
    if not isinstance(state, Mapping) or not isinstance(state.get("totals"), Mapping):
        return None
    totals, memory = state["totals"], _mapping(state.get("memory"))
    functions = tuple(_function(row) for row in _rows(state.get("functions")) if row.get("function"))
    return Figures(
        run=clean(state.get("run")),
        process_index=_whole_or_none(state.get("process_index")),
        pid=_whole_or_none(state.get("pid")),
        version=clean(state.get("version")),
        start_time=_number(state.get("start_time_seconds")),
        uptime_seconds=_number(state.get("uptime_seconds")),
        step=_whole_or_none(state.get("step")),
        step_seconds=_number(state.get("mean_step_seconds")) or None,
        compiling_ratio=_number(totals.get("busy_ratio")),
        compiles=_whole(totals.get("compiles")),
        recompiles=_whole(totals.get("recompiles")),
        failures=_whole(totals.get("failures")),
        lost_seconds=_number(totals.get("lost_seconds")),
        lost_ratio=_number(totals.get("lost_ratio")),
        storms_active=_whole(totals.get("storms_active")),
        steady_violations=_whole(totals.get("steady_violations")),
        donation_violations=_whole(totals.get("donation_violations")),
        out_of_memory=_whole(sum(_number(row.get("value")) for row in _metric(state, "jitwatch_oom_total"))),
        is_steady=state.get("steady_seconds") is not None,
        health=_health(_mapping(state.get("health"))),
        memory=_fullest(_rows(memory.get("devices"))),
        host_resident_bytes=_whole_or_none(_mapping(memory.get("host")).get("resident_bytes")),
        pressure=_texts(memory.get("pressure")),
        leaks=_texts(memory.get("leaks")),
        in_progress=tuple(_running(row) for row in _rows(state.get("in_progress"))),
        functions=functions,
        newest_recompiles=_newest_first(
            _site(row, _number(state.get("time"))) for row in _rows(state.get("call_sites")) if row.get("reason")
        ),
        pitfalls=tuple(_pitfall(row) for row in _rows(state.get("pitfalls"))),
    )


def _function(row: Mapping[str, Any]) -> FunctionFigures:
    return FunctionFigures(
        function=clean(row.get("function")),
        location=clean(row.get("location")),
        compiles=_whole(row.get("compiles")),
        recompiles=_whole(row.get("recompiles")),
        failures=_whole(row.get("failures")),
        seconds=_number(row.get("seconds")),
        lost_seconds=_number(row.get("lost_seconds")),
        lost_ratio=_number(row.get("lost_ratio")),
        cache_entries=_whole_or_none(row.get("cache_entries")),
        causes={clean(cause): _whole(number) for cause, number in _mapping(row.get("causes")).items()},
        is_in_storm=row.get("is_in_storm") is True,
    )


def _newest_first(found: Iterable[RecompileFigures]) -> tuple[RecompileFigures, ...]:
    return tuple(sorted(found, key=lambda one: (one.seen_s_ago is None, one.seen_s_ago or 0.0, -one.lost_seconds)))


def _site(row: Mapping[str, Any], now: float) -> RecompileFigures:
    last = _number(row.get("last_time"))
    return RecompileFigures(
        seen_s_ago=max(0.0, now - last) if last and now else None,
        function=clean(row.get("function")),
        call_site=clean(row.get("call_site")),
        causes=_texts(row.get("causes")),
        paths=_texts(row.get("paths")),
        recompiles=_whole(row.get("recompiles")),
        lost_seconds=_number(row.get("lost_seconds")),
        reason=clean(row.get("reason")),
        advice=clean(row.get("advice")),
        pitfall=clean(row.get("pitfall")),
    )


def _pitfall(row: Mapping[str, Any]) -> PitfallFigures:
    return PitfallFigures(
        pitfall=clean(row.get("pitfall")),
        function=clean(row.get("function")),
        location=clean(row.get("location")),
        call_site=clean(row.get("call_site")),
        message=clean(row.get("message")),
        advice=clean(row.get("advice")),
        lost_seconds=_number(row.get("lost_seconds")),
        timestamp=clean(row.get("timestamp")),
    )


def _health(told: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The sentence and the others, of an agent that tells any."""
    found = [told, *_rows(told.get("others"))]
    return tuple((clean(one.get("level")), clean(one.get("sentence"))) for one in found if one.get("sentence"))


def _running(row: Mapping[str, Any]) -> RunningFigures:
    return RunningFigures(
        function=clean(row.get("function")),
        phase=clean(row.get("phase")),
        for_seconds=_number(row.get("for_s")),
        is_again=row.get("is_again") is True,
    )


def _fullest(devices: list[Mapping[str, Any]]) -> MemoryFigures | None:
    known = [one for one in devices if _whole_or_none(one.get("in_use_bytes")) is not None]
    if not known:
        return None
    fullest = max(known, key=lambda one: (_number(one.get("in_use_ratio")), _number(one.get("in_use_bytes"))))
    return MemoryFigures(
        device=clean(fullest.get("device")),
        in_use_bytes=_whole(fullest.get("in_use_bytes")),
        limit_bytes=_whole_or_none(fullest.get("limit_bytes")),
        is_estimate=fullest.get("in_use_from") != "device",
    )


def _metric(state: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return _rows(_mapping(state.get("metrics")).get(name))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(clean(one) for one in value[:100] if isinstance(one, str)) if isinstance(value, list) else ()


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value[:_MAX_ROWS] if isinstance(row, Mapping)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    """A finite number of sane size from 0 up; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    # NaN fails both comparisons, and a whole number of any length can be compared.
    return float(value) if _LEAST <= value <= _MOST else 0.0


def _whole(value: object) -> int:
    return int(_number(value))


def _whole_or_none(value: object) -> int | None:
    return _whole(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
