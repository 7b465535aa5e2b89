"""Threads, locks, events and queues that stay those of the operating system when the job patches `threading`.

gevent and eventlet replace names in `threading`, `_thread`, `queue` and `socket`. An object made before goes on
working, but `threading.Event.wait` takes a new lock from the module at each call, and `Thread.start` a new thread:
ours would then wait on a green lock in a thread that has no event loop, and hang. What the agent's threads need is
therefore taken here when jitwatch is imported. An agent that is installed later refuses instead (`is_patched`).
eventlet also puts a green lock in the place of each `RLock` that it finds in a module, list, dict or `__dict__`.
"""

from __future__ import annotations

import _queue
import _thread
import importlib.util
import operator
import threading
import time
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

SimpleQueue = _queue.SimpleQueue
#: `time.sleep`, which a patch replaces as well.
pause = time.sleep
#: Called while an exception of a thread's target is handled. `guard` sets it, which takes its lock from this module.
on_failure: Callable[[str], object] = str
_allocate = _thread.allocate_lock
_allocate_reentrant = _thread.RLock


def is_patched() -> bool:
    """Whether something replaced Python's threads by its own, as `gevent.monkey.patch_all()` does.

    Such threads have identities of their own. A debugger (pydevd) replaces only what starts a thread.
    """
    return not isinstance(_thread.get_ident, BuiltinFunctionType)


def may_be_patched() -> bool:
    """Whether something that does so is installed, so that the job may use it later."""
    return any(importlib.util.find_spec(name) is not None for name in ("gevent", "eventlet"))


def _of_lock(name: str) -> Any:
    """A method of the lock in the slot. It is read in C, so that an interrupt finds `with` either before or in it."""
    return property(operator.attrgetter(f"_lock.{name}"))


class RLock:
    """What the agent needs of `threading.RLock`, in a slot, where eventlet does not look."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _allocate_reentrant()

    acquire = _of_lock("acquire")
    release = _of_lock("release")
    __enter__ = _of_lock("__enter__")
    __exit__ = _of_lock("__exit__")


class Event:
    """What the agent needs of `threading.Event`, on real locks only."""

    def __init__(self) -> None:
        self._lock = _allocate()
        self._is_set = False
        self._waiters: deque[_thread.LockType] = deque()

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._is_set

    def set(self) -> None:
        """Let everybody who waits go on, now and ever after."""
        with self._lock:
            self._is_set = True
            while self._waiters:
                self._waiters.popleft().release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `set` was called, or for so many seconds; whether it was called."""
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
    """A daemon thread that ends quietly: after a failure, which is counted, and after a patch.

    `threading.Thread` takes itself off the list of threads by the identity that the patched module gives, which is
    another one, and prints a KeyError on the job's stderr.
    """

    def __init__(self, *, target: object, name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)  # type: ignore[arg-type]

    def run(self) -> None:
        """Run the target. What it does not catch itself is logged and not printed by `threading.excepthook`."""
        try:
            super().run()
        except BaseException:
            on_failure("threads")

    def _delete(self) -> None:
        # CPython 3.11 to 3.14 call it so. Elsewhere nobody calls this, and a patched job sees the KeyError.
        try:
            super()._delete()  # type: ignore[misc]
        except KeyError:
            if self.ident is not None:
                threading._active.pop(self.ident, None)  # type: ignore[attr-defined]
