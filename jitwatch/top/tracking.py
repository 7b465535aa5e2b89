"""One job over time: whether it still answers, and what has happened since we look. Pure; time is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from jitwatch.top.fetching import Answer
from jitwatch.top.figures import Figures, RecompileFigures

#: What counts as recent, seconds.
WINDOW_S: Final = 60.0

#: new: never answered; live; silent: answered before and does not now; ended: nothing listens there any more.
Status = Literal["new", "live", "silent", "ended"]


@dataclass(frozen=True, slots=True)
class Recent:
    """What happened of late.

    Attributes:
        window_s: How long that is; 0 when there was only one look at a process that is older.
        recompiles: By function.
        newest: Explanation of the newest recompile, by function.
        donation_violations, steady_violations, out_of_memory: How many.
    """

    window_s: float = 0.0
    recompiles: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, str] = field(default_factory=dict)
    donation_violations: int = 0
    steady_violations: int = 0
    out_of_memory: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A job as it is shown: its last figures, and whether it still answers.

    Attributes:
        quiet_s: Seconds since the last answer, or since the first question.
        problem: Why it does not answer.
    """

    url: str
    status: Status
    quiet_s: float = 0.0
    problem: str = ""
    figures: Figures | None = None
    recent: Recent = field(default_factory=Recent)


class Track:
    """What we know of one job; not for several threads at once."""

    def __init__(self, url: str, now: float) -> None:
        self.url = url
        self._figures: Figures | None = None
        self._status: Status = "new"
        self._problem = ""
        self._answered = now
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._looking_since = now
        self._counts: dict[tuple[str, str], int] = {}
        self._growth: dict[tuple[str, str], deque[tuple[float, int]]] = {}
        self._sites: dict[tuple[str, str], int] | None = None
        self._seen: dict[tuple[str, str], float] = {}

    def take(self, answer: Answer, now: float) -> None:
        """Note an answer that came at this time, monotonic seconds."""
        if answer.figures is None:
            self._problem = answer.problem
            if self._status != "new":
                self._status = "ended" if answer.is_gone else "silent"
            return
        last, self._figures = self._figures, answer.figures
        is_first = last is None or (last.pid, last.start_time) != (answer.figures.pid, answer.figures.start_time)
        if is_first:
            self._begin(now)
        # All that a young process ever did is recent.
        self._count(answer.figures, now, is_news=not is_first or answer.figures.uptime_seconds <= WINDOW_S)
        self._status, self._problem, self._answered = "live", "", now

    def process(self, now: float) -> Process:
        """The job as it is shown at this time."""
        figures = self._figures
        if figures is not None:
            figures = replace(figures, newest_recompiles=self._newest_first(figures, now))
        quiet_s = 0.0 if self._status == "live" else now - self._answered
        return Process(self.url, self._status, quiet_s, self._problem, figures, self._recent(figures, now))

    def _count(self, figures: Figures, now: float, *, is_news: bool) -> None:
        counts = {("recompiles", one.function): one.recompiles for one in figures.functions if one.recompiles}
        counts["donation", ""] = figures.donation_violations
        counts["steady", ""] = figures.steady_violations
        counts["memory", ""] = figures.out_of_memory
        for key, count in counts.items():
            grown = count - self._counts.get(key, 0)
            if grown > 0 and is_news:
                self._growth.setdefault(key, deque()).append((now, grown))
        self._counts = counts
        sites = {(one.function, one.call_site): one.recompiles for one in figures.newest_recompiles}
        if self._sites is not None:
            grown_sites = {site: now for site, count in sites.items() if count > self._sites.get(site, 0)}
            self._seen = {site: at for site, at in self._seen.items() if site in sites} | grown_sites
        # The first look tells nothing of the order.
        self._sites = sites

    def _recent(self, figures: Figures | None, now: float) -> Recent:
        if figures is None:
            return Recent()
        totals: dict[tuple[str, str], int] = {}
        for key, grown in list(self._growth.items()):
            while grown and grown[0][0] < now - WINDOW_S:
                grown.popleft()
            if grown:
                totals[key] = sum(amount for _, amount in grown)
            else:
                del self._growth[key]
        looking_s = now - self._looking_since
        return Recent(
            min(WINDOW_S, figures.uptime_seconds if figures.uptime_seconds <= WINDOW_S + looking_s else looking_s),
            {name: number for (kind, name), number in totals.items() if kind == "recompiles"},
            self._newest_explanations(figures),
            totals.get(("donation", ""), 0),
            totals.get(("steady", ""), 0),
            totals.get(("memory", ""), 0),
        )

    @staticmethod
    def _newest_explanations(figures: Figures) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in figures.newest_recompiles:
            found.setdefault(one.function, one.explanation)
        return found

    def _newest_first(self, figures: Figures, now: float) -> tuple[RecompileFigures, ...]:
        """Those seen to happen, the newest first; then those that were there before, the costliest first."""
        aged = [
            one if (at := self._seen.get((one.function, one.call_site))) is None else replace(one, seen_s_ago=now - at)
            for one in figures.newest_recompiles
        ]
        return tuple(sorted(aged, key=lambda one: (one.seen_s_ago is None, one.seen_s_ago or 0.0, -one.lost_seconds)))
