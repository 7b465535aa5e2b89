"""The run in a few lines of text, from the same state that every exporter shows."""

from __future__ import annotations

from typing import Any

from jitwatch.model.events import RunSummary
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import persistent_cache, words
from jitwatch.state.schema import CallSiteLike, FunctionRow, StateLike

_TOP = 8
_TOP_CAUSES = 3
_TOP_SITES = 3
_TOP_CACHES = 3
_TOP_IN_EVENT = 10
#: Pitfalls that the text and the event tell of.
MAX_PITFALLS = 25
#: Entries that make the cache of one function worth a line.
_MANY_ENTRIES = 20
_FIELDS = (
    "function",
    "location",
    "compiles",
    "recompiles",
    "seconds",
    "lost_seconds",
    "lost_ratio",
    "lost_steps",
    "lost_calls",
    "causes",
)
_PITFALL_FIELDS = ("pitfall", "function", "location", "call_site", "message", "advice", "subject")


def one_line(state: StateLike) -> str:
    """`12 compiles (3 recompiles) took 14.2 s, 24 % of 60.1 s` and what JAX compiled for itself."""
    totals = state["totals"]
    failures = f", {totals['failures']} failed" if totals["failures"] else ""
    own = words.count(totals["jax_compiles"], "small one")
    return (
        f"{words.count(totals['compiles'], 'compile')} ({words.count(totals['recompiles'], 'recompile')}{failures}) "
        f"took {_seconds(totals['compile_seconds'])}; with {own} of JAX's own, "
        f"{words.percent(totals['busy_ratio'])} of {_seconds(state['uptime_seconds'])} went into compiling"
    )


def text(state: StateLike, *, has_advice: bool = True, width: int = words.WIDTH) -> str:
    """The one line, what recompiles cost, a table of the functions that cost most, and what to change.

    Args:
        state: As `snapshot()` returns it.
        has_advice: Whether to say what to change.
        width: Columns of the paragraphs.
    """
    lines = [one_line(state)]
    if state["totals"]["lost_seconds"]:
        lines.append(f"Recompiles: {words.of_cost(state['totals'])}")
    if width < words.WIDTH:
        lines = [words.paragraph(line, width) for line in lines]
    rows = table(state)
    if rows:
        column = rows[0].index("function")
        lines += ["", *(fitted(row, column, width) if width < words.WIDTH else row for row in rows)]
    grown = caches(state)
    if grown:
        lines += ["", words.paragraph(grown, width)]
    kept = persistent_cache.sentences(state["persistent_cache"])
    if kept:
        lines += ["", *(words.paragraph(one, width) for one in kept)]
    todo = advice(state, width=width) if has_advice else []
    if todo:
        lines += ["", "What to change:", *todo]
    return "\n".join(lines)


def table(state: StateLike) -> list[str]:
    """A head and a line for each of the functions that cost most; nothing where no function compiled."""
    known = [row for row in state["functions"] if row["compiles"] or row["failures"]]
    rows = known[:_TOP]
    more = [f"and {words.count(len(known) - _TOP, 'more function')}"] if len(known) > _TOP else []
    head = f"{'seconds':>9} {'compiles':>9} {'recompiles':>11} {'lost':>8} {'of run':>9}  function"
    return [head, *(_row(row) for row in rows), *more] if rows else []


def fitted(row: str, column: int, width: int) -> str:
    """A row of the table within the columns: a name that is too long loses its begin, causes go below it."""
    if len(row) <= width or column >= width:
        return row
    name, colon, causes = row[column:].rpartition(": ")
    name, causes = (name + colon.rstrip(), causes) if colon else (row[column:], "")
    if column + len(name) > width:
        name = f"…{name[-(width - column - 1) :]}"
    return f"{row[:column]}{name}\n{' ' * column}{causes}" if causes else f"{row[:column]}{name}"


def caches(state: StateLike) -> str | None:
    """A sentence on functions that keep many programs in their jit caches; None where there is no such function."""
    rows = sorted(
        (row for row in state["functions"] if (row.get("cache_entries") or 0) >= _MANY_ENTRIES),
        key=lambda row: -(row["cache_entries"] or 0),
    )
    if not rows:
        return None
    most = ", ".join(f"{row['function']} {row['cache_entries']:,}" for row in rows[:_TOP_CACHES])
    # Not from the rows: functions without a name of their own count as well.
    total = int(sum(one["value"] for one in state["metrics"]["jitwatch_jit_cache_entries"]))
    return f"Jit caches: {total:,} entries, most of {most}. Each keeps a program in memory while the function lives."


def advice(state: StateLike, *, more: str = "see jitwatch.explain()", width: int = words.WIDTH) -> list[str]:
    """A paragraph for each pitfall, and for the lines whose recompiles cost most where no pitfall is known.

    They are wrapped for a terminal; what costs most comes first. `more` says where the rest is.
    """
    pitfalls = _pitfalls(state)
    told = [
        (one["lost_seconds"], words.of_pitfall(one, name=words.called(one["name"], one["function"])))
        for one in pitfalls[:MAX_PITFALLS]
    ]
    told += [(site["lost_seconds"], of_site(site)) for site in sites_without_pitfall(state)]
    texts = [text for _, text in sorted(told, key=lambda pair: -pair[0])]
    if len(pitfalls) > MAX_PITFALLS:
        texts.append(f"{words.count(len(pitfalls) - MAX_PITFALLS, 'more pitfall')}: {more}.")
    return [words.paragraph(text, width) for text in texts]


def sites_without_pitfall(state: StateLike) -> list[Any]:
    """The lines whose recompiles cost most, of those that are of no known mistake."""
    return [site for site in state["call_sites"] if site["explanation"] and not site["pitfall"]][:_TOP_SITES]


def event(state: StateLike) -> RunSummary:
    """The same for the event log, with the functions of the user that cost most."""
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
        top=tuple({name: value for name, value in row.items() if name in _FIELDS} for row in costly[:_TOP_IN_EVENT]),
        pitfalls=tuple(
            {name: one[name] for name in _PITFALL_FIELDS} | {"lost_s": one["lost_seconds"]}
            for one in pitfalls[:MAX_PITFALLS]
        ),
        pitfalls_left_out=max(0, len(pitfalls) - MAX_PITFALLS),
        persistent_cache=kept if kept["hits"] or kept["misses"] else {},
    )


def _pitfalls(state: StateLike) -> list[Any]:
    """Those that cost most first, those that cost no recompiles as they came."""
    return sorted(state["pitfalls"], key=lambda one: -one["lost_seconds"])


def _row(row: FunctionRow) -> str:
    lost = (
        f"{row['lost_seconds']:8.2f} {words.percent(row['lost_ratio']):>9}"
        if row["lost_seconds"]
        else f"{'-':>8} {'-':>9}"
    )
    where = words.of_place(row["function"], row["location"])
    causes = sorted(row["causes"].items(), key=lambda item: -item[1])
    notes = [f"{number} {cause}" for cause, number in causes[:_TOP_CAUSES]]
    notes += ["…"] if len(causes) > _TOP_CAUSES else []
    notes += [f"{row['failures']} failed"] if row["failures"] else []
    why = f": {', '.join(notes)}" if notes else ""
    return f"{row['seconds']:9.2f} {row['compiles']:9d} {row['recompiles']:11d} {lost}  {row['function']}{where}{why}"


def of_site(site: CallSiteLike) -> str:
    """Why a line recompiled last, and what all of its recompiles cost."""
    if site["recompiles"] == 1:
        return str(site["explanation"])
    return words.sentences(
        site["explanation"], f"For this reason in all: {site['recompiles']:,} recompiles, {words.of_cost(site)}"
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 600 else f"{value / 60:.1f} min"
