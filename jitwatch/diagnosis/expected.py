"""Compiles that the job announces: counted as always, but no alarm."""

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
    """A block, or a function, whose compiles are planned; what `jitwatch.expected()` returns."""

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
            # Not that of a block around this one, should ours never have got there.
            if _announced.reasons and _announced.reasons[-1] is self._reason:
                _announced.reasons.pop()
        except Exception:
            guard.failed("expected")


def expected(reason: str) -> Expected:
    """Say that compiles of this thread are planned until the block ends, a change of phase for example.

    They are counted and logged, with `reason` in the field `expected`, but they are no storm.

    Args:
        reason: Why, in a few words; shortened to 200 characters.

    Raises:
        TypeError: The reason is no text.
    """
    if not isinstance(reason, str):
        raise TypeError(f"expected() takes a text that says why, got {type(reason).__name__}")
    return Expected(reason)


def expected_reason() -> str | None:
    """The innermost reason that holds in this thread, or None."""
    return _announced.reasons[-1] if _announced.reasons else None
