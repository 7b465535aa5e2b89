"""A small HTTP/1.1 server that no client can block.

One thread (`jitwatch-http`) owns every socket: it accepts, shakes TLS hands, reads request heads and
writes answers, all without blocking. Only a complete, permitted request reaches one of at most
8 worker threads, which runs the handler and never touches a socket. So an idle client, one that sends
a byte a second, or one that never reads its answer costs a file descriptor until its time is over, and
nothing else. Every answer closes its connection. What requests may take of the job's time is bounded
(`budget`). With no client, all threads sleep, but for a look at the descriptors every five seconds.
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
from jitwatch.server.gate import Gate, is_loopback, names_of_machine
from jitwatch.server.listen import listen, url_of
from jitwatch.server.loop import MAX_CONNECTIONS, Loop
from jitwatch.server.messages import Handler, Request, Response
from jitwatch.server.pool import Pool, do_all, report
from jitwatch.server.tls import server_context
from jitwatch.system import shortages
from jitwatch.system.threads import Thread

__all__ = ["Handler", "Request", "Response", "Server"]


class Server:
    """Serves one handler on one port until `close()`.

    Args:
        handler: Answers a request; called on several threads at once.
        host: Name or address to listen on.
        port: First port to try; 0 lets the system choose.
        tls_cert: PEM certificate; with `tls_key` the endpoint speaks TLS only.
        tls_key: PEM private key.
        tls_client_ca: PEM authorities; with it clients need a certificate.
        token: Bearer token that every request must carry.
        allowed_hosts: Names, or patterns of names, by which it may be called besides those of this machine.
        kept: An answer that was given before, for a request that has no share of time left; or None.
        on_error: Called inside the `except` block of a failure of the handler or of the server.
        on_end: Called inside the `except` block of what ended the server for good.

    Attributes:
        port: The port wanted, and from `start()` on the one that is open.
        moved_from: The port wanted, if it was taken and another one is open.
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
        kept: Callable[[Request], Response | None] = lambda _: None,
        on_error: Callable[[], None] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.port = port
        self.moved_from: int | None = None
        self._handler = handler
        self._host = host
        self._tls = (tls_cert, tls_key, tls_client_ca)
        self._token = token
        self._allowed_hosts = allowed_hosts
        self._kept = kept
        self._on_error = on_error
        self._on_end = on_end
        self._bound_to = ""
        self._context: ssl.SSLContext | None = None
        self._loop: Loop | None = None
        self._thread: Thread | None = None
        self._pid = os.getpid()
        self._closing = threading.Lock()

    @property
    def url(self) -> str:
        """An address that works on this machine, `http://127.0.0.1:10431`."""
        return url_of(self._host, self._bound_to, self.port, is_tls=self._tls[0] is not None)

    @property
    def is_open(self) -> bool:
        """Whether it listens where other machines reach it and asks them for nothing."""
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
            ServerError: The port or a thread could not be had.
        """
        if self._loop is not None:
            raise ServerError("this server was started before: make a new Server")
        self.check()
        listener = listen(self._host, self.port, backlog=MAX_CONNECTIONS)
        try:
            self._start(listener)
        except BaseException as error:
            if self._loop is not None:
                self._loop.pool.stop()
                self._loop.close_all()
            listener.close()
            if isinstance(error, (OSError, RuntimeError, MemoryError)):
                raise ServerError(f"the endpoint could not be opened ({error}): {shortages.advice(error)}") from error
            raise

    def _start(self, listener: socket.socket) -> None:
        wanted, (self._bound_to, self.port) = self.port, listener.getsockname()[:2]
        self.moved_from = wanted if wanted not in (0, self.port) else None
        gate = Gate(
            self._token,
            self._host,
            self._bound_to,
            allowed_hosts=self._allowed_hosts,
            is_tls=self._context is not None,
        )
        self._pid = os.getpid()
        self._loop = Loop(
            listener,
            self._context,
            gate,
            Pool(self._handler, self._on_error),
            self._on_error,
            reopen=self._open_again,
            kept=self._kept,
            on_end=self._on_end,
        )
        self._loop.pool.start()
        if gate.checks_host and not is_loopback(self._bound_to):
            # The name server may take seconds to answer, for which neither the job nor a scrape shall wait.
            with suppress(RuntimeError, MemoryError):
                Thread(target=partial(self._learn_names, gate), name="jitwatch-names").start()
        thread = Thread(target=self._loop.run, name="jitwatch-http")
        thread.start()
        self._thread = thread

    def _learn_names(self, gate: Gate) -> None:
        try:
            gate.learn(names_of_machine())
        except BaseException:
            report(self._on_error)

    def _open_again(self) -> socket.socket:
        """The same port and no other, since it is known by now."""
        return listen(self._host, self.port, backlog=MAX_CONNECTIONS, search=0)

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop serving; no thread and no socket is left.

        Args:
            timeout_s: Longest wait for a handler that is still running. Its daemon thread ends
                as soon as the handler returns.
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
            do_all((loop.stop, partial(_join, thread, deadline)), self._on_error)
            workers = loop.pool.threads()
            ends = [partial(_join, worker, deadline) for worker in workers]
            if thread.is_alive():
                do_all((loop.pool.stop, *ends), self._on_error)
            else:
                do_all((loop.pool.stop, loop.close_all, *ends), self._on_error)

    def abandon(self) -> None:
        """In a forked child: let go of the inherited sockets; the parent keeps serving.

        Takes no lock and joins no thread: another thread may have held or run it at the fork.
        """
        self._closing = threading.Lock()
        if self._loop is not None:
            self._loop.abandon()


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread is not threading.current_thread():
        thread.join(max(0.0, deadline - time.monotonic()))
