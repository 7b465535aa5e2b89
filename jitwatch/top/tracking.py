"""One job over time: whether it still answers, and what has recompiled since we look. Pure; time is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jitwatch.top.fetching import Answer
from jitwatch.top.figures import Figures, RecompileFigures

#: new: never answered; live; silent: answered before and does not now; ended: nothing listens there any more.
Status = Literal["new", "live", "silent", "ended"]
#: What tells two recompiles apart: function, line, causes, what changed.
Site = tuple[str, str, tuple[str, ...], tuple[str, ...]]


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


class Track:
    """What we know of one job; not for several threads at once."""

    def __init__(self, url: str, now: float) -> None:
        self.url = url
        self._figures: Figures | None = None
        self._status: Status = "new"
        self._problem = ""
        self._answered = now
        self._begin()

    def _begin(self) -> None:
        self._sites: dict[Site, int] | None = None
        self._seen: dict[Site, float] = {}

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
            self._begin()
        self._note(answer.figures, now)
        self._status, self._problem, self._answered = "live", "", now

    def process(self, now: float) -> Process:
        """The job as it is shown at this time."""
        figures = self._figures
        if figures is not None:
            figures = replace(figures, newest_recompiles=self._newest_first(figures, now))
        quiet_s = 0.0 if self._status == "live" else now - self._answered
        return Process(self.url, self._status, quiet_s, self._problem, figures)

    def _note(self, figures: Figures, now: float) -> None:
        """Which sites have recompiled since the look before."""
        sites = {_site(one): one.recompiles for one in figures.newest_recompiles}
        if self._sites is not None:
            grown = {site: now for site, count in sites.items() if count > self._sites.get(site, 0)}
            self._seen = {site: at for site, at in self._seen.items() if site in sites} | grown
        # The first look tells nothing of the order.
        self._sites = sites

    def _newest_first(self, figures: Figures, now: float) -> tuple[RecompileFigures, ...]:
        """Those seen to happen, the newest first; then those that were there before, the costliest first."""
        aged = [
            one if (at := self._seen.get(_site(one))) is None else replace(one, seen_s_ago=now - at)
            for one in figures.newest_recompiles
        ]
        return tuple(sorted(aged, key=lambda one: (one.seen_s_ago is None, one.seen_s_ago or 0.0, -one.lost_seconds)))


def _site(one: RecompileFigures) -> Site:
    return one.function, one.call_site, one.causes, one.paths
