"""Finds the functions that a user names, and words the error when there is none."""

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
    """The row of this label; else the rows whose name ends so, or that the pattern fits.

    What a script defines has the label `__main__.train_step`; `train.train_step`, as if its file had been imported,
    means the same.
    """
    exact = [row for row in rows if row["function"] == wanted]
    return exact or [row for row in rows if any(_fits(label, wanted) for label in _labels(row))]


def last_of(label: str) -> str:
    """`step` of `train.main.<locals>.step@train.py:5`."""
    return _bare(label).rpartition(".")[2]


def unknown(wanted: str, rows: Sequence[Mapping[str, Any]], where: str = "since the agent was installed") -> str:
    """That no function has this name, and which ones there are.

    Args:
        wanted: The name or pattern.
        rows: Those that there are.
        where: When or where they were seen.
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
    """The label, and the one that a script's function would have if the script were imported."""
    label = str(row["function"])
    file = os.path.basename((row.get("location") or "").rpartition(":")[0])
    stem, _ = os.path.splitext(file)
    return [label, f"{stem}{label[len(_MAIN) :]}"] if label.startswith(f"{_MAIN}.") and stem else [label]


def _fits(label: str, wanted: str) -> bool:
    bare = _bare(label)
    return (
        bare == wanted
        or any(name.endswith(f".{wanted}") for name in (label, bare))
        or any(fnmatchcase(name, wanted) for name in (label, bare, last_of(label)))
    )


def _bare(label: str) -> str:
    return label.partition("@")[0]
