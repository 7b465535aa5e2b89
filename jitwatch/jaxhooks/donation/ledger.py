"""The donation ledger: which call donated which array, stored in the deleted arrays themselves.

A donated array that is used later needs one integer, its tag: call site, call and leaf. There are few call sites, and
the numbers of the call and of the leaf are the lower bits of the tag. So nothing grows with the number of calls, and a
tag can never belong to another array, as an entry of a table by `id()` could.

Nearly all donated arrays are freed before the next call, and never need a tag. So a donor keeps the arrays that its
latest call donated. At its next call, those that only the donor refers to (by `sys.getrefcount`) are freed, and the
others are tagged. A violation and each sample of the agent do the same immediately. The arrays are deleted, so they
hold no memory of a device. No array is kept for longer than one more call of its donor, or one sample. What is kept is
of the latest call, so the number of that call need not be kept: it is the number of all calls so far. If another
thread calls or samples meanwhile, it may be the number of another recent call.
A call with an array of at least 1 MiB that has a copy on the host, which would be kept as well, gets its tags at once.
"""

from __future__ import annotations

import itertools
import operator
import sys
import types
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from sys import getrefcount
from time import time
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.donation.donated_arrays import Aliases, Arrays
from jitwatch.jaxhooks.donation.sites import CallSite, DonationOrigin, Regular, Variant
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.stack import Args, Kwargs
from jitwatch.model.function import Function, argument_of
from jitwatch.model.taxonomy import OTHER_LABEL, Circumstance

_LEAF_BITS, _CALL_BITS = 16, 26
_MAX_LEAF = (1 << _LEAF_BITS) - 1
_SITE_SHIFT = _LEAF_BITS + _CALL_BITS
_CALLS = 1 << _CALL_BITS
#: The sizes of so many calls are added up.
_MOST_SIZES = 4_096
#: Past these bounds, new call sites are recorded without `file:line` and new donors under one common label.
_MAX_SITES = 10_000
_MAX_DONORS = 2_000
#: Variants of one donor, and numbers of bytes that its calls donate.
_MAX_VARIANTS = 200
_MAX_SIZES = 1_000
_MAX_FRAMES = 100
#: A leaf of at least so many bytes is checked for a copy on the host.
_LARGE = 1 << 20
#: Numbers of call sites are unique in a process: a deleted array may outlive an agent.
_numbers = itertools.count(1)

#: Donated arrays of one call, or the array of a call that donates one; the call site's part of their tags; the numbers
#: of the leaves unless they are consecutive.
Pending = tuple[Any, int, tuple[int, ...] | None]


def _references() -> tuple[int, int]:
    """Return what `getrefcount` counts for an object in a sequence, and for the single object of a `Pending`."""
    pending: Pending = (object(), 0, None)
    return max(map(getrefcount, (object(),))), getrefcount(pending[0])


_ALONE_IN_SEQUENCE, _ALONE = _references()


class Donor:
    """A function that donates, shared by all jitted objects of that function."""

    def __init__(self, ledger: Ledger, function: Function) -> None:
        self.ledger = ledger
        self.function = function
        #: Unix time at which a sample or a scrape last found new calls.
        self.last_call = 0.0
        self._calls_seen = 0
        self._sites: dict[tuple[int, int, int, bool], int] = {}
        self._variants: dict[tuple[Any, tuple[str, ...]], Variant] = {}
        #: What the latest call donated.
        self.pending: Pending | None = None
        #: Counters of calls, by the bytes that each of them donated.
        self._counters: dict[int, itertools.count[int]] = {}
        #: Counter of the other calls; bytes of the last ones of them, and of all before.
        self._others: itertools.count[int] = itertools.count()
        self._sizes: deque[int] = deque()
        self._bytes = 0
        arrays = ledger.arrays
        self._is_deleted, self._delete, self._tag = arrays.is_deleted, arrays.delete, arrays.tag
        self._host_copy = arrays.host_copy
        self._marks = arrays.marks
        self._aliases = ledger.aliases
        self._shared = ledger.aliases.entries
        #: JAX's array class.
        self.kind = arrays.kind

    @property
    def calls(self) -> int:
        """Number of calls so far."""
        return _next_of(self._others) + sum(map(_next_of, list(self._counters.values())))

    @property
    def bytes(self) -> int:
        """Bytes donated so far."""
        self.settle()
        return self._bytes + sum(size * _next_of(counter) for size, counter in list(self._counters.items()))

    def _counter_of(self, size: int | None) -> Callable[[], int] | None:
        """Return what counts a call that donates so many bytes; None if they vary, or if there are too many sizes."""
        if size is None or (len(self._counters) >= _MAX_SIZES and size not in self._counters):
            return None
        return self._counters.setdefault(size, itertools.count()).__next__

    def _count(self, size: int) -> None:
        """Count a call for whose number of bytes there is no counter."""
        next(self._others)
        self._add_size(size)

    def _add_size(self, size: int) -> None:
        self._sizes.append(size)
        if len(self._sizes) > _MOST_SIZES:
            self.settle()

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
        known = variant.regular
        if known is None:
            return False
        pick, numbers, irregular, size, large, count = known
        regular = leaves if pick is None else pick(leaves)
        if not self._are_deleted(regular):
            return False
        code, instruction, site = variant.last
        if frame.f_code is not code or frame.f_lasti != instruction:
            site = self._site(frame, variant)
        # `any` consumes the whole iterator: the mapped functions return None.
        if self._marks:
            any(map(self._delete, regular))
        more = self._record_irregular(leaves, irregular, regular, variant, site) if irregular else 0
        if count is None or more:
            self._count((_size_of(regular) if size is None else size) + more)
        else:
            count()
        if self._shared or (large and self._has_host_copy(regular, large)):
            self._tag_call(regular, site, numbers)
        else:
            self._keep((regular, site, numbers))
        return True

    def _has_host_copy(self, arrays: Sequence[Any], numbers: Sequence[int]) -> bool:
        """Whether any of these arrays has a copy on the host. In C, since a call may donate many large arrays."""
        copies = map(self._host_copy, map(arrays.__getitem__, numbers))
        return any(map(operator.is_not, copies, itertools.repeat(None)))

    def _keep(self, pending: Pending) -> None:
        """Keep the arrays of the latest call, and release those of the call before."""
        # One exchange, in which no other code runs: else what another thread, or a signal handler, keeps would be lost.
        before, self.pending = self.pending, pending
        if before is not None:
            self._release(before, calls_since=1)

    def _release(self, pending: Pending, calls_since: int) -> None:
        """Tag the arrays to which anybody else refers, of the call before so many calls."""
        arrays, site, numbers = pending
        if arrays.__class__ is self.kind:
            arrays = (arrays,)
        if max(map(getrefcount, arrays)) > _ALONE_IN_SEQUENCE:
            first = self._first_tag(site, calls_since)
            for number, count in enumerate(map(getrefcount, arrays)):
                # One with a tag was tagged by another thread in the meantime.
                if count > _ALONE_IN_SEQUENCE and type(self._host_copy(arrays[number])) is not int:
                    self._tag(arrays[number], first + (number if numbers is None else numbers[number]))

    def _tag_call(self, arrays: Sequence[Any], site: int, numbers: tuple[int, ...] | None) -> None:
        """Tag all regular leaves of the latest call at once, and keep none."""
        self.release(calls_since=1)
        first = self._first_tag(site)
        tags = itertools.count(first) if numbers is None else map(first.__add__, numbers)
        any(map(self._tag, arrays, tags))
        if self._shared:
            self._aliases.donated(arrays)

    def _first_tag(self, site: int, calls_since: int = 0) -> int:
        """Return the tag of the first leaf of the call before so many calls. Slow, since it reads the counters."""
        return site | (self.calls - calls_since) % _CALLS << _LEAF_BITS

    def note_calls(self) -> None:
        """Set the time of the last call if there were calls since this was last asked."""
        calls = self.calls
        if calls != self._calls_seen:
            self._calls_seen, self.last_call = calls, time()

    def release(self, calls_since: int = 0) -> None:
        """Tag the arrays that are kept and still referred to, and keep none; they are of the call before so many."""
        pending = self.pending
        if pending is not None:
            # Tags first: another thread may look for one of these arrays meanwhile.
            self._release(pending, calls_since)
            if self.pending is pending:
                self.pending = None

    def _record_irregular(
        self, leaves: list[Any], irregular: tuple[int, ...], regular: Sequence[Any], variant: Variant, site: int
    ) -> int:
        """Record the leaves that are no arrays or not always deleted; return the bytes that were donated.

        Called before the call is counted.
        """
        arrays, size = self.ledger.arrays, 0
        for number in irregular:
            leaf = leaves[number]
            is_plain = leaf.__class__ is self.kind
            if is_plain and not self._is_deleted(leaf):
                continue
            array = leaf if is_plain else arrays.concrete(leaf)
            if array is None or not self._is_deleted(array):
                continue
            if is_plain and any(map(operator.is_, regular, itertools.repeat(array))):
                continue  # it is in the tree twice, and the program uses it once
            self.ledger.release()  # an earlier call may have donated it
            if arrays.is_newly_donated(array):
                arrays.mark(array, self._first_tag(site, -1) + number)
                size += int(array.nbytes)
                if is_plain:
                    variant.invalidate()
        return size

    def recorder_of_one(
        self, variant: Variant, regular: Regular, position: int, cache_size: Callable[[], Any]
    ) -> Callable[[Args, Kwargs, types.FrameType], bool]:
        """Return a fast path for calls that donate one array; it returns False, and does nothing, for other calls.

        A closure, written out: small functions are called often.

        Args:
            variant: The donated array.
            regular: The same, as the last call donated it.
            position: Its position among the arguments.
            cache_size: Returns the number of programs of the jitted object; the fast path is for the present ones.
        """
        kind, is_deleted, host_copy, delete = self.kind, self._is_deleted, self._host_copy, self._delete
        marks, shared, programs = self._marks, self._shared, cache_size()
        is_large, count = regular.large, regular.count_call

        def record(args: Args, kwargs: Kwargs, frame: types.FrameType) -> bool:
            if kwargs or len(args) <= position or cache_size() != programs:
                return False
            array = args[position]
            if array.__class__ is not kind or not is_deleted(array):
                return False
            code, instruction, site = variant.last
            if frame.f_code is not code or frame.f_lasti != instruction:
                site = self._site(frame, variant)
            if marks:
                delete(array)
            if count is not None:
                count()
            else:
                self._count(array.nbytes)
            if shared or (is_large and host_copy(array) is not None):
                self._tag_call((array,), site, None)
                return True
            # As in `_keep`; the tuple is made first, since that may start the collector, and with it code of the job.
            pending = array, site, None
            before, self.pending = self.pending, pending
            if before is not None and not (before[0].__class__ is kind and getrefcount(before[0]) <= _ALONE):
                self._release(before, 1)
            return True

        return record

    def record_each(
        self, leaves: list[Any], variant: Variant, frame: types.FrameType, *, has_failed: bool = False
    ) -> None:
        """Slow path: record leaf by leaf, and determine the regular leaves of the variant."""
        arrays = self.ledger.arrays
        self.ledger.release()
        site = self._site(frame, variant, has_failed=has_failed)
        next(self._others)
        first = self._first_tag(site)
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
            large = tuple([i for i, number in enumerate(regular) if leaves[number].nbytes >= _LARGE])
            variant.update(regular, len(leaves), regular_size, large, self._counter_of)
        if self._shared:
            self._aliases.donated(donated)
        self._add_size(size)

    def settle(self) -> None:
        """Add the bytes of the last calls that have no counter to the total."""
        sizes = self._sizes
        with suppress(IndexError):  # another thread may empty the queue
            for _ in range(len(sizes)):
                size = sizes.popleft()
                self._bytes += size  # no call in between, in which another thread could add to the same sum

    def _are_deleted(self, leaves: Sequence[Any]) -> bool:
        try:
            return all(map(self._is_deleted, leaves))
        except TypeError:
            return False  # a leaf is no array this time: a tracer, a NumPy array, another container

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


def _next_of(counter: itertools.count[int]) -> int:
    """Return the next number of a counter. Its text is the only way to read it without counting."""
    return int(repr(counter)[len("count(") : -1].partition(",")[0])


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

    def release(self) -> None:
        """Tag the donated arrays that are still referred to, and keep none.

        Before this, a donated array may have no tag. Called before tags are read, and by each sample.
        """
        for donor in self.donors():
            donor.release()

    def sample(self) -> None:
        """Note which donors were called, and keep no array."""
        for donor in self.donors():
            donor.note_calls()
            donor.release()

    def origin(self, array: Any) -> DonationOrigin | None:
        """Return the call that donated this deleted array, or None if this agent did not record it.

        The array may share its buffer with the one that was passed to the call.
        """
        self.release()
        tag = self.arrays.tag_of(array)
        if tag is None:
            return None
        number = tag >> _SITE_SHIFT
        found = self._sites.get(number)
        if found is None:
            return None
        donor, site = found
        call, leaf = (tag >> _LEAF_BITS) % _CALLS, tag & _MAX_LEAF
        calls_since = (donor.calls - call) % _CALLS
        # The latest call may not be counted yet, if this runs in a signal handler or in another thread.
        calls_ago = 1 if calls_since == _CALLS - 1 else calls_since + 1
        path = site.variant.path(leaf)
        root = argument_of(path)
        argument, circumstance = self._argument(number, site, root)
        sharing = self.aliases.sharing_of(array)
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
        for donor in self.donors():
            donor.pending = None
        self._sites.clear()
        self._arguments.clear()
        self.aliases.forget()
        self._donors.clear()
