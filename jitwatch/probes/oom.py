"""Writes down what is in memory when it has run out, before the job gets to see the error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.memory import arrays
from jitwatch.model.events import Compiled, OutOfMemory
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.probes.base import ProbeContext
from jitwatch.system.threads import RLock

#: One shortage shows in many errors: the same text of the same function within so many seconds is the same shortage.
_SAME_S = 60.0
_MAX_TEXTS = 32
_MAX_MESSAGE = 300
_TOP_ARRAYS = 20
_TOP_PROGRAMS = 10
_LAST_COMPILES = 10
#: Records looked through for compiles.
_RECORDS = 500
#: CPU seconds for programs that nobody has looked at yet, the one that failed among them.
_PROGRAMS_S = 0.5
_COMPILE_FIELDS = ("timestamp", "event", "function", "call_site", "compile_s", "causes")


class OutOfMemoryReport:
    """Makes the event.

    Args:
        context: Of the memory probe.
        read: Gives the rows of the devices, of what they say and of the live arrays.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        context: ProbeContext,
        *,
        read: Callable[[arrays.LiveArrays | None], list[dict[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._read = read
        self._clock = clock
        self._told: dict[str, tuple[float, frozenset[str]]] = {}
        # Re-entrant, as the store's: a signal handler may run into the next error while this thread holds it.
        self._lock = RLock()

    def look(self, error: BaseException, program: str, call_site: str | None) -> None:
        """Write the event, unless this shortage was told already.

        Args:
            error: Says that memory ran out; is not changed and not kept.
            program: JAX's name for what was running, or empty.
            call_site: `file:line` of the user's code, unless it is still on the stack.
        """
        told = error.args[0] if error.args else None
        text = told if isinstance(told, str) and told else type(error).__name__
        session = self._context.session
        function = session.function_named(program)
        if not self._is_news(text, function or program):
            return
        found = _safely(arrays.live_arrays)
        for measured in session.executables.measure(_PROGRAMS_S):
            self._context.emit(measured)
        self._context.emit(
            OutOfMemory(
                program=program,
                function=function,
                call_site=call_site or session.call_site()[0],
                message=text.partition("\n")[0][:_MAX_MESSAGE],
                devices=tuple(_safely(lambda: self._read(found)) or ()),
                arrays=tuple(_safely(lambda: arrays.largest(_TOP_ARRAYS)) or ()),
                live_arrays=found.total if found is not None else None,
                live_array_bytes=sum(found.bytes.values()) if found is not None else None,
                executables=tuple({**row} for row in self._context.store.largest_programs(_TOP_PROGRAMS)),
                compiles=tuple(self._last_compiles()),
            )
        )

    def _is_news(self, text: str, name: str) -> bool:
        """Whether this is not the last shortage again, at the same function or at one that nobody knows."""
        now = self._clock()
        with self._lock:
            last, names = self._told.pop(text, (float("-inf"), frozenset()))
            is_known = now - last < _SAME_S and (not name or name in names or "" in names)
            # The latest last, so that the oldest go first.
            # The same error comes by once more without a name, which says nothing about the next.
            more = {name} if name or not is_known else set()
            self._told[text] = (now, frozenset({*list(names)[:_MAX_TEXTS], *more}))
            while len(self._told) > _MAX_TEXTS:
                del self._told[next(iter(self._told))]
        return not is_known

    def _last_compiles(self) -> list[dict[str, Any]]:
        records, _ = self._context.store.records(limit=_RECORDS)
        compiles = [
            one
            for one in reversed(records)
            if one["event"] in (Compiled.kind, Compiled.repeated_kind) and one["function"] != JAX_LABEL
        ]
        return [{key: one[key] for key in _COMPILE_FIELDS if key in one} for one in compiles[:_LAST_COMPILES]]


def _safely(read: Callable[[], Any]) -> Any:
    """One part that fails, in a process without memory, must not take the others with it."""
    try:
        return read()
    except Exception:
        guard.failed("memory")
        return None
