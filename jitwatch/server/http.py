"""A small HTTP/1.1 server that no client can block.

One thread (`jitwatch-http`, see `loop`) owns every socket: it accepts, does TLS handshakes, reads request heads and
writes responses, all without blocking. Only a complete, authorized request reaches one of a few worker threads
(`workers`), which run the handler and never touch a socket. An idle client, one that sends a byte a second, or one that
never reads its response therefore costs one file descriptor until its timeout. Every response closes its connection.
The CPU time of requests is bounded (`limits`). Without clients all threads sleep, except that the descriptors are
checked every five seconds.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from jitwatch.errors import ServerError
from jitwatch.server.access import AccessPolicy, is_loopback, names_of_machine
from jitwatch.server.listener import listen, url_of
from jitwatch.server.loop import EventLoop
from jitwatch.server.messages import Handler, Request, Response, Service
from jitwatch.server.workers import run_all
from jitwatch.system import shortages
from jitwatch.system.threads import Thread

__all__ = ["Handler", "Request", "Response", "Server"]


@dataclass(eq=False, kw_only=True, repr=False)
class Server(Service):
    """Serves one handler on one port until `close()`.

    Attributes:
        port: First port to try, 0 lets the system choose; from `start()` on, the open one.
        moved_from: The requested port, if it was taken and another one is open.
    """

    port: int
    moved_from: int | None = None

    def __post_init__(self) -> None:
        self._bound_to = ""
        self._loop: EventLoop | None = None
        self._thread: Thread | None = None
        self._pid = os.getpid()
        self._closing = threading.Lock()

    @property
    def url(self) -> str:
        """An address that works on this machine, `http://127.0.0.1:10431`."""
        return url_of(self.host, self._bound_to, self.port, is_tls=self.context is not None)

    @property
    def is_open(self) -> bool:
        """Whether other machines can read it without a token or a certificate."""
        return self.token is None and self.context is None and not is_loopback(self._bound_to)

    def start(self) -> None:
        """Open the port and start serving; raises ServerError if it cannot be opened or a thread not be started."""
        listener = listen(self.host, self.port, backlog=self.limits.connections)
        try:
            self._start(listener)
        except BaseException as error:
            if self._loop is not None:
                self._loop.workers.stop()
                self._loop.close_all()
            listener.close()
            if isinstance(error, (OSError, RuntimeError, MemoryError)):
                raise ServerError(f"the endpoint could not be opened ({error}): {shortages.advice(error)}") from error
            raise

    def _start(self, listener: socket.socket) -> None:
        wanted, (self._bound_to, self.port) = self.port, listener.getsockname()[:2]
        self.moved_from = wanted if wanted not in (0, self.port) else None
        access = AccessPolicy(self, self._bound_to)
        self._pid = os.getpid()
        self._loop = EventLoop(self, listener, access, self._reopen)
        self._loop.workers.start()
        if access.checks_host and not is_loopback(self._bound_to):
            # The lookup may take seconds, which neither the job nor a scrape should wait for.
            look_up = partial(run_all, (lambda: access.add_names(names_of_machine()),), self.on_error)
            with suppress(RuntimeError, MemoryError):
                Thread(target=look_up, name="jitwatch-names").start()
        thread = Thread(target=self._loop.run, name="jitwatch-http")
        thread.start()
        self._thread = thread

    def _reopen(self) -> socket.socket:
        """Open the same port and no other, since clients know it by now."""
        return listen(self.host, self.port, backlog=self.limits.connections, search=0)

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop serving and close every socket. A handler that runs longer ends its daemon thread when it returns."""
        if self._loop is None:
            return
        if os.getpid() != self._pid:
            self.abandon()
            return
        deadline = time.monotonic() + timeout_s
        with self._closing:
            loop, thread = self._loop, self._thread
            if thread is None or loop.is_abandoned:
                return
            run_all((loop.stop, partial(_join, thread, deadline)), self.on_error)
            ends = [partial(_join, worker, deadline) for worker in loop.workers.threads()]
            closing = () if thread.is_alive() else (loop.close_all,)
            run_all((loop.workers.stop, *closing, *ends), self.on_error)

    def abandon(self) -> None:
        """In a forked child: close the inherited sockets; the parent keeps serving. Acquires no lock."""
        self._closing = threading.Lock()  # another thread may have held it at the fork
        if self._loop is not None:
            self._loop.abandon()


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread is not threading.current_thread():
        thread.join(max(0.0, deadline - time.monotonic()))
