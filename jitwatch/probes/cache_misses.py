"""Why the persistent cache did not have a program: the index of earlier programs, and its thread.

The thread of the job only queues what JAX has hashed, and the text of the program if creating it takes less than 1 % of
the compile. The thread of the index reads the files, compares keys and makes outlines while XLA compiles. It also
writes the index, and reports reasons that were not known when the compile ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import Empty
from typing import Any

from jitwatch import guard
from jitwatch.diagnosis.cache_misses import CacheIndex, Miss, difference_of
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.phases import Lookup
from jitwatch.model.cache_key import Entry, packed
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.programs.outline import Outline, OutlineBuilder
from jitwatch.programs.text import entries
from jitwatch.system.index_files import IndexFiles
from jitwatch.system.launchers import process_id
from jitwatch.system.threads import Pauses, RLock, SimpleQueue, Thread, is_patched

logger = logging.getLogger("jitwatch")

#: Share of a compile that creating the text of its program may take. The seconds for each byte grow with the size of
#: the program: 0.1 µs in a program of 1 kB, 0.25 µs in one of 50 kB.
_SHARE, _S_PER_BYTE, _S_PER_BYTE_GROWS, _S_PER_BYTE_MOST = 0.01, 0.1e-6, 1e-11, 0.3e-6
#: Estimated ratio of XLA's time to that of trace and lowering, before XLA has compiled the program.
_XLA_RATIO = 3.0
#: Maximum bytes of a program, of a text and of all queued texts from which outlines are made.
_MAX_MODULE, _MAX_TEXT, _MAX_QUEUED = 16 << 20, 32 << 20, 64 << 20
_MAX_PENDING = 1_000
#: Minimum seconds between two writes, and as a multiple of the duration of the last one.
_WRITE_EVERY_S, _WRITE_RATIO = 1.0, 20.0
_RETRY_S = 30.0
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


@dataclass(slots=True, eq=False)
class Ticket:
    """One program, from the lookup in the cache on.

    Attributes:
        entry: Its entry in the index.
        signature: The signature that it is compiled for, until its hash is known.
        text: Its text, until there is an outline.
        has_text: Whether its text was made.
        is_hit: Whether the cache had it.
        error: The error with which reading failed.
        miss: Why the cache did not have it, once this is known.
        is_final: Whether `miss` is complete.
        on_late: Reports the reason; set if the compile ended before `miss` was complete.
        is_ended: Whether the compile has ended.
    """

    entry: Entry
    signature: Signature | None
    is_hit: bool
    error: str = ""
    text: str = ""
    miss: Miss | None = None
    is_final: bool = False
    on_late: Callable[[Miss], None] | None = None
    is_ended: bool = False
    outline: Outline | None = None
    has_text: bool = False


class CacheMisses:
    """Finds why programs were not in the persistent cache.

    Args:
        folder: Folder of the index.
        run: Name of the run.
        is_redacted: Keep and show no values of static arguments, and make no outlines.
    """

    def __init__(self, folder: str, *, run: str, is_redacted: bool = False) -> None:
        self._files = IndexFiles(folder)
        self._run = run
        self._is_redacted = is_redacted
        self._index = CacheIndex()
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        # Re-entrant: a signal handler may compile while this thread holds it.
        self._lock = RLock()
        #: Characters of the queued texts.
        self._queued = 0
        self._thread: Thread | None = None
        #: Set when the agent ends, and when it no longer waits for the thread.
        self._is_closed = self._is_abandoned = False
        self._is_changed = False
        self._next_write = 0.0
        self._has_warned = False

    # In the threads of the job

    def start(self) -> None:
        """Start the thread, which reads the index; a second call does nothing."""
        with self._lock:
            if self._thread is not None or self._is_closed:
                return
            if is_patched():
                # A green thread that waits for the queue would stop the job's own thread.
                self._is_closed = True
                return
            self._thread = thread = Thread(target=self._work, name="jitwatch-cache-index")
        try:
            thread.start()
        except RuntimeError as error:
            self._is_closed = True
            logger.warning("jitwatch: reasons for misses of the persistent cache are not reported: %s", error)

    def close(self, timeout_s: float) -> None:
        """Write new entries if this takes less than `timeout_s`, and end the thread."""
        # Without the lock: in a forked child the thread that held it does not exist.
        self._is_closed = True
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._queue.put(None)
            thread.join(timeout_s)
        self._is_abandoned = True

    def wants(self, key: str, *, is_hit: bool) -> bool:
        """Whether a program has to be recorded: not if the index has it and says that it is in this folder."""
        if self._is_closed or self._queue.qsize() >= _MAX_PENDING:
            return False
        known = self._index.get(key) if is_hit else None
        if known is None or known.unwritten or known.key.folder != compat.persistent_cache_folder():
            return True
        self._index.use(key)
        return False

    def read(self, function: Function, lookup: Lookup) -> None:
        """Record whether the cache had a program, before XLA compiles it."""
        entry = Entry(lookup.key, function.label, _file_of(function), "", time.time(), self._run, host=_host())
        lookup.ticket = ticket = Ticket(entry, lookup.signature, lookup.is_hit, lookup.error)
        if not lookup.is_hit:
            ticket.text = self._text(lookup, lookup.before_s * (1 + _XLA_RATIO))
            ticket.has_text = bool(ticket.text)
        self._put(ticket)

    def ended(
        self,
        lookup: Lookup,
        *,
        unwritten: str,
        compile_s: float,
        fingerprint: str,
        on_late: Callable[[Miss, bool], None],
    ) -> Miss | None:
        """Record the end of a compile; return why the cache did not have the program, as far as this is known.

        Args:
            lookup: The lookup in the cache.
            unwritten: Why the program was not written to the cache; empty if it was.
            compile_s: Seconds of its compile in XLA.
            fingerprint: Fingerprint of the module.
            on_late: Called in the thread of the index if the result is not complete, with the complete one and whether
                the reason itself was already returned.
        """
        ticket, lookup.ticket = lookup.ticket, None
        if not isinstance(ticket, Ticket):
            return None
        text = ""
        # The thread of the index may be making the outline now: then there is neither text nor outline.
        if not ticket.is_hit and not ticket.has_text:
            text = self._text(lookup, lookup.before_s + compile_s)
        with self._lock:
            key = ticket.entry.key
            ticket.entry = replace(
                ticket.entry,
                key=replace(key, parts=(fingerprint, *key.parts[1:])),
                unwritten=unwritten,
                detail=lookup.write_error,
                compile_s=round(compile_s, 3),
                minimum_s=compat.persistent_cache_minimum_s(),
            )
            ticket.is_ended = True
            ticket.text = ticket.text or text
            miss = ticket.miss
            if not ticket.is_final:
                is_known = miss is not None
                ticket.on_late = lambda found: on_late(found, is_known)
        self._put(ticket)
        return miss

    def _text(self, lookup: Lookup, compile_s: float) -> str:
        """The text of a program; empty if it would take too long."""
        size = lookup.size
        took_s = size * min(_S_PER_BYTE + size * _S_PER_BYTE_GROWS, _S_PER_BYTE_MOST)
        is_cheap = took_s <= compile_s * _SHARE
        if self._is_redacted or not is_cheap or size > _MAX_MODULE or self._queued > _MAX_QUEUED:
            return ""
        text = lookup.text()
        if len(text) > _MAX_TEXT:
            return ""
        with self._lock:
            self._queued += len(text)
        return text

    def _put(self, ticket: Ticket) -> None:
        self._queue.put(ticket)
        self.start()

    # In the thread of the index

    def _work(self) -> None:
        with guard.guarded("cache_index"):
            self._load()
        is_last = False
        while not is_last and not self._is_abandoned:
            with guard.guarded("cache_index"):
                ticket = self._take()
                is_last = ticket is None and self._is_closed
                if ticket is not None:
                    self._handle(ticket)
                now = time.monotonic()
                if self._is_changed and (is_last or now >= self._next_write):
                    self._write()

    def _take(self) -> Ticket | None:
        """The next ticket; None at the end, or when it is time to write."""
        if not self._is_changed:
            return self._queue.get()
        left = self._next_write - time.monotonic()
        try:
            return self._queue.get(timeout=max(left, 0.0)) if left > 0 else self._queue.get_nowait()
        except Empty:
            return None

    def _load(self) -> None:
        rest = Pauses()
        for line in self._files.read():
            rest.take()
            if line:
                try:
                    self._index.add(Entry.of_line(line))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
                    continue

    def _handle(self, ticket: Ticket) -> None:
        if ticket.signature is not None:
            signature = signature_hash(ticket.signature, is_redacted=self._is_redacted)
            with self._lock:
                ticket.entry = replace(ticket.entry, signature=signature)
            ticket.signature = None
        if not ticket.is_hit and not ticket.is_final:
            self._explain(ticket)
        if ticket.is_ended:
            self._store(ticket)

    def _explain(self, ticket: Ticket) -> None:
        miss = ticket.miss or self._index.why(ticket.entry, ticket.error)
        self._found(ticket, miss, is_final=not miss.needs_outline)
        if ticket.text:
            self._outline(ticket)
        if miss.needs_outline and (ticket.outline is not None or ticket.is_ended):
            if ticket.outline is not None and miss.before is not None:
                miss = replace(miss, difference=difference_of(miss.before, ticket.outline))
            self._found(ticket, replace(miss, is_final=True), is_final=True)

    def _outline(self, ticket: Ticket) -> None:
        text, ticket.text = ticket.text, ""
        with self._lock:
            self._queued -= len(text)
        with guard.guarded("cache_index"):
            ticket.outline = _outline(text, lambda: self._is_abandoned)

    def _found(self, ticket: Ticket, miss: Miss, *, is_final: bool) -> None:
        with self._lock:
            ticket.miss, ticket.is_final, on_late = miss, is_final, ticket.on_late
        if is_final and on_late is not None:
            on_late(miss)

    def _store(self, ticket: Ticket) -> None:
        """Add a program to the index."""
        if ticket.text:
            self._outline(ticket)
        known = self._index.get(ticket.entry.key.key)
        outline = known.outline if known is not None else ""
        if ticket.outline is not None:
            outline = packed(ticket.outline.row())
        self._index.add(replace(ticket.entry, outline=outline), is_own=True)
        self._is_changed = True

    def _write(self) -> None:
        place = compat.process_place()
        if place is not None and place[0] != 0:
            # As JAX, which writes the cache in process 0 only; otherwise each of thousands of processes writes a file.
            self._is_changed = False
            return
        started = time.monotonic()
        # After any failure, such as one for lack of memory: the thread must not try again at once.
        self._next_write = started + _RETRY_S
        try:
            self._files.write(self._lines(own=True))
            self._files.join(self._lines())
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "jitwatch: the index of the persistent cache %s cannot be written: %s", self._files.folder, error
                )
        else:
            self._is_changed = False
            took = time.monotonic() - started
            self._next_write = time.monotonic() + max(_WRITE_EVERY_S, _WRITE_RATIO * took)

    def _lines(self, *, own: bool = False) -> Iterator[bytes]:
        """The entries as lines, without holding the interpreter; at the end of the agent without pauses."""
        rest = Pauses()
        for entry in self._index.entries(own=own):
            if not self._is_closed:
                rest.take()
            yield entry.line()


def _outline(text: str, is_abandoned: Callable[[], bool] = lambda: False) -> Outline | None:
    builder, rest = OutlineBuilder(text), Pauses()
    for entry in entries(text):
        builder.add(entry)
        rest.take()
        if is_abandoned():
            return None
    return builder.outline()


def signature_hash(signature: Signature, *, is_redacted: bool = False) -> str:
    """A hash of a signature that is equal in every process."""
    statics = () if is_redacted else signature.statics
    content: list[Any] = [
        signature.origin == "derived", signature.variant, signature.paths, signature.shapes, signature.dtypes,
        signature.weak_types, signature.operation,
        [(name, value.type, _ADDRESS.sub("", value.text)) for name, value in statics],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, default=str).encode("utf-8", "replace")).hexdigest()[:16]


def _host() -> str:
    """Name of this machine."""
    return process_id().rsplit("-", 2)[0]


def _file_of(function: Function) -> str:
    """The name of the file that defines a function, without the folder: each job may have its own copy of the file."""
    path = (function.location or "").rpartition(":")[0]
    name = os.path.basename(path)
    # Each notebook cell is a separate file.
    return "notebook" if name.startswith("<ipython") or "ipykernel_" in path else name
