"""One job over time: whether it still answers, and how old its figures are. Pure; time is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jitwatch.top.fetching import Answer
from jitwatch.top.figures import Figures

#: new: never answered; live; silent: answered before and does not now; ended: nothing listens there any more.
Status = Literal["new", "live", "silent", "ended"]

#: Seconds for which figures stand while the job says that it is asked too often.
_PATIENCE_S = 60.0


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

    def take(self, answer: Answer, now: float) -> None:
        """Note an answer that came at this time, monotonic seconds."""
        if answer.retry_after_s and self._status == "live" and now - self._answered < _PATIENCE_S:
            return  # it lives, and its figures are from a moment ago
        if answer.figures is None:
            self._problem = answer.problem
            if self._status != "new":
                self._status = "ended" if answer.is_gone else "silent"
            return
        self._figures = answer.figures
        self._status, self._problem, self._answered = "live", "", now

    def process(self, now: float) -> Process:
        """The job as it is shown at this time."""
        quiet_s = 0.0 if self._status == "live" else now - self._answered
        return Process(self.url, self._status, quiet_s, self._problem, self._aged(now))

    def _aged(self, now: float) -> Figures | None:
        """The figures, with what has happened as long ago as it is by now."""
        if self._figures is None:
            return None
        older_s = now - self._answered
        aged = (
            one if one.seen_s_ago is None else replace(one, seen_s_ago=one.seen_s_ago + older_s)
            for one in self._figures.newest_recompiles
        )
        return replace(self._figures, newest_recompiles=tuple(aged))
