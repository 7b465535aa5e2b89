"""Cost of reading the memory of a program: an MLP and its gradient, of 1, 50 and 300 layers.

For each size: the seconds of the compile; the CPU time of the reader in all, of XLA's sizes and FLOPs in it, and of
serializing the program; the longest gap in which another Python thread did not run, the median of several rounds, and
the same without reading; the number of samples that it takes; and what the compiling thread pays: for a program that
waits to be measured, and for the check whether it fits on a device with a limit.

    python -m benchmarks.program_memory
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jitwatch
from jitwatch import agent
from jitwatch.diagnosis.pressure import Use
from jitwatch.jaxhooks.memory.programs import Executables
from jitwatch.model.function import Function
from jitwatch.probes import ProbeContext
from jitwatch.probes.fit import FitCheck
from jitwatch.probes.memory import _PROGRAMS_S

FUNCTION = Function("train.step", "step", "/train.py:1")


def program(layers: int, width: int = 64) -> tuple[Any, float]:
    """A compiled step of so many layers, and the seconds of its compile."""

    def loss(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for one in weights:
            x = jnp.tanh(x @ one)
        return (x**2).sum()

    weights = [jnp.ones((width, width)) for _ in range(layers)]
    lowered = jax.jit(jax.value_and_grad(loss)).lower(weights, jnp.ones((32, width)))
    started = time.perf_counter()
    compiled = lowered.compile()
    return compiled, time.perf_counter() - started


class Beat:
    """A thread that wakes up five thousand times a second; `longest` is its longest gap."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._is_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        time.sleep(0.05)
        self.longest = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ended = True
        self._thread.join()

    def _run(self) -> None:
        last = time.perf_counter()
        while not self._is_ended:
            time.sleep(0.0002)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


def cpu(work: Callable[[], object], rounds: int) -> float:
    """Median CPU seconds of this thread."""
    took = []
    for _ in range(rounds):
        started = time.thread_time()
        work()
        took.append(time.thread_time() - started)
    return statistics.median(took)


def gap(work: Callable[[], object], rounds: int) -> float:
    """Median of the longest gaps while this thread works."""
    found = []
    for _ in range(rounds):
        with Beat() as beat:
            work()
        found.append(beat.longest)
    return statistics.median(found)


def samples(executable: Any, compile_s: float) -> int:
    """Number of samples until the program is read."""
    executables, number = Executables(), 0
    executables.add(FUNCTION, executable, compile_s)
    found: list[Any] = []
    while not found:
        found += executables.measure(_PROGRAMS_S)
        number += 1
    return number


class Subject:
    """A program as JAX's caches have it, and what reads it."""

    def __init__(self, context: ProbeContext, layers: int) -> None:
        compiled, self.compile_s = program(layers)
        self.xla_executable = compiled.runtime_executable()
        self._executables = Executables()
        self._check = FitCheck(context, read=list, has_limits=lambda: True)
        in_use = [Use("cpu:0", 0, 1 << 40)]
        self._check.uses = lambda: in_use  # type: ignore[method-assign]

    def read(self) -> object:
        # A new one: of many programs of one function only the larger ones are read.
        return Executables().measured(FUNCTION, self, self.compile_s)

    def serialize(self) -> bytes:
        found: bytes = self.xla_executable.hlo_modules()[0].as_serialized_hlo_module_proto()
        return found

    def add(self) -> None:
        self._executables.add(FUNCTION, self, self.compile_s)

    def check(self) -> float:
        """Seconds of the compiling thread."""
        started = time.perf_counter()
        self._check.compiled(FUNCTION, self, self.compile_s)
        took = time.perf_counter() - started
        self._check.stop()
        return took

    def figures(self, rounds: int) -> dict[str, float]:
        """Seconds by what they are of."""
        return {
            "compile": self.compile_s,
            "read, in all": cpu(self.read, rounds),
            "of it sizes": cpu(self.xla_executable.get_compiled_memory_stats, rounds),
            "of it FLOPs": cpu(self.xla_executable.cost_analysis, rounds),
            "of it serializing": cpu(self.serialize, rounds),
            "longest gap": gap(self.read, rounds),
            "gap of serializing": gap(self.serialize, rounds),
            "gap of sizes": gap(self.xla_executable.get_compiled_memory_stats, rounds),
            "gap without": gap(lambda: time.sleep(0.05), rounds),
            "compiling thread, waiting program": cpu(self.add, 200),
            "compiling thread, check": statistics.median(self.check() for _ in range(rounds)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 50, 300])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {options.rounds} rounds; milliseconds")
    with jitwatch.install(port=0, sample_interval_s=3600, probes=["compile"]):
        running = agent._agent
        assert running is not None
        context = ProbeContext(running.store, running.emit, running.session)
        for layers in options.layers:
            subject = Subject(context, layers)
            sizes = subject.xla_executable.get_compiled_memory_stats()
            print(
                f"{layers} layers: assignment {len(sizes.serialized_buffer_assignment_proto):,} B, "
                f"program {len(subject.serialize()):,} B, {samples(subject, subject.compile_s)} samples"
            )
            for name, seconds in subject.figures(options.rounds).items():
                print(f"    {name:<34} {seconds * 1e3:10.3f}")


if __name__ == "__main__":
    main()
