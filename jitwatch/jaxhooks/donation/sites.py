"""Call sites of donating functions, and the donated leaves of their calls."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from jitwatch.jaxhooks.calling_code import place_of, rebinding_at, statement_at
from jitwatch.jaxhooks.stack import callers
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Circumstance

#: How often the set of regular leaves is determined anew per compile: calls may really differ.
_MAX_UPDATES = 8
_MAX_SIZES = 64
_MAX_FRAMES = 200


class Regular(NamedTuple):
    """The leaves that every call deletes, and the others; replaced as a whole, since other threads call as well.

    Attributes:
        pick: Selects the regular leaves from all leaves; None if all are regular.
        numbers: Indices of the regular leaves; None if all are regular.
        irregular: Indices of the other leaves.
        bytes: Total size of the regular leaves; None if it differs between calls.
        large: Indices, among the regular leaves, of those that are large; of all if `bytes` is None.
        count_call: Counts a call that donates so many bytes; None without such a counter.
    """

    pick: Callable[[list[Any]], Sequence[Any]] | None
    numbers: tuple[int, ...] | None
    irregular: tuple[int, ...]
    bytes: int | None
    large: Sequence[int]
    count_call: Callable[[], int] | None


@dataclass(slots=True, eq=False)
class Variant:
    """The donated arguments of one callable, in one tree structure.

    Most leaves are arrays that every call deletes: these are the regular ones. A random key, a Python number or an
    array that the program does not use is irregular and checked one by one.

    Attributes:
        paths: Paths of the leaves.
        regular: The regular leaves; None until they are known.
        may_vary: Whether programs exist that were compiled before the calls were observed, perhaps of other sizes.
        last: Code, instruction offset and number of the last call site.
        parameters: Names of the positional arguments of the user's function.
        in_place: Arguments that the call updates in place (a flax module under `nnx.jit`).
    """

    paths: tuple[str, ...]
    regular: Regular | None = None
    may_vary: bool = False
    last: tuple[types.CodeType | None, int, int] = (None, 0, 0)
    parameters: tuple[str, ...] = ()
    in_place: frozenset[str] = frozenset()
    _updates: int = 0
    #: Bytes of each set of regular leaves so far; None if they differ.
    _sizes: dict[tuple[int, ...], int | None] = field(default_factory=dict)

    def path(self, leaf: int) -> str:
        """Path of a leaf."""
        return self.paths[leaf] if leaf < len(self.paths) else "unknown"

    def reset(self) -> None:
        """Drop the set of regular leaves: after a compile other leaves may be deleted."""
        self.regular, self._updates = None, 0

    def invalidate(self) -> None:
        """Determine the regular leaves anew at the next call: this one differed from those before."""
        if self._updates < _MAX_UPDATES:
            self.regular = None

    def update(
        self,
        regular: list[int],
        count: int,
        size: int,
        large: tuple[int, ...],
        counter_of: Callable[[int | None], Callable[[], int] | None],
    ) -> None:
        """Set the regular leaves from a call.

        Args:
            regular: Indices of the arrays that it deleted.
            count: Number of all leaves.
            size: Bytes of these arrays.
            large: Indices, among these arrays, of the large ones.
            counter_of: Returns what counts a call that donates so many bytes.
        """
        self._updates += 1
        if len(self._sizes) >= _MAX_SIZES:
            self._sizes.clear()
        known = self._sizes.get(tuple(regular), 0)
        total = self._sizes[tuple(regular)] = None if self.may_vary or known not in (0, size) else size
        pick, numbers = None, None
        irregular: tuple[int, ...] = ()
        if len(regular) != count:
            deleted = set(regular)
            numbers, irregular = tuple(regular), tuple(i for i in range(count) if i not in deleted)
            # With a single index `itemgetter` would not return a sequence.
            pick = itemgetter(*regular) if len(regular) > 1 else itemgetter(slice(regular[0], regular[0] + 1))
        large_ones = large if total is not None else range(len(regular))
        self.regular = Regular(pick, numbers, irregular, total, large_ones, counter_of(total))


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
