"""Threads, locks, latches and queues that remain those of the operating system if the job patches `threading`.

`BegunThread` and `TimedCaller` are for what may hang: a network folder whose server does not respond.

gevent and eventlet replace names in `threading`, `_thread`, `queue` and `socket`. Existing objects keep working, but
`threading.Event.wait` creates a new lock from the module at each call, and `Thread.start` a new thread: a thread of the
agent would then wait on a green lock without an event loop, and hang. What the agent's threads need is therefore saved
here when jitwatch is imported. An agent that is installed later does not start (`is_patched`). eventlet also replaces
each `RLock` that it finds in a module, list, dict or `__dict__` by a green lock.
"""

from __future__ import annotations

import _queue
import _thread
import errno
import importlib.util
import operator
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, TypeVar

T = TypeVar("T")
SimpleQueue = _queue.SimpleQueue
#: The original `time.sleep`.
pause = time.sleep
#: Seconds of work between two pauses.
_WORK_S = 0.001
#: Called while an exception of a thread's target is handled. Set by `guard`, which imports this module.
on_failure: Callable[[str], object] = str
_allocate = _thread.allocate_lock
_allocate_reentrant = _thread.RLock
#: The original `threading.get_ident`: the identifier in `sys._current_frames()`.
native_ident = _thread.get_ident


def is_patched() -> bool:
    """Whether Python's threads were replaced, as by `gevent.monkey.patch_all()`.

    Such threads have identifiers of their own. A debugger (pydevd) replaces only the function that starts a thread.
    """
    return not isinstance(_thread.get_ident, BuiltinFunctionType)


def may_be_patched() -> bool:
    """Whether a package that patches threads is installed, so that the job may use it later."""
    return any(importlib.util.find_spec(name) is not None for name in ("gevent", "eventlet"))


def _of_lock(name: str) -> Any:
    """A method of the lock in the slot. It is read in C, so that no signal handler runs between it and `with`."""
    return property(operator.attrgetter(f"_lock.{name}"))


class RLock:
    """The part of `threading.RLock` that the agent needs, with the lock in a slot, where eventlet does not look."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _allocate_reentrant()

    acquire = _of_lock("acquire")
    release = _of_lock("release")
    __enter__ = _of_lock("__enter__")
    __exit__ = _of_lock("__exit__")


class Pauses:
    """Lets other threads run at short intervals: a thread works and pauses for as long."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def take(self) -> None:
        """Pause if the thread has worked for long enough."""
        if time.perf_counter() - self._since > _WORK_S:
            pause(_WORK_S)
            self._since = time.perf_counter()


class Latch:
    """A flag that is set once and waited for: the part of `threading.Event` that the agent needs."""

    def __init__(self) -> None:
        self._lock = _allocate()
        self._is_set = False
        self._waiters: deque[_thread.LockType] = deque()

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._is_set

    def set(self) -> None:
        """Wake all waiting threads; later calls of `wait` return at once."""
        with self._lock:
            self._is_set = True
            while self._waiters:
                self._waiters.popleft().release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `set` is called, or for `timeout_s`; return whether it was called."""
        with self._lock:
            if self._is_set:
                return True
            waiter = _allocate()
            waiter.acquire()
            self._waiters.append(waiter)
        try:
            waiter.acquire(timeout=-1 if timeout_s is None else max(0.0, min(timeout_s, threading.TIMEOUT_MAX)))
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self._is_set


class Thread(threading.Thread):
    """A daemon thread that prints nothing when it ends: not after a failure, which is counted, nor after a patch.

    `threading.Thread` removes itself from the list of threads by the identifier from the patched module, which is
    another one, and prints a KeyError on the job's stderr.
    """

    def __init__(self, *, target: object, name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)  # type: ignore[arg-type]

    def run(self) -> None:
        """Run the target. An exception is logged, and not printed by `threading.excepthook`."""
        try:
            super().run()
        except BaseException:
            on_failure("threads")

    def _delete(self) -> None:
        # The name in CPython 3.11 to 3.14. If it changes, this is not called, and a patched job prints the KeyError.
        try:
            super()._delete()  # type: ignore[misc]
        except KeyError:
            if self.ident is not None:
                threading._active.pop(self.ident, None)  # type: ignore[attr-defined]


class BegunThread(Thread):
    """A thread whose first step, `begin`, is waited for; `serve` follows, unless `begin` fails in time."""

    def __init__(self, begin: Callable[[], object], serve: Callable[[], object], *, name: str) -> None:
        super().__init__(target=self._begin_and_serve, name=name)
        self._begin, self._serve = begin, serve
        #: Set at the end of the first step, or when it is no longer waited for.
        self._is_begun = Latch()
        self.error: Exception | None = None

    def start_within(self, timeout_s: float) -> Exception | None:
        """Start the thread (RuntimeError: there is none left), and return what `begin` raised if it ended in time."""
        self.start()
        if not self._is_begun.wait(timeout_s):
            self._is_begun.set()
        if self.error is not None:
            self.join(timeout_s)
        return self.error

    def _begin_and_serve(self) -> None:
        try:
            self._begin()
        except Exception as error:
            is_late, self.error = self._is_begun.is_set(), error
            if not is_late:
                return
        finally:
            self._is_begun.set()
        self._serve()


class TimedCaller:
    """Makes one call at a time in a daemon thread, and waits for it up to a timeout.

    A call that hangs ends in its thread when the disk responds; until then further calls are refused.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._last: Thread | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Return what the function returns, or raise what it raises; TimeoutError if it does not end in time."""
        if self._last is not None and self._last.is_alive():
            raise _refusal("did not respond before, and is not used until it does")
        self._last = None
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=work, name="jitwatch-files")
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self._last = thread
            raise _refusal(f"did not respond within {self._timeout_s:g} s")
        if errors:
            raise errors.pop()  # removed: its traceback refers to this frame, which would be a cycle
        return results[0]


def _refusal(text: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"{os.strerror(errno.ETIMEDOUT)}: the disk {text}")
