"""What the donation hooks tell, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jitwatch.jaxhooks.donation.places import Origin
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import UNKNOWN_LABEL, DonationKind

#: Stands for a function of which nothing is known.
UNKNOWN = Function(UNKNOWN_LABEL, UNKNOWN_LABEL)


@dataclass(frozen=True, slots=True)
class Misuse:
    """One donation that went wrong.

    Attributes:
        kind: What it is.
        function: Whose call it was; where no jitted function of the user was called, who took the array.
        leaf: Path of the array in that call.
        shape, dtype, bytes: The array; for several, the first and the size of all.
        origin: Where a deleted array went, if that is known.
        other_leaf: Of a double donation: the other argument with the same buffer.
        other_is_donated: Whether the call donates that one as well.
        more: How many more pairs of that call share a buffer.
    """

    kind: DonationKind
    function: Function
    leaf: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    origin: Origin | None = None
    other_leaf: str = ""
    other_is_donated: bool = False
    more: int = 0


class DonationSink(Protocol):
    """The donation probe, as the hooks see it; called in the thread where it happens, outside of any lock."""

    def donor_made(self, function: Function) -> None:
        """A function that donates was made or called for the first time."""

    def misused(self, misuse: Misuse) -> str:
        """A donation went wrong; the answer is a note for the user's error."""
