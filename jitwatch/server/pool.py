"""The threads that run the handler. They never touch a socket."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from jitwatch.server.connection import Connection
from jitwatch.server.messages import Handler, RefusedError, Request, encode

MAX_WORKERS: Final = 8
#: Complete requests that wait for a worker; the next one is answered 503.
MAX_WAITING: Final = 32


class Pool:
    """At most 8 threads that run the handler, each started when it is first needed."""

    def __init__(self, handler: Handler, on_error: Callable[[], None] | None) -> None:
        self._handler = handler
        self._on_error = on_error
        self._jobs: queue.SimpleQueue[tuple[Connection, Request] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self._stopped = False
        #: Answers, in the order in which they were finished.
        self.finished: deque[tuple[Connection, bytes]] = deque()
        self.wake: Callable[[], None] = lambda: None

    def submit(self, connection: Connection, request: Request) -> bool:
        """Queue a request, or return False when there are too many. Only the loop calls it."""
        if self._stopped or self._pending >= MAX_WORKERS + MAX_WAITING:
            return False
        if len(self._threads) < min(self._pending + 1, MAX_WORKERS):
            name = f"jitwatch-http-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    return False
            else:
                self._threads.append(thread)
        self._pending += 1
        self._jobs.put((connection, request))
        return True

    def take_finished(self) -> tuple[Connection, bytes] | None:
        """Return the next answer to send. Only the loop calls it."""
        if not self.finished:
            return None
        self._pending -= 1
        return self.finished.popleft()

    def stop(self) -> list[threading.Thread]:
        """Tell the threads to end after what they are doing, and return them."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        return self._threads

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            connection, request = job
            if self._stopped:
                continue
            self.finished.append((connection, self._answer(request)))
            self.wake()
            del job, connection, request  # keep nothing alive while waiting for the next one

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
            # Raised on purpose under tests: show it as if it had ended the thread.
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
