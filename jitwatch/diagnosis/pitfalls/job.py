"""Pitfalls of a job as a whole: cleared caches, operations outside of jit, captured constants, unrolled loops."""

from __future__ import annotations

from jitwatch.diagnosis.bounded import BoundedMap
from jitwatch.diagnosis.diff import array_text
from jitwatch.diagnosis.eager import EAGER
from jitwatch.diagnosis.pitfalls.rule import CompileRule, Pitfall, Rule
from jitwatch.model.events import CachesCleared, Compiled, Event, SteadyViolated
from jitwatch.model.signature import BODY_OF
from jitwatch.render import formats

#: Limit for clearings that cost a function a program; one or two between the phases of a job are fine.
_THRASHED = 3
_MAX_LOST = 10
#: Limit for new function objects as the body of an operation outside of jit, after the first.
_NEW_BODIES = 2
#: Limit for the bytes of a program's large constants (of a mebibyte or more).
_CONSTANT_BYTES = 4 << 20
_MIB = 1 << 20
#: Limits for occurrences of one inner function in a program, for its operations, and for its compile seconds.
_UNROLLED, _MANY_OPERATIONS, _UNROLLED_S = 32, 1_000, 0.5


class CacheThrash(Rule):
    """Compiled programs are removed from the jit cache and compiled again."""

    name = "cache_thrash"
    events = (CachesCleared, Compiled)

    def __init__(self) -> None:
        self._clearings = 0
        #: By function, the clearings and evictions that cost it a program; a clearing may cost several programs.
        self._lost: BoundedMap[set[object]] = BoundedMap(set)

    def check(self, event: Event) -> Pitfall | None:
        if isinstance(event, CachesCleared):
            self._clearings += 1
            return None
        if not isinstance(event, Compiled) or "cache_cleared" not in event.causes:
            return None
        lost = self._lost.entry(event.function.label)
        is_cleared = any(one.kind == "cache_cleared" and "cleared" in one.after for one in event.changes)
        # Without a clearing the cache evicted the program, each time because it was full.
        if len(lost) < _MAX_LOST:
            lost.add(self._clearings if is_cleared else ("evicted", len(lost)))
        if len(lost) < _THRASHED:
            return None
        why, advice = "the jit cache evicted them", "Use fewer different signatures, or raise JAX's cache size"
        if is_cleared:
            why = "the jit caches are cleared in between"
            advice = "Do not call clear_caches() or clear_cache() in the loop"
        return Pitfall("", f"its programs are compiled repeatedly because {why}", advice)


class EagerChurn(CompileRule):
    """Operations outside of jit are compiled repeatedly at the same call site."""

    name = "eager_churn"

    def __init__(self) -> None:
        #: Number of new function objects, by call site and function.
        self._bodies: BoundedMap[list[int]] = BoundedMap(lambda: [0])

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if event.call_site is None:
            return None
        if event.function.name == EAGER:
            return _of_operations(event)
        path = next((one.path for one in event.changes if one.path.startswith(BODY_OF)), None)
        if path is None:
            return None
        count = self._bodies.entry((event.call_site, event.function.label))
        count[0] += 1
        if count[0] < _NEW_BODIES:
            return None
        name, operation = event.function.name, path.removeprefix(BODY_OF)
        advice = (
            f"Define {name} once, outside of the function that calls {operation}, and pass what changes as an "
            f"argument; or jit the function that calls {operation}"
        )
        if operation == "jax.lax.map":
            # It wraps the body in a new function in each call, even if the body is the same (JAX 0.6.2 to 0.12).
            advice = f"Call {operation} in a jitted function: outside of jit, each call compiles again"
        message = f"{operation} is called with a new function object of {name} each time, and each one needed a compile"
        return Pitfall(event.call_site, f"{message} ({count[0] + 1} so far)", advice)


def _of_operations(event: Compiled) -> Pitfall:
    """The pitfall of a call site whose operations are compiled repeatedly."""
    site = event.call_site or ""
    if "config" in event.causes:
        return Pitfall(
            "jax_disable_jit",
            "jax_disable_jit is on, so operations are compiled one by one, some of them repeatedly",
            "Turn it off outside of debugging: jax.config.update('jax_disable_jit', False)",
        )
    if "shape" in event.causes:
        return Pitfall(
            site,
            f"operations outside of jit are compiled repeatedly for new shapes ({event.changes[0].path}, "
            f"{formats.count(event.nth or 0, 'time')} so far)",
            "Keep the shapes constant, for example by padding to the largest, or use numpy for that code",
        )
    return Pitfall(
        site,
        f"operations outside of jit are compiled repeatedly ({formats.count(event.nth or 0, 'time')} so far)",
        "Put that code into one jitted function, or use numpy for it",
    )


class CapturedConstant(CompileRule):
    """Large arrays are constants of a program."""

    name = "captured_constant"
    explains_recompiles = False

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if event.function.is_internal or event.signature is None:
            return None
        constants = event.signature.constants
        total = sum(one.bytes for one in constants)
        if total < _CONSTANT_BYTES:
            return None
        first = constants[0]
        more = f" and {len(constants) - 1} more" if len(constants) > 1 else ""
        return Pitfall(
            "",
            f"{total / _MIB:.0f} MiB of arrays are constants of the program "
            f"({array_text(first.dtype, first.shape)}{more})",
            "Pass them as arguments of the jitted function instead of capturing them",
        )


class UnrolledLoop(CompileRule):
    """A Python loop inside of a jitted function, which is unrolled into one large program."""

    name = "unrolled_loop"
    explains_recompiles = False

    def __init__(self, min_total_s: float = _UNROLLED_S) -> None:
        self._min_total_s = min_total_s

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if event.function.is_internal or event.signature is None:
            return None
        operations, (name, times) = event.signature.operations, event.signature.repeated
        if times < _UNROLLED or operations < _MANY_OPERATIONS or event.total_s < self._min_total_s:
            return None
        return Pitfall(
            "",
            f"its program has {operations:,} operations, contains {name} {times} times, and took "
            f"{formats.seconds(event.total_s)} to compile: a Python loop was unrolled",
            "Write the loop with jax.lax.scan or jax.lax.fori_loop, over stacked arrays: its body is compiled once",
        )


class CompileDuringSteady(Rule):
    """A compile in the steady state."""

    name = "compile_during_steady"
    events = (SteadyViolated,)

    def check(self, event: Event) -> Pitfall | None:
        if not isinstance(event, SteadyViolated):
            return None
        return Pitfall(
            "",
            f"it compiled in the steady state: {event.reason}",
            "Remove the cause, or announce the compile with jitwatch.expected() or steady(allow=…)",
        )
