"""The memory of compiled programs: sizes, FLOPs, and the largest buffers at the peak.

XLA takes 0.2 to 50 ms to compute the sizes of a program, so a compile only stores a weak reference to the program, and
the sampler, or an out-of-memory report, reads it later. Measured with an MLP and its gradient of 1, 50 and 300 layers
(CPU time, JAX 0.10.2, a shared core): 1, 8 and 55 ms in all. The sizes take 0.1, 1.4 and 21 ms of this, with the GIL
released; the FLOPs 0.1, 0.4 and 5 ms and serializing the program 0.1, 1 and 13 ms, with the GIL held. The rest is read
in slices, and continued in the next sample if the time of one is used up. See `benchmarks/program_memory.py`.

Serializing is bounded, since it holds the GIL for about 0.25 ms for each kB of the buffer assignment, and copies the
constants of the program. JAX has no other way to read an instruction, so the buffers of larger programs have no names.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jitwatch import guard
from jitwatch.jaxhooks.values.texts import device_name
from jitwatch.model.cleaning import clean
from jitwatch.model.events import ExecutableMeasured
from jitwatch.model.function import Function
from jitwatch.model.rows import BufferRow
from jitwatch.system.protobuf import MalformedError
from jitwatch.system.threads import pause

if TYPE_CHECKING:
    from jitwatch.jaxhooks.memory import assignment, hlo

#: Maximum number of programs that wait to be measured; if a job compiles more between two samples, the oldest are
#: dropped. And of programs that are partly read, each of which keeps a serialized copy.
_MAX_WAITING, _MAX_UNFINISHED = 256, 2
#: Maximum number of buffers in a list, and the share of the largest buffer below which one is left out.
MAX_BUFFERS, _MIN_SHARE = 10, 0.001
#: Maximum bytes of a buffer assignment, of the constants and of a program that are read.
_MAX_ASSIGNMENT, _MAX_CONSTANTS, _MAX_PROGRAM = 4 << 20, 4 << 20, 20 << 20
#: Seconds for which serializing holds the GIL, for each byte of the assignment. It may take a hundredth of the compile,
#: within limits.
_SERIALIZING_S, _SHARE_OF_COMPILE, _ALWAYS_S, _LONGEST_S = 0.25e-6, 0.01, 0.03, 0.5
#: Number of programs of a function whose buffers are always read (a storm has thousands); maximum number of labels.
_MANY, _MAX_LABELS = 8, 10_000
#: Bytes of an assignment from which the duration of serializing is measured.
_MEANINGFUL = 10_000
_MAX_OP = 200
#: Instructions that only pass on values. Another instruction in the same memory describes the buffer better.
_PASSING = frozenset({
    "bitcast", "call", "conditional", "copy", "copy-done", "copy-start", "get-tuple-element", "opt-barrier",
    "parameter", "tuple", "while",
})  # fmt: skip
_NAMELESS = frozenset({"get-tuple-element", "parameter", "tuple"})

#: Yields where other threads may run; returns the event.
_Steps = Generator[None, None, ExecutableMeasured | None]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A program that waits to be measured.

    Attributes:
        number: Number of its compile.
        steps: Reads the rest of it, if that was begun.
    """

    function: Function
    reference: weakref.ref[Any]
    compile_s: float
    number: int
    steps: _Steps | None = None


class Executables:
    """The programs that wait to be measured.

    Args:
        is_users: Whether a source file is the user's; None for a library's.

    Attributes:
        on_compiled: Called with function, program and seconds of each compile, in the compiling thread.
    """

    def __init__(self, is_users: Callable[[str], bool | None] = lambda _: True) -> None:
        self._reader = _Reader(is_users)
        self._waiting: deque[_Waiting] = deque(maxlen=_MAX_WAITING)
        self._unfinished: deque[_Waiting] = deque(maxlen=_MAX_UNFINISHED)
        self._numbers = itertools.count()
        self.on_compiled: Callable[[Function, Any, float], None] | None = None

    def add(self, function: Function, executable: Any, compile_s: float) -> None:
        """Add a compiled program (`MeshExecutable`), which lives as long as its cache entry; takes microseconds."""
        if function.is_internal:
            return
        try:
            self._waiting.append(_Waiting(function, weakref.ref(executable), compile_s, next(self._numbers)))
        except TypeError:
            return
        if self.on_compiled is not None:
            try:
                self.on_compiled(function, executable, compile_s)
            except Exception:
                guard.failed("memory")

    def measure(self, budget_s: float, *, newest_first: bool = False) -> Iterator[ExecutableMeasured]:
        """Measure the programs that are still alive until the CPU time is used up.

        Args:
            budget_s: Seconds of CPU time.
            newest_first: Whether waiting programs, the latest first, precede those that are partly read.
        """
        started = time.thread_time()
        while time.thread_time() - started < budget_s:
            one = self._next(newest_first=newest_first)
            if one is None:
                return
            steps = one.steps = one.steps or self._reader.measuring(one.function, one.reference, one.compile_s)
            try:
                while time.thread_time() - started < budget_s:
                    next(steps)
                    pause(0)
            except StopIteration as ended:
                if ended.value is not None:
                    yield ended.value
            else:
                self._unfinished.append(one)

    def measured(self, function: Function, executable: Any, compile_s: float) -> ExecutableMeasured | None:
        """Measure a program at once; None if it has no statistics."""
        steps = self._reader.measuring(function, lambda: executable, compile_s)
        try:
            while True:
                next(steps)
                pause(0)
        except StopIteration as ended:
            found: ExecutableMeasured | None = ended.value
            return found

    def _next(self, *, newest_first: bool) -> _Waiting | None:
        """Take a program. Another thread, which reports an out-of-memory error, may take one at the same time."""
        queues = (self._unfinished, self._waiting)
        for queue in reversed(queues) if newest_first else queues:
            try:
                return self._latest(queue.pop(), queue)
            except IndexError:
                continue
        return None

    def _latest(self, one: _Waiting, queue: deque[_Waiting]) -> _Waiting:
        """The latest program of the same function, in whose place this one waits again.

        The report takes the first measurement after a compile for that of its program.
        """
        later = [
            (other.number, other, where)
            for where in (self._unfinished, self._waiting)
            for other in list(where)
            if other.number > one.number and other.function.label == one.function.label
        ]
        if later:
            _, latest, where = max(later, key=lambda found: found[0])
            with suppress(ValueError):  # another thread has taken it
                where.remove(latest)
                queue.append(one)
                return latest
        return one

    def forget(self) -> None:
        """Drop the waiting programs, and call `on_compiled` no longer."""
        self.on_compiled = None
        self._waiting.clear()
        self._unfinished.clear()


def sizes_of(executable: Any) -> Any:
    """XLA's sizes of a program (`CompiledMemoryStats`); None if it was freed, or its backend has none."""
    try:
        return executable.xla_executable.get_compiled_memory_stats()
    except Exception:  # with various error classes
        return None


def devices_of(executable: Any) -> set[str]:
    """Names of the devices of this process that a program runs on."""
    try:
        return {device_name(one) for one in executable.xla_executable.local_devices()}
    except Exception:  # as above
        return set()


def _totals(function: Function, executable: Any) -> tuple[ExecutableMeasured | None, bytes | None]:
    """The sizes of a program, None if it has no statistics; and its buffer assignment, if it can be read."""
    sizes = sizes_of(executable)
    if sizes is None:
        return None, None
    try:
        event = _event(function, sizes, _costs(executable.xla_executable))
        data = getattr(sizes, "serialized_buffer_assignment_proto", None)
    except Exception:
        guard.failed("memory")
        return None, None
    if not isinstance(data, bytes) or not data:
        return replace(event, buffers_unknown="the backend lists no buffers"), None
    if len(data) > _MAX_ASSIGNMENT:
        return replace(event, buffers_unknown="the program is too large"), None
    return event, data


def _event(function: Function, sizes: Any, costs: dict[str, float]) -> ExecutableMeasured:
    arguments, outputs = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
    temporaries, aliased = sizes.temp_size_in_bytes, sizes.alias_size_in_bytes
    peak = getattr(sizes, "peak_memory_in_bytes", None)
    # JAX 0.10 leaves out temporaries on CPUs: the figure is then less than the program certainly needs.
    is_plausible = isinstance(peak, int) and peak >= max(arguments + outputs - aliased, temporaries, 1)
    return ExecutableMeasured(
        function=function,
        arguments=arguments,
        outputs=outputs,
        temporaries=temporaries,
        code=sizes.generated_code_size_in_bytes,
        aliased=aliased,
        peak=peak if is_plausible else None,
        flops=costs.get("flops"),
        bytes_accessed=costs.get("bytes_accessed"),
    )


class _Reader:
    """Measures programs.

    Args:
        is_users: Whether a source file is the user's; None for a library's.
    """

    def __init__(self, is_users: Callable[[str], bool | None]) -> None:
        self._is_users = is_users
        #: Seconds for which serializing holds the GIL, for each byte of the assignment: the most so far.
        self._serializing_s = _SERIALIZING_S
        #: By label, the number of programs whose buffers were read, and the bytes of the largest.
        self._known: dict[str, tuple[int, int]] = {}

    def measuring(self, function: Function, reference: Callable[[], Any], compile_s: float) -> _Steps:
        """Measure a program in steps. The program is not kept alive between two steps."""
        event, data = _totals(function, reference())
        if event is None or data is None:
            return event
        if not self._is_wanted(function.label, event.total):
            return replace(event, buffers_unknown="the function recompiles often, and larger programs of it were read")
        yield
        try:
            return (yield from self._with_buffers(event, data, reference, compile_s))
        except Exception:
            guard.failed("memory")
            return replace(event, buffers_unknown="the buffer assignment cannot be read")

    def _is_wanted(self, label: str, size: int) -> bool:
        """Whether the buffers of a program are read; if a function recompiles often, only of its larger programs."""
        number, largest = self._known.get(label, (0, -1))
        if number >= _MANY and size <= largest:
            return False
        if label not in self._known and len(self._known) >= _MAX_LABELS:
            self._known.clear()
        self._known[label] = number + 1, max(size, largest)
        return True

    def _with_buffers(
        self, event: ExecutableMeasured, data: bytes, reference: Callable[[], Any], compile_s: float
    ) -> Generator[None, None, ExecutableMeasured]:
        """The event with its peak and buffers, as far as they can be read."""
        from jitwatch.jaxhooks.memory import assignment, hlo  # lazy: a compile does not need them

        try:
            peak = yield from assignment.peak_of(data, MAX_BUFFERS)
        except MalformedError:
            return replace(event, buffers_unknown="the buffer assignment cannot be read")
        unknown = "" if peak.are_known else "the lifetime of some temporaries is unknown"
        program = None
        if peak.constant_bytes <= _MAX_CONSTANTS:
            program = self._serialized(reference(), len(data), compile_s)
        found: dict[int, hlo.Instruction] = {}
        if program is None:
            unknown = "the program is too large to read the names of its operations"
        else:
            yield
            wanted = {one.instruction for buffer in peak.buffers for one in buffer.definitions}
            try:
                found = yield from hlo.instructions_of(program, wanted, self._is_users)
            except MalformedError:
                unknown = "the program cannot be read"
        least = peak.buffers[0].bytes * _MIN_SHARE if peak.buffers else 0
        rows = [
            _row(one, program or b"", found, peak.bytes) for one in peak.buffers if one.bytes and one.bytes >= least
        ]
        _share_texts(rows)
        return replace(event, peak=peak.bytes or event.peak, peak_buffers=tuple(rows), buffers_unknown=unknown)

    def _serialized(self, executable: Any, assigned: int, compile_s: float) -> bytes | None:
        """The compiled program, serialized; None if it is too large, and empty if it was freed.

        Args:
            executable: The program.
            assigned: Bytes of its buffer assignment.
            compile_s: Seconds of its compile.
        """
        if assigned * self._serializing_s > min(_LONGEST_S, max(_ALWAYS_S, _SHARE_OF_COMPILE * compile_s)):
            return None
        started = time.thread_time()
        try:
            found = executable.xla_executable.hlo_modules()[0].as_serialized_hlo_module_proto()
        except Exception:  # as above
            return b""
        if assigned >= _MEANINGFUL:
            # A program may be larger than its assignment suggests, for example with the code of many kernels.
            self._serializing_s = max(self._serializing_s, (time.thread_time() - started) / assigned)
        if not isinstance(found, bytes):
            return b""
        return found if len(found) <= _MAX_PROGRAM else None


def _row(buffer: assignment.Buffer, program: bytes, found: dict[int, hlo.Instruction], peak: int) -> BufferRow:
    shape, instructions = _defining(buffer, program, found)
    row: BufferRow = {"bytes": buffer.bytes, "shape": shape, "op": buffer.kind}
    if buffer.kind == "argument":
        name = next((one.op_name for one in instructions if one.opcode == "parameter" and one.op_name), "")
        row["op"] = f"argument {name or buffer.argument}"
    elif buffer.kind != "constant" and instructions:
        best = min(instructions, key=_rank)
        row["op"] = best.op_name or (best.opcode if best.opcode not in _NAMELESS else buffer.kind)
        if best.call_site is not None:
            row["call_site"] = best.call_site
    row["op"] = clean(row["op"], _MAX_OP)
    if peak:
        row["share"] = round(buffer.bytes / peak, 4)
    return row


def _share_texts(rows: list[BufferRow]) -> None:
    """Use the same object for equal texts of rows, since thousands of records keep them."""
    known: dict[str, str] = {}
    for row in rows:
        row["shape"] = known.setdefault(row["shape"], row["shape"])
        row["op"] = known.setdefault(row["op"], row["op"])
        if "call_site" in row:
            row["call_site"] = known.setdefault(row["call_site"], row["call_site"])


def _defining(
    buffer: assignment.Buffer, program: bytes, found: dict[int, hlo.Instruction]
) -> tuple[str, list[hlo.Instruction]]:
    """The shape of a buffer, its instruction, and the others in the same memory with a result of this shape.

    An instruction with a result of another shape defines a different value at a different time.
    """
    from jitwatch.jaxhooks.memory.hlo import shape_of  # as above

    shape = ""
    instructions: list[hlo.Instruction] = []
    for where in buffer.definitions:
        one = found.get(where.instruction)
        if one is None:
            continue
        try:
            own = shape_of(program, one, where.index)
        except MalformedError:
            continue
        if not instructions or own == shape:
            shape = shape or own
            instructions.append(one)
    return shape, instructions


def _rank(one: hlo.Instruction) -> tuple[bool, bool, bool]:
    """Instructions that compute something and have a source line precede the others."""
    return one.call_site is None, one.opcode in _PASSING, not one.op_name


def _costs(program: Any) -> dict[str, float]:
    """Return XLA's estimates for one call, FLOPs and bytes accessed, as far as the backend has them."""
    try:
        analysis = program.cost_analysis()
    except Exception:  # as above
        return {}
    if isinstance(analysis, (list, tuple)):
        analysis = analysis[0] if analysis else None
    if not isinstance(analysis, dict):
        return {}
    found = {"flops": analysis.get("flops"), "bytes_accessed": analysis.get("bytes accessed")}
    return {name: float(one) for name, one in found.items() if isinstance(one, (int, float)) and one >= 0}
