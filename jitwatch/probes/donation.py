"""Donation: calls and bytes of functions that donate, and donation violations with the call that donated the array.

Hooked: the creation of jitted functions (`jaxhooks.identity.wrappers`), whose calls are watched if they donate
(`jaxhooks.donation`), and the functions of JAX that raise for a deleted array. Cost: nothing for functions that do not
donate; `docs/performance.md` has the cost of a call of one that does.

Not seen: calls of functions that were jitted before the agent was installed, so that the donor of their arrays is
`unknown`; on Python 3.11 also errors for such arrays in a cached call of a function that is not watched (JAX ≤ 0.10),
and `memoryview` of a deleted array.

    jitwatch_donation_violations_total{function="train.train_step",kind="use_after_donate"} 1.0
    jitwatch_donated_bytes_total{function="train.train_step"} 4.1e+09
    jitwatch_calls_total{function="train.train_step"} 1200.0
"""

from __future__ import annotations

from dataclasses import replace

from jitwatch.jaxhooks.donation.donation_hooks import DonationHooks
from jitwatch.jaxhooks.donation.opportunities import LARGE
from jitwatch.model.events import DonationViolation, DonorMade
from jitwatch.model.function import Function
from jitwatch.probes.probe import Probe, ProbeContext
from jitwatch.render import donations


class DonationProbe(Probe):
    """Converts signals of the donation hooks to events, and the ledger of donors to counters.

    Args:
        context: What the agent provides.
        large: Bytes that a donation must save per call to be reported as missed.
    """

    name = "donation"

    def __init__(self, context: ProbeContext, large: int = LARGE) -> None:
        super().__init__(context)
        self._large = large
        self._hooks: DonationHooks | None = None

    def start(self) -> None:
        self._hooks = self.context.session.watch_donations(self, marks=self.context.marks_donated, large=self._large)

    def refresh(self) -> None:
        if self._hooks is not None:
            self.sample()
            donors = self._hooks.ledger.donors()
            self.context.store.set_calls({one.function.label: (one.calls, one.last_call, one.bytes) for one in donors})

    def sample(self) -> None:
        """Report functions that could donate but do not, also for a job that is not scraped; keep no donated array."""
        if self._hooks is None:
            return
        self._hooks.ledger.sample()
        for one in self._hooks.opportunities.take():
            self.context.emit(one)

    def before_fork(self) -> None:
        if self._hooks is not None:
            self._hooks.ledger.release()

    # As a `DonationSink`

    def donor_made(self, function: Function) -> None:
        self.context.emit(DonorMade(function=function))

    def violation_found(self, event: DonationViolation) -> str:
        self.context.emit(replace(event, call_site=self.context.session.call_site()[0]))
        return donations.note(event)
