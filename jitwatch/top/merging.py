"""The functions of several processes as one table: summed, with the spread where the processes of a run differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jitwatch.top.figures import Figures, FunctionFigures
from jitwatch.top.tracking import Process


def counted(processes: Sequence[Process]) -> list[Figures]:
    """The figures that a sum is made of: of the processes that live; of those that have ended if none does."""
    known = [(one, one.figures) for one in processes if one.figures is not None]
    living = [figures for one, figures in known if one.status != "ended"]
    return living or [figures for _, figures in known]


def merged(all_figures: Sequence[Figures]) -> list[FunctionFigures]:
    """A row a function; of a single process as it is.

    A function that a process of the run does not have counts as 0 there. Processes of different runs are summed
    as well, but not compared.
    """
    if len(all_figures) == 1:
        return list(all_figures[0].functions)
    rows: dict[str, list[FunctionFigures]] = {}
    by_run: dict[str, list[dict[str, FunctionFigures]]] = {}
    for figures in all_figures:
        by_run.setdefault(figures.run, []).append({one.function: one for one in figures.functions})
        for one in figures.functions:
            rows.setdefault(one.function, []).append(one)
    wall_s = sum(figures.uptime_seconds for figures in all_figures)
    return [_sum(label, found, list(by_run.values()), wall_s) for label, found in rows.items()]


def _sum(
    label: str, rows: list[FunctionFigures], runs: list[list[dict[str, FunctionFigures]]], wall_s: float
) -> FunctionFigures:
    causes: dict[str, int] = {}
    for one in rows:
        for cause, number in one.causes.items():
            causes[cause] = causes.get(cause, 0) + number
    entries = [one.cache_entries for one in rows if one.cache_entries is not None]
    lost_s = sum(one.lost_seconds for one in rows)
    having = [run for run in runs if any(label in process for process in run)]
    return replace(
        rows[0],
        compiles=sum(one.compiles for one in rows),
        recompiles=sum(one.recompiles for one in rows),
        failures=sum(one.failures for one in rows),
        seconds=sum(one.seconds for one in rows),
        lost_seconds=lost_s,
        lost_ratio=lost_s / wall_s if wall_s > 0 else 0.0,
        cache_entries=sum(entries) if entries else None,
        causes=causes,
        is_in_storm=any(one.is_in_storm for one in rows),
        compiles_spread=_spread([[_of(run, label, "compiles") for run in one] for one in having]),
        recompiles_spread=_spread([[_of(run, label, "recompiles") for run in one] for one in having]),
    )


def _of(process: dict[str, FunctionFigures], label: str, field: str) -> int:
    row = process.get(label)
    return int(getattr(row, field)) if row is not None else 0


def _spread(runs: Iterable[list[int]]) -> tuple[int, int] | None:
    """Least and most of the run whose processes differ most; None where all agree."""
    ranges = [(min(counts), max(counts)) for counts in runs]
    least, most = max(ranges, key=lambda pair: pair[1] - pair[0])
    return (least, most) if least != most else None
