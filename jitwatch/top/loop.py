"""The live view: draws when something is new, and does what the keys say."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Protocol

from jitwatch.errors import ConfigError
from jitwatch.top.frame import SORTS, Frame
from jitwatch.top.jobs import Wanted, keep_looking, look, nothing_found
from jitwatch.top.keys import Keyboard
from jitwatch.top.plain import as_text
from jitwatch.top.watching import Watches

#: Seconds between two looks at the keyboard and at the size of the terminal.
_BEAT_S: Final = 0.1
#: Seconds after which the ages on the screen are old.
_REDRAW_S: Final = 1.0
#: Longer than a request can take.
FIRST_ANSWER_S: Final = 20.0


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


class Signals:
    """A context in which a hang-up or a kill leaves the terminal as it was, as Ctrl-C does, and Ctrl-Z waits."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number, handler in (
            (signal.SIGTERM, self._leave), (signal.SIGHUP, self._leave), (signal.SIGTSTP, self._stop),
        ):  # fmt: skip
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _leave(self, number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    def _stop(self, _number: int, _frame: object) -> None:
        self.is_stopping = True

    def stop(self, keyboard: Keyboard, surface: Surface) -> None:
        """Give the terminal back and stop, as Ctrl-Z asked; returns when the shell lets us go on."""
        self.is_stopping = False
        surface.suspend()
        keyboard.suspend()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, ours)
        keyboard.resume()
        surface.resume()


def once(wanted: Wanted) -> Watches:
    """Ask every job for one answer."""
    watches = Watches(3600.0)
    look(wanted, watches)
    watches.wait_for_all(FIRST_ANSWER_S)
    watches.end()
    return watches


def live(wanted: Wanted, interval_s: float) -> None:
    """Show the jobs until the user has seen enough.

    Raises:
        ConfigError: rich is missing.
    """
    watches = Watches(interval_s)
    is_ended = threading.Event()
    surface = _surface()
    try:
        look(wanted, watches)
        keep_looking(wanted, watches, is_ended)
        # So that the first picture has something to show.
        watches.wait_for_all(1.0)
        with Signals() as signals, Keyboard() as keyboard, surface as drawn:
            frame = Frame(
                processes=watches.processes(),
                note=nothing_found(wanted),
                keys=keyboard.is_there,
                interval_s=interval_s,
            )
            _run(frame, watches, keyboard, drawn, signals)
    except KeyboardInterrupt:
        pass
    finally:
        is_ended.set()
        watches.end()


def _run(frame: Frame, watches: Watches, keyboard: Keyboard, surface: Surface, signals: Signals) -> None:
    drawn: tuple[object, ...] = ()
    is_paper = isinstance(surface, Paper)
    while True:
        if not frame.is_paused:
            frame = replace(frame, processes=watches.processes())
        # Paper is for what is new; a screen also has ages and sizes that change.
        beat = 0 if is_paper or frame.is_paused else time.monotonic() // _REDRAW_S
        look_of = (watches.answers(), frame.chosen, frame.sort, frame.is_paused, beat, () if is_paper else surface.size)
        if look_of != drawn:
            surface.show(frame)
            drawn = look_of
        if signals.is_stopping:
            signals.stop(keyboard, surface)
            drawn = ()
        for key in keyboard.read(_BEAT_S):
            if key == "q":
                return
            frame = pressed(key, frame)
            watches.pause(frame.is_paused)


def pressed(key: str, frame: Frame) -> Frame:
    """The frame after a key; one that means nothing changes nothing."""
    if key == "s":
        sorts = list(SORTS)
        return replace(frame, sort=sorts[(sorts.index(frame.sort) + 1) % len(sorts)])
    if key == "p":
        return replace(frame, is_paused=not frame.is_paused)
    if key in ("tab", "down", "right", "backtab", "up", "left") and len(frame.processes) > 1:
        stops = [None, *(one.url for one in frame.processes)]
        at = stops.index(frame.chosen) if frame.chosen in stops else 0
        step = 1 if key in ("tab", "down", "right") else -1
        return replace(frame, chosen=stops[(at + step) % len(stops)])
    return frame


def _surface() -> Any:
    """A screen; where the terminal cannot move its cursor, paper."""
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return _paper()
    try:
        from jitwatch.top.screen import Screen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise ConfigError(
            "the live view needs rich: pip install 'jitwatch[top]'. Without it there are --once and --json"
        ) from None
    return Screen()


@contextmanager
def _paper() -> Iterator[Paper]:
    yield Paper()
