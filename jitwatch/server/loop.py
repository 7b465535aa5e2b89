"""The event loop: the thread that owns every socket of the endpoint."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from jitwatch.server.access import AccessPolicy
from jitwatch.server.connections import Connection, Connections, Phase
from jitwatch.server.limits import RequestBudget, TokenBucket
from jitwatch.server.listener import DescriptorClosedError, Listener
from jitwatch.server.messages import RefusedError, Request, Service, encode, parse_head
from jitwatch.server.workers import Task, WorkerPool, report, run_all
from jitwatch.system.threads import Latch, pause

#: Seconds between a failed iteration and the next: a shortage, such as of memory, may be over by then.
_FAILURE_PAUSE_S: Final = 0.01
#: Connections accepted in an iteration; the second while the loop's own budget is used up.
_ACCEPTS_PER_ITERATION: Final = 64
_ACCEPTS_OVER_BUDGET: Final = 8
_ACCEPT_PAUSE_S: Final = 0.5


class EventLoop:
    """Accepts clients, reads requests and writes responses, all without blocking.

    Apart from `stop` and `abandon`, its methods are called in its own thread only.

    Args:
        service: What is served.
        listener: The open port.
        access: Decides which requests are authorized.
        reopen: Opens the same port again after the job has closed its descriptor.

    Attributes:
        is_abandoned: Whether this is a forked child's copy.
    """

    def __init__(
        self, service: Service, listener: socket.socket, access: AccessPolicy, reopen: Callable[[], socket.socket]
    ) -> None:
        limits = service.limits
        self.is_abandoned = False
        self.workers = WorkerPool(service, wake=self._wake)
        self._service = service
        self._access = access
        self._open_port = reopen
        self._stopped = Latch()
        #: Monotonic times: when the time limit of a connection is over, and until when no connection is accepted.
        self._next_expiry = float("inf")
        self._accept_again_at: float | None = None
        self._left_to_reopen = limits.reopened
        #: CPU seconds of this thread up to the end of the last iteration.
        self._cpu_s = 0.0
        self._requests = RequestBudget(limits)
        share = limits.loop_share if service.context is None else limits.loop_share_tls
        self._budget = TokenBucket(share, limits.loop_burst_s)
        self._listener = Listener(listener)
        self._connections = Connections(self._listener, limits)

    def run(self) -> None:
        """Serve until `stop`, or until it fails for good; then close everything."""
        try:
            self._serve()
        except BaseException:
            report(self._service.on_end)
        run_all((self.workers.stop, self.close_all), self._service.on_error)

    def stop(self) -> None:
        """Make `run` return soon. Thread-safe."""
        self._stopped.set()
        self._wake()

    def close_all(self) -> None:
        """Close every socket. Idempotent."""
        run_all((*self._connections.closers(), *self._listener.closers()), self._service.on_error)

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors only; the parent keeps serving."""
        self.is_abandoned = True
        self._listener.abandon()
        for connection in tuple(self._connections):
            connection.abandon()

    def _wake(self) -> None:
        self._listener.wake()

    def _serve(self) -> None:
        """Iterate until `stop`. A failure of one connection ends that connection; the loop ends after many others."""
        failures, self._cpu_s = 0, time.thread_time()
        while not self._stopped.is_set():
            try:
                self._iterate()
                failures = 0
            except DescriptorClosedError:
                report(self._service.on_error)
                self._reopen()
            except BaseException:  # also a SystemExit that is injected into all threads
                failures += 1
                report(self._service.on_error)
                if failures >= self._service.limits.failures:
                    raise
                pause(_FAILURE_PAUSE_S)

    def _iterate(self) -> None:
        ready = self._listener.selector.select(self._timeout())
        self._listener.check()
        for key, _ in ready:
            if key.data is not None:
                self._advance(key.data)
            elif self._listener.is_listener(key):
                self._accept()
            else:
                self._listener.clear_wakes()
        self._send_responses()
        self._expire()
        before, self._cpu_s = self._cpu_s, time.thread_time()
        self._budget.spend(self._cpu_s - before)
        if wait_s := self._budget.wait_s():
            self._pause(min(wait_s, self._service.limits.pause_s))

    def _timeout(self) -> float:
        until = min(self._next_expiry, self._accept_again_at or float("inf"))
        return max(0.0, min(until - time.monotonic(), self._service.limits.sleep_s))

    def _pause(self, seconds: float) -> None:
        """Accept and read nothing for so long. Finished responses are sent, since the workers have their own budget."""
        until = time.monotonic() + seconds
        while not self._stopped.is_set() and (left_s := until - time.monotonic()) > 0:
            if self._listener.sleep(left_s):
                self._listener.check()
                self._listener.clear_wakes()
                self._send_responses()

    def _reopen(self) -> None:
        """Open the port again after the job has closed its descriptor, a few times at most."""
        self.close_all()
        if self._left_to_reopen == 0:
            raise DescriptorClosedError("the job closes the descriptors of the endpoint repeatedly")
        self._left_to_reopen -= 1
        self._accept_again_at = None
        listener = self._open_port()
        try:
            self._listener = Listener(listener)
        except BaseException:
            listener.close()
            raise
        self._connections = Connections(self._listener, self._service.limits)

    def _expire(self) -> None:
        now = time.monotonic()
        self._next_expiry = self._connections.drop_expired(now)
        if self._accept_again_at is not None and self._accept_again_at <= now:
            self._listener.resume()
            self._accept_again_at = None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_ITERATION if self._budget.wait_s() == 0 else _ACCEPTS_OVER_BUDGET):
            try:
                sock = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                # Usually out of file descriptors: the port stays readable, and accepting at once again would use up
                # the job's CPU.
                self._connections.drop_idlest()
                self._listener.pause()
                self._accept_again_at = time.monotonic() + _ACCEPT_PAUSE_S
                return
            if len(self._connections) >= self._service.limits.connections and not self._connections.drop_idlest():
                sock.close()
            else:
                self._open(sock)

    def _open(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            if self._service.context is not None:
                sock = self._service.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            connection = Connection(sock, self._service.limits)
        except (OSError, ValueError):  # the client has gone already
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        if (stale := self._listener.selector.get_map().get(sock)) is not None:
            # The job has closed that one's descriptor, and this socket has the same number.
            if stale.data is None:
                raise DescriptorClosedError
            self._connections.drop(stale.data)
        self._connections.add(connection)
        self._advance(connection)

    def _send_responses(self) -> None:
        while (task := self.workers.take_finished()) is not None:
            if self._requests.charge(task.request.path, task.connection.charged_s, task.cost_s):
                self._budget.spend(task.cost_s)
            if task.response:
                self._advance(task.connection, task.response)
            else:
                self._connections.drop(task.connection)

    def _advance(self, connection: Connection, response: bytes | None = None) -> None:
        """Proceed with a connection as far as possible without waiting, with its response if that is ready."""
        try:
            if not connection.is_valid():
                raise OSError("the job has closed this descriptor")
            if response is not None:
                self._connections.load(connection, response)
            self._connections.watch(connection, self._step(connection))
        except OSError:  # the client went away, or failed the TLS handshake
            self._connections.drop(connection)
        except Exception:
            self._connections.drop(connection)
            report(self._service.on_error)

    def _step(self, connection: Connection) -> int:
        """Return the selector events to wait for, 0 for none."""
        try:
            if connection.phase is Phase.READING:
                self._read(connection)
            if connection.phase is Phase.WRITING:
                connection.write()
            if connection.phase is Phase.DRAINING:
                connection.drain()
                self._connections.drop(connection)
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        except (BlockingIOError, InterruptedError):
            return selectors.EVENT_WRITE if connection.phase is Phase.WRITING else selectors.EVENT_READ
        return 0

    def _read(self, connection: Connection) -> None:
        try:
            head = connection.read_head()
            if head is None:
                self._connections.drop(connection)
            else:
                self._begin(connection, self._access.authorize(parse_head(head)))
        except RefusedError as refused:
            self._connections.load(connection, encode(refused.response))

    def _begin(self, connection: Connection, request: Request) -> None:
        """Submit a request to the workers, if the budget allows it."""
        connection.charged_s, retry_after_s = self._requests.admit(request.path)
        if retry_after_s:
            cached = self._service.cached(request)
            if cached is None:
                raise RefusedError(
                    429,
                    "requests have used up their share of the job's CPU time: try again later",
                    ("Retry-After", str(retry_after_s)),
                )
            self._connections.load(connection, encode(cached, with_body=request.method != "HEAD"))
            return
        connection.enter(Phase.WORKING)
        if not self.workers.submit(Task(connection, request)):
            self._requests.charge(request.path, connection.charged_s, None)
            raise RefusedError(503, "too many requests in progress: try again", ("Retry-After", "1"))
