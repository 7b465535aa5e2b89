"""The text of `jitwatch.explain()`: what recompiled and why, in paragraphs. Pure: from a state and records."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from jitwatch import guard
from jitwatch.model.events import Compiled, DonationViolation, StormEnded, StormStarted
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import compile_time, formats, names, persistent_cache, wording
from jitwatch.state.cost import Pace
from jitwatch.state.schema import FunctionRow, PitfallRow, StateLike

Record = Mapping[str, Any]

#: Maximum number of paragraphs; `explain("name")` shows those of one function.
MAX_PARAGRAPHS = 20
_MAX_WANTED = 200
#: Bytes from which the memory of a program is described.
_LARGE = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """What recompiled and why, the newest first.

    Its text is wrapped for a terminal: `print()` shows it, and so does the bare expression in a REPL or notebook.

    Attributes:
        paragraphs: The text before wrapping; the first paragraph is a summary.
    """

    paragraphs: tuple[str, ...]

    def __str__(self) -> str:
        try:
            width = formats.columns(sys.stdout)
            return "\n\n".join(formats.paragraph(one, width) for one in self.paragraphs)
        except Exception:
            guard.failed("explain")
            return "\n\n".join(map(str, self.paragraphs))

    def __repr__(self) -> str:
        return str(self)


def absent(reason: str) -> Explanation:
    """An explanation with only the reason why there is none."""
    return Explanation((reason,))


def explain(state: StateLike, records: Sequence[Record], wanted: str | None = None) -> Explanation:
    """Explain what recompiled and why.

    Args:
        state: As `Store.snapshot` returns it.
        records: Records in order; those that are newer than the state are left out.
        wanted: Label of a function, the end of one, or a pattern; all functions by default.
    """
    rows = state["functions"]
    if wanted is not None:
        rows = names.matching(wanted[:_MAX_WANTED], rows)
        if not rows:
            return absent(names.unknown(wanted[:_MAX_WANTED], state["functions"]))
    # Past its limit the state counts functions together, but their records still have their labels.
    labels = {row["function"] for row in rows} if wanted is not None else None
    known = [
        one for one in records if one["seq"] <= state["last_seq"] and (labels is None or one.get("function") in labels)
    ]
    pitfalls = [one for one in state["pitfalls"] if labels is None or one["function"] in labels]
    groups = grouped(known)
    paragraphs, left_out = _Paragraphs(state).worded(groups, pitfalls, known, limit=MAX_PARAGRAPHS)
    shown = sum(group.recompiles for group in groups)
    head = _of_jax(rows) if labels == {JAX_LABEL} else _head(rows, state, shown)
    if len(paragraphs) > 1:
        head += " Newest first:"
    more = f"And {left_out:,} more; jitwatch.explain('train_step') shows those of one function."
    kept = state["persistent_cache"]
    cache = persistent_cache.sentences(kept)
    if labels is not None:
        cache = [persistent_cache.of_missed(one) for one in kept.get("missed", ()) if one["function"] in labels]
    times = compile_time.sentences(rows)
    last = [*times, " ".join(cache), _memory(rows[0]) if wanted is not None and len(rows) == 1 else ""]
    return Explanation((head, *paragraphs, *([more] if left_out else []), *filter(None, last)))


def _memory(row: FunctionRow) -> str:
    """The memory and the largest buffers of a function's largest program; empty for a small one."""
    program = row["executable"]
    if program is None or program["total_bytes"] < _LARGE:
        return ""
    name = formats.short_name(names.last_of(row["function"]), row["function"])
    text = wording.of_peak(program, name=name)
    if text is None and program.get("buffers_unknown"):
        needed = formats.size(program["total_bytes"])
        text = f"{name} needs {needed}; its buffers are unknown: {program['buffers_unknown']}"
    return formats.sentences(text)


@dataclass(slots=True)
class Group:
    """Recompiles of one function from one call site with the same causes and changed arguments.

    Attributes:
        newest, record: The newest recompile, and its record.
        recompiles: Number of recompiles.
        lost_s, spent_s: Lost seconds, and seconds of all recompiles.
        pitfall: The pitfall of the newest recompile that has one.
    """

    newest: Compiled
    record: Record
    recompiles: int = 0
    lost_s: float = 0.0
    spent_s: float = 0.0
    pitfall: str | None = None

    def add(self, event: Compiled) -> None:
        """Count an older recompile, or the newest itself."""
        self.recompiles += 1
        self.lost_s += event.lost_s
        self.spent_s += event.total_s
        self.pitfall = self.pitfall or event.pitfall


def grouped(records: Sequence[Record]) -> list[Group]:
    """Group the recompiles of the user's functions, the newest group first."""
    groups: dict[object, Group] = {}
    for record in reversed(records):
        if record["event"] != Compiled.repeated_kind or record["function"] == JAX_LABEL:
            continue
        event = _event(record)
        paths = tuple(change.path for change in event.changes)
        key = (event.function.label, event.call_site, event.causes, paths, event.expected)
        groups.setdefault(key, Group(event, record)).add(event)
    return list(groups.values())


def _event(record: Record) -> Compiled:
    """The event of a record, with the fields that its sentences need."""
    return Compiled(
        function=Function(record["function"], record["name"], record["location"]),
        call_site=record["call_site"],
        trace_s=record["trace_s"],
        lower_s=record["lower_s"],
        compile_s=record["compile_s"],
        expected=record["expected"],
        nth=record["nth"],
        causes=tuple(record.get("causes", ())),
        changes=tuple(Change(**change) for change in record.get("changes", ())),
        changes_left_out=record.get("changes_left_out", 0),
        pitfall=record.get("pitfall"),
        advice=record.get("advice"),
    )


class _Paragraphs:
    """Words recompiles, pitfalls and storms with the figures and names of one state."""

    def __init__(self, state: StateLike) -> None:
        self._time = state["time"]
        self._pace = _pace_of(state)
        self._calls = {row["function"]: row["calls"] for row in state["functions"]}
        self._lasts = Counter(names.last_of(label) for label in self._calls)

    def worded(
        self, groups: list[Group], pitfalls: list[PitfallRow], records: Sequence[Record], *, limit: int
    ) -> tuple[list[str], int]:
        """A paragraph for each group, each pitfall that no group shows, and the last storm of each function.

        Returns:
            The paragraphs, the newest first, at most `limit`; and how many more there are.
        """
        pitfalls = list(pitfalls)
        found: list[tuple[int, Callable[[], str]]] = []
        for group in groups:
            pitfall = _pitfall_of(group, pitfalls)
            if pitfall is not None:
                pitfalls.remove(pitfall)
            found.append((group.record["seq"], partial(self._group, group, pitfall)))
        violations = _violations(records)
        for one in pitfalls:
            again = violations.get((one["function"], one["pitfall"], one["subject"]), [one])
            found.append((max(one["seq"], again[-1]["seq"]), partial(self._pitfall, one, again)))
        found += [(one["seq"], partial(self._storm, one)) for one in _last_storms(records)]
        found.sort(key=lambda pair: -pair[0])
        # Sentences are made only for the paragraphs that are shown.
        return [word() for _, word in found[:limit]], max(0, len(found) - limit)

    def _group(self, group: Group, pitfall: PitfallRow | None) -> str:
        event = group.newest
        is_one = group.recompiles == 1
        how_often = wording.of_nth(event) if is_one else f" {group.recompiles:,} times"
        where = f" at {formats.file_line(event.call_site)}" if event.call_site else ""
        when = f"{'' if is_one else 'last '}{self._when(group.record)}"
        calls = self._pace.calls(group.lost_s, self._calls.get(event.function.label))
        cost = {**self._pace.cost(group.lost_s, 0.0), "lost_calls": calls}
        return formats.sentences(
            f"{self._name(group.record)} recompiled{how_often}{where}, {when}: {wording.of_changes(event)}",
            wording.of_harmless(event, group.spent_s) or wording.of_cost(cost),
            f"Pitfall {pitfall['pitfall']}: {pitfall['message']}" if pitfall else None,
            pitfall["advice"] if pitfall else wording.of_advice(event),
        )

    def _pitfall(self, row: PitfallRow, again: Sequence[Record]) -> str:
        """The paragraph of a pitfall, with the number of times it happened where that is known."""
        often = f" {formats.count(len(again), 'time')}, last" if len(again) > 1 else ""
        return wording.of_pitfall(row, name=self._name(row), when=f",{often} {self._when(again[-1])}")

    def _storm(self, record: Record) -> str:
        name, when, recompiles = self._name(record), self._when(record), f"{record['recompiles']:,}"
        if record["event"] == StormStarted.kind:
            within = formats.seconds(record["within_s"])
            return f"{name} is in a storm that began {when}: {recompiles} recompiles within {within}."
        lasted, lost = formats.seconds(record["lasted_s"]), formats.seconds(record["lost_s"])
        return f"A storm of {name} ended {when}: {recompiles} recompiles in {lasted}, {lost} lost."

    def _name(self, record: Mapping[str, Any] | PitfallRow) -> str:
        """The bare name if it is unique, else the label."""
        label = record["function"]
        return formats.short_name(record["name"], label) if self._lasts[names.last_of(label)] < 2 else str(label)

    def _when(self, record: Record) -> str:
        ago = self._time - datetime.fromisoformat(record["timestamp"]).timestamp()
        step = f" at step {record['step']:,}" if "step" in record else ""
        return f"{formats.ago(ago)}{step}"


def _pace_of(state: StateLike) -> Pace:
    """What lost seconds of a state are measured against."""
    return Pace(
        wall_s=state["uptime_seconds"],
        busy_s=state["totals"]["busy_seconds"],
        steady_s=state["steady_seconds"],
        step_s=state["mean_step_seconds"],
    )


def _pitfall_of(group: Group, pitfalls: list[PitfallRow]) -> PitfallRow | None:
    """The pitfall of a group; of several, the one whose subject is an argument that changed."""
    own = [
        one for one in pitfalls if one["function"] == group.newest.function.label and one["pitfall"] == group.pitfall
    ]
    paths = {change.path for change in group.newest.changes}
    return next((one for one in own if one["subject"] in paths), own[-1] if own else None)


def _violations(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Any]]:
    """The donation violations by function, pitfall and subject."""
    found: dict[tuple[str, str, str], list[Any]] = {}
    for one in records:
        if one["event"] == DonationViolation.kind:
            name = "unusable_donation" if one["kind"] == "unusable" else one["kind"]
            found.setdefault((one["function"], name, one.get("donated_leaf") or one["leaf"]), []).append(one)
    return found


def _last_storms(records: Sequence[Record]) -> list[Record]:
    """The last record about the storms of each function."""
    storms = {one["function"]: one for one in records if one["event"] in (StormStarted.kind, StormEnded.kind)}
    return list(storms.values())


def _head(rows: list[FunctionRow], state: StateLike, shown: int) -> str:
    users = [row for row in rows if row["function"] != JAX_LABEL]
    recompiled = [row for row in users if row["recompiles"]]
    recompiles = sum(row["recompiles"] for row in recompiled)
    if not recompiles:
        return _nothing(rows)
    cost = _pace_of(state).cost(
        sum(row["lost_seconds"] for row in users), sum(row["lost_seconds_since_steady"] for row in users)
    )
    who = recompiled[0]["function"] if len(recompiled) == 1 else formats.count(len(recompiled), "function")
    text = f"{formats.count(recompiles, 'recompile')} of {who}: {wording.of_cost(cost)}."
    if cost["lost_seconds_since_steady"] and cost["lost_ratio_since_steady"]:
        lost = formats.seconds(cost["lost_seconds_since_steady"])
        share = formats.percent(cost["lost_ratio_since_steady"])
        text += f" Since jitwatch.steady(): {lost} lost, {share} of that time."
    if recompiles > shown:
        text += f" The records of the oldest {recompiles - shown:,} are no longer kept."
    return text


def _nothing(rows: list[FunctionRow]) -> str:
    users = [row for row in rows if row["function"] != JAX_LABEL]
    compiled = [row for row in users if row["compiles"]]
    compiles = sum(row["compiles"] for row in compiled)
    who = users[0]["function"] if len(users) == 1 else ""
    if not compiles:
        operations = next((row["compiles"] for row in rows if row["function"] == JAX_LABEL), 0)
        own = f" JAX has compiled {formats.count(operations, 'operation')} outside of jit." if operations else ""
        return f"{who or 'No function'} has{' not' if who else ''} compiled since the agent was installed.{own}"
    who = who or formats.count(len(compiled), "function")
    return f"No function has recompiled: {formats.count(compiles, 'compile')} of {who} since the agent was installed."


def _of_jax(rows: list[FunctionRow]) -> str:
    compiles = formats.count(sum(row["compiles"] for row in rows), "small program")
    return f"JAX compiled {compiles} of its own. The causes of their recompiles are not recorded."
