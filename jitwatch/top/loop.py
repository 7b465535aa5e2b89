"""The live view: draws when something is new, and does what the keys say."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Final

from jitwatch.top.frame import SORTS, Frame
from jitwatch.top.jobs import Wanted, keep_looking, look, nothing_found
from jitwatch.top.keys import Keyboard
from jitwatch.top.signals import Signals
from jitwatch.top.surfaces import Paper, Surface, surface
from jitwatch.top.watching import Watches

#: Seconds between two looks at the keyboard and at the size of the terminal.
_BEAT_S: Final = 0.1
#: Seconds after which the ages on the screen are old.
_REDRAW_S: Final = 1.0
#: Longer than a request can take.
FIRST_ANSWER_S: Final = 20.0


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
    on = surface()
    try:
        look(wanted, watches)
        keep_looking(wanted, watches, is_ended)
        # So that the first picture has something to show.
        watches.wait_for_all(1.0)
        with Signals() as signals, Keyboard() as keyboard, on as drawn:
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


def _run(frame: Frame, watches: Watches, keyboard: Keyboard, on: Surface, signals: Signals) -> None:
    drawn: tuple[object, ...] = ()
    is_paper = isinstance(on, Paper)
    while True:
        # Paper gets one picture an interval; on a screen ages and sizes change as well.
        beat = 0 if frame.is_paused else time.monotonic() // (frame.interval_s if is_paper else _REDRAW_S)
        news = () if is_paper else (watches.answers(), on.size)
        look_of = (news, beat, frame.chosen, frame.sort, frame.is_paused)
        if look_of != drawn:
            if not frame.is_paused:
                frame = replace(frame, processes=watches.processes())
            on.show(frame)
            drawn = look_of
        if signals.is_stopping:
            signals.stop(keyboard, on)
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
