"""What a call that donates costs with the agent installed, where it goes through a watched function.

Measured as in `cached_call.py`: blocks of calls for 'bare', 'agent' and 'control' (bare again), interleaved in
random order, by the CPU time of the calling thread. Each call donates the result of the one before, as a
training loop does. The last table says what a donated leaf costs beyond what the tiny function costs.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from typing import Any

import cached_call
import jax
import jax.numpy as jnp
import numpy as np
from cached_call import VARIANTS, calibrate, warm_seconds

import jitwatch
from jitwatch.demo import model

LEAVES = 200
#: The demo's step takes tens of milliseconds of its own and is measured in wall clock elsewhere: few calls a block.
CASES: dict[str, Callable[[], tuple[Callable[..., Any], Any, tuple[Any, ...]]]] = {
    "tiny": lambda: (cached_call.tiny, jnp.float32(1), ()),
    f"{LEAVES} leaves, flat": lambda: (cached_call.step, cached_call.leaves(), (jnp.ones(8),)),
    f"{LEAVES} leaves, nested": lambda: (nested_step, nested(), (jnp.ones(8),)),
    "the demo's step": lambda: (demo_step, demo_state(), (np.zeros((32, 65), np.int32),)),
}
LEAVES_OF = {name: LEAVES for name in CASES if str(LEAVES) in name}


def nested() -> dict[str, Any]:
    """Parameters and two moments, in layers of ten arrays; a few loose ones."""
    layers = {f"layer_{i}": {f"weight_{j}": jnp.ones(8) for j in range(10)} for i in range(6)}
    copies = [jax.tree.map(jnp.copy, layers) for _ in range(3)]
    return {"params": copies[0], "moments": copies[1:], "loose": [jnp.ones(8) for _ in range(LEAVES - 180)]}


def nested_step(state: dict[str, Any], batch: jax.Array) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf * 0.9 + batch, state)


def demo_state() -> model.State:
    return model.init_state(jax.random.key(0), model.Config(vocabulary_size=96))


def demo_step(state: model.State, tokens: np.ndarray) -> model.State:
    return model.train_step.__wrapped__(state, tokens)[0]


def repeat(jitted: Callable[..., Any], state: Any, rest: tuple[Any, ...]) -> Callable[[int], None]:
    def calls(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state = jitted(state, *rest)
        jax.block_until_ready(state)

    return calls


def prepare(case: str) -> dict[str, Callable[[int], None]]:
    calls = {}
    for variant in random.sample(VARIANTS, len(VARIANTS)):
        function, state, rest = CASES[case]()
        if variant == "agent":
            with jitwatch.install(port=0):
                calls[variant] = repeat(jax.jit(function, donate_argnums=0), state, rest)
                calls[variant](3)
        else:
            calls[variant] = repeat(jax.jit(function, donate_argnums=0), state, rest)
            calls[variant](3)
    return calls


def measure(case: str, rounds: int) -> tuple[int, list[dict[str, float]]]:
    n = 0
    results = []
    for number in range(rounds):
        if number % cached_call.ROUNDS_PER_JIT == 0:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80, help="blocks of each variant (default: 80)")
    parser.add_argument("--only", help="measure only the cases with this word in their name")
    options = parser.parse_args()
    print(f"{options.rounds} rounds of blocks of thread CPU time, jax {jax.__version__}\n")
    print(f"{'function':<22} {'compared':<12} {'µs/call':>9} {'ratio':>7} {'quartiles':>15} {'difference':>12}")
    extra: dict[str, float] = {}
    for case in CASES:
        if options.only and options.only not in case and case != "tiny":
            continue
        n, results = measure(case, options.rounds)
        for variant in ("agent", "control"):
            ratios = [one[variant] / one["bare"] for one in results]
            low, middle, high = statistics.quantiles(ratios, n=4)
            call_us = statistics.median(one[variant] for one in results) / n * 1e6
            extra_us = statistics.median(one[variant] - one["bare"] for one in results) / n * 1e6
            print(
                f"{case:<22} {variant + '/bare':<12} {call_us:9.2f} {middle:7.3f} {low:7.3f}–{high:.3f} "
                f"{extra_us:+9.3f} µs",
                flush=True,
            )
            if variant == "agent":
                extra[case] = extra_us
    print()
    for case, leaves in LEAVES_OF.items():
        if case in extra:
            print(f"{case}: {(extra[case] - extra['tiny']) / leaves:.3f} µs a donated leaf")


if __name__ == "__main__":
    main()
