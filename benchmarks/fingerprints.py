"""What a fingerprint adds to trace, lowering and compile of programs of 1, 50 and 300 layers.

    python benchmarks/fingerprints.py [LAYERS...]

Prints the seconds of JAX's phases and of our part: the hash of the bytes that JAX makes for the key of its persistent
cache, and, with that cache disabled, bytes and hash. Medians of three programs; each has another constant.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from network import model

import jitwatch
from jitwatch.jaxhooks.compile import modules

spent: list[float] = []


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its seconds added to `spent`."""

    def call(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args)
        finally:
            spent.append(time.perf_counter() - started)

    return call


def measure(layers: int, is_enabled: bool) -> None:
    """Print a line for programs of so many layers."""
    jax.config.update("jax_enable_compilation_cache", is_enabled)
    ours, phases = [], []
    for number in range(3):
        step, params, x = model(layers, 1.0 + number / 8 + is_enabled / 16)
        spent.clear()
        with jitwatch.install(port=0, sample_interval_s=3600) as watch:
            step.lower(params, x).compile()
            record = next(one for one in watch.events() if one.get("name") == "step")
        phases.append(sum(record[name] or 0.0 for name in ("trace_s", "lower_s", "compile_s")))
        ours.append(sum(spent))
    whole, part = statistics.median(phases), statistics.median(ours)
    kind = "hash only" if is_enabled else "bytes and hash"
    print(f"{layers:6} layers  {kind:14}  {whole:8.3f} s  {part * 1e3:8.2f} ms  {part / whole:7.3%}")


def main() -> None:
    """Measure each number of layers, with JAX's cache enabled (the default) and disabled."""
    # The whole work of both hooks; what they call of JAX's is JAX's own unless the cache is disabled.
    modules.ModuleHooks.begun = timed(modules.ModuleHooks.begun)
    modules.ModuleHooks.canonicalize_begun = timed(modules.ModuleHooks.canonicalize_begun)
    modules.ModuleHooks.canonicalize_ended = timed(modules.ModuleHooks.canonicalize_ended)
    modules.ModuleHooks.ended = timed(modules.ModuleHooks.ended)
    for layers in [int(one) for one in sys.argv[1:]] or [1, 50, 300]:
        for is_enabled in (True, False):
            measure(layers, is_enabled)


if __name__ == "__main__":
    main()
