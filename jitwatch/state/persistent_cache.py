"""The signal of JAX's persistent compilation cache: hits, misses and their reasons, and programs not written to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, get_args

from jitwatch.model.events import CacheMissed, Compiled, Event, PersistentCacheSaved
from jitwatch.model.taxonomy import JAX_LABEL, MISS_REASONS, UnwrittenReason
from jitwatch.state.metrics import Metric
from jitwatch.state.tables import Series

#: Maximum number of functions that are listed with a reason.
_MAX_NAMED: Final = 5
#: Maximum number of functions whose last miss is kept, and of those that are shown.
_MAX_MISSED: Final = 100
_MAX_SHOWN: Final = 20
#: The reasons, in the order in which they are reported.
REASONS: Final[tuple[UnwrittenReason, ...]] = get_args(UnwrittenReason)


@dataclass(slots=True)
class Unwritten:
    """Programs that were not written for one reason.

    Attributes:
        programs: Number of programs, JAX's own included.
        seconds: Seconds of their backend compiles, without trace and lowering.
        functions: Number of programs by function, for the first functions of the user.
        own: Number of programs of JAX itself.
    """

    programs: int = 0
    seconds: float = 0.0
    functions: dict[str, int] = field(default_factory=dict)
    own: int = 0


@dataclass(slots=True)
class Missed:
    """The misses of one function, with the reason of the last one.

    Attributes:
        reason, explanation: Why the cache did not have the program, or why it was not written to it.
        program: Fingerprint of the program.
        call_site: `file:line` of the call.
        times: Number of misses with a reason.
        seconds: Seconds of their compiles in XLA.
    """

    reason: str
    explanation: str
    program: str = ""
    call_site: str | None = None
    times: int = 0
    seconds: float = 0.0


class PersistentCache:
    """Counts hits, misses by reason, and the programs that were not written to the persistent cache, by reason."""

    name: ClassVar[str] = "persistent_cache"
    events: ClassVar[tuple[type[Event], ...]] = (Compiled, CacheMissed, PersistentCacheSaved)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="persistent_cache_miss_reasons",
            kind="counter",
            help="Programs of the user's functions that were not in JAX's persistent compilation cache, by reason.",
            labels=("reason",),
            starts_at_zero=True,
        ),
    )

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self._unwritten: dict[str | None, Unwritten] = {reason: Unwritten() for reason in REASONS}
        self._reasons: dict[str, int] = {}
        self._missed: dict[str, Missed] = {}

    def reduce(self, event: Compiled | CacheMissed | PersistentCacheSaved, series: Series) -> None:
        """Count a hit, a miss or its reason, or the seconds that a hit saved as estimated by JAX."""
        if isinstance(event, PersistentCacheSaved):
            # Counters cannot decrease; a negative estimate means that nothing was saved.
            series.add("persistent_cache_saved_seconds", max(0.0, event.saved_s))
        elif isinstance(event, CacheMissed):
            self._explain(event, event.reason, event.explanation, series, is_counted=event.is_counted)
        elif event.persistent_cache == "hit":
            self.hits += 1
            series.add("persistent_cache_hits")
        elif event.persistent_cache == "miss":
            self.misses += 1
            series.add("persistent_cache_misses")
            reason = event.persistent_cache_reason
            if (unwritten := self._unwritten.get(reason)) is not None and not event.persistent_cache_written:
                self._add(unwritten, event.function.label, event.compile_s)
            if reason:
                self._explain(event, reason, event.persistent_cache_explanation, series)

    def _explain(
        self, event: Compiled | CacheMissed, reason: str, text: str, series: Series, *, is_counted: bool = False
    ) -> None:
        label = event.function.label
        if event.function.is_internal or reason not in MISS_REASONS:
            return
        if not is_counted:
            self._reasons[reason] = self._reasons.get(reason, 0) + 1
            series.add("persistent_cache_miss_reasons", labels=(reason,))
        if label not in self._missed and len(self._missed) >= _MAX_MISSED:
            return
        # The newest last.
        before = self._missed.pop(label, None)
        if before is not None and is_counted and event.program != before.program:
            self._missed[label] = before
            return
        self._missed[label] = Missed(
            reason,
            text,
            event.program,
            event.call_site,
            (before.times if before is not None else 0) + (not is_counted),
            (before.seconds if before is not None else 0.0) + (0.0 if is_counted else event.compile_s),
        )

    @staticmethod
    def _add(one: Unwritten, label: str, compile_s: float) -> None:
        one.programs += 1
        one.seconds += compile_s
        if label == JAX_LABEL:
            one.own += 1
        elif label in one.functions or len(one.functions) < _MAX_NAMED:
            one.functions[label] = one.functions.get(label, 0) + 1

    def row(self) -> dict[str, Any]:
        """The part `persistent_cache` of the state and of the report."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "unwritten": {
                reason: {
                    "programs": one.programs,
                    "seconds": one.seconds,
                    "functions": dict(one.functions),
                    "jax_programs": one.own,
                }
                for reason, one in self._unwritten.items()
                if one.programs
            },
            "reasons": {reason: self._reasons[reason] for reason in MISS_REASONS if reason in self._reasons},
            "missed": [
                {
                    "function": label,
                    "call_site": one.call_site,
                    "reason": one.reason,
                    "explanation": one.explanation,
                    "times": one.times,
                    "seconds": one.seconds,
                }
                for label, one in sorted(self._missed.items(), key=lambda item: -item[1].seconds)[:_MAX_SHOWN]
                if one.explanation
            ],
        }
