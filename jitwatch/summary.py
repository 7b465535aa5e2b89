"""The run in a few lines of text, from the same state that every exporter shows."""

from __future__ import annotations

import os
from typing import Any

from jitwatch.events import JAX_LABEL, RunSummary

_TOP = 8
_TOP_IN_EVENT = 10
_FIELDS = ("function", "location", "compiles", "recompiles", "seconds")


def one_line(state: dict[str, Any]) -> str:
    """`12 compiles (3 recompiles) took 14.2 s, 24 % of 60.1 s` and what JAX compiled for itself."""
    totals = state["totals"]
    failures = f", {totals['failures']} failed" if totals["failures"] else ""
    return (
        f"{_count(totals['compiles'], 'compile')} ({_count(totals['recompiles'], 'recompile')}{failures}) "
        f"took {_seconds(totals['compile_seconds'])}; with {totals['jax_compiles']} small ones of JAX's own, "
        f"{totals['busy_ratio']:.0%} of {_seconds(state['uptime_seconds'])} went into compiling"
    )


def text(state: dict[str, Any]) -> str:
    """The one line, and a table of the functions that cost most."""
    rows = [row for row in state["functions"] if row["compiles"] or row["failures"]][:_TOP]
    lines = [one_line(state)]
    if rows:
        lines.append("")
        lines.append(
            f"{'seconds':>9} {'trace':>7} {'lower':>7} {'compile':>8} {'compiles':>9} {'entries':>8}  function"
        )
        lines.extend(_row(row) for row in rows)
    return "\n".join(lines)


def event(state: dict[str, Any]) -> RunSummary:
    """The same for the event log, with the functions of the user that cost most."""
    totals = state["totals"]
    costly = [row for row in state["functions"] if row["function"] != JAX_LABEL and row["compiles"]]
    return RunSummary(
        wall_s=state["uptime_seconds"],
        compiles=totals["compiles"],
        recompiles=totals["recompiles"],
        failures=totals["failures"],
        compile_s=totals["compile_seconds"],
        busy_s=totals["busy_seconds"],
        jax_compiles=totals["jax_compiles"],
        top=tuple({name: row[name] for name in _FIELDS} for row in costly[:_TOP_IN_EVENT]),
    )


def _row(row: dict[str, Any]) -> str:
    phases = row["phases"]
    entries = "-" if row["cache_entries"] is None else str(row["cache_entries"])
    where = f"  ({_short(row['location'])})" if row["location"] else ""
    return (
        f"{row['seconds']:9.2f} {phases['trace']:7.2f} {phases['lower']:7.2f} {phases['compile']:8.2f} "
        f"{row['compiles']:9d} {entries:>8}  {row['function']}{where}"
    )


def _short(location: str) -> str:
    return os.path.basename(location)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 600 else f"{value / 60:.1f} min"
