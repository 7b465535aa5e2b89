"""The threads that run the handler. They never touch a socket of a client."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from jitwatch import guard
from jitwatch.server.connection import Connection
from jitwatch.server.messages import Handler, RefusedError, Request, encode
from jitwatch.threads import SimpleQueue, Thread, is_patched, pause

MAX_WORKERS: Final = 8
#: Complete requests that wait for a worker; the next one is answered 503.
MAX_WAITING: Final = 32
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
    """At most 8 threads that run the handler: one from the start, each other when it is first needed."""

    def __init__(self, handler: Handler, on_error: Callable[[], None] | None) -> None:
        self._handler = handler
        self._on_error = on_error
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
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
        thread = Thread(target=self._run, name=f"jitwatch-http-{len(self._threads) + 1}")
        thread.start()
        self._threads.append(thread)

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

    def stop(self) -> list[Thread]:
        """Tell the threads to end after what they are doing, and return them."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        return self._threads

    def _run(self) -> None:
        """Work until told to end, whatever fails."""
        while True:
            try:
                self._work()
                return
            except BaseException:
                report(self._on_error)
                pause(_FAILURE_PAUSE_S)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
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
