"""Applies the rules about causes, pitfalls, storms and the steady state to every event."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from jitwatch.diagnosis.causes import Causes
from jitwatch.diagnosis.eager import EagerCallSites
from jitwatch.diagnosis.expected import expected_reason
from jitwatch.diagnosis.pitfalls import RULES, Pitfall, Rule
from jitwatch.diagnosis.steady import current, steady_since
from jitwatch.diagnosis.storms import StormRule
from jitwatch.model.events import CachesCleared, Compiled, Event, PitfallFound, SteadyViolated
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Cause
from jitwatch.render import wording
from jitwatch.system.threads import RLock

#: Maximum number of pitfalls that are remembered as reported, and of functions whose lost seconds are kept.
_MAX_ENTRIES = 10_000


class Diagnosis:
    """The rules of one agent.

    Args:
        storm_threshold, storm_window_s: See `StormRule`.
        ignore: Patterns of labels of functions that raise no alarm.
        is_redacted: Show no values of static arguments.
        rules: Make the rules that recognise pitfalls.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        storm_threshold: int,
        storm_window_s: float,
        ignore: tuple[str, ...] = (),
        is_redacted: bool = False,
        rules: Sequence[Callable[[], Rule]] = RULES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storms = StormRule(threshold=storm_threshold, window_s=storm_window_s)
        self._causes = Causes(is_redacted=is_redacted)
        self._eager = EagerCallSites()
        self._rules = tuple(rule() for rule in rules)
        #: The rules that are asked about an event, by its class and its causes.
        self._rules_of: dict[tuple[type[Event], tuple[Cause, ...]], tuple[Rule, ...]] = {}
        self._reported: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._lost_s: dict[str, float] = {}
        self._ignore = ignore
        self._clock = clock
        # Re-entrant: a signal handler may compile while this thread holds it.
        self._lock = RLock()

    def diagnose(self, event: Event) -> tuple[Event, list[Event]]:
        """Return the event with its diagnosis, and the events that follow from it.

        Called in the thread that caused the event, before the event is stored.
        """
        with self._lock:
            if isinstance(event, Compiled):
                return self._compiled(event)
            if isinstance(event, CachesCleared):
                self._causes.caches_cleared()
                self._eager.caches_cleared()
                self._check(event)
                return event, []
            if not self._asked(event):
                return event, []
            function = getattr(event, "function", None)
            if isinstance(event, PitfallFound) or not isinstance(function, Function) or self._is_ignored(function):
                return event, []
            return event, self._pitfalls(event, function)[0]

    def tick(self) -> list[Event]:
        """Return the events that follow from the passage of time."""
        with self._lock:
            return list(self._storms.tick(self._clock()))

    def _compiled(self, event: Compiled) -> tuple[Event, list[Event]]:
        event = self._eager.attribute(event, self._clock()) if event.function.is_internal else self._causes.add(event)
        function = event.function
        is_ignored = self._is_ignored(function)
        may_alarm = expected_reason() is None and not is_ignored
        found, first = self._pitfalls(event, function) if may_alarm else ([], None)
        fields: dict[str, Any] = {}
        if first is not None:
            rule, shown = first
            fields = {"pitfall": rule.name, "pitfall_subject": shown.subject}
            fields |= {"pitfall_message": shown.message, "advice": shown.advice}
        if event.causes and not function.is_internal:
            # Before the event is copied, so that it is copied once.
            reason, advice = wording.of_changes(event), fields.get("advice") or wording.of_advice(event)
            explanation = wording.of_recompile(event, reason=reason, advice=advice)
            fields |= {"reason": reason, "advice": advice, "explanation": explanation}
        event = event.changed(signature=None, is_ignored=is_ignored, **fields)
        if function.is_internal:
            return event, found
        if not is_ignored:
            found = [*self._alarms(event, counts=may_alarm), *found]
        return event, found

    def _alarms(self, event: Compiled, *, counts: bool) -> list[Event]:
        """The storm that starts with a compile, and the violation of the steady state."""
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
                    reason=wording.of_changes(event),
                    since=steady_since() or None,
                )
            )
        return found

    def _pitfalls(self, event: Event, function: Function) -> tuple[list[Event], tuple[Rule, Pitfall] | None]:
        """Events for the pitfalls that are not yet reported, and the first pitfall that the event shows."""
        is_recompile = isinstance(event, Compiled) and bool(event.causes)
        lost_s = 0.0
        if isinstance(event, Compiled) and is_recompile:
            # Of the function so far, this event included.
            lost_s = self._lost_s.get(function.label, 0.0) + event.lost_s
            if function.label in self._lost_s or len(self._lost_s) < _MAX_ENTRIES:
                self._lost_s[function.label] = lost_s
        new: list[Event] = []
        first: tuple[Rule, Pitfall] | None = None
        for rule, pitfall in self._check(event):
            if rule.explains_recompiles or not is_recompile:
                first = first or (rule, pitfall)
            key = (function.label, rule.name, pitfall.subject)
            if key not in self._reported:
                self._reported[key] = None
                if len(self._reported) > _MAX_ENTRIES:
                    self._reported.popitem(last=False)
                new.append(
                    PitfallFound(
                        function=function,
                        call_site=getattr(event, "call_site", None),
                        pitfall=rule.name,
                        subject=pitfall.subject,
                        message=pitfall.message,
                        advice=pitfall.advice,
                        lost_s=lost_s,
                    )
                )
        return new, first

    def _check(self, event: Event) -> list[tuple[Rule, Pitfall]]:
        """The pitfalls that the event shows, each with its rule."""
        found = []
        for rule in self._asked(event):
            pitfall = rule.check(event)
            if pitfall is not None:
                found.append((rule, pitfall))
        return found

    def _asked(self, event: Event) -> tuple[Rule, ...]:
        """The rules that are asked about an event."""
        kind, causes = type(event), event.causes if isinstance(event, Compiled) else ()
        found = self._rules_of.get((kind, causes))
        if found is None:
            if len(self._rules_of) >= _MAX_ENTRIES:
                self._rules_of.clear()
            found = tuple([rule for rule in self._rules if _is_asked(rule, kind, causes)])
            self._rules_of[kind, causes] = found
        return found

    def _is_ignored(self, function: Function) -> bool:
        return bool(self._ignore) and any(fnmatchcase(function.label, pattern) for pattern in self._ignore)


def _is_asked(rule: Rule, kind: type[Event], causes: tuple[Cause, ...]) -> bool:
    """Whether a rule is asked about events of a class, compiles with these causes."""
    is_of_kind = not rule.events or issubclass(kind, rule.events)
    return is_of_kind and (kind is not Compiled or not rule.causes or not set(causes).isdisjoint(rule.causes))
