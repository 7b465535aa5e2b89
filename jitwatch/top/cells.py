"""Text in the columns of a terminal: cleaned of what would steer it, measured, cut and wrapped."""

from __future__ import annotations

import textwrap
import unicodedata
from typing import Final

from jitwatch.model import cleaning

#: What is kept of one text that came over the network.
_MAX_TEXT: Final = 1_000
_CUT: Final = "…"


def clean(value: object) -> str:
    """Text that is safe on a terminal; anything that is no text is empty, what would steer it becomes `?`."""
    return cleaning.clean(value, _MAX_TEXT) if isinstance(value, str) else ""


def width(text: str) -> int:
    """Columns that a cleaned text takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of(one) for one in text)


def _width_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """The text, cut to so many columns; a cut one ends with `…`."""
    if width(text) <= columns:
        return text
    return f"{_start(text, columns - 1)}{_CUT}" if columns > 0 else ""


def _start(text: str, columns: int) -> str:
    taken = used = 0
    for one in text:
        used += _width_of(one)
        if used > columns:
            break
        taken += 1
    return text[:taken]


def padded(text: str, columns: int, *, is_right: bool = False) -> str:
    """The text in exactly so many columns."""
    shown = fit(text, columns)
    space = " " * (columns - width(shown))
    return f"{space}{shown}" if is_right else f"{shown}{space}"


def wrapped(text: str, columns: int, lines: int, *, indent: str = "") -> list[str]:
    """The text in at most so many lines, all but the first indented; what is left out ends with `…`."""
    if columns <= len(indent) + 1 or lines < 1:
        return []
    found = textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False)
    if len(found) > lines:
        rest = f"{found[lines - 1]} {found[lines].strip()}"
        found = [*found[: lines - 1], rest]
    # Wide characters were counted as one column each.
    return [fit(line, columns) for line in found]


def short_name(label: str, columns: int | None = None) -> str:
    """A function's label in so many columns, or its bare name: the front goes first, then the place.

    `train.make.<locals>.loss@train.py:9` becomes `loss@train.py:9` or `loss`; a lambda keeps its place.
    """
    if columns is not None and width(label) <= columns:
        return label
    path, at, where = label.partition("@")
    bare = path.rpartition(".<locals>.")[2].rpartition(".")[2] or path
    full = f"{bare}{at}{where}"
    if bare.startswith("<") or (columns is not None and width(full) <= columns):
        return full if columns is None else fit(full, columns)
    return bare if columns is None else fit(bare, columns)


def size(number: float) -> str:
    """Bytes as a person would say them: `34.2 GiB`."""
    amount, unit = _amount(number)
    return f"{amount} {unit}"


def size_of(number: float, whole: float) -> str:
    """`34.2 of 80.0 GiB`; `980 MiB of 80.0 GiB`."""
    (amount, unit), (limit, other) = _amount(number), _amount(whole)
    return f"{amount} of {limit} {unit}" if unit == other else f"{amount} {unit} of {limit} {other}"


def _amount(number: float) -> tuple[str, str]:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1000 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f}" if number >= 100 or unit == "B" else f"{number:.1f}", unit
