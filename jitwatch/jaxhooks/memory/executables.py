"""What compiled programs need: their memory and their operations, read off the path of the compile.

XLA takes 0.2 to 40 ms to say so (JAX 0.10.2, one to 200 layers; below 1 ms until 0.7), so programs are
only remembered when they are made, weakly, and looked at later by the sampler, or when memory ran out.
The sizes are told with Python's lock released, the operations not (0.3 % of the program's compile time).
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

#: Programs that wait to be looked at; a job that makes more of them between two samples loses the oldest.
_MAX_WAITING = 256


class Executables:
    """The programs that nobody has looked at yet."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Function, weakref.ref[Any]]] = deque(maxlen=_MAX_WAITING)

    def made(self, function: Function, executable: Any) -> None:
        """A program of the job's was compiled; microseconds.

        Args:
            function: Whose it is.
            executable: JAX's own object (`MeshExecutable`), which lives as long as its cache entry.
        """
        if function.is_internal:
            return
        try:
            self._waiting.append((function, weakref.ref(executable)))
        except TypeError:
            return

    def measure(self, budget_s: float) -> Iterator[ExecutableMeasured]:
        """Look at the programs that wait and still live, the latest first, until the CPU time is used up."""
        started = time.thread_time()
        while self._waiting and time.thread_time() - started < budget_s:
            try:
                function, reference = self._waiting.pop()
            except IndexError:  # another thread, which runs out of memory, took it
                return
            found = _measured(function, getattr(reference(), "xla_executable", None))
            if found is not None:
                yield found

    def forget(self) -> None:
        """Let go of those that wait."""
        self._waiting.clear()


def _measured(function: Function, program: Any) -> ExecutableMeasured | None:
    try:
        sizes = program.get_compiled_memory_stats()
    except Exception:  # it is gone, or its backend tells nothing, in one class or another
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
    """XLA's estimate for one call; None where the backend has none."""
    try:
        told = program.cost_analysis()
    except Exception:  # the same
        return None
    if isinstance(told, (list, tuple)):
        told = told[0] if told else None
    flops = told.get("flops") if isinstance(told, dict) else None
    return float(flops) if isinstance(flops, (int, float)) and flops >= 0 else None
