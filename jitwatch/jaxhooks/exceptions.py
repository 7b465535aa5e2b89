"""Observes exceptions that JAX raises in C++, where no Python function of JAX can be instrumented.

On Python ≥ 3.12 `sys.monitoring` reports every exception where it is raised, also those that the job catches: calls
cost nothing, an exception about 0.3 µs more. On Python 3.11 only uncaught exceptions are seen, by `sys.excepthook` and
`threading.excepthook`, which still do what they did before.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import entries

#: Receives an error, the innermost Python frame that it was raised in, and the instruction's offset there.
OnRaised = Callable[[BaseException, types.FrameType, int], None]
#: Receives an error in each Python frame that it passes, the innermost first: the frame's code, the instruction's
#: offset, and the error. The frame is `sys._getframe(2)`.
OnPassing = Callable[[types.CodeType, int, BaseException], None]
#: Tool numbers to try, unused by well-known tools; 0 to 2 and 5 belong to debuggers, coverage, profilers, optimizers.
_TOOL_IDS = (4, 3)
#: The number that all listeners share, until the last of them stops.
_tool: int | None = None
_listeners: tuple[OnPassing, ...] = ()


def watch_raises(patcher: Patcher, kinds: tuple[type[BaseException], ...], on_raised: OnRaised) -> None:
    """Call `on_raised` for errors of exactly these classes, once each, in the thread that raised them."""

    def passing(code: types.CodeType, offset: int, error: BaseException) -> None:
        # Called for each frame that the error leaves; only in the first one does the traceback have no next entry.
        if type(error) in kinds and (error.__traceback__ is None or error.__traceback__.tb_next is None):
            on_raised(error, sys._getframe(2), offset)

    if not listen(patcher, passing):
        _watch_uncaught(patcher, kinds, on_raised)


def listen(patcher: Patcher, listener: OnPassing) -> bool:
    """Call the listener for every exception that passes a Python frame.

    Returns False on Python 3.11, and if no tool number is free: the listener is never called then.
    """
    global _tool, _listeners
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        return False
    if _tool is None:
        _tool = _reserve_tool(monitoring)
    if _tool is None:
        return False
    _listeners = (*_listeners, listener)

    def stop() -> None:
        global _tool, _listeners
        _listeners = tuple(one for one in _listeners if one is not listener)
        if not _listeners and _tool is not None:
            monitoring.set_events(_tool, monitoring.events.NO_EVENTS)
            monitoring.register_callback(_tool, monitoring.events.RAISE, None)
            monitoring.free_tool_id(_tool)
            _tool = None

    patcher.on_restore("sys.monitoring", stop)
    return True


def _reserve_tool(monitoring: Any) -> int | None:
    """Reserve a tool number and subscribe to all exceptions; None if no number is free."""
    tool = next((number for number in _TOOL_IDS if monitoring.get_tool(number) is None), None)
    if tool is None:
        return None

    def raised(code: types.CodeType, offset: int, error: BaseException) -> None:
        for listener in _listeners:
            try:
                listener(code, offset, error)
            except Exception:
                guard.failed("raises")

    monitoring.use_tool_id(tool, "jitwatch")
    monitoring.register_callback(tool, monitoring.events.RAISE, raised)
    monitoring.set_events(tool, monitoring.events.RAISE)
    return tool


def _watch_uncaught(patcher: Patcher, kinds: tuple[type[BaseException], ...], on_raised: OnRaised) -> None:
    def check(error: BaseException | None) -> None:
        if error is not None and type(error) in kinds:
            for innermost in list(entries(error.__traceback__))[-1:]:
                on_raised(error, innermost.tb_frame, innermost.tb_lasti)

    in_main = _checking(sys.excepthook, lambda kind, error, trace: check(error))
    patcher.replace(sys, "excepthook", in_main, is_shared=True)
    in_threads = _checking(threading.excepthook, lambda args: check(args.exc_value))
    patcher.replace(threading, "excepthook", in_threads, is_shared=True)


def _checking(original: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    def hook(*args: Any) -> Any:
        try:
            check(*args)
        except Exception:
            guard.failed("raises")
        return original(*args)

    return hook
