"""Pictures on a terminal, by rich: an alternate screen that is left as it was found."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style as RichStyle

from jitwatch.top.cells import width
from jitwatch.top.frame import Frame
from jitwatch.top.layout import lay_out
from jitwatch.top.lines import Line, Style

#: The sixteen colours of the terminal's own scheme, so that it is readable on dark and on light ground.
_STYLES: Final[dict[Style, RichStyle | None]] = {
    "": None,
    "bold": RichStyle(bold=True),
    "dim": RichStyle(dim=True),
    "good": RichStyle(color="green"),
    "busy": RichStyle(color="cyan"),
    "warn": RichStyle(color="yellow"),
    "bad": RichStyle(color="red", bold=True),
    "gone": RichStyle(color="magenta"),
    "head": RichStyle(bold=True, underline=True),
}


class Picture:
    """A frame, laid out for whatever size the terminal has when it is drawn."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Segments and no markup: a name such as `[red]` is only a name."""
        columns, rows = options.size
        lines = lay_out(self._frame, columns, rows)
        for number, line in enumerate(lines):
            yield from _segments(line, columns)
            if number < len(lines) - 1:
                yield Segment.line()


def _segments(line: Line, columns: int) -> RenderResult:
    for span in line:
        yield Segment(span.text, _STYLES[span.style])
    # A line that was longer before leaves nothing behind.
    yield Segment(" " * (columns - sum(width(span.text) for span in line)))


class Screen:
    """The alternate screen, as a context."""

    def __init__(self) -> None:
        # Some shells and programs export the size that the terminal had when they began.
        size = ("COLUMNS", "LINES")
        environment = {name: value for name, value in os.environ.items() if name not in size}
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, _environ=environment)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Screen:
        self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.suspend()

    def suspend(self) -> None:
        """Put back what was on the terminal before."""
        self._live.stop()

    def resume(self) -> None:
        """Take the whole terminal."""
        self._live.start()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        columns, rows = self._console.size
        return columns, rows

    def show(self, frame: Frame) -> None:
        """Draw it."""
        self._live.update(Picture(frame), refresh=True)
