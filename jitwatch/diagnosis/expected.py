"""Compiles that the job announces: counted as always, but no alarm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Announced(threading.local):
    def __init__(self) -> None:
        self.reasons: list[str] = []


_announced = _Announced()


@contextmanager
def expected(reason: str) -> Iterator[None]:
    """Say that compiles of this thread are planned until the block ends, a change of phase for example.

    They are counted and logged, with `reason` in the field `expected`, but they are no storm.

    Args:
        reason: Why, in a few words; shortened to 200 characters.
    """
    if not isinstance(reason, str):
        raise TypeError(f"expected() takes a text that says why, got {type(reason).__name__}")
    _announced.reasons.append(reason[:200])
    try:
        yield
    finally:
        _announced.reasons.pop()


def expected_reason() -> str | None:
    """The innermost reason that holds in this thread, or None."""
    return _announced.reasons[-1] if _announced.reasons else None
