"""Call sites of donating functions, and the donated leaves of their calls."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from jitwatch.jaxhooks.calling_code import place_of, rebinding_at, statement_at
from jitwatch.jaxhooks.stack import callers
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Circumstance

#: How often the set of regular leaves is determined anew per compile: calls may really differ.
_MAX_UPDATES = 8
_MAX_SIZES = 64
_MAX_FRAMES = 200


@dataclass(slots=True, eq=False)
class Variant:
    """The donated arguments of one callable, in one tree structure.

    Most leaves are arrays that every call deletes: these are the regular ones. A random key, a Python number or an
    array that the program does not use is irregular and checked one by one.

    Attributes:
        paths: Paths of the leaves.
        is_known: Whether the set of regular leaves is known.
        pick: Selects the regular leaves from all leaves; None if all are regular.
        numbers: Indices of the regular leaves, unless all are regular.
        irregular: Indices of the other leaves.
        bytes: Total size of the regular leaves; None if it differs between calls.
        large: Indices, among the regular leaves, of those that are large; of all if `bytes` is None.
        count: Counts a call that donates so many bytes; None without such a counter.
        last: Code, instruction offset and number of the last call site.
        parameters: Names of the positional arguments of the user's function.
        in_place: Arguments that the call updates in place (a flax module under `nnx.jit`).
    """

    paths: tuple[str, ...]
    is_known: bool = False
    pick: Callable[[list[Any]], Sequence[Any]] | None = None
    numbers: tuple[int, ...] = ()
    irregular: tuple[int, ...] = ()
    bytes: int | None = 0
    large: Sequence[int] = ()
    count: Callable[[], int] | None = None
    last: tuple[types.CodeType | None, int, int] = (None, 0, 0)
    parameters: tuple[str, ...] = ()
    in_place: frozenset[str] = frozenset()
    _updates: int = 0
    #: `bytes` of each set of regular leaves so far.
    _sizes: dict[tuple[int, ...], int | None] = field(default_factory=dict)

    def path(self, leaf: int) -> str:
        """Path of a leaf."""
        return self.paths[leaf] if leaf < len(self.paths) else "unknown"

    def reset(self) -> None:
        """Drop the set of regular leaves: after a compile other leaves may be deleted."""
        self.is_known, self._updates = False, 0

    def invalidate(self) -> None:
        """Determine the regular leaves anew at the next call: this one differed from those before."""
        if self._updates < _MAX_UPDATES:
            self.is_known = False

    def update(self, regular: list[int], count: int, size: int, large: tuple[int, ...]) -> None:
        """Set the regular leaves from a call: the indices of the arrays that it deleted, their bytes, large ones."""
        self.is_known = True
        self._updates += 1
        if len(self._sizes) >= _MAX_SIZES:
            self._sizes.clear()
        known = self._sizes.get(tuple(regular), 0)
        self.bytes = self._sizes[tuple(regular)] = size if known in (0, size) else None
        self.large = large if self.bytes is not None else range(len(regular))
        if len(regular) == count:
            self.pick, self.numbers, self.irregular = None, (), ()
            return
        deleted = set(regular)
        self.numbers, self.irregular = tuple(regular), tuple(i for i in range(count) if i not in deleted)
        # With a single index `itemgetter` would not return a sequence.
        self.pick = itemgetter(*regular) if len(regular) > 1 else itemgetter(slice(regular[0], regular[0] + 1))


@dataclass(frozen=True, slots=True)
class DonationOrigin:
    """The call that donated a deleted array; the event `DonationViolation` describes the fields."""

    function: Function
    call_site: str | None
    leaf: str
    calls_ago: int
    circumstance: Circumstance = ""
    argument: str = ""


@dataclass(frozen=True, slots=True)
class CallSite:
    """An instruction that calls a donating function with one variant of arguments; the call may have failed later."""

    variant: Variant
    code: types.CodeType | None
    instruction: int
    has_failed: bool = False

    @property
    def text(self) -> str | None:
        """`file:line`; computed on demand, since finding a line takes time in a long function."""
        return place_of(self.code, self.instruction) if self.code is not None else None

    def is_pending(self, frame: types.FrameType | None) -> bool:
        """Whether a frame of this stack is still at the call: its result has not been assigned."""
        return any(one.f_code is self.code and one.f_lasti == self.instruction for one in callers(frame, _MAX_FRAMES))

    def argument(self, name: str) -> tuple[str, Circumstance]:
        """Return the source text of a parameter's argument, or its name, and whether the call rebinds it.

        Slow, as it reads source or bytecode: used for violations only.
        """
        statement = statement_at(self.code, self.instruction)
        rebinding = rebinding_at(self.code, self.instruction) if self.code is not None else None
        names = rebinding.names if rebinding is not None else frozenset()
        if statement is None:
            return name, "rebound" if name in names else ""
        text = statement.argument(name, self.variant.parameters)
        is_rebound = bool(text) and (text in statement.targets or (text.isidentifier() and text in names))
        return text or name, "rebound" if is_rebound else ""
