"""Cost of the agent per compile.

It is measured in two ways. 'Paired' compiles the same function, jitted again each time, with and without the agent, in
random order, and subtracts; a control subtracts bare from bare. Compiles vary by more than the cost of the agent, so
'direct' is the figure to quote: it puts timers around the functions that observe JAX's and the listeners on
jax.monitoring, in which no work of JAX runs. It excludes about 0.3 µs per call that the instrumented code itself takes,
and the time of the timers, which is measured first and subtracted. The hook 'infer' is also called for each `jnp`
operation during tracing, so its part grows with the function.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from figures import Figure, Spread, dump

import jitwatch
from jitwatch.jaxhooks.compile.misses import MissHooks
from jitwatch.jaxhooks.compile.monitoring import Listeners
from jitwatch.jaxhooks.identity.wrappers import Wrappers

LEAVES = 1_000
VARIANTS = ("bare", "agent", "control")
#: Methods of jitwatch that are called around JAX's functions during a compile, by name.
OURS: dict[str, tuple[type, tuple[str, ...]]] = {
    "create": (Wrappers, ("_created_by_jax",)),
    "infer": (MissHooks, ("infer_begun", "infer_ended")),
    "lower": (MissHooks, ("lower_begun", "lower_ended")),
    "compile": (MissHooks, ("compile_begun", "compile_ended")),
    "listeners": (Listeners, ("_on_scalar", "_on_duration", "_on_event")),
}


def fresh_tiny() -> Callable[[], None]:
    """Return a function that jits and compiles a tiny function: a new object each time, so that nothing is cached."""
    x = jnp.float32(1)

    def tiny(x: jax.Array) -> jax.Array:
        return jnp.sin(x) * 2 + 1

    return lambda: jax.block_until_ready(jax.jit(tiny)(x))


def fresh_state() -> Callable[[], None]:
    """As `fresh_tiny`, for a step over a state of many leaves."""
    state = {f"layer_{number}": ONES for number in range(LEAVES)}

    def step(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: leaf + 1 for name, leaf in state.items()}

    return lambda: jax.block_until_ready(jax.jit(step)(state))


ONES = jnp.ones(8)
CASES = {"tiny": (fresh_tiny, 1), f"{LEAVES:,} leaves": (fresh_state, 8)}


def timed(compile_once: Callable[[], None]) -> tuple[float, float]:
    """Wall clock and CPU seconds of this thread, with the garbage collector off: it runs at arbitrary times."""
    gc.collect()
    gc.disable()
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        compile_once()
        return time.perf_counter() - wall, time.thread_time() - cpu
    finally:
        gc.enable()


def paired(fresh: Callable[[], Callable[[], None]], rounds: int) -> list[dict[str, tuple[float, float]]]:
    results = []
    for _ in range(rounds):
        result = {}
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            compile_once = fresh()
            if variant == "agent":
                with jitwatch.install(port=0):
                    result[variant] = timed(compile_once)
            else:
                result[variant] = timed(compile_once)
        results.append(result)
    return results


class Meter:
    """Measures seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._own_s = 0.0
        nothing = self.wrap("nothing", lambda *args, **kwargs: None)
        taken = []
        for _ in range(1_000):
            self.seconds.clear()
            nothing(1, 2, three=3)
            taken.append(self.seconds["nothing"])
        #: Seconds that are measured for a function that does nothing.
        self._own_s = statistics.median(taken)

    def wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started - self._own_s

        return measured


@contextmanager
def with_timers(meter: Meter) -> Iterator[None]:
    """Put timers around all functions of jitwatch that JAX calls during a compile, before the hooks are installed."""
    found = [(owner, method, name) for name, (owner, methods) in OURS.items() for method in methods]
    originals = [(owner, method, getattr(owner, method)) for owner, method, _ in found]
    for owner, method, name in found:
        setattr(owner, method, meter.wrap(name, getattr(owner, method)))
    try:
        yield
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)


def direct(fresh: Callable[[], Callable[[], None]], rounds: int) -> list[dict[str, float]]:
    """Seconds in each hook, for each of many compiles with one agent."""
    meter = Meter()
    results = []
    with with_timers(meter), jitwatch.install(port=0):
        for _ in range(rounds):
            compile_once = fresh()
            meter.seconds.clear()
            compile_once()
            results.append(dict(meter.seconds))
    return results


def overhead_counter(fresh: Callable[[], Callable[[], None]], rounds: int) -> float:
    """Seconds per compile by the agent's own counter, which includes only counting and logging events."""
    with jitwatch.install(port=0) as watch:
        for _ in range(rounds):
            fresh()()
        rows = watch.snapshot()["metrics"]["jitwatch_agent_overhead_seconds_total"]
    return sum(row["value"] for row in rows if row["labels"]["component"] == "events") / rounds


def quartiles(values: list[float], scale: float) -> str:
    low, middle, high = (value * scale for value in statistics.quantiles(values, n=4))
    return f"{middle:+9.1f}  ({low:+.1f} to {high:+.1f})"


def figures(rounds: int) -> list[Figure]:
    """The rows of the speed table."""
    found = []
    for (case, (fresh, divisor)), goal in zip(CASES.items(), ("≤ + 0.3 ms", "≤ + 2 ms"), strict=True):
        for _ in range(3):
            fresh()()
        n = max(8, rounds // divisor)
        results = paired(fresh, n)
        control = Spread.of([one["control"][1] - one["bare"][1] for one in results], 1e3)
        agent = Spread.of([sum(part.values()) for part in direct(fresh, n)], 1e3)
        bare_ms = statistics.median(one["bare"][0] for one in results) * 1e3
        how = f"timers around the hooks, {n} recompiles of {bare_ms:.0f} ms; control: thread CPU time of {n} pairs"
        found.append(Figure(f"recompile with its cause, {case}", goal, "ms", agent, control, how))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=160, help="compiles of each variant (default: 160)")
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    options = parser.parse_args()
    rounds = options.rounds
    if options.figures:
        print(dump(figures(rounds)))
        return
    print(f"jax {jax.__version__}; µs a compile, median (quartiles)\n")
    for case, (fresh, divisor) in CASES.items():
        for _ in range(3):
            fresh()()
        n = max(8, rounds // divisor)
        results = paired(fresh, n)
        bare_s = statistics.median(one["bare"][0] for one in results)
        print(f"{case}: {n} rounds, a bare compile takes {bare_s * 1e3:.1f} ms")
        for position, clock in enumerate(("wall clock", "thread CPU")):
            for variant in ("agent", "control"):
                differences = [one[variant][position] - one["bare"][position] for one in results]
                ratio = statistics.median(one[variant][position] / one["bare"][position] for one in results)
                print(f"  paired {clock:<11} {variant:<8} {quartiles(differences, 1e6)}, ratio {ratio:.3f}")
        parts = direct(fresh, n)
        names = sorted({name for part in parts for name in part})
        totals = [sum(part.values()) for part in parts]
        median_s = statistics.median(totals)
        print(f"  direct, in all hooks          {quartiles(totals, 1e6)}")
        for name in names:
            print(f"    {name:<27} {quartiles([part.get(name, 0.0) for part in parts], 1e6)}")
        print(f"  by agent_overhead_seconds     {overhead_counter(fresh, n) * 1e6:+9.1f}")
        print(f"  direct, part of a bare compile {median_s / bare_s:9.2%}\n", flush=True)


if __name__ == "__main__":
    main()
