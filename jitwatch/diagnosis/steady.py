"""`jitwatch.steady()`: declares the steady state, in which every compile is a violation.

The active steady states of the process and of each thread are kept here, so that `steady()` may be called before or
after the agent is installed; the diagnosis checks every compile against them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Literal, get_args

from jitwatch import guard
from jitwatch.errors import ConfigError

Action = Literal["warn", "raise", "count"]

#: Maximum number of functions whose compiles a steady state counts.
_MAX_FUNCTIONS = 10_000


class _Thread(threading.local):
    def __init__(self) -> None:
        self.states: list[Steady] = []


#: The active steady states of the process and of each thread, the innermost last.
_process: list[Steady] = []
_thread = _Thread()


class Steady:
    """A steady state, as `jitwatch.steady()` returns it.

    It is active for the whole process until `end()`; as a `with` block, for the current thread until the block ends.
    """

    def __init__(self, *, on_recompile: Action, budget: int, allow: tuple[str, ...]) -> None:
        self.on_recompile: Action = on_recompile
        #: Unix time at which it began.
        self.since = time.time()
        self._budget = budget
        self._allow = allow
        self._compiles: dict[str, int] = {}
        self._states = _process
        try:
            self._activate()
        except Exception:
            guard.failed("steady")

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self in self._states

    def end(self) -> None:
        """End the steady state. A second call does nothing."""
        try:
            self._deactivate()
        except Exception:
            guard.failed("steady")

    def _activate(self) -> None:
        self._states.append(self)

    def _deactivate(self) -> None:
        if self in self._states:
            self._states.remove(self)

    def exceeds(self, label: str) -> bool:
        """Count a compile of a function; returns whether it exceeds the budget."""
        if any(fnmatchcase(label, pattern) for pattern in self._allow):
            return False
        if label in self._compiles or len(self._compiles) < _MAX_FUNCTIONS:
            self._compiles[label] = self._compiles.get(label, 0) + 1
        return self._compiles.get(label, self._budget + 1) > self._budget

    def __enter__(self) -> Steady:
        try:
            self._deactivate()
            self._states = _thread.states
            self._activate()
        except Exception:
            guard.failed("steady")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<jitwatch.Steady {'active' if self.is_active else 'ended'}, on_recompile={self.on_recompile!r}>"


def steady(*, on_recompile: Action = "warn", budget: int = 0, allow: str | Iterable[str] = ()) -> Steady:
    """Declare that warm-up is over: from now on every compile of one of your functions is a violation.

    As a call it applies to the whole process until `.end()`; as a `with` block to the current thread. Of nested steady
    states the innermost applies. Compiles inside of `jitwatch.expected()` are no violations. Compiles are observed only
    while the agent is installed.

    Args:
        on_recompile: `"count"` counts and logs an event; `"warn"` also logs a warning; `"raise"` also raises
            `RecompileError`, after the compile and before the execution: donated inputs stay alive, the program is
            kept, and the next call runs it.
        budget: Number of compiles of each function that are allowed.
        allow: Patterns of function names that may compile, such as `train.eval_*`.

    Raises:
        ConfigError: An argument is invalid.
    """
    if on_recompile not in get_args(Action):
        raise ConfigError(f"steady(on_recompile=…): expected 'warn', 'raise' or 'count', got {on_recompile!r}")
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise ConfigError(f"steady(budget=…): expected a whole number of at least 0, got {budget!r}")
    patterns = (allow,) if isinstance(allow, str) else tuple(allow)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError("steady(allow=…): expected function names or patterns such as 'train.eval_*'")
    return Steady(on_recompile=on_recompile, budget=budget, allow=patterns)


def current() -> Steady | None:
    """The steady state that applies to this thread; None without one."""
    states = _thread.states or _process
    return states[-1] if states else None


def steady_since() -> float:
    """Unix time since which the whole process is steady; 0 if it is not."""
    return min((state.since for state in list(_process)), default=0.0)
