"""The answer: a paragraph that sums up, then one for whatever is alike, the newest first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jitwatch import guard
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import persistent_cache, words
from jitwatch.render.explain import names
from jitwatch.render.explain.groups import grouped
from jitwatch.render.explain.teller import Teller, pace_of

#: Paragraphs that are shown, the newest; a function's name shows the rest.
MAX_PARAGRAPHS = 20
_MAX_WANTED = 200
_LOSSES = ("lost_seconds", "lost_seconds_since_steady")


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """What recompiled and why, the newest first.

    Its text is wrapped for a terminal: `print()` shows it, and so does the bare expression in a REPL or notebook.

    Attributes:
        paragraphs: The same, each paragraph in one line; the first sums up.
    """

    paragraphs: tuple[str, ...]

    def __str__(self) -> str:
        try:
            width = words.columns(sys.stdout)
            return "\n\n".join(words.paragraph(one, width) for one in self.paragraphs)
        except Exception:
            guard.failed("explain")
            return "\n\n".join(map(str, self.paragraphs))

    def __repr__(self) -> str:
        return str(self)


def absent(reason: str) -> Explanation:
    """An explanation that there is none."""
    return Explanation((reason,))


def explain(state: dict[str, Any], records: Sequence[dict[str, Any]], wanted: str | None = None) -> Explanation:
    """Say what recompiled and why.

    Args:
        state: As `snapshot()` returns it.
        records: Events in order; those that the state does not know yet are left out.
        wanted: Label of a function, its last parts, or a pattern; all functions by default.
    """
    rows = state["functions"]
    if wanted is not None:
        rows = names.matching(wanted[:_MAX_WANTED], rows)
        if not rows:
            return absent(names.unknown(wanted[:_MAX_WANTED], state["functions"]))
    # Above all bounds the state tells functions apart no more, but their records still name them.
    labels = {row["function"] for row in rows} if wanted is not None else None
    known = [
        one for one in records if one["seq"] <= state["last_seq"] and (labels is None or one.get("function") in labels)
    ]
    pitfalls = [one for one in state["pitfalls"] if labels is None or one["function"] in labels]
    groups = grouped(known)
    told, left_out = Teller(state).paragraphs(groups, pitfalls, known, limit=MAX_PARAGRAPHS)
    shown = sum(group.recompiles for group in groups)
    head = _of_jax(rows) if labels == {JAX_LABEL} else _head(rows, state, shown)
    if len(told) > 1:
        head += " The newest first:"
    more = f"And {left_out:,} more; jitwatch.explain('train_step') shows those of one function."
    kept = persistent_cache.sentences(state["persistent_cache"]) if wanted is None else []
    return Explanation((head, *told, *([more] if left_out else []), *([" ".join(kept)] if kept else [])))


def _head(rows: list[dict[str, Any]], state: dict[str, Any], shown: int) -> str:
    users = [row for row in rows if row["function"] != JAX_LABEL]
    recompiled = [row for row in users if row["recompiles"]]
    recompiles = sum(row["recompiles"] for row in recompiled)
    if not recompiles:
        return _nothing(rows)
    cost = pace_of(state).cost(*(sum(row[name] for row in users) for name in _LOSSES))
    who = recompiled[0]["function"] if len(recompiled) == 1 else words.count(len(recompiled), "function")
    text = f"{words.count(recompiles, 'recompile')} of {who}: {words.of_cost(cost)}."
    if cost["lost_seconds_since_steady"] and cost["lost_ratio_since_steady"]:
        lost = words.seconds(cost["lost_seconds_since_steady"])
        text += f" Since steady: {lost} lost, {words.percent(cost['lost_ratio_since_steady'])} of that time."
    if recompiles > shown:
        text += f" The oldest {recompiles - shown:,} of them are no longer kept one by one."
    return text


def _nothing(rows: list[dict[str, Any]]) -> str:
    users = [row for row in rows if row["function"] != JAX_LABEL]
    compiled = [row for row in users if row["compiles"]]
    compiles = sum(row["compiles"] for row in compiled)
    who = users[0]["function"] if len(users) == 1 else ""
    if not compiles:
        operations = next((row["compiles"] for row in rows if row["function"] == JAX_LABEL), 0)
        own = f" JAX has compiled {words.count(operations, 'operation')} outside of jit." if operations else ""
        return f"{who or 'No function'} has{' not' if who else ''} compiled since the agent was installed.{own}"
    who = who or words.count(len(compiled), "function")
    return f"Nothing has recompiled: {words.count(compiles, 'compile')} of {who} since the agent was installed."


def _of_jax(rows: list[dict[str, Any]]) -> str:
    compiles = words.count(sum(row["compiles"] for row in rows), "small program")
    return f"JAX compiled {compiles} of its own; it is not known why any of them recompiled."
