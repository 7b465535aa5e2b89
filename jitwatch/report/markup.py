"""Builds HTML; every text is escaped exactly once, when it is inserted."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class Markup(str):
    """HTML that is not escaped when it is inserted into HTML; all other text is."""

    __slots__ = ()


def safe(value: object) -> Markup:
    """A value as HTML: unchanged if it is markup, else its escaped text."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Concatenate the parts."""
    return Markup(between.join(safe(part) for part in parts))


def tag(name: str, *inner: object, **attributes: str) -> Markup:
    """An element. The argument `class_` is the attribute `class`, `aria_label` is `aria-label`."""
    given = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{join(inner)}</{name}>")


def section(title: str, *inner: object, id_: str) -> Markup:
    """A section with a heading; empty without contents."""
    if not any(inner):
        return Markup("")
    return tag("section", tag("h2", title, id=id_), *inner, aria_labelledby=id_)


def items(texts: Sequence[object], *, limit: int) -> Markup:
    """A list; items past the limit are collapsed."""
    if not texts:
        return Markup("")
    shown = tag("ul", *(tag("li", text) for text in texts[:limit]))
    rest = texts[limit:]
    if not rest:
        return shown
    return join(
        [shown, tag("details", tag("summary", f"{len(rest):,} more"), tag("ul", *(tag("li", t) for t in rest)))]
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its head, and the class of its cells (`n` for numbers, `minor` to hide it on a phone)."""

    head: str
    style: str = ""


def table(caption: object, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> Markup:
    """A table; the first cell of each row is the row's head. Empty without rows."""
    if not rows:
        return Markup("")
    head = tag("tr", *(tag("th", column.head, scope="col", class_=column.style) for column in columns))
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, class_=column.style) if number else tag("th", cell, scope="row", class_=column.style)
                for number, (column, cell) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for row in rows
    ]
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
