"""Why a function was compiled again: what changed against the nearest compile, or what became of the cache."""

from __future__ import annotations

from dataclasses import replace

from jitwatch.diagnosis import diff
from jitwatch.diagnosis.history import Found, History
from jitwatch.events import CAUSES, Change, Compiled
from jitwatch.signature import Signature

#: Changes that an event lists; a state of a thousand leaves may change in all of them.
MAX_CHANGES = 20
_MAX_PATH = 200
_REDACTED = "redacted"
#: Kinds whose texts are values of the user.
_VALUES = ("static_arg", "new_function", "tree_structure")

_TRANSFORMED = Change("function", "transform", "called as it is", "transformed (grad, vmap, …)")
_AHEAD = Change("function", "aot", "compiled before", "compiled ahead of time by .lower().compile()")


class Causes:
    """Finds the causes, one compile after the other. No lock: the diagnosis that owns it has one.

    Args:
        is_redacted: Show no values of static arguments.
    """

    def __init__(self, *, is_redacted: bool = False) -> None:
        self.history = History()
        self._is_redacted = is_redacted
        self._clearings = 0

    def caches_cleared(self) -> None:
        """Somebody emptied JAX's caches."""
        self._clearings += 1

    def of(self, event: Compiled) -> Compiled:
        """The event with `nth`, `causes` and `changes` filled in; the first compile of a function has none."""
        label, signature = event.function.label, event.signature
        if signature is None:
            nth = self.history.count_unknown(label)
            return replace(event, nth=nth, causes=("unknown",) if nth > 1 else ())
        found = self.history.add(label, signature, event.cache_entries, self._clearings)
        if found.nth == 1:
            return replace(event, nth=1)
        changes = _changes(found, signature)
        kinds = {change.kind for change in changes}
        causes = tuple(cause for cause in CAUSES if cause in kinds) or ("unknown",)
        shown = [self._fit(change) for change in changes[:MAX_CHANGES]]
        return replace(
            event,
            nth=found.nth,
            causes=causes,
            changes=tuple(shown),
            changes_left_out=max(0, len(changes) - MAX_CHANGES),
        )

    def _fit(self, change: Change) -> Change:
        before, after = change.before, change.after
        if self._is_redacted and change.kind in _VALUES:
            before, after = (
                _REDACTED if change.kind != "tree_structure" else text.partition(" with ")[0]
                for text in (before, after)
            )
        return replace(change, path=change.path[:_MAX_PATH], before=before, after=after)


def _changes(found: Found, signature: Signature) -> list[Change]:
    if found.nearest is None:
        # The same code, wrapped by a library in another way, or a program that JAX derived from it.
        return [_TRANSFORMED] if found.has_others else _ahead(signature)
    if found.distance == 0 or found.is_repeated:
        return _lost(found, signature)
    changes = diff.changes(found.nearest, signature)
    if signature.origin == "derived" and not changes:
        return [_TRANSFORMED]
    return changes + _ahead(signature)


def _ahead(signature: Signature) -> list[Change]:
    return [_AHEAD] if signature.origin == "aot" else []


def _lost(found: Found, signature: Signature) -> list[Change]:
    """The very same program again."""
    if signature.origin == "aot" or (found.nearest is not None and found.nearest.origin == "aot"):
        return [_AHEAD]
    if signature.origin == "derived":
        return [_TRANSFORMED]
    if found.was_cleared:
        return [Change("jit cache", "cache_cleared", "held the program", "cleared by clear_caches() or clear_cache()")]
    if found.has_fewer_entries:
        return [Change("jit cache", "cache_cleared", "held the program", "lost entries since")]
    return []
