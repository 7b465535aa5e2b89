"""Calls with a timeout, for what may hang: a network folder whose server does not respond."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from jitwatch.system.threads import Thread

T = TypeVar("T")


class TimedCaller:
    """Makes one call at a time in a daemon thread, and waits for it up to a timeout.

    A call that hangs delays neither the caller, beyond the timeout, nor the exit of the interpreter. It is not
    repeated: it ends in its thread when the disk responds, and until then further calls are refused.

    Args:
        timeout_s: Seconds to wait for a call.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._last: threading.Thread | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            TimeoutError: It did not end in time, or an earlier call has not ended yet.
        """
        if self._last is not None and self._last.is_alive():
            raise _refusal("did not respond before, and is not used until it does")
        self._last = None
        work = _Work(function)
        thread = Thread(target=work.run, name="jitwatch-files")
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self._last = thread
            raise _refusal(f"did not respond within {self._timeout_s:g} s")
        return work.result()


class _Work(Generic[T]):
    """A call and its result."""

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
            # The traceback refers to this frame: dropping the reference to the error avoids a cycle.
            error, self._error = self._error, None
            raise error
        return self._results[0]


def _refusal(text: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"{os.strerror(errno.ETIMEDOUT)}: the disk {text}")
