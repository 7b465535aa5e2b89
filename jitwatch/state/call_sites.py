"""Aggregates recompiles and lost seconds by call site, causes and changed arguments.

Recompiles of one call site with different causes need different changes, and have an entry each: a static argument with
many values, and a smaller last batch. An entry belongs to the pitfall that its recompiles show, recompiles from before
the pitfall was recognised included. Bounded. Not thread-safe: the owner holds a lock.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from jitwatch.model.function import argument_of
from jitwatch.state.cost import Pace
from jitwatch.state.schema import CallSiteRow, CostRow

#: Maximum number of entries, in total and of one call site.
MAX_CALL_SITES = 2_000
MAX_AT_CALL_SITE = 12
#: Changed arguments that are part of a key.
_MAX_PATHS = 4
#: Past the limit, the entry with least lost seconds among this many least recently changed ones is dropped.
_CANDIDATES = 50

#: Label of the function, call site, causes and changed arguments.
Key = tuple[str, str, tuple[str, ...], tuple[str, ...]]
#: Identifies a pitfall: label of the function, name and subject of the pitfall.
PitfallKey = tuple[str, str, str]


@dataclass(slots=True)
class CallSiteStats:
    """Recompiles of one function from one call site with the same causes and changes; durations in seconds.

    Attributes:
        call_site: `file:line`; empty if unknown.
        causes, paths: The causes, and the arguments, options or settings that changed; empty past the limit of a call
            site.
        reason, advice, explanation: Texts about the last recompile that was not expected.
        explained: Unix time of that recompile; 0 before the first.
        last: Unix time of the last recompile; 0 before the first.
        pitfall: The pitfall that the recompiles show; None if there is none.
        revision: The state's revision when it last changed.
    """

    function: str
    call_site: str
    causes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    recompiles: int = 0
    lost_s: float = 0.0
    steady_lost_s: float = 0.0
    reason: str = ""
    advice: str = ""
    explanation: str = ""
    explained: float = 0.0
    last: float = 0.0
    pitfall: PitfallKey | None = None
    revision: int = 0

    def row(self, pace: Pace) -> CallSiteRow:
        """The row of the state."""
        return {
            "call_site": self.call_site or None,
            "function": self.function,
            "causes": list(self.causes),
            "paths": list(self.paths),
            "recompiles": self.recompiles,
            "last_time": self.last or None,
            "reason": self.reason,
            "advice": self.advice,
            "explanation": self.explanation,
            "pitfall": self.pitfall[1] if self.pitfall is not None else None,
            **pace.cost(self.lost_s, self.steady_lost_s),
        }


@dataclass(slots=True)
class Cost:
    """Number and lost seconds of the recompiles of a pitfall."""

    recompiles: int = 0
    lost_s: float = 0.0
    steady_lost_s: float = 0.0

    def row(self, pace: Pace) -> CostRow:
        """The fields of the pitfall's row of the state."""
        return {"recompiles": self.recompiles, **pace.cost(self.lost_s, self.steady_lost_s)}


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of several costs."""
    found = Cost()
    for cost in costs:
        found.recompiles += cost.recompiles
        found.lost_s += cost.lost_s
        found.steady_lost_s += cost.steady_lost_s
    return found


@lru_cache(maxsize=1_000)
def _roots(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments that the paths begin with; cached, since the same ones change repeatedly."""
    return tuple(dict.fromkeys(map(argument_of, paths)))[:_MAX_PATHS]


def _key(site: CallSiteStats) -> Key:
    return site.function, site.call_site, site.causes, site.paths


class CallSites:
    """The entries of all call sites, in the order of their last change.

    Args:
        limit: Maximum number of entries.
    """

    def __init__(self, limit: int = MAX_CALL_SITES) -> None:
        self._limit = limit
        self._entries: dict[Key, CallSiteStats] = {}
        self._at_call_site: Counter[tuple[str, str]] = Counter()
        #: Number of dropped entries.
        self.left_out = 0
        #: Lost seconds of all entries, dropped ones included.
        self.lost_s = 0.0

    def entry(
        self, function: str, call_site: str | None, causes: tuple[str, ...], paths: tuple[str, ...]
    ) -> CallSiteStats:
        """The entry for a recompile, made if it is new, and moved to the end of the order.

        Args:
            function: Label of the function.
            call_site: `file:line`; None if unknown.
            causes: Why it was compiled again.
            paths: What changed; all leaves of an argument count as that argument.
        """
        key = function, call_site or "", causes, _roots(paths)
        site = self._entries.pop(key, None)
        if site is None:
            where = key[:2]
            if self._at_call_site[where] >= MAX_AT_CALL_SITE:
                key = (*where, (), ())
                site = self._entries.pop(key, None)
        if site is None:
            if len(self._entries) >= self._limit:
                self._drop_one()
            site = CallSiteStats(*key)
            self._at_call_site[where] += 1
        self._entries[key] = site
        return site

    def _drop_one(self) -> None:
        oldest = itertools.islice(self._entries.items(), _CANDIDATES)
        key, _ = min(oldest, key=lambda item: item[1].lost_s)
        del self._entries[key]
        self._at_call_site[key[:2]] -= 1
        if not self._at_call_site[key[:2]]:
            del self._at_call_site[key[:2]]
        self.left_out += 1

    def claim(self, site: CallSiteStats, pitfall: PitfallKey) -> list[CallSiteStats]:
        """Assign an entry to the pitfall that its recompiles show, and return all entries that were assigned.

        A pitfall without a subject, about the whole function, also gets the entries of the same causes from before it
        was recognised, whichever argument had changed.
        """
        if site.pitfall == pitfall:
            return [site]
        claimed = [site]
        if not pitfall[2]:
            claimed += [
                one
                for one in self._entries.values()
                if one is not site
                and one.pitfall is None
                and (one.function, one.causes) == (site.function, site.causes)
            ]
        for one in claimed:
            one.pitfall = pitfall
            self._entries[_key(one)] = self._entries.pop(_key(one))
        return claimed

    def last_at(self, function: str, call_site: str | None) -> CallSiteStats | None:
        """The last changed entry of a function and call site; None without one."""
        where = (function, call_site or "")
        return next((site for site in self.newest() if (site.function, site.call_site) == where), None)

    def newest(self) -> Iterator[CallSiteStats]:
        """Iterate over the entries, the last changed one first."""
        return reversed(self._entries.values())

    def costliest(self) -> tuple[str, float, CallSiteStats | None]:
        """The function with most lost seconds, the seconds, and its entry with most of them."""
        lost: dict[str, float] = {}
        for site in self._entries.values():
            lost[site.function] = lost.get(site.function, 0.0) + site.lost_s
        if not lost:
            return "", 0.0, None
        function = max(lost, key=lambda label: lost[label])
        own = (site for site in self._entries.values() if site.function == function)
        return function, lost[function], max(own, key=lambda site: site.lost_s)

    def costs(self) -> dict[PitfallKey, Cost]:
        """The cost of each pitfall."""
        found: dict[PitfallKey, list[Cost]] = {}
        for site in self._entries.values():
            if site.pitfall is not None:
                found.setdefault(site.pitfall, []).append(Cost(site.recompiles, site.lost_s, site.steady_lost_s))
        return {pitfall: total(costs) for pitfall, costs in found.items()}

    def forget_steady(self) -> None:
        """Set the lost seconds since steady to 0."""
        for site in self._entries.values():
            site.steady_lost_s = 0.0

    def __iter__(self) -> Iterator[CallSiteStats]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
