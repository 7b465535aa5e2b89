"""Reports out-of-memory errors with the contents of memory, before the job handles the error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from jitwatch import guard
from jitwatch.jaxhooks.memory import device_memory
from jitwatch.jaxhooks.memory.oom_texts import OutOfMemoryText, read_text
from jitwatch.model.events import Compiled, OutOfMemory
from jitwatch.model.rows import CompileRow, DeviceRow, ProgramRow
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.probes.probe import ProbeContext
from jitwatch.system.threads import RLock

#: Errors with the same text and function within so many seconds are one out-of-memory event.
_SAME_S = 60.0
_MAX_TEXTS = 32
_MAX_MESSAGE = 300
_TOP_ARRAYS = 20
_TOP_PROGRAMS = 10
#: Programs whose largest buffers are listed.
_WITH_BUFFERS = 3
_LAST_COMPILES = 10
#: Number of the latest events that are searched for compiles.
_RECORDS = 500
#: CPU seconds for measuring new programs, the one that failed included.
_PROGRAMS_S = 0.5


class OutOfMemoryReport:
    """Emits `memory.oom` events; `read` returns the rows of the devices, with the given live arrays."""

    def __init__(
        self,
        context: ProbeContext,
        *,
        read: Callable[[device_memory.LiveArrays | None], list[DeviceRow]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._read = read
        self._clock = clock
        self._reported: dict[str, tuple[float, frozenset[str]]] = {}
        # Re-entrant, as the store's: a signal handler may run into the next error while this thread holds it.
        self._lock = RLock()

    def handle(self, error: BaseException, program: str, call_site: str | None) -> None:
        """Emit an event, unless this out-of-memory error was reported already; see `OnOutOfMemory`.

        The error is neither changed nor kept alive.
        """
        text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
        text = text or type(error).__name__
        session = self._context.session
        function = session.function_named(program)
        if not self._is_new(text, function or program):
            return
        found = _safely(device_memory.live_arrays)
        for measured in session.executables.measure(_PROGRAMS_S, newest_first=True):
            self._context.emit(measured)
        said = _safely(lambda: read_text(text)) or OutOfMemoryText()
        self._context.emit(
            OutOfMemory(
                program=program,
                function=function,
                call_site=call_site or session.call_site()[0],
                message=text.partition("\n")[0][:_MAX_MESSAGE],
                devices=tuple(_safely(lambda: self._read(found)) or ()),
                arrays=tuple(_safely(lambda: device_memory.largest(_TOP_ARRAYS)) or ()),
                live_arrays=found.total if found is not None else None,
                live_array_bytes=sum(found.bytes.values()) if found is not None else None,
                executables=tuple(self._programs(function)),
                compiles=tuple(self._last_compiles()),
                allocation_bytes=said.allocation_bytes,
                peak_buffers=said.peak_buffers,
            )
        )

    def _is_new(self, text: str, name: str) -> bool:
        """Whether this out-of-memory error was not yet reported, for this function or an unknown one."""
        now = self._clock()
        with self._lock:
            last, names = self._reported.pop(text, (float("-inf"), frozenset()))
            is_known = now - last < _SAME_S and (not name or name in names or "" in names)
            # The same error may pass once more without a name, which must not suppress the next one.
            more = {name} if name or not is_known else set()
            self._reported[text] = (now, frozenset({*list(names)[:_MAX_TEXTS], *more}))
            while len(self._reported) > _MAX_TEXTS:
                del self._reported[next(iter(self._reported))]
        return not is_known

    def _programs(self, function: str | None) -> list[ProgramRow]:
        """The programs that need most memory. The largest ones, and the one that failed, have their buffers."""
        found = self._context.store.largest_programs(_TOP_PROGRAMS)
        for at, row in enumerate(found):
            if at >= _WITH_BUFFERS and row["function"] != function:
                del row["peak_buffers"]
        return found

    def _last_compiles(self) -> list[CompileRow]:
        records, _ = self._context.store.records(limit=_RECORDS)
        kinds = (Compiled.kind, Compiled.repeated_kind)
        compiles = [one for one in reversed(records) if one["event"] in kinds and one["function"] != JAX_LABEL]
        return [
            cast("CompileRow", {name: one[name] for name in CompileRow.__annotations__ if name in one})
            for one in compiles[:_LAST_COMPILES]
        ]


def _safely(read: Callable[[], Any]) -> Any:
    """Read one part of the event; without memory it may fail, and is then left out."""
    try:
        return read()
    except Exception:
        guard.failed("memory")
        return None
