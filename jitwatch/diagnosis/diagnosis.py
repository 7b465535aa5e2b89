"""Asks causes, pitfalls, storms and the steady state about every event."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from jitwatch.diagnosis.causes import Causes
from jitwatch.diagnosis.eager import EagerLines
from jitwatch.diagnosis.expected import expected_reason
from jitwatch.diagnosis.pitfalls import RULES, Finding, Rule
from jitwatch.diagnosis.steady import current, steady_since
from jitwatch.diagnosis.storms import StormRule
from jitwatch.model.events import CachesCleared, Compiled, Event, PitfallFound, SteadyViolated
from jitwatch.model.function import Function
from jitwatch.render import words
from jitwatch.system.threads import RLock

#: Pitfalls that were told, by function, name and subject.
_MAX_TOLD = 10_000


class Diagnosis:
    """The rules of one agent.

    Args:
        storm_threshold, storm_window_s: See `StormRule`.
        ignore: Patterns of function labels that never alarm.
        is_redacted: Show no values of static arguments.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        storm_threshold: int,
        storm_window_s: float,
        ignore: tuple[str, ...] = (),
        is_redacted: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storms = StormRule(threshold=storm_threshold, window_s=storm_window_s)
        self._causes = Causes(is_redacted=is_redacted)
        self._eager = EagerLines()
        self._rules = tuple(rule() for rule in RULES)
        self._told: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._lost_s: dict[str, float] = {}
        self._ignore = ignore
        self._clock = clock
        # Re-entrant, as the store's: a signal handler may compile while this thread holds it.
        self._lock = RLock()

    def look(self, event: Event) -> tuple[Event, list[Event]]:
        """The event with what the diagnosis knows of it, and the events that follow from it.

        Called in the thread that caused the event, before anybody else sees it.
        """
        with self._lock:
            if isinstance(event, Compiled):
                return self._compiled(event)
            if isinstance(event, CachesCleared):
                self._causes.caches_cleared()
                self._eager.caches_cleared()
                self._findings(event)
                return event, []
            function = getattr(event, "function", None)
            if isinstance(event, PitfallFound) or not isinstance(function, Function) or self._is_ignored(function):
                return event, []
            return event, self._pitfalls(event, function)[0]

    def tick(self) -> list[Event]:
        """What follows from the time that has passed."""
        return list(self._storms.tick(self._clock()))

    def _compiled(self, event: Compiled) -> tuple[Event, list[Event]]:
        event = self._eager.of(event, self._clock()) if event.function.is_internal else self._causes.of(event)
        function = event.function
        is_ignored = self._is_ignored(function)
        may_alarm = expected_reason() is None and not is_ignored
        found: list[Event] = []
        first: tuple[str, Finding] | None = None
        if may_alarm:
            found, first = self._pitfalls(event, function)
        event = replace(event, signature=None, is_ignored=is_ignored, **_fields_of(first))
        if function.is_internal:
            return event, found
        if event.causes:
            event = replace(
                event,
                reason=words.of_changes(event),
                advice=words.of_advice(event),
                explanation=words.of_recompile(event),
            )
        if not is_ignored:
            found = [*self._alarms(event, counts=may_alarm), *found]
        return event, found

    def _alarms(self, event: Compiled, *, counts: bool) -> list[Event]:
        """The storm that starts with this compile, and the steady state that it violates."""
        is_harmless = event.nth is not None and event.nth > 1 and event.is_harmless
        started = self._storms.compiled(
            event.function, now=self._clock(), cost_s=event.total_s, counts=counts and not is_harmless
        )
        found: list[Event] = [started] if started is not None else []
        state = current()
        if counts and state is not None and state.exceeds(event.function.label):
            found.append(
                SteadyViolated(
                    function=event.function,
                    call_site=event.call_site,
                    spent_s=event.total_s,
                    action=state.on_recompile,
                    causes=event.causes,
                    reason=words.of_changes(event),
                    since=steady_since() or None,
                )
            )
        return found

    def _pitfalls(self, event: Event, function: Function) -> tuple[list[Event], tuple[str, Finding] | None]:
        """The pitfalls that are told for the first time, and the first that this event shows at all."""
        lost_s = self._add_lost(event, function)
        told: list[Event] = []
        first: tuple[str, Finding] | None = None
        is_recompile = isinstance(event, Compiled) and bool(event.causes)
        for rule, finding in self._findings(event):
            name = rule.name
            if rule.explains_recompiles or not is_recompile:
                first = first or (name, finding)
            key = (function.label, name, finding.subject)
            if key in self._told:
                continue
            self._told[key] = None
            if len(self._told) > _MAX_TOLD:
                self._told.popitem(last=False)
            told.append(
                PitfallFound(
                    function=function,
                    call_site=getattr(event, "call_site", None),
                    pitfall=name,
                    subject=finding.subject,
                    message=finding.message,
                    advice=finding.advice,
                    lost_s=lost_s,
                )
            )
        return told, first

    def _findings(self, event: Event) -> list[tuple[Rule, Finding]]:
        now = self._clock()
        looked = [(rule, rule.look(event, now)) for rule in self._rules]
        return [(rule, finding) for rule, finding in looked if finding is not None]

    def _add_lost(self, event: Event, function: Function) -> float:
        """Seconds that recompiles of the function have cost so far; 0 where the event is none of them."""
        if not isinstance(event, Compiled) or not event.causes:
            return 0.0
        lost = self._lost_s.get(function.label, 0.0) + event.lost_s
        if function.label in self._lost_s or len(self._lost_s) < _MAX_TOLD:
            self._lost_s[function.label] = lost
        return lost

    def _is_ignored(self, function: Function) -> bool:
        return any(fnmatchcase(function.label, pattern) for pattern in self._ignore)


def _fields_of(first: tuple[str, Finding] | None) -> dict[str, Any]:
    """What the event says of the pitfall behind it."""
    if first is None:
        return {}
    name, finding = first
    return {
        "pitfall": name,
        "pitfall_subject": finding.subject,
        "pitfall_message": finding.message,
        "advice": finding.advice,
    }
