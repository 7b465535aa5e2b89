"""Finds the causes of a recompile: what changed since the nearest compile, or how the cache lost the program.

The history of signatures is bounded: 32 signatures a function, and a maximum size for a function and for all; past
these the oldest are dropped. Of dropped ones a hash is kept, so that a program that JAX lost is still recognised.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, fields
from operator import attrgetter

from jitwatch.diagnosis import diff
from jitwatch.diagnosis.diff import ANOTHER_FUNCTION, FUNCTION_WEIGHT, MAX_DISTANCE, distance
from jitwatch.model.copies import reader
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change
from jitwatch.model.signature import BODY_OF, Signature
from jitwatch.model.taxonomy import CAUSES

MAX_SIGNATURES = 32
MAX_BYTES_PER_FUNCTION = 2 << 20
MAX_BYTES = 64 << 20
MAX_FUNCTIONS = 10_000
_MAX_HASHES = 4_096
_MAX_CODES = 1_000
#: Fields that do not identify a program: its trigger, and its contents, which follow from the other fields.
_IGNORED = ("origin", "constants", "operations", "repeated")
_PROGRAM = attrgetter(*(one.name for one in fields(Signature) if one.name not in _IGNORED))
#: Columns and other fields that two signatures of a function often have in common.
_SHARED = (
    *("paths", "shapes", "dtypes", "weak_types", "placements", "tree"),
    *("keywords", "statics", "passed", "captured", "context"),
)
#: Maximum number of changes of an event; a state of a thousand leaves may change in all of them.
MAX_CHANGES = 20
_TRANSFORMED = Change("function", "transform", "called as it is", "transformed (grad, vmap, …)")
_BY_AOT = "compiled ahead of time by .lower().compile()"
_AHEAD = Change("function", "aot", "compiled before", _BY_AOT)
_AFTER_AHEAD = Change("function", "aot", _BY_AOT, "called")
_CLEARED = Change("jit cache", "cache_cleared", "held the program", "cleared by clear_caches() or clear_cache()")
_EVICTED = Change("jit cache", "cache_cleared", "held the program", "lost entries since")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Counts when a program was last compiled: of clearings of JAX's caches, and of losses of the function's caches."""

    clearings: int
    losses: int


@dataclass(slots=True)
class Compiles:
    """The compiles of one function so far."""

    signatures: deque[Signature] = field(default_factory=deque)
    #: The hash of each.
    numbers: deque[int] = field(default_factory=deque)
    bytes: int = 0
    #: Number of compiles by code object; running a notebook cell again makes a new one, which starts at 0.
    by_code: dict[int, int] = field(default_factory=dict)
    #: The counts when each program was last compiled, by the hash of its signature.
    seen: OrderedDict[int, _Seen] = field(default_factory=OrderedDict)
    #: The fields of the last signature that identify its program, and the hash of each.
    last: tuple[tuple[object, ...], tuple[int, ...]] = ((), ())
    cache_entries: int | None = None
    #: How often the function's caches had fewer entries before a compile than after the previous one.
    losses: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A compile, compared with the earlier ones of its function.

    Attributes:
        nth: Number of the compile among those of its code object, from 1.
        nearest: The earlier signature that differs least, the latest if there are several; None without one.
        distance: Its distance; see `diff.distance`.
        is_repeated: Whether the same signature was compiled before.
        has_others: Whether there are earlier signatures of the function, comparable or not.
        has_fewer_entries: Whether the function's jit cache lost entries since this program was last compiled.
        was_cleared: Whether JAX's caches were cleared since then.
    """

    nth: int
    nearest: Signature | None
    distance: int
    is_repeated: bool
    has_others: bool
    has_fewer_entries: bool
    was_cleared: bool


class History:
    """The compiles of all functions by label, in bounded memory. Not thread-safe: the diagnosis holds a lock."""

    def __init__(
        self,
        *,
        max_bytes_per_function: int = MAX_BYTES_PER_FUNCTION,
        max_bytes: int = MAX_BYTES,
        max_functions: int = MAX_FUNCTIONS,
    ) -> None:
        self._max_bytes_per_function = max_bytes_per_function
        self._max_bytes = max_bytes
        self._max_functions = max_functions
        self._functions: OrderedDict[str, Compiles] = OrderedDict()
        self._bytes = 0
        self._latest = _Seen(0, 0)

    def add(self, label: str, signature: Signature, cache_entries: int | None, clearings: int) -> Comparison:
        """Add a compile, and compare it with the earlier ones.

        Args:
            label: Label of the function.
            signature: Signature of the compile.
            cache_entries: Entries of the function's jit caches after the compile; None if unknown.
            clearings: Number of clearings of JAX's caches so far.
        """
        compiles = self._functions.get(label)
        if compiles is None:
            compiles = self._functions[label] = Compiles()
        self._functions.move_to_end(label)
        if signature.code and 0 in compiles.by_code:
            # Derived programs, whose code object is unknown, were compiled first.
            compiles.by_code.setdefault(signature.code, compiles.by_code.pop(0))
        code = signature.code or next(reversed(compiles.by_code), 0)
        if compiles.signatures:
            _share(signature, compiles.signatures[-1])
        position, least = _nearest(compiles, signature, code)
        nearest = compiles.signatures[position] if position is not None else None
        number = _number(compiles, signature)
        known = compiles.seen.get(number)
        if known is None and position is not None:
            known = compiles.seen.get(compiles.numbers[position])
        compiles.losses += _fell(compiles.cache_entries, cache_entries)
        compared = Comparison(
            nth=compiles.by_code.get(code, 0) + 1,
            nearest=nearest,
            distance=least,
            is_repeated=number in compiles.seen,
            has_others=bool(compiles.signatures),
            has_fewer_entries=known is not None and compiles.losses > known.losses,
            was_cleared=known is not None and clearings > known.clearings,
        )
        if code in compiles.by_code or len(compiles.by_code) < _MAX_CODES:
            compiles.by_code[code] = compared.nth
        compiles.cache_entries = cache_entries
        seen = _Seen(clearings, compiles.losses)
        # Nearly all are equal, and share one object.
        self._latest = seen = self._latest if seen == self._latest else seen
        compiles.seen[number] = seen
        compiles.seen.move_to_end(number)
        if len(compiles.seen) > _MAX_HASHES:
            compiles.seen.popitem(last=False)
        self._keep(compiles, signature, number)
        return compared

    def count_unknown(self, label: str) -> int:
        """Add a compile without a signature; returns its number among those of the function."""
        compiles = self._functions.setdefault(label, Compiles())
        code = next(reversed(compiles.by_code), 0)
        compiles.by_code[code] = nth = compiles.by_code.get(code, 0) + 1
        self._forget_stale(compiles)
        return nth

    def _keep(self, compiles: Compiles, signature: Signature, number: int) -> None:
        compiles.signatures.append(signature)
        compiles.numbers.append(number)
        size = signature.bytes
        compiles.bytes += size
        self._bytes += size
        while len(compiles.signatures) > MAX_SIGNATURES or (
            compiles.bytes > self._max_bytes_per_function and len(compiles.signatures) > 1
        ):
            self._drop_oldest(compiles)
        self._forget_stale(compiles)

    def _forget_stale(self, current: Compiles) -> None:
        """Drop the signatures of the least recently compiled functions until the limits are met."""
        if self._bytes <= self._max_bytes and len(self._functions) <= self._max_functions:
            return
        for label in list(self._functions):
            stale = self._functions[label]
            if stale is current or (self._bytes <= self._max_bytes and len(self._functions) <= self._max_functions):
                return
            while stale.signatures:
                self._drop_oldest(stale)
            if len(self._functions) > self._max_functions:
                del self._functions[label]

    def _drop_oldest(self, compiles: Compiles) -> None:
        size = compiles.signatures.popleft().bytes
        compiles.numbers.popleft()
        compiles.bytes -= size
        self._bytes -= size
        if not compiles.signatures:
            compiles.last = ((), ())  # it holds the columns of the last signature


def _nearest(compiles: Compiles, signature: Signature, code: int) -> tuple[int | None, int]:
    """Position and distance of the signature that differs least, the latest if there are several."""
    nearest, least = None, MAX_DISTANCE
    # No signature is nearer than this; usually one of the latest is as near, and ends the search.
    bound = FUNCTION_WEIGHT
    for earlier in compiles.signatures:
        if earlier.function == signature.function:
            bound = 0
            break
    for position in range(len(compiles.signatures) - 1, -1, -1):
        earlier = compiles.signatures[position]
        if earlier.code not in (code, 0) or not _is_comparable(earlier, signature):
            continue
        apart = distance(earlier, signature, least)
        if nearest is None or apart < least:
            nearest, least = position, apart
            if least <= bound:
                break
    return nearest, least if nearest is not None else 0


def _is_comparable(old: Signature, new: Signature) -> bool:
    """Whether two signatures can be compared: the same wrapping, and for derived programs the same leaves."""
    if old.variant != new.variant:
        return False
    return new.origin != "derived" or old.paths == new.paths


def _share(new: Signature, old: Signature) -> None:
    """Let a signature share the columns that equal those of an earlier one: nobody sees a difference."""
    for name, one, other in zip(_SHARED, reader(_SHARED)(old), reader(_SHARED)(new), strict=True):
        if one is not other and one == other:
            object.__setattr__(new, name, one)


def _number(compiles: Compiles, signature: Signature) -> int:
    """The hash of a signature; columns that it shares with the last one of the function are not hashed again."""
    values, (last, known) = _PROGRAM(signature), compiles.last
    if last:
        hashes = tuple(
            [number if one is other else hash(one) for one, other, number in zip(values, last, known, strict=True)]
        )
    else:
        hashes = tuple(map(hash, values))
    compiles.last = values, hashes
    return hash(hashes)


def _fell(before: int | None, after: int | None) -> bool:
    """Whether entries were lost: otherwise each compile adds one."""
    return before is not None and after is not None and after <= before


class Causes:
    """Finds the causes of each recompile. Not thread-safe: the diagnosis holds a lock."""

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
            return event.changed(nth=nth, causes=("unknown",) if nth > 1 else ())
        compared = self.history.add(label, signature, event.cache_entries, self._clearings)
        if compared.nth == 1:
            return event.changed(nth=1)
        changes = _changes(compared, signature, is_redacted=self._is_redacted)
        kinds = {change.kind for change in changes}
        causes = tuple(cause for cause in CAUSES if cause in kinds) or ("unknown",)
        return event.changed(
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
