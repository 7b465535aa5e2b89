"""The signatures that each function was compiled for: which one is nearest, and whether one comes again.

Bounded: 32 signatures a function, and a sum of bytes for all of them together; beyond that the
oldest go. Of those that went, a hash stays, so that a program that JAX lost is still recognised.
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
    """How often JAX's caches had been cleared, and how often the function's had lost entries."""

    clearings: int
    losses: int


@dataclass(slots=True)
class Compiles:
    """Compiles of one function so far."""

    signatures: deque[Signature] = field(default_factory=deque)
    #: The hash of each.
    numbers: deque[int] = field(default_factory=deque)
    bytes: int = 0
    #: Compiles of each code object under this name; a notebook cell that is run again starts anew.
    by_code: dict[int, int] = field(default_factory=dict)
    #: What became of the caches until each program was last compiled, by the hash of its signature.
    seen: OrderedDict[int, _Seen] = field(default_factory=OrderedDict)
    cache_entries: int | None = None
    #: How often a compile found fewer entries in the function's caches than the one before left.
    losses: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What the history knows about a compile.

    Attributes:
        nth: Which compile of this code object it is, from 1.
        nearest: The earlier signature that differs least, the latest of several; None without one.
        distance: How much it differs.
        is_repeated: Whether the very same was compiled before.
        has_others: Whether earlier signatures of the function are kept at all, comparable or not.
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
    """By function label. No lock: the diagnosis that owns it has one."""

    def __init__(self) -> None:
        self._functions: OrderedDict[str, Compiles] = OrderedDict()
        self._bytes = 0
        self._latest = _Seen(0, 0)

    def add(self, label: str, signature: Signature, cache_entries: int | None, clearings: int) -> Found:
        """Take in a compile; says what was known before it.

        Args:
            label: Of the function.
            signature: What it was compiled for.
            cache_entries: Entries of its jit caches, this one among them; None when unknown.
            clearings: How often JAX's caches were cleared so far.
        """
        compiles = self._functions.get(label)
        if compiles is None:
            compiles = self._functions[label] = Compiles()
        self._functions.move_to_end(label)
        if signature.code and 0 in compiles.by_code:
            # Derived programs came first, which tell no code object.
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
        found = Found(
            nth=compiles.by_code.get(code, 0) + 1,
            nearest=nearest,
            distance=least,
            is_repeated=number in compiles.seen,
            has_others=bool(compiles.signatures),
            has_fewer_entries=known is not None and compiles.losses > known.losses,
            was_cleared=known is not None and clearings > known.clearings,
        )
        if code in compiles.by_code or len(compiles.by_code) < _MAX_CODES:
            compiles.by_code[code] = found.nth
        compiles.cache_entries = cache_entries
        seen = _Seen(clearings, compiles.losses)
        # Nearly all are equal: one object for all of them.
        self._latest = seen = self._latest if seen == self._latest else seen
        compiles.seen[number] = seen
        compiles.seen.move_to_end(number)
        if len(compiles.seen) > _MAX_HASHES:
            compiles.seen.popitem(last=False)
        self._keep(compiles, signature, number)
        return found

    def count_unknown(self, label: str) -> int:
        """Take in a compile without a signature; says which one it is."""
        compiles = self._functions.setdefault(label, Compiles())
        code = next(reversed(compiles.by_code), 0)
        compiles.by_code[code] = nth = compiles.by_code.get(code, 0) + 1
        self._forget_stale(compiles)
        return nth

    def signatures_of(self, label: str) -> list[Signature]:
        """Those that are kept, oldest first."""
        compiles = self._functions.get(label)
        return list(compiles.signatures) if compiles is not None else []

    @property
    def bytes(self) -> int:
        """About how much memory the signatures take."""
        return self._bytes

    def _keep(self, compiles: Compiles, signature: Signature, number: int) -> None:
        compiles.signatures.append(signature)
        compiles.numbers.append(number)
        size = signature.bytes
        compiles.bytes += size
        self._bytes += size
        while len(compiles.signatures) > MAX_SIGNATURES or (
            compiles.bytes > MAX_BYTES_PER_FUNCTION and len(compiles.signatures) > 1
        ):
            self._drop_oldest(compiles)
        self._forget_stale(compiles)

    def _forget_stale(self, current: Compiles) -> None:
        """Drop what was not compiled for longest, until all of it together is small enough."""
        if self._bytes <= MAX_BYTES and len(self._functions) <= MAX_FUNCTIONS:
            return
        for label in list(self._functions):
            stale = self._functions[label]
            if stale is current or (self._bytes <= MAX_BYTES and len(self._functions) <= MAX_FUNCTIONS):
                return
            while stale.signatures:
                self._drop_oldest(stale)
            if len(self._functions) > MAX_FUNCTIONS:
                del self._functions[label]

    def _drop_oldest(self, compiles: Compiles) -> None:
        size = compiles.signatures.popleft().bytes
        compiles.numbers.popleft()
        compiles.bytes -= size
        self._bytes -= size


def _nearest(compiles: Compiles, signature: Signature, code: int) -> tuple[int | None, int]:
    """Where the signature is that differs least, and how much; the latest of several."""
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
    """Whether the two are the same kind of program: wrapped alike, and for derived ones with as many arguments."""
    if old.variant != new.variant:
        return False
    return new.origin != "derived" or old.paths == new.paths


def _sharing(new: Signature, old: Signature | None) -> Signature:
    """The signature with the columns of the earlier one where they are equal, to keep each only once."""
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
    """Whether entries were lost: a compile that is added makes one more."""
    return before is not None and after is not None and after <= before


#: How a program came about, and what is in it, which follows from the rest.
_BESIDES = ("origin", "constants", "operations", "repeated")
#: All that makes a program; how it came about and what is baked in do not.
_PROGRAM = attrgetter(*(one.name for one in fields(Signature) if one.name not in _BESIDES))


def _number_of(signature: Signature) -> int:
    """The same for two signatures of the same program."""
    return hash(_PROGRAM(signature))
