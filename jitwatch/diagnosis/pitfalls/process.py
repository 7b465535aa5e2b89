"""Mistakes of the job as a whole: caches that are emptied, operations outside of jit, constants, late compiles."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from jitwatch.diagnosis.pitfalls.base import Finding, Memory, Rule
from jitwatch.events import CachesCleared, Compiled, Event, SteadyViolated

#: Clearings after which a function was compiled again; one or two lie between the phases of a job.
_THRASHED = 3
_MAX_TOKENS = 10
#: Eager compiles of one operation at one line: at start-up, and within the window afterwards.
STARTUP_S = 60.0
_STARTUP_CHURN = 50
_CHURN = 5
_CHURN_WINDOW_S = 600.0
#: Bytes of the large constants (those of a mebibyte or more) of a program.
_CONSTANT_BYTES = 4 << 20
_MIB = 1 << 20


class CacheThrash(Rule):
    """Compiled programs are thrown away and made again."""

    name = "cache_thrash"

    def __init__(self) -> None:
        self._clearings = 0
        #: By function, the clearings that cost it a program; one clearing may cost it several.
        self._lost: Memory[dict[object, None]] = Memory(dict)

    def look(self, event: Event, now: float) -> Finding | None:
        if isinstance(event, CachesCleared):
            self._clearings += 1
            return None
        if not isinstance(event, Compiled) or "cache_cleared" not in event.causes:
            return None
        lost = self._lost.of(event.function.label)
        is_cleared = any(one.kind == "cache_cleared" and "cleared" in one.after for one in event.changes)
        # Where nobody cleared, the cache itself gave the program up, each time for want of room.
        if len(lost) < _MAX_TOKENS:
            lost[self._clearings if is_cleared else ("evicted", len(lost))] = None
        if len(lost) < _THRASHED:
            return None
        if is_cleared:
            return Finding(
                "",
                "its programs are compiled again and again since the jit caches are cleared in between",
                "Do not call clear_caches() or clear_cache() inside of the loop",
            )
        return Finding(
            "",
            "its programs are compiled again and again since the jit cache has lost them",
            "Use fewer different signatures, or raise JAX's cache size",
        )


@dataclass(slots=True)
class _Eager:
    total: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_CHURN))
    is_told: bool = False


class EagerChurn(Rule):
    """Operations outside of jit are compiled again and again at the same line."""

    name = "eager_churn"

    def __init__(self) -> None:
        self._started: float | None = None
        self._lines: Memory[_Eager] = Memory(_Eager)

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or not event.function.is_internal or event.call_site is None:
            return None
        if self._started is None:
            self._started = now
        line = self._lines.of((event.call_site, event.function.name))
        line.total += 1
        if now - self._started >= STARTUP_S:
            line.recent.append(now)
        is_churn = len(line.recent) == _CHURN and now - line.recent[0] <= _CHURN_WINDOW_S
        if not is_churn and line.total != _STARTUP_CHURN and not line.is_told:
            return None
        line.is_told = True
        return Finding(
            event.call_site,
            f"operations outside of jit are compiled again and again ({event.function.name} {line.total} times so far)",
            "Wrap that piece in jax.jit, keep its shapes the same, or use numpy for it",
        )


class CapturedConstant(Rule):
    """Large arrays are baked into a program."""

    name = "captured_constant"
    explains_recompiles = False

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or event.function.is_internal or event.signature is None:
            return None
        constants = event.signature.constants
        total = sum(one.bytes for one in constants)
        if total < _CONSTANT_BYTES:
            return None
        first = constants[0]
        more = f" and {len(constants) - 1} more" if len(constants) > 1 else ""
        return Finding(
            "",
            f"{total / _MIB:.0f} MiB of arrays are baked into the program as constants "
            f"({first.dtype}[{','.join(map(str, first.shape))}]{more})",
            "Pass them as arguments of the jitted function instead of capturing them",
        )


class CompileDuringSteady(Rule):
    """A compile after the job had said that warm-up is over."""

    name = "compile_during_steady"

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, SteadyViolated):
            return None
        return Finding(
            "",
            f"it compiled although the job is steady: {event.reason}",
            "Remove the cause, or announce the compile with jitwatch.expected() or steady(allow=…)",
        )
