"""Events about donated buffers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jitwatch.model.events.base import Event
from jitwatch.model.function import Function, argument_of
from jitwatch.model.taxonomy import Circumstance, DonationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorMade(Event):
    """A function that donates was jitted or first called; its calls are counted. Not logged."""

    function: Function


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationViolation(Event):
    """A use after donation, a double donation or an unusable donation.

    Attributes:
        violation: Which of them; the field `kind` of the record.
        function: The function that was called; the donor if no jitted function of the user was called.
        call_site: `file:line` of the user's code.
        leaf: Path of the array in the call.
        shape, dtype: Shape and dtype of the array, of the first one if there are several.
        bytes: Bytes of the array, of all if there are several.
        donated_by: The donor of a deleted array; `unknown` if the donating call was not observed.
        donated_at: `file:line` of the donating call.
        donated_leaf: Path of the array in the donating call.
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

    @property
    def summary(self) -> str:
        """What happened, of a double donation."""
        if not self.other_leaf:
            return f"one buffer was passed twice to a call of {self.function.name} that donates it"
        more = "" if not self.more else f"; {self.more} more pair{'s'[: self.more > 1]} of its arguments as well"
        call = f"in one call of {self.function.name}"
        if self.other_is_donated:
            return f"{call} both {self.leaf} and {self.other_leaf} are donated, which share a buffer{more}"
        return f"{call} {self.leaf} is donated and {self.other_leaf} has the same buffer{more}"

    @property
    def advice(self) -> str:
        """What to change. It suggests to assign the result to the argument only under a condition."""
        if self.violation == "double_donation":
            copied = self.other_leaf or "one of them"
            return f"copy {copied} before the call (jnp.copy), or do not donate it"
        if self.donor is None:
            return (
                "which call donated its buffer is not known; use the result of that call, or keep a copy (jnp.copy) "
                "from before it"
            )
        argument = self.argument or "the argument"
        is_plain = argument.isidentifier() and argument != "args"
        copied = f"jnp.copy({argument})" if argument == self.donated_leaf else f"jax.tree.map(jnp.copy, {argument})"
        kept = copied if is_plain else "a copy"
        match self.circumstance:
            case "failed":
                return (
                    f"that call failed after it had donated {argument}, so that its value is lost: keep {kept} "
                    "from before the call, or restore a checkpoint"
                )
            case "pending":
                return (
                    f"the result of that call was not assigned yet (a signal handler or a callback ran first): use it "
                    f"after the assignment, or keep {kept} from before the call"
                )
            case "device_put":
                return (
                    "what was used is another array over the same buffer: jax.device_put made no copy, since the array "
                    "was on that device already; use jnp.copy"
                )
            case "shard":
                return (
                    f"what was used shares its shards with {argument}: copy them to the host (np.asarray) before that "
                    "call, or use jnp.copy"
                )
            case "in_place":
                return f"{argument} is updated in place by that call: read its arrays again, or copy them before"
            case "rebound":
                return (
                    f"that line assigns its result to {argument}, so that what was used is another reference to the "
                    f"old value: use {argument}, or keep {kept} from before the call"
                )
        return (
            f"if the result of that call is the next value of {argument}, assign it to {argument}; "
            f"if not, do not donate {argument}, or keep {kept} from before the call"
        )

    @property
    def note(self) -> str:
        """The note that is added to the user's exception."""
        if self.violation == "double_donation":
            return f"donated and passed again: {self.summary}; {self.advice}"
        if self.donor is None:
            return f"donated before: {self.advice}"
        where = f" at {_basename(self.donated_at)}" if self.donated_at else ""
        argument = self.argument or argument_of(self.donated_leaf or "")
        return f"donated to {self.donor.name}({argument}){where}, leaf {self.donated_leaf}; {self.advice}"


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


def _basename(location: str) -> str:
    return re.split(r"[/\\]", location)[-1]
