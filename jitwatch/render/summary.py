"""The summary of a run: a line of totals, a table of functions, and advice, from the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from jitwatch.model.events import RunSummary
from jitwatch.model.rows import FunctionSummaryRow, PitfallSummaryRow
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, persistent_cache, wording
from jitwatch.state.schema import CallSiteLike, FunctionRow, StateLike

_TOP = 8
_TOP_CAUSES = 3
_TOP_SITES = 3
_TOP_CACHES = 3
_TOP_IN_EVENT = 10
#: Pitfalls in the text and in the event.
MAX_PITFALLS = 25
#: Cache entries from which on a function is mentioned.
_MANY_ENTRIES = 20


def one_line(state: StateLike) -> str:
    """The totals in a sentence: compiles, recompiles, their seconds, and JAX's own small programs."""
    totals = state["totals"]
    failures = f", {totals['failures']} failed" if totals["failures"] else ""
    own = formats.count(totals["jax_compiles"], "program")
    recompiles = formats.count(totals["recompiles"], "recompile")
    return (
        f"{formats.count(totals['compiles'], 'compile')} ({recompiles}{failures}) "
        f"took {_seconds(totals['compile_seconds'])}; compiling took "
        f"{formats.percent(totals['busy_ratio'])} of {_seconds(state['uptime_seconds'])}, including {own} of JAX's own"
    )


def text(state: StateLike, *, has_advice: bool = True, width: int = formats.WIDTH) -> str:
    """The whole summary: totals, lost seconds, the slowest functions, jit caches, persistent cache, and advice.

    Args:
        state: As `snapshot()` returns it.
        has_advice: Whether to add what to change.
        width: Columns of the text.
    """
    lines = [one_line(state)]
    if state["totals"]["lost_seconds"]:
        lines.append(f"Recompiles: {wording.of_cost(state['totals'])}")
    if width < formats.WIDTH:
        lines = [formats.paragraph(line, width) for line in lines]
    rows = table(state)
    if rows:
        column = rows[0].index("function")
        lines += ["", *(fitted(row, column, width) if width < formats.WIDTH else row for row in rows)]
    grown = caches(state)
    if grown:
        lines += ["", formats.paragraph(grown, width)]
    kept = persistent_cache.sentences(state["persistent_cache"])
    if kept:
        lines += ["", *(formats.paragraph(one, width) for one in kept)]
    todo = advice(state, width=width) if has_advice else []
    if todo:
        lines += ["", "Advice:", *todo]
    return "\n".join(lines)


def table(state: StateLike) -> list[str]:
    """The table of the functions with most compile seconds: head and rows; empty if no function compiled."""
    known = [row for row in state["functions"] if row["compiles"] or row["failures"]]
    rows = known[:_TOP]
    more = [f"and {formats.count(len(known) - _TOP, 'more function')}"] if len(known) > _TOP else []
    head = f"{'seconds':>9} {'compiles':>9} {'recompiles':>11} {'lost':>8} {'of run':>9}  function"
    return [head, *(_row(row) for row in rows), *more] if rows else []


def fitted(row: str, column: int, width: int) -> str:
    """A row of the table in `width` columns: the start of a long name is cut off, causes go to a second line."""
    if len(row) <= width or column >= width:
        return row
    name, colon, causes = row[column:].rpartition(": ")
    name, causes = (name + colon.rstrip(), causes) if colon else (row[column:], "")
    if column + len(name) > width:
        name = f"…{name[-(width - column - 1) :]}"
    return f"{row[:column]}{name}\n{' ' * column}{causes}" if causes else f"{row[:column]}{name}"


def caches(state: StateLike) -> str | None:
    """A sentence about functions with many programs in their jit caches; None if there are none."""
    rows = sorted(
        (row for row in state["functions"] if (row.get("cache_entries") or 0) >= _MANY_ENTRIES),
        key=lambda row: -(row["cache_entries"] or 0),
    )
    if not rows:
        return None
    most = ", ".join(f"{row['function']} ({row['cache_entries']:,})" for row in rows[:_TOP_CACHES])
    # Not from the rows: functions that share `__other__` count as well.
    total = int(sum(one["value"] for one in state["metrics"]["jitwatch_jit_cache_entries"]))
    return f"Jit caches: {total:,} entries, most in {most}. Each keeps a program in memory while the function lives."


def advice(state: StateLike, *, more: str = "see jitwatch.explain()", width: int = formats.WIDTH) -> list[str]:
    """A paragraph for each pitfall, and for the costliest call sites without one; most lost seconds first.

    Args:
        state: As `snapshot()` returns it.
        more: Where pitfalls past the limit are listed.
        width: Columns of the paragraphs.
    """
    pitfalls = _pitfalls(state)
    found = [
        (one["lost_seconds"], wording.of_pitfall(one, name=formats.short_name(one["name"], one["function"])))
        for one in pitfalls[:MAX_PITFALLS]
    ]
    found += [(site["lost_seconds"], of_site(site)) for site in sites_without_pitfall(state)]
    texts = [text for _, text in sorted(found, key=lambda pair: -pair[0])]
    if len(pitfalls) > MAX_PITFALLS:
        texts.append(f"{formats.count(len(pitfalls) - MAX_PITFALLS, 'more pitfall')}: {more}.")
    return [formats.paragraph(text, width) for text in texts]


def sites_without_pitfall(state: StateLike) -> list[Any]:
    """The call sites with most lost seconds, of those whose recompiles show no pitfall."""
    return [site for site in state["call_sites"] if site["explanation"] and not site["pitfall"]][:_TOP_SITES]


def event(state: StateLike) -> RunSummary:
    """The summary as an event for the log, with the user's functions with most compile seconds."""
    totals = state["totals"]
    costly = [row for row in state["functions"] if row["function"] != JAX_LABEL and row["compiles"]]
    pitfalls, kept = _pitfalls(state), state["persistent_cache"]
    return RunSummary(
        wall_s=state["uptime_seconds"],
        compiles=totals["compiles"],
        recompiles=totals["recompiles"],
        failures=totals["failures"],
        compile_s=totals["compile_seconds"],
        busy_s=totals["busy_seconds"],
        jax_compiles=totals["jax_compiles"],
        lost_s=totals["lost_seconds"],
        lost_ratio=totals["lost_ratio"],
        lost_steps=totals["lost_steps"],
        top=tuple(cast("FunctionSummaryRow", _selected(row, FunctionSummaryRow)) for row in costly[:_TOP_IN_EVENT]),
        pitfalls=tuple(
            cast("PitfallSummaryRow", _selected(row, PitfallSummaryRow) | {"lost_s": row["lost_seconds"]})
            for row in pitfalls[:MAX_PITFALLS]
        ),
        pitfalls_left_out=max(0, len(pitfalls) - MAX_PITFALLS),
        persistent_cache=kept if kept["hits"] or kept["misses"] else {},
    )


def _selected(row: Mapping[str, Any], declared: type) -> dict[str, Any]:
    """The fields of a row that another kind of row declares."""
    return {name: row[name] for name in declared.__annotations__ if name in row}


def _pitfalls(state: StateLike) -> list[Any]:
    """The pitfalls of a state, most lost seconds first."""
    return sorted(state["pitfalls"], key=lambda one: -one["lost_seconds"])


def _row(row: FunctionRow) -> str:
    lost = (
        f"{row['lost_seconds']:8.2f} {formats.percent(row['lost_ratio']):>9}"
        if row["lost_seconds"]
        else f"{'-':>8} {'-':>9}"
    )
    where = formats.defined_at(row["function"], row["location"])
    causes = sorted(row["causes"].items(), key=lambda item: -item[1])
    notes = [f"{number} {cause}" for cause, number in causes[:_TOP_CAUSES]]
    notes += ["…"] if len(causes) > _TOP_CAUSES else []
    notes += [f"{row['failures']} failed"] if row["failures"] else []
    why = f": {', '.join(notes)}" if notes else ""
    return f"{row['seconds']:9.2f} {row['compiles']:9d} {row['recompiles']:11d} {lost}  {row['function']}{where}{why}"


def of_site(site: CallSiteLike) -> str:
    """A call site: the last recompile, and what all of its recompiles cost."""
    if site["recompiles"] == 1:
        return str(site["explanation"])
    return formats.sentences(
        site["explanation"], f"In total for this cause: {site['recompiles']:,} recompiles, {wording.of_cost(site)}"
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 600 else f"{value / 60:.1f} min"
