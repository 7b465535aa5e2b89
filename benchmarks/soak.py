"""Growth of a long job with and without the agent, in a short time.

    JAX_PLATFORMS=cpu python benchmarks/soak.py                  # some hours: 20,000 compiles take long
    JAX_PLATFORMS=cpu python benchmarks/soak.py --scale 0.01     # a short trial
    JAX_PLATFORMS=cpu python benchmarks/soak.py --only compiles

Each part runs in a process of its own, bare and with an agent that writes an event log. After each fifth of the work it
collects garbage and reads its resident memory, Python objects, threads and descriptors, and the size of the log.
Bounded structures are filled first, so that later growth is unbounded growth: an agent gets as many events as it keeps,
and the first fifth fills the rest. The growth from there to the end is compared. The exit code is 1 if an agent adds
more to the growth than the bounds below.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

READINGS = 5
#: What an agent may add to the growth in the last four fifths.
MAX_RSS_MIB = 16.0
MAX_OBJECTS = 5_000  # of one function or line 4,096 signatures are remembered
MAX_LOG_MIB = 320.0
DAY_S = 86_400


class Part(NamedTuple):
    """A kind of work.

    Attributes:
        count: How often it is repeated.
        make: Returns a function that does it for a range of numbers.
        needs_agent: Whether it exists only with an agent.
        max_rss_mib: What an agent may add to the growth of resident memory.
    """

    count: int
    make: Callable[[], Callable[[range], None]]
    needs_agent: bool = False
    max_rss_mib: float = MAX_RSS_MIB


def cached_calls() -> Callable[[range], None]:
    import jax

    step = jax.jit(lambda x: x + 1)
    x = jax.numpy.ones(8)

    def work(numbers: range) -> None:
        for _ in numbers:
            step(x)

    return work


def donating_calls() -> Callable[[range], None]:
    import jax

    step = jax.jit(lambda state: {name: leaf + 1 for name, leaf in state.items()}, donate_argnums=0)
    state = {name: jax.numpy.ones(8) for name in "abcd"}

    def work(numbers: range) -> None:
        nonlocal state
        for _ in numbers:
            state = step(state)

    return work


def compiles() -> Callable[[range], None]:
    """Compiles of one function for new shapes; JAX's caches are cleared from time to time, since they grow as well."""
    import jax
    import numpy

    step = jax.jit(lambda x: x + 1)

    def work(numbers: range) -> None:
        for number in numbers:
            if number % 500 == 0:
                jax.clear_caches()
            step(numpy.ones((1 + number % 5_000, 1 + number // 5_000), numpy.float32))
        jax.clear_caches()

    return work


def functions() -> Callable[[range], None]:
    """Functions that are created, jitted, called and dropped; every other one donates."""
    import jax
    import numpy

    one = numpy.float32(1)

    def make(number: int) -> Callable[..., Any]:
        options = {"donate_argnums": 0} if number % 2 else {}
        return jax.jit(lambda x: x + number % 7, **options)

    def work(numbers: range) -> None:
        for number in numbers:
            if number % 500 == 0:
                jax.clear_caches()
            make(number)(one)
        jax.clear_caches()

    return work


def many_functions() -> list[Any]:
    from jitwatch.model.function import Function

    return [Function(f"job.module.function_{n}", f"function_{n}", f"/srv/job/module.py:{n}") for n in range(5_000)]


def compiled(function: Any, number: int) -> Any:
    """The event of a recompile at one of a thousand call sites."""
    from jitwatch.model.events import Compiled
    from jitwatch.model.function import Change

    return Compiled(
        causes=("shape",),
        changes=(Change("x", "shape", f"float32[{number}]", f"float32[{number + 1}]"),),
        function=function,
        call_site=f"/srv/job/train.py:{number % 977}",
        trace_s=0.001,
        lower_s=0.002,
        compile_s=0.05,
        cache_entries=number % 100,
        thread="MainThread",
    )


def fill() -> None:
    """Give the agent as many events as it keeps."""
    from jitwatch import agent as agents
    from jitwatch.state.store import USER_RING

    assert agents._agent is not None
    function = many_functions()[0]
    for number in range(USER_RING):
        agents._agent.emit(compiled(function, number))


def day() -> Callable[[range], None]:
    """Five events per second for 24 hours of a simulated clock: compiles of 5,000 functions, steps, violations."""
    import jitwatch
    from jitwatch import agent as agents
    from jitwatch.model.events import DonationViolation

    agent = agents._agent
    assert agent is not None
    now = time.time()

    def clock() -> float:
        return now

    for part in (agent.store, agent._diagnosis, agent._log):
        part._clock = clock  # type: ignore[union-attr]
    many = many_functions()

    def work(numbers: range) -> None:
        nonlocal now
        for number in numbers:
            now += 0.2
            function = many[(number * 31) % len(many)]
            if number % 50 == 0:
                jitwatch.step()
                agent._tick()
            if number % 75 == 0:
                agent.snapshot()
            if number % 10 == 9:
                agent.emit(
                    DonationViolation(
                        violation="use_after_donate",
                        function=function,
                        call_site=f"/srv/job/train.py:{number % 977}",
                        leaf=f"state['layer_{number % 400}']",
                        shape=(8, 8),
                        dtype="float32",
                        bytes=256,
                        donated_by=function.label,
                    )
                )
                continue
            agent.emit(compiled(function, number))

    return work


PARTS = {
    "cached calls": Part(1_000_000, cached_calls),
    "donating calls": Part(1_000_000, donating_calls),
    # Dominated by XLA's memory: two bare runs of 4,000 compiles grew by 65 and 99 MiB, two with an agent by 8 and 9.
    "compiles": Part(20_000, compiles, max_rss_mib=128.0),
    "functions made and dropped": Part(10_000, functions),
    "24 h of events": Part(5 * DAY_S, day, needs_agent=True),
}


def reading(log: Path) -> dict[str, float]:
    """Current resources of this process."""
    import psutil

    gc.collect()
    process = psutil.Process()
    return {
        "rss_mib": process.memory_info().rss / 2**20,
        "objects": len(gc.get_objects()),
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
        "log_mib": sum(path.stat().st_size for path in log.glob("*")) / 2**20,
    }


def child(name: str, scale: float, *, with_agent: bool) -> None:
    """Run one part in this process, and print a reading after each fifth."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    part = PARTS[name]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if with_agent:
            import jitwatch

            stack.enter_context(jitwatch.install(port=0, event_log=folder + os.sep))
            fill()
        work = part.make()
        count = max(READINGS, int(part.count * scale))
        for fifth in range(READINGS):
            work(range(count * fifth // READINGS, count * (fifth + 1) // READINGS))
            print(json.dumps(reading(Path(folder))), flush=True)


def readings(name: str, scale: float, *, with_agent: bool) -> Iterator[dict[str, float]]:
    arguments = [sys.executable, "-W", "ignore", __file__, "--child", name, "--scale", str(scale)]
    done = subprocess.run([*arguments, *(["--agent"] if with_agent else [])], stdout=subprocess.PIPE, check=True)
    for line in done.stdout.splitlines():
        yield json.loads(line)


def growth(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: found[-1][key] - found[0][key] for key in found[0]}


def compare(name: str, part: Part, scale: float) -> list[str]:
    """Print the growth of a part, bare and with an agent, and return the exceeded bounds."""
    started = time.monotonic()
    watched = list(readings(name, scale, with_agent=True))
    bare = watched[:1] * READINGS if part.needs_agent else list(readings(name, scale, with_agent=False))
    with_agent, without = growth(watched), growth(bare)
    added = {key: with_agent[key] - without[key] for key in with_agent}
    last = watched[-1]
    columns = [
        f"{with_agent['rss_mib']:+.1f} / " + ("-" if part.needs_agent else f"{without['rss_mib']:+.1f}"),
        f"{with_agent['objects']:+.0f} / " + ("-" if part.needs_agent else f"{without['objects']:+.0f}"),
        f"{with_agent['threads']:+.0f}",
        f"{with_agent['descriptors']:+.0f}",
        f"{last['log_mib']:.1f}",
    ]
    print(
        f"| {int(part.count * scale):,} {name} | {' | '.join(columns)} | {time.monotonic() - started:.0f} |", flush=True
    )
    bounds = {"rss_mib": part.max_rss_mib, "objects": MAX_OBJECTS, "threads": 0, "descriptors": 0}
    exceeded = [
        f"{name}: {key} {added[key]:+.1f}, bound {bound:+}" for key, bound in bounds.items() if added[key] > bound
    ]
    if last["log_mib"] > MAX_LOG_MIB:
        exceeded.append(f"{name}: event log {last['log_mib']:.0f} MiB, bound {MAX_LOG_MIB:.0f}")
    return exceeded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the work to do (default: 1)")
    parser.add_argument("--only", choices=PARTS, action="append", help="run only this part; may be repeated")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--agent", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.scale, with_agent=options.agent)
        return 0
    print(
        "| work | memory, MiB: with agent / bare | objects: with agent / bare | threads | descriptors | log, MiB | s |"
    )
    print("|---|---|---|---|---|---|---|")
    exceeded = [line for name in options.only or PARTS for line in compare(name, PARTS[name], options.scale)]
    for line in exceeded:
        print(f"exceeded: {line}")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
