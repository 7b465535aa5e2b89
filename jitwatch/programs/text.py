"""Reads the text of a StableHLO module line by line, in a form without the names of values and functions.

Every pattern takes time proportional to the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

#: A string; one without an end reaches to the end of the line.
STRING: Final = r'"(?:[^"\\]++|\\.)*+"?'
#: Maximum characters of a literal; a longer one is replaced by a digest.
LONG_LITERAL: Final = 512
#: Maximum characters of a line; in a longer one, names are not replaced.
_MAX_LINE: Final = 1 << 20
#: Maximum number of values of a function whose names are known; older ones are not distinguished.
_MAX_VALUES: Final = 200_000
_MAX_SYMBOLS: Final = 20_000
_CHUNK: Final = 1 << 20

_LITERAL = re.compile(rf'dense<(?:"[^"]*+"?|[^<>"]*+)>?|{STRING}')
_TOKEN = re.compile(rf"({STRING})|%([\w$.\-]++)(:\d++)?((?=\s?=\s|:\s))?|(@(?:[\w$.\-]++|{STRING}))|(  ++)")
_KIND = re.compile(r'(?:%[^=]{0,4096}+=\s*+)?"?((?:[A-Za-z_][\w$]*+\.)++[\w$.]++|(?:call|return|module)\b)')
_KNOWN_LOCATION = re.compile(r" ?\bloc\((?:#loc\d*+|unknown)\)")
_IN_LOCATION = re.compile(rf"{STRING}|\bloc\(|[()]")
_SYMBOL_NAME = re.compile(r'\bsym_name = "[^"]*+"')
_FUNCTION = re.compile(r'(?:func\.func (?:(public|private|nested) )?@([\w$.\-]++)|.*\bsym_name = "([^"]*+)")')


class Entry(NamedTuple):
    """One line of a program.

    Attributes:
        kind: Kind of the operation, such as `stablehlo.add`; empty if the line is not an operation.
        form: The line with numbers instead of the names of values and functions, without its location.
        line: The line without its location, with long literals replaced by a digest.
        start, end: Its position in the text.
        number: Number of the line, from 1.
        function: Name of the function that it begins or belongs to.
    """

    kind: str
    form: str
    line: str
    start: int
    end: int
    number: int
    function: str


def entries(text: str, begin: Entry | None = None) -> Iterator[Entry]:
    """Read the lines of a program, without those that only define locations.

    Args:
        text: The whole text.
        begin: An entry of the text to begin with; values and functions are then numbered differently.
    """
    names = _Names()
    function = begin.function if begin else ""
    position, size, number = begin.start if begin else 0, len(text), begin.number - 1 if begin else 0
    while position < size:
        end = text.find("\n", position)
        end = size if end < 0 else end
        start, position, number = position, end + 1, number + 1
        is_long = end - start > LONG_LITERAL
        line = (shrunk(text, start, end) if is_long else text[start:end]).strip()
        if not line or line.startswith("#loc"):
            continue
        found = _KIND.match(line)
        kind = found[1] if found else ""
        if kind == "func.func":
            names.begin_function()
            head = _FUNCTION.match(line.removeprefix('"'), 0, _MAX_LINE)
            function = (head[2] or head[3] or "") if head else ""
        elif kind.startswith("func."):
            kind = kind[5:]
        line = without_locations(line)
        if kind == "func.func" and line.startswith('"'):
            line = _SYMBOL_NAME.sub('sym_name = "f"', line)
        form = names.replaced(line) if len(line) <= _MAX_LINE else digest(line, 0, len(line))
        yield Entry(kind, form, line, start, end, number, function)


class _Names:
    """Numbers the values of a function and the symbols of a module in the order in which they appear."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._older: dict[str, str] = {}
        self._symbols: dict[str, str] = {}
        self._next = 0

    def begin_function(self) -> None:
        self._values, self._older, self._next = {}, {}, 0

    def replaced(self, line: str) -> str:
        return _TOKEN.sub(self._replaced, line)

    def _replaced(self, token: re.Match[str]) -> str:
        name = token[2]
        if name is not None:
            multiple = token[3]
            if multiple is not None or token[4] is not None:
                return f"{self._define(name)}{multiple or ''}"
            return self._values.get(name) or self._older.get(name) or self._define(name)
        if token[1] is not None:
            return token[1]
        if (symbol := token[5]) is not None:
            before = token.string[max(token.start() - 12, 0) : token.start()]
            if before == "custom_call ":
                return symbol
            if symbol not in self._symbols:
                if len(self._symbols) >= _MAX_SYMBOLS:
                    return "@"
                self._symbols[symbol] = f"@{len(self._symbols)}"
            return self._symbols[symbol]
        return " "

    def _define(self, name: str) -> str:
        if len(self._values) >= _MAX_VALUES // 2:
            self._values, self._older = {}, self._values
        number = self._values[name] = f"%{self._next}"
        self._next += 1
        return number


def without_locations(line: str) -> str:
    """A line without `loc(…)`, those of a function's arguments included."""
    found = line.find("loc(")
    if found < 0:
        return line
    # Most lines: one alias at the end.
    if line.startswith("#loc", found + 4) and line.endswith(")") and not line[found + 8 : -1].strip("0123456789"):
        return line[:found].rstrip(" ")
    line = _KNOWN_LOCATION.sub("", line)
    if "loc(" not in line:
        return line
    pieces, kept, depth = [], 0, 0
    for token in _IN_LOCATION.finditer(line):
        what = token[0]
        if depth == 0:
            if what == "loc(":
                pieces.append(line[kept : token.start()].rstrip(" "))
                depth = 1
        elif what == ")":
            depth -= 1
            kept = token.end()
        elif what in {"(", "loc("}:
            depth += 1
    return "".join(pieces) + ("" if depth else line[kept:])


def shrunk(text: str, start: int, end: int) -> str:
    """A part of a text, with each long literal replaced by its digest: `dense<#1f2e…>`."""
    pieces, kept = [], start
    for literal in _LITERAL.finditer(text, start, end):
        first, last = literal.span()
        if last - first > LONG_LITERAL:
            is_dense = text[first] == "d"
            hashed = digest(text, first + (6 if is_dense else 1), last - 1)
            pieces.append(text[kept:first])
            pieces.append(f"dense<#{hashed}>" if is_dense else f'"#{hashed}"')
            kept = last
    pieces.append(text[kept:end])
    return "".join(pieces)


def digest(text: str, start: int, end: int) -> str:
    """A hash of a part of a text, in 16 hexadecimal digits; no copy of a long part is made."""
    state = blake2b(digest_size=8)
    for first in range(start, end, _CHUNK):
        state.update(text[first : min(first + _CHUNK, end)].encode("utf-8", "surrogatepass"))
    return state.hexdigest()
