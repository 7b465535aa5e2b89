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
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from jitwatch.errors import EndpointConfigError, ServerError
from jitwatch.server.access import AccessPolicy, is_loopback, names_of_machine
from jitwatch.server.limits import LIMITS, Limits
from jitwatch.server.listener import listen, url_of
from jitwatch.server.loop import EventLoop
from jitwatch.server.messages import Handler, Request, Response
from jitwatch.server.tls import server_context
from jitwatch.server.workers import WorkerPool, report, run_all
from jitwatch.system import shortages
from jitwatch.system.threads import Thread

__all__ = ["Handler", "Request", "Response", "Server"]


class Server:
    """Serves one handler on one port until `close()`.

    Args:
        handler: Returns the response to a request; called in several threads at once.
        host: Name or address to listen on.
        port: First port to try; 0 lets the system choose.
        tls_cert: PEM certificate; with it and `tls_key` the endpoint speaks TLS only.
        tls_key: PEM private key.
        tls_client_ca: PEM authorities; with it clients need a certificate.
        token: Bearer token that every request must carry.
        allowed_hosts: Names, or patterns of names, that the Host header may have besides those of this machine.
        cached: Returns an earlier response to a request that is over the CPU budget, or None.
        on_error: Called inside the `except` block of a failure of the handler or of the server.
        on_end: Called inside the `except` block of the failure that ends the server.
        limits: What clients may use.

    Attributes:
        port: The requested port; from `start()` on, the open one.
        moved_from: The requested port, if it was taken and another one is open.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_client_ca: str | None = None,
        token: str | None = None,
        allowed_hosts: tuple[str, ...] = (),
        cached: Callable[[Request], Response | None] = lambda _: None,
        on_error: Callable[[], None] | None = None,
        on_end: Callable[[], None] = lambda: None,
        limits: Limits = LIMITS,
    ) -> None:
        self.port = port
        self.moved_from: int | None = None
        self._handler = handler
        self._host = host
        self._tls = (tls_cert, tls_key, tls_client_ca)
        self._token = token
        self._allowed_hosts = allowed_hosts
        self._cached = cached
        self._on_error = on_error
        self._on_end = on_end
        self._limits = limits
        self._bound_to = ""
        self._context: ssl.SSLContext | None = None
        self._loop: EventLoop | None = None
        self._thread: Thread | None = None
        self._pid = os.getpid()
        self._closing = threading.Lock()

    @property
    def url(self) -> str:
        """An address that works on this machine, `http://127.0.0.1:10431`."""
        return url_of(self._host, self._bound_to, self.port, is_tls=self._tls[0] is not None)

    @property
    def is_open(self) -> bool:
        """Whether other machines can read it without a token or a certificate."""
        return self._token is None and self._tls[0] is None and not is_loopback(self._bound_to)

    def check(self) -> None:
        """Check the options, without opening anything.

        Raises:
            EndpointConfigError: TLS files or token are unusable.
        """
        if self._token is not None and not self._token.strip():
            raise EndpointConfigError("the token is empty: give one that is not, or none at all")
        cert, key, client_ca = self._tls
        if cert is None and key is None and client_ca is None:
            return
        if cert is None or key is None:
            raise EndpointConfigError("TLS needs both tls_cert and tls_key: give both files, or no TLS option")
        self._context = server_context(cert, key, client_ca)

    def start(self) -> None:
        """Open the port and start serving.

        Raises:
            EndpointConfigError: TLS files or token are unusable.
            ServerError: The port could not be opened or a thread not be started.
        """
        if self._loop is not None:
            raise ServerError("this server was started before: make a new Server")
        self.check()
        listener = listen(self._host, self.port, backlog=self._limits.connections)
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
        access = AccessPolicy(
            self._token,
            self._host,
            self._bound_to,
            allowed_hosts=self._allowed_hosts,
            is_tls=self._context is not None,
        )
        self._pid = os.getpid()
        self._loop = EventLoop(
            listener,
            self._context,
            access,
            WorkerPool(self._handler, self._on_error, self._limits),
            self._on_error,
            reopen=self._reopen,
            cached=self._cached,
            on_end=self._on_end,
            limits=self._limits,
        )
        self._loop.workers.start()
        if access.checks_host and not is_loopback(self._bound_to):
            # The lookup may take seconds, which neither the job nor a scrape should wait for.
            with suppress(RuntimeError, MemoryError):
                Thread(target=partial(self._add_names, access), name="jitwatch-names").start()
        thread = Thread(target=self._loop.run, name="jitwatch-http")
        thread.start()
        self._thread = thread

    def _add_names(self, access: AccessPolicy) -> None:
        try:
            access.add_names(names_of_machine())
        except BaseException:
            report(self._on_error)

    def _reopen(self) -> socket.socket:
        """Open the same port and no other, since clients know it by now."""
        return listen(self._host, self.port, backlog=self._limits.connections, search=0)

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop serving and close every socket.

        Args:
            timeout_s: Longest wait for a handler that is still running. Its daemon thread ends when the handler
                returns.
        """
        if self._loop is None:
            return
        if os.getpid() != self._pid:
            self.abandon()
            return
        deadline = time.monotonic() + timeout_s
        with self._closing:
            loop, thread = self._loop, self._thread
            if thread is None or loop.abandoned:
                return
            run_all((loop.stop, partial(_join, thread, deadline)), self._on_error)
            workers = loop.workers.threads()
            ends = [partial(_join, worker, deadline) for worker in workers]
            if thread.is_alive():
                run_all((loop.workers.stop, *ends), self._on_error)
            else:
                run_all((loop.workers.stop, loop.close_all, *ends), self._on_error)

    def abandon(self) -> None:
        """In a forked child: close the inherited sockets; the parent keeps serving.

        Acquires no lock and joins no thread: another thread may have held the lock at the fork.
        """
        self._closing = threading.Lock()
        if self._loop is not None:
            self._loop.abandon()


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread is not threading.current_thread():
        thread.join(max(0.0, deadline - time.monotonic()))
