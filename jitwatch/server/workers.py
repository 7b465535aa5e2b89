"""The worker threads, which run the handler and never touch a client's socket."""

from __future__ import annotations

import _queue
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from jitwatch import guard
from jitwatch.server.connections import Connection
from jitwatch.server.messages import RefusedError, Request, Service, encode
from jitwatch.system.threads import SimpleQueue, Thread, is_patched, pause

#: Seconds after a failure outside of any request: a shortage, such as of memory, may be over by then.
_FAILURE_PAUSE_S: Final = 0.05


@dataclass(slots=True)
class Task:
    """A request to be handled; afterwards with the encoded response, empty if there is none, and its CPU seconds."""

    connection: Connection
    request: Request
    response: bytes = b""
    cost_s: float = 0.0


class WorkerPool:
    """A few threads that run the handler: one from the start, the others on demand."""

    def __init__(self, service: Service, wake: Callable[[], None]) -> None:
        self._service = service
        self._limits = service.limits
        self._wake = wake
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        #: By number; the first one never ends before `stop`.
        self._threads: dict[int, Thread] = {}
        self._numbers = itertools.count(1)
        self._pending = 0
        self._stopped = False
        #: In the order in which they were finished.
        self.finished: deque[Task] = deque()

    def start(self) -> None:
        """Start a thread; raises RuntimeError if the process may have no more."""
        number = next(self._numbers)
        thread = Thread(target=partial(self._run, number), name=f"jitwatch-http-{number}")
        # Added before it runs, since it removes itself at its end.
        self._threads[number] = thread
        try:
            thread.start()
        except BaseException:
            del self._threads[number]
            raise

    def submit(self, task: Task) -> bool:
        """Queue a request, or return False if there are too many. Called by the event loop only."""
        if self._stopped or not self._threads or self._pending >= self._limits.workers + self._limits.waiting:
            return False
        # In a process that gevent has patched, a new thread would be a greenlet that blocks the event loop's thread.
        if len(self._threads) < min(self._pending + 1, self._limits.workers) and not is_patched():
            with suppress(RuntimeError, MemoryError):  # the existing threads go on
                self.start()
        self._pending += 1
        self._tasks.put(task)
        return True

    def take_finished(self) -> Task | None:
        """Return the next request that was handled. Called by the event loop only."""
        if not self.finished:
            return None
        self._pending -= 1
        return self.finished.popleft()

    def stop(self) -> None:
        """Make the threads end after their current request."""
        self._stopped = True
        # More than there are threads: one that is about to end by itself may consume another's.
        for _ in range(2 * self._limits.workers):
            self._tasks.put(None)

    def threads(self) -> tuple[Thread, ...]:
        """The threads that run now."""
        return tuple(self._threads.values())

    def _run(self, number: int) -> None:
        """Work until `stop` or, except for the first thread, until idle; no exception ends it."""
        while True:
            try:
                self._work(None if number == 1 else self._limits.worker_idle_s)
                return
            except _queue.Empty:
                del self._threads[number]
                # A task that was queued before that counts on this thread.
                with suppress(_queue.Empty):
                    self._work(0.0)
                return
            except BaseException:
                report(self._service.on_error)
                pause(_FAILURE_PAUSE_S)

    def _work(self, idle_s: float | None) -> None:
        while (task := self._tasks.get(timeout=idle_s)) is not None:
            if self._stopped:
                continue
            started = time.thread_time()
            try:
                task.response = self._respond(task.request)
            finally:
                # Also without a response, so that the connection ends and the request is no longer pending.
                task.cost_s = time.thread_time() - started
                self.finished.append(task)
                self._wake()
            del task  # keep nothing alive while waiting for the next one

    def _respond(self, request: Request) -> bytes:
        try:
            return encode(self._service.handler(request), with_body=request.method != "HEAD")
        except BaseException:  # after a SystemExit, too, the client gets a response
            report(self._service.on_error)
            return encode(RefusedError(500, "internal error: see the log of the job").response)


def report(on_error: Callable[[], None] | None) -> None:
    """Report the exception being handled; the thread goes on even if that raises."""
    if on_error is not None:
        try:
            on_error()
        except BaseException:
            if guard.reraise:
                # Raised on purpose under tests: show it as if it had ended the thread.
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def run_all(parts: Iterable[Callable[[], object]], on_error: Callable[[], None] | None) -> None:
    """Call each part; a failure is reported, and the next one is called."""
    for part in parts:
        try:
            part()
        except BaseException:
            report(on_error)
