"""The donation ledger: which call donated which array, stored in the deleted arrays themselves.

Each donated array gets one integer, its tag: call site, call and leaf. There are few call sites, and the numbers of
the call and of the leaf are the lower bits of the tag. So nothing grows with the number of calls, no array is kept
alive, and a tag can never belong to another array, as an entry of a table by `id()` could.
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
from jitwatch.jaxhooks.donation.donated_arrays import Aliases, Arrays
from jitwatch.jaxhooks.donation.sites import CallSite, DonationOrigin, Variant
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.model.function import Function, argument_of
from jitwatch.model.taxonomy import OTHER_LABEL, Circumstance

_LEAF_BITS, _CALL_BITS = 16, 26
_MAX_LEAF = (1 << _LEAF_BITS) - 1
_SITE_SHIFT = _LEAF_BITS + _CALL_BITS
_CALLS = 1 << _CALL_BITS
#: The call counter counts in units of the call field of a tag.
_ONE_CALL = 1 << _LEAF_BITS
_CALL_MASK = (_CALLS - 1) << _LEAF_BITS
#: The sizes of the last calls are added up every 4,096 calls.
_SETTLE_MASK = 0xFFF << _LEAF_BITS
#: Past these bounds, new call sites are recorded without `file:line` and new donors under one common label.
_MAX_SITES = 10_000
_MAX_DONORS = 2_000
#: Variants of one donor.
_MAX_VARIANTS = 200
_MAX_FRAMES = 100
#: Numbers of call sites are unique in a process: a deleted array may outlive an agent.
_numbers = itertools.count(1)


class Donor:
    """A function that donates, shared by all jitted objects of that function."""

    def __init__(self, ledger: Ledger, function: Function) -> None:
        self.ledger = ledger
        self.function = function
        self.last_call = 0.0
        self._calls = itertools.count(_ONE_CALL, _ONE_CALL)
        self._sites: dict[tuple[int, int, int, bool], int] = {}
        self._variants: dict[tuple[Any, tuple[str, ...]], Variant] = {}
        self._pending: deque[int] = deque()
        self._bytes = 0
        arrays = ledger.arrays
        self._is_deleted, self._delete, self._tag = arrays.is_deleted, arrays.delete, arrays.tag
        self._marks = arrays.marks
        self._aliases = ledger.aliases
        #: JAX's array class.
        self.kind = arrays.kind

    @property
    def calls(self) -> int:
        """Number of calls so far."""
        # Threads share only the counter itself, and its text is the only way to read it without counting.
        following = repr(self._calls)[len("count(") : -1].partition(",")[0]
        return (int(following) >> _LEAF_BITS) - 1

    @property
    def bytes(self) -> int:
        """Bytes donated so far."""
        self.settle()
        return self._bytes

    def variant(self, options: Any, paths: tuple[str, ...]) -> Variant:
        """Return the variant for a jitted object's donation options and the paths of its donated leaves."""
        variant = self._variants.get((options, paths))
        if variant is None:
            if len(self._variants) >= _MAX_VARIANTS:
                self._variants.clear()
            variant = self._variants[options, paths] = Variant(paths)
        return variant

    def record(self, leaves: list[Any], variant: Variant, frame: types.FrameType) -> None:
        """Record a call that was passed these leaves for donation; `frame` is its caller."""
        # Under a trace a call donates nothing, or JAX's implementation of it reports the donation (`indirect`).
        if not self.record_fast(leaves, variant, frame) and self.ledger.arrays.is_eager():
            self.record_each(leaves, variant, frame)

    def record_fast(self, leaves: list[Any], variant: Variant, frame: types.FrameType) -> bool:
        """Fast path: record the call if all regular leaves were deleted, else do nothing and return False."""
        if not variant.is_known:
            return False
        pick = variant.pick
        regular = leaves if pick is None else pick(leaves)
        if not self._are_deleted(regular):
            return False
        code, instruction, site = variant.last
        if frame.f_code is not code or frame.f_lasti != instruction:
            site = self._site(frame, variant)
        first = self._begin(site)
        # `any` consumes the whole iterator: the mapped functions return None.
        if self._marks:
            any(map(self._delete, regular))
        size = _size_of(regular) if variant.bytes is None else variant.bytes
        if pick is None:
            any(map(self._tag, leaves, itertools.count(first)))
        else:
            any(map(self._tag, regular, map(first.__add__, variant.numbers)))
            size += self._record_irregular(leaves, variant, first)
        if self._aliases:
            self._aliases.donated(regular)
        self._pending.append(size)
        return True

    def _record_irregular(self, leaves: list[Any], variant: Variant, first: int) -> int:
        """Record the leaves that are no arrays or not always deleted; return the bytes that were donated."""
        arrays, size = self.ledger.arrays, 0
        for number in variant.irregular:
            leaf = leaves[number]
            is_plain = leaf.__class__ is self.kind
            if is_plain and not self._is_deleted(leaf):
                continue
            array = leaf if is_plain else arrays.concrete(leaf)
            if array is not None and arrays.is_newly_donated(array):
                arrays.mark(array, first + number)
                size += int(array.nbytes)
                if is_plain:
                    variant.invalidate()
        return size

    def record_one(self, array: Any, variant: Variant, frame: types.FrameType) -> bool:
        """Fast path for a call that donates one array; written out, since small functions are called often."""
        if not variant.is_known or not self._is_deleted(array):
            return False
        code, instruction, site = variant.last
        if frame.f_code is not code or frame.f_lasti != instruction:
            site = self._site(frame, variant)
        call = next(self._calls)
        self.last_call = time()
        if not call & _SETTLE_MASK:
            self.settle()
        if self._marks:
            self._delete(array)
        self._tag(array, site | call & _CALL_MASK)
        if self._aliases:
            self._aliases.donated((array,))
        self._pending.append(array.nbytes if variant.bytes is None else variant.bytes)
        return True

    def record_each(
        self, leaves: list[Any], variant: Variant, frame: types.FrameType, *, has_failed: bool = False
    ) -> None:
        """Slow path: record leaf by leaf, and determine the regular leaves of the variant."""
        arrays = self.ledger.arrays
        first = self._begin(self._site(frame, variant, has_failed=has_failed))
        donated = []
        regular, regular_size, size = [], 0, 0
        for number, leaf in enumerate(leaves):
            array = arrays.concrete(leaf)
            # One that is tagged, or deleted by the user, was deleted before; the program does not use it.
            if array is None or not arrays.is_newly_donated(array):
                continue
            arrays.mark(array, first + min(number, _MAX_LEAF))
            donated.append(array)
            size += int(array.nbytes)
            if array is leaf:
                regular.append(number)
                regular_size += int(array.nbytes)
        # A call that donated nothing is not evidence: it may have run with `jax.disable_jit()`.
        if regular and len(leaves) <= _MAX_LEAF:
            variant.update(regular, len(leaves), regular_size)
        if self._aliases:
            self._aliases.donated(donated)
        self._pending.append(size)

    def settle(self) -> None:
        """Add the sizes of the last calls to the total."""
        pending = self._pending
        while pending:
            try:
                self._bytes += pending.popleft()
            except IndexError:
                return  # another thread has emptied the queue

    def _are_deleted(self, leaves: Sequence[Any]) -> bool:
        try:
            return all(map(self._is_deleted, leaves))
        except TypeError:
            return False  # a leaf is no array this time: a tracer, a NumPy array, another container

    def _begin(self, site: int) -> int:
        """Count a call; return the tag of its first leaf."""
        call = next(self._calls)
        self.last_call = time()
        if not call & _SETTLE_MASK:
            self.settle()
        return site | call & _CALL_MASK

    def _site(self, frame: types.FrameType, variant: Variant, *, has_failed: bool = False) -> int:
        """Return the tag bits of the user's call site, or of the nearest library's if no user frame calls."""
        known, library = self._sites, 0
        outer: types.FrameType | None = frame
        for _ in range(_MAX_FRAMES):
            if outer is None:
                break
            code, instruction = outer.f_code, outer.f_lasti
            rank = is_users(code.co_filename, self.ledger.jax_folders)
            if rank or (rank is None and not library):
                key = (id(code), instruction, id(variant), has_failed)
                number = known.get(key) or self.ledger.register(self, CallSite(variant, code, instruction, has_failed))
                if number:
                    known[key] = number
                if rank:
                    number = number or self._unknown_site(variant)
                    if outer is frame and not has_failed:
                        variant.last = (code, instruction, number)
                    return number
                library = number
            outer = outer.f_back
        return library or self._unknown_site(variant)

    def _unknown_site(self, variant: Variant) -> int:
        key = (0, 0, id(variant), False)
        number = self._sites.get(key)
        if number is None:
            number = self._sites[key] = self.ledger.register(self, CallSite(variant, None, 0), is_forced=True)
        return number


def _size_of(leaves: Sequence[Any]) -> int:
    return sum(leaf.nbytes for leaf in leaves)


class Ledger:
    """The call sites and donors of one agent; past `max_sites`, new call sites have no `file:line`."""

    def __init__(self, arrays: Arrays, jax_folders: tuple[str, ...], *, max_sites: int = _MAX_SITES) -> None:
        self.arrays = arrays
        self.jax_folders = jax_folders
        self.aliases = Aliases(arrays)
        self.is_open = True
        self._max_sites = max_sites
        self._donors: dict[str, Donor] = {}
        self._sites: dict[int, tuple[Donor, CallSite]] = {}
        #: Source text and circumstance of arguments that violations were reported for.
        self._arguments: dict[tuple[int, str], tuple[str, Circumstance]] = {}

    def donor(self, function: Function) -> Donor:
        """Return the donor of this function, created at first use."""
        donor = self._donors.get(function.label)
        if donor is None:
            if len(self._donors) >= _MAX_DONORS:
                function = Function(OTHER_LABEL, OTHER_LABEL)
            donor = self._donors.setdefault(function.label, Donor(self, function))
        return donor

    def donors(self) -> list[Donor]:
        """Return all donors."""
        return list(self._donors.values())

    def origin(self, tag: int | None, array: Any = None) -> DonationOrigin | None:
        """Return the call that donated the array with this tag, or None if this agent did not record it.

        The array itself may share its buffer with the one that was passed to the call.
        """
        if tag is None:
            return None
        number = tag >> _SITE_SHIFT
        found = self._sites.get(number)
        if found is None:
            return None
        donor, site = found
        call, leaf = (tag >> _LEAF_BITS) % _CALLS, tag & _MAX_LEAF
        calls_ago = (donor.calls - call) % _CALLS + 1
        path = site.variant.path(leaf)
        root = argument_of(path)
        argument, circumstance = self._argument(number, site, root)
        sharing = self.aliases.sharing_of(array) if array is not None else None
        if site.has_failed:
            circumstance = "failed"
        elif sharing == "device_put":
            circumstance = "device_put"
        elif sharing in ("shard", "made_of_shards"):
            circumstance = "shard"
        elif root in site.variant.in_place:
            circumstance = "in_place"
        elif calls_ago == 1 and site.is_pending(sys._getframe(1)):
            circumstance = "pending"
        return DonationOrigin(donor.function, site.text, path, calls_ago, circumstance, argument)

    def _argument(self, number: int, site: CallSite, root: str) -> tuple[str, Circumstance]:
        """Source text and circumstance of an argument; read at a violation, once per call site and argument."""
        key = (number, root)
        if key not in self._arguments:
            self._arguments[key] = (root, "")
            with guard.guarded("donation"):
                self._arguments[key] = site.argument(root)
        return self._arguments[key]

    def register(self, donor: Donor, site: CallSite, *, is_forced: bool = False) -> int:
        """Number a new call site; return the number in the upper bits of a tag, or 0 if there are too many."""
        if len(self._sites) >= self._max_sites and not is_forced:
            return 0
        number = next(_numbers)
        self._sites[number] = donor, site
        return number << _SITE_SHIFT

    def close(self) -> None:
        """Stop recording and drop every reference to the job's objects."""
        self.is_open = False
        self._sites.clear()
        self._arguments.clear()
        self.aliases.forget()
        self._donors.clear()
