"""The calls of one jitted object that donates: what they took, and what became of those that failed."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.places import Variant
from jitwatch.jaxhooks.donation.reading import Changed, Reader, reader_of
from jitwatch.jaxhooks.values.leaves import (
    Named,
    is_flax_module,
    is_of_pmap,
    named_leaves_of,
    pmap_leaves,
    users_names,
)
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function


class Desk(Protocol):
    """The agent that is installed, as watched functions see it."""

    ledger: Ledger

    def donor_of(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Donor:
        """Who donates when `fun` is called with these arguments."""

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call of a watched function ended in an error."""

    def program_failed(self, function: Function, error: BaseException, named: Named, donated: Named) -> None:
        """A program that was compiled ahead of time and donates ended in an error."""


#: Structures of arguments that are told apart for one jitted object.
_MAX_STRUCTURES = 64
#: All that there are, for those who have news for them.
_all: WeakIdMap[None] = WeakIdMap()

_desk: Desk | None = None


def set_desk(desk: Desk | None) -> None:
    """Say whom watched functions report to, those of earlier agents too; None for nobody."""
    global _desk
    _desk = desk


def caches_cleared() -> None:
    """The job has emptied JAX's caches, or one of them."""
    for calls, _ in _all.items():
        calls.caches_cleared()


def current_desk() -> Desk | None:
    """The agent that is installed, if one is."""
    return _desk


def current_ledger() -> Ledger | None:
    """The books of the agent that is installed, if one is."""
    return _desk.ledger if _desk is not None else None


class Calls:
    """The calls of one jitted object.

    Args:
        jitted: JAX's object.
        fun: The function in it.
        static_argnums: Its static arguments.
        positions: Positional arguments that are donated.
        names: Keyword arguments that are donated.
        name_of: Name of the positional argument of this number.
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
        self._only = positions[0] if len(positions) == 1 else None
        self._name_of = name_of
        self._variants: dict[Any, Variant] = {}
        self._size = -1
        #: How to read the structure of the last call that was looked at closely, and what it is; None for one array.
        self._reader: Reader | None = None
        self._like_last: Variant | None = None
        size = getattr(jitted, "_cache_size", None)
        # pmap's own function (until 0.9) has a plain number.
        self._cache_size: Callable[[], Any] = size if callable(size) else lambda: getattr(jitted, "_cache_size", 0)
        _all.set(self, None)

    def took_and_failed(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType) -> None:
        """A call ended in an exception after it had donated its arguments."""
        donor = self.donor
        if donor is not None and donor.ledger.is_open:
            self._look_closely(donor, self._given(args, kwargs), args, kwargs, frame, has_failed=True)

    def ended(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType) -> None:
        """A call returned; the frame is that of the caller."""
        try:
            donor = self.donor
            if donor is None or not donor.ledger.is_open:
                donor = self._rejoin(args)
                if donor is None:
                    return
            only = self._only
            given = args[only] if only is not None and not kwargs and only < len(args) else self._given(args, kwargs)
            # If JAX has compiled nothing since, most calls are like the last.
            if self._cache_size() == self._size:
                variant = self._like_last
                if given.__class__ is donor.kind:
                    if variant is not None and self._reader is None and donor.record_one(given, variant, frame):
                        return
                elif variant is not None and (leaves := self._read(given)) is not None:
                    donor.record(leaves, variant, frame)
                    return
            self._look_closely(donor, given, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def failed(
        self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call ended in an exception, which goes on to the user."""
        try:
            desk = _desk
            if desk is not None and self._rejoin(args) is not None:
                desk.call_failed(self, error, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """The donated arguments of a call by name, in the order of `ended`."""
        found = [(self._name_of(i), args[i]) for i in self._positions if i < len(args)]
        return found + [(name, kwargs[name]) for name in self._names if name in kwargs]

    def all_roots(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """The arguments of a call by name, but for static ones."""
        found = [(self._name_of(i), value) for i, value in enumerate(args) if i not in self._static_argnums]
        return found + list(kwargs.items())

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return [value for _, value in self.roots(args, kwargs)]

    def _read(self, given: Any) -> list[Any] | None:
        """The leaves of what is donated, if it has the structure of the last call that was looked at closely."""
        reader = self._reader
        if reader is None:
            return None
        try:
            return reader(given)
        except Changed:
            return None

    def _look_closely(
        self,
        donor: Donor,
        given: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: types.FrameType,
        *,
        has_failed: bool = False,
    ) -> None:
        """A call that is not like the last: another structure, or JAX has compiled something since."""
        size = self._cache_size()
        if size != self._size:
            self._size = size
            for variant in self._variants.values():
                variant.forget()
        leaves, structure = donor.ledger.arrays.flatten(given, None)
        known = self._variants.get(structure)
        if known is None:
            known = self._learn(donor, structure, args, kwargs, frame)
        self._like_last, self._reader = known, None
        if given.__class__ is not donor.kind:
            with suppress(Changed):
                self._reader = reader_of(given, donor.ledger.arrays.split)
            if self._reader is None:
                self._like_last = None
        if has_failed:
            donor.record_each(leaves, known, frame, has_failed=True)
        else:
            donor.record(leaves, known, frame)

    def _learn(
        self, donor: Donor, structure: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> Variant:
        """The first call with arguments of this structure."""
        roots = self.roots(args, kwargs)
        named = named_leaves_of(roots)
        if is_of_pmap(frame.f_code) and len(leaves := pmap_leaves(frame)) == len(args):
            named = [leaves[i] for i in self._positions]
        packed = users_names(self._fun, args, [path for path, _ in named])
        paths, parameters = packed or ([path for path, _ in named], [self._name_of(i) for i in range(len(args))])
        variant = donor.variant((self._positions, self._names), tuple(paths))
        variant.parameters = tuple(parameters)
        variant.in_place = frozenset(name for name, tree in roots if is_flax_module(tree))
        if len(self._variants) >= _MAX_STRUCTURES:
            self._variants.clear()
        self._variants[structure] = variant
        return variant

    def caches_cleared(self) -> None:
        """JAX has forgotten programs: as many as before may soon be others."""
        self._size = -1

    def _rejoin(self, args: tuple[Any, ...]) -> Donor | None:
        """The donor in the books of the agent that is installed now."""
        desk, donor = _desk, self.donor
        if donor is not None and donor.ledger.is_open:
            return donor
        self._variants, self._reader, self._like_last = {}, None, None
        self.donor = None if desk is None else desk.donor_of(self._fun, args, self._static_argnums)
        return self.donor
