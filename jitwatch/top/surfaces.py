"""What pictures are drawn on: a screen, or paper where the terminal can only print."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from jitwatch.errors import ConfigError
from jitwatch.top.frame import Frame
from jitwatch.top.plain import as_text


class Surface(Protocol):
    """What pictures are drawn on."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""

    def show(self, frame: Frame) -> None:
        """Draw it."""

    def suspend(self) -> None:
        """Leave the terminal to others."""

    def resume(self) -> None:
        """Take it again."""


class Paper:
    """A terminal that can only print, one picture below the other."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        columns, rows = shutil.get_terminal_size()
        return columns, rows

    def show(self, frame: Frame) -> None:
        """Print it."""
        columns, rows = self.size
        sys.stdout.write(f"{as_text(replace(frame, keys=False), columns, rows)}\n")
        sys.stdout.flush()

    def suspend(self) -> None:
        """Nothing was taken."""

    def resume(self) -> None:
        """Nothing is."""


def surface() -> Any:
    """A screen; where the terminal cannot move its cursor, paper."""
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return _paper()
    try:
        from jitwatch.top.screen import Screen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise ConfigError(
            f"the live view needs rich: {sys.executable} -m pip install rich. Without it there are --once and --json"
        ) from None
    return Screen()


@contextmanager
def _paper() -> Iterator[Paper]:
    yield Paper()
