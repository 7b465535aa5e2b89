"""Events about donated buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jitwatch.model.events.base import Event
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Circumstance, DonationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorMade(Event):
    """A function that donates was jitted or first called; its calls are counted. Not logged."""

    function: Function


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationViolation(Event):
    """A use after donation, a double donation or an unusable donation.

    Attributes:
        violation: Kind of the violation; the field `kind` of the record.
        function: The function that was called; the donor if no jitted function of the user was called.
        call_site: `file:line` of the user's code.
        leaf: Path of the leaf in the call.
        shape, dtype: Shape and dtype of the array, of the first one if there are several.
        bytes: Bytes of the array, of all if there are several.
        donated_by: Label of the donor; `unknown` if the donating call was not observed.
        donated_at: `file:line` of the donating call.
        donated_leaf: Path of the leaf in the donating call.
        calls_ago: 1 if the donating call was the donor's last call, 2 for the one before.
        other_leaf: Of a double donation: path of the other argument with the same buffer.
        donor: The donor with its bare name. Not logged, like the following attributes.
        circumstance: What is known of the donating call.
        argument: Source text of the argument in the donating call, or its parameter's name.
        other_is_donated: Whether the call donates `other_leaf` as well.
        more: Number of further pairs of arguments of the call that share a buffer.
    """

    kind: ClassVar[str] = "donation.violation"
    is_urgent: ClassVar[bool] = True
    hidden: ClassVar[frozenset[str]] = frozenset({"donor", "circumstance", "argument", "other_is_donated", "more"})
    optional: ClassVar[frozenset[str]] = frozenset(
        {"donated_by", "donated_at", "donated_leaf", "calls_ago", "other_leaf"}
    )

    renamed: ClassVar[Mapping[str, str]] = {"violation": "kind"}
    required: ClassVar[tuple[str, ...]] = ("kind", "function")

    violation: DonationKind
    function: Function
    call_site: str | None = None
    leaf: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    donated_by: str | None = None
    donated_at: str | None = None
    donated_leaf: str | None = None
    calls_ago: int | None = None
    other_leaf: str | None = None
    donor: Function | None = None
    circumstance: Circumstance = ""
    argument: str = ""
    other_is_donated: bool = False
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationMissed(Event):
    """A donation opportunity: the caller drops a large argument after the call. Not logged; its pitfall is.

    Attributes:
        call_site: `file:line` of the call.
        leaf: Path of the largest such argument.
        bytes: Bytes that a call would save by donating.
    """

    function: Function
    call_site: str | None
    leaf: str
    bytes: int
