"""The live view in the terminal, on textual: what is wrong first, then the figures, and below them what to change."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import ClassVar, Final

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jitwatch.render.layout import Line, wrapped
from jitwatch.top import model, view
from jitwatch.top.client import Client

#: By level. The sixteen colours of the terminal's own scheme are readable on dark and on light ground.
_STYLES: Final = {
    "good": "ansi_green", "busy": "ansi_cyan", "warn": "ansi_yellow", "bad": "bold ansi_red", "gone": "ansi_magenta",
}  # fmt: skip
#: Rows of the functions table, and notes of each kind; the rest is only counted.
_MOST_FUNCTIONS, _MOST_NOTES = 500, 50
#: What a key shows alone.
_PANES: Final = {"f": "functions", "r": "recompiles", "c": "advice"}


def content(lines: list[Line]) -> Content:
    """Lines for a widget. A name such as `[red]` is no markup."""
    return Content("\n").join(
        Content.assemble(*((text, _STYLES.get(style, style)) for text, style in line)) for line in lines
    )


class TopApp(App[None]):
    """Shows the jobs of a client until the user quits; looks for new answers after so many seconds."""

    CSS = """
    * { background: ansi_default; color: ansi_default; scrollbar-size-vertical: 1; }
    Static { text-wrap: nowrap; text-overflow: ellipsis; }
    .pane { height: auto; border-top: solid ansi_bright_black; }
    .pane { border-title-color: ansi_default; border-title-style: none; }
    .pane:focus-within { border-title-style: bold; }
    VerticalScroll { height: auto; max-height: 100%; }
    #recompiles { max-height: 25%; }
    #advice { max-height: 42%; }
    #functions, #functions VerticalScroll, .alone VerticalScroll { height: 1fr; }
    #recompiles.alone, #advice.alone { height: 1fr; max-height: 100%; }
    #foot { height: 1; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", priority=True),
        Binding("ctrl+z", "suspend_process", priority=True),
        Binding("s", "sort"),
        Binding("p", "pause"),
        *(Binding(key, f"alone('{pane}')") for key, pane in _PANES.items()),
        # Where there is a single process, the pane in focus scrolls by the arrows.
        Binding("tab,down,right", "choose(1)", priority=True),
        Binding("shift+tab,up,left", "choose(-1)", priority=True),
    ]

    def __init__(self, client: Client, beat_s: float = 0.1) -> None:
        super().__init__(ansi_color=True)
        self.animation_level = "none"
        self._client, self._beat_s = client, beat_s
        self._processes = client.processes()
        self._seen: object = None
        self._sort, self._sorts = "lost", list(model.SORTS)
        self._chosen: str | None = None
        self._alone: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with Vertical():
            for pane in _PANES.values():
                with Vertical(id=pane, classes="pane"):
                    yield Static(classes="head")
                    with VerticalScroll():
                        yield Static(classes="body")
        yield Static(id="foot")

    def on_mount(self) -> None:
        """Leave the terminal as it was when the process is ended, too."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.exit)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit, None, 128 + number)
        self.set_interval(self._beat_s, self._beat)

    def on_resize(self) -> None:
        self.call_later(self._draw)

    def _beat(self) -> None:
        # Ages on the screen change once a second.
        news = (self._client.answers, int(self._client.clock()))
        if news != self._seen and not self._client.is_paused:
            self._seen = news
            self._processes = self._client.processes()
            self._draw()

    def _draw(self) -> None:
        columns, rows = self.size
        if not columns or not self.is_running:
            return
        shown = [one for one in self._processes if self._chosen in (None, one.url)] or self._processes
        states = model.counted(shown)
        self.query_one("#head", Static).update(content(self._head(shown, columns, rows)))
        self.query_one("#foot", Static).update(content([self._foot()]))
        functions, most = model.functions_of(states, self._sort), 9 if self._alone else 1 if rows < 30 else 3
        table = view.functions_table(functions, columns - 1, _MOST_FUNCTIONS) if states else []
        self._show("functions", f"Functions by {self._sort} ({len(functions):,})", table[:1], table[1:])
        for name, title, texts in view.TEXTS:
            found = texts(states)
            self._show(name, f"{title} ({len(found):,})", [], view.notes(found[:_MOST_NOTES], columns - 1, most))
        if self._alone or self.focused is None:
            self.query_one(f"#{self._alone or 'functions'} VerticalScroll").focus()

    def _show(self, name: str, title: str, head: list[Line], body: list[Line]) -> None:
        """Show these lines in a pane, those of the head above what scrolls."""
        pane = self.query_one(f"#{name}")
        has_room = self.size.height >= 15 or name == "functions"
        pane.display = bool(head or body) and (self._alone == name if self._alone else has_room)
        pane.set_class(self._alone == name, "alone")
        pane.border_title = title
        for part, lines in ((".head", head), (".body", body)):
            widget = pane.query_one(part, Static)
            widget.display = bool(lines)
            widget.update(content(lines))

    def _head(self, shown: list[model.Process], columns: int, rows: int) -> list[Line]:
        if not shown:
            return [((text, ""),) for text in wrapped(self._client.nothing_found, columns, rows, indent="")]
        if len(self._processes) == 1:
            figures = view.facts(shown[0], columns, 3 if rows >= 18 else 2)
        else:
            figures = view.processes_table(self._processes, self._chosen, columns, max(3, rows // 2 - 4))
        most = max(1, min(4, rows // 3 - len(figures)))
        return [*view.verdicts(shown, columns, most), *figures, *view.running(shown, columns)]

    def _foot(self) -> Line:
        is_paused = self._client.is_paused
        chosen = next((one.name for one in self._processes if one.url == self._chosen), "all")
        process = f"  tab process: {chosen}" if len(self._processes) > 1 else ""
        return (
            (f" q quit  s sort by {self._sort}  {'p resume' if is_paused else 'p pause'}", "dim"),
            ("  paused" if is_paused else "", "warn"),
            (f"{process}  f r c show one part", "dim"),
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Only one of several processes can be chosen."""
        return action != "choose" or len(self._processes) > 1

    def action_choose(self, step: int) -> None:
        """Choose the next process, or all of them."""
        stops = [None, *(one.url for one in self._processes)]
        at = stops.index(self._chosen) if self._chosen in stops else 0
        self._chosen = stops[(at + step) % len(stops)]
        self._draw()

    def action_sort(self) -> None:
        """Order the functions by the next key."""
        self._sort = self._sorts[(self._sorts.index(self._sort) + 1) % len(self._sorts)]
        self._draw()

    def action_pause(self) -> None:
        """Stop polling, or go on."""
        self._client.is_paused = not self._client.is_paused
        self._draw()

    def action_alone(self, pane: str) -> None:
        """Show one part alone, or all of them again."""
        self._alone = None if self._alone == pane else pane
        self._draw()


def live(client: Client) -> int:
    """Show the jobs of a client until the user quits; the exit code."""
    # Some shells export the size that the terminal had when they began.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    try:
        client.start()
        # So that the first screen has something to show.
        client.wait_for_all(1.0)
        app = TopApp(client)
        # The mouse stays the terminal's own: it selects text, and its wheel sends the arrow keys.
        app.run(mouse=False)
    except KeyboardInterrupt:
        return 0
    finally:
        client.end()
    return app.return_code or 0
