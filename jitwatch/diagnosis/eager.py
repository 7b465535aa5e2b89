"""Operations outside of jit that are compiled again and again: then they count as the job's own, by their line.

JAX compiles each operation outside of jit as a small program, once for each shape. That is normal at start-up and when
a checkpoint is restored. At a line where it does not end, those compiles are the job's loss: the line becomes a
function, `train.<eager>@train.py:12`.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace

from jitwatch.diagnosis.memory import Memory
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change, Function
from jitwatch.model.signature import Signature

#: Name of such a function.
EAGER = "<eager>"
#: Seconds after the first compile of the job in which new programs are start-up.
STARTUP_S = 60.0
#: New programs of one operation at one line that are too many: in all, and within the window after start-up.
_MANY = 50
_SEVERAL = 5
_WINDOW_S = 600.0
#: Seconds over which those must be spread: a restore makes one program for each shape, one after the other.
_SPREAD_S = 10.0
#: Compiles of programs that had been compiled before, or while jit is disabled, that are too many.
_REPEATED = 3
_MAX_PROGRAMS = 100
_DISABLED = ("jax_disable_jit", "True")


@dataclass(slots=True)
class _Line:
    """Compiles of one operation at one line.

    Attributes:
        total: All of them.
        programs: The different ones.
        repeated: How many were of a program that had been compiled before.
        recent: Monotonic seconds of the last ones after start-up.
        last: What the last one was compiled for.
        is_churn: Whether they count as the job's own by now.
    """

    total: int = 0
    programs: set[object] = field(default_factory=set)
    repeated: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_SEVERAL))
    last: Signature | None = None
    is_churn: bool = False


def is_operation(function: Function) -> bool:
    """Whether it is of JAX's own operations and not a function of the job."""
    return function.is_internal or function.name == EAGER


class EagerLines:
    """The lines of one job. No lock: the diagnosis that owns it has one."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._lines: Memory[_Line] = Memory(_Line)

    def caches_cleared(self) -> None:
        """What was compiled before is compiled once more, which says nothing."""
        self._lines = Memory(_Line)

    def of(self, event: Compiled, now: float) -> Compiled:
        """The event of an operation of JAX's own; as one of its line where it was compiled too often.

        Args:
            event: Of a function that is internal.
            now: Monotonic seconds.
        """
        if self._started is None:
            self._started = now
        if event.call_site is None:
            return event
        line = self._lines.of((event.call_site, event.function.name))
        before, line.last = line.last, event.signature
        self._add(line, event.signature, now)
        if not line.is_churn:
            return event
        return replace(
            event,
            function=_function_of(event),
            nth=line.total,
            causes=(change.kind,) if (change := _change(line, before, event)) is not None else ("unknown",),
            changes=(change,) if change is not None else (),
        )

    def _add(self, line: _Line, signature: Signature | None, now: float) -> None:
        program = _program(signature)
        line.total += 1
        if program in line.programs:
            line.repeated += 1
        elif len(line.programs) < _MAX_PROGRAMS:
            line.programs.add(program)
        if self._started is not None and now - self._started >= STARTUP_S:
            line.recent.append(now)
        spread_s = line.recent[-1] - line.recent[0] if len(line.recent) == _SEVERAL else 0.0
        line.is_churn |= (
            line.repeated >= _REPEATED
            or line.total >= _MANY
            or (_is_disabled(signature) and line.total >= _REPEATED)
            or _SPREAD_S <= spread_s <= _WINDOW_S
        )


def _function_of(event: Compiled) -> Function:
    file, _, number = (event.call_site or "").rpartition(":")
    where = f"{EAGER}@{os.path.basename(file)}:{number}"
    is_named = event.caller and not event.caller.startswith("<")
    return Function(f"{event.caller}.{where}" if is_named else where, EAGER, event.call_site)


def _change(line: _Line, before: Signature | None, event: Compiled) -> Change | None:
    """Why the operation was compiled once more; None if nothing has changed."""
    name, now = event.function.name, event.signature
    if _is_disabled(now):
        return Change(_DISABLED[0], "config", "off", "on")
    if before is None or now is None or line.repeated >= _REPEATED:
        return None
    return Change(name, "shape", _shapes(before), _shapes(now)) if before.shapes != now.shapes else None


def _shapes(signature: Signature) -> str:
    return ", ".join(f"[{','.join(map(str, shape))}]" for shape in signature.shapes[: len(signature.paths)])


def _is_disabled(signature: Signature | None) -> bool:
    return signature is not None and _DISABLED in signature.context


def _program(signature: Signature | None) -> object:
    """The same for two compiles of the same program."""
    if signature is None:
        return None
    return signature.variant, signature.shapes, signature.dtypes, signature.weak_types, signature.placements
