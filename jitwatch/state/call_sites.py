"""What recompiles cost, by the line of the job that caused them and by what changed.

One line may recompile for several reasons, and each asks for another fix: a static argument that keeps changing
and a last batch that is smaller are two sites, not one. A site belongs to the known mistake that its recompiles
show, with those from before the mistake was recognised. Bounded. No lock: the store that owns it has one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from jitwatch.model.function import argument_of
from jitwatch.state.cost import Pace

#: Sites that are told apart, in all and at one line.
MAX_SITES = 2_000
MAX_AT_LINE = 12
#: Changed arguments that tell two sites apart.
_MAX_PATHS = 4
#: When there is no room, the cheapest of so many that did not change for longest makes some.
_CANDIDATES = 50

#: Label of the function, line, causes and what changed.
Key = tuple[str, str, tuple[str, ...], tuple[str, ...]]
#: Label of the function, name and subject of a known mistake.
Mistake = tuple[str, str, str]


@dataclass(slots=True)
class SiteStats:
    """Recompiles of one function from one line for the same reason; durations in seconds.

    Attributes:
        call_site: `file:line`; empty for an unknown one.
        causes, paths: Why, and which arguments, options or settings changed; empty for what is past a line's limit.
        reason, advice, explanation: Of the last recompile that was no planned one, in words.
        last: Unix time of the last recompile; 0 where nobody noted it.
        mistake: The known one that they show; None where there is none.
        revision: The store's revision when it last changed.
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
    last: float = 0.0
    mistake: Mistake | None = None
    revision: int = 0

    def row(self, pace: Pace) -> dict[str, Any]:
        """For the state."""
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
            "pitfall": self.mistake[1] if self.mistake is not None else None,
            **pace.cost(self.lost_s, self.steady_lost_s),
        }


@dataclass(slots=True)
class Cost:
    """What the recompiles of a known mistake cost, seconds."""

    recompiles: int = 0
    lost_s: float = 0.0
    steady_lost_s: float = 0.0

    def row(self, pace: Pace) -> dict[str, Any]:
        """For the state."""
        return {"recompiles": self.recompiles, **pace.cost(self.lost_s, self.steady_lost_s)}


def total(costs: Iterable[Cost]) -> Cost:
    """All of them together."""
    found = Cost()
    for cost in costs:
        found.recompiles += cost.recompiles
        found.lost_s += cost.lost_s
        found.steady_lost_s += cost.steady_lost_s
    return found


@lru_cache(maxsize=1_000)
def _roots(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments that the paths begin with; kept, since the same ones change again and again."""
    return tuple(dict.fromkeys(map(argument_of, paths)))[:_MAX_PATHS]


def _key(site: SiteStats) -> Key:
    return site.function, site.call_site, site.causes, site.paths


S = TypeVar("S", bound=SiteStats)


class Sites(Generic[S]):
    """All of them, in the order in which they changed.

    Args:
        make: Makes the entry of a new site.
    """

    def __init__(self, make: Callable[..., S], limit: int = MAX_SITES) -> None:
        self._make = make
        self._limit = limit
        self._sites: dict[Key, S] = {}
        self._at_line: Counter[tuple[str, str]] = Counter()
        #: Sites that made room for others.
        self.left_out = 0
        #: Seconds that all of them lost, also those that are gone.
        self.lost_s = 0.0

    def of(self, function: str, call_site: str | None, causes: tuple[str, ...], paths: Iterable[str]) -> S:
        """The entry, which is about to change.

        Args:
            function: Label.
            call_site: `file:line`, None for an unknown one.
            causes: Why it was compiled again.
            paths: What changed; a tree with other leaves each time is one argument all the same.
        """
        line = (function, call_site or "")
        key = (*line, causes, _roots(tuple(paths)))
        if key not in self._sites and self._at_line[line] >= MAX_AT_LINE:
            key = (*line, (), ())
        site = self._sites.pop(key, None)
        if site is None:
            if len(self._sites) >= self._limit:
                self._make_room()
            site = self._make(*key)
            self._at_line[line] += 1
        self._sites[key] = site
        return site

    def _make_room(self) -> None:
        oldest = itertools.islice(self._sites.items(), _CANDIDATES)
        key, _ = min(oldest, key=lambda item: item[1].lost_s)
        del self._sites[key]
        self._at_line[key[:2]] -= 1
        if not self._at_line[key[:2]]:
            del self._at_line[key[:2]]
        self.left_out += 1

    def claim(self, site: S, mistake: Mistake) -> list[S]:
        """The site's recompiles show a known mistake; the answer is all sites that are now the mistake's.

        One that is about the whole function, not about one argument, takes those from before it was recognised
        along, whichever argument had changed then.
        """
        if site.mistake == mistake:
            return [site]
        claimed = [site]
        if not mistake[2]:
            claimed += [
                one
                for one in self._sites.values()
                if one is not site
                and one.mistake is None
                and (one.function, one.causes) == (site.function, site.causes)
            ]
        for one in claimed:
            one.mistake = mistake
            self._sites[_key(one)] = self._sites.pop(_key(one))
        return claimed

    def last_at(self, function: str, call_site: str | None) -> S | None:
        """The one of this function and line that changed last."""
        where = (function, call_site or "")
        return next((site for site in self.newest() if (site.function, site.call_site) == where), None)

    def newest(self) -> Iterator[S]:
        """The one that changed last comes first."""
        return reversed(self._sites.values())

    def dearest(self) -> tuple[str, float, S | None]:
        """The function whose recompiles lost most, how much, and its site that lost most."""
        lost: dict[str, float] = {}
        for site in self._sites.values():
            lost[site.function] = lost.get(site.function, 0.0) + site.lost_s
        if not lost:
            return "", 0.0, None
        function = max(lost, key=lambda label: lost[label])
        own = (site for site in self._sites.values() if site.function == function)
        return function, lost[function], max(own, key=lambda site: site.lost_s)

    def costs(self) -> dict[Mistake, Cost]:
        """What each known mistake has cost."""
        found: dict[Mistake, list[Cost]] = {}
        for site in self._sites.values():
            if site.mistake is not None:
                found.setdefault(site.mistake, []).append(Cost(site.recompiles, site.lost_s, site.steady_lost_s))
        return {mistake: total(costs) for mistake, costs in found.items()}

    def forget_steady(self) -> None:
        """Losses since steady begin at 0 with each steady state."""
        for site in self._sites.values():
            site.steady_lost_s = 0.0

    def __iter__(self) -> Iterator[S]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)
