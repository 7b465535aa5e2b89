"""The calls of one jitted object that donates: what they took, and what became of those that failed."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.paths import is_of_pmap, named_leaves_of, pmap_leaves
from jitwatch.jaxhooks.donation.places import Variant
from jitwatch.jaxhooks.donation.reading import Changed, Reader, reader_of


class Desk(Protocol):
    """The agent that is installed, as watched functions see it."""

    ledger: Ledger

    def donor_of(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Donor:
        """Who donates when `fun` is called with these arguments."""

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call of a watched function ended in an error."""


#: Leaves from which on a reader is faster than flattening.
_WORTH_READING = 4

_desk: Desk | None = None


def set_desk(desk: Desk | None) -> None:
    """Say whom watched functions report to, those of earlier agents too; None for nobody."""
    global _desk
    _desk = desk


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
        self._variants: dict[int, Variant] = {}
        self._size = -1
        self._reader: Reader | None = None
        size = getattr(jitted, "_cache_size", None)
        # pmap's own function (until 0.9) has a plain number.
        self._cache_size: Callable[[], Any] = size if callable(size) else lambda: getattr(jitted, "_cache_size", 0)

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
                if given.__class__ is donor.kind:
                    variant = self._variants.get(1)
                    if variant is not None and donor.record_one(given, variant, frame):
                        return
                elif (leaves := self._read(given)) is not None:
                    variant = self._variants.get(len(leaves))
                    if variant is not None and donor.record_whole(leaves, variant, frame):
                        return
            self._look_closely(donor, donor.ledger.arrays.flatten(given, None)[0], args, kwargs, frame)
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
        leaves: list[Any] = []
        try:
            reader(given, leaves)
        except Changed:
            return None
        return leaves

    def _look_closely(
        self,
        donor: Donor,
        leaves: list[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: types.FrameType,
    ) -> None:
        """A call that is not like the last."""
        variant = self._variants.get(len(leaves))
        if variant is None or self._cache_size() != self._size:
            variant = self._learn(donor, args, kwargs, len(leaves), frame)
        donor.record(leaves, variant, frame)

    def _learn(
        self, donor: Donor, args: tuple[Any, ...], kwargs: dict[str, Any], count: int, frame: types.FrameType
    ) -> Variant:
        """The first call with so many leaves, or the first since JAX compiled something: look again."""
        self._size = self._cache_size()
        roots = self.roots(args, kwargs)
        named = named_leaves_of(roots)
        if is_of_pmap(frame.f_code) and len(leaves := pmap_leaves(frame)) == len(args):
            named = [leaves[i] for i in self._positions]
        paths = tuple(path for path, _ in named)
        variant = donor.variant((self._positions, self._names), count, paths)
        if variant.is_whole:
            variant.is_whole = None
        self._variants[count] = variant
        self._reader = None
        if count >= _WORTH_READING:
            values = [value for _, value in roots]
            with suppress(Changed):
                self._reader = reader_of(
                    values[0] if self._is_only(args, kwargs) else values, donor.ledger.arrays.split
                )
        return variant

    def _is_only(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the one donated argument stands for all, as in most calls."""
        return self._only is not None and not kwargs and self._only < len(args)

    def _rejoin(self, args: tuple[Any, ...]) -> Donor | None:
        """The donor in the books of the agent that is installed now."""
        desk, donor = _desk, self.donor
        if donor is not None and donor.ledger.is_open:
            return donor
        self._variants, self._reader = {}, None
        self.donor = None if desk is None else desk.donor_of(self._fun, args, self._static_argnums)
        return self.donor
