"""What the job could do better: where it recompiles, the known mistakes, and what each of them has cost.

Bounded. No lock: the store that owns it has one, and its revision says what somebody who follows has not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jitwatch.model.events import Compiled, PitfallFound, SteadyViolated
from jitwatch.state.call_sites import Cost, Mistake, Sites, SiteStats
from jitwatch.state.cost import Pace

#: Known mistakes that are listed.
MAX_PITFALLS = 200
#: Sites that the state shows.
_TOP_SITES = 50
_MAX_EXPLANATION = 500

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dearest:
    """The function whose recompiles lost most, seconds of it and of all, and why most of its own were needed."""

    function: str
    lost_s: float
    all_lost_s: float
    reason: str


class Mistakes:
    """Recompiles by site, and the known mistakes with what they have cost.

    Args:
        next_revision: Gives the number of a change.
    """

    def __init__(self, next_revision: Callable[[], int]) -> None:
        self._next_revision = next_revision
        self.sites = Sites(SiteStats)
        #: The events that told of them, with the figures of now.
        self._records: dict[Mistake, Row] = {}
        self._revisions: dict[Mistake, int] = {}

    # Writing

    def compiled(self, event: Compiled) -> None:
        """A mistake is told once, with the figures of then; whoever reads the list wants those of now."""
        key = (event.function.label, event.pitfall or "", event.pitfall_subject)
        if key in self._records:
            now = {"message": event.pitfall_message, "advice": event.advice}
            self._keep(key, self._records[key] | now)

    def recompiled(self, event: Compiled, time_s: float) -> None:
        """Count a recompile at its site.

        Args:
            event: What the diagnosis says of it.
            time_s: Unix time.
        """
        paths = [change.path for change in event.changes]
        site = self.sites.of(event.function.label, event.call_site, event.causes, paths)
        site.recompiles += 1
        site.last = time_s
        site.lost_s += event.lost_s
        self.sites.lost_s += event.lost_s
        if event.explanation and not event.is_planned:
            site.reason = (event.reason or "")[:_MAX_EXPLANATION]
            site.advice = event.advice or ""
            site.explanation = event.explanation[:_MAX_EXPLANATION]
        site.revision = revision = self._next_revision()
        if event.pitfall:
            mistake = (event.function.label, event.pitfall, event.pitfall_subject)
            for one in self.sites.claim(site, mistake):
                one.revision = revision
        if site.mistake in self._records:
            self._revisions[site.mistake] = revision

    def found(self, event: PitfallFound, record: Row) -> None:
        """List a mistake; the oldest goes when there are too many."""
        self._keep((event.function.label, event.pitfall, event.subject), record)
        if len(self._records) > MAX_PITFALLS:
            oldest = next(iter(self._records))
            del self._records[oldest], self._revisions[oldest]

    def violated(self, event: SteadyViolated) -> None:
        """A compile violated the steady state; it came before this."""
        site = self.sites.last_at(event.function.label, event.call_site)
        if site is not None:
            site.steady_lost_s += event.spent_s

    # Reading

    def dearest(self) -> Dearest:
        """Where recompiles lost most."""
        function, lost_s, site = self.sites.dearest()
        return Dearest(function, lost_s, self.sites.lost_s, site.reason if site is not None else "")

    def rows(self, pace: Pace, revision: int = 0) -> tuple[list[Row], list[Row]]:
        """The known mistakes with what each has cost, and the sites.

        Args:
            pace: What losses are measured against.
            revision: Only what has changed since, the sites that changed last first; 0 for all mistakes and the
                dearest sites.
        """
        if not revision:
            sites: Iterable[SiteStats] = sorted(self.sites, key=lambda one: (-one.lost_s, -one.recompiles))[:_TOP_SITES]
        else:
            sites = itertools.takewhile(lambda one: one.revision > revision, self.sites.newest())
        changed = [key for key, at in self._revisions.items() if at > revision]
        costs, free = (self.sites.costs() if changed else {}), Cost()
        mistakes = [self._records[key] | costs.get(key, free).row(pace) for key in changed]
        return mistakes, [site.row(pace) for site in sites]

    def _keep(self, key: Mistake, record: Row) -> None:
        self._records[key], self._revisions[key] = record, self._next_revision()
