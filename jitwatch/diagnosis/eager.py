"""Finds call sites where operations outside of jit are compiled repeatedly, and counts these as recompiles of the job.

JAX compiles each operation outside of jit as a small program, once for each shape. That is normal at start-up and when
a checkpoint is restored. Where it continues, the compiles are counted for a function that stands for the call site,
`train.<eager>@train.py:12`.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace

from jitwatch.diagnosis.bounded import BoundedMap
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change, Function
from jitwatch.model.signature import Signature

#: Name of such a function.
EAGER = "<eager>"
#: Seconds after the first compile of the job that count as start-up.
STARTUP_S = 60.0
#: Limits for new programs of one operation at one call site: in total, and within the window after start-up.
_MANY = 50
_SEVERAL = 5
_WINDOW_S = 600.0
#: Seconds over which the latter must be spread: a restore compiles one program for each shape in quick succession.
_SPREAD_S = 10.0
#: Limit for compiles of programs that were compiled before, or while jit is disabled.
_REPEATED = 3
_MAX_PROGRAMS = 100
_DISABLED = ("jax_disable_jit", "True")


@dataclass(slots=True)
class _CallSite:
    """Compiles of one operation at one call site.

    Attributes:
        repeated: Number of compiles of a program that was compiled before.
        recent: Monotonic seconds of the last compiles after start-up.
        last: Signature of the last compile.
        is_churn: Whether a limit was reached, so that the compiles count as the job's.
    """

    total: int = 0
    programs: set[object] = field(default_factory=set)
    repeated: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_SEVERAL))
    last: Signature | None = None
    is_churn: bool = False


def is_operation(function: Function) -> bool:
    """Whether a function stands for operations outside of jit, and is not a function of the user."""
    return function.is_internal or function.name == EAGER


class EagerCallSites:
    """The call sites of operations outside of jit. Not thread-safe: the diagnosis holds a lock."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._sites: BoundedMap[_CallSite] = BoundedMap(_CallSite)

    def caches_cleared(self) -> None:
        """Start again: compiles after a clearing do not show that an operation is compiled repeatedly."""
        self._sites = BoundedMap(_CallSite)

    def attribute(self, event: Compiled, now: float) -> Compiled:
        """Count the compile of an operation; past a limit return it as a recompile of its call site."""
        if self._started is None:
            self._started = now
        if event.call_site is None:
            return event
        site = self._sites.entry((event.call_site, event.function.name))
        before, site.last = site.last, event.signature
        self._add(site, event.signature, now)
        if not site.is_churn:
            return event
        change = _change(site, before, event)
        event = replace(event, function=_function_of(event), nth=site.total, causes=("unknown",))
        return replace(event, causes=(change.kind,), changes=(change,)) if change is not None else event

    def _add(self, site: _CallSite, signature: Signature | None, now: float) -> None:
        program = _program(signature)
        site.total += 1
        if program in site.programs:
            site.repeated += 1
        elif len(site.programs) < _MAX_PROGRAMS:
            site.programs.add(program)
        if self._started is not None and now - self._started >= STARTUP_S:
            site.recent.append(now)
        spread_s = site.recent[-1] - site.recent[0] if len(site.recent) == _SEVERAL else 0.0
        site.is_churn |= (
            site.repeated >= _REPEATED
            or site.total >= _MANY
            or (_is_disabled(signature) and site.total >= _REPEATED)
            or _SPREAD_S <= spread_s <= _WINDOW_S
        )


def _function_of(event: Compiled) -> Function:
    file, _, number = (event.call_site or "").rpartition(":")
    where = f"{EAGER}@{os.path.basename(file)}:{number}"
    is_named = event.caller and not event.caller.startswith("<")
    return Function(f"{event.caller}.{where}" if is_named else where, EAGER, event.call_site)


def _change(site: _CallSite, before: Signature | None, event: Compiled) -> Change | None:
    """What changed since the previous compile at the call site; None if nothing did."""
    name, now = event.function.name, event.signature
    if _is_disabled(now):
        return Change(_DISABLED[0], "config", "off", "on")
    if before is None or now is None or site.repeated >= _REPEATED:
        return None
    return Change(name, "shape", _shapes(before), _shapes(now)) if before.shapes != now.shapes else None


def _shapes(signature: Signature) -> str:
    return ", ".join(f"[{','.join(map(str, shape))}]" for shape in signature.shapes[: len(signature.paths)])


def _is_disabled(signature: Signature | None) -> bool:
    return signature is not None and _DISABLED in signature.context


def _program(signature: Signature | None) -> object:
    """A key that is equal for two compiles of the same program."""
    if signature is None:
        return None
    return signature.variant, signature.shapes, signature.dtypes, signature.weak_types, signature.placements
