"""Lines of styled text, and tables that give up columns where it is narrow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from jitwatch.top.cells import fit, padded, width

Style = Literal["", "bold", "dim", "good", "busy", "warn", "bad", "gone", "head"]
_GAP: Final = 2


@dataclass(frozen=True, slots=True)
class Span:
    """Cleaned text in one style."""

    text: str
    style: Style = ""


Line = tuple[Span, ...]
EMPTY: Final[Line] = ()


def line(*parts: Span | str) -> Line:
    """A line of these parts."""
    return tuple(Span(part) if isinstance(part, str) else part for part in parts)


def plain(one: Line) -> str:
    """The line's text."""
    return "".join(span.text for span in one).rstrip()


def cut(one: Line, columns: int) -> Line:
    """The line in at most so many columns."""
    found: list[Span] = []
    for span in one:
        if width(span.text) > columns:
            return (*found, Span(fit(span.text, columns), span.style))
        found.append(span)
        columns -= width(span.text)
    return tuple(found)


def flowed(items: Sequence[Span], columns: int, lines: int) -> list[Line]:
    """Items set off by dots in at most so many lines, none of them broken; what does not fit is left out."""
    found: list[list[Span]] = [[]]
    used = 0
    for item in items:
        size = width(item.text)
        if found[-1] and used + 3 + size > columns:
            if len(found) == lines:
                continue
            found.append([])
        if found[-1]:
            found[-1].append(Span(" · ", "dim"))
            used += 3
        else:
            used = 0
        found[-1].append(item)
        used += size
    return [tuple(one) for one in found if one][:lines]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        cells: One a row.
        rank: Where it is narrow, columns of the highest rank go first; those of rank 0 never go.
        styles: One a row, or none.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    is_right: bool = True
    styles: Sequence[Style] = ()

    @property
    def columns(self) -> int:
        """What its widest cell takes."""
        return max(map(width, (self.title, *self.cells)))


def table(first: Column, others: Sequence[Column], columns: int, *, least: int) -> list[Line]:
    """A head and the rows: the first column takes what the others leave, `least` columns if it needs them.

    Args:
        first: The names; cut where they do not fit.
        others: From left to right.
        columns: Width of the terminal.
        least: For the names, before a column of the others goes.
    """
    kept = list(others)
    least = min(least, first.columns)
    while columns - _taken(kept) < least and any(one.rank for one in kept):
        kept.remove(max(kept, key=lambda one: one.rank))
    names = max(1, min(first.columns, columns - _taken(kept)))
    lines = [line(Span(padded(first.title, names), "head"), *(Span(_cell(one, one.title), "head") for one in kept))]
    for number, name in enumerate(first.cells):
        parts = [Span(padded(name, names), _style(first, number))]
        parts += [Span(_cell(one, one.cells[number]), _style(one, number)) for one in kept]
        lines.append(tuple(parts))
    return [cut(one, columns) for one in lines]


def _taken(kept: Sequence[Column]) -> int:
    return sum(one.columns + _GAP for one in kept)


def _cell(column: Column, text: str) -> str:
    return f"{' ' * _GAP}{padded(text, column.columns, is_right=column.is_right)}"


def _style(column: Column, number: int) -> Style:
    return column.styles[number] if column.styles else ""
