"""What a number in a dead array stands for: a line that calls a donating function, and the arguments of the call."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from jitwatch.events import Function
from jitwatch.jaxhooks.donation.rebinding import rebound_names

if TYPE_CHECKING:
    from jitwatch.jaxhooks.donation.ledger import Donor


#: How often it is found out anew which leaves die, for each compile: calls may really differ.
_MAX_LESSONS = 8
_MAX_SIZES = 64


@dataclass(slots=True, eq=False)
class Variant:
    """The donated arguments of one callable, in one structure.

    Most leaves are arrays that die in each call: those are the regular ones. A random key, a Python number, an
    array that the program does not use are odd, and looked at one by one.

    Attributes:
        paths: Names of the leaves.
        is_known: Whether it was found out which leaves are regular.
        pick: Takes the regular ones out of all leaves; None where all are.
        numbers: The numbers of the regular ones, where not all are.
        odd: The numbers of the others.
        bytes: Size of the regular ones; None when it differs from call to call.
        last: Code, instruction and number of the place that called last.
    """

    paths: tuple[str, ...]
    is_known: bool = False
    pick: Callable[[list[Any]], Sequence[Any]] | None = None
    numbers: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()
    bytes: int | None = 0
    last: tuple[types.CodeType | None, int, int] = (None, 0, 0)
    _lessons: int = 0
    #: `bytes` of each set of regular leaves so far.
    _sizes: dict[tuple[int, ...], int | None] = field(default_factory=dict)

    def path(self, leaf: int) -> str:
        """Name of a leaf."""
        return self.paths[leaf] if leaf < len(self.paths) else "unknown"

    def forget(self) -> None:
        """JAX has compiled something: other leaves may die from now on."""
        self.is_known, self._lessons = False, 0

    def doubt(self) -> None:
        """A call was not like those before: the next one tells anew."""
        if self._lessons < _MAX_LESSONS:
            self.is_known = False

    def learn(self, regular: list[int], count: int, size: int) -> None:
        """What a call took: the numbers of its regular leaves, of how many, and their bytes."""
        self.is_known = True
        self._lessons += 1
        if len(self._sizes) >= _MAX_SIZES:
            self._sizes.clear()
        known = self._sizes.get(tuple(regular), 0)
        self.bytes = self._sizes[tuple(regular)] = size if known in (0, size) else None
        if len(regular) == count:
            self.pick, self.numbers, self.odd = None, (), ()
            return
        taken = set(regular)
        self.numbers, self.odd = tuple(regular), tuple(i for i in range(count) if i not in taken)
        # Of one number alone it would not give a sequence.
        self.pick = itemgetter(*regular) if len(regular) > 1 else itemgetter(slice(regular[0], regular[0] + 1))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead array went.

    Attributes:
        function: Who took it.
        place: `file:line` of the user's call, or None.
        leaf: Path of the leaf in that call.
        calls_ago: 1 for the last call of the function, 2 for the one before.
        is_rebound: Whether that call gave its result the name of what it took, as far as the name is the parameter's.
    """

    function: Function
    place: str | None
    leaf: str
    calls_ago: int
    is_rebound: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A line that calls a donating function with arguments of one kind."""

    donor: Donor
    variant: Variant
    code: types.CodeType | None
    instruction: int

    @property
    def text(self) -> str | None:
        """`file:line`; found only now, since looking up a line takes a while in a long function."""
        if self.code is None:
            return None
        line = next((line for start, end, line in self.code.co_lines() if start <= self.instruction < end), None)
        return f"{self.code.co_filename}:{line or self.code.co_firstlineno}"

    @property
    def rebound(self) -> frozenset[str]:
        """The names of arguments that the line gives to the result; read from its bytecode, which takes a while."""
        return rebound_names(self.code, self.instruction) if self.code is not None else frozenset()
