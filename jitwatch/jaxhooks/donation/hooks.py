"""Puts the donation hooks in and takes them out: the one thing of this package that the session knows."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation import calls as watched_calls
from jitwatch.jaxhooks.donation import guards
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.calls import Calls
from jitwatch.jaxhooks.donation.donors import watched_jit, watched_pmap
from jitwatch.jaxhooks.donation.facts import DonationSink
from jitwatch.jaxhooks.donation.indirect import CompiledCall, IndirectDonations
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.misuse import Misuses
from jitwatch.jaxhooks.donation.opportunities import Opportunities
from jitwatch.jaxhooks.donation.raising import Raising
from jitwatch.jaxhooks.donation.unusable import UnusableDonations
from jitwatch.jaxhooks.donation.watched import Watched
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.instrument import name_place, target_of
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.values.leaves import Named
from jitwatch.model.function import Function


class DonationHooks:
    """Everything about donation that is in JAX while an agent is installed.

    Args:
        identities: Names the functions.
        sink: Told of donors and misuse.
        marks: Whether dead arrays may be marked (option `mark_donated`).
        by_source: The function that JAX's text for where it comes from stands for, if known.
        lowering: The function whose program this thread lowers now, if known.
        paths_of: The user's names for the leaves of a program (JAX's closed jaxpr), none where they are not known.
        on_failed: Told of every error of a watched call; it may say that memory ran out.

    Raises:
        UnsupportedJaxError: JAX's array class is not as expected.
    """

    def __init__(
        self,
        identities: Identities,
        sink: DonationSink,
        *,
        marks: bool,
        by_source: Callable[[Any], Function | None],
        lowering: Callable[[], Function | None],
        paths_of: Callable[[Any], tuple[str, ...]],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._on_failed = on_failed
        self._identities = identities
        self._sink = sink
        self._arrays = Arrays(marks=marks)
        self.ledger = Ledger(self._arrays, identities.jax_folders)
        self._misuses = Misuses(self.ledger, identities, sink)
        self.opportunities = Opportunities(self._arrays, by_source, identities.jax_folders)
        self._indirect = IndirectDonations(self.ledger, by_source, paths_of, self.opportunities)
        self._raising = Raising(self._misuses, self.ledger, sink)
        self._unusable = UnusableDonations(sink, lowering=lowering, by_source=by_source)

    def install(self, patcher: Patcher) -> None:
        """Notice misuse from now on; who watches the making of functions calls `created`."""
        self._arrays.install(patcher)
        makes_jitted = target_of(compat.CREATE.get()).__code__
        for call in (Watched.__call__, CompiledCall.__call__, CompiledCall.first_call):
            name_place(call, makes_jitted)
        if self._arrays.marks:
            guards.install(self._arrays.kind)
            patcher.on_restore("the guards of dead arrays", self._remove_guards)
        self._misuses.install(patcher)
        self.ledger.aliases.install(patcher)
        self._indirect.install(patcher)
        self._unusable.install(patcher)
        self._raising.install(patcher)
        watched_calls.set_desk(self)
        patcher.on_restore("the donation ledger", self._close)

    def created(self, jitted: Any, fun: Any, options: Any, function: Function | None) -> Any:
        """What to hand out for an object that JAX has made; the options are a `PjitInfo`, or a dict for pmap's own."""
        if function is not None and function.is_internal:
            return jitted
        watch = watched_pmap if isinstance(options, dict) else watched_jit
        handed_out = watch(jitted, fun, options, self.ledger.jax_folders)
        if handed_out is not jitted and function is not None:
            self._sink.donor_made(function)
        return handed_out

    # The desk of watched functions

    def donor_of(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Donor:
        """Who donates when `fun` is called with these arguments."""
        function = self._identities.of(fun) or self._identities.of_call(fun, args, static_argnums)
        self._sink.donor_made(function)
        return self.ledger.donor(function)

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call of a watched function ended in an error."""
        self._on_failed(error)
        if not self._misuses.call_failed(calls, error, args, kwargs, frame):
            # It donated its arguments before it failed, in a callback for example.
            calls.took_and_failed(args, kwargs, frame)

    def program_failed(self, function: Function, error: BaseException, named: Named, donated: Named) -> None:
        """A program that was compiled ahead of time and donates ended in an error."""
        self._on_failed(error)
        self._misuses.program_failed(function, error, named, donated)

    def _remove_guards(self) -> None:
        # A marked array may live on, and without a guard JAX ends the process when it is asked the wrong thing.
        if not self._arrays.has_marked:
            guards.remove(self._arrays.kind)

    def _close(self) -> None:
        self.ledger.close()
        self.opportunities.forget()
        watched_calls.set_desk(None)
