"""Cost of a cached call with the agent installed, compared with the same call without it.

Each round times a block of calls for 'bare', 'agent' and 'control' (bare again), in random order, by the CPU time of
the calling thread. The agent is installed before its block and uninstalled after it; its function was jitted while the
agent
was installed, so that a watched function would be measured as one. Every few rounds all functions are jitted again:
their location in memory can matter more than what is measured here.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from figures import Figure, Spread, dump

import jitwatch

BLOCK_S = 0.02
LEAVES = 200
ROUNDS_PER_JIT = 10
VARIANTS = ("bare", "agent", "control")


def tiny(x: jax.Array) -> jax.Array:
    """A step that does almost nothing."""
    return x + 1


def step(state: dict[str, jax.Array], batch: jax.Array) -> dict[str, jax.Array]:
    """A step that updates every leaf, as an optimizer does."""
    return {name: leaf * 0.9 + batch for name, leaf in state.items()}


def leaves() -> dict[str, jax.Array]:
    return {f"layer_{number}": jnp.ones(8) for number in range(LEAVES)}


def repeat_tiny(jitted: Callable[..., Any]) -> Callable[[int], None]:
    x = jnp.float32(1)

    def calls(n: int) -> None:
        for _ in range(n):
            jitted(x)

    return calls


def repeat_step(jitted: Callable[..., Any]) -> Callable[[int], None]:
    state, batch = leaves(), jnp.ones(8)

    def calls(n: int) -> None:
        for _ in range(n):
            jitted(state, batch)

    return calls


def repeat_donating(jitted: Callable[..., Any]) -> Callable[[int], None]:
    state, batch = leaves(), jnp.ones(8)

    def calls(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state = jitted(state, batch)

    return calls


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[..., Any]]] = {
    "tiny": (tiny, {}, repeat_tiny),
    f"{LEAVES} leaves": (step, {}, repeat_step),
    f"{LEAVES} leaves, donated": (step, {"donate_argnums": 0}, repeat_donating),
}


def seconds(calls: Callable[[int], None], n: int) -> float:
    """CPU seconds of this thread for a block of calls."""
    calls(2)
    started = time.thread_time()
    calls(n)
    return time.thread_time() - started


def warm_seconds(calls: Callable[[int], None], n: int) -> float:
    """As `seconds`, after the effects of installing have passed.

    Installing fills the processor's caches, and its new objects are traversed by the next few garbage collections.
    """
    gc.collect()
    calls(max(1, n // 4))
    return seconds(calls, n)


def calibrate(calls: Callable[[int], None]) -> int:
    """Number of calls in a block."""
    n = 1
    while (took := seconds(calls, n)) < BLOCK_S / 2:
        n *= 2
    return max(1, round(n * BLOCK_S / took))


def prepare(case: str) -> dict[str, Callable[[int], None]]:
    function, options, repeat = CASES[case]
    calls = {}
    for variant in random.sample(VARIANTS, len(VARIANTS)):
        if variant == "agent":
            with jitwatch.install(port=0):
                calls[variant] = repeat(jax.jit(function, **options))
                calls[variant](3)
        else:
            calls[variant] = repeat(jax.jit(function, **options))
            calls[variant](3)
    return calls


def measure(case: str, rounds: int) -> tuple[int, list[dict[str, float]]]:
    n = 0
    results = []
    for number in range(rounds):
        if number % ROUNDS_PER_JIT == 0:
            calls = prepare(case)
            n = n or calibrate(calls["bare"])
        result = {}
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            if variant == "agent":
                with jitwatch.install(port=0):
                    result[variant] = warm_seconds(calls[variant], n)
            else:
                result[variant] = warm_seconds(calls[variant], n)
        results.append(result)
    return n, results


def ratios(results: list[dict[str, float]], variant: str) -> Spread:
    """The ratio of a variant to bare, pair by pair."""
    return Spread.of([one[variant] / one["bare"] for one in results])


def differences_us(results: list[dict[str, float]], variant: str, n: int) -> Spread:
    """Microseconds that a call takes longer than bare, pair by pair."""
    return Spread.of([(one[variant] - one["bare"]) / n for one in results], 1e6)


def figures(rounds: int) -> list[Figure]:
    """The rows of the speed table."""
    found = []
    for case in ("tiny", f"{LEAVES} leaves"):
        _, results = measure(case, rounds)
        how = f"thread CPU time, {rounds} paired, interleaved blocks in one process"
        name, goal = f"cached call, {case}", "≤ 1.000 within noise"
        found.append(Figure(name, goal, "×", ratios(results, "agent"), ratios(results, "control"), how))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80, help="blocks of each variant (default: 80)")
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    options = parser.parse_args()
    rounds = options.rounds
    if options.figures:
        print(dump(figures(rounds)))
        return
    print(f"{rounds} rounds of blocks of {BLOCK_S * 1e3:.0f} ms thread CPU time, jax {jax.__version__}\n")
    print(f"{'function':<22} {'compared':<12} {'µs/call':>8} {'ratio':>7} {'quartiles':>15} {'difference':>12}")
    for case in CASES:
        n, results = measure(case, rounds)
        for variant in ("agent", "control"):
            ratio = ratios(results, variant)
            call_us = statistics.median(one[variant] for one in results) / n * 1e6
            extra_us = differences_us(results, variant, n).median
            quartiles = f"{ratio.low:7.3f}–{ratio.high:.3f}"
            print(
                f"{case:<22} {variant + '/bare':<12} {call_us:8.2f} {ratio.median:7.3f} {quartiles} "
                f"{extra_us:+9.3f} µs",
                flush=True,
            )


if __name__ == "__main__":
    main()
