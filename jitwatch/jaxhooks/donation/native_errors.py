"""Errors of deleted arrays that C++ raises directly into user code, seen through `sys.monitoring` (Python ≥ 3.12).

Seen only here: `memoryview` of a deleted array; a buffer passed twice to a function that is not watched; and on JAX
≤ 0.10 an unmarked array in a cached call that does not donate. The array is the single deleted array among the
variables of the frame, if there is exactly one; its tag gives the donor. Cost: nothing on a call; a quarter of a
microsecond for each exception that Python code raises.
"""

from __future__ import annotations

import dis
import sys
import types
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.donation.violations import UNKNOWN, DonationSink, Violation, ViolationDetector, has_note
from jitwatch.jaxhooks.exceptions import listen
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.patcher import Patcher

_MAX_VARIABLES = 1_000
#: An error that the user's code raises itself is not JAX's.
_RAISE = dis.opmap["RAISE_VARARGS"]
#: Parts of JAX's messages for deleted arrays.
_DONATED_MARK = "deleted or donated"
_DELETED_MARKS = (_DONATED_MARK, "has been deleted", "Array is null")


class NativeErrors:
    """Listens to exceptions as they enter the user's frames.

    Args:
        violations: Reports a use after donation.
        ledger: Which call donated which array.
        sink: Receives double donations.
    """

    def __init__(self, violations: ViolationDetector, ledger: Ledger, sink: DonationSink) -> None:
        self._violations = violations
        self._ledger = ledger
        self._sink = sink
        errors = getattr(sys.modules.get("jax.errors"), "JaxRuntimeError", ValueError)
        self._kinds = frozenset({ValueError, BufferError, errors})

    def install(self, patcher: Patcher) -> None:
        """Start listening, if Python supports it and a tool number is free."""
        listen(patcher, self._raised)

    def _raised(self, code: types.CodeType, offset: int, error: BaseException) -> None:
        try:
            if type(error) not in self._kinds:
                return
            text = error.args[0] if error.args else None
            # Frames of JAX and jitwatch come first, and their hooks know more; after the user's first frame nothing
            # new is learned.
            if not isinstance(text, str) or not self._is_first(code, error.__traceback__):
                return
            if code.co_code[offset] == _RAISE:
                return
            if "donate" in text and "same" in text and not has_note(error):
                error.add_note(self._sink.violation_found(Violation("double_donation", UNKNOWN, "", (), "", 0)))
            elif any(mark in text for mark in _DELETED_MARKS) and not has_note(error):
                self._report_deleted(error, text, sys._getframe(2))
        except Exception:
            guard.failed("donation")

    def _is_first(self, code: types.CodeType, trace: types.TracebackType | None) -> bool:
        """Whether this is the innermost user frame that the error passes."""
        folders = self._ledger.jax_folders
        while trace is not None:
            inner = trace.tb_frame.f_code
            if inner is not code and is_users(inner.co_filename, folders):
                return False
            trace = trace.tb_next
        return bool(is_users(code.co_filename, folders))

    def _report_deleted(self, error: BaseException, text: str, frame: types.FrameType) -> None:
        arrays = self._ledger.arrays
        deleted = {
            id(array): array
            for value in _variables(frame)
            if (array := arrays.concrete(value)) is not None and arrays.is_deleted(array)
        }
        donated = [array for array in deleted.values() if not arrays.is_deleted_by_user(array)]
        if len(donated) == len(deleted) == 1:
            self._violations.report_use_after_donate(donated[0], error, arrays.tag_of(donated[0]), None, "")
        elif _DONATED_MARK in text or (deleted and len(donated) == len(deleted)):
            error.add_note(self._sink.violation_found(Violation("use_after_donate", UNKNOWN, "", (), "", 0)))


def _variables(frame: types.FrameType) -> list[Any]:
    """Values of a frame's variables, where reading them has no side effect."""
    if frame.f_code.co_flags & 1 and sys.version_info < (3, 13):  # CO_OPTIMIZED: 3.12 would keep a copy of them
        return []
    return list(frame.f_locals.values())[:_MAX_VARIABLES]
