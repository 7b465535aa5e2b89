"""Cost of a call that donates with the agent installed, which watches such calls.

Measured as in `cached_call.py`: blocks of calls for 'bare', 'agent' and 'control' (bare again), interleaved in random
order, by the CPU time of the calling thread. Each call donates the result of the previous one, as in a training loop.
The last lines are the cost per donated leaf beyond that of the tiny function, and the share of the demo's training
step: the extra time for its state, relative to the wall clock of a step.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import cached_call
import jax
import jax.numpy as jnp
import numpy as np
from cached_call import VARIANTS, calibrate, warm_seconds
from figures import Figure, Spread, dump

import jitwatch
from jitwatch.demo import model
from jitwatch.demo.train import BATCH_SIZE, LENGTH

LEAVES = 200
DEMO = "the demo's state"
CASES: dict[str, Callable[[], tuple[Callable[..., Any], Any, tuple[Any, ...]]]] = {
    "tiny": lambda: (cached_call.tiny, jnp.float32(1), ()),
    f"{LEAVES} leaves, flat": lambda: (cached_call.step, cached_call.leaves(), (jnp.ones(8),)),
    f"{LEAVES} leaves, nested": lambda: (nested_step, nested(), (jnp.ones(8),)),
    f"{LEAVES} leaves, flax": lambda: (flax_step, flax_state(), (jnp.float32(1),)),
    DEMO: lambda: (touch, demo_state(), ()),
}
LEAVES_OF = {name: LEAVES for name in CASES if str(LEAVES) in name}


def nested() -> dict[str, Any]:
    """Parameters and two moments, in layers of ten arrays; a few loose ones."""
    layers = {f"layer_{i}": {f"weight_{j}": jnp.ones(8) for j in range(10)} for i in range(6)}
    copies = [jax.tree.map(jnp.copy, layers) for _ in range(3)]
    return {"params": copies[0], "moments": copies[1:], "loose": [jnp.ones(8) for _ in range(LEAVES - 180)]}


def nested_step(state: dict[str, Any], batch: jax.Array) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf * 0.9 + batch, state)


def flax_state() -> Any:
    """A typical flax state: parameters of 33 layers, Adam's moments, a step counter that starts as a Python number."""
    import optax
    from flax.training.train_state import TrainState

    params = {f"layer_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for i in range(33)}
    return TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))


def flax_step(state: Any, scale: jax.Array) -> Any:
    return state.apply_gradients(grads=jax.tree.map(lambda leaf: leaf * scale, state.params))


def demo_state() -> model.TrainState:
    return model.init_state(jax.random.key(0), model.ModelConfig(vocabulary_size=96))


def touch(state: model.TrainState) -> model.TrainState:
    """A step that does almost nothing with a state, so that the call itself is measured."""
    return jax.tree.map(lambda leaf: leaf + 1, state)


def demo_step_us(steps: int = 40) -> float:
    """Wall clock of a step of the demo's training, in microseconds."""
    state, tokens = demo_state(), np.zeros((BATCH_SIZE, LENGTH + 1), np.int32)
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        state, _ = model.train_step(state, tokens)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:]) * 1e6


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


def figures(rounds: int) -> list[Figure]:
    """The rows of the speed table."""
    how = f"thread CPU time, {rounds} paired, interleaved blocks"
    found = []
    least: dict[str, float] = {}
    for case in ("tiny", *LEAVES_OF):
        try:
            n, results = measure(case, rounds)
        except ImportError:  # flax and optax are not installed
            continue
        spreads = {variant: cached_call.differences_us(results, variant, n) for variant in ("agent", "control")}
        if case == "tiny":
            least = {variant: spread.median for variant, spread in spreads.items()}
            goal = "≤ + 0.6 µs (JAX ≥ 0.11), ≤ + 1.2 µs (older)"
            found.append(
                Figure("donating call, one small array", goal, "µs", spreads["agent"], spreads["control"], how)
            )
            continue
        leaves = LEAVES_OF[case]
        each = {
            variant: Spread(*((value - least[variant]) / leaves for value in (one.low, one.median, one.high)))
            for variant, one in spreads.items()
        }
        name = "in a TrainState of flax" if "flax" in case else case.rpartition(", ")[2]
        goal = "≤ 0.06 µs (JAX ≥ 0.11), ≤ 0.15 µs (older)"
        row = f"each donated leaf, {name}"
        found.append(Figure(row, goal, "µs", each["agent"], each["control"], f"{how}, less the call with one array"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80, help="blocks of each variant (default: 80)")
    parser.add_argument("--only", help="measure only the cases with this word in their name")
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    options = parser.parse_args()
    if options.figures:
        print(dump(figures(options.rounds)))
        return
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
    if DEMO in extra:
        step_us = demo_step_us()
        print(f"the demo's step, {step_us / 1e3:.1f} ms of wall clock: {extra[DEMO] / step_us:.3%}")


if __name__ == "__main__":
    main()
