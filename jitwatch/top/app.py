"""The live view in the terminal, on textual: what is wrong first, then the figures, and below them what to change."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import ClassVar, Final

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jitwatch.top import model, view
from jitwatch.top.client import Client
from jitwatch.top.model import Process
from jitwatch.top.view import Line, Style

#: The sixteen colours of the terminal's own scheme, readable on dark and on light ground.
_STYLES: Final[dict[Style, str]] = {
    "": "",
    "bold": "bold",
    "dim": "dim",
    "good": "ansi_green",
    "busy": "ansi_cyan",
    "warn": "ansi_yellow",
    "bad": "bold ansi_red",
    "gone": "ansi_magenta",
    "head": "bold",
}
#: Seconds between two looks for new answers; ages on the screen change once a second.
_BEAT_S: Final = 0.1
#: Rows of the functions table, and notes of each kind; the rest is only counted.
_MOST_FUNCTIONS, _MOST_NOTES = 500, 50
#: Rows below which the functions are shown and no texts.
_LOWEST: Final = 15
#: What a key shows alone.
_PANES: Final = {"f": "functions", "r": "recompiles", "c": "advice"}


def content(lines: list[Line]) -> Content:
    """Lines for a widget. A name such as `[red]` is no markup."""
    return Content("\n").join(Content.assemble(*((text, _STYLES[style]) for text, style in line)) for line in lines)


class Pane(VerticalScroll, can_focus=False):
    """A part of the screen under a title: the head of a table, and lines that scroll."""

    def __init__(self, name: str) -> None:
        self._heads, self._body = Static(classes="heads", markup=False), Static(markup=False)
        self._last: object = None
        super().__init__(self._heads, self._body, id=name)

    def show(self, title: str, lines: list[Line], heads: int = 0) -> None:
        """Show these lines, the first so many of which do not scroll."""
        if (title, lines) == self._last:
            return
        self._last = (title, lines)
        self.border_title = title
        self._heads.display = heads > 0
        self._heads.update(content(lines[:heads]))
        self._body.update(content(lines[heads:]))


class TopApp(App[None]):
    """Shows the jobs of a client until the user quits."""

    CSS = """
    * { background: ansi_default; color: ansi_default; scrollbar-size-vertical: 1; }
    Static { text-wrap: nowrap; }
    Pane { border-top: solid ansi_bright_black; border-title-color: ansi_default; border-title-style: bold; }
    .heads { dock: top; }
    #functions { height: 1fr; }
    #recompiles { height: auto; max-height: 25%; }
    #advice { height: auto; max-height: 42%; }
    #functions.alone, #recompiles.alone, #advice.alone { height: 1fr; max-height: 100%; }
    #foot { height: 1; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", priority=True),
        Binding("ctrl+z", "suspend_process", priority=True),
        Binding("s", "sort"),
        Binding("p", "pause"),
        *(Binding(key, f"alone('{pane}')") for key, pane in _PANES.items()),
        Binding("tab,down,right", "choose(1)", priority=True),
        Binding("shift+tab,up,left", "choose(-1)", priority=True),
        Binding("pagedown", "page(1)"),
        Binding("pageup", "page(-1)"),
    ]

    def __init__(self, client: Client) -> None:
        super().__init__(ansi_color=True)
        self._client = client
        self._processes: list[Process] = []
        self._seen: object = None
        self._chosen: str | None = None
        self._sort = "lost"
        self._is_paused = False
        self._alone: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        with Vertical():
            for pane in _PANES.values():
                yield Pane(pane)
        yield Static(id="foot", markup=False)

    def on_mount(self) -> None:
        """Leave the terminal as it was when the process is ended, too."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.exit)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit, None, 128 + number)
        self._processes = self._client.processes()
        self.set_interval(_BEAT_S, self._beat)

    def on_resize(self) -> None:
        """Lay everything out again."""
        self.call_later(self._draw)

    def _beat(self) -> None:
        news = (self._client.answers, int(time.monotonic()))
        if news != self._seen and not self._is_paused:
            self._seen = news
            self._processes = self._client.processes()
            self._draw()

    def _draw(self) -> None:
        columns, rows = self.size
        if not columns or not self.is_running:
            return
        shown = model.shown_of(self._processes, self._chosen)
        all_figures = model.counted(shown)
        self.query_one("#head", Static).update(content(self._head(shown, columns, rows)))
        self.query_one("#foot", Static).update(content([view.cut(self._foot(), columns)]))
        lines_each = 9 if self._alone else 1 if rows < 30 else 2 if rows < 40 else 3
        functions = model.functions_of(shown, self._sort) if all_figures else []
        table = view.functions_table(functions, columns - 1, _MOST_FUNCTIONS) if all_figures else []
        self._show("functions", f"Functions by {self._sort} ({len(functions):,})", table, heads=1)
        for name, title, notes in (
            ("recompiles", "Newest recompiles", view.recompiles(all_figures)),
            ("advice", "Advice", view.advice(all_figures)),
        ):
            self._show(name, f"{title} ({len(notes):,})", view.notes(notes[:_MOST_NOTES], columns - 1, lines_each))

    def _show(self, name: str, title: str, lines: list[Line], heads: int = 0) -> None:
        pane = self.query_one(f"#{name}", Pane)
        has_room = self.size.height >= _LOWEST or name == "functions"
        pane.display = bool(lines) and (has_room if self._alone is None else self._alone == name)
        pane.set_class(self._alone == name, "alone")
        pane.show(title, lines, heads)

    def _head(self, shown: list[Process], columns: int, rows: int) -> list[Line]:
        if not shown:
            return [((text, ""),) for text in view.wrapped(self._client.nothing_found, columns, rows)]
        if len(self._processes) == 1:
            figures = view.facts(shown[0], columns, 3 if rows >= 18 else 2)
        else:
            figures = view.processes_table(self._processes, self._chosen, columns, max(3, rows // 2 - 4))
        most = max(1, min(4, rows // 3 - len(figures)))
        return [*view.verdicts(shown, columns, most), *figures, *view.running(shown, columns)]

    def _foot(self) -> Line:
        pause = "p resume" if self._is_paused else "p pause"
        chosen = next((one.name for one in self._processes if one.url == self._chosen), "all")
        process = f"  tab process: {chosen}" if len(self._processes) > 1 else ""
        return (
            (f" q quit  s sort by {self._sort}  {pause}", "dim"),
            ("  paused" if self._is_paused else "", "warn"),
            (f"{process}  f r c show one part", "dim"),
        )

    def action_sort(self) -> None:
        """Order the functions by the next key."""
        sorts = list(model.SORTS)
        self._sort = sorts[(sorts.index(self._sort) + 1) % len(sorts)]
        self._draw()

    def action_pause(self) -> None:
        """Stop polling, or go on."""
        self._is_paused = not self._is_paused
        self._client.pause(self._is_paused)
        self._draw()

    def action_alone(self, pane: str) -> None:
        """Show one part alone, or all of them again."""
        self._alone = None if self._alone == pane else pane
        self._draw()

    def action_choose(self, step: int) -> None:
        """Choose the next of several processes, or all of them; scroll where there is a single one."""
        if len(self._processes) < 2:
            self._pane.scroll_relative(y=step, animate=False)
            return
        stops = [None, *(one.url for one in self._processes)]
        at = stops.index(self._chosen) if self._chosen in stops else 0
        self._chosen = stops[(at + step) % len(stops)]
        self._draw()

    def action_page(self, step: int) -> None:
        """Scroll by a page."""
        self._pane.scroll_relative(y=step * self._pane.size.height, animate=False)

    @property
    def _pane(self) -> Pane:
        return self.query_one(f"#{self._alone or 'functions'}", Pane)


def live(client: Client) -> int:
    """Show the jobs of a client until the user quits; the exit code."""
    # Some shells export the size that the terminal had when they began.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    app = TopApp(client)
    try:
        client.start()
        # So that the first screen has something to show.
        client.wait_for_all(1.0)
        # The mouse stays the terminal's own: it selects text, and its wheel sends the arrow keys.
        app.run(mouse=False)
    except KeyboardInterrupt:
        pass
    finally:
        client.end()
    return app.return_code or 0
