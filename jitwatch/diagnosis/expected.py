"""`jitwatch.expected()`: announces compiles, which are counted but raise no alarm."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from types import TracebackType

from jitwatch import guard


class _Announced(threading.local):
    def __init__(self) -> None:
        self.reasons: list[str] = []


_announced = _Announced()


class Expected(ContextDecorator):
    """The context manager and decorator that `jitwatch.expected()` returns."""

    def __init__(self, reason: str) -> None:
        self._reason = reason[:200]

    def __enter__(self) -> None:
        try:
            _announced.reasons.append(self._reason)
        except Exception:
            guard.failed("expected")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Not the reason of an enclosing block, if `__enter__` failed.
            if _announced.reasons and _announced.reasons[-1] is self._reason:
                _announced.reasons.pop()
        except Exception:
            guard.failed("expected")


def expected(reason: str) -> Expected:
    """Declare the compiles of this thread as planned until the block ends, for a change of phase for example.

    They are counted and logged, with `reason` in the field `expected`, but they lose no time, start no storm and do
    not violate a steady state.

    Args:
        reason: The reason in a few words; shortened to 200 characters.

    Raises:
        TypeError: The reason is not a string.
    """
    if not isinstance(reason, str):
        raise TypeError(f"expected(): the reason must be a string, got {type(reason).__name__}")
    return Expected(reason)


def expected_reason() -> str | None:
    """The reason of the innermost block of this thread; None outside of one."""
    return _announced.reasons[-1] if _announced.reasons else None
