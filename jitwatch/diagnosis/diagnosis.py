"""Asks every rule about every event."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase

from jitwatch.diagnosis.expected import expected_reason
from jitwatch.diagnosis.steady import current
from jitwatch.diagnosis.storms import StormRule
from jitwatch.events import Compiled, Event, Function, SteadyViolated


class Diagnosis:
    """The rules of one agent.

    Args:
        storm_threshold, storm_window_s: See `StormRule`.
        ignore: Patterns of function labels that never alarm.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        storm_threshold: int,
        storm_window_s: float,
        ignore: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storms = StormRule(threshold=storm_threshold, window_s=storm_window_s)
        self._ignore = ignore
        self._clock = clock

    def after(self, event: Event) -> list[Event]:
        """What follows from an event; called in the thread that caused it."""
        if not isinstance(event, Compiled) or event.function.is_internal or self._is_ignored(event.function):
            return []
        is_expected = expected_reason() is not None
        started = self._storms.compiled(event.function, now=self._clock(), cost_s=event.total_s, counts=not is_expected)
        found: list[Event] = [started] if started is not None else []
        state = current()
        if state is not None and not is_expected and state.exceeds(event.function.label):
            found.append(
                SteadyViolated(
                    function=event.function,
                    call_site=event.call_site,
                    spent_s=event.total_s,
                    action=state.on_recompile,
                )
            )
        return found

    def tick(self) -> list[Event]:
        """What follows from the time that has passed."""
        return list(self._storms.tick(self._clock()))

    def _is_ignored(self, function: Function) -> bool:
        return any(fnmatchcase(function.label, pattern) for pattern in self._ignore)
