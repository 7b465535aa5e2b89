"""Puts the donation hooks in and takes them out: the one thing of this package that the session knows."""

from __future__ import annotations

import operator
import types
from typing import Any

from jitwatch.events import Function
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation import watched
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.donors import watched as watch
from jitwatch.jaxhooks.donation.facts import DonationSink
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.misuse import Misuses
from jitwatch.jaxhooks.donation.watched import Calls
from jitwatch.jaxhooks.identity import Identities
from jitwatch.jaxhooks.patcher import Patcher


class DonationHooks:
    """Everything about donation that is in JAX while an agent is installed.

    Args:
        identities: Names the functions.
        sink: Told of donors and misuse.
        marks: Whether dead arrays may be marked (option `mark_donated`).

    Raises:
        UnsupportedJaxError: JAX's array class is not as expected.
    """

    def __init__(self, identities: Identities, sink: DonationSink, *, marks: bool) -> None:
        self._identities = identities
        self._sink = sink
        arrays = Arrays(marks=marks)
        self.ledger = Ledger(arrays, operator.attrgetter("aval"), identities.jax_folders)
        self._misuses = Misuses(self.ledger, identities, sink)

    def install(self, patcher: Patcher) -> None:
        """Notice misuse from now on; who watches the making of functions calls `created`."""
        if compat.CHECK_DELETED.missing() is None:
            self._misuses.install(patcher)
        watched.set_desk(self)
        patcher.on_restore("the donation ledger", self._close)

    def created(self, jitted: Any, fun: Any, jit_info: Any, function: Function | None) -> Any:
        """What to hand out for an object that JAX has made."""
        if function is not None and function.is_internal:
            return jitted
        handed_out = watch(jitted, fun, jit_info, self.ledger.jax_folders)
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

    def _close(self) -> None:
        self.ledger.close()
        watched.set_desk(None)
