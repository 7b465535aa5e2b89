"""Reads instructions of a compiled program: shape, operation name and source line of the requested ones.

Source: `HloModuleProto` in xla/service/hlo.proto, `ShapeProto` and `OpMetadata` in xla/xla_data.proto. The fields were
checked with programs whose text is known:

    HloModuleProto       {3 computations {2 instructions}, 17 stack_frame_index}
    HloInstructionProto  {2 opcode, 3 shape, 7 metadata, 9 parameter_number, 35 id}
    OpMetadata           {2 op_name, 3 source_file, 4 source_line, 15 stack_frame_id}
    ShapeProto           {2 element_type, 3 dimensions, 4 tuple_shapes}
    StackFrameIndexProto {1 file_names, 3 file_locations {1 file_name_id, 3 line}, 4 stack_frames {1 file_location_id,
                          2 parent_frame_id}}; identifiers begin at 1, and 0 is none
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field

from jitwatch.system.protobuf import NUMBER, MalformedError, encoded, fields, packed, text

#: Number of fields that are read, and of bytes that are searched, before other threads get a chance to run.
_SLICE = 200
_CHUNK = 1 << 16
_MAX_NAME = 200
_MAX_PATH = 4_096
_MAX_FRAMES = 100
_MAX_DIMENSIONS = 32
_MAX_NESTED = 8
#: The identifier of an instruction: the key of field 35, then a number of variable length.
_IDENTIFIER = re.compile(rb"\x98\x02([\x80-\xff]{0,9}[\x00-\x7f])")
#: XLA's names of element types, by the values of its enumeration.
ELEMENTS = (
    "invalid", "pred", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64", "f16", "f32", "f64", "tuple", "opaque",
    "c64", "bf16", "token", "c128", "f8e5m2", "f8e4m3fn", "s4", "u4", "f8e4m3b11fnuz", "f8e5m2fnuz", "f8e4m3fnuz",
    "s2", "u2", "f8e4m3", "f8e3m4", "s1", "u1", "f4e2m1fn", "f8e8m0fnu", "buffer", "f6e3m2fn", "f6e2m3fn",
)  # fmt: skip
_TUPLE = 13


@dataclass(slots=True)
class Instruction:
    """An instruction of a compiled program.

    Attributes:
        opcode: XLA's name of the operation, `fusion`.
        op_name: JAX's name, `jit(f)/jvp()/dot_general`; of a parameter, the path of the argument.
        call_site: `file:line` of the source.
        shape: Position of its shape in the data.
    """

    opcode: str = ""
    op_name: str = ""
    call_site: str | None = None
    shape: tuple[int, int] | None = None


@dataclass(slots=True)
class _Found:
    """An instruction with the source that its metadata names."""

    instruction: Instruction = field(default_factory=Instruction)
    file: str = ""
    line: int = 0
    frame: int = 0


@dataclass(slots=True)
class _Frames:
    """Positions of the parts of a stack frame index in the data."""

    names: list[tuple[int, int]] = field(default_factory=list)
    locations: list[tuple[int, int]] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)


def instructions_of(
    data: bytes, wanted: Collection[int], is_users: Callable[[str], bool | None]
) -> Generator[None, None, dict[int, Instruction]]:
    """Read the instructions with these identifiers.

    Args:
        data: The serialized `HloModuleProto`.
        wanted: The identifiers.
        is_users: Whether a file is the user's; None for a library's.

    Returns:
        Those that were found, by identifier.

    Raises:
        MalformedError: It cannot be read.
    """
    names = {encoded(one) for one in wanted}
    found: dict[int, _Found] = {}
    frames = _Frames()
    for number, start, end in fields(data):
        if end == NUMBER:
            continue
        if number == 3:
            yield from _search(data, start, end, names, found)
        elif number == 17:
            yield from _read_frames(data, start, end, frames)
    sources = _Sources(data, frames, is_users)
    for turn, one in enumerate(found.values(), 1):
        if not turn % 10:
            yield
        one.instruction.call_site = sources.of(one)
    return {name: one.instruction for name, one in found.items()}


def _search(
    data: bytes, start: int, end: int, names: Collection[bytes], found: dict[int, _Found]
) -> Generator[None, None, None]:
    """Find the requested instructions of one computation, in chunks."""
    starts: list[int] = []
    ends: list[int] = []
    for turn, (number, first, last) in enumerate(fields(data, start, end), 1):
        if not turn % _SLICE:
            yield
        if number != 2 or last == NUMBER:
            continue
        if last - first > _CHUNK:
            # A constant's literal may have millions of bytes: it is skipped, not searched.
            _take(data, first, last, names, found)
            continue
        if starts and last - starts[0] > _CHUNK:
            _take_chunk(data, starts, ends, names, found)
            starts, ends = [], []
            yield
        starts.append(first)
        ends.append(last)
    if starts:
        _take_chunk(data, starts, ends, names, found)


def _take_chunk(
    data: bytes, starts: list[int], ends: list[int], names: Collection[bytes], found: dict[int, _Found]
) -> None:
    for match in _IDENTIFIER.finditer(data, starts[0], ends[-1]):
        if match[1] in names:
            at = bisect_right(starts, match.start()) - 1
            _take(data, starts[at], ends[at], names, found)


def _take(data: bytes, start: int, end: int, names: Collection[bytes], found: dict[int, _Found]) -> None:
    """Read one instruction, if it was requested: the bytes found may not be its identifier."""
    one, name = _Found(), 0
    for number, value, stop in fields(data, start, end):
        if number == 2:
            one.instruction.opcode = text(data, value, stop, _MAX_NAME)
        elif number == 3 and stop != NUMBER:
            one.instruction.shape = value, stop
        elif number == 7 and stop != NUMBER:
            _read_metadata(data, value, stop, one)
        elif number == 35 and stop == NUMBER:
            name = value
    if encoded(name) in names:
        found[name] = one


def _read_metadata(data: bytes, start: int, end: int, one: _Found) -> None:
    for number, value, stop in fields(data, start, end):
        if number == 2:
            one.instruction.op_name = text(data, value, stop, _MAX_NAME)
        elif number == 3:
            one.file = text(data, value, stop, _MAX_PATH)
        elif number == 4 and stop == NUMBER:
            one.line = value
        elif number == 15 and stop == NUMBER:
            one.frame = value


def _read_frames(data: bytes, start: int, end: int, frames: _Frames) -> Generator[None, None, None]:
    lists = {1: frames.names, 3: frames.locations, 4: frames.frames}
    for turn, (number, value, stop) in enumerate(fields(data, start, end), 1):
        if not turn % _SLICE:
            yield
        if number in lists and stop != NUMBER:
            lists[number].append((value, stop))


class _Sources:
    """Finds the user's line of an instruction: the innermost in the user's files, or else in a library's."""

    def __init__(self, data: bytes, frames: _Frames, is_users: Callable[[str], bool | None]) -> None:
        self._data = data
        self._frames = frames
        self._is_users = is_users
        self._known: dict[int, str | None] = {}

    def of(self, one: _Found) -> str | None:
        if one.frame:
            if one.frame not in self._known:
                self._known[one.frame] = self._of_frame(one.frame)
            return self._known[one.frame]
        return f"{one.file}:{one.line}" if one.file and one.line > 0 else None

    def _of_frame(self, frame: int) -> str | None:
        library = None
        for _ in range(_MAX_FRAMES):
            values = self._numbers(self._frames.frames, frame)
            place = self._numbers(self._frames.locations, values.get(1, 0))
            file = self._name(place.get(1, 0))
            if file:
                rank = self._is_users(file)
                where = f"{file}:{place.get(3, 0)}"
                if rank:
                    return where
                library = library or (where if rank is None else None)
            frame = values.get(2, 0)
            if not frame:
                break
        return library

    def _numbers(self, spans: list[tuple[int, int]], number: int) -> dict[int, int]:
        if not 0 < number <= len(spans):
            return {}
        return {one: value for one, value, stop in fields(self._data, *spans[number - 1]) if stop == NUMBER}

    def _name(self, number: int) -> str:
        names = self._frames.names
        return text(self._data, *names[number - 1], _MAX_PATH) if 0 < number <= len(names) else ""


def shape_of(data: bytes, instruction: Instruction, index: tuple[int, ...]) -> str:
    """The shape of an instruction's result, or of an element of it: `f32[8,4]`; empty if it is not an array."""
    span = instruction.shape
    for position in index[:_MAX_NESTED]:
        if span is None:
            return ""
        parts = [(start, end) for number, start, end in fields(data, *span) if number == 4 and end != NUMBER]
        span = parts[position] if 0 <= position < len(parts) else None
    if span is None:
        return ""
    element, dimensions = 0, list[int]()
    for number, value, stop in fields(data, *span):
        if number == 2 and stop == NUMBER:
            element = value
        elif number == 3:
            dimensions += packed(data, value, stop)
    if element == _TUPLE or not 0 < element < len(ELEMENTS):
        return ""
    if len(dimensions) > _MAX_DIMENSIONS:
        raise MalformedError("a shape has too many dimensions")
    return f"{ELEMENTS[element]}[{','.join(map(str, dimensions))}]"
