"""Pitfalls of donation: use after donation, double donation, unusable donation, missed donation."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from jitwatch.diagnosis.diff import array_text
from jitwatch.diagnosis.pitfalls.rule import Pitfall, Rule
from jitwatch.model.events import DonationMissed, DonationViolation, Event
from jitwatch.model.function import argument_of
from jitwatch.model.taxonomy import DonationKind
from jitwatch.render import donations, formats


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


class _ViolationRule(Rule):
    """Base: recognises donation violations of one kind."""

    kind: ClassVar[DonationKind]
    events = (DonationViolation,)

    def check(self, event: Event) -> Pitfall | None:
        return self.pitfall(event) if isinstance(event, DonationViolation) and event.violation == self.kind else None

    @abstractmethod
    def pitfall(self, event: DonationViolation) -> Pitfall:
        """The pitfall that a violation shows."""


class UseAfterDonate(_ViolationRule):
    """An array is used after its buffer was donated: `new = update(old, x)`, and then `old` is used."""

    name = "use_after_donate"
    kind = "use_after_donate"

    def pitfall(self, event: DonationViolation) -> Pitfall:
        what = f"{event.donated_leaf or event.leaf or 'an array'} ({array_text(event.dtype, event.shape)})"
        subject, call = event.leaf, "a call"
        if event.donor is not None:
            where = f" at {formats.file_line(event.donated_at)}" if event.donated_at else ""
            subject = event.donated_leaf or ""
            call = f"{event.donor.name}({event.argument or argument_of(subject)}){where}"
        return Pitfall(
            subject, f"{what} was used after {call} had donated its buffer", _sentence(donations.advice(event))
        )


class DoubleDonation(_ViolationRule):
    """The same buffer is passed twice to a call that donates it."""

    name = "double_donation"
    kind = "double_donation"

    def pitfall(self, event: DonationViolation) -> Pitfall:
        return Pitfall(event.leaf, donations.summary(event), _sentence(donations.advice(event)))


class UnusableDonation(_ViolationRule):
    """An argument is donated, but no result can reuse its buffer."""

    name = "unusable_donation"
    kind = "unusable"

    def pitfall(self, event: DonationViolation) -> Pitfall:
        return Pitfall(
            event.leaf,
            f"{event.leaf} is donated, but no result has its shape and dtype ({array_text(event.dtype, event.shape)}), "
            f"so its {formats.size(event.bytes)} are not reused",
            "Match the shape, dtype and sharding of a result, or do not donate it",
        )


class MissedDonation(Rule):
    """A large argument is dropped by the caller after the call, and could be donated for a result."""

    name = "missed_donation"
    events = (DonationMissed,)

    def check(self, event: Event) -> Pitfall | None:
        if not isinstance(event, DonationMissed):
            return None
        argument = argument_of(event.leaf)
        return Pitfall(
            argument,
            f"a result has the shapes and dtypes of {argument}, and the caller drops the old {argument}: "
            f"each call needs {formats.size(event.bytes)} more memory than necessary",
            f"Donate it: jax.jit(…, donate_argnames={argument!r})",
        )
