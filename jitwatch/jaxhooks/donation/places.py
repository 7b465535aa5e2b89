"""What a number in a dead array stands for: a line that calls a donating function, and the arguments of the call."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from jitwatch.jaxhooks.donation.rebinding import rebound_names
from jitwatch.jaxhooks.donation.statements import statement_at
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Circumstance

if TYPE_CHECKING:
    from jitwatch.jaxhooks.donation.ledger import Donor


#: How often it is found out anew which leaves die, for each compile: calls may really differ.
_MAX_LESSONS = 8
_MAX_SIZES = 64
_MAX_FRAMES = 200


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
        parameters: Names of the positional arguments of the user's function.
        in_place: Arguments that the call updates in place (a flax module under `nnx.jit`).
    """

    paths: tuple[str, ...]
    is_known: bool = False
    pick: Callable[[list[Any]], Sequence[Any]] | None = None
    numbers: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()
    bytes: int | None = 0
    last: tuple[types.CodeType | None, int, int] = (None, 0, 0)
    parameters: tuple[str, ...] = ()
    in_place: frozenset[str] = frozenset()
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
    """Where a deleted array went.

    Attributes:
        function: The donor.
        place: `file:line` of the user's call, or None.
        leaf: Path of the leaf in that call.
        calls_ago: 1 for the last call of the function, 2 for the one before.
        circumstance: What is known of the call or of the array, for the advice.
        argument: Source text of the argument in that call, or its parameter's name.
    """

    function: Function
    place: str | None
    leaf: str
    calls_ago: int
    circumstance: Circumstance = ""
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A line that calls a donating function with arguments of one kind.

    Attributes:
        has_failed: The call ended in an exception after it had donated.
    """

    donor: Donor
    variant: Variant
    code: types.CodeType | None
    instruction: int
    has_failed: bool = False

    @property
    def text(self) -> str | None:
        """`file:line`; found only now, since looking up a line takes a while in a long function."""
        if self.code is None:
            return None
        line = next((line for start, end, line in self.code.co_lines() if start <= self.instruction < end), None)
        return f"{self.code.co_filename}:{line or self.code.co_firstlineno}"

    def is_pending(self, frame: types.FrameType | None) -> bool:
        """Whether a frame of this stack is still at the call: its result has not been assigned."""
        for _ in range(_MAX_FRAMES):
            if frame is None:
                return False
            if frame.f_code is self.code and frame.f_lasti == self.instruction:
                return True
            frame = frame.f_back
        return False

    def argument(self, name: str) -> tuple[str, Circumstance]:
        """Source text of an argument, or its parameter's name; and whether the result was assigned to it.

        Read from the file, or from the bytecode where there is none, which takes a while: only when something
        went wrong.
        """
        statement = statement_at(self.code, self.instruction)
        if statement is None:
            names = rebound_names(self.code, self.instruction) if self.code is not None else frozenset()
            return name, "rebound" if name in names else ""
        text = statement.argument(name, self.variant.parameters, len(self.variant.parameters))
        names = rebound_names(self.code, self.instruction) if self.code is not None else frozenset()
        is_rebound = bool(text) and (text in statement.targets or (text.isidentifier() and text in names))
        return text or name, "rebound" if is_rebound else ""
