"""Cost of the compile watcher, and of a profiled compile.

- 'A long trace': the same function is traced for some seconds with the watcher, without it, and without it again, in
  random order. The CPU time of the thread that traces and the wall clock are compared pair by pair. The function is
  traced by `make_jaxpr` of a new jitted function each time, so XLA takes no part.
- 'Short compiles': a tiny function is jitted again and compiled, in blocks, in the same way.
- 'A signal': what the beginning and the end of an outermost phase take, with a watcher that sleeps, one that is awake,
  and none.
- 'A sample': the CPU time of reading a stack of the depth that JAX has in a trace.
- 'A profile': the same function is compiled anew with and without a profile, and the time to stop it and to read it.

The agent is installed for all variants; 'bare' stops its watcher.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jitwatch
from jitwatch.jaxhooks.compile import xla_passes
from jitwatch.jaxhooks.compile.hot_lines import StackReader
from jitwatch.jaxhooks.compile.phases import Activity, Running
from jitwatch.probes.compile_watch import CompileWatch
from jitwatch.system.threads import SimpleQueue

VARIANTS = ("bare", "watcher", "control")


def layer(x: jax.Array, w: jax.Array) -> jax.Array:
    """A layer of a few operations."""
    return jnp.tanh(x @ w) + jnp.sin(x) * jnp.exp(-x)


def long_trace(layers: int) -> None:
    """Trace a function with a Python loop over layers."""
    weights, x = [np.ones((8, 8), np.float32)] * layers, np.ones((8, 8), np.float32)

    def loss(weights: list[Any], x: Any) -> Any:
        for w in weights:
            x = layer(x, w)
        return x.sum()

    jax.jit(jax.value_and_grad(loss)).lower(weights, x)


def short_compiles(number: int) -> None:
    """Compile a tiny function several times."""
    x = np.float32(1)
    for _ in range(number):
        jax.jit(lambda x: jnp.sin(x) * 2 + 1)(x).block_until_ready()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall clock and CPU seconds of this thread, with the garbage collector off."""
    gc.collect()
    gc.disable()
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        work()
        return time.perf_counter() - wall, time.thread_time() - cpu
    finally:
        gc.enable()


def paired(watch: jitwatch.Watch, work: Callable[[], None], rounds: int) -> None:
    """Print the ratios of the variants."""
    agent = watch._agent
    assert agent is not None
    agent._compile_watch.stop()
    results: list[dict[str, tuple[float, float]]] = []
    samples = wakes = 0
    work()
    for _ in range(rounds):
        result = {}
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            watcher = CompileWatch(agent.session, agent.emit) if variant == "watcher" else None
            if watcher is not None:
                watcher.start()
            result[variant] = timed(work)
            if watcher is not None:
                samples, wakes = samples + watcher.samples, wakes + watcher.wakes
                watcher.stop()
        results.append(result)
    walls = statistics.median(one["bare"][0] for one in results)
    print(
        f"  bare: {walls:.3f} s; {samples / rounds:.0f} samples and {wakes / rounds:.1f} wake-ups for each", flush=True
    )
    for variant in VARIANTS[1:]:
        for name, at in (("wall clock", 0), ("CPU of the thread", 1)):
            ratios = sorted(one[variant][at] / one["bare"][at] for one in results)
            low, middle, high = (ratios[int(share * (len(ratios) - 1))] for share in (0.25, 0.5, 0.75))
            print(f"  {variant:8} {name:18} x {middle:.4f} (quartiles {low:.4f} to {high:.4f})", flush=True)


def signal(rounds: int) -> None:
    """Print what the beginning and end of a phase take."""
    bell: SimpleQueue[None] = SimpleQueue()
    ended = threading.Event()

    def sleep() -> None:
        while not ended.is_set():
            bell.get()

    thread = threading.Thread(target=sleep, daemon=True)
    thread.start()
    activity = Activity(time.monotonic)
    for name, sleeper in (("no watcher, or one that is awake", None), ("a watcher that sleeps", bell)):
        found = []
        for _ in range(rounds):
            activity.sleeper = sleeper
            began = time.perf_counter_ns()
            activity.begin(Running("trace", 0.0, None, open=[], works=[]))
            found.append(time.perf_counter_ns() - began)
            activity.end()
            if sleeper is not None:
                time.sleep(0.0005)  # so that it sleeps again
        found.sort()
        print(
            f"  {name}: {found[len(found) // 2] / 1000:.2f} us (9 of 10 below {found[9 * len(found) // 10] / 1000:.2f})"
        )
    ended.set()
    bell.put(None)


def sample(rounds: int) -> None:
    """Print what reading a stack takes while a function is traced."""
    found: list[float] = []
    depths: list[int] = []
    reader = StackReader((jax.__file__.removesuffix("__init__.py"),))
    ident = threading.get_ident()

    def read(x: Any) -> Any:
        for _ in range(rounds):
            began = time.thread_time_ns()
            reader.path(ident)
            found.append((time.thread_time_ns() - began) / 1000)
        depths.append(sum(1 for _ in reader._frames(ident)))
        return x

    jax.jit(jax.value_and_grad(lambda x: jax.jit(read)(x).sum())).lower(np.ones(3, np.float32))
    print(f"  {statistics.median(found):.0f} us for {depths[0]} frames", flush=True)


def profile(watch: jitwatch.Watch, rounds: int, layers: int) -> None:
    """Print what a profiled compile takes more, and reading its profile."""
    agent = watch._agent
    assert agent is not None
    profiler = agent.session.profiler
    results: list[dict[str, float]] = []
    stops: list[float] = []
    reads: list[float] = []
    sizes: list[int] = []

    def take(one: Any) -> None:
        began = time.thread_time()
        xla_passes.passes_of(xla_passes.read(one.raw))
        reads.append(time.thread_time() - began)
        sizes.append(len(one.raw))

    stop = profiler._stop

    def timed_stop(one: Any) -> None:
        began = time.perf_counter()
        stop(one)
        stops.append(time.perf_counter() - began)

    profiler._stop = timed_stop  # type: ignore[method-assign]
    for _ in range(rounds):
        result = {}
        for variant in random.sample(("bare", "profiled", "control"), 3):
            lowered = jax.jit(jax.value_and_grad(lambda w, x: _model(w, x, layers))).lower(
                np.ones((layers, 32, 32), np.float32), np.ones((32, 32), np.float32)
            )
            if variant == "profiled":
                with jitwatch.profile_compiles():
                    profiler.on_profile = take
                    result[variant] = timed(lowered.compile)[0]  # type: ignore[arg-type]
            else:
                result[variant] = timed(lowered.compile)[0]  # type: ignore[arg-type]
        results.append(result)
    for variant in ("profiled", "control"):
        ratios = sorted(one[variant] / one["bare"] for one in results)
        low, middle, high = (ratios[int(share * (len(ratios) - 1))] for share in (0.25, 0.5, 0.75))
        print(f"  {variant:8} x {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    bare = statistics.median(one["bare"] for one in results)
    print(
        f"  bare {bare:.2f} s; stopping {1000 * statistics.median(stops):.0f} ms; profile of {sizes[0] / 1000:.0f} kB"
    )
    print(f"  reading it, in the watcher: {1000 * statistics.median(reads):.0f} ms of CPU", flush=True)


def _model(weights: Any, x: Any, layers: int) -> Any:
    for number in range(layers):
        x = layer(x, weights[number])
    return x.sum()


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the paired measurements")
    parser.add_argument("--layers", type=int, default=2500, help="layers of the long trace")
    options = parser.parse_args()
    with jitwatch.install(port=0) as watch:
        print("a signal:")
        signal(5_000)
        print("a sample:")
        sample(2_000)
        if xla_passes.is_readable():
            print("a profiled compile:")
            profile(watch, options.rounds, 20)
        print("short compiles, 20 in a block:")
        paired(watch, lambda: short_compiles(20), 2 * options.rounds)
        print("a long trace:")
        paired(watch, lambda: long_trace(options.layers), options.rounds)


if __name__ == "__main__":
    main()
