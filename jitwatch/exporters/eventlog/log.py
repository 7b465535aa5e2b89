"""The event log: one strict JSON object per line, written by a thread of its own.

`write` serializes the record in the calling thread (20 µs for an ordinary event) and puts the bytes into a bounded
queue, so that no value of the caller is kept alive or read later. The writer thread writes and flushes in batches; a
killed process loses what was queued since the last batch, which is well under a second. Records that cannot be written
are dropped and counted.

Only the writer thread uses the file, from opening to closing it: if the disk hangs, a caller waits at most once, for an
urgent record. Only `close` ends the thread.

Sample lines:

    {"timestamp": "2025-03-01T12:00:00.120Z", "event": "jit.compiled", "schema": 1, "run": "r1", "seq": 7, …}
    {"timestamp": "2025-03-01T12:00:01.480Z", "event": "memory.leak", "schema": 1, "seq": 8, "truncated": true}
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.exporters.eventlog.backlog import Backlog, Line
from jitwatch.exporters.eventlog.json_lines import make_renderer
from jitwatch.exporters.eventlog.rotation import RotatingFile
from jitwatch.system.threads import BegunThread, Latch, TimedCaller

logger = logging.getLogger("jitwatch")

_BATCH = 256
_QUEUE_BYTES = 16 * 2**20
_RETRY_S = 3.0
#: A batch that took less than this shows that the disk responds again.
_QUICK_S = 0.1
_OPEN_S = 2.0
#: Seconds that stopping the agent waits for the last records if the disk hangs.
_HUNG_CLOSE_S = 0.5


def resolve_path(target: str, *, run: str, rank: int | None, timeout_s: float = _OPEN_S) -> tuple[str, bool]:
    """The path of the event log of one process.

    Args:
        target: A file, or a folder: one that exists, or a path that ends with a separator.
        run: Name of the run; in a folder the file is `jitwatch-<run>.jsonl`.
        rank: Index among the processes of the job, inserted before the suffix (`events.p3.jsonl`), or None.
        timeout_s: Seconds to wait for a disk that hangs; then the target is taken for a file.

    Returns:
        The path, and whether the target is a folder: an existing file then belongs to another process or run.
    """
    is_folder = target.endswith(os.sep)
    if not is_folder:
        with suppress(TimeoutError, RuntimeError):
            is_folder = TimedCaller(timeout_s).call(lambda: os.path.isdir(target))
    if is_folder:
        target = os.path.join(target, f"jitwatch-{run}.jsonl")
    if rank is not None:
        stem, suffix = os.path.splitext(target)
        target = f"{stem}.p{rank}{suffix}"
    return target, is_folder


class EventLog:
    """Appends records to a JSON lines file without blocking the caller."""

    def __init__(
        self,
        path: str,
        *,
        queue_size: int = 10_000,
        on_drop: Callable[[str, int], object] = lambda *_: None,
        on_move: Callable[[str, str, str], object] = lambda *_: None,
        open_s: float = _OPEN_S,
        urgent_s: float = 0.5,
        pause_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """Open the file for appending, and create missing parent folders.

        Args:
            path: File to append to; see `resolve_path`.
            queue_size: Maximum number of queued records; further ones are dropped, urgent ones last.
            on_drop: Called with a reason (`queue_full`, `disk_hangs`, `write_failed`, `not_rendered`) and a number of
                records, in the writer thread or in the caller of `write`.
            on_move: Called in the writer thread with the requested path, the path that is used instead and the reason,
                each time another process turns out to write to the same file.
            open_s: Seconds that the caller waits for the file to be opened.
            urgent_s: Seconds that an urgent record waits for the disk; after that the disk is considered to hang.
            pause_s: Seconds between a failure of the writer thread itself and its next attempt.
            clock: Monotonic seconds.
            **options: Further arguments of `RotatingFile`.

        Raises:
            ConfigError: The file cannot be written.
        """
        self._wanted = path
        self._options = options
        self._queue_size = queue_size
        self._on_drop = on_drop
        self._on_move = on_move
        self._open_s = open_s
        self._urgent_s = urgent_s
        self._pause_s = pause_s
        self._clock = clock
        self._render = make_renderer()
        self._file: RotatingFile | None = None
        self._retry_at: float | None = None
        self._has_warned_of_rotation = self._has_warned_of_hang = False
        #: When the thread began its current batch, and whether an urgent record gave up waiting for it.
        self._busy_since: float | None = None
        self._is_stalled = False
        self._reset()
        self._open()

    def _reset(self) -> None:
        self._backlog = Backlog(self._queue_size, _QUEUE_BYTES)
        self._give_up = Latch()
        self._started = Latch()
        self._thread: BegunThread | None = None
        self._is_closed = False

    def _open(self) -> None:
        """Open the file in the writer thread; if the disk hangs, continue without waiting for it."""
        self._thread = BegunThread(self._open_file, self._run, name="jitwatch-eventlog")
        try:
            failure = self._thread.start_within(self._open_s)
        except RuntimeError as error:
            raise ConfigError(
                f"event_log: the thread that writes {self._wanted!r} cannot be started ({error}); "
                "raise the limit of threads (ulimit -u), or omit event_log"
            ) from error
        if failure is not None:
            reason = getattr(failure, "strerror", None) or failure
            raise ConfigError(
                f"event_log: {self._wanted!r} cannot be written ({reason}); "
                "name a file or folder that this process may write to, or omit event_log"
            ) from failure

    @property
    def path(self) -> str:
        """The file that is written: another one than requested if another process writes to that."""
        file = self._file
        return file.path if file is not None else self._wanted

    def start(self) -> None:
        """Start writing, including records that were queued before. A second call does nothing."""
        self._started.set()

    def write(self, record: Mapping[str, Any], *, urgent: bool = False) -> None:
        """Queue one record. Never raises. If the queue is full, the record is dropped and counted.

        Args:
            record: JSON values in the order of the line; for other values see `json_lines`.
            urgent: Wait until the record is with the operating system, for at most `urgent_s`, and not at all while
                the disk is known to hang. If the queue is full, the oldest ordinary record is dropped instead.
        """
        try:
            if self._is_closed:
                return
            if self._backlog.is_full() and not self._make_room(urgent):
                return
            try:
                line = self._render(record)
            except Exception:
                self._drop("not_rendered", 1)
                raise
            done = Latch() if urgent and self._can_wait() else None
            self._backlog.put(line, urgent=urgent, done=done)
            if done is not None and not done.wait(self._urgent_s):
                self._is_stalled = True
        except Exception:
            guard.failed("eventlog")

    def close(self, timeout_s: float = 2.0) -> None:
        """Write the queued records within `timeout_s` or drop them; then end the thread and close the file."""
        thread, self._is_closed = self._thread, True
        self._backlog.end()
        self._started.set()
        if thread is None or thread is threading.current_thread():
            return  # called by a finalizer in the writer thread, which ends by itself
        if self._hangs():
            timeout_s = min(timeout_s, _HUNG_CLOSE_S)
        thread.join(max(timeout_s - 0.1, 0.0))
        if thread.is_alive():
            self._give_up.set()
            thread.join(min(timeout_s, 0.1))

    def abandon(self) -> None:
        """In a forked child: drop the thread, the locks and the file. Later records are not written."""
        hangs = self._hangs()
        self._reset()
        self._is_closed = True
        file, self._file = self._file, None
        if file is not None and not hangs:  # closing the child's copy of the descriptor may hang as well
            file.close()

    def _make_room(self, urgent: bool) -> bool:
        """Drop the oldest ordinary records to make room for an urgent one, else drop the new record."""
        reason = "disk_hangs" if self._hangs() else "queue_full"
        while urgent and self._backlog.is_full() and self._backlog.evict():
            self._drop(reason, 1)
        if urgent and not self._backlog.is_full():
            return True  # also if the thread has made room meanwhile
        self._drop(reason, 1)
        return False

    def _hangs(self) -> bool:
        """Whether the thread has been waiting for the disk for too long."""
        since = self._busy_since
        # Not the injected clock: this is about the real disk.
        return self._is_stalled or (since is not None and time.monotonic() - since > self._urgent_s)

    def _can_wait(self) -> bool:
        """Whether the thread can be waited for."""
        thread = self._thread
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            return False
        return self._started.is_set() and not self._hangs()

    # The writer thread

    def _open_file(self) -> None:
        self._busy_since = time.monotonic()
        try:
            self._file = RotatingFile(self._wanted, **self._options)
        finally:
            self._busy_since = None

    def _run(self) -> None:
        try:
            self._started.wait()
            self._serve()
        finally:
            if self._file is not None:
                self._file.close()

    def _serve(self) -> None:
        """Write batch after batch, despite a lack of memory or an exception that is injected into this thread."""
        is_last = is_complete = False
        while not is_last and not self._give_up.is_set():
            batch: list[Line] = []
            try:
                if not is_complete:
                    self._backlog.recover()
                    is_complete = True
                is_last = self._backlog.take(batch, _BATCH)
            except BaseException:
                is_complete = False
                self._give_up.wait(self._pause_s)
                guard.failed("eventlog")
            try:
                if batch:
                    self._store(batch)
            except BaseException:
                guard.failed("eventlog")
        if not is_last:  # given up
            self._drop("disk_hangs", self._backlog.discard())

    def _store(self, batch: list[Line]) -> None:
        """Write a batch or count it as dropped, and wake the callers that wait for its lines."""
        self._busy_since = started = time.monotonic()
        written, error = 0, None
        try:
            written, error = self._append(batch)
        finally:
            # Before a log handler of the user runs: it may need a lock that a waiting caller holds.
            for _, done in batch:
                if done is not None:
                    done.set()
        if written < len(batch):
            self._drop("write_failed", len(batch) - written)
        self._report(error, is_whole=written == len(batch))
        took_s = time.monotonic() - started
        self._busy_since = None
        if took_s < _QUICK_S:
            self._is_stalled = False
        elif self._is_stalled and not self._has_warned_of_hang:
            self._has_warned_of_hang = True
            self._warn("jitwatch: the disk of the event log %s did not respond for %.1f s; events were delayed", took_s)

    def _append(self, batch: list[Line]) -> tuple[int, OSError | None]:
        """Return the number of lines written and the error that stopped the others, if there was an attempt."""
        if self._retry_at is not None and self._clock() < self._retry_at and not self._is_closed:
            return 0, None
        if self._file is None:  # opening took too long, and then failed
            try:
                self._file = RotatingFile(self._wanted, **self._options)
            except OSError as error:
                return 0, error
        before = self._file.ended_lines
        try:
            return self._file.append([line for line, _ in batch])
        except BaseException:
            guard.failed("eventlog")
            return self._file.ended_lines - before, None

    def _report(self, error: OSError | None, *, is_whole: bool) -> None:
        if is_whole:
            self._retry_at = None
        elif error is not None:
            is_news = self._retry_at is None
            self._retry_at = self._clock() + _RETRY_S
            if is_news:
                self._warn("jitwatch: events are dropped and counted until %s can be written again: %s", error)
        file = self._file
        if file is None:
            return
        if file.rotation_error is not None and not self._has_warned_of_rotation:
            self._has_warned_of_rotation = True
            self._warn("jitwatch: %s cannot be rotated and keeps growing: %s", file.rotation_error)
        if file.moved is not None:
            reason, file.moved = file.moved, None
            detail = f"{self._wanted} is not used, because {reason}"
            self._warn("jitwatch: the event log of this process is %s: %s", detail)
            guard.call("eventlog", lambda: self._on_move(self._wanted, file.path, reason))

    def _warn(self, message: str, detail: object) -> None:
        guard.call("eventlog", lambda: logger.warning(message, self.path, detail))

    def _drop(self, reason: str, count: int) -> None:
        guard.call("eventlog", lambda: self._on_drop(reason, count))
