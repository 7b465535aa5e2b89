"""Reads single keys from a terminal, which is as it was before once that is over."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Any, Final

#: What a key sends, in either mode of the cursor keys.
_SEQUENCES: Final = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "[Z": "backtab",
    "OA": "up", "OB": "down", "OC": "right", "OD": "left",
}  # fmt: skip
_KEY: Final = re.compile(r"\x1b([\[O][0-9;]*[A-Za-z~])|(.)", re.DOTALL)
_MOST: Final = 1024


def keys_in(text: str) -> list[str]:
    """Names of the keys in what a terminal sent: `q`, `tab`, `up`; unknown ones are left out."""
    found = []
    for sequence, character in _KEY.findall(text):
        name = _SEQUENCES.get(sequence, "") if sequence else {"\t": "tab"}.get(character, character.lower())
        if name and name.isprintable():
            found.append(name)
    return found


class Keyboard:
    """A context in which keys can be read one by one. Without a terminal on stdin there are none."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._before: list[Any] = []

    def __enter__(self) -> Keyboard:
        if sys.stdin is not None and sys.stdin.isatty():
            self._file = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._file)
            self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.suspend()

    @property
    def is_there(self) -> bool:
        """Whether keys can be read."""
        return self._file is not None

    def suspend(self) -> None:
        """Put the terminal back; keys typed ahead are dropped, not left to the shell."""
        if self._file is not None:
            termios.tcsetattr(self._file, termios.TCSAFLUSH, self._before)

    def resume(self) -> None:
        """Take keys as they are typed, without an echo; Ctrl-C stays a signal."""
        if self._file is not None:
            tty.setcbreak(self._file)

    def read(self, timeout_s: float) -> list[str]:
        """The keys that are typed within so many seconds; `q` when the terminal is gone."""
        if self._file is None:
            time.sleep(timeout_s)
            return []
        if not select.select([self._file], [], [], timeout_s)[0]:
            return []
        sent = os.read(self._file, _MOST)
        return keys_in(sent.decode("utf-8", "replace")) if sent else ["q"]
