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
#: Instructions that put something on top of a value, and leave it there.
_PUSHES = ("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CONST")
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
    """The rebinding that a call is part of, or None; also where another name of this code may keep the old value."""
    found = _replacing(code, call)
    if found is None or _has_other_name(found.instructions, found.names, range(found.here, found.end)):
        return None
    return Rebinding(code, call, found.instructions[found.end].offset)


def rebound_names(code: types.CodeType, call: int) -> frozenset[str]:
    """The names of arguments that the result of a call gets, whatever other names there are."""
    found = _replacing(code, call)
    return frozenset(name for name in found.names if isinstance(name, str)) if found is not None else frozenset()


@dataclass(frozen=True, slots=True)
class _Replacing:
    """A call whose result gets the names of arguments: those, and the numbers of the call and of the last store."""

    instructions: list[dis.Instruction]
    names: set[object]
    here: int
    end: int


def _replacing(code: types.CodeType, call: int) -> _Replacing | None:
    instructions = list(dis.get_instructions(code))
    # A frame that waits for one of Python's own functions is a little behind its call, in what is cached there.
    here = next((i for i in reversed(range(len(instructions))) if instructions[i].offset <= call), None)
    if here is None or call >= len(code.co_code) or instructions[here].positions is None:
        return None
    span = _span(instructions[here])
    loaded: set[object] = set()
    for i, one in enumerate(instructions[:here]):
        inner = _span(one)
        if one.opname.startswith(_LOADS) and None not in inner and None not in span and _is_inside(inner, span):
            loaded.update(_names(one))
            loaded.update(_item(instructions, i))
    stored, end = _stored(instructions, here)
    if not stored & loaded:
        stored, end = _handed_on(instructions, stored, end)
    replaced = stored & loaded
    return _Replacing(instructions, replaced, here, end) if replaced else None


def _stored(instructions: list[dis.Instruction], here: int) -> tuple[set[object], int]:
    """Names that the result of a call gets in its own statement, and the number of the last instruction of that."""
    stored: set[object] = set()
    end, depth = here, 1
    for i, one in enumerate(instructions[here + 1 :], here + 1):
        if not one.opname.startswith(_BETWEEN):
            break
        if one.opname.startswith(_STORES):
            is_with_next = one.opname.endswith("_LOAD_FAST")
            stored.update(_names(one)[:1] if is_with_next else _names(one))
            stored.update(_item(instructions, i))
            end = i
            if is_with_next and depth == 1:
                break
        # The statement is over when all of the result has gone somewhere.
        depth += dis.stack_effect(one.opcode, one.arg, jump=False)
        if depth <= 0:
            break
    return stored, end


def _handed_on(instructions: list[dis.Instruction], stored: set[object], end: int) -> tuple[set[object], int]:
    """The same with the statements that follow, as long as they only give a name on: `new = step(old); old = new`."""
    found = set(stored)
    i = end + 1
    while i + 1 < len(instructions):
        load, store = instructions[i], instructions[i + 1]
        if not (load.opname.startswith("LOAD_") and store.opname.startswith(_PLAIN_STORES)):
            break
        if not found & set(_names(load)):
            break
        found.update(_names(store))
        end, i = i + 1, i + 2
    return found, end


def _has_other_name(instructions: list[dis.Instruction], replaced: set[object], besides: range) -> bool:
    """Whether the code gives what is replaced another name somewhere: `best = state` keeps an old one alive."""
    for i, load in enumerate(instructions):
        if i in besides or not load.opname.startswith("LOAD_") or not set(_names(load)) & replaced:
            continue
        rest = itertools.islice(instructions, i + 1, None)
        # Between a value and where it goes there may be the object or container: `o.best = state`.
        store = next((one for one in rest if not one.opname.startswith(_PUSHES)), None)
        is_direct = store is instructions[i + 1] if i + 1 < len(instructions) else False
        if store is None or not store.opname.startswith(_STORES if is_direct else _STORES[len(_PLAIN_STORES) :]):
            continue
        if not set(_names(store)) & replaced:
            return True
    return False


def _item(instructions: list[dis.Instruction], i: int) -> list[object]:
    """What `d['state']` is called where it is read or written: the container's name and the key, if it is constant."""
    if i < 2 or not instructions[i].opname.startswith(("BINARY_SUBSCR", "STORE_SUBSCR")):
        return []
    container, key = instructions[i - 2], instructions[i - 1]
    is_plain = key.opname == "LOAD_CONST" and container.opname.startswith("LOAD_")
    return [(name, key.argval) for name in _names(container)] if is_plain else []


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
    if instruction.opname == "LOAD_CONST":
        return ()
    value = instruction.argval
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()
