"""Runs what may hang in a thread that can be left behind, at most one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class TimeBox(Generic[T]):
    """Collects what a source yields, for a while.

    Args:
        name: Name of the threads.
        timeout_s: Seconds to wait for the source.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._thread: threading.Thread | None = None
        self._since = 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether a source hangs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def age_s(self) -> float:
        """Seconds since a source was last asked."""
        return time.monotonic() - self._since

    def collect(self, source: Callable[[], Iterable[T]]) -> list[T]:
        """What the source yields in time; nothing while an earlier one hangs.

        Raises:
            Exception: What the source raised.
        """
        if self.is_stuck:
            return []
        found: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                for one in source():
                    found.append(one)  # one by one: what came before a hang counts
            except Exception as error:
                errors.append(error)

        self._since = time.monotonic()
        # A daemon: the process may end while it hangs.
        self._thread = thread = threading.Thread(target=run, name=self._name, daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if errors:
            raise errors[0]
        return list(found)
