"""JAX's persistent compilation cache: what it answered, which programs were never written to it, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, get_args

from jitwatch.diagnosis import words
from jitwatch.events import JAX_LABEL, UnwrittenReason

#: Functions that are named with a reason.
_MAX_NAMED: Final = 5
#: Why, and what to do about it, by reason; after '12 programs are not written to it'.
_WHY: Final[dict[str, str]] = {
    "host_callback": (
        "they call back into Python (jax.debug.print, jax.pure_callback, jax.experimental.io_callback), and this "
        "version of JAX writes no such program. Every process compiles them again"
    ),
    "short_compile": (
        "each compiled in less than jax_persistent_cache_min_compile_time_secs. "
        'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0) before the first compile has them '
        "written as well"
    ),
    "small_entry": (
        "each is smaller than jax_persistent_cache_min_entry_size_bytes. "
        'jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1) before the first compile has them written '
        "as well"
    ),
    "other_process": "JAX writes from process 0 alone",
    "unknown": 'JAX logs the reason after jax.config.update("jax_explain_cache_misses", True)',
}
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


def sentences(row: dict[str, Any]) -> list[str]:
    """What the cache did, in words: the answers first, then a sentence for each reason.

    Args:
        row: As `PersistentCache.row` returns it. None of them where the cache was never asked.
    """
    if not row["hits"] and not row["misses"]:
        return []
    asked = f"{words.count(row['hits'], 'hit')}, {_misses(row['misses'])}"
    return [f"Persistent compilation cache: {asked}.", *map(_of_reason, row["unwritten"].items())]


def _of_reason(item: tuple[str, dict[str, Any]]) -> str:
    reason, one = item
    named = ", ".join(label if count == 1 else f"{label} {count:,} times" for label, count in one["functions"].items())
    more = one["programs"] - one["jax_programs"] - sum(one["functions"].values())
    who = [named] if named else []
    who += [f"{words.count(more, 'more program')}"] if more else []
    who += [f"{words.count(one['jax_programs'], 'small one')} of JAX's own"] if one["jax_programs"] else []
    is_one = one["programs"] == 1
    return (
        f"{words.count(one['programs'], 'program')} ({'; '.join(who)}), {words.seconds(one['seconds'])} in XLA, "
        f"{'was' if is_one else 'were'} not written to it: {_WHY[reason]}."
    )


def _misses(number: int) -> str:
    return f"{number:,} miss{'' if number == 1 else 'es'}"
