"""Donation violations: the record of one, and the errors of JAX that reveal one.

Hooked: `ArrayImpl._check_if_deleted`, which raises for every use of a deleted array except those that C++ answers:
waiting for an array, and on JAX ≤ 0.10 the fast path of a call with an array that is not marked. The functions that
wait are instrumented as well; the fast path is covered where the function is a watched one. The error propagates
unchanged, with one note added. Each error is counted once, with the function that was called and the donor.
"""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from typing import Any, Protocol

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.call_sites import DonationOrigin
from jitwatch.jaxhooks.donation.calls import Calls
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.jax_functions import is_operation
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.values.arguments import names_of_positions
from jitwatch.jaxhooks.values.leaves import (
    NamedLeaves,
    is_of_pmap,
    named_leaves,
    parameters,
    path_in,
    pmap_leaves,
    unpacked_names,
    values_inside,
)
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import UNKNOWN_LABEL, DonationKind

#: Stands for an unknown function.
UNKNOWN = Function(UNKNOWN_LABEL, UNKNOWN_LABEL)
_MAX_FRAMES = 100
#: Start of our notes; marks an error as counted.
NOTE_START = "donated "
#: A leaf of a call: its path, the array, and whether it is donated.
_Leaf = tuple[str, Any, bool]
#: XLA's numbers of the two arguments with one buffer: the later and the earlier one.
_PAIR = re.compile(r"flattened argument (\d+).*?first use: (\d+)")


@dataclass(frozen=True, slots=True)
class Violation:
    """One donation violation.

    Attributes:
        kind: Its kind.
        function: The called function; the donor if no jitted function of the user was called.
        leaf: Path of the array in that call.
        shape, dtype, bytes: Of the array; of several, the first one's and the total size.
        origin: The call that donated a deleted array, if known.
        other_leaf: Of a double donation: path of the other argument with the same buffer.
        other_is_donated: Whether the call donates that argument too.
        more: Number of further pairs in that call that share a buffer.
    """

    kind: DonationKind
    function: Function
    leaf: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    origin: DonationOrigin | None = None
    other_leaf: str = ""
    other_is_donated: bool = False
    more: int = 0


class DonationSink(Protocol):
    """The donation probe, as the hooks see it; called in the thread of the event, with no lock held."""

    def donor_made(self, function: Function) -> None:
        """Report a function that donates, when it is made and when it is first called."""

    def violation_found(self, violation: Violation) -> str:
        """Report a violation; returns a note for the user's error."""


class ViolationDetector:
    """Reports every violation that an error reveals, once.

    Args:
        ledger: Which call donated which array.
        identities: Names functions.
        sink: Receives each violation.
    """

    def __init__(self, ledger: Ledger, identities: Identities, sink: DonationSink) -> None:
        self._ledger = ledger
        self._arrays: Arrays = ledger.arrays
        self._identities = identities
        self._sink = sink

    def install(self, patcher: Patcher) -> None:
        """Instrument the functions that raise for deleted arrays."""
        # Called at every use of an array in Python; inlined, so that a living array costs nothing more.
        patcher.observe(compat.CHECK_DELETED, _ArrayUse(self), inline=True)
        for hook in (compat.BLOCK, compat.BLOCK_ALL, compat.IS_READY):
            patcher.observe(hook, _ArrayUse(self))

    def report_use(self, what: Any, error: BaseException) -> None:
        """Report that a use of an array, or of several, raised the error."""
        for one in what if isinstance(what, (list, tuple)) else (what,):
            array = self._arrays.concrete(one)
            if array is not None and self._arrays.is_deleted(array):
                self._report_use(array, error)
                return

    def _report_use(self, array: Any, error: BaseException) -> None:
        if self._arrays.is_deleted_by_user(array) or has_note(error):
            return  # no violation, or counted already
        tag = self._arrays.tag_of(array)
        function, leaf = self._call_of(array)
        self.report_use_after_donate(array, error, tag, function, leaf)

    def report_use_after_donate(
        self, array: Any, error: BaseException, tag: int | None, function: Function | None, leaf: str
    ) -> None:
        """Report a use after donation; `function` is the user's jitted function that was called with the array."""
        origin = self._ledger.origin(tag, array)
        if function is None:
            function = origin.function if origin is not None else UNKNOWN
            leaf = origin.leaf if origin is not None else ""
        violation = Violation("use_after_donate", function, leaf, *description(array), origin)
        error.add_note(self._sink.violation_found(violation))

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> bool:
        """Report the error of a watched call; return whether the call failed before it donated anything."""
        arrays, donor = self._arrays, calls.donor
        if donor is None or has_note(error):
            return True
        try:
            named = named_leaves(calls.all_roots(args, kwargs))
            if is_of_pmap(frame.f_code) and len(parts := pmap_leaves(frame)) == len(named):
                named = parts  # the names of the user's function, not those of pmap's flat one
        except Exception:
            return True  # the arguments are no tree, which is the error
        text = self._text_of(error)
        if self.is_double(text):
            donated = {path for path, _ in named_leaves(calls.roots(args, kwargs))}
            self.report_double_donation(donor.function, error, named, donated)
            return True
        leaves = [(path, array) for path, leaf in named if (array := arrays.concrete(leaf)) is not None]
        deleted = next(((path, array) for path, array in leaves if arrays.is_deleted(array)), None)
        if deleted is None:
            return True
        if "deleted" in text:
            path, array = deleted
            if not arrays.is_deleted_by_user(array):
                self.report_use_after_donate(array, error, arrays.tag_of(array), donor.function, path)
            return True
        return False

    def program_failed(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: NamedLeaves
    ) -> None:
        """Report the error of a program that was compiled ahead of time."""
        if not has_note(error) and self.is_double(self._text_of(error)):
            self.report_double_donation(function, error, named, {path for path, _ in donated})

    def is_double(self, text: str) -> bool:
        """Whether XLA's message says that a call got one buffer twice and donates it."""
        return "donate" in text and "same" in text

    def report_double_donation(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: set[str]
    ) -> None:
        """Report a double donation among the leaves of a call.

        Args:
            function: The called function.
            error: XLA's error.
            named: The leaves of the call.
            donated: Paths of the leaves that the call donates.
        """
        leaves = [
            (path, array, path in donated)
            for path, leaf in named
            for array in map(self._arrays.concrete, values_inside(leaf))
            if array is not None
        ]
        if not any(is_donated for _, _, is_donated in leaves):
            # pmap names the leaves otherwise; XLA's message says that one of them is donated.
            leaves = [(path, array, True) for path, array, _ in leaves]
        pairs = _sharing_pairs(leaves, self._text_of(error))
        if not pairs:
            violation = Violation("double_donation", function, "unknown", (), "unknown", 0)
            error.add_note(self._sink.violation_found(violation))
            return
        (first, array, _), (second, _, is_second_donated) = pairs[0]
        violation = Violation(
            "double_donation",
            function,
            first,
            *description(array),
            other_leaf=second,
            other_is_donated=is_second_donated,
            more=len(pairs) - 1,
        )
        error.add_note(self._sink.violation_found(violation))

    def _text_of(self, error: BaseException) -> str:
        """Text of an error that JAX raised; empty if user code raised it or its class is not JAX's or Python's."""
        trace = error.__traceback__
        while trace is not None:
            if is_users(trace.tb_frame.f_code.co_filename, self._ledger.jax_folders) is not False:
                return ""
            trace = trace.tb_next
        is_plain = type(error).__module__.partition(".")[0] in ("builtins", "jax", "jaxlib")
        return error.args[0] if is_plain and error.args and isinstance(error.args[0], str) else ""

    def _call_of(self, array: Any) -> tuple[Function | None, str]:
        """Return the user's jitted function that is being called with the array, and the path in that call."""
        frame = frame_of_jax()
        found: tuple[Function | None, str] = None, ""
        for _ in range(_MAX_FRAMES):
            if frame is None or is_users(frame.f_code.co_filename, self._ledger.jax_folders) is not False:
                break
            if found[0] is None:
                found = self._called_in(frame, array)
            elif is_of_pmap(frame.f_code):
                return found[0], path_in(pmap_leaves(frame), array)
            frame = frame.f_back
        return found

    def _called_in(self, frame: types.FrameType, array: Any) -> tuple[Function | None, str]:
        """Return the same for one frame of JAX, if that frame handles a call that missed the C++ cache."""
        if frame.f_code.co_name != "cache_miss":
            return None, ""
        inner = frame.f_locals
        args, kwargs = inner.get("args", ()), inner.get("kwargs", {})
        if "fun" in inner and "jit_info" in inner:
            fun, jit_info = inner["fun"], inner["jit_info"]
            if is_operation(fun):
                return None, ""  # its arguments have no user names
            function = self._identities.of(fun) or self._identities.of_call(fun, args, jit_info.static_argnums)
            names, statics = names_of_positions(jit_info.fun_signature, len(args)), jit_info.static_argnums
        elif "prepare_pmap_fn" in inner:  # pmap until 0.7
            fun, statics = inner["prepare_pmap_fn"].args[0], inner["prepare_pmap_fn"].args[3]
            function = self._identities.of(fun) or UNKNOWN
            names = parameters(fun, len(args))
        else:
            return None, ""
        if function.is_internal:
            return None, ""
        roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in statics]
        leaves = named_leaves([*roots, *kwargs.items()])
        known = unpacked_names(inner.get("fun"), args, [path for path, _ in leaves])
        if known is not None:
            leaves = [(path, leaf) for path, (_, leaf) in zip(known[0], leaves, strict=True)]
        return function, path_in(leaves, array)


class _ArrayUse(Observer):
    component = "donation"
    only_errors = True

    def __init__(self, violations: ViolationDetector) -> None:
        self._violations = violations

    def failed(self, state: Any, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._violations.report_use(state[0], error)


def has_note(error: BaseException) -> bool:
    """Whether the error was counted already, which its note shows."""
    return any(isinstance(note, str) and note.startswith(NOTE_START) for note in getattr(error, "__notes__", ()))


def _sharing_pairs(leaves: list[_Leaf], text: str) -> list[tuple[_Leaf, _Leaf]]:
    """Return pairs of leaves that share a donated buffer: XLA's pair first, and in each the donated leaf first."""
    found: list[tuple[_Leaf, _Leaf]] = []
    by_buffer: dict[Any, _Leaf] = {}
    for leaf in leaves:
        earlier = by_buffer.setdefault(_buffer_of(leaf[1]), leaf)
        # One path may hold a buffer twice: a random key and the array that it is made of.
        if earlier is not leaf and earlier[0] != leaf[0] and (earlier[2] or leaf[2]):
            # The donated one first; of two donated ones the later, which as a rule has the newer name.
            found.append((leaf, earlier) if leaf[2] else (earlier, leaf))
    numbers = _PAIR.search(text)
    if numbers is not None and max(map(int, numbers.groups())) < len(leaves):
        # XLA leaves out arguments that the program does not use, so its numbers may be of other arguments.
        named = {leaves[int(number)][0] for number in numbers.groups()}
        found.sort(key=lambda pair: {pair[0][0], pair[1][0]} != named)
    return found


def _buffer_of(array: Any) -> Any:
    """Identity of a buffer: the address of the first local shard, or the array itself where there is no address."""
    try:
        return array.unsafe_buffer_pointer()
    except Exception:
        try:
            return array.addressable_data(0).unsafe_buffer_pointer()
        except Exception:
            return id(array)


def description(array: Any) -> tuple[tuple[int, ...], str, int]:
    """Return shape, dtype and bytes of an array, deleted or not."""
    return tuple(array.shape), str(array.dtype), int(array.nbytes)
