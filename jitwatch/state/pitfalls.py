"""Aggregates the pitfalls and the recompiles by call site, with the lost seconds of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jitwatch.model.events import Compiled, PitfallFound, SteadyViolated
from jitwatch.state.call_sites import CallSites, CallSiteStats, Cost, PitfallKey
from jitwatch.state.cost import Pace
from jitwatch.state.schema import CallSiteRow, PitfallRow

#: Maximum number of pitfalls in the state.
MAX_PITFALLS = 200
#: Maximum number of call sites in the state.
_TOP_CALL_SITES = 50
_MAX_EXPLANATION = 500


@dataclass(frozen=True, slots=True)
class Costliest:
    """The function with most lost seconds.

    Attributes:
        function: Its label; empty if no function has lost seconds.
        lost_s: Its lost seconds.
        all_lost_s: Lost seconds of all functions.
        reason: The changes at its costliest call site, in words.
    """

    function: str
    lost_s: float
    all_lost_s: float
    reason: str


class Pitfalls:
    """The pitfalls and call sites of a run. Bounded.

    Args:
        next_revision: Returns the number of the next change.
        max_call_sites: Maximum number of call sites.
    """

    def __init__(self, next_revision: Callable[[], int], max_call_sites: int) -> None:
        self._next_revision = next_revision
        self.call_sites = CallSites(max_call_sites)
        #: The record of each pitfall, with message and advice of the last compile that showed it.
        self._records: dict[PitfallKey, Mapping[str, Any]] = {}
        self._revisions: dict[PitfallKey, int] = {}

    # Writing

    def compiled(self, event: Compiled) -> None:
        """Update the message and advice of a pitfall that was reported before."""
        if not self._records:
            return
        key = (event.function.label, event.pitfall or "", event.pitfall_subject)
        if key in self._records:
            self._list(key, {**self._records[key], "message": event.pitfall_message, "advice": event.advice})

    def recompiled(self, event: Compiled, lost_s: float, at: float) -> None:
        """Count a recompile at its call site.

        Args:
            event: The recompile, with its diagnosis.
            lost_s: Its lost seconds.
            at: Unix time.
        """
        paths = tuple([change.path for change in event.changes])
        site = self.call_sites.entry(event.function.label, event.call_site, event.causes, paths)
        site.recompiles += 1
        if at > site.last:  # noqa: PLR1730 - max() is slower
            site.last = at
        site.lost_s += lost_s
        self.call_sites.lost_s += lost_s
        # Not in the order of time: logs of several processes are read one after the other.
        if at >= site.explained and event.explanation and (lost_s or not event.is_harmless):
            site.explained = at
            site.reason = (event.reason or "")[:_MAX_EXPLANATION]
            site.advice = event.advice or ""
            site.explanation = event.explanation[:_MAX_EXPLANATION]
        site.revision = revision = self._next_revision()
        if event.pitfall:
            key = (event.function.label, event.pitfall, event.pitfall_subject)
            if site.pitfall != key:
                for one in self.call_sites.claim(site, key):
                    one.revision = revision
        if self._records and site.pitfall in self._records:
            self._revisions[site.pitfall] = revision

    def found(self, event: PitfallFound, record: Mapping[str, Any]) -> None:
        """Add a pitfall; past the limit the oldest is dropped.

        Args:
            event: The event.
            record: The record of the event.
        """
        self._list((event.function.label, event.pitfall, event.subject), record)
        if len(self._records) > MAX_PITFALLS:
            oldest = next(iter(self._records))
            del self._records[oldest], self._revisions[oldest]

    def violated(self, event: SteadyViolated) -> None:
        """Add the seconds of a compile that violated the steady state to its call site."""
        site = self.call_sites.last_at(event.function.label, event.call_site)
        if site is not None:
            site.steady_lost_s += event.spent_s

    # Reading

    def costliest(self) -> Costliest:
        """The function with most lost seconds."""
        function, lost_s, site = self.call_sites.costliest()
        return Costliest(function, lost_s, self.call_sites.lost_s, site.reason if site is not None else "")

    def rows(self, pace: Pace, revision: int = 0) -> tuple[list[PitfallRow], list[CallSiteRow]]:
        """The rows of pitfalls and of call sites.

        Args:
            pace: What lost seconds are measured against.
            revision: Return changes since this revision, the latest call sites first; 0 for all pitfalls and the call
                sites with most lost seconds.
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
