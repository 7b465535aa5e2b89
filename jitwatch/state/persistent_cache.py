"""JAX's persistent compilation cache: what it answered, which programs were never written to it, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, get_args

from jitwatch.model.taxonomy import JAX_LABEL, UnwrittenReason

#: Functions that are named with a reason.
_MAX_NAMED: Final = 5
#: In the order in which they are reported.
REASONS: Final[tuple[UnwrittenReason, ...]] = get_args(UnwrittenReason)


@dataclass(slots=True)
class Unwritten:
    """Programs that were not written for one reason.

    Attributes:
        programs: How many, JAX's own among them.
        seconds: What compiling them took, without trace and lowering.
        functions: Labels of the first functions of the user that they belong to, and how many programs of each.
        own: Programs of JAX's own.
    """

    programs: int = 0
    seconds: float = 0.0
    functions: dict[str, int] = field(default_factory=dict)
    own: int = 0


class PersistentCache:
    """Counts answers and programs; not thread-safe by itself."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self._unwritten: dict[str | None, Unwritten] = {reason: Unwritten() for reason in REASONS}

    def compiled(self, label: str, result: str | None, reason: str | None, compile_s: float) -> None:
        """A compile ended.

        Args:
            label: Of the function, `__jax__` for JAX's own.
            result: What the cache answered: `hit`, `miss`, or anything else where it was not asked.
            reason: Why the program was not written; empty or None where it was, or was there already.
            compile_s: Seconds in XLA.
        """
        if result == "hit":
            self.hits += 1
        elif result == "miss":
            self.misses += 1
            if (unwritten := self._unwritten.get(reason)) is not None:
                self._add(unwritten, label, compile_s)

    @staticmethod
    def _add(one: Unwritten, label: str, compile_s: float) -> None:
        one.programs += 1
        one.seconds += compile_s
        if label == JAX_LABEL:
            one.own += 1
        elif label in one.functions or len(one.functions) < _MAX_NAMED:
            one.functions[label] = one.functions.get(label, 0) + 1

    def row(self) -> dict[str, Any]:
        """The figures as the state and the report have them."""
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
