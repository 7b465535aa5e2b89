"""What the source says of a call that donates: what was passed, and what became of the result.

Read only when something went wrong, from the file of the code. Where the source is not there (a REPL, text that was
executed, a file that was edited since) nothing is said.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import types
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_SOURCE = 2_000_000
_MAX_TEXT = 80


@dataclass(frozen=True, slots=True)
class Statement:
    """A call in the job's source.

    Attributes:
        call: The call.
        targets: What its result, or a part of it, is assigned to, as source text.
        statement: The statement that it is part of.
    """

    call: ast.Call
    targets: tuple[str, ...]
    statement: ast.stmt

    def argument(self, name: str, parameters: Sequence[str], count: int) -> str:
        """Source text of an argument if it is a name, an attribute or an item; empty for any other expression.

        Args:
            name: Of the parameter.
            parameters: Names of the positional arguments as the function got them.
            count: How many positional arguments the function got: one more than stand here if it is a method.
        """
        for keyword in self.call.keywords:
            if keyword.arg == name:
                return text_of(keyword.value)
        here = self.call.args
        if name not in parameters or any(isinstance(one, ast.Starred) for one in here):
            return ""
        position = parameters.index(name) - (count - len(here))
        return text_of(here[position]) if 0 <= position < len(here) else ""


def text_of(node: ast.expr) -> str:
    """Source text of a name, an attribute or a constant item: `self.state`, `d['state']`; empty for anything else."""
    inner: ast.expr = node
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        if isinstance(inner, ast.Subscript) and not isinstance(inner.slice, (ast.Constant, ast.Name)):
            return ""
        inner = inner.value
    text = ast.unparse(node) if isinstance(inner, ast.Name) else ""
    return text if len(text) <= _MAX_TEXT else ""


def statement_at(code: types.CodeType | None, instruction: int) -> Statement | None:
    """The call that an instruction makes, or None where the source does not show it."""
    if code is None:
        return None
    place = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    if place is None or None in place:
        return None
    source = "".join(linecache.getlines(code.co_filename))
    if not source or len(source) > _MAX_SOURCE:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt) and _is_around(statement, place):
            for node in _own_nodes(statement):
                if isinstance(node, ast.Call) and _place_of(node) == place:
                    return Statement(node, _targets(statement, node), statement)
    return None


def _place_of(node: ast.expr | ast.stmt) -> tuple[int | None, ...]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _is_around(statement: ast.stmt, place: tuple[int | None, ...]) -> bool:
    first, last = place[0] or 0, place[1] or 0
    return statement.lineno <= first and last <= (statement.end_lineno or 0)


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
