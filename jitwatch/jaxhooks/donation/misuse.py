"""Errors of dead arrays: counted where JAX raises them, with whose call it was and who took the array.

`ArrayImpl._check_if_deleted` raises for every use but those that C++ answers by itself: waiting for an array,
and on JAX ≤ 0.10 the fast path of a call, as long as the array is not marked. The first is replaced as well;
the second is seen where the function is a watched one. The error goes on as it is, with one note added.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.events import Function
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.callsite import is_users
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.facts import UNKNOWN, DonationSink, Misuse
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.donation.paths import named_leaves
from jitwatch.jaxhooks.identity import Identities
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.signatures import names_of_positions

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
        """Replace what raises for dead arrays."""
        owner = compat.CHECK_DELETED.resolve()
        patcher.replace(owner, compat.CHECK_DELETED.attribute, self._wrap_check(owner._check_if_deleted))
        for hook in (compat.BLOCK, compat.BLOCK_ALL):
            if hook.missing() is None:
                owner = hook.resolve()
                patcher.replace(owner, hook.attribute, self._wrap_wait(getattr(owner, hook.attribute)))

    def _wrap_check(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        is_deleted, notice = self._arrays.is_deleted, self._notice

        def _check_if_deleted(self: Any) -> None:
            # For a living array this is all that JAX's own does, so it costs the same.
            if is_deleted(self):
                try:
                    original(self)
                except Exception as error:
                    notice(self, error)
                    raise

        return _check_if_deleted

    def _wrap_wait(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def block_until_ready(what: Any) -> Any:
            try:
                return original(what)
            except Exception as error:
                for one in what if isinstance(what, (list, tuple)) else (what,):
                    array = self._arrays.concrete(one)
                    if array is not None and self._arrays.is_deleted(array):
                        self._notice(array, error)
                        break
                raise

        return block_until_ready

    def _notice(self, array: Any, error: BaseException) -> None:
        """A use of this dead array raised the error."""
        try:
            tag = self._arrays.tag_of(array)
            if (tag is None and self._arrays.is_let_go(array)) or has_note(error):
                return  # deleted on purpose, or counted further in
            function, leaf = self._call_of(array)
            self.tell(array, error, tag, function, leaf)
        except Exception:
            guard.failed("donation")

    def tell(self, array: Any, error: BaseException, tag: int | None, function: Function | None, leaf: str) -> None:
        """Count a use after donation; `function` is the user's jitted function that was called with the array."""
        origin = self._ledger.origin(tag)
        if function is None:
            function = origin.function if origin is not None else UNKNOWN
            leaf = origin.leaf if origin is not None else ""
        misuse = Misuse("use_after_donate", function, leaf, *description(array), origin)
        error.add_note(self._sink.misused(misuse))

    def _call_of(self, array: Any) -> tuple[Function | None, str]:
        """The user's jitted function that is being called with the array, and the array's path in that call."""
        frame: types.FrameType | None = sys._getframe(2)
        for _ in range(_MAX_FRAMES):
            if frame is None or is_users(frame.f_code.co_filename, self._ledger.jax_folders) is not False:
                break
            found = self._called_in(frame, array)
            if found is not None:
                return found
            frame = frame.f_back
        return None, ""

    def _called_in(self, frame: types.FrameType, array: Any) -> tuple[Function, str] | None:
        """The same for one frame of JAX, if it is where JAX goes on with a call that C++ could not answer."""
        name = frame.f_code.co_name
        if name != "cache_miss":
            return None
        inner = frame.f_locals
        fun, jit_info, args, kwargs = (inner.get(one) for one in ("fun", "jit_info", "args", "kwargs"))
        if fun is None or not isinstance(args, tuple) or not isinstance(kwargs, dict):
            return None
        statics = getattr(jit_info, "static_argnums", ())
        function = self._identities.of(fun) or self._identities.of_call(fun, args, statics)
        if function.is_internal:
            return None
        names = names_of_positions(getattr(jit_info, "fun_signature", None), len(args))
        roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in statics]
        return function, path_in([*roots, *kwargs.items()], array)


def has_note(error: BaseException) -> bool:
    """Whether the error was counted already: the note says so."""
    return any(isinstance(note, str) and note.startswith(NOTE_START) for note in getattr(error, "__notes__", ()))


def path_in(roots: list[tuple[str, Any]], array: Any) -> str:
    """Path of an array in the arguments of a call, or empty."""
    for name, tree in roots:
        for path, leaf in named_leaves(name, tree):
            if leaf is array or getattr(leaf, "_base_array", None) is array:
                return path
    return ""


def description(array: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape, dtype and bytes of an array, dead or not."""
    return tuple(array.shape), str(array.dtype), int(array.nbytes)
