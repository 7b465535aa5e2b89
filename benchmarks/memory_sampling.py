"""Cost of memory sampling to a job with many arrays: CPU time, share of all time, longest stall.

A stall is a gap of more than a millisecond between two iterations of a loop that does nothing else, while another
thread counts all live arrays. The loop runs in segments, alternately with and without counting; the load of other
processes is in both.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable

import jax
import numpy as np

import jitwatch
from jitwatch import agent
from jitwatch.jaxhooks.memory import device_memory
from jitwatch.probes import MemoryProbe

GAP_S = 1e-3
LOOKS = 20
SEGMENT_S = 0.5


def make(count: int, kinds: int) -> list[jax.Array]:
    """Many small arrays: outputs of one program in a few shapes, or each put on the device separately."""
    if kinds:
        programs = [jax.jit(lambda n=n: jax.numpy.zeros(n + 1)) for n in range(kinds)]
        return [programs[i % kinds]() for i in range(count)]
    return [jax.device_put(np.zeros(i % 50 + 1, np.float32)) for i in range(count)]


def gaps(seconds: float) -> list[float]:
    """Gaps in a busy loop of this length."""
    found = []
    last = time.perf_counter()
    end = last + seconds
    while last < end:
        now = time.perf_counter()
        if now - last > GAP_S:
            found.append(now - last)
        last = now
    return found


def stalls(look: Callable[[], object] | None) -> list[float]:
    """The longest gap in each of several segments."""
    longest = []
    for _ in range(LOOKS):
        thread = threading.Thread(target=look) if look is not None else None
        if thread is not None:
            thread.start()
        longest.append(max(gaps(SEGMENT_S), default=0.0))
        if thread is not None:
            thread.join()
    return longest


def cpu(look: Callable[[], object]) -> float:
    """Median CPU seconds of this thread."""
    took = []
    for _ in range(LOOKS):
        started = time.thread_time()
        look()
        took.append(time.thread_time() - started)
    return statistics.median(took)


def share(probe: MemoryProbe, hours: float, interval_s: float) -> float:
    """CPU share of a probe that samples every few seconds for hours, on a simulated clock."""
    started = time.thread_time()
    for number in range(int(hours * 3600 / interval_s)):
        probe.sample_at(number * interval_s)
    return (time.thread_time() - started) / (hours * 3600)


def show(name: str, kept: list[jax.Array], probe: MemoryProbe, hours: float) -> None:
    look_s = cpu(device_memory.live_arrays)
    watched, control = stalls(device_memory.live_arrays), stalls(None)
    print(
        f"{name:<34} {len(kept):8,d} {look_s * 1e3:9.1f} ms {share(probe, hours, 5.0):9.3%}"
        f" {statistics.median(watched) * 1e3:8.1f} / {max(watched) * 1e3:5.1f} ms"
        f" {statistics.median(control) * 1e3:8.1f} / {max(control) * 1e3:5.1f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", type=int, default=50_000, help="live arrays (default: 50000)")
    parser.add_argument("--hours", type=float, default=1.0, help="of samples for the share of time (default: 1)")
    options = parser.parse_args()
    with jitwatch.install(port=0, sample_interval_s=3600):
        running = agent._agent
        assert running is not None
        (probe,) = (one for one in running._probes if isinstance(one, MemoryProbe))
        print(f"medians of {LOOKS}; share: CPU time of all samples every 5 s; stalls: median / longest\n")
        print(f"{'':<34} {'arrays':>8} {'a look':>12} {'share':>9} {'with a look':>19} {'without':>19}")
        for name, count, kinds in (
            ("few arrays", 100, 4),
            ("many of a few kinds", options.arrays, 100),
            ("many, each put there for itself", options.arrays, 0),
        ):
            kept = make(count, kinds)
            show(name, kept, type(probe)(probe.context), options.hours)
            del kept


if __name__ == "__main__":
    main()
