"""Parts that the agent can work without: a failure is reported, and the other parts start all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from jitwatch import guard
from jitwatch.errors import ConfigError, JitwatchError
from jitwatch.system import shortages

logger = logging.getLogger("jitwatch")

#: What the job lacks without a part, by the part's name in `probe_up` and in the state.
_PROVIDES = {
    "endpoint": "its endpoint",
    "event_log": "its event log",
    "sampler": "samples of memory, caches and processes",
    "discovery": "its entry in sd_dir",
    "programs": "its programs in hlo_dir",
}


class OptionalParts:
    """Starts optional parts and records which of them failed.

    Args:
        is_strict: Raise if a part cannot start.
        on_failure: Called with the name of a part that failed and the reason.
    """

    def __init__(self, *, is_strict: bool, on_failure: Callable[[str, str], None]) -> None:
        self._is_strict = is_strict
        self._on_failure = on_failure
        self._unreported: list[str] = []

    def start(self, name: str, start: Callable[[ExitStack], None], cleanup: ExitStack) -> None:
        """Start a part.

        Args:
            name: Its name.
            start: Starts it, and registers on the given stack how it is stopped.
            cleanup: Takes over these registrations once it has started. If it fails to start, they run at once.

        Raises:
            ConfigError: One of its options is invalid.
            JitwatchError: It failed, and the agent is strict.
        """
        try:
            with ExitStack() as part:
                start(part)
                cleanup.callback(part.pop_all().close)
        except Exception as error:
            is_short = shortages.is_shortage(error)
            if isinstance(error, ConfigError) and not is_short:
                raise
            if self._is_strict:
                raise as_jitwatch_error(error, f"the agent cannot start {_PROVIDES[name]}") from error
            if not isinstance(error, JitwatchError) and not is_short:
                guard.failed(name)
            self.mark_failed(name, str(as_jitwatch_error(error)))

    def mark_failed(self, name: str, reason: str) -> None:
        """Record that a part failed; `report` logs it."""
        self._unreported.append(f"{_PROVIDES[name]}: {reason}")
        with guard.guarded("agent"):
            self._on_failure(name, reason)

    def report(self) -> None:
        """Log the failures since the last call in one warning."""
        failures, self._unreported = self._unreported, []
        if failures:
            logger.warning("jitwatch: the job continues without %s", "; and without ".join(failures))


def add_cleanup(cleanup: ExitStack, component: str, function: Callable[[], object]) -> None:
    """Register a function on the stack, guarded: its failure does not keep the others from running."""

    def run() -> None:
        with guard.guarded(component):
            function()

    cleanup.callback(run)


def as_jitwatch_error(error: BaseException, what: str = "") -> JitwatchError:
    """The error itself if it is a `JitwatchError`, else one with its text and advice."""
    if isinstance(error, JitwatchError):
        return error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return JitwatchError(f"{what} ({text}): {shortages.advice(error)}".lstrip())
