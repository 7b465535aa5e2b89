"""Words the figures of the persistent compilation cache: hits, misses, and programs that were not written to it."""

from __future__ import annotations

from typing import Any, Final

from jitwatch.render import formats

#: Explanation and advice by reason; follows '12 programs were not written to it: '.
_WHY: Final[dict[str, str]] = {
    "host_callback": (
        "they call back into Python (jax.debug.print, jax.pure_callback, jax.experimental.io_callback), and this "
        "version of JAX writes no such program. Every process compiles them again"
    ),
    "short_compile": (
        "each compiled in less than jax_persistent_cache_min_compile_time_secs. To write them as well, call "
        'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0) before the first compile'
    ),
    "small_entry": (
        "each is smaller than jax_persistent_cache_min_entry_size_bytes. To write them as well, call "
        'jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1) before the first compile'
    ),
    "other_process": "only process 0 writes to it",
    "unknown": 'JAX logs the reason after jax.config.update("jax_explain_cache_misses", True)',
}


def sentences(row: dict[str, Any]) -> list[str]:
    """Hits and misses in a sentence, then one for each reason why programs were not written.

    Args:
        row: As `PersistentCache.row` returns it. Without hits and misses there are no sentences.
    """
    if not row["hits"] and not row["misses"]:
        return []
    answers = f"{formats.count(row['hits'], 'hit')}, {_misses(row['misses'])}"
    return [f"Persistent compilation cache: {answers}.", *map(_of_reason, row["unwritten"].items())]


def _of_reason(item: tuple[str, dict[str, Any]]) -> str:
    reason, one = item
    named = ", ".join(label if count == 1 else f"{label} {count:,} times" for label, count in one["functions"].items())
    more = one["programs"] - one["jax_programs"] - sum(one["functions"].values())
    who = [named] if named else []
    who += [f"{formats.count(more, 'more program')}"] if more else []
    who += [f"{formats.count(one['jax_programs'], 'small program')} of JAX's own"] if one["jax_programs"] else []
    is_one = one["programs"] == 1
    return (
        f"{formats.count(one['programs'], 'program')} ({'; '.join(who)}), {formats.seconds(one['seconds'])} in XLA, "
        f"{'was' if is_one else 'were'} not written to it: {_WHY[reason]}."
    )


def _misses(number: int) -> str:
    return f"{number:,} miss{'' if number == 1 else 'es'}"
