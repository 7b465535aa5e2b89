"""Parts of an agent that a job can do without: what cannot start is said once, and the rest goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from jitwatch import guard
from jitwatch.errors import ConfigError, JitwatchError
from jitwatch.system import shortages

logger = logging.getLogger("jitwatch")

#: What each part gives, by the name that `probe_up` and the state have for it.
_GIVES = {
    "endpoint": "its endpoint",
    "event_log": "its event log",
    "sampler": "samples of memory, caches and processes",
    "discovery": "its entry in sd_dir",
    "programs": "its programs in hlo_dir",
}


class Extras:
    """Starts parts, and keeps account of those that failed.

    Args:
        is_strict: Raise when a part cannot start.
        go_without: Told of the name of a part that failed and of the reason.
    """

    def __init__(self, *, is_strict: bool, go_without: Callable[[str, str], None]) -> None:
        self._is_strict = is_strict
        self._go_without = go_without
        self._missing: list[str] = []

    def start(self, name: str, start: Callable[[ExitStack], None], undo: ExitStack) -> None:
        """Start a part.

        Args:
            name: Its name.
            start: Starts it, and puts onto the stack how to stop it.
            undo: Takes that over when it has started; when not, it is stopped at once.

        Raises:
            ConfigError: One of its options cannot be used.
            JitwatchError: It failed, and the agent is strict.
        """
        try:
            with ExitStack() as part:
                start(part)
                undo.callback(part.pop_all().close)
        except Exception as error:
            is_short = shortages.is_shortage(error)
            if isinstance(error, ConfigError) and not is_short:
                raise
            if self._is_strict:
                raise as_ours(error, f"the agent cannot have {_GIVES[name]}") from error
            if not isinstance(error, JitwatchError) and not is_short:
                guard.failed(name)
            self.missed(name, str(as_ours(error)))

    def missed(self, name: str, reason: str) -> None:
        """Note that a part has failed; `say` tells of it."""
        self._missing.append(f"{_GIVES[name]}: {reason}")
        with guard.guarded("agent"):
            self._go_without(name, reason)

    def say(self) -> None:
        """Tell once of everything that has failed since the last time."""
        missing, self._missing = self._missing, []
        if missing:
            logger.warning("jitwatch: the job goes on without %s", "; and without ".join(missing))


def undo_with(undo: ExitStack, name: str, part: Callable[[], object]) -> None:
    """Put `part` onto the stack, guarded by itself: what fails there ends nothing else."""

    def put_back() -> None:
        with guard.guarded(name):
            part()

    undo.callback(put_back)


def as_ours(error: BaseException, what: str = "") -> JitwatchError:
    """An error that says what to do next: itself if it is one of ours, else one in its place."""
    if isinstance(error, JitwatchError):
        return error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return JitwatchError(f"{what} ({text}): {shortages.advice(error)}".lstrip())
