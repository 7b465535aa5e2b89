"""Mistakes of the job as a whole: caches that are emptied, operations outside of jit, constants, late compiles."""

from __future__ import annotations

from jitwatch.diagnosis.eager import EAGER
from jitwatch.diagnosis.memory import Memory
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.model.events import CachesCleared, Compiled, Event, SteadyViolated
from jitwatch.model.signature import BODY_OF
from jitwatch.render import words

#: Clearings after which a function was compiled again; one or two lie between the phases of a job.
_THRASHED = 3
_MAX_TOKENS = 10
#: New function objects as the body of an operation outside of jit, after the first.
_NEW_BODIES = 2
#: Bytes of the large constants (those of a mebibyte or more) of a program.
_CONSTANT_BYTES = 4 << 20
_MIB = 1 << 20
#: How often the same inner function is in a program, how many operations that has, and what it costs, in seconds.
_UNROLLED, _MANY_OPERATIONS, _UNROLLED_S = 32, 1_000, 0.5


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


class EagerChurn(Rule):
    """Operations outside of jit are compiled again and again at the same line."""

    name = "eager_churn"

    def __init__(self) -> None:
        #: New function objects, by line and function.
        self._bodies: Memory[list[int]] = Memory(lambda: [0])

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or event.call_site is None:
            return None
        if event.function.name == EAGER:
            return _of_operations(event)
        path = next((one.path for one in event.changes if one.path.startswith(BODY_OF)), None)
        if path is None:
            return None
        count = self._bodies.of((event.call_site, event.function.label))
        count[0] += 1
        if count[0] < _NEW_BODIES:
            return None
        name, operation = event.function.name, path.removeprefix(BODY_OF)
        return Finding(
            event.call_site,
            f"{operation} gets {name} as a new function object in each call, and each one is a compile "
            f"({count[0] + 1} so far)",
            _advice_for_body(name, operation),
        )


def _advice_for_body(name: str, operation: str) -> str:
    if operation == "jax.lax.map":
        # It makes a function of its own around the body in each call, also where the body is the same (0.6.2 to 0.12).
        return f"Call {operation} inside of a function that is jitted once: only there a call finds its program again"
    return (
        f"Define {name} once, outside of the function that calls {operation}, and give it what changes as an argument; "
        "or call that function through one jax.jit"
    )


def _of_operations(event: Compiled) -> Finding:
    """The operations of one line, whose compiles count as the job's own by now."""
    site = event.call_site or ""
    if "config" in event.causes:
        return Finding(
            "jax_disable_jit",
            "jax_disable_jit is on, so that operations are compiled one by one, some of them again and again",
            "Turn it off outside of debugging: jax.config.update('jax_disable_jit', False)",
        )
    if "shape" in event.causes:
        return Finding(
            site,
            f"operations outside of jit are compiled again and again for new shapes ({event.changes[0].path}, "
            f"{words.count(event.nth or 0, 'time')} so far)",
            "Keep the shapes the same, for example by padding to the largest, or use numpy for that piece",
        )
    return Finding(
        site,
        f"operations outside of jit are compiled again and again ({words.count(event.nth or 0, 'time')} so far)",
        "Wrap that piece in one jax.jit, or use numpy for it",
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


class UnrolledLoop(Rule):
    """A Python loop inside of a jitted function, which makes one large program."""

    name = "unrolled_loop"
    explains_recompiles = False

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or event.function.is_internal or event.signature is None:
            return None
        operations, (name, times) = event.signature.operations, event.signature.repeated
        if times < _UNROLLED or operations < _MANY_OPERATIONS or event.total_s < _UNROLLED_S:
            return None
        return Finding(
            "",
            f"its program has {operations:,} operations, {name} is in it {times} times, and it took "
            f"{words.seconds(event.total_s)} to compile: a Python loop was unrolled",
            "Write the loop with jax.lax.scan or jax.lax.fori_loop, over stacked arrays: its body is compiled once",
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
