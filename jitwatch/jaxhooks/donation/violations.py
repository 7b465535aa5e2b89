"""Donation violations: the errors and the warning of JAX that reveal one.

Hooked: `ArrayImpl._check_if_deleted`, which raises for every use of a deleted array except those that C++ answers:
waiting for an array, and on JAX ≤ 0.10 the fast path of a call with an array that is not marked. The functions that
wait are instrumented as well; the fast path is covered where the function is a watched one. The error propagates
unchanged, with one note added. Each error is counted once, with the function that was called and the donor.

Some errors C++ raises directly into user code: `memoryview` of a deleted array; a buffer passed twice to a function
that is not watched; and on JAX ≤ 0.10 an unmarked array in a cached call that does not donate. They are seen through
`sys.monitoring` (Python ≥ 3.12). The array is the single deleted one among the variables of the frame, if there is
exactly one; its tag gives the donor. Cost: nothing on a call; for an exception see `exceptions`.

A donation that a program cannot use, since no result has the type of the argument, is reported by a warning when JAX
lowers the program; filters may hide it, and it is shown once. The name `warnings` in JAX's module is replaced by a
stand-in that inspects this warning and passes on all; the arguments are read from the variables of the function that
warns.
"""

from __future__ import annotations

import dis
import itertools
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from types import CodeType, FrameType, TracebackType
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.donation.sites import DonationOrigin
from jitwatch.jaxhooks.donation.watched import Calls
from jitwatch.jaxhooks.exceptions import Listener, listen
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.jax_functions import is_operation
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.observer import Observer, drop_frame
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import Args, Kwargs, callers, entries
from jitwatch.jaxhooks.values.arguments import names_of_positions
from jitwatch.jaxhooks.values.paths import (
    NamedLeaves,
    is_of_pmap,
    named_leaves,
    parameters,
    path_in,
    pmap_leaves,
    unpacked_names,
    values_inside,
)
from jitwatch.model.events import DonationViolation
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import UNKNOWN_LABEL, DonationKind

#: Stands for an unknown function.
UNKNOWN = Function(UNKNOWN_LABEL, UNKNOWN_LABEL)
_MAX_FRAMES = 100
_MAX_VARIABLES = 1_000
#: An error that the user's code raises itself is not JAX's.
_RAISE = dis.opmap["RAISE_VARARGS"]
#: Parts of JAX's messages for deleted arrays.
_DONATED_MARK = "deleted or donated"
_DELETED_MARKS = (_DONATED_MARK, "has been deleted", "Array is null")
#: Part of its messages for a buffer that a call gets twice and donates.
_DOUBLE_MARK = "donate"
#: Start of our notes; marks an error as counted.
NOTE_START = "donated "
#: A leaf of a call: its path, the array, and whether it is donated.
_Leaf = tuple[str, Any, bool]
#: Start of JAX's warning about donations that a program cannot use.
_UNUSABLE = "Some donated buffers were not usable"
#: XLA's numbers of the two arguments with one buffer: the later and the earlier one.
_PAIR = re.compile(r"flattened argument (\d+).*?first use: (\d+)")


class DonationSink(Protocol):
    """The donation probe, as the hooks see it; called in the thread of the event, with no lock held."""

    def donor_made(self, function: Function) -> None:
        """Report a function that donates, when it is made and when it is first called."""

    def violation_found(self, event: DonationViolation) -> str:
        """Report a violation, which the receiver completes; returns a note for the user's error."""


def violation(
    kind: DonationKind, function: Function, leaf: str = "", array: Any = None, origin: DonationOrigin | None = None
) -> DonationViolation:
    """Return the event of a violation.

    Args:
        kind: Its kind.
        function: The called function; the donor if no jitted function of the user was called.
        leaf: Path of the array in that call.
        array: The array, deleted or not, if it is known.
        origin: The call that donated it, if known.
    """
    known: dict[str, Any] = {"donated_by": UNKNOWN_LABEL if kind == "use_after_donate" else None}
    if origin is not None:
        known = {
            "donated_by": origin.function.label,
            "donated_at": origin.call_site,
            "donated_leaf": origin.leaf,
            "calls_ago": origin.calls_ago,
            "donor": origin.function,
            "circumstance": origin.circumstance,
            "argument": origin.argument,
        }
    return DonationViolation(
        violation=kind,
        function=function,
        leaf=leaf,
        shape=tuple(array.shape) if array is not None else (),
        dtype=str(array.dtype) if array is not None else "",
        bytes=int(array.nbytes) if array is not None else 0,
        **known,
    )


class ViolationDetector:
    """Reports every violation that an error reveals, once."""

    def __init__(self, ledger: Ledger, identities: Identities, sink: DonationSink) -> None:
        self._ledger = ledger
        self._arrays = ledger.arrays
        self._identities = identities
        self._sink = sink
        errors = getattr(sys.modules.get("jax.errors"), "JaxRuntimeError", ValueError)
        self._native_kinds = frozenset({ValueError, BufferError, errors})

    def install(self, patcher: Patcher) -> None:
        """Instrument the functions that raise for deleted arrays, and listen to errors of C++ where Python can."""
        uses = Observer(failed=self._use_failed, component="donation")
        # Called at every use of an array in Python; inlined, so that a living array costs nothing more.
        patcher.observe(compat.CHECK_DELETED, uses, inline=True)
        for hook in (compat.BLOCK, compat.BLOCK_ALL, compat.IS_READY):
            patcher.observe(hook, uses)
        listen(patcher, Listener(self._native_kinds, (*_DELETED_MARKS, _DOUBLE_MARK), self._raised_in_python))

    def _report(self, error: BaseException, event: DonationViolation) -> None:
        error.add_note(self._sink.violation_found(event))

    def _use_failed(self, state: Any, error: BaseException) -> None:
        """Report that a use of an array, or of several, raised the error."""
        what = state[0]
        for one in what if isinstance(what, (list, tuple)) else (what,):
            array = self._arrays.concrete(one) if isinstance(error, Exception) else None
            if array is not None and self._arrays.is_deleted(array):
                self._ledger.release()
                # Otherwise it is no violation, or counted already.
                if not self._arrays.is_deleted_by_user(array) and not has_note(error):
                    self._report_use(array, error, *self._call_of(array))
                return

    def _report_use(self, array: Any, error: BaseException, function: Function | None = None, leaf: str = "") -> None:
        """Report a use after donation; `function` is the user's jitted function that was called with the array."""
        origin = self._ledger.origin(array)
        if function is None:
            function, leaf = (origin.function, origin.leaf) if origin is not None else (UNKNOWN, "")
        self._report(error, violation("use_after_donate", function, leaf, array, origin))

    def call_failed(self, calls: Calls, error: BaseException, args: Args, kwargs: Kwargs, frame: FrameType) -> bool:
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
        if _is_double(text):
            self._report_double(donor.function, error, named, named_leaves(calls.roots(args, kwargs)))
            return True
        leaves = [(path, array) for path, leaf in named if (array := arrays.concrete(leaf)) is not None]
        deleted = next(((path, array) for path, array in leaves if arrays.is_deleted(array)), None)
        if deleted is None:
            return True
        self._ledger.release()
        if "deleted" in text:
            path, array = deleted
            if not arrays.is_deleted_by_user(array):
                self._report_use(array, error, donor.function, path)
            return True
        return False

    def program_failed(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: NamedLeaves
    ) -> None:
        """Report the error of a program that was compiled ahead of time."""
        if not has_note(error) and _is_double(self._text_of(error)):
            self._report_double(function, error, named, donated)

    def _report_double(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: NamedLeaves
    ) -> None:
        """Report a double donation among the leaves of a call, of which some are donated."""
        paths = {path for path, _ in donated}
        leaves = [
            (path, array, path in paths)
            for path, leaf in named
            for array in map(self._arrays.concrete, values_inside(leaf))
            if array is not None
        ]
        if not any(is_donated for _, _, is_donated in leaves):
            # pmap names the leaves otherwise; XLA's message says that one of them is donated.
            leaves = [(path, array, True) for path, array, _ in leaves]
        pairs = _sharing_pairs(leaves, self._text_of(error))
        if not pairs:
            self._report(error, replace(violation("double_donation", function, "unknown"), dtype="unknown"))
            return
        (first, array, _), (second, _, is_second_donated) = pairs[0]
        event = violation("double_donation", function, first, array)
        event = replace(event, other_leaf=second, other_is_donated=is_second_donated, more=len(pairs) - 1)
        self._report(error, event)

    def _text_of(self, error: BaseException) -> str:
        """Text of an error that JAX raised; empty if user code raised it or its class is not JAX's or Python's."""
        files = (one.tb_frame.f_code.co_filename for one in entries(error.__traceback__))
        if any(is_users(file, self._ledger.jax_folders) is not False for file in files):
            return ""
        is_plain = type(error).__module__.partition(".")[0] in ("builtins", "jax", "jaxlib")
        return error.args[0] if is_plain and error.args and isinstance(error.args[0], str) else ""

    def _call_of(self, array: Any) -> tuple[Function | None, str]:
        """Return the user's jitted function that is being called with the array, and the path in that call."""
        found: tuple[Function | None, str] = None, ""
        for frame in callers(frame_of_jax(), _MAX_FRAMES):
            if is_users(frame.f_code.co_filename, self._ledger.jax_folders) is not False:
                break
            if found[0] is None:
                found = self._called_in(frame, array)
            elif is_of_pmap(frame.f_code):
                return found[0], path_in(pmap_leaves(frame), array)
        return found

    def _called_in(self, frame: FrameType, array: Any) -> tuple[Function | None, str]:
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

    # Errors that C++ raises directly into user code

    def _raised_in_python(self, code: CodeType, offset: int, error: BaseException, frame: FrameType) -> None:
        try:
            text = error.args[0] if error.args else None
            # Frames of JAX and jitwatch come first, and their hooks know more; after the user's first frame nothing
            # new is learned.
            if not isinstance(text, str) or not self._is_first(code, error.__traceback__):
                return
            if code.co_code[offset] == _RAISE or has_note(error):
                return
            if _is_double(text):
                self._report(error, violation("double_donation", UNKNOWN))
            elif any(mark in text for mark in _DELETED_MARKS):
                self._report_deleted(error, text, frame)
        except Exception:
            guard.failed("donation")

    def _is_first(self, code: CodeType, trace: TracebackType | None) -> bool:
        """Whether this is the innermost user frame that the error passes."""
        folders = self._ledger.jax_folders
        inner = (one.tb_frame.f_code for one in entries(trace))
        if any(one is not code and is_users(one.co_filename, folders) for one in inner):
            return False
        return bool(is_users(code.co_filename, folders))

    def _report_deleted(self, error: BaseException, text: str, frame: FrameType) -> None:
        arrays = self._arrays
        self._ledger.release()
        deleted = {
            id(array): array
            for value in _variables(frame)
            if (array := arrays.concrete(value)) is not None and arrays.is_deleted(array)
        }
        donated = [array for array in deleted.values() if not arrays.is_deleted_by_user(array)]
        if len(donated) == len(deleted) == 1:
            self._report_use(donated[0], error)
        elif _DONATED_MARK in text or (deleted and len(donated) == len(deleted)):
            self._report(error, violation("use_after_donate", UNKNOWN))


def _variables(frame: FrameType) -> list[Any]:
    """Values of a frame's variables, where reading them has no side effect."""
    if frame.f_code.co_flags & 1 and sys.version_info < (3, 13):  # CO_OPTIMIZED: 3.12 would keep a copy of them
        return []
    return list(frame.f_locals.values())[:_MAX_VARIABLES]


def _is_double(text: str) -> bool:
    """Whether XLA's message says that a call got one buffer twice and donates it."""
    return _DOUBLE_MARK in text and "same" in text


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


class UnusableDonations:
    """Reports every program that is lowered with a donation it cannot use.

    `lowering` returns the function whose program this thread is lowering, if known.
    """

    def __init__(self, sink: DonationSink, wrappers: Wrappers, lowering: Callable[[], Function | None]) -> None:
        self._sink = sink
        self._by_source = wrappers.by_source
        self._lowering = lowering

    def install(self, patcher: Patcher) -> None:
        """Start inspecting the warnings."""
        if patcher.has(compat.MLIR_WARNINGS):
            owner = compat.MLIR_WARNINGS.resolve()
            patcher.replace(owner, compat.MLIR_WARNINGS.attribute, _Warnings(owner.warnings, self._inspect))

    def _inspect(self, message: Any, frame: FrameType) -> None:
        if not isinstance(message, str) or not message.startswith(_UNUSABLE):
            return
        variables = frame.f_locals
        avals = variables.get("sharded_in_avals", variables.get("in_avals", ()))
        donated = variables.get("donated_args", ())
        names = variables.get("arg_names")
        if names is None or len(names) != len(avals):
            names = [""] * len(avals)
        # Under eager `grad` the inputs are not the arguments of the user's function, and some have no name.
        names = [name or f"args[{i}]" for i, name in enumerate(names)]
        unusable = list(itertools.compress(zip(names, avals, strict=True), donated))
        if not unusable:
            return
        first, aval = unusable[0]
        leaf = first if len(unusable) == 1 else f"{first} and {len(unusable) - 1} more"
        size = sum(math.prod(one.shape) * getattr(one.dtype, "itemsize", 0) for _, one in unusable)
        source = compat.source_of(variables.get("jaxpr"))
        function = self._lowering() or self._by_source(source) or UNKNOWN
        event = violation("unusable", function, leaf)
        self._sink.violation_found(replace(event, shape=tuple(aval.shape), dtype=str(aval.dtype), bytes=size))


class _Warnings:
    """Stands in for the module `warnings` in one module of JAX."""

    def __init__(self, module: Any, inspect: Callable[[Any, FrameType], None]) -> None:
        self._module = module
        self._inspect = inspect

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **rest: Any) -> None:
        try:
            self._inspect(message, sys._getframe(1))
        except Exception:
            guard.failed("donation")
        try:
            self._module.warn(message, category, stacklevel + 1, source, **rest)
        except Warning as error:  # a filter makes it an error
            drop_frame(error, _WARN)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_WARN = _Warnings.warn.__code__
