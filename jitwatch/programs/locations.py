"""Finds the source line of an operation in a program's text."""

from __future__ import annotations

import re
from typing import Final

from jitwatch.programs.text import STRING, Entry

_PART = re.compile(rf"({STRING})(?::(\d{{1,9}}):(\d{{1,9}}))?|#loc(\d{{0,12}})")
_NAME = re.compile(rf"loc\(({STRING})")
_ALIAS = re.compile(r"#loc(\d{0,12}) = ")
_ESCAPE = re.compile(r"\\([0-9A-Fa-f]{2}|.)")
#: Files that are not the user's.
_LIBRARY = re.compile(r"[/\\](?:site-packages|dist-packages|lib[/\\]python3[^/\\]*)[/\\]|^<")
#: Bounds of the work for one operation.
_MAX_ALIASES: Final = 100
_MAX_LENGTH: Final = 20_000
_LINES_AHEAD: Final = 3
_LINES_OF_USE: Final = 50


class Locations:
    """The locations of a text: `loc("train.py":88:4)`, `#loc12` and call sites of them.

    Args:
        text: A program as JAX prints it. Definitions `#loc12 = loc(…)` are sorted by number, at its start and its end.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        head = 0
        while text.startswith("#", head) and (line_end := text.find("\n", head)) >= 0:
            head = line_end + 1
        tail = text.rfind("\n}") + 1
        self._blocks = [(0, head), (max(head, tail), len(text))]

    def source_of(self, start: int, end: int) -> str | None:
        """The source line of the operation in a part of the text, `train.py:88`; of the user's code where it is known.

        An operation with regions has its location after them; then the first location in them is taken.
        """
        for _ in range(_LINES_AHEAD + 1):
            found = self._text.rfind("loc(", start, end)
            if found >= 0:
                return self._resolved(found, end)
            start, end = end + 1, self._text.find("\n", end + 1)
            if end < 0:
                break
        return None

    def use_of(self, entry: Entry) -> tuple[int, int] | None:
        """The first use of an operation's result in the text, if it is nearby."""
        name, is_defined, _ = entry.line.partition(" = ")
        if not is_defined or not name.startswith("%"):
            return None
        operand = re.compile(rf"{re.escape(name[:100])}(?![\w$.\-])")
        start = entry.end + 1
        for _ in range(_LINES_OF_USE):
            end = self._text.find("\n", start)
            if end < 0:
                break
            if operand.search(self._text, start, min(end, start + _MAX_LENGTH)):
                return start, end
            start = end + 1
        return None

    def name_of(self, location: str) -> str:
        """The name of an argument from its location, `loc("state['w']")` or `loc(#loc1)`; empty if it has none."""
        if alias := re.match(r"loc\(#loc(\d{0,12})\)", location):
            span = self._definition(alias[1])
            location = self._text[span[0] : span[1]] if span else ""
        named = _NAME.match(location)
        if not named or location.startswith(":", named.end()):
            return ""
        return unquoted(named[1])

    def _resolved(self, start: int, end: int) -> str | None:
        """The files of a location from the innermost call outwards; the first one of the user's."""
        fallback = None
        seen: set[str] = set()
        stack = [_PART.finditer(self._text, start, min(end, start + _MAX_LENGTH))]
        while stack:
            part = next(stack[-1], None)
            if part is None:
                stack.pop()
            elif part[2] is not None:
                path = unquoted(part[1])
                where = f"{path}:{part[2]}"
                if not _LIBRARY.search(path):
                    return where
                fallback = fallback or where
            elif part[4] is not None and part[4] not in seen and len(seen) < _MAX_ALIASES:
                seen.add(part[4])
                if span := self._definition(part[4]):
                    stack.append(_PART.finditer(self._text, *span))
        return fallback

    def _definition(self, number: str) -> tuple[int, int] | None:
        """Where the text has the location of `#loc12`: by bisection, since a large program has a million of them."""
        wanted = int(number or 0)
        for block in self._blocks:
            low, high = block
            while low < high:
                half = (low + high) // 2
                middle = self._text.rfind("\n", max(low, half - _MAX_LENGTH), half) + 1
                if not middle:
                    if half - low > _MAX_LENGTH:
                        return None  # longer than any location: looking for its start would take long each time
                    middle = low
                line_end = self._text.find("\n", middle, min(high, middle + 2 * _MAX_LENGTH))
                line_end = min(high, middle + 2 * _MAX_LENGTH) if line_end < 0 else line_end
                found = _ALIAS.match(self._text, middle, line_end)
                if found is None:
                    # The end of the module, or something that is not a location.
                    low = line_end + 1
                    continue
                here = int(found[1] or 0)
                if here == wanted:
                    return found.end(), min(line_end, found.end() + _MAX_LENGTH)
                low, high = (line_end + 1, high) if here < wanted else (low, middle)
        return None


def unquoted(string: str) -> str:
    """The value of a string of the text."""
    inner = string[1:-1] if string.endswith('"') and len(string) > 1 else string[1:]
    if "\\" not in inner:
        return inner
    data = bytearray()
    last = 0
    for escape in _ESCAPE.finditer(inner):
        data += inner[last : escape.start()].encode("utf-8", "replace")
        code = escape[1]
        if len(code) == 2:
            data.append(int(code, 16))
        else:
            data += {"n": "\n", "t": "\t"}.get(code, code).encode("utf-8", "replace")
        last = escape.end()
    data += inner[last:].encode("utf-8", "replace")
    return data.decode("utf-8", "replace")
