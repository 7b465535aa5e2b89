"""The event log: one strict JSON object a line, written by a thread of its own.

`write` renders the record where it is called (20 µs for an ordinary event) and puts the bytes
into a bounded queue, so that no value of the caller's is kept alive or read later. The thread
writes what has gathered and flushes after each batch; a killed process loses what was queued
since, which is well under a second. What cannot be written is dropped and counted.

Sample lines:

    {"timestamp": "2025-03-01T12:00:00.120Z", "event": "jit.compiled", "schema": 1, "run": "r1", "seq": 7, …}
    {"timestamp": "2025-03-01T12:00:01.480Z", "event": "memory.leak", "schema": 1, "seq": 8, "truncated": true}
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.exporters.backlog import Backlog, Line
from jitwatch.exporters.render import make_renderer
from jitwatch.exporters.rotation import RotatingFile

logger = logging.getLogger("jitwatch")

_BATCH = 256
_RETRY_S = 3.0
_URGENT_S = 0.5


def resolve_path(target: str, *, run: str, rank: int | None) -> str:
    """Name the file of one process.

    Args:
        target: A file, or a folder: one that exists, or a path that ends with a separator.
        run: Name of the run; in a folder the file is `jitwatch-<run>.jsonl`.
        rank: Index among the processes of this machine, or None if it is alone. It goes before
            the suffix (`events.p3.jsonl`), so that processes never share a file.
    """
    if target.endswith(os.sep) or os.path.isdir(target):
        target = os.path.join(target, f"jitwatch-{run}.jsonl")
    if rank is None:
        return target
    stem, suffix = os.path.splitext(target)
    return f"{stem}.p{rank}{suffix}"


class EventLog:
    """Appends records to a file of JSON lines without ever holding up or disturbing the caller.

    Attributes:
        path: The file that is written.
    """

    def __init__(
        self,
        path: str,
        *,
        max_bytes: int = 64 * 2**20,
        backups: int = 4,
        queue_size: int = 10_000,
        on_drop: Callable[[str, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the file for append, and make its missing parent folders.

        Args:
            path: File to append to; see `resolve_path`.
            max_bytes: Size from which the file moves to `path.1`; 0 for never.
            backups: How many rotated files are kept; 0 for no rotation.
            queue_size: Records that may wait for the thread; more are dropped, urgent ones last.
            on_drop: Called with a reason (`queue_full`, `write_failed`) and a number of records,
                from the writing thread or from the caller of `write`.
            clock: Monotonic seconds.

        Raises:
            ConfigError: The file cannot be written.
        """
        self.path = path
        try:
            self._file = RotatingFile(path, max_bytes=max_bytes, backups=backups)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"the event log {path!r} cannot be written ({reason}): "
                "give event_log a file or folder that this process may write to, or leave it out"
            ) from error
        self._queue_size = queue_size
        self._on_drop = on_drop
        self._clock = clock
        self._render = make_renderer()
        self._retry_at: float | None = None
        self._has_warned_of_rotation = False
        self._forget()

    def _forget(self) -> None:
        self._backlog = Backlog(self._queue_size)
        self._state_lock = threading.RLock()
        self._give_up = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(self) -> None:
        """Start the thread that writes; records written before wait for it. Does nothing the second time."""
        with self._state_lock:
            if self._thread is None and not self._is_closed:
                thread = threading.Thread(target=self._run, name="jitwatch-eventlog", daemon=True)
                thread.start()
                self._thread = thread

    def write(self, record: Mapping[str, Any], *, urgent: bool = False) -> None:
        """Queue one record. Never blocks and never raises; without room the record is dropped and counted.

        Args:
            record: JSON-able values in the order of the line. Of others only the name of the type
                is shown, of an array its dtype and shape; NaN and infinities become null.
            urgent: Return when the record is with the operating system, or after half a second.
                Without room the oldest record that is not urgent is dropped in its place.
        """
        try:
            if self._is_closed:
                return
            if self._backlog.is_full() and not self._make_room(urgent):
                return
            done = threading.Event() if urgent and self._is_served() else None
            self._backlog.put(self._render(record), urgent=urgent, done=done)
            if done is not None:
                done.wait(_URGENT_S)
        except Exception:
            guard.failed("eventlog")

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, or give it up within `timeout_s`; then end the thread and close the file."""
        with self._state_lock:
            is_first, self._is_closed = not self._is_closed, True
            thread = self._thread
        if is_first:
            self._backlog.end()
        if thread is None:
            if is_first:
                self._run()
            return
        if thread is threading.current_thread():
            return  # a finalizer that ran in our own thread; the thread ends by itself
        thread.join(max(timeout_s - 0.1, 0.0))
        if thread.is_alive():
            self._give_up.set()
            thread.join(min(timeout_s, 0.1))
        if not thread.is_alive():
            self._file.close()

    def abandon(self) -> None:
        """In a forked child: forget the thread, the locks and the file. Writes nothing, ever after."""
        self._forget()
        self._is_closed = True
        self._file.close()  # the child's own descriptor; nothing is buffered behind it

    def _make_room(self, urgent: bool) -> bool:
        """Drop the oldest ordinary record for an urgent one, or the new record: then there is no room."""
        is_evicted = urgent and self._backlog.evict()
        if not is_evicted and urgent and not self._backlog.is_full():
            return True  # the thread has taken some meanwhile
        self._drop("queue_full", 1)
        return is_evicted

    def _is_served(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and thread is not threading.current_thread()

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last and not self._give_up.is_set():
                batch, is_last = self._backlog.take(_BATCH)
                self._store(batch)
            if not is_last:  # given up
                self._drop("write_failed", self._backlog.discard())
        finally:
            self._file.close()

    def _store(self, batch: Sequence[Line]) -> None:
        written, error = 0, None
        try:
            if batch and (self._retry_at is None or self._clock() >= self._retry_at):
                written, error = self._file.append([line for line, _ in batch])
        except Exception:
            guard.failed("eventlog")
        finally:
            # Before anything of the user's runs: who waits may hold a lock that a log handler wants.
            for _, done in batch:
                if done is not None:
                    done.set()
        if written < len(batch):
            self._drop("write_failed", len(batch) - written)
        self._report(error, is_whole=0 < written == len(batch))

    def _report(self, error: OSError | None, *, is_whole: bool) -> None:
        if is_whole:
            self._retry_at = None
        elif error is not None:
            is_news = self._retry_at is None
            self._retry_at = self._clock() + _RETRY_S
            if is_news:
                self._warn("jitwatch: events are dropped and counted until %s can be written again: %s", error)
        if self._file.rotation_error is not None and not self._has_warned_of_rotation:
            self._has_warned_of_rotation = True
            self._warn("jitwatch: %s cannot be rotated and goes on growing: %s", self._file.rotation_error)

    def _warn(self, message: str, error: OSError) -> None:
        try:
            logger.warning(message, self.path, error)
        except Exception:  # a handler of the user's
            guard.failed("eventlog")

    def _drop(self, reason: str, count: int) -> None:
        try:
            if self._on_drop is not None:
                self._on_drop(reason, count)
        except Exception:
            guard.failed("eventlog")
