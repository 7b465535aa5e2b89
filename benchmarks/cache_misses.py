"""What the reasons of misses of the persistent cache add to compiles of programs of 1, 50 and 300 layers.

    python benchmarks/cache_misses.py [LAYERS...]

Prints, for misses and for hits, the seconds of JAX's phases and of our part in the thread that compiles: reading the
parts of the key, the text of the program on a miss, and the sentence about what the other thread has found; in CPU
time, since the machine may be busy. Then what that thread takes for the outline, while XLA compiles, and the longest
time in which it kept another Python thread from running. Medians of three programs; each has another constant.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from network import model

import jitwatch
from jitwatch.jaxhooks.compile.cache_keys import CacheKeyHooks
from jitwatch.probes import cache_misses
from jitwatch.probes.cache_misses import CacheMisses
from jitwatch.probes.compile import CompileProbe
from jitwatch.programs import outline_of

ROUNDS = 3
#: What runs in the thread that compiles. `string_begun` and others also cost the 1 µs of each observed call.
OURS: dict[type, tuple[str, ...]] = {
    CacheKeyHooks: ("key_begun", "string_begun", "key_ended", "read_begun", "read_ended", "write_begun"),
    CompileProbe: ("_missed",),
}
spent: list[float] = []
texts: list[float] = []
outlines: list[float] = []
programs: list[str] = []


def timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    """The function, with its seconds of CPU time added to a list."""

    def call(*args: Any, **options: Any) -> Any:
        started = time.thread_time()
        try:
            return function(*args, **options)
        finally:
            into.append(time.thread_time() - started)

    return call


def compiled(folder: str, layers: int, factor: float) -> tuple[float, float, float, str]:
    """Compile a program once: seconds of all phases, of our part and of its text, and what the cache did."""
    step, params, x = model(layers, factor)
    with jitwatch.install(port=0, sample_interval_s=3600, cache_index=folder) as watch:
        jnp.ones(3).block_until_ready()
        spent.clear()
        texts.clear()
        step.lower(params, x).compile()
        record = next(one for one in watch.events() if one["event"] == "jit.compiled" and one["name"] == "step")
    whole = sum(record[name] or 0.0 for name in ("trace_s", "lower_s", "compile_s"))
    jax.clear_caches()
    return whole, sum(spent), sum(texts), record["persistent_cache"]


def stall_of(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of work in another thread, and the longest time that a Python loop in this one stood still."""
    took: list[float] = []
    worker = threading.Thread(target=timed(work, took))
    longest, last = 0.0, time.perf_counter()
    worker.start()
    while worker.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return took[0], longest


def measure(folder: str, layers: int) -> None:
    """Print the lines of programs of so many layers."""
    programs.clear()
    factors = [1.0 + number / 8 for number in range(ROUNDS)]
    for result in ("miss", "hit"):
        found = [compiled(folder, layers, factor) for factor in factors]
        assert {result} == {one[3] for one in found}
        whole, part, text = (statistics.median(one[place] for one in found) for place in range(3))
        of_text = f"  {text * 1e3:7.2f} ms of it for the text" if text else ""
        print(f"{layers:6} layers  {result:5}  {whole:8.3f} s  {part * 1e3:8.2f} ms  {part / whole:7.3%}{of_text}")
    if programs:
        program = programs[-1]
        took, stall = stall_of(lambda: cache_misses._outline(program))
        _, plain = stall_of(lambda: outline_of(program))
        print(
            f"{'':14}outline of {len(program):,} characters: {took * 1e3:.0f} ms in its thread; longest stall of "
            f"another one {stall * 1e3:.1f} ms (without pauses {plain * 1e3:.1f} ms)"
        )


def main() -> None:
    """Measure each number of layers."""
    for kind, names in OURS.items():
        for name in names:
            setattr(kind, name, timed(getattr(kind, name), spent))
    made = CacheMisses._text

    def text(*args: Any) -> str:
        found = made(*args)
        if found:
            programs.append(found)
        return found

    CacheMisses._text = timed(text, texts)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        for layers in [int(one) for one in sys.argv[1:]] or [1, 50, 300]:
            measure(os.path.join(folder, "index"), layers)


if __name__ == "__main__":
    main()
