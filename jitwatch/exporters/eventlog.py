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

import json
import logging
import math
import numbers
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, cast

import structlog

from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.exporters.rotation import RotatingFile

logger = logging.getLogger("jitwatch")

_MAX_LINE = 64 * 2**10
_MAX_TEXT = 1000
_MAX_COMMON_TEXT = 200
_MAX_DEPTH = 16
_MAX_INT_BITS = 1024
_BATCH = 256
_RETRY_S = 3.0
_URGENT_S = 0.5
_COMMON = ("timestamp", "event", "schema", "run", "process_index", "step", "seq")

#: A rendered line, and who waits for it.
_Item = tuple[bytes, threading.Event | None]


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
            queue_size: Records that may wait for the thread; more are dropped.
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
        self._render = _make_renderer()
        self._retry_at: float | None = None
        self._has_warned_of_rotation = False
        self._forget()

    def _forget(self) -> None:
        # SimpleQueue, because its put() may be interrupted by a put() of the same thread (a signal
        # handler, a finalizer) without a deadlock. A Condition or queue.Queue may not.
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
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
            record: JSON-able values in the order of the line. Others become a short text, an array
                its dtype and shape, NaN and infinities null.
            urgent: Return when the record is with the operating system, or after half a second.
        """
        try:
            if self._is_closed:
                return
            if self._queue.qsize() >= self._queue_size:
                self._drop("queue_full", 1)
                return
            done = threading.Event() if urgent and self._is_served() else None
            self._queue.put((self._render(record), done))
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
            self._queue.put(None)
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

    def _is_served(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and thread is not threading.current_thread()

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last and not self._give_up.is_set():
                batch, is_last = self._take()
                self._store(batch)
            if not is_last:  # given up: what is left, but for the mark of the end
                self._drop("write_failed", self._queue.qsize() - 1)
        finally:
            self._file.close()

    def _take(self) -> tuple[list[_Item], bool]:
        """Wait for records; return them, and whether they are the last ones."""
        batch: list[_Item] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == _BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _store(self, batch: Sequence[_Item]) -> None:
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


class _RecordLogger(structlog.BoundLoggerBase):
    def render(self, record: Mapping[str, Any]) -> str:
        # One argument, not one a key: a record may have keys such as 'self' or 'event'.
        return cast("str", self._proxy_to_logger("msg", record=record))


def _make_renderer() -> Callable[[Mapping[str, Any]], bytes]:
    """Build a structlog chain that takes nothing from, and gives nothing to, `structlog.configure`."""
    chain: _RecordLogger = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[_clean, structlog.processors.JSONRenderer(json.dumps, ensure_ascii=False, allow_nan=False)],
        wrapper_class=_RecordLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind()

    def render(record: Mapping[str, Any]) -> bytes:
        try:
            line = _encode(chain.render(record))
        except _TooLongError:
            line = b""
        return line if 0 < len(line) <= _MAX_LINE else _encode(chain.render(_shorten(record)))

    return render


def _clean(_logger: Any, _method: str, event_dict: Mapping[str, Any]) -> dict[str, Any]:
    return _Cleaner().items(event_dict["record"], depth=0)


def _encode(line: str) -> bytes:
    line += "\n"
    try:
        return line.encode()
    except UnicodeEncodeError:  # lone surrogates, as in file names that are not UTF-8
        return line.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _shorten(record: Mapping[str, Any]) -> dict[str, Any]:
    short: dict[str, Any] = {}
    for key in _COMMON:
        if key in record:
            value = record[key]
            is_plain = value is None or isinstance(value, (int, float))
            short[key] = value if is_plain else _show(value, _MAX_COMMON_TEXT)
    return {**short, "truncated": True}


class _TooLongError(Exception):
    """The line would be longer than the limit; found before it is built."""


class _Cleaner:
    """Turns the values of one record into ones that are strict JSON, and stops when they are too many.

    A record may hold anything, also a dictionary with a million entries or one that holds itself:
    `left` counts down the least length of the line, so that the work is bounded as the line is.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MAX_LINE

    def items(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        # list() of a dictionary's items is atomic: another thread may be changing it.
        pairs = list(mapping.items())
        return {self.text(key): self.value(value, depth + 1) for key, value in pairs}

    def value(self, value: Any, depth: int) -> Any:
        self._spend(2)
        if value is None or value is True or value is False:
            return value
        try:
            return self._convert(value, depth)
        except _TooLongError:
            raise
        except Exception:  # an object of the user's, with methods that fail
            return _name_type(value)

    def text(self, value: Any) -> str:
        # The plain string, without the methods of a subclass.
        text = str.__str__(value) if isinstance(value, str) else _show(value, _MAX_TEXT)
        self._spend(len(text))
        return text

    def _convert(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, numbers.Integral):  # numpy's scalars as well, here and below
            number = int(value)
            return number if number.bit_length() <= _MAX_INT_BITS else f"<int of {number.bit_length()} bits>"
        if isinstance(value, numbers.Real):
            real = float(value)
            return real if math.isfinite(real) else None
        if isinstance(value, (Mapping, list, tuple)):
            return self._container(value, depth)
        return self.text(_show(value, _MAX_TEXT))

    def _container(self, value: Mapping[Any, Any] | Sequence[Any], depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return _name_type(value)
        if isinstance(value, Mapping):
            return self.items(value, depth)
        return [self.value(one, depth + 1) for one in value]

    def _spend(self, length: int) -> None:
        self.left -= length
        if self.left < 0:
            raise _TooLongError


def _show(value: Any, limit: int) -> str:
    """Return a text of at most `limit` characters; for an array, a tracer or a table never its contents."""
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            dtype = getattr(value, "dtype", None) or type(value).__name__
            text = f"{dtype}[{','.join(map(str, shape))}]"
        else:
            text = str(value)
    except Exception:
        text = _name_type(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _name_type(value: object) -> str:
    return f"<{type(value).__name__}>"
