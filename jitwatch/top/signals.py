"""Signals to a program that has the whole terminal."""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Any

from jitwatch.top.keys import Keyboard
from jitwatch.top.surfaces import Surface


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
