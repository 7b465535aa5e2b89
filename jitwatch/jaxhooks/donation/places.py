"""What a number in a dead array stands for: a line that calls a donating function, and the arguments of the call."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitwatch.events import Function

if TYPE_CHECKING:
    from jitwatch.jaxhooks.donation.ledger import Donor


@dataclass(slots=True, eq=False)
class Variant:
    """The arguments of one donating callable, told apart by their number of leaves.

    Attributes:
        paths: Ways to name the leaves; more than one when two structures have as many.
        is_whole: Whether each leaf dies in a call, or None while that is to be found out.
        bytes: Size of a call; None when calls of different size have as many leaves.
        last: Code, instruction and number of the place that called last.
    """

    paths: list[tuple[str, ...]]
    is_whole: bool | None = None
    bytes: int | None = 0
    last: tuple[types.CodeType | None, int, int] = (None, 0, 0)

    def path(self, leaf: int) -> str:
        """Name of a leaf; where two structures differ, what both agree on."""
        names = {paths[leaf] for paths in self.paths if leaf < len(paths)}
        if len(names) == 1:
            return names.pop()
        heads = {re.split(r"[.\[]", name, maxsplit=1)[0] for name in names}
        return f"{heads.pop()}[…]" if len(heads) == 1 else "unknown"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead array went.

    Attributes:
        function: Who took it.
        place: `file:line` of the user's call, or None.
        leaf: Path of the leaf in that call.
        calls_ago: 1 for the last call of the function, 2 for the one before.
    """

    function: Function
    place: str | None
    leaf: str
    calls_ago: int


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
