"""Installs and removes the donation hooks: the interface of this package to the session."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.donated_arrays import Arrays
from jitwatch.jaxhooks.donation.indirect import CompiledCall, IndirectDonations
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.opportunities import LARGE, Opportunities
from jitwatch.jaxhooks.donation.violations import DonationSink, UnusableDonations, ViolationDetector
from jitwatch.jaxhooks.donation.watched import Calls, Watched, set_active_agent, watched_jit, watched_pmap
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.instrument import adopt_location, target_of
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import Args, Kwargs
from jitwatch.jaxhooks.values.paths import NamedLeaves
from jitwatch.model.function import Function


class DonationHooks:
    """The donation hooks of one agent.

    Args:
        wrappers: The registry of jitted functions.
        sink: Receives donors and violations.
        marks: Whether donated arrays may be marked (option `mark_donated`).
        lowering: Returns the function whose program this thread is lowering, if known.
        paths_of: Returns the user's names for the leaves of a program (JAX's closed jaxpr), or nothing if unknown.
        large: Bytes that a donation must save per call to be an opportunity.
        on_failed: Receives every error of a watched call; it may say that memory ran out.

    Raises:
        UnsupportedJaxError: JAX's array class is not as expected.
    """

    def __init__(
        self,
        wrappers: Wrappers,
        sink: DonationSink,
        *,
        marks: bool,
        large: int = LARGE,
        lowering: Callable[[], Function | None],
        paths_of: Callable[[Any], tuple[str, ...]],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._on_failed = on_failed
        self._identities = wrappers.identities
        self._sink = sink
        self._arrays = Arrays(marks=marks)
        self.ledger = Ledger(self._arrays, self._identities.jax_folders)
        self._violations = ViolationDetector(self.ledger, self._identities, sink)
        self.opportunities = Opportunities(self._arrays, wrappers, large=large)
        self._indirect = IndirectDonations(self.ledger, wrappers, paths_of, self.opportunities)
        self._unusable = UnusableDonations(sink, wrappers, lowering)

    def install(self, patcher: Patcher) -> None:
        """Install the hooks; whoever instruments the creation of jitted functions calls `created`."""
        self._arrays.install(patcher)
        makes_jitted = target_of(compat.CREATE.get()).__code__
        for call in (Watched.__call__, CompiledCall.__call__, CompiledCall.first_call):
            adopt_location(call, makes_jitted)
        self._violations.install(patcher)
        self.ledger.aliases.install(patcher)
        self._indirect.install(patcher)
        self._unusable.install(patcher)
        set_active_agent(self)
        patcher.on_restore("the donation ledger", self._close)

    def created(self, jitted: Any, fun: Any, options: Any, function: Function | None) -> Any:
        """Return what `jax.jit` returns for JAX's object; `options` is a `PjitInfo`, or a dict for pmap's."""
        if function is not None and function.is_internal:
            return jitted
        watch = watched_pmap if isinstance(options, dict) else watched_jit
        returned = watch(jitted, fun, options, self.ledger.jax_folders)
        if returned is not jitted and function is not None:
            self._sink.donor_made(function)
        return returned

    # The active agent of watched functions

    def donor_of(self, fun: Any, args: Args, static_argnums: tuple[int, ...]) -> Donor:
        """Return the donor of a call of `fun` with these arguments."""
        function = self._identities.of(fun) or self._identities.of_call(fun, args, static_argnums)
        self._sink.donor_made(function)
        return self.ledger.donor(function)

    def call_failed(self, calls: Calls, error: BaseException, args: Args, kwargs: Kwargs, frame: FrameType) -> None:
        """Handle an error of a call of a watched function."""
        self._on_failed(error)
        if not self._violations.call_failed(calls, error, args, kwargs, frame):
            # It donated before it failed, for example in a callback.
            calls.failed_after_donating(args, kwargs, frame)

    def program_failed(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: NamedLeaves
    ) -> None:
        """Handle an error of a program that was compiled ahead of time and donates."""
        self._on_failed(error)
        self._violations.program_failed(function, error, named, donated)

    def _close(self) -> None:
        self.ledger.close()
        self.opportunities.forget()
        set_active_agent(None)
