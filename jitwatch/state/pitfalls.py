"""Pitfalls and call sites: where the job recompiles, which patterns of misuse it shows, and what each has cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jitwatch.model.events import Compiled, PitfallFound, SteadyViolated
from jitwatch.state.call_sites import CallSites, CallSiteStats, Cost, PitfallKey
from jitwatch.state.cost import Pace
from jitwatch.state.schema import CallSiteRow, PitfallRow

#: Pitfalls that are listed.
MAX_PITFALLS = 200
#: Call sites that the state lists.
_TOP_CALL_SITES = 50
_MAX_EXPLANATION = 500


@dataclass(frozen=True, slots=True)
class Costliest:
    """The function with most lost seconds.

    Attributes:
        function: Its label; empty where nothing was lost.
        lost_s: Its lost seconds.
        all_lost_s: Those of all functions.
        reason: Why most of its recompiles were needed.
    """

    function: str
    lost_s: float
    all_lost_s: float
    reason: str


class Pitfalls:
    """Recompiles by call site, and the pitfalls with what they have cost. Bounded.

    Args:
        next_revision: Gives the number of a change.
        max_call_sites: Call sites that are kept.
    """

    def __init__(self, next_revision: Callable[[], int], max_call_sites: int) -> None:
        self._next_revision = next_revision
        self.call_sites = CallSites(max_call_sites)
        #: The records that reported them, with the message and advice of the last compile that showed them.
        self._records: dict[PitfallKey, Mapping[str, Any]] = {}
        self._revisions: dict[PitfallKey, int] = {}

    # Writing

    def compiled(self, event: Compiled) -> None:
        """Bring the message and advice of a listed pitfall up to date: it was reported with the figures of then."""
        key = (event.function.label, event.pitfall or "", event.pitfall_subject)
        if key in self._records:
            self._list(key, {**self._records[key], "message": event.pitfall_message, "advice": event.advice})

    def recompiled(self, event: Compiled, lost_s: float, at: float) -> None:
        """Count a recompile at its call site.

        Args:
            event: With what the diagnosis found.
            lost_s: Its lost seconds.
            at: Unix time.
        """
        paths = tuple([change.path for change in event.changes])
        site = self.call_sites.of(event.function.label, event.call_site, event.causes, paths)
        site.recompiles += 1
        site.last = max(site.last, at)
        site.lost_s += lost_s
        self.call_sites.lost_s += lost_s
        # Logs of several processes are read one after the other.
        if at >= site.explained and event.explanation and (lost_s or not event.is_harmless):
            site.explained = at
            site.reason = (event.reason or "")[:_MAX_EXPLANATION]
            site.advice = event.advice or ""
            site.explanation = event.explanation[:_MAX_EXPLANATION]
        site.revision = revision = self._next_revision()
        if event.pitfall:
            key = (event.function.label, event.pitfall, event.pitfall_subject)
            for one in self.call_sites.claim(site, key):
                one.revision = revision
        if site.pitfall in self._records:
            self._revisions[site.pitfall] = revision

    def found(self, event: PitfallFound, record: Mapping[str, Any]) -> None:
        """List a pitfall; past the limit the oldest is dropped.

        Args:
            event: The event.
            record: Its record, as it was emitted.
        """
        self._list((event.function.label, event.pitfall, event.subject), record)
        if len(self._records) > MAX_PITFALLS:
            oldest = next(iter(self._records))
            del self._records[oldest], self._revisions[oldest]

    def violated(self, event: SteadyViolated) -> None:
        """Count the seconds of a compile that violated the steady state; it was counted before this."""
        site = self.call_sites.last_at(event.function.label, event.call_site)
        if site is not None:
            site.steady_lost_s += event.spent_s

    # Reading

    def costliest(self) -> Costliest:
        """The function with most lost seconds."""
        function, lost_s, site = self.call_sites.costliest()
        return Costliest(function, lost_s, self.call_sites.lost_s, site.reason if site is not None else "")

    def rows(self, pace: Pace, revision: int = 0) -> tuple[list[PitfallRow], list[CallSiteRow]]:
        """The pitfalls with what each has cost, and the call sites.

        Args:
            pace: What losses are measured against.
            revision: Only what has changed since, the call sites that changed last first; 0 for all pitfalls and the
                call sites that lost most.
        """
        if not revision:
            sites: Iterable[CallSiteStats] = sorted(self.call_sites, key=lambda one: (-one.lost_s, -one.recompiles))[
                :_TOP_CALL_SITES
            ]
        else:
            sites = itertools.takewhile(lambda one: one.revision > revision, self.call_sites.newest())
        changed = [key for key, at in self._revisions.items() if at > revision]
        costs, none = (self.call_sites.costs() if changed else {}), Cost()
        # The record's fields are the row's: `PitfallFound` declares them.
        pitfalls: Any = [{**self._records[key], **costs.get(key, none).row(pace)} for key in changed]
        return pitfalls, [site.row(pace) for site in sites]

    def _list(self, key: PitfallKey, record: Mapping[str, Any]) -> None:
        self._records[key], self._revisions[key] = record, self._next_revision()
