"""Finds the causes of a recompile: what changed since the nearest compile, or how the cache lost the program."""

from __future__ import annotations

from dataclasses import replace

from jitwatch.diagnosis import diff
from jitwatch.diagnosis.diff import ANOTHER_FUNCTION
from jitwatch.diagnosis.history import Comparison, History
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change
from jitwatch.model.signature import BODY_OF, Signature
from jitwatch.model.taxonomy import CAUSES

#: Maximum number of changes of an event; a state of a thousand leaves may change in all of them.
MAX_CHANGES = 20
_TRANSFORMED = Change("function", "transform", "called as it is", "transformed (grad, vmap, …)")
_BY_AOT = "compiled ahead of time by .lower().compile()"
_AHEAD = Change("function", "aot", "compiled before", _BY_AOT)
_AFTER_AHEAD = Change("function", "aot", _BY_AOT, "called")
_CLEARED = Change("jit cache", "cache_cleared", "held the program", "cleared by clear_caches() or clear_cache()")
_EVICTED = Change("jit cache", "cache_cleared", "held the program", "lost entries since")


class Causes:
    """Finds the causes of each recompile. Not thread-safe: the diagnosis holds a lock.

    Args:
        is_redacted: Show no values of static arguments.
    """

    def __init__(self, *, is_redacted: bool = False) -> None:
        self.history = History()
        self._is_redacted = is_redacted
        self._clearings = 0

    def caches_cleared(self) -> None:
        """Note that JAX's caches were cleared."""
        self._clearings += 1

    def add(self, event: Compiled) -> Compiled:
        """Return the event with `nth`, `causes` and `changes`; the first compile of a function has no causes."""
        label, signature = event.function.label, event.signature
        if signature is None:
            nth = self.history.count_unknown(label)
            return replace(event, nth=nth, causes=("unknown",) if nth > 1 else ())
        compared = self.history.add(label, signature, event.cache_entries, self._clearings)
        if compared.nth == 1:
            return replace(event, nth=1)
        changes = _changes(compared, signature, is_redacted=self._is_redacted)
        kinds = {change.kind for change in changes}
        causes = tuple(cause for cause in CAUSES if cause in kinds) or ("unknown",)
        return replace(
            event,
            nth=compared.nth,
            causes=causes,
            changes=tuple(changes[:MAX_CHANGES]),
            changes_left_out=max(0, len(changes) - MAX_CHANGES),
        )


def _changes(compared: Comparison, signature: Signature, *, is_redacted: bool) -> list[Change]:
    if compared.nearest is None:
        # The same code, wrapped by a library in another way, or transformed by JAX.
        return [_TRANSFORMED] if compared.has_others else _ahead(signature)
    if compared.distance == 0 or compared.is_repeated:
        return _lost(compared, signature)
    changes = diff.changes(compared.nearest, signature, is_redacted=is_redacted)
    if not changes:
        return _lost(compared, signature)
    # Values that only their class can compare may be equal, if the cache explains the compile.
    after = [_AFTER_AHEAD] if compared.nearest.origin == "aot" and signature.origin == "call" else _ahead(signature)
    return (_evidence(compared) if diff.is_doubtful(changes, signature) else []) or changes + after


def _ahead(signature: Signature) -> list[Change]:
    return [_AHEAD] if signature.origin == "aot" else []


def _lost(compared: Comparison, signature: Signature) -> list[Change]:
    """The causes if the same program was compiled again."""
    if signature.origin == "aot" and not compared.was_cleared:
        return [_AHEAD]
    if compared.nearest is not None and compared.nearest.origin == "aot" and not compared.was_cleared:
        return [_AFTER_AHEAD]
    if signature.origin == "eager" and not compared.was_cleared:
        return [Change(f"{BODY_OF}{signature.operation}", "new_function", *ANOTHER_FUNCTION)]
    if signature.origin == "derived" and not compared.was_cleared:
        return [_TRANSFORMED]
    return _evidence(compared)


def _evidence(compared: Comparison) -> list[Change]:
    """How the cache lost the program, as far as it was observed."""
    if compared.was_cleared:
        return [_CLEARED]
    return [_EVICTED] if compared.has_fewer_entries else []
