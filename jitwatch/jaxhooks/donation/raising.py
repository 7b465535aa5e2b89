"""Python ≥ 3.12: errors of dead arrays that C raises straight into the user's code, by `sys.monitoring`.

What is seen here alone: `memoryview` of a dead array; a buffer given twice to a function that nobody watches; and on
JAX ≤ 0.10 an unmarked array in a cached call that does not donate. The array is the one dead array among the
variables of the frame, if there is just one; its donor is then known by its number. Cost: nothing on a call; a
quarter of a microsecond for each exception that Python code raises.
"""

from __future__ import annotations

import dis
import sys
import types
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.donation.facts import UNKNOWN, DonationSink, Misuse
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.donation.misuse import Misuses, has_note
from jitwatch.jaxhooks.exceptions import listen
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.patcher import Patcher

_MAX_VARIABLES = 1_000
#: An error that the user's code raises itself is none of ours.
_RAISE = dis.opmap["RAISE_VARARGS"]
#: The marks of these errors in JAX's texts.
_SURE = "deleted or donated"
_DEAD = (_SURE, "has been deleted", "Array is null")


class Raising:
    """Listens to exceptions as they enter the user's frames.

    Args:
        misuses: Tells of a use after donation.
        ledger: Who took what.
        sink: Told of double donations.
    """

    def __init__(self, misuses: Misuses, ledger: Ledger, sink: DonationSink) -> None:
        self._misuses = misuses
        self._ledger = ledger
        self._sink = sink
        errors = getattr(sys.modules.get("jax.errors"), "JaxRuntimeError", ValueError)
        self._kinds = frozenset({ValueError, BufferError, errors})

    def install(self, patcher: Patcher) -> None:
        """Listen from now on, where Python can and a number is free."""
        listen(patcher, self._raised)

    def _raised(self, code: types.CodeType, offset: int, error: BaseException) -> None:
        try:
            if type(error) not in self._kinds:
                return
            text = error.args[0] if error.args else None
            # JAX's frames and ours come first and know better; beyond the user's first one nothing new is learned.
            if not isinstance(text, str) or not self._is_first(code, error.__traceback__):
                return
            if code.co_code[offset] == _RAISE:
                return
            if "donate" in text and "same" in text and not has_note(error):
                error.add_note(self._sink.misused(Misuse("double_donation", UNKNOWN, "", (), "", 0)))
            elif any(mark in text for mark in _DEAD) and not has_note(error):
                self._found_dead(error, text, sys._getframe(2))
        except Exception:
            guard.failed("donation")

    def _is_first(self, code: types.CodeType, trace: types.TracebackType | None) -> bool:
        """Whether this is the user's innermost frame that the error comes through."""
        folders = self._ledger.jax_folders
        while trace is not None:
            inner = trace.tb_frame.f_code
            if inner is not code and is_users(inner.co_filename, folders):
                return False
            trace = trace.tb_next
        return bool(is_users(code.co_filename, folders))

    def _found_dead(self, error: BaseException, text: str, frame: types.FrameType) -> None:
        arrays = self._ledger.arrays
        dead = {
            id(array): array
            for value in _variables(frame)
            if (array := arrays.concrete(value)) is not None and arrays.is_deleted(array)
        }
        taken = [array for array in dead.values() if not arrays.is_on_purpose(array)]
        if len(taken) == len(dead) == 1:
            self._misuses.tell(taken[0], error, arrays.tag_of(taken[0]), None, "")
        elif _SURE in text or (dead and len(taken) == len(dead)):
            error.add_note(self._sink.misused(Misuse("use_after_donate", UNKNOWN, "", (), "", 0)))


def _variables(frame: types.FrameType) -> list[Any]:
    """Values of a frame's variables, where looking leaves nothing behind."""
    if frame.f_code.co_flags & 1 and sys.version_info < (3, 13):  # CO_OPTIMIZED: 3.12 would keep a copy of them
        return []
    return list(frame.f_locals.values())[:_MAX_VARIABLES]
