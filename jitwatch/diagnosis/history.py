"""The history of signatures by function: finds the nearest earlier signature, and recognises repeated ones.

Bounded: 32 signatures a function, and a maximum size for a function and for all; past these the oldest are dropped. Of
dropped signatures a hash is kept, so that a program that JAX lost is still recognised.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

from jitwatch.diagnosis.diff import distance
from jitwatch.model.signature import Signature

MAX_SIGNATURES = 32
MAX_BYTES_PER_FUNCTION = 2 << 20
MAX_BYTES = 64 << 20
MAX_FUNCTIONS = 10_000
_MAX_HASHES = 4_096
_MAX_CODES = 1_000


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
    cache_entries: int | None = None
    #: How often the function's caches had fewer entries before a compile than after the previous one.
    losses: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A compile, compared with the earlier ones of its function.

    Attributes:
        nth: Number of the compile among those of its code object, from 1.
        nearest: The earlier signature that differs least, the latest if there are several; None without one.
        distance: The distance to `nearest`; see `diff.distance`.
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
    """The compiles of all functions by label. Not thread-safe: the diagnosis holds a lock.

    Args:
        max_bytes_per_function, max_bytes: Maximum size of the signatures of one function, and of all.
        max_functions: Maximum number of functions.
    """

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
        signature = _sharing(signature, compiles.signatures[-1] if compiles.signatures else None)
        position, least = _nearest(compiles, signature, code)
        nearest = compiles.signatures[position] if position is not None else None
        number = _number_of(signature)
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

    def signatures_of(self, label: str) -> list[Signature]:
        """The signatures of a function, oldest first."""
        compiles = self._functions.get(label)
        return list(compiles.signatures) if compiles is not None else []

    @property
    def bytes(self) -> int:
        """Estimated memory of all signatures."""
        return self._bytes

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


def _nearest(compiles: Compiles, signature: Signature, code: int) -> tuple[int | None, int]:
    """Position and distance of the signature that differs least, the latest if there are several."""
    nearest, least = None, 0
    for position in range(len(compiles.signatures) - 1, -1, -1):
        earlier = compiles.signatures[position]
        if earlier.code not in (code, 0) or not _is_comparable(earlier, signature):
            continue
        apart = distance(earlier, signature)
        if nearest is None or apart < least:
            nearest, least = position, apart
            if least == 0:
                break
    return nearest, least


def _is_comparable(old: Signature, new: Signature) -> bool:
    """Whether two signatures can be compared: the same wrapping, and for derived programs the same leaves."""
    if old.variant != new.variant:
        return False
    return new.origin != "derived" or old.paths == new.paths


def _sharing(new: Signature, old: Signature | None) -> Signature:
    """The signature, with columns that equal those of the earlier one shared with it."""
    if old is None:
        return new
    columns = (
        "paths",
        "shapes",
        "dtypes",
        "weak_types",
        "placements",
        "tree",
        "keywords",
        "statics",
        "passed",
        "captured",
        "context",
    )
    shared = {name: getattr(old, name) for name in columns if getattr(old, name) == getattr(new, name)}
    return replace(new, **shared) if shared else new


def _fell(before: int | None, after: int | None) -> bool:
    """Whether entries were lost: otherwise each compile adds one."""
    return before is not None and after is not None and after <= before


#: Fields that do not identify a program: its trigger, and its contents, which follow from the other fields.
_IGNORED = ("origin", "constants", "operations", "repeated")
_PROGRAM = attrgetter(*(one.name for one in fields(Signature) if one.name not in _IGNORED))


def _number_of(signature: Signature) -> int:
    """A hash that is equal for two signatures of the same program."""
    return hash(_PROGRAM(signature))
