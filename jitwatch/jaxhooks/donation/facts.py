"""What the donation hooks tell, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jitwatch.events import UNKNOWN_LABEL, DonationKind, Function
from jitwatch.jaxhooks.donation.ledger import Origin

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
        origin: Where a dead array went, if that is known.
    """

    kind: DonationKind
    function: Function
    leaf: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    origin: Origin | None = None


class DonationSink(Protocol):
    """The donation probe, as the hooks see it; called in the thread where it happens, outside of any lock."""

    def donor_made(self, function: Function) -> None:
        """A function that donates was made or called for the first time."""

    def misused(self, misuse: Misuse) -> str:
        """A donation went wrong; the answer is a note for the user's error."""
