"""Who took which buffer, from where, in which call. Kept nowhere but in the dead arrays themselves.

Each donated array gets one number, its tag: place, call and leaf. A place is a line of the job that calls a
donating function, and there are few of them; the number of the call and of the leaf are the tag's lower
bits. So nothing grows with the calls, nothing is kept alive, and what a dead array says is never
another's, as it could be in a table by `id()`.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections import deque
from collections.abc import Sequence
from time import time
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.donation.aliases import Aliases
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.places import Origin, Place, Variant
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.model.function import Function, argument_of
from jitwatch.model.taxonomy import OTHER_LABEL, Circumstance

_LEAF_BITS, _CALL_BITS = 16, 26
_MAX_LEAF = (1 << _LEAF_BITS) - 1
_PLACE_SHIFT = _LEAF_BITS + _CALL_BITS
_CALLS = 1 << _CALL_BITS
#: Numbers of calls are counted where they stand in a tag.
_ONE_CALL = 1 << _LEAF_BITS
_CALL_MASK = (_CALLS - 1) << _LEAF_BITS
#: The sizes of so many calls wait for being added up.
_SETTLE_MASK = 0xFFF << _LEAF_BITS
#: Lines that are told apart, and donating functions; what comes later has no line, or no name.
_MAX_PLACES = 10_000
_MAX_DONORS = 2_000
#: Structures of the arguments of one donor.
_MAX_VARIANTS = 200
_MAX_FRAMES = 100
#: Numbers of places are never used twice in a process: a dead array may outlive an agent.
_numbers = itertools.count(1)


class Donor:
    """A function that donates; shared by all jitted objects that are made of it."""

    def __init__(self, ledger: Ledger, function: Function) -> None:
        self.ledger = ledger
        self.function = function
        self.last_call = 0.0
        self._calls = itertools.count(_ONE_CALL, _ONE_CALL)
        self._places: dict[tuple[int, int, int, bool], int] = {}
        self._variants: dict[tuple[Any, tuple[str, ...]], Variant] = {}
        self._pending: deque[int] = deque()
        self._bytes = 0
        arrays = ledger.arrays
        self._is_deleted, self._delete, self._tag = arrays.is_deleted, arrays.delete, arrays.tag
        self._marks = arrays.marks
        self._aliases = ledger.aliases
        #: The class of arrays.
        self.kind = arrays.kind

    @property
    def calls(self) -> int:
        """Calls so far."""
        # The counter itself is the only place that several threads agree on; its text is the way to look at it.
        following = repr(self._calls)[len("count(") : -1].partition(",")[0]
        return (int(following) >> _LEAF_BITS) - 1

    @property
    def bytes(self) -> int:
        """Bytes donated so far."""
        self.settle()
        return self._bytes

    def variant(self, options: Any, paths: tuple[str, ...]) -> Variant:
        """The donated arguments of a jitted object of this function, by its options for donation and their leaves."""
        variant = self._variants.get((options, paths))
        if variant is None:
            if len(self._variants) >= _MAX_VARIANTS:
                self._variants.clear()
            variant = self._variants[options, paths] = Variant(paths)
        return variant

    def record(self, leaves: list[Any], variant: Variant, frame: types.FrameType) -> None:
        """A call took these leaves; the frame is that of the caller."""
        # Inside of a trace a call takes nothing, or JAX's implementation of it tells (`indirect`).
        if not self.record_like_before(leaves, variant, frame) and self.ledger.arrays.is_eager():
            self.record_each(leaves, variant, frame)

    def record_like_before(self, leaves: list[Any], variant: Variant, frame: types.FrameType) -> bool:
        """The same if each regular leaf is an array that died; else it does nothing. This is on the path of a call."""
        if not variant.is_known:
            return False
        pick = variant.pick
        regular = leaves if pick is None else pick(leaves)
        if not self._are_dead(regular):
            return False
        code, instruction, place = variant.last
        if frame.f_code is not code or frame.f_lasti != instruction:
            place = self._place(frame, variant)
        first = self._begin(place)
        # `any` runs through all of them: what is called returns None.
        if self._marks:
            any(map(self._delete, regular))
        size = _size_of(regular) if variant.bytes is None else variant.bytes
        if pick is None:
            any(map(self._tag, leaves, itertools.count(first)))
        else:
            any(map(self._tag, regular, map(first.__add__, variant.numbers)))
            size += self._record_odd(leaves, variant, first)
        if self._aliases:
            self._aliases.donated(regular)
        self._pending.append(size)
        return True

    def _record_odd(self, leaves: list[Any], variant: Variant, first: int) -> int:
        """The leaves that are not arrays, or do not always die; returns the bytes of those that did."""
        arrays, size = self.ledger.arrays, 0
        for number in variant.odd:
            leaf = leaves[number]
            is_plain = leaf.__class__ is self.kind
            if is_plain and not self._is_deleted(leaf):
                continue
            array = leaf if is_plain else arrays.concrete(leaf)
            if array is not None and arrays.is_just_taken(array):
                arrays.mark(array, first + number)
                size += int(array.nbytes)
                if is_plain:
                    variant.doubt()
        return size

    def record_one(self, array: Any, variant: Variant, frame: types.FrameType) -> bool:
        """The same for a call that takes one array; a tiny function is called often, so all stands here at length."""
        if not variant.is_known or not self._is_deleted(array):
            return False
        code, instruction, place = variant.last
        if frame.f_code is not code or frame.f_lasti != instruction:
            place = self._place(frame, variant)
        call = next(self._calls)
        self.last_call = time()
        if not call & _SETTLE_MASK:
            self.settle()
        if self._marks:
            self._delete(array)
        self._tag(array, place | call & _CALL_MASK)
        if self._aliases:
            self._aliases.donated((array,))
        self._pending.append(array.nbytes if variant.bytes is None else variant.bytes)
        return True

    def record_each(
        self, leaves: list[Any], variant: Variant, frame: types.FrameType, *, has_failed: bool = False
    ) -> None:
        """The same, leaf by leaf: where nobody knows yet which are regular, or the call was not like those before."""
        arrays = self.ledger.arrays
        first = self._begin(self._place(frame, variant, has_failed=has_failed))
        donated = []
        regular, regular_size, size = [], 0, 0
        for number, leaf in enumerate(leaves):
            array = arrays.concrete(leaf)
            # A tagged or deleted one was dead before, and the function does not use it.
            if array is None or not arrays.is_just_taken(array):
                continue
            arrays.mark(array, first + min(number, _MAX_LEAF))
            donated.append(array)
            size += int(array.nbytes)
            if array is leaf:
                regular.append(number)
                regular_size += int(array.nbytes)
        # A call that took nothing says nothing: it may have run with `jax.disable_jit()`.
        if regular and len(leaves) <= _MAX_LEAF:
            variant.learn(regular, len(leaves), regular_size)
        if self._aliases:
            self._aliases.donated(donated)
        self._pending.append(size)

    def settle(self) -> None:
        """Add up the sizes of the calls so far."""
        pending = self._pending
        while pending:
            try:
                self._bytes += pending.popleft()
            except IndexError:
                return  # another thread was faster

    def _are_dead(self, leaves: Sequence[Any]) -> bool:
        try:
            return all(map(self._is_deleted, leaves))
        except TypeError:
            return False  # this time a leaf is no array: a tracer, numpy, another container

    def _begin(self, place: int) -> int:
        """Count a call; returns the tag of its first leaf."""
        call = next(self._calls)
        self.last_call = time()
        if not call & _SETTLE_MASK:
            self.settle()
        return place | call & _CALL_MASK

    def _place(self, frame: types.FrameType, variant: Variant, *, has_failed: bool = False) -> int:
        """The number of the user's line that calls, in the upper bits; the nearest library's where there is none."""
        known, library = self._places, 0
        outer: types.FrameType | None = frame
        for _ in range(_MAX_FRAMES):
            if outer is None:
                break
            code, instruction = outer.f_code, outer.f_lasti
            rank = is_users(code.co_filename, self.ledger.jax_folders)
            if rank or (rank is None and not library):
                key = (id(code), instruction, id(variant), has_failed)
                number = known.get(key) or self.ledger.number(Place(self, variant, code, instruction, has_failed))
                if number:
                    known[key] = number
                if rank:
                    number = number or self._nowhere(variant)
                    if outer is frame and not has_failed:
                        variant.last = (code, instruction, number)
                    return number
                library = number
            outer = outer.f_back
        return library or self._nowhere(variant)

    def _nowhere(self, variant: Variant) -> int:
        key = (0, 0, id(variant), False)
        number = self._places.get(key)
        if number is None:
            number = self._places[key] = self.ledger.number(Place(self, variant, None, 0), is_forced=True)
        return number


def _size_of(leaves: Sequence[Any]) -> int:
    return sum(leaf.nbytes for leaf in leaves)


class Ledger:
    """The places and donors of one agent.

    Args:
        arrays: JAX's array class.
        jax_folders: Where JAX lives.
    """

    def __init__(self, arrays: Arrays, jax_folders: tuple[str, ...]) -> None:
        self.arrays = arrays
        self.jax_folders = jax_folders
        self.aliases = Aliases(arrays)
        self.is_open = True
        self._donors: dict[str, Donor] = {}
        self._places: dict[int, Place] = {}
        #: What the source says of the arguments, at the places where something went wrong.
        self._read: dict[tuple[int, str], tuple[str, Circumstance]] = {}

    def donor(self, function: Function) -> Donor:
        """The donor of this name, made when it is new."""
        donor = self._donors.get(function.label)
        if donor is None:
            if len(self._donors) >= _MAX_DONORS:
                function = Function(OTHER_LABEL, OTHER_LABEL)
            donor = self._donors.setdefault(function.label, Donor(self, function))
        return donor

    def donors(self) -> list[Donor]:
        """All donors so far."""
        return list(self._donors.values())

    def origin(self, tag: int | None, array: Any = None) -> Origin | None:
        """What the tag of a deleted array says; None when it is none of this agent's.

        Args:
            tag: The number.
            array: The array, which may share its buffer with the one that was passed to the call.
        """
        if tag is None:
            return None
        number = tag >> _PLACE_SHIFT
        place = self._places.get(number)
        if place is None:
            return None
        call, leaf = (tag >> _LEAF_BITS) % _CALLS, tag & _MAX_LEAF
        ago = (place.donor.calls - call) % _CALLS + 1
        path = place.variant.path(leaf)
        root = argument_of(path)
        argument, circumstance = self._read_at(number, place, root)
        how = self.aliases.how(array) if array is not None else None
        if place.has_failed:
            circumstance = "failed"
        elif how == "device_put":
            circumstance = "device_put"
        elif how in ("shard", "made_of_shards"):
            circumstance = "shard"
        elif root in place.variant.in_place:
            circumstance = "in_place"
        elif ago == 1 and place.is_pending(sys._getframe(1)):
            circumstance = "pending"
        return Origin(place.donor.function, place.text, path, ago, circumstance, argument)

    def _read_at(self, number: int, place: Place, root: str) -> tuple[str, Circumstance]:
        """Asked only when something went wrong, once for each place and argument."""
        key = (number, root)
        if key not in self._read:
            self._read[key] = (root, "")
            with guard.guarded("donation"):
                self._read[key] = place.argument(root)
        return self._read[key]

    def number(self, place: Place, *, is_forced: bool = False) -> int:
        """A number for a new place, in a tag's upper bits; 0 when there are too many."""
        if len(self._places) >= _MAX_PLACES and not is_forced:
            return 0
        number = next(_numbers)
        self._places[number] = place
        return number << _PLACE_SHIFT

    def close(self) -> None:
        """The agent goes: nothing is recorded any more, and nothing of the job's is referenced."""
        self.is_open = False
        self._places.clear()
        self._read.clear()
        self.aliases.forget()
        self._donors.clear()
