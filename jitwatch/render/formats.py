"""Formats numbers, names and locations for people, and lays text out for a terminal."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any

#: Most columns of a paragraph, and fewest.
WIDTH, _MIN_WIDTH = 100, 40
_INDENT = "    "
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_CELL = re.compile(r"ipykernel_\d+[/\\]\d+\.py:(?P<line>\d+)$")

# Numbers


def seconds(value: float) -> str:
    """A duration: `1.2 ms`, `3.20 s`, `12.3 s`, `3.2 min`, `2.1 h`."""
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def duration(value: float) -> str:
    """A duration in at most two units: `42 s`, `3 min 20 s`, `12 min`, `3 h 05 min`, `2 d 04 h`."""
    minutes, hours, days = int(value) // 60, int(value) // 3600, int(value) // 86_400
    if minutes < 10:
        return f"{minutes} min {int(value) % 60:02d} s" if minutes else f"{int(value)} s"
    if hours == 0:
        return f"{minutes} min"
    return f"{days} d {hours % 24:02d} h" if days else f"{hours} h {minutes % 60:02d} min"


def ago(seconds_ago: float) -> str:
    """`just now`, `12 s ago`, `3.2 min ago`."""
    if seconds_ago < 1:
        return "just now"
    return f"{seconds_ago:.0f} s ago" if seconds_ago < 100 else f"{seconds(seconds_ago)} ago"


def size(number: int) -> str:
    """A number of bytes: `512 bytes`, `1.5 GiB`."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return f"{number} {_UNITS[0]}"
    return f"{value:.3g} {_UNITS[unit]}" if value < 1000 else f"{value:,.0f} {_UNITS[unit]}"


def percent(ratio: float) -> str:
    """`4 %`; a small share above zero is `under 1 %`."""
    return "under 1 %" if 0 < ratio < 0.01 else f"{round(100 * ratio)} %"


def count(number: int, noun: str) -> str:
    """`1 recompile`, `2,000 recompiles`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


# Names and locations


def file_line(location: str | None) -> str:
    """`train.py:88` of a whole path, and `cell:3` of a notebook's, whose file name is a number."""
    if location and (cell := _CELL.search(location)):
        return f"cell:{cell['line']}"
    return os.path.basename(location) if location else "an unknown line"


def defined_at(name: str, location: str | None) -> str:
    """The location of a function, ` (train.py:10)`; empty if it is unknown or part of the name."""
    return f" ({file_line(location)})" if location and not name.endswith(f"@{file_line(location)}") else ""


def short_name(name: str, label: str) -> str:
    """The bare name of a function; of a lambda its location as well, `<lambda>@train.py:88`; else its label."""
    bare, _, where = label.partition("@")
    if not bare.endswith(f".{name}"):
        return label
    return name if name.isidentifier() else f"{name}@{where}" if where else label


def listed(names: Sequence[str], most: int) -> str:
    """A list of at most `most` names: `a`, `a and b`, `a, b and 7 more`."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most:,} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


# Sentences and paragraphs


def sentences(*parts: str | None) -> str:
    """The parts that are not empty, each with one full stop."""
    return " ".join(f"{part.removesuffix('.')}." for part in parts if part)


def columns(stream: Any) -> int:
    """The width of text for a stream: that of its terminal within bounds, or `WIDTH` for a file."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else WIDTH
    except (AttributeError, OSError, ValueError):
        return WIDTH
    # A terminal whose size was never set reports 0.
    return min(max(found, _MIN_WIDTH), WIDTH) if found else WIDTH


def paragraph(text: str, width: int = WIDTH) -> str:
    """Text wrapped to a width, all lines but the first indented; names and paths are not broken."""
    return textwrap.fill(text, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)
