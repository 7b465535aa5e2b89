"""Detects recompile storms: many recompiles of a function within a window.

A storm starts with the recompile that reaches the threshold: `threshold` recompiles within the window, or at least 20
during the minute after the function's first compile, when shapes still vary. It ends after a window without a
recompile, so that a storm with short interruptions is one storm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from jitwatch.model.events import StormEnded, StormStarted
from jitwatch.model.function import Function
from jitwatch.model.thresholds import STORM_STARTUP_RECOMPILES, STORM_STARTUP_S

#: Maximum number of functions; the store counts no more separately either.
MAX_FUNCTIONS = 10_000


@dataclass(slots=True)
class _History:
    """Recompiles of one function; times in monotonic seconds."""

    function: Function
    first_s: float
    startup: int = 0
    recent: deque[float] = field(default_factory=deque)
    last_s: float = 0.0
    started_s: float | None = None
    in_storm: int = 0
    lost_s: float = 0.0


class StormRule:
    """Finds the start and the end of storms, by function. Not thread-safe: the diagnosis holds a lock."""

    def __init__(self, *, threshold: int, window_s: float) -> None:
        self._threshold = threshold
        self._window_s = window_s
        self._histories: dict[str, _History] = {}

    def compiled(self, function: Function, *, now: float, cost_s: float, counts: bool) -> StormStarted | None:
        """Count a compile of a user's function that was not expected; returns an event if it starts a storm."""
        history = self._histories.get(function.label)
        if history is None:
            if len(self._histories) < MAX_FUNCTIONS:
                self._histories[function.label] = _History(function, now)
            return None
        return self._recompiled(history, now, cost_s) if counts else None

    def tick(self, now: float) -> list[StormEnded]:
        """End the storms of functions without a recompile for a window."""
        storms = [one for one in self._histories.values() if one.started_s is not None]
        return [self._end(one) for one in storms if now - one.last_s >= self._window_s]

    def _recompiled(self, history: _History, now: float, cost_s: float) -> StormStarted | None:
        is_startup = now - history.first_s < STORM_STARTUP_S
        history.last_s = now
        if is_startup:
            history.startup += 1
        else:
            recent = history.recent
            recent.append(now)
            while (recent and now - recent[0] > self._window_s) or len(recent) > self._threshold:
                recent.popleft()
        if history.started_s is not None:
            history.in_storm += 1
            history.lost_s += cost_s
            return None
        count = history.startup if is_startup else len(history.recent)
        if count < (max(STORM_STARTUP_RECOMPILES, self._threshold) if is_startup else self._threshold):
            return None
        history.started_s, history.in_storm, history.lost_s = now, count, cost_s
        window = STORM_STARTUP_S if is_startup else self._window_s
        return StormStarted(function=history.function, recompiles=count, within_s=window)

    def _end(self, history: _History) -> StormEnded:
        started = history.started_s or history.last_s
        ended = StormEnded(
            function=history.function,
            recompiles=history.in_storm,
            lasted_s=history.last_s - started,
            lost_s=history.lost_s,
        )
        history.started_s, history.in_storm, history.lost_s = None, 0, 0.0
        history.recent.clear()
        return ended
