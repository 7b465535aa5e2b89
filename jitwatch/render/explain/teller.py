"""Puts recompiles, pitfalls and storms into paragraphs, by one state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from jitwatch.model.events import DonationViolation, StormEnded, StormStarted
from jitwatch.render import words
from jitwatch.render.explain.groups import Group
from jitwatch.render.explain.names import last_of
from jitwatch.state.cost import Pace


def pace_of(state: dict[str, Any]) -> Pace:
    """What the state measures lost seconds against."""
    return Pace(
        wall_s=state["uptime_seconds"],
        busy_s=state["totals"]["busy_seconds"],
        steady_s=state["steady_seconds"],
        step_s=state["mean_step_seconds"],
    )


class Teller:
    """Knows the state's figures and names.

    Args:
        state: As `snapshot()` returns it.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self._pace = pace_of(state)
        self._rows = {row["function"]: row for row in state["functions"]}
        self._lasts = Counter(last_of(label) for label in self._rows)

    def paragraphs(
        self, groups: list[Group], pitfalls: list[dict[str, Any]], records: list[dict[str, Any]], *, limit: int
    ) -> tuple[list[str], int]:
        """One for each group, each pitfall that no group shows, and the last storm of each function.

        The newest come first, at most `limit` of them; the number says how many more there are.
        """
        pitfalls = list(pitfalls)
        found: list[tuple[int, Callable[[], str]]] = []
        for group in groups:
            pitfall = _pitfall_of(group, pitfalls)
            if pitfall is not None:
                pitfalls.remove(pitfall)
            found.append((group.record["seq"], partial(self._group, group, pitfall)))
        misuses = _misuses(records)
        for one in pitfalls:
            again = misuses.get((one["function"], one["pitfall"], one["subject"]), [one])
            found.append((max(one["seq"], again[-1]["seq"]), partial(self._pitfall, one, again)))
        found += [(one["seq"], partial(self._storm, one)) for one in _last_storms(records)]
        found.sort(key=lambda pair: -pair[0])
        # Only those that are shown are put into words.
        return [tell() for _, tell in found[:limit]], max(0, len(found) - limit)

    def _group(self, group: Group, pitfall: dict[str, Any] | None) -> str:
        event = group.newest
        is_one = group.recompiles == 1
        how_often = words.of_nth(event) if is_one else f" {group.recompiles:,} times"
        where = f" at {words.place(event.call_site)}" if event.call_site else ""
        when = f"{'' if is_one else 'last '}{self._when(group.record)}"
        calls = self._pace.calls(group.lost_s, self._rows.get(event.function.label, {}).get("calls"))
        cost = self._pace.cost(group.lost_s, 0.0) | {"lost_calls": calls}
        return words.sentences(
            f"{self._name(group.record)} recompiled{how_often}{where}, {when}: {words.of_changes(event)}",
            words.of_planned(event, group.spent_s) or words.of_cost(cost),
            f"Pitfall {pitfall['pitfall']}: {pitfall['message']}" if pitfall else None,
            pitfall["advice"] if pitfall else words.of_advice(event),
        )

    def _pitfall(self, record: dict[str, Any], again: list[dict[str, Any]]) -> str:
        """A known mistake, and how often it was made where that is known one by one."""
        often = f" {words.count(len(again), 'time')}, last" if len(again) > 1 else ""
        return words.of_pitfall(record, name=self._name(record), when=f",{often} {self._when(again[-1])}")

    def _storm(self, record: dict[str, Any]) -> str:
        name, when, recompiles = self._name(record), self._when(record), f"{record['recompiles']:,}"
        if record["event"] == StormStarted.kind:
            within = words.seconds(record["within_s"])
            return f"{name} is in a storm that began {when}: {recompiles} recompiles within {within}."
        lasted, lost = words.seconds(record["lasted_s"]), words.seconds(record["lost_s"])
        return f"A storm of {name} was over {when}: {recompiles} recompiles in {lasted}, {lost} lost."

    def _name(self, record: dict[str, Any]) -> str:
        """The bare name, as the log's sentences have it, where no other function shares it; else the label."""
        label = record["function"]
        return words.called(record["name"], label) if self._lasts[last_of(label)] < 2 else str(label)

    def _when(self, record: dict[str, Any]) -> str:
        ago = self._state["time"] - datetime.fromisoformat(record["timestamp"]).timestamp()
        step = f" at step {record['step']:,}" if "step" in record else ""
        return f"{words.ago(ago)}{step}"


def _pitfall_of(group: Group, pitfalls: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The pitfall that the group's recompiles show, the one about its arguments first."""
    own = [
        one for one in pitfalls if one["function"] == group.newest.function.label and one["pitfall"] == group.pitfall
    ]
    paths = {change.path for change in group.newest.changes}
    return next((one for one in own if one["subject"] in paths), own[-1] if own else None)


def _misuses(records: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The donations that went wrong, by function and by name and subject of the pitfall that they are."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in records:
        if one["event"] == DonationViolation.kind:
            name = "unusable_donation" if one["kind"] == "unusable" else one["kind"]
            found.setdefault((one["function"], name, one.get("donated_leaf") or one["leaf"]), []).append(one)
    return found


def _last_storms(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last news of the storms of each function."""
    storms = {one["function"]: one for one in records if one["event"] in (StormStarted.kind, StormEnded.kind)}
    return list(storms.values())
