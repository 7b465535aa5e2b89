"""The threads that run the handler. They never touch a socket of a client."""

from __future__ import annotations

import _queue
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
from jitwatch.server.connection import Connection
from jitwatch.server.messages import Handler, RefusedError, Request, encode
from jitwatch.system.threads import SimpleQueue, Thread, is_patched, pause

MAX_WORKERS: Final = 8
#: Complete requests that wait for a worker; the next one is answered 503.
MAX_WAITING: Final = 32
#: Seconds without a request after which a thread ends, but for the first one.
_IDLE_S: Final = 5.0
#: Seconds after a failure outside of any request: what lacks, such as memory, may be back by then.
_FAILURE_PAUSE_S: Final = 0.05


@dataclass(slots=True)
class Job:
    """A request to be handled; once it was, with the answer, empty when there is none, and the CPU seconds it took."""

    connection: Connection
    request: Request
    answer: bytes = b""
    cost_s: float = 0.0


class Pool:
    """At most 8 threads that run the handler: one from the start, and others while they are needed."""

    def __init__(self, handler: Handler, on_error: Callable[[], None] | None) -> None:
        self._handler = handler
        self._on_error = on_error
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        #: By number; the first one is always there.
        self._threads: dict[int, Thread] = {}
        self._started = 0
        self._pending = 0
        self._stopped = False
        #: In the order in which they were finished.
        self.finished: deque[Job] = deque()
        self.wake: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Start the first thread.

        Raises:
            RuntimeError: The process may have no more threads.
        """
        self._started += 1
        number = self._started
        thread = Thread(target=partial(self._run, number), name=f"jitwatch-http-{number}")
        # Before it runs, since it takes itself off at the end.
        self._threads[number] = thread
        try:
            thread.start()
        except BaseException:
            del self._threads[number]
            raise

    def submit(self, connection: Connection, request: Request) -> bool:
        """Queue a request, or return False when there are too many. Only the loop calls it."""
        if self._stopped or not self._threads or self._pending >= MAX_WORKERS + MAX_WAITING:
            return False
        # After a patch a new thread would be a green one, which runs in the loop's thread and blocks it.
        if len(self._threads) < min(self._pending + 1, MAX_WORKERS) and not is_patched():
            with suppress(RuntimeError, MemoryError):  # those that are there go on
                self.start()
        self._pending += 1
        self._jobs.put(Job(connection, request))
        return True

    def take_finished(self) -> Job | None:
        """Return the next request that was handled. Only the loop calls it."""
        if not self.finished:
            return None
        self._pending -= 1
        return self.finished.popleft()

    def stop(self) -> None:
        """Tell the threads to end after what they are doing."""
        self._stopped = True
        # More than there are: one that is about to end by itself may take what is meant for another.
        for _ in range(2 * MAX_WORKERS):
            self._jobs.put(None)

    def threads(self) -> tuple[Thread, ...]:
        """Those that run now."""
        return tuple(self._threads.values())

    def _run(self, number: int) -> None:
        """Work until told to end, or, if not the first, until there is nothing to do; whatever fails."""
        while True:
            try:
                self._work(None if number == 1 else _IDLE_S)
                return
            except _queue.Empty:
                del self._threads[number]
                # What was queued before that counts on this thread.
                with suppress(_queue.Empty):
                    self._work(0.0)
                return
            except BaseException:
                report(self._on_error)
                pause(_FAILURE_PAUSE_S)

    def _work(self, idle_s: float | None) -> None:
        while (job := self._jobs.get(timeout=idle_s)) is not None:
            if self._stopped:
                continue
            started = time.thread_time()
            try:
                job.answer = self._answer(job.request)
            finally:
                # Also without an answer, so that the connection ends and the request does not count for ever.
                job.cost_s = time.thread_time() - started
                self.finished.append(job)
                self.wake()
            del job  # keep nothing alive while waiting for the next one

    def _answer(self, request: Request) -> bytes:
        try:
            return encode(self._handler(request), with_body=request.method != "HEAD")
        except BaseException:  # even SystemExit must not leave the client without an answer
            report(self._on_error)
            return encode(RefusedError(500, "internal error; the job's log says more").response)


def report(on_error: Callable[[], None] | None) -> None:
    """Hand on the exception being handled; the thread survives even if that raises."""
    if on_error is not None:
        try:
            on_error()
        except BaseException:
            if guard.reraise:
                # Raised on purpose under tests: show it as if it had ended the thread.
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def do_all(parts: Iterable[Callable[[], object]], on_error: Callable[[], None] | None) -> None:
    """Call each; what fails is reported, and the others follow."""
    for part in parts:
        try:
            part()
        except BaseException:
            report(on_error)
