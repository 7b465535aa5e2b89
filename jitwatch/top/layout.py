"""A whole picture as lines: header, functions, the newest recompiles, and what to change. Pure.

The room is shared out by importance: header first, then the costliest functions, then the texts. No line is
wider than the terminal and none is broken by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import words
from jitwatch.top.cells import short_name, width, wrapped
from jitwatch.top.figures import Figures, FunctionFigures, PitfallFigures, RecompileFigures
from jitwatch.top.frame import SORTS, Frame, name_of
from jitwatch.top.header import header, share
from jitwatch.top.lines import EMPTY, Column, Line, Span, Style, cut, line, table
from jitwatch.top.merging import counted, merged

_JAX_NAME: Final = "(JAX's own)"
_DASH: Final = "–"
_LEAST_NAME: Final = 22
#: Rows of the functions table that texts do not take away.
_LEAST_ROWS: Final = 5
#: Rows of texts below which each of them gets a single line, and two of them.
_TIGHT, _ROOMY = 9, 18


def lay_out(frame: Frame, columns: int, rows: int) -> list[Line]:
    """The picture for a terminal of this size."""
    columns, rows = max(columns, 1), max(rows, 1)
    foot = _footer(frame) if frame.keys else []
    if not frame.processes:
        body = [line(Span(text)) for text in wrapped(frame.note, columns, rows)]
    else:
        body = _body(frame, columns, rows - len(foot))
    body = body[: rows - len(foot)] if rows > len(foot) else []
    gap = [EMPTY] * (rows - len(foot) - len(body)) if foot else []
    return [cut(one, columns) for one in (*body, *gap, *foot)][-rows:]


def _body(frame: Frame, columns: int, rows: int) -> list[Line]:
    head = header(frame, columns, max(4, rows // 3 if len(frame.processes) == 1 else rows // 2))
    all_figures = counted(frame.shown)
    functions = _ordered(merged(all_figures), frame.sort) if all_figures else []
    if not functions:
        return [*head, EMPTY, line(Span("No function was compiled yet.", "dim"))] if all_figures else head
    room = rows - len(head) - 1
    kept = min(1 + len(functions), max(1 + _LEAST_ROWS, 2 * room // 5))
    texts = _texts(all_figures, columns, max(0, room - kept))
    return [*head, EMPTY, *_functions(functions, columns, room - len(texts)), *texts]


def _functions(functions: Sequence[FunctionFigures], columns: int, rows: int) -> list[Line]:
    """The table in at most so many rows; the last one says how many there are besides."""
    hidden = len(functions) + 1 - rows
    if hidden <= 0 or rows < 4:
        return _table(functions[: max(0, rows - 1)], columns)
    more = words.count(hidden + 1, "more function")
    return [*_table(functions[: rows - 2], columns), line(Span(f"and {more}", "dim"))]


def _ordered(functions: list[FunctionFigures], sort: str) -> list[FunctionFigures]:
    return sorted((one for one in functions if one.compiles or one.failures), key=SORTS[sort])


def _table(functions: Sequence[FunctionFigures], columns: int) -> list[Line]:
    if not functions:
        return []
    names = [_JAX_NAME if one.function == JAX_LABEL else one.function for one in functions]
    styles: list[Style] = ["bad" if one.is_in_storm else "" for one in functions]
    others = [
        Column("compiles", [_number(one.compiles, one.compiles_spread) for one in functions], 3),
        Column(
            "recompiles",
            [_number(one.recompiles, one.recompiles_spread) for one in functions],
            styles=["warn" if one.recompiles and one.function != JAX_LABEL else "" for one in functions],
        ),
        Column("seconds", [_seconds(one.seconds) for one in functions], 2),
        Column("lost", [_seconds(one.lost_seconds) for one in functions]),
        Column("of run", [share(one.lost_ratio) for one in functions], 1),
        Column("cached", [_DASH if one.cache_entries is None else f"{one.cache_entries:,}" for one in functions], 4),
        Column("cause", [_cause(one) for one in functions], 1, is_right=False),
    ]
    taken = sum(one.columns + 2 for one in others)
    whole = max(map(width, names)) <= columns - taken
    shown = names if whole else [_named(name, columns - taken) for name in names]
    return table(Column("function", shown, styles=styles), others, columns, least=_LEAST_NAME)


def _named(name: str, columns: int) -> str:
    return name if name == _JAX_NAME else short_name(name, max(columns, _LEAST_NAME))


def _number(number: int, spread: tuple[int, int] | None) -> str:
    return f"{number:,}" if spread is None else f"{number:,} ({spread[0]:,}–{spread[1]:,})"


def _seconds(seconds: float) -> str:
    if seconds <= 0:
        return _DASH
    return f"{seconds:.2f}" if seconds < 1000 else f"{seconds:,.0f}"


def _cause(one: FunctionFigures) -> str:
    others = len(one.causes) - 1
    return f"{one.worst_cause} +{others}" if others > 0 else one.worst_cause


def _texts(all_figures: Sequence[Figures], columns: int, room: int) -> list[Line]:
    """The newest recompiles and the costliest mistakes, each under its title, in at most so many rows."""
    lines_each = 1 if room < _TIGHT + 4 else 2 if room < _ROOMY else 3
    recompiles = _recompiles(all_figures, columns, lines_each)
    advice = _advice(all_figures, columns, lines_each)
    half = room if not recompiles or not advice else room // 3 if room < _ROOMY else room // 2
    upper = _section("Newest recompiles", recompiles, half if advice else room)
    lower = _section("What to change", advice, room - len(upper))
    # What the advice does not need goes to the recompiles.
    upper = _section("Newest recompiles", recompiles, room - len(lower))
    return [*upper, *lower]


def _section(title: str, entries: Sequence[list[Line]], room: int) -> list[Line]:
    """An empty line, the title, and as many whole entries as there is room for."""
    fits, used = 0, 2
    for entry in entries:
        if used + len(entry) > room:
            break
        fits, used = fits + 1, used + len(entry)
    if not fits:
        return []
    more = len(entries) - fits
    head = line(Span(title, "head"), Span(f" · {more:,} more", "dim") if more else "")
    return [EMPTY, head, *(one for entry in entries[:fits] for one in entry)]


def _recompiles(all_figures: Sequence[Figures], columns: int, lines_each: int) -> list[list[Line]]:
    """What happened and why; what to do about it has a section of its own."""
    found = [one for figures in all_figures for one in figures.newest_recompiles]
    found.sort(key=lambda one: (one.seen_s_ago is None, one.seen_s_ago or 0.0, -one.lost_seconds))
    entries = []
    for one in found:
        ago = f"{words.ago(one.seen_s_ago)}: " if one.seen_s_ago is not None else ""
        often = f"{words.count(one.recompiles, 'recompile')}, " if one.recompiles > 1 else ""
        lost = f" {often}{words.seconds(one.lost_seconds)} lost." if one.lost_seconds else ""
        entries.append(_entry(f"{ago}{_where(one.function, one.call_site)}: {one.reason}.{lost}", columns, lines_each))
    return entries


def _advice(all_figures: Sequence[Figures], columns: int, lines_each: int) -> list[list[Line]]:
    """Each once, however many processes commit it: what happened, and below it what to change; the dearest first."""
    mistakes = {(one.pitfall, one.function, one.message): one for figures in all_figures for one in figures.pitfalls}
    others = {
        (one.function, one.call_site, one.causes, one.paths): one
        for figures in all_figures
        for one in figures.newest_recompiles
        if one.advice and not one.pitfall
    }
    ordered = sorted(mistakes.values(), key=lambda one: one.timestamp, reverse=True)
    told: list[tuple[float, str, PitfallFigures | RecompileFigures]] = [
        (
            one.lost_seconds,
            f"{one.pitfall} in {_where(one.function, one.call_site or one.location)}: {one.message}",
            one,
        )
        for one in ordered
    ]
    told += [(one.lost_seconds, f"{_where(one.function, one.call_site)}: {one.reason}", one) for one in others.values()]
    entries = []
    for _, text, one in sorted(told, key=lambda entry: -entry[0]):
        entry = _entry(f"{text}.", columns, max(1, lines_each - 1))
        parts = wrapped(f"→ {one.advice}.", columns - 2, max(2, lines_each))
        entries.append([*entry, *(line("  ", Span(part, "good")) for part in parts)])
    return entries


def _where(function: str, place: str) -> str:
    """`train_step at train.py:88`; a lambda has its place in its name."""
    name = _JAX_NAME if function == JAX_LABEL else short_name(function)
    return name if "@" in name or not place else f"{name} at {words.place(place)}"


def _entry(text: str, columns: int, lines: int) -> list[Line]:
    parts = wrapped(text, columns - 2, lines)
    return [line("- " if number == 0 else "  ", part) for number, part in enumerate(parts)]


def _footer(frame: Frame) -> list[Line]:
    many = len(frame.processes) > 1
    whose = next((name_of(one) for one in frame.processes if one.url == frame.chosen), "all") if many else ""
    items = [" q quit", f"s sort by {frame.sort}", "p go on" if frame.is_paused else "p pause"]
    items += [f"tab process: {whose}"] if many else []
    paused = [Span("  paused", "warn")] if frame.is_paused else []
    return [line(Span("  ".join(items), "dim"), *paused)]
