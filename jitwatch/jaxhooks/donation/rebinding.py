"""Whether the line that makes a call gives its result the name of its argument: `state, loss = step(state, batch)`.

Read from the bytecode around the call, which costs some tens of microseconds for each instruction of the function
and is done once for a large program.
"""

from __future__ import annotations

import dis
import itertools
import types
from dataclasses import dataclass

_PLAIN_STORES = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")
_STORES = (*_PLAIN_STORES, "STORE_ATTR", "STORE_SUBSCR")
_LOADS = ("LOAD_", "BINARY_SUBSCR", "BINARY_OP")
#: What may stand between a call and the last name that its result gets.
_BETWEEN = ("UNPACK_", *_LOADS, *_STORES, "NOP", "COPY", "SWAP", "EXTENDED_ARG", "PUSH_NULL")


@dataclass(frozen=True, slots=True)
class Rebinding:
    """A call whose result replaces one of its arguments.

    Attributes:
        code: Where it stands.
        call: Offset of the call.
        end: Offset of the instruction that gives the last name.
    """

    code: types.CodeType
    call: int
    end: int

    def is_at(self, frame: types.FrameType | None) -> bool:
        """Whether the frame is between the call and the last name."""
        return frame is not None and frame.f_code is self.code and self.call <= frame.f_lasti <= self.end


def rebinding_at(code: types.CodeType, call: int) -> Rebinding | None:
    """The rebinding that a call is part of, or None."""
    instructions = list(dis.get_instructions(code))
    here = next((i for i, one in enumerate(instructions) if one.offset == call), None)
    if here is None or instructions[here].positions is None:
        return None
    span = _span(instructions[here])
    loaded: set[object] = set()
    for one in instructions[:here]:
        inner = _span(one)
        if one.opname.startswith(_LOADS) and None not in inner and None not in span and _is_inside(inner, span):
            loaded.update(_names(one))
    stored: set[object] = set()
    end = call
    for before, one in itertools.pairwise(instructions[here:]):
        # A name that gets what was just loaded belongs to the next statement.
        is_next = one.opname.startswith(_PLAIN_STORES) and before.opname.startswith("LOAD_")
        if is_next or not one.opname.startswith(_BETWEEN):
            break
        if one.opname.startswith(_STORES):
            stored.update(_names(one)[:1] if one.opname.endswith("_LOAD_FAST") else _names(one))
            end = one.offset
    return Rebinding(code, call, end) if stored & loaded else None


def _span(instruction: dis.Instruction) -> tuple[int | None, ...]:
    place = instruction.positions
    if place is None:
        return None, None, None, None
    return place.lineno, place.col_offset, place.end_lineno, place.end_col_offset


def _is_inside(inner: tuple[int | None, ...], outer: tuple[int | None, ...]) -> bool:
    return (inner[0] or 0, inner[1] or 0) >= (outer[0] or 0, outer[1] or 0) and (inner[2] or 0, inner[3] or 0) <= (
        outer[2] or 0,
        outer[3] or 0,
    )


def _names(instruction: dis.Instruction) -> tuple[object, ...]:
    """Variables and attributes that an instruction touches; some touch two."""
    value = instruction.argval
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()
