"""Memory and FLOPs of compiled programs, read outside of the compile.

XLA takes 0.2 to 40 ms to compute them (JAX 0.10.2, one to 200 layers; below 1 ms until 0.7), so a compile only stores a
weak reference to the program, and the sampler, or an out-of-memory report, reads it later. The sizes are computed with
Python's lock released, the FLOPs are not (0.3 % of the program's compile time).
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from jitwatch import guard
from jitwatch.model.events import ExecutableMeasured
from jitwatch.model.function import Function

#: Programs that wait to be measured; if a job makes more between two samples, the oldest are dropped.
_MAX_WAITING = 256


class Executables:
    """The programs that wait to be measured."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Function, weakref.ref[Any]]] = deque(maxlen=_MAX_WAITING)

    def add(self, function: Function, executable: Any) -> None:
        """Add a compiled program (`MeshExecutable`), which lives as long as its cache entry; takes microseconds."""
        if function.is_internal:
            return
        try:
            self._waiting.append((function, weakref.ref(executable)))
        except TypeError:
            return

    def measure(self, budget_s: float) -> Iterator[ExecutableMeasured]:
        """Measure the waiting programs that are still alive, the latest first, until the CPU time is used up."""
        started = time.thread_time()
        while self._waiting and time.thread_time() - started < budget_s:
            try:
                function, reference = self._waiting.pop()
            except IndexError:  # another thread, which reports an out-of-memory error, has measured it
                return
            found = _measured(function, getattr(reference(), "xla_executable", None))
            if found is not None:
                yield found

    def forget(self) -> None:
        """Drop the waiting programs."""
        self._waiting.clear()


def _measured(function: Function, program: Any) -> ExecutableMeasured | None:
    try:
        sizes = program.get_compiled_memory_stats()
    except Exception:  # it was freed, or its backend has no statistics, with various error classes
        return None
    if sizes is None:
        return None
    try:
        return ExecutableMeasured(
            function=function,
            arguments=sizes.argument_size_in_bytes,
            outputs=sizes.output_size_in_bytes,
            temporaries=sizes.temp_size_in_bytes,
            code=sizes.generated_code_size_in_bytes,
            aliased=sizes.alias_size_in_bytes,
            peak=getattr(sizes, "peak_memory_in_bytes", None) or None,
            flops=_flops(program),
        )
    except Exception:
        guard.failed("memory")
        return None


def _flops(program: Any) -> float | None:
    """Return XLA's estimate for one call, or None if the backend has none."""
    try:
        analysis = program.cost_analysis()
    except Exception:  # as above
        return None
    if isinstance(analysis, (list, tuple)):
        analysis = analysis[0] if analysis else None
    flops = analysis.get("flops") if isinstance(analysis, dict) else None
    return float(flops) if isinstance(flops, (int, float)) and flops >= 0 else None
