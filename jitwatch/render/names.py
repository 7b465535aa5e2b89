"""Finds functions by a name or pattern of the user, and words the error when none matches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from jitwatch.model.taxonomy import JAX_LABEL

R = TypeVar("R", bound=Mapping[str, Any])

_MAIN = "__main__"
_MAX_NAMES = 10
#: Functions that a misspelt name is compared with.
_MAX_COMPARED = 1_000


def matching(wanted: str, rows: list[R]) -> list[R]:
    """The row with this label; else the rows whose label ends with this name or matches this pattern.

    A function of a script has the label `__main__.train_step`; `train.train_step`, its label if the script were
    imported, matches as well.
    """
    exact = [row for row in rows if row["function"] == wanted]
    return exact or [row for row in rows if any(_matches(label, wanted) for label in _labels(row))]


def last_of(label: str) -> str:
    """The last part of a label: `step` of `train.main.<locals>.step@train.py:5`."""
    return _bare(label).rpartition(".")[2]


def unknown(wanted: str, rows: Sequence[Mapping[str, Any]], where: str = "since the agent was installed") -> str:
    """The error for a name that no function has, with similar names and the known ones.

    Args:
        wanted: The name or pattern.
        rows: Rows of the known functions.
        where: When or where they were seen, as the end of a sentence.
    """
    labels = [row["function"] for row in rows if row["function"] != JAX_LABEL]
    if not labels:
        return f"No function has been jitted or compiled {where}."
    # Imported here: only a misspelt name needs it.
    from difflib import get_close_matches

    names = {name: label for label in labels[:_MAX_COMPARED] for name in (label, last_of(label))}
    near = dict.fromkeys(names[name] for name in get_close_matches(wanted, names, n=3))
    text = f"No function named {wanted!r} has been jitted or compiled {where}."
    if near:
        text += f" Did you mean {' or '.join(near)}?"
    more = len(labels) - _MAX_NAMES
    return f"{text} Known: {', '.join(labels[:_MAX_NAMES])}{f' and {more:,} more' if more > 0 else ''}."


def _labels(row: Mapping[str, Any]) -> list[str]:
    """The label of a function, and for one of a script the label it would have if the script were imported."""
    label = str(row["function"])
    file = os.path.basename((row.get("location") or "").rpartition(":")[0])
    stem, _ = os.path.splitext(file)
    return [label, f"{stem}{label[len(_MAIN) :]}"] if label.startswith(f"{_MAIN}.") and stem else [label]


def _matches(label: str, wanted: str) -> bool:
    bare = _bare(label)
    return (
        bare == wanted
        or any(name.endswith(f".{wanted}") for name in (label, bare))
        or any(fnmatchcase(name, wanted) for name in (label, bare, last_of(label)))
    )


def _bare(label: str) -> str:
    return label.partition("@")[0]
