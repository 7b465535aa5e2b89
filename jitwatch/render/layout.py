"""Lays text out for a terminal: wide characters, wrapped lines, lines of items, tables. Texts are clean."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

#: A text and the name of its style, and a line of such texts, which may be longer than the screen.
Span = tuple[str, str]
Line = tuple[Span, ...]
#: The cells of a row by the titles of their columns; one without a value is missing.
Row = Mapping[str, Span]
#: The first column of a table gets fewer columns only if no other can be left out.
_LEAST: Final = 22


def width(text: str) -> int:
    """Columns of a text on a terminal."""
    if text.isascii():
        return len(text)
    wide, none = unicodedata.east_asian_width, unicodedata.category
    return sum(0 if none(one) in ("Mn", "Me") else 2 if wide(one) in "WF" else 1 for one in text)


def fit(text: str, columns: int) -> str:
    """The text in at most so many columns; `…` at the end of a cut one."""
    if width(text) <= columns:
        return text
    text = text[: max(0, columns)]
    while text and width(text) >= columns:
        text = text[:-1]
    return f"{text}…" if columns > 0 else ""


def wrapped(text: str, columns: int, lines: int, *, indent: str = "  ") -> list[str]:
    """The text in at most so many lines, all but the first indented; `…` at the end of a cut one."""
    if columns <= len(indent) + 1 or lines < 1:
        return []
    found = textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False)
    if len(found) > lines:
        found[lines - 1 :] = [f"{found[lines - 1]} {found[lines].strip()}"]
    # Wide characters were counted as one column each.
    return [fit(line, columns) for line in found]


def flowed(items: Iterable[Span], columns: int, lines: int) -> list[Line]:
    """Items separated by dots in at most so many lines, each item whole; what does not fit is left out."""
    found: list[Line] = [()]
    for item in items:
        used = sum(width(text) for text, _ in found[-1])
        if used and used + 3 + width(item[0]) > columns:
            if len(found) == lines:
                continue
            found.append(())
        found[-1] = (*found[-1], (" · ", "dim"), item) if found[-1] else (item,)
    return [line for line in found if line]


def table(
    ranks: Mapping[str, int],
    rows: Iterable[Row],
    columns: int,
    *,
    left: Collection[str] = (),
    shorten: Callable[[str, int], str] = fit,
) -> list[Line]:
    """A head and the rows. The first column gets what the others leave.

    Args:
        ranks: The columns. Those without a value are left out, and where there is too little room those of the highest
            rank first; those of rank 0 never.
        rows: Their cells.
        columns: Width of the terminal.
        left: The columns that are aligned on the left, besides the first one.
        shorten: Shortens a text of the first column.
    """
    first, *others = ranks
    rows = [{title: (title, "bold") for title in ranks}, *rows]
    sizes = {title: 2 + max(width(row[title][0]) for row in rows if title in row) for title in ranks}
    kept = [title for title in others if ranks[title] == 0 or any(title in row for row in rows[1:])]
    room = columns - sum(sizes[title] for title in kept)
    while room < min(_LEAST, sizes[first] - 2) and any(ranks[title] for title in kept):
        kept.remove(worst := max(kept, key=lambda title: ranks[title]))
        room += sizes[worst]
    room = max(1, room)
    names = [fit(shorten(row[first][0], room), room) for row in rows]
    size = max(map(width, names))
    lines: list[Line] = []
    for name, row in zip(names, rows, strict=True):
        line = [(f"{name}{' ' * (size - width(name))}", row[first][1])]
        for title in kept:
            text, style = row.get(title, ("–", ""))
            space = " " * (sizes[title] - width(text))
            line.append((f"  {text}{space[2:]}" if title in left else f"{space}{text}", style))
        lines.append(tuple(line))
    return lines
