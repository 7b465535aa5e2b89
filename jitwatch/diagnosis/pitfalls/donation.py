"""Mistakes with donation: an array used after it was given away, given twice, given in vain, or not given."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.diagnosis.structures import array_text
from jitwatch.model.events import DonationMissed, DonationViolation, Event
from jitwatch.model.function import argument_of
from jitwatch.model.taxonomy import DonationKind
from jitwatch.render import words


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Violation(Rule):
    """A rule that speaks of one kind of violation."""

    kind: ClassVar[DonationKind]

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, DonationViolation) or event.violation != self.kind:
            return None
        return self.found(event)

    @abstractmethod
    def found(self, event: DonationViolation) -> Finding:
        """What the violation shows."""


class UseAfterDonate(_Violation):
    """`new = update(old, x)` with `donate_argnums=0`, and then `old` is used."""

    name: ClassVar[str] = "use_after_donate"
    kind = "use_after_donate"

    def found(self, event: DonationViolation) -> Finding:
        what = f"{event.donated_leaf or event.leaf or 'an array'} ({array_text(event.dtype, event.shape)})"
        if event.donor is None:
            return Finding(event.leaf, f"{what} was used after a call had donated its buffer", _sentence(event.advice))
        argument = event.argument or argument_of(event.donated_leaf or "")
        where = f" at {words.place(event.donated_at)}" if event.donated_at else ""
        return Finding(
            event.donated_leaf or "",
            f"{what} was used after {event.donor.name}({argument}){where} had donated its buffer",
            _sentence(event.advice),
        )


class DoubleDonation(_Violation):
    """The same buffer passed twice to a call that donates it."""

    name: ClassVar[str] = "double_donation"
    kind = "double_donation"

    def found(self, event: DonationViolation) -> Finding:
        return Finding(event.leaf, event.summary, _sentence(event.advice))


class UnusableDonation(_Violation):
    """A donated argument that no result can take the place of."""

    name: ClassVar[str] = "unusable_donation"
    kind = "unusable"

    def found(self, event: DonationViolation) -> Finding:
        return Finding(
            event.leaf,
            f"{event.leaf} is donated, but no result has its shape and dtype ({array_text(event.dtype, event.shape)}), "
            f"so {words.size(event.bytes)} stay in use",
            "Match shape, dtype and sharding of a result, or do not donate it",
        )


class MissedDonation(Rule):
    """A large state goes in, the same comes out, nothing is donated and the caller drops the old one."""

    name: ClassVar[str] = "missed_donation"

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, DonationMissed):
            return None
        argument = argument_of(event.leaf)
        return Finding(
            argument,
            f"{argument} goes in and comes out again, and the caller drops the old one: "
            f"a call needs {words.size(event.bytes)} more than it must",
            f"Donate it: jax.jit(…, donate_argnames={argument!r})",
        )


DONATION_RULES: tuple[type[Rule], ...] = (UseAfterDonate, DoubleDonation, UnusableDonation, MissedDonation)
