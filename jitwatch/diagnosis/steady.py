"""The steady state: the job says that warm-up is over, and every further compile is a violation.

What holds is kept here for the process and for each thread, so that `steady()` may be called before or
after the agent is installed; the agent's diagnosis asks it about every compile.
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

#: Functions whose budget a steady state keeps account of.
_MAX_FUNCTIONS = 10_000


class Steady:
    """A steady state, as `jitwatch.steady()` returns it: it holds until `end()`, or as a `with` block.

    As a block it holds for the current thread only, until the block ends.
    """

    def __init__(self, *, on_recompile: Action, budget: int, allow: tuple[str, ...]) -> None:
        self.on_recompile: Action = on_recompile
        #: Unix time at which it began.
        self.since = time.time()
        self._budget = budget
        self._allow = allow
        self._compiles: dict[str, int] = {}
        self._process: list[Steady] = _held.process
        self._thread: list[Steady] | None = None
        try:
            self._hold(self._process)
        except Exception:
            guard.failed("steady")

    @property
    def is_active(self) -> bool:
        """Whether it still holds."""
        return self in self._process or (self._thread is not None and self in self._thread)

    def end(self) -> None:
        """It holds no longer; does nothing when it has ended."""
        try:
            self._let_go()
        except Exception:
            guard.failed("steady")

    def _hold(self, holders: list[Steady]) -> None:
        holders.append(self)

    def _let_go(self) -> None:
        for holders in (self._process, self._thread or []):
            if self in holders:
                holders.remove(self)

    def exceeds(self, label: str) -> bool:
        """Count a compile of this function; whether it is one too many."""
        if any(fnmatchcase(label, pattern) for pattern in self._allow):
            return False
        if label in self._compiles or len(self._compiles) < _MAX_FUNCTIONS:
            self._compiles[label] = self._compiles.get(label, 0) + 1
        return self._compiles.get(label, self._budget + 1) > self._budget

    def __enter__(self) -> Steady:
        try:
            self._let_go()
            self._thread = _held.thread.states
            self._hold(self._thread)
        except Exception:
            guard.failed("steady")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<jitwatch.Steady {'active' if self.is_active else 'ended'}, on_recompile={self.on_recompile!r}>"


class _Thread(threading.local):
    def __init__(self) -> None:
        self.states: list[Steady] = []


class _Held:
    """The steady states that hold now, the innermost last."""

    def __init__(self) -> None:
        self.process: list[Steady] = []
        self.thread = _Thread()


_held = _Held()


def steady(*, on_recompile: Action = "warn", budget: int = 0, allow: str | Iterable[str] = ()) -> Steady:
    """Say that warm-up is over: from now on every compile of a function of yours is a violation.

    As a call it holds for the whole process until `.end()`; as a `with` block for the current thread.
    Within another one the innermost decides. What `jitwatch.expected()` announces is no violation.
    Compiles are noticed only where the agent is installed.

    Args:
        on_recompile: `"count"` counts and logs an event, `"warn"` also warns in the job's log, `"raise"`
            raises `RecompileError`, after the compile and before the execution: donated inputs stay
            alive, the program is kept, and calling again simply runs.
        budget: Compiles of each function that are still allowed.
        allow: Patterns of function names that may compile, as `train.eval_*`.

    Raises:
        ConfigError: An argument cannot be used.
    """
    if on_recompile not in get_args(Action):
        raise ConfigError(f"steady(on_recompile=…): expected 'warn', 'raise' or 'count', got {on_recompile!r}")
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise ConfigError(f"steady(budget=…): expected a whole number from 0 up, got {budget!r}")
    patterns = (allow,) if isinstance(allow, str) else tuple(allow)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError("steady(allow=…): expected function names or patterns such as 'train.eval_*'")
    return Steady(on_recompile=on_recompile, budget=budget, allow=patterns)


def current() -> Steady | None:
    """The steady state that holds in this thread, or None."""
    states = _held.thread.states or _held.process
    return states[-1] if states else None


def steady_since() -> float:
    """Unix time since which the whole process is steady; 0 when it is not."""
    return min((state.since for state in list(_held.process)), default=0.0)
