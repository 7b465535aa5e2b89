"""Cost of a cached call between fresh processes, and where their differences come from.

A process that is started again has another memory layout, other hashes of strings, and other neighbours on the machine;
a cached call differs by some per cent between two bare processes. So each round starts one process for each variant, in
random order, and compares them; the control compares two bare ones. Each process warms up, and reports the median of
several blocks of calls by the CPU time of its thread.

The options remove one source of differences at a time: `--no-aslr` the random memory layout (with `setarch -R`),
`--hash-seed` the random hashes, `--no-sampler` the thread that samples (its first round is after the measurement).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from figures import Figure, Spread, dump

VARIANTS = ("bare", "agent", "control")
#: Measures the calls of a case, and prints the microseconds of one.
CHILD = """
import gc, json, statistics, sys, time
sys.path.insert(0, {folder!r})
import cached_call
import jax
function, options, repeat = cached_call.CASES[{case!r}]
if {is_agent}:
    import jitwatch
    jitwatch.install(port=0, **{install})
calls = repeat(jax.jit(function, **options))
calls(50)
n = cached_call.calibrate(calls)
gc.collect()
time.sleep({wait_s})
print(statistics.median(cached_call.seconds(calls, n) for _ in range({blocks})) / n * 1e6)
"""


def run(case: str, variant: str, *, aslr: bool, sampler: bool, hash_seed: str | None, blocks: int) -> float:
    """Microseconds of a call in a fresh process."""
    program = CHILD.format(
        folder=str(Path(__file__).parent),
        case=case,
        is_agent=variant == "agent",
        install={} if sampler else {"sample_interval_s": 3600.0},
        # The first round of the sampler is half a second after install().
        wait_s=1.0 if sampler or variant != "agent" else 0.0,
        blocks=blocks,
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONHASHSEED"] = hash_seed or "random"
    before = [] if aslr else [shutil.which("setarch") or "setarch", platform.machine(), "-R"]
    done = subprocess.run(
        [*before, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=environment,
    )
    return float(done.stdout)


def measure(
    case: str, rounds: int, *, aslr: bool = True, sampler: bool = True, hash_seed: str | None = None, blocks: int = 9
) -> list[dict[str, float]]:
    """Microseconds of a call by variant, in each round."""
    results = []
    for _ in range(rounds):
        order = random.sample(VARIANTS, len(VARIANTS))
        results.append(
            {one: run(case, one, aslr=aslr, sampler=sampler, hash_seed=hash_seed, blocks=blocks) for one in order}
        )
    return results


def spreads(results: list[dict[str, float]]) -> dict[str, Spread]:
    """The ratios of the agent and of the control to bare, pair by pair."""
    return {name: Spread.of([one[name] / one["bare"] for one in results]) for name in ("agent", "control")}


def figures(rounds: int) -> list[Figure]:
    """The rows of the speed table."""
    import cached_call

    found = []
    for case in ("tiny", f"{cached_call.LEAVES} leaves"):
        ratio = spreads(measure(case, rounds))
        how = f"thread CPU time, {rounds} rounds of three fresh processes"
        name = f"cached call, {case}, fresh processes"
        found.append(Figure(name, "≤ 1.000 within noise", "×", ratio["agent"], ratio["control"], how))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="processes of each variant (default: 12)")
    parser.add_argument("--case", default="200 leaves", help="a case of cached_call.py (default: 200 leaves)")
    parser.add_argument("--no-aslr", action="store_true", help="run the processes with the same memory layout")
    parser.add_argument("--no-sampler", action="store_true", help="measure before the sampler's first round")
    parser.add_argument("--hash-seed", help="a fixed PYTHONHASHSEED")
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    options = parser.parse_args()
    if options.figures:
        print(dump(figures(options.rounds)))
        return
    results = measure(
        options.case,
        options.rounds,
        aslr=not options.no_aslr,
        sampler=not options.no_sampler,
        hash_seed=options.hash_seed,
    )
    for name in VARIANTS:
        values = [one[name] for one in results]
        spread = statistics.stdev(values) / statistics.mean(values)
        print(f"{name:<8} {statistics.median(values):8.2f} µs a call, standard deviation {spread:.2%}")
    for name, ratio in spreads(results).items():
        print(f"{name + '/bare':<13} {ratio.text('×')}")


if __name__ == "__main__":
    main()
