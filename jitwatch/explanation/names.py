"""Which functions a user means, and what to say when there is none."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from jitwatch.events import JAX_LABEL

_MAX_NAMES = 10
#: Functions that a misspelt name is compared with.
_MAX_COMPARED = 1_000


def matching(wanted: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of this label; else the rows whose name ends so, or that the pattern fits."""
    exact = [row for row in rows if row["function"] == wanted]
    return exact or [row for row in rows if _fits(row["function"], wanted)]


def last_of(label: str) -> str:
    """`step` of `train.main.<locals>.step@train.py:5`."""
    return _bare(label).rpartition(".")[2]


def unknown(wanted: str, rows: list[dict[str, Any]]) -> str:
    """That no function has this name, and which ones there are."""
    labels = [row["function"] for row in rows if row["function"] != JAX_LABEL]
    if not labels:
        return "No function has been jitted or compiled since the agent was installed."
    # Imported here: only a misspelt name needs it.
    from difflib import get_close_matches

    names = {name: label for label in labels[:_MAX_COMPARED] for name in (label, last_of(label))}
    near = dict.fromkeys(names[name] for name in get_close_matches(wanted, names, n=3))
    text = f"No function named {wanted!r} has been jitted or compiled since the agent was installed."
    if near:
        text += f" Did you mean {' or '.join(near)}?"
    more = len(labels) - _MAX_NAMES
    return f"{text} Known: {', '.join(labels[:_MAX_NAMES])}{f' and {more:,} more' if more > 0 else ''}."


def _fits(label: str, wanted: str) -> bool:
    bare = _bare(label)
    return (
        bare == wanted
        or any(name.endswith(f".{wanted}") for name in (label, bare))
        or any(fnmatchcase(name, wanted) for name in (label, bare, last_of(label)))
    )


def _bare(label: str) -> str:
    return label.partition("@")[0]
