"""Records the calls of one jitted object that donates: what each call donated, and the calls that failed."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks.donation.call_sites import Variant
from jitwatch.jaxhooks.donation.leaf_reader import Reader, StructureChanged, reader_of
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.values.leaves import (
    NamedLeaves,
    is_flax_module,
    is_of_pmap,
    named_leaves,
    pmap_leaves,
    unpacked_names,
)
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function


class ActiveAgent(Protocol):
    """The installed agent, as watched functions see it."""

    ledger: Ledger

    def donor_of(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Donor:
        """Return the donor of a call of `fun` with these arguments."""

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """Handle an error of a call of a watched function."""

    def program_failed(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: NamedLeaves
    ) -> None:
        """Handle an error of a program that was compiled ahead of time and donates."""


#: Tree structures kept per jitted object.
_MAX_STRUCTURES = 64
#: All instances, to reset them when JAX's caches are cleared.
_instances: WeakIdMap[None] = WeakIdMap()

_active_agent: ActiveAgent | None = None


def set_active_agent(agent: ActiveAgent | None) -> None:
    """Set the agent that all watched functions report to, also those made under earlier agents; None for no agent."""
    global _active_agent
    _active_agent = agent


def caches_cleared() -> None:
    """Handle that the job cleared JAX's caches, or one of them."""
    for calls, _ in _instances.items():
        calls.caches_cleared()


def active_agent() -> ActiveAgent | None:
    """Return the installed agent, if there is one."""
    return _active_agent


def active_ledger() -> Ledger | None:
    """Return the ledger of the installed agent, if there is one."""
    return _active_agent.ledger if _active_agent is not None else None


class Calls:
    """Records what each call of one jitted object donates, and which calls fail.

    Args:
        jitted: JAX's object.
        fun: The function that was jitted.
        static_argnums: Its static arguments.
        positions: Positional arguments that are donated.
        names: Keyword arguments that are donated.
        name_of: Returns the name of a positional argument.
    """

    def __init__(
        self,
        jitted: Any,
        fun: Any,
        *,
        static_argnums: tuple[int, ...],
        positions: tuple[int, ...],
        names: tuple[str, ...],
        name_of: Callable[[int], str],
    ) -> None:
        self.jitted = jitted
        self.donor: Donor | None = None
        self._fun = fun
        self._static_argnums = static_argnums
        self._positions = positions
        self._names = tuple(sorted(names))
        self._single_position = positions[0] if len(positions) == 1 else None
        self._name_of = name_of
        self._variants: dict[Any, Variant] = {}
        self._size = -1
        #: Reads the leaves of the structure of the last inspected call; None if that donated a single array.
        self._reader: Reader | None = None
        self._last_variant: Variant | None = None
        size = getattr(jitted, "_cache_size", None)
        # The function of pmap itself (until 0.9) has a plain number.
        self._cache_size: Callable[[], Any] = size if callable(size) else lambda: getattr(jitted, "_cache_size", 0)
        _instances.set(self, None)

    def failed_after_donating(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType) -> None:
        """Record a call that raised an exception after it had donated its arguments."""
        donor = self.donor
        if donor is not None and donor.ledger.is_open:
            self._inspect_call(donor, self._donated_values(args, kwargs), args, kwargs, frame, has_failed=True)

    def ended(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType) -> None:
        """Record a call that returned; `frame` is its caller. Performance critical."""
        try:
            donor = self.donor
            if donor is None or not donor.ledger.is_open:
                donor = self._current_donor(args)
                if donor is None:
                    return
            position = self._single_position
            if position is not None and not kwargs and position < len(args):
                given = args[position]
            else:
                given = self._donated_values(args, kwargs)
            # Unless JAX has compiled since, most calls have the structure of the last one.
            if self._cache_size() == self._size:
                variant = self._last_variant
                if given.__class__ is donor.kind:
                    if variant is not None and self._reader is None and donor.record_one(given, variant, frame):
                        return
                elif variant is not None and (leaves := self._read_leaves(given)) is not None:
                    donor.record(leaves, variant, frame)
                    return
            self._inspect_call(donor, given, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def failed(
        self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """Handle a call that raised an exception, which propagates unchanged; `frame` is its caller."""
        try:
            agent = _active_agent
            if agent is not None and self._current_donor(args) is not None:
                agent.call_failed(self, error, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return the donated arguments of a call by name, in the order in which `ended` reads them."""
        found = [(self._name_of(i), args[i]) for i in self._positions if i < len(args)]
        return found + [(name, kwargs[name]) for name in self._names if name in kwargs]

    def all_roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return all arguments of a call by name, static ones left out."""
        found = [(self._name_of(i), value) for i, value in enumerate(args) if i not in self._static_argnums]
        return found + list(kwargs.items())

    def _donated_values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return [value for _, value in self.roots(args, kwargs)]

    def _read_leaves(self, given: Any) -> list[Any] | None:
        """Return the leaves of the donated values, or None if they have another structure than the last call's."""
        reader = self._reader
        if reader is None:
            return None
        try:
            return reader(given)
        except StructureChanged:
            return None

    def _inspect_call(
        self,
        donor: Donor,
        given: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: types.FrameType,
        *,
        has_failed: bool = False,
    ) -> None:
        """Record a call that the fast path cannot: its structure differs from the last one's, or JAX has compiled."""
        size = self._cache_size()
        if size != self._size:
            self._size = size
            for variant in self._variants.values():
                variant.reset()
        leaves, structure = donor.ledger.arrays.flatten(given, None)
        known = self._variants.get(structure)
        if known is None:
            known = self._new_variant(donor, structure, args, kwargs, frame)
        self._last_variant, self._reader = known, None
        if given.__class__ is not donor.kind:
            with suppress(StructureChanged):
                self._reader = reader_of(given, donor.ledger.arrays.split)
            if self._reader is None:
                self._last_variant = None
        if has_failed:
            donor.record_each(leaves, known, frame, has_failed=True)
        else:
            donor.record(leaves, known, frame)

    def _new_variant(
        self, donor: Donor, structure: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> Variant:
        """Return the variant of the first call with arguments of this structure."""
        roots = self.roots(args, kwargs)
        named = named_leaves(roots)
        if is_of_pmap(frame.f_code) and len(leaves := pmap_leaves(frame)) == len(args):
            named = [leaves[i] for i in self._positions]
        packed = unpacked_names(self._fun, args, [path for path, _ in named])
        paths, parameters = packed or ([path for path, _ in named], [self._name_of(i) for i in range(len(args))])
        variant = donor.variant((self._positions, self._names), tuple(paths))
        variant.parameters = tuple(parameters)
        variant.in_place = frozenset(name for name, tree in roots if is_flax_module(tree))
        if len(self._variants) >= _MAX_STRUCTURES:
            self._variants.clear()
        self._variants[structure] = variant
        return variant

    def caches_cleared(self) -> None:
        """Inspect the next call: equal cache sizes may now stand for different programs."""
        self._size = -1

    def _current_donor(self, args: tuple[Any, ...]) -> Donor | None:
        """Return the donor in the ledger of the installed agent."""
        agent, donor = _active_agent, self.donor
        if donor is not None and donor.ledger.is_open:
            return donor
        self._variants, self._reader, self._last_variant = {}, None, None
        self.donor = None if agent is None else agent.donor_of(self._fun, args, self._static_argnums)
        return self.donor
