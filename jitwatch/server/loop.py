"""The thread that owns every socket, and what it does in a turn."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from jitwatch.server.connection import Connection, Phase
from jitwatch.server.gate import Gate
from jitwatch.server.messages import RefusedError, encode, parse_head
from jitwatch.server.pool import Pool, report

MAX_CONNECTIONS: Final = 128
#: Answers being written, together: clients that do not read must not fill the job's memory.
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
#: Turns in a row that may fail before the server is given up.
MAX_FAILURES: Final = 100
#: Seconds until the next turn after a failed one: what lacks, such as memory, may be back by then.
_FAILURE_PAUSE_S: Final = 0.01
_ACCEPTS_PER_TURN: Final = 64
_ACCEPT_PAUSE_S: Final = 0.5


class Loop:
    """The thread that owns the sockets. Apart from `stop` and `abandon`, only it calls these methods."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        gate: Gate,
        pool: Pool,
        on_error: Callable[[], None] | None,
    ) -> None:
        self.pool = pool
        self.abandoned = False
        self._listener = listener
        self._context = context
        self._gate = gate
        self._on_error = on_error
        self._stopping = False
        self._connections: set[Connection] = set()
        self._paused_until: float | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        pool.wake = self._wake

    def run(self) -> None:
        """Serve until `stop`, or until nothing works any more.

        A failure that belongs to one connection ends that connection only (`_advance`). Any other
        one is reported and the next turn begins, unless that has failed 100 times in a row.
        """
        failures = 0
        try:
            while not self._stopping and failures < MAX_FAILURES:
                try:
                    self._turn()
                    failures = 0
                except Exception:
                    failures += 1
                    report(self._on_error)
                    time.sleep(_FAILURE_PAUSE_S)
        finally:
            self.close_all()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_in:
                with suppress(BlockingIOError):
                    self._wake_in.recv(4096)
            else:
                self._advance(key.data)
        while (answer := self.pool.take_finished()) is not None:
            self._advance(*answer)
        self._sweep()

    def stop(self) -> None:
        """Make `run` return soon. Any thread may call it."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it wakes anyway; closed: it has ended
            self._wake_out.send(b"\0")

    def close_all(self) -> None:
        """Close every socket. Idempotent."""
        for connection in tuple(self._connections):
            self._drop(connection)
        self._selector.close()
        for sock in (self._listener, self._wake_in, self._wake_out):
            sock.close()

    def abandon(self) -> None:
        """Close this process's descriptors only: nothing is shut down, and epoll, shared with the parent, unchanged."""
        self.abandoned = True
        with suppress(OSError):  # kqueue descriptors do not survive a fork
            self._selector.close()
        inherited = [connection.sock for connection in tuple(self._connections)]
        for sock in (self._listener, self._wake_in, self._wake_out, *inherited):
            with suppress(OSError):
                if (fd := sock.detach()) >= 0:
                    socket.close(fd)

    def _timeout(self) -> float | None:
        times = [connection.expires() for connection in self._connections]
        if self._paused_until is not None:
            times.append(self._paused_until)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections if c.expires() <= now]:
            self._drop(connection)
        if self._paused_until is not None and self._paused_until <= now:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._paused_until = None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                # Out of file descriptors, mostly: the port stays readable, and asking again at
                # once would burn the job's CPU.
                self._make_room()
                self._selector.unregister(self._listener)
                self._paused_until = time.monotonic() + _ACCEPT_PAUSE_S
                return
            if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
                sock.close()
            else:
                self._open(sock)

    def _make_room(self) -> bool:
        """Drop the oldest connection that keeps nobody busy; False if there is none."""
        oldest = min(self._connections, key=lambda c: (c.phase, c.opened), default=None)
        if oldest is None or oldest.phase is Phase.WORKING:
            return False
        self._drop(oldest)
        return True

    def _open(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # gone before we looked
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        connection = Connection(sock)
        self._connections.add(connection)
        self._advance(connection)

    def _advance(self, connection: Connection, answer: bytes | None = None) -> None:
        """Go on with a connection as far as it goes without waiting, with its answer if that is ready."""
        try:
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
            request = self._gate.admit(parse_head(head))
            connection.enter(Phase.WORKING)
            if not self.pool.submit(connection, request):
                raise RefusedError(503, "too many requests in progress: try again", ("Retry-After", "1"))
        except RefusedError as refused:
            self._load(connection, encode(refused.response))

    def _watch(self, connection: Connection, events: int) -> None:
        if connection.watched == events:
            return
        if not events:
            self._selector.unregister(connection.sock)
        elif connection.watched:
            self._selector.modify(connection.sock, events, connection)
        else:
            self._selector.register(connection.sock, events, connection)
        connection.watched = events

    def _drop(self, connection: Connection) -> None:
        if connection.phase is Phase.CLOSED:
            return
        self._connections.discard(connection)
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
