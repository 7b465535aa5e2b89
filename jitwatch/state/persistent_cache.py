"""The signal of JAX's persistent compilation cache: hits, misses, and why programs were not written to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, get_args

from jitwatch.model.events import Compiled, Event, PersistentCacheSaved
from jitwatch.model.taxonomy import JAX_LABEL, UnwrittenReason
from jitwatch.state.metrics import Metric
from jitwatch.state.tables import Series

#: Maximum number of functions that are listed with a reason.
_MAX_NAMED: Final = 5
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


class PersistentCache:
    """Counts hits and misses of the persistent cache, and the programs that were not written to it, by reason."""

    name: ClassVar[str] = "persistent_cache"
    events: ClassVar[tuple[type[Event], ...]] = (Compiled, PersistentCacheSaved)
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self._unwritten: dict[str | None, Unwritten] = {reason: Unwritten() for reason in REASONS}

    def reduce(self, event: Compiled | PersistentCacheSaved, series: Series) -> None:
        """Count a hit or a miss, or the seconds that a hit saved as estimated by JAX."""
        if isinstance(event, PersistentCacheSaved):
            # Counters cannot decrease; a negative estimate means that nothing was saved.
            series.add("persistent_cache_saved_seconds", max(0.0, event.saved_s))
        elif event.persistent_cache == "hit":
            self.hits += 1
            series.add("persistent_cache_hits")
        elif event.persistent_cache == "miss":
            self.misses += 1
            series.add("persistent_cache_misses")
            if (unwritten := self._unwritten.get(event.persistent_cache_reason)) is not None:
                self._add(unwritten, event.function.label, event.compile_s)

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
        }
