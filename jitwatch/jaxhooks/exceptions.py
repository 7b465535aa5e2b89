"""Observes exceptions that JAX raises in C++, where no Python function of JAX can be instrumented.

On Python ≥ 3.12 `sys.monitoring` reports every exception where it is raised, also those that the job catches, once for
each frame that it leaves. Calls cost nothing; an exception of the job costs the call of a function that looks its class
up in a set, for each frame. A ValueError or BufferError is compared with the words of JAX's messages in its innermost
frame, and ignored in the other frames if it has none of them. See docs/performance.md for the cost, and for the events
that cost less and miss errors. On Python 3.11 only uncaught exceptions are seen, by `sys.excepthook` and
`threading.excepthook`, which still do what they did before.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import entries

#: Receives an error, the innermost Python frame that it was raised in, and the instruction's offset there.
OnRaised = Callable[[BaseException, types.FrameType, int], None]
#: Receives an error in each Python frame that it passes, the innermost first: the frame's code, the instruction's
#: offset, the error, and the frame.
OnPassing = Callable[[types.CodeType, int, BaseException, types.FrameType], None]
#: Tool numbers to try, unused by well-known tools; 0 to 2 and 5 belong to debuggers, coverage, profilers, optimizers.
_TOOL_IDS = (4, 3)
#: Python's own classes, which the job's code raises as well: only those with JAX's words are looked at.
_COMMON = frozenset({ValueError, BufferError})
_MAX_SUSPECTS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """What listens to exceptions.

    Attributes:
        kinds: The classes, without their subclasses.
        words: Parts of JAX's messages; an error of one of Python's own classes has one of them.
        passing: Receives an error in each frame.
    """

    kinds: frozenset[type[BaseException]]
    words: tuple[str, ...]
    passing: OnPassing


#: The number that all listeners share, until the last of them stops.
_tool: int | None = None
_listeners: tuple[Listener, ...] = ()


def watch_raises(
    patcher: Patcher, kinds: Iterable[type[BaseException]], words: tuple[str, ...], on_raised: OnRaised
) -> None:
    """Call `on_raised` for errors of exactly these classes, once each, in the thread that raised them.

    Args:
        patcher: Ends it.
        kinds: The classes.
        words: Parts of JAX's messages, of which an error of one of Python's own classes has at least one.
        on_raised: Receives the errors.
    """

    def passing(code: types.CodeType, offset: int, error: BaseException, frame: types.FrameType) -> None:
        if is_innermost(error):
            on_raised(error, frame, offset)

    wanted = frozenset(kinds)
    if not listen(patcher, Listener(wanted, words, passing)):
        _watch_uncaught(patcher, wanted, on_raised)


def is_innermost(error: BaseException) -> bool:
    """Whether the error is in the first frame that it passes; only there does the traceback have no next entry."""
    trace = error.__traceback__
    return trace is None or trace.tb_next is None


def listen(patcher: Patcher, listener: Listener) -> bool:
    """Call the listener for each of its exceptions, in every Python frame that it passes.

    Returns False on Python 3.11, and if no tool number is free: the listener is never called then.
    """
    global _tool
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        return False
    if _tool is None:
        _tool = _reserve_tool(monitoring)
    if _tool is None:
        return False
    _set_listeners(monitoring, _tool, (*_listeners, listener))

    def stop() -> None:
        global _tool
        if _tool is None:
            return
        left = tuple(one for one in _listeners if one is not listener)
        _set_listeners(monitoring, _tool, left)
        if not left:
            monitoring.free_tool_id(_tool)
            _tool = None

    patcher.on_restore("sys.monitoring", stop)
    return True


def _reserve_tool(monitoring: Any) -> int | None:
    """Reserve a tool number; None if no number is free."""
    tool = next((number for number in _TOOL_IDS if monitoring.get_tool(number) is None), None)
    if tool is not None:
        monitoring.use_tool_id(tool, "jitwatch")
    return tool


def _set_listeners(monitoring: Any, tool: int, listeners: tuple[Listener, ...]) -> None:
    """Subscribe to all exceptions for these listeners, or to none."""
    global _listeners
    _listeners = listeners
    events = monitoring.events
    monitoring.register_callback(tool, events.RAISE, _callback(listeners) if listeners else None)
    monitoring.set_events(tool, events.RAISE if listeners else events.NO_EVENTS)


def _callback(listeners: tuple[Listener, ...]) -> Callable[[types.CodeType, int, BaseException], None]:
    """Return the function that is called for every exception of the process, in each frame. Performance critical."""
    kinds = frozenset[type[BaseException]]().union(*(one.kinds for one in listeners))
    words = _shortest(word for one in listeners for word in one.words)
    common = _COMMON
    #: `id` of errors of common classes that have JAX's words. One that was freed costs a look at its successor.
    suspects: set[int] = set()

    def raised(code: types.CodeType, offset: int, error: BaseException) -> None:
        if type(error) in kinds:
            if type(error) in common:
                trace = error.__traceback__
                if trace is not None and trace.tb_next is not None:  # not the innermost frame
                    if not suspects or id(error) not in suspects:
                        return
                elif is_of_job(error):
                    return
            frame = sys._getframe(1)
            for listener in listeners:
                if type(error) in listener.kinds:
                    try:
                        listener.passing(code, offset, error, frame)
                    except Exception:
                        guard.failed("raises")

    def is_of_job(error: BaseException) -> bool:
        given = error.args
        # Of a subclass, `in` may run code of the job.
        if given and type(given[0]) is str:
            text = given[0]
            for word in words:
                if word in text:
                    if len(suspects) >= _MAX_SUSPECTS:
                        suspects.clear()
                    suspects.add(id(error))
                    return False
        return True

    return raised


def _shortest(words: Iterable[str]) -> tuple[str, ...]:
    """Return the words without those that contain another one."""
    distinct = set(words)
    return tuple(sorted(one for one in distinct if not any(other != one and other in one for other in distinct)))


def _watch_uncaught(patcher: Patcher, kinds: frozenset[type[BaseException]], on_raised: OnRaised) -> None:
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
