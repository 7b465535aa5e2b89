"""Calls that may hang, as on a network folder whose server is gone: waited for once, then refused until it answers."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from jitwatch.system.threads import Thread

T = TypeVar("T")


class Patience:
    """Makes one call at a time in a thread of its own, and waits for it only so long.

    The thread is a daemon and lives as long as its call: a call that hangs delays neither its caller nor the end of the
    interpreter. Such a call is never repeated; what it does when the disk answers is done without anybody waiting.

    Args:
        timeout_s: Seconds to wait for a call.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._last: threading.Thread | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            TimeoutError: It did not end in time, or one before it has not ended yet.
        """
        if self._last is not None and self._last.is_alive():
            raise _refusal("did not answer before and is not asked again until it does")
        self._last = None
        work = _Work(function)
        thread = Thread(target=work.run, name="jitwatch-files")
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self._last = thread
            raise _refusal(f"did not answer within {self._timeout_s:g} s")
        return work.result()


class _Work(Generic[T]):
    """A call, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            # The error's traceback holds this frame: without the reference back there is no cycle to collect.
            error, self._error = self._error, None
            raise error
        return self._results[0]


def _refusal(text: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"{os.strerror(errno.ETIMEDOUT)}: the disk {text}")
