"""Errors of dead arrays: counted where JAX raises them, with whose call it was and who took the array.

`ArrayImpl._check_if_deleted` raises for every use but those that C++ answers by itself: waiting for an array,
and on JAX ≤ 0.10 the fast path of a call, as long as the array is not marked. The first is replaced as well;
the second is seen where the function is a watched one. The error goes on as it is, with one note added.
"""

from __future__ import annotations

import re
import types
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.calls import Calls
from jitwatch.jaxhooks.donation.facts import UNKNOWN, DonationSink, Misuse
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.jax_functions import is_operation
from jitwatch.jaxhooks.instrument import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.values.arguments import names_of_positions
from jitwatch.jaxhooks.values.leaves import (
    Named,
    inside,
    is_of_pmap,
    named_leaves_of,
    parameters,
    path_in,
    pmap_leaves,
    users_names,
)
from jitwatch.model.function import Function

_MAX_FRAMES = 100
#: Start of our notes, by which an error that was counted is known again.
NOTE_START = "donated "


class Misuses:
    """Notices every error that a dead array causes, once.

    Args:
        ledger: Who took what.
        identities: Names the functions.
        sink: Told of each misuse.
    """

    def __init__(self, ledger: Ledger, identities: Identities, sink: DonationSink) -> None:
        self._ledger = ledger
        self._arrays: Arrays = ledger.arrays
        self._identities = identities
        self._sink = sink

    def install(self, patcher: Patcher) -> None:
        """Look at what raises for dead arrays."""
        # Every use of an array in Python comes by: for a living one it costs what it costs without us.
        patcher.look(compat.CHECK_DELETED, _Use(self), inline=True)
        for hook in (compat.BLOCK, compat.BLOCK_ALL, compat.IS_READY):
            patcher.look(hook, _Use(self))

    def notice(self, what: Any, error: BaseException) -> None:
        """A use of an array, or of several, raised the error."""
        for one in what if isinstance(what, (list, tuple)) else (what,):
            array = self._arrays.concrete(one)
            if array is not None and self._arrays.is_deleted(array):
                self._notice(array, error)
                return

    def _notice(self, array: Any, error: BaseException) -> None:
        """A use of this dead array raised the error."""
        if self._arrays.is_on_purpose(array) or has_note(error):
            return  # or counted further in
        tag = self._arrays.tag_of(array)
        function, leaf = self._call_of(array)
        self.tell(array, error, tag, function, leaf)

    def tell(self, array: Any, error: BaseException, tag: int | None, function: Function | None, leaf: str) -> None:
        """Count a use after donation; `function` is the user's jitted function that was called with the array."""
        origin = self._ledger.origin(tag, array)
        if function is None:
            function = origin.function if origin is not None else UNKNOWN
            leaf = origin.leaf if origin is not None else ""
        misuse = Misuse("use_after_donate", function, leaf, *description(array), origin)
        error.add_note(self._sink.misused(misuse))

    def call_failed(
        self, calls: Calls, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType
    ) -> bool:
        """A watched call ended in an error; returns whether it ended before it took anything."""
        arrays, donor = self._arrays, calls.donor
        if donor is None or has_note(error):
            return True
        try:
            named = named_leaves_of(calls.all_roots(args, kwargs))
            if is_of_pmap(frame.f_code) and len(parts := pmap_leaves(frame)) == len(named):
                named = parts  # by the names of the user's function, and not of the flat one that pmap makes
        except Exception:
            return True  # these arguments are no tree, which is the error
        text = self._text_of(error)
        if self.is_double(text):
            donated = {path for path, _ in named_leaves_of(calls.roots(args, kwargs))}
            self.tell_double(donor.function, error, named, donated)
            return True
        leaves = [(path, array) for path, leaf in named if (array := arrays.concrete(leaf)) is not None]
        dead = next(((path, array) for path, array in leaves if arrays.is_deleted(array)), None)
        if dead is None:
            return True
        if "deleted" in text:
            path, array = dead
            if not arrays.is_on_purpose(array):
                self.tell(array, error, arrays.tag_of(array), donor.function, path)
            return True
        return False

    def program_failed(self, function: Function, error: BaseException, named: Named, donated: Named) -> None:
        """A program that was compiled ahead of time ended in an error."""
        if not has_note(error) and self.is_double(self._text_of(error)):
            self.tell_double(function, error, named, {path for path, _ in donated})

    def is_double(self, text: str) -> bool:
        """Whether this is XLA's word that a call got one buffer twice and donates it."""
        return "donate" in text and "same" in text

    def tell_double(self, function: Function, error: BaseException, named: Named, donated: set[str]) -> None:
        """Count a double donation among the leaves of a call.

        Args:
            function: Whose call it was.
            error: XLA's.
            named: The leaves of the call.
            donated: Paths of those that it donates.
        """
        leaves = [
            (path, array, path in donated)
            for path, leaf in named
            for array in map(self._arrays.concrete, inside(leaf))
            if array is not None
        ]
        if not any(is_donated for _, _, is_donated in leaves):
            # pmap names the leaves otherwise; XLA says that one of them is donated.
            leaves = [(path, array, True) for path, array, _ in leaves]
        pairs = _sharing(leaves, self._text_of(error))
        if not pairs:
            error.add_note(self._sink.misused(Misuse("double_donation", function, "unknown", (), "unknown", 0)))
            return
        (first, array, _), (second, _, is_second_donated) = pairs[0]
        misuse = Misuse(
            "double_donation",
            function,
            first,
            *description(array),
            other_leaf=second,
            other_is_donated=is_second_donated,
            more=len(pairs) - 1,
        )
        error.add_note(self._sink.misused(misuse))

    def _text_of(self, error: BaseException) -> str:
        """Text of an error that JAX raised, empty for one of the user's code or of a class that is not plain."""
        trace = error.__traceback__
        while trace is not None:
            if is_users(trace.tb_frame.f_code.co_filename, self._ledger.jax_folders) is not False:
                return ""
            trace = trace.tb_next
        is_plain = type(error).__module__.partition(".")[0] in ("builtins", "jax", "jaxlib")
        return error.args[0] if is_plain and error.args and isinstance(error.args[0], str) else ""

    def _call_of(self, array: Any) -> tuple[Function | None, str]:
        """The user's jitted function that is being called with the array, and the array's path in that call."""
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
        """The same for one frame of JAX, if it is where JAX goes on with a call that C++ could not answer."""
        if frame.f_code.co_name != "cache_miss":
            return None, ""
        inner = frame.f_locals
        args, kwargs = inner.get("args", ()), inner.get("kwargs", {})
        if "fun" in inner and "jit_info" in inner:
            fun, jit_info = inner["fun"], inner["jit_info"]
            if is_operation(fun):
                return None, ""  # its arguments have no names of the user
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
        leaves = named_leaves_of([*roots, *kwargs.items()])
        known = users_names(inner.get("fun"), args, [path for path, _ in leaves])
        if known is not None:
            leaves = [(path, leaf) for path, (_, leaf) in zip(known[0], leaves, strict=True)]
        return function, path_in(leaves, array)


class _Use(Observer):
    component = "donation"
    only_errors = True

    def __init__(self, misuses: Misuses) -> None:
        self._misuses = misuses

    def failed(self, state: Any, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._misuses.notice(state[0], error)


def has_note(error: BaseException) -> bool:
    """Whether the error was counted already: the note says so."""
    return any(isinstance(note, str) and note.startswith(NOTE_START) for note in getattr(error, "__notes__", ()))


#: A leaf of a call: its path, the array, whether it is donated.
_Leaf = tuple[str, Any, bool]
#: XLA's numbers of the two arguments that it met: the later and the earlier one.
_PAIR = re.compile(r"flattened argument (\d+).*?first use: (\d+)")


def _sharing(leaves: list[_Leaf], text: str) -> list[tuple[_Leaf, _Leaf]]:
    """The pairs of leaves that share a buffer, of which one is donated; the donated one first, XLA's pair first."""
    found: list[tuple[_Leaf, _Leaf]] = []
    by_buffer: dict[Any, _Leaf] = {}
    for leaf in leaves:
        earlier = by_buffer.setdefault(_buffer_of(leaf[1]), leaf)
        # In one place it may be found twice: in a random key, and as what the key is made of.
        if earlier is not leaf and earlier[0] != leaf[0] and (earlier[2] or leaf[2]):
            # The donated one first; of two the later one, which is the newer name as a rule.
            found.append((leaf, earlier) if leaf[2] else (earlier, leaf))
    numbers = _PAIR.search(text)
    if numbers is not None and max(map(int, numbers.groups())) < len(leaves):
        # XLA leaves out arguments that the program does not use, so that its numbers may be of others.
        named = {leaves[int(number)][0] for number in numbers.groups()}
        found.sort(key=lambda pair: {pair[0][0], pair[1][0]} != named)
    return found


def _buffer_of(array: Any) -> Any:
    """What tells buffers apart: where the first of this process lies, or the array itself where that is not said."""
    try:
        return array.unsafe_buffer_pointer()
    except Exception:
        try:
            return array.addressable_data(0).unsafe_buffer_pointer()
        except Exception:
            return id(array)


def description(array: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape, dtype and bytes of an array, dead or not."""
    return tuple(array.shape), str(array.dtype), int(array.nbytes)
