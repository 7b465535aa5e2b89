"""What the code of a call says: its arguments, the targets of its result, and whether it rebinds an argument.

Source and bytecode are read when a violation is reported, and once for a large program that could donate. Without
source (a REPL, executed text, a file that was edited since) only the bytecode is used. A call that gives its result the
name of its argument is a rebinding: `state, loss = step(state, batch)`. Reading the bytecode costs some tens of
microseconds per instruction of the function.
"""

from __future__ import annotations

import ast
import dis
import itertools
import linecache
import types
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_SOURCE = 2_000_000
_MAX_TEXT = 80
_PLAIN_STORES = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")
_STORES = (*_PLAIN_STORES, "STORE_ATTR", "STORE_SUBSCR")
_LOADS = ("LOAD_", "BINARY_SUBSCR", "BINARY_OP")
#: Instructions that put something on top of a value, and leave it there.
_PUSHES = ("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CONST")
#: What may stand between a call and the last name that its result gets.
_BETWEEN = ("UNPACK_", *_LOADS, *_STORES, "NOP", "COPY", "SWAP", "EXTENDED_ARG", "PUSH_NULL")


@dataclass(frozen=True, slots=True)
class Statement:
    """A call in the job's source, and the source text of what its result, or a part of it, is assigned to."""

    call: ast.Call
    targets: tuple[str, ...]

    def argument(self, name: str, parameters: Sequence[str]) -> str:
        """Return the source text of an argument that is a name, an attribute or an item; else an empty string.

        `parameters` names the positional arguments that the function got: of a method one more than in the source.
        """
        for keyword in self.call.keywords:
            if keyword.arg == name:
                return text_of(keyword.value)
        here = self.call.args
        if name not in parameters or any(isinstance(one, ast.Starred) for one in here):
            return ""
        position = parameters.index(name) - (len(parameters) - len(here))
        return text_of(here[position]) if 0 <= position < len(here) else ""


def text_of(node: ast.expr) -> str:
    """Return the source text of a name, attribute or constant item: `self.state`, `d['state']`; else an empty one."""
    inner: ast.expr = node
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        if isinstance(inner, ast.Subscript) and not isinstance(inner.slice, (ast.Constant, ast.Name)):
            return ""
        inner = inner.value
    text = ast.unparse(node) if isinstance(inner, ast.Name) else ""
    return text if len(text) <= _MAX_TEXT else ""


def place_of(code: types.CodeType, instruction: int) -> str:
    """Return `file:line` of an instruction; finding the line takes time in a long function."""
    line = next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
    return f"{code.co_filename}:{line or code.co_firstlineno}"


def statement_at(code: types.CodeType | None, instruction: int) -> Statement | None:
    """The call that an instruction makes, or None where the source does not show it."""
    if code is None:
        return None
    position = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    if position is None or None in position:
        return None
    source = "".join(linecache.getlines(code.co_filename))
    if not source or len(source) > _MAX_SOURCE:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt) and statement.lineno <= (position[0] or 0) <= (statement.end_lineno or 0):
            for node in _own_nodes(statement):
                if isinstance(node, ast.Call) and position == (
                    node.lineno,
                    node.end_lineno,
                    node.col_offset,
                    node.end_col_offset,
                ):
                    return Statement(node, _targets(statement, node))
    return None


def _own_nodes(statement: ast.stmt) -> list[ast.AST]:
    """The expressions of a statement, without the statements in it."""
    found: list[ast.AST] = []
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop()
        found.append(node)
        queue += [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.stmt)]
    return found


def _targets(statement: ast.stmt, call: ast.Call) -> tuple[str, ...]:
    found: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        found = list(statement.targets)
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        found = [statement.target]
    found += [one.target for one in _own_nodes(statement) if isinstance(one, ast.NamedExpr) and one.value is call]
    flat: list[ast.expr] = []
    while found:
        one = found.pop(0)
        if isinstance(one, (ast.Tuple, ast.List)):
            found = [*one.elts, *found]
        elif isinstance(one, ast.Starred):
            found.insert(0, one.value)
        else:
            flat.append(one)
    return tuple(text for one in flat if (text := text_of(one)))


@dataclass(frozen=True, slots=True)
class Rebinding:
    """A call whose result replaces some of its arguments.

    Attributes:
        code: Where it stands.
        call, end: Offsets of the call and of the instruction that gives the last name.
        names: What is replaced: names, and names with the key of an item.
        has_alias: Whether another name in the code may keep the old value.
    """

    code: types.CodeType
    call: int
    end: int
    names: frozenset[object]
    has_alias: bool

    def is_at(self, frame: types.FrameType | None) -> bool:
        """Whether the frame is between the call and the last store."""
        return frame is not None and frame.f_code is self.code and self.call <= frame.f_lasti <= self.end


def rebinding_at(code: types.CodeType, call: int) -> Rebinding | None:
    """Return the rebinding that a call is part of, or None."""
    instructions = list(dis.get_instructions(code))
    # A frame suspended in a call of C code may point behind the call, into its inline cache.
    here = next((i for i in reversed(range(len(instructions))) if instructions[i].offset <= call), None)
    if here is None or call >= len(code.co_code):
        return None
    span = _span(instructions[here])
    loaded: set[object] = set()
    for i, one in enumerate(instructions[:here]):
        inner = _span(one)
        is_inside = bool(inner and span) and inner[:2] >= span[:2] and inner[2:] <= span[2:]
        if is_inside and one.opname.startswith(_LOADS):
            loaded.update(_names(one), _item(instructions, i))
    stored, end = _stored(instructions, here)
    if not stored & loaded:
        stored, end = _reassigned(instructions, stored, end)
    names = frozenset(stored & loaded)
    if not names:
        return None
    return Rebinding(code, call, instructions[end].offset, names, _has_alias(instructions, names, range(here, end)))


def _stored(instructions: list[dis.Instruction], here: int) -> tuple[set[object], int]:
    """Return the names that a call's own statement assigns its result to, and the index of its last instruction."""
    stored: set[object] = set()
    end, depth = here, 1
    for i, one in enumerate(instructions[here + 1 :], here + 1):
        if not one.opname.startswith(_BETWEEN):
            break
        if one.opname.startswith(_STORES):
            is_with_next = one.opname.endswith("_LOAD_FAST")
            stored.update(_names(one)[:1] if is_with_next else _names(one), _item(instructions, i))
            end = i
            if is_with_next and depth == 1:
                break
        # The statement ends when the whole result was stored.
        depth += dis.stack_effect(one.opcode, one.arg, jump=False)
        if depth <= 0:
            break
    return stored, end


def _reassigned(instructions: list[dis.Instruction], stored: set[object], end: int) -> tuple[set[object], int]:
    """Follow statements that only assign one name to another: `new = step(old); old = new`."""
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


def _has_alias(instructions: list[dis.Instruction], replaced: frozenset[object], besides: range) -> bool:
    """Whether the code assigns a replaced value to another name: `best = state` keeps an old one alive."""
    for i, load in enumerate(instructions):
        if i in besides or not load.opname.startswith("LOAD_") or not set(_names(load)) & replaced:
            continue
        rest = itertools.islice(instructions, i + 1, None)
        # The object or container may be loaded between a value and its store: `o.best = state`.
        store = next((one for one in rest if not one.opname.startswith(_PUSHES)), None)
        is_direct = store is instructions[i + 1] if i + 1 < len(instructions) else False
        if store is None or not store.opname.startswith(_STORES if is_direct else _STORES[len(_PLAIN_STORES) :]):
            continue
        if not set(_names(store)) & replaced:
            return True
    return False


def _item(instructions: list[dis.Instruction], i: int) -> list[object]:
    """Key of an item that is read or written (`d['state']`): the container's name and the key, if it is constant."""
    if i < 2 or not instructions[i].opname.startswith(("BINARY_SUBSCR", "STORE_SUBSCR")):
        return []
    container, key = instructions[i - 2], instructions[i - 1]
    is_plain = key.opname == "LOAD_CONST" and container.opname.startswith("LOAD_")
    return [(name, key.argval) for name in _names(container)] if is_plain else []


def _span(instruction: dis.Instruction) -> tuple[int, ...]:
    """First line and column, last line and column of an instruction's source; nothing if they are not known."""
    at = instruction.positions
    found = (at.lineno, at.col_offset, at.end_lineno, at.end_col_offset) if at is not None else ()
    return tuple(one for one in found if one is not None) if None not in found else ()


def _names(instruction: dis.Instruction) -> tuple[object, ...]:
    """Names of the variables and attributes that an instruction uses; some use two."""
    if instruction.opname == "LOAD_CONST":
        return ()
    value = instruction.argval
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()
