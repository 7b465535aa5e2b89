"""Reads XLA's buffer assignment: the buffers of a program that are alive at its peak.

XLA reserves each allocation for the whole run of a program: the arguments, the outputs, the constants, and one for all
temporaries. So the peak of a program is the sum of its allocations, without those that belong to a thread of the host
and those in the memory of the host. The buffers in the allocation of the temporaries share it over time. Those that are
alive at its peak are listed by XLA (from JAX 0.10 on), or follow from XLA's trace of the heap (before).

Source: `BufferAssignmentProto` in xla/service/hlo.proto. The fields were checked with programs whose buffers are known:

    1 logical_buffers     {1 id, 2 size, 3 defined_at {3 shape_index, 4 instruction_id}}
    3 buffer_allocations  {1 index, 2 size, 3 is_thread_local, 5 is_entry_computation_parameter, 6 parameter_number,
                           7 maybe_live_out, 8 color, 9 assigned {1 logical_buffer_id, 2 offset, 3 size},
                           12 is_constant}
    4 heap_simulator_traces {1 events {1 kind, 2 buffer_id, 5 share_with_canonical_id}}
    5 buffers at the peak of an allocation {1 index, 2 logical_buffer_ids}
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from jitwatch.system.protobuf import NUMBER, MalformedError, fields, packed, varint

#: Fields that are read before other threads get a chance to run: some tenths of a millisecond.
_SLICE = 200
#: The color of buffers in the memory of the host.
_HOST = 5
#: A size that is larger than any memory.
_MAX_SIZE = 1 << 60
_ALLOC, _FREE, _SHARE = 0, 1, 2
#: Maximum number of other buffers in the same memory as one at the peak; they may have a source line if it has none.
_MAX_SHARING = 6

#: Yields where other threads may run; returns the result.
Steps = Generator[None, None, "Peak"]


@dataclass(frozen=True, slots=True)
class Definition:
    """The definition of a buffer: the instruction, and the element of its result."""

    instruction: int
    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer that is alive at the peak.

    Attributes:
        bytes: Its size.
        kind: `argument`, `constant`, `output` or `temporary`.
        argument: Number of the argument.
        definitions: Its definition, then those of other buffers in the same memory.
    """

    bytes: int
    kind: str
    argument: int
    definitions: tuple[Definition, ...]


@dataclass(slots=True)
class Peak:
    """The memory of a program at its peak.

    Attributes:
        bytes: The sum of its allocations.
        constant_bytes: The part of the sum for constants.
        buffers: The largest buffers, the largest first.
        are_known: Whether it is known which of the temporaries are alive.
    """

    bytes: int = 0
    constant_bytes: int = 0
    buffers: list[Buffer] = field(default_factory=list)
    are_known: bool = True


@dataclass(slots=True)
class _Allocation:
    """An allocation; `slots` are the positions of its buffers in the data."""

    index: int = 0
    size: int = 0
    is_thread_local: bool = False
    is_argument: bool = False
    argument: int = 0
    is_output: bool = False
    color: int = 0
    is_constant: bool = False
    slots: list[tuple[int, int]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        if self.is_argument:
            return "argument"
        return "constant" if self.is_constant else "output" if self.is_output else "temporary"


#: The attribute for each number in an allocation.
_ATTRIBUTES = {
    1: "index", 2: "size", 3: "is_thread_local", 5: "is_argument", 6: "argument", 7: "is_output", 8: "color",
    12: "is_constant",
}  # fmt: skip
#: Positions of messages in the data.
_Spans = dict[int, tuple[int, int]]
#: An event of a heap: its kind, its buffer, and the buffer whose memory it shares.
_Event = tuple[int, int, int]
#: The buffers of an allocation: offset and size by their identifiers.
_Slots = dict[int, tuple[int, int]]


@dataclass(slots=True)
class _Parts:
    """The parts of an assignment.

    Attributes:
        buffers: The logical buffers, by identifier.
        listed: XLA's lists of the buffers at the peak, by allocation.
        events: The events of all traces, once they were read.
    """

    buffers: _Spans = field(default_factory=dict)
    allocations: list[_Allocation] = field(default_factory=list)
    traces: list[tuple[int, int]] = field(default_factory=list)
    listed: _Spans = field(default_factory=dict)
    events: list[_Event] | None = None


def peak_of(data: bytes, limit: int) -> Steps:
    """Read an assignment, and find the largest buffers at the peak.

    Args:
        data: The serialized `BufferAssignmentProto`.
        limit: Maximum number of buffers.

    Raises:
        MalformedError: It cannot be read.
    """
    parts = yield from _parts(data)
    on_device = [one for one in parts.allocations if not one.is_thread_local and one.color != _HOST]
    peak = Peak(
        bytes=sum(one.size for one in on_device), constant_bytes=sum(one.size for one in on_device if one.is_constant)
    )
    for allocation in sorted(on_device, key=lambda one: -one.size):
        # No buffer of this allocation, nor of a smaller one, is larger than the last one found.
        if len(peak.buffers) >= limit and peak.buffers[-1].bytes >= allocation.size:
            break
        slots = yield from _slots(data, allocation)
        alive = yield from _alive(data, parts, allocation, slots)
        if not alive:
            peak.are_known = peak.are_known and not allocation.size
            continue
        largest = sorted((one for one in alive if one in slots), key=lambda one: (-slots[one][1], one))[:limit]
        found = [*peak.buffers, *_made(data, allocation, largest, slots, parts.buffers)]
        peak.buffers = sorted(found, key=lambda one: -one.bytes)[:limit]
        yield
    return peak


def _parts(data: bytes) -> Generator[None, None, _Parts]:
    parts = _Parts()
    for turn, (number, start, end) in enumerate(fields(data), 1):
        if not turn % _SLICE:
            yield
        if end == NUMBER:
            continue
        if number == 1:
            parts.buffers[_identifier(data, start, end)] = start, end
        elif number == 3:
            parts.allocations.append((yield from _allocation(data, start, end)))
        elif number == 4:
            parts.traces.append((start, end))
        elif number == 5:
            parts.listed[_identifier(data, start, end)] = start, end
    return parts


def _alive(data: bytes, parts: _Parts, allocation: _Allocation, slots: _Slots) -> Generator[None, None, set[int]]:
    """The buffers of an allocation that are alive at its peak; none if that is not known."""
    if allocation.index in parts.listed:
        return set(_listed(data, *parts.listed[allocation.index]))
    if slots and not any(offset for offset, _ in slots.values()):
        # One buffer at a time; the later one of equal size is the one that leaves the program.
        return {max(enumerate(slots), key=lambda pair: (slots[pair[1]][1], pair[0]))[1]}
    if parts.events is None:
        parts.events = yield from _events(data, parts.traces)
    return (yield from _alive_in(parts.events, slots))


def _identifier(data: bytes, start: int, end: int) -> int:
    """The first field of a message, which is not written if it is 0."""
    return varint(data, start + 1, end)[0] if start < end and data[start] == 1 << 3 else 0


def _allocation(data: bytes, start: int, end: int) -> Generator[None, None, _Allocation]:
    found = _Allocation()
    for turn, (number, value, stop) in enumerate(fields(data, start, end), 1):
        if not turn % _SLICE:
            yield
        if number == 9 and stop != NUMBER:
            found.slots.append((value, stop))
        elif number in _ATTRIBUTES and stop == NUMBER:
            setattr(found, _ATTRIBUTES[number], value)
    if not 0 <= found.size <= _MAX_SIZE:
        raise MalformedError("an allocation has no valid size")
    return found


def _slots(data: bytes, allocation: _Allocation) -> Generator[None, None, _Slots]:
    found: _Slots = {}
    for turn, (start, end) in enumerate(allocation.slots, 1):
        if not turn % _SLICE:
            yield
        values = {number: value for number, value, stop in fields(data, start, end) if stop == NUMBER}
        size = values.get(3, 0)
        if not 0 <= size <= allocation.size:
            raise MalformedError("a buffer is larger than its allocation")
        found[values.get(1, 0)] = values.get(2, 0), size
    return found


def _listed(data: bytes, start: int, end: int) -> list[int]:
    return [
        one
        for number, value, stop in fields(data, start, end)
        if number == 2
        for one in packed(data, value, stop)
    ]  # fmt: skip


def _events(data: bytes, traces: list[tuple[int, int]]) -> Generator[None, None, list[_Event]]:
    """The events of all traces. The allocation that a trace names is that of before XLA merged and sorted them."""
    found: list[_Event] = []
    for start, end in traces:
        for turn, (number, value, stop) in enumerate(fields(data, start, end), 1):
            if not turn % _SLICE:
                yield
            if number == 1 and stop != NUMBER:
                values = {one: other for one, other, last in fields(data, value, stop) if last == NUMBER}
                found.append((values.get(1, 0), values.get(2, 0), values.get(5, 0)))
    return found


def _alive_in(events: list[_Event], slots: _Slots) -> Generator[None, None, set[int]]:
    """Replay the events about the buffers of an allocation: those that are alive when most of its bytes are."""
    own = [one for one in events if one[1] in slots]
    most, at = 0, -1
    for turn, (in_use, _) in enumerate(_replayed(own, slots)):
        if not turn % _SLICE:
            yield
        if in_use > most:
            most, at = in_use, turn
    for turn, (_, alive) in enumerate(_replayed(own, slots)):
        if not turn % _SLICE:
            yield
        if turn == at:
            return set(alive)
    return set()


def _replayed(events: Iterable[_Event], slots: _Slots) -> Generator[tuple[int, dict[int, int]], None, None]:
    """Yield, after each event, the bytes in use and the buffers with the number of those that share each."""
    in_use, alive, shares = 0, dict[int, int](), dict[int, int]()
    for kind, buffer, shared in events:
        if kind == _SHARE:
            shares[buffer] = shares.get(shared, shared)
        canonical = shares.get(buffer, buffer)
        size = slots.get(canonical, (0, 0))[1]
        if kind in (_ALLOC, _SHARE):
            in_use += 0 if canonical in alive else size
            alive[canonical] = alive.get(canonical, 0) + 1
        elif kind == _FREE and canonical in alive:
            alive[canonical] -= 1
            if not alive[canonical]:
                del alive[canonical]
                in_use -= size
        yield in_use, alive


def _made(
    data: bytes, allocation: _Allocation, alive: list[int], slots: _Slots, buffers: _Spans
) -> Generator[Buffer, None, None]:
    sharing: dict[tuple[int, int], list[int]] = {slots[one]: [] for one in alive}
    for one, place in slots.items():
        if place in sharing and len(sharing[place]) < _MAX_SHARING:
            sharing[place].append(one)
    for one in alive:
        names = dict.fromkeys([one, *sharing[slots[one]]])
        defined = [_defined(data, *buffers[name]) for name in names if name in buffers]
        yield Buffer(
            slots[one][1], allocation.kind, allocation.argument, tuple(where for where in defined if where is not None)
        )


def _defined(data: bytes, start: int, end: int) -> Definition | None:
    for number, value, stop in fields(data, start, end):
        if number == 3 and stop != NUMBER:
            instruction, index = 0, list[int]()
            for part, found, last in fields(data, value, stop):
                if part == 4 and last == NUMBER:
                    instruction = found
                elif part == 3:
                    index += packed(data, found, last)
            return Definition(instruction, tuple(index))
    return None
