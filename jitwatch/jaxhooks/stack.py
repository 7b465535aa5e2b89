"""Walks stacks and tracebacks."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, TypeAlias

#: Positional and keyword arguments of an observed call.
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


def callers(frame: types.FrameType | None, limit: int) -> Iterator[types.FrameType]:
    """Yield a frame and those that called it, the innermost first, up to a limit."""
    for _ in range(limit):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def entries(trace: types.TracebackType | None) -> Iterator[types.TracebackType]:
    """Yield the entries of a traceback, the outermost first."""
    while trace is not None:
        yield trace
        trace = trace.tb_next
