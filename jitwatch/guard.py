"""Containment of internal failures: each is counted, logged once per line of code, and never reaches the job.

Every callback that JAX, the interpreter or a thread of the agent runs handles exceptions with `guarded(component)` or
`failed(component)`. The test suite sets `reraise`, so that no failure stays hidden.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from jitwatch.model.cleaning import clean_record
from jitwatch.system import threads

T = TypeVar("T")

logger = logging.getLogger("jitwatch")
logger.addFilter(clean_record)

#: Raise internal failures instead of containing them; only the test suite sets it.
reraise = False

_seen: set[tuple[str, str, int]] = set()
_seen_lock = threads.RLock()
_sink: Callable[[str], None] | None = None


def set_sink(sink: Callable[[str], None] | None) -> None:
    """Set the function that counts failures by component; None for no counting."""
    global _sink
    _sink = sink


def failed(component: str) -> None:
    """Contain the exception that is being handled: count it, and log the first one of each line of code.

    Call it inside an `except` block only. It re-raises if `reraise` is set, and if the exception was raised by a signal
    handler of the job while internal code ran (a timeout, for example): that is not an internal failure.
    """
    if reraise or _is_of_signal_handler(sys.exc_info()[1]):
        raise  # noqa: PLE0704 - the contract is to be called while handling an exception
    try:
        error = sys.exc_info()[1]
        if _sink is not None:
            _sink(component)
        if _first_time(component, error):
            logger.warning(
                "jitwatch: the %s component failed and continues; further failures at this line are only counted",
                component,
                exc_info=error,
            )
    except Exception:  # noqa: S110 - a broken log handler must not harm the job either
        pass


def _is_of_signal_handler(error: BaseException | None) -> bool:
    """Whether an exception was raised by a signal handler that the job installed."""
    try:
        handlers = (signal.getsignal(number) for number in signal.valid_signals())
        codes = {getattr(getattr(one, "__func__", one), "__code__", None) for one in handlers} - {None}
        trace = error.__traceback__ if error is not None and codes else None
        while trace is not None:
            if trace.tb_frame.f_code in codes:
                return True
            trace = trace.tb_next
    except Exception:  # noqa: S110 - then it counts as internal
        pass
    return False


def _first_time(component: str, error: BaseException | None, *, max_lines: int = 1000) -> bool:
    """Whether the line that raised the error fails for the first time; past the limit no line does."""
    frame = error.__traceback__ if error is not None else None
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    code = frame.tb_frame.f_code.co_filename if frame is not None else ""
    site = (component, code, frame.tb_lineno if frame is not None else 0)
    with _seen_lock:
        if site in _seen or len(_seen) >= max_lines:
            return False
        _seen.add(site)
    return True


@contextmanager
def guarded(component: str) -> Iterator[None]:
    """Contain the exceptions of a block. Costs 1 µs: not for code that runs on every call of a jitted function."""
    try:
        yield
    except Exception:
        failed(component)


def call(component: str, function: Callable[[], T]) -> T | None:
    """Call a function and return its result; its exception is contained."""
    with guarded(component):
        return function()
    return None


threads.on_failure = failed
