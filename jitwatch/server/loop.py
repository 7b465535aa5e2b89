"""The thread that owns every socket, and what it does in a turn."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from jitwatch.server.budget import LOOP_BURST_S, LOOP_SHARE, LOOP_SHARE_TLS, Bucket, Meter
from jitwatch.server.connection import Connection, Phase
from jitwatch.server.descriptors import LostError
from jitwatch.server.gate import Gate
from jitwatch.server.messages import RefusedError, Request, Response, encode, parse_head
from jitwatch.server.pool import Job, Pool, do_all, report
from jitwatch.server.port import Port
from jitwatch.system.threads import Event, pause

MAX_CONNECTIONS: Final = 128
#: Answers being written, together: clients that do not read must not fill the job's memory.
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
#: Turns in a row that may fail before the server is given up.
MAX_FAILURES: Final = 100
#: How often the port is opened again after the job has closed it.
MAX_REOPENED: Final = 5
#: Seconds until the next turn after a failed one: what lacks, such as memory, may be back by then.
_FAILURE_PAUSE_S: Final = 0.01
#: Longest sleep, seconds: a descriptor that the job closes wakes nobody.
_LOOK_S: Final = 5.0
#: Connections accepted in a turn; the second while the loop's own share of time is used up.
_ACCEPTS_PER_TURN: Final = 64
_ACCEPTS_WHEN_SLOWED: Final = 8
#: Longest pause, seconds, when that share is used up: what a scrape may have to wait for under a flood.
_MAX_PAUSE_S: Final = 1.0
_ACCEPT_PAUSE_S: Final = 0.5


class Loop:
    """The thread that owns the sockets. Apart from `stop` and `abandon`, only it calls these methods.

    Args:
        listener: The open port.
        context: TLS settings, or None for plain HTTP.
        gate: Who may ask.
        pool: Runs the handler.
        on_error: Called inside the `except` block of a failure.
        reopen: Opens the same port again after the job has closed its descriptor.
        kept: An answer that was given before, for a request that may cost nothing now; or None.
        on_end: Called inside the `except` block of what ended the server, if nobody stopped it.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        gate: Gate,
        pool: Pool,
        on_error: Callable[[], None] | None,
        *,
        reopen: Callable[[], socket.socket],
        kept: Callable[[Request], Response | None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.pool = pool
        self.abandoned = False
        self._context = context
        self._gate = gate
        self._on_error = on_error
        self._reopen_port = reopen
        self._kept = kept
        self._on_end = on_end
        self._stopped = Event()
        #: In the order in which they were accepted.
        self._connections: dict[Connection, None] = {}
        #: Monotonic time at which the first of them has been waited for long enough.
        self._next_expiry = float("inf")
        self._paused_until: float | None = None
        self._left_to_reopen = MAX_REOPENED
        #: CPU seconds of this thread up to the end of the last turn.
        self._cpu_s = 0.0
        self._meter = Meter()
        self._own = Bucket(LOOP_SHARE if context is None else LOOP_SHARE_TLS, LOOP_BURST_S)
        self._port = Port(listener)
        pool.wake = self._wake

    def run(self) -> None:
        """Serve until `stop`, or until nothing works any more; then close everything."""
        try:
            self._serve()
        except BaseException:
            report(self._on_end)
        for part in (self.pool.stop, self.close_all):
            try:
                part()
            except BaseException:
                report(self._on_error)

    def _serve(self) -> None:
        """Take one turn after the other.

        A failure that belongs to one connection ends that connection only (`_advance`). Any other
        one is reported and the next turn begins, unless that has failed 100 times in a row.
        """
        failures, self._cpu_s = 0, time.thread_time()
        while not self._stopped.is_set():
            try:
                self._turn()
                failures = 0
            except LostError:
                report(self._on_error)
                self._reopen()
            except BaseException:  # also a SystemExit that somebody sends to all threads
                failures += 1
                report(self._on_error)
                if failures >= MAX_FAILURES:
                    raise
                pause(_FAILURE_PAUSE_S)

    def _turn(self) -> None:
        ready = self._port.selector.select(self._timeout())
        self._port.check()
        for key, _ in ready:
            if self._port.is_listener(key):
                self._accept()
            elif self._port.is_wake(key):
                self._port.rest()
            else:
                self._advance(key.data)
        self._send_answers()
        self._sweep()
        before, self._cpu_s = self._cpu_s, time.thread_time()
        self._own.spend(self._cpu_s - before)
        if wait_s := self._own.wait_s():
            self._pause(min(wait_s, _MAX_PAUSE_S))

    def _send_answers(self) -> None:
        while (job := self.pool.take_finished()) is not None:
            self._finish(job)

    def _pause(self, seconds: float) -> None:
        """Take on nothing for so long, and only send answers that are ready: they are bounded elsewhere."""
        until = time.monotonic() + seconds
        while not self._stopped.is_set() and (left_s := until - time.monotonic()) > 0:
            if self._port.sleep(left_s):
                self._port.check()
                self._port.rest()
                self._send_answers()

    def _reopen(self) -> None:
        """Open the port again after the job has closed its descriptor, a few times at the most."""
        self.close_all()
        if self._left_to_reopen == 0:
            raise LostError("the job closes the descriptors of the endpoint again and again")
        self._left_to_reopen -= 1
        self._paused_until = None
        listener = self._reopen_port()
        try:
            self._port = Port(listener)
        except BaseException:
            listener.close()
            raise

    def stop(self) -> None:
        """Make `run` return soon. Any thread may call it."""
        self._stopped.set()
        self._wake()

    def _wake(self) -> None:
        self._port.wake()

    def close_all(self) -> None:
        """Close every socket. Idempotent."""
        dropped = (partial(self._drop, connection) for connection in tuple(self._connections))
        do_all((*dropped, *self._port.closers()), self._on_error)

    def abandon(self) -> None:
        """Close this process's descriptors only: nothing is shut down, and the parent keeps serving."""
        self.abandoned = True
        self._port.abandon()
        for connection in tuple(self._connections):
            connection.abandon()

    def _timeout(self) -> float:
        until = self._next_expiry if self._paused_until is None else min(self._next_expiry, self._paused_until)
        return max(0.0, min(until - time.monotonic(), _LOOK_S))

    def _sweep(self) -> None:
        now, self._next_expiry = time.monotonic(), float("inf")
        for connection in tuple(self._connections):
            if (expires := connection.expires()) <= now:
                self._drop(connection)
            elif expires < self._next_expiry:
                self._next_expiry = expires
        if self._paused_until is not None and self._paused_until <= now:
            self._port.pause(False)
            self._paused_until = None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN if self._own.wait_s() == 0 else _ACCEPTS_WHEN_SLOWED):
            try:
                sock = self._port.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                # Out of file descriptors, mostly: the port stays readable, and asking again at
                # once would burn the job's CPU.
                self._make_room()
                self._port.pause(True)
                self._paused_until = time.monotonic() + _ACCEPT_PAUSE_S
                return
            if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
                sock.close()
            else:
                self._open(sock)

    def _make_room(self) -> bool:
        """Drop the oldest connection that keeps nobody busy; False if there is none."""
        found: Connection | None = None
        for connection in self._connections:
            if connection.phase is Phase.DRAINING:
                found = connection
                break
            if found is None or connection.phase < found.phase:
                found = connection
        if found is None or found.phase is Phase.WORKING:
            return False
        self._drop(found)
        return True

    def _open(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            connection = Connection(sock)
        except (OSError, ValueError):  # gone before we looked
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        if (stale := self._port.selector.get_map().get(sock)) is not None:
            # The job has closed that one's descriptor, and this one has got its number.
            if stale.data is None:
                raise LostError("the job has closed the descriptors of the endpoint")
            self._drop(stale.data)
        self._connections[connection] = None
        self._advance(connection)

    def _finish(self, job: Job) -> None:
        if self._meter.charge(job.request.path, job.connection.charged_s, job.cost_s):
            self._own.spend(job.cost_s)
        if job.answer:
            self._advance(job.connection, job.answer)
        else:
            self._drop(job.connection)

    def _advance(self, connection: Connection, answer: bytes | None = None) -> None:
        """Go on with a connection as far as it goes without waiting, with its answer if that is ready."""
        try:
            if not connection.is_ours():
                raise OSError("the job has closed this descriptor")
            if answer is not None:
                self._load(connection, answer)
            self._watch(connection, self._step(connection))
        except OSError:  # the client went away, or failed the TLS handshake
            self._drop(connection)
        except Exception:
            self._drop(connection)
            report(self._on_error)

    def _step(self, connection: Connection) -> int:
        """Return the selector events to wait for, 0 for none."""
        try:
            if connection.phase is Phase.READING:
                self._read(connection)
            if connection.phase is Phase.WRITING:
                connection.write()
            if connection.phase is Phase.DRAINING:
                connection.drain()
                self._drop(connection)
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
                self._drop(connection)
                return
            self._begin(connection, self._gate.admit(parse_head(head)))
        except RefusedError as refused:
            self._load(connection, encode(refused.response))

    def _begin(self, connection: Connection, request: Request) -> None:
        """Have a request handled, if there is time for it."""
        connection.charged_s, retry_after_s = self._meter.admit(request.path)
        if retry_after_s:
            kept = self._kept(request)
            if kept is None:
                raise RefusedError(
                    429,
                    "requests have taken as much of the job's time as they may: try again later",
                    ("Retry-After", str(retry_after_s)),
                )
            self._load(connection, encode(kept, with_body=request.method != "HEAD"))
            return
        connection.enter(Phase.WORKING)
        if not self.pool.submit(connection, request):
            self._meter.cancel(request.path, connection.charged_s)
            raise RefusedError(503, "too many requests in progress: try again", ("Retry-After", "1"))

    def _watch(self, connection: Connection, events: int) -> None:
        if connection.watched == events:
            return
        if not events:
            self._port.selector.unregister(connection.sock)
        elif connection.watched:
            self._port.selector.modify(connection.sock, events, connection)
        else:
            self._port.selector.register(connection.sock, events, connection)
        connection.watched = events

    def _drop(self, connection: Connection) -> None:
        if connection.phase is Phase.CLOSED:
            return
        self._connections.pop(connection, None)
        try:
            with suppress(OSError, KeyError, ValueError):
                self._watch(connection, 0)
        finally:
            connection.close()

    def _load(self, connection: Connection, answer: bytes) -> None:
        if connection.phase is not Phase.CLOSED:
            connection.load(answer)
            self._bound_unsent(connection)

    def _bound_unsent(self, newest: Connection) -> None:
        writers = sorted((c for c in self._connections if c.unsent), key=lambda c: c.active)
        total = sum(len(c.unsent) for c in writers)
        for connection in writers:
            if total <= MAX_UNSENT_BYTES:
                return
            if connection is not newest:
                total -= len(connection.unsent)
                self._drop(connection)
