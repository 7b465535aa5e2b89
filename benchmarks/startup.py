"""Cost of the agent once per process: imports, `install()`, memory. Each figure comes from fresh interpreters."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

from figures import Figure, Spread, dump

IMPORT = """
import json, time
started = time.perf_counter()
import jitwatch
print(json.dumps({"seconds": time.perf_counter() - started}))
"""

INSTALL = """
import json, time
import jax, jitwatch
started = time.perf_counter()
jitwatch.install(port=0)
print(json.dumps({"seconds": time.perf_counter() - started}))
"""

INSTALL_WITH_LOG = INSTALL.replace("port=0", "port=0, event_log=log").replace(
    "import json, time", "import json, os, tempfile, time\nlog = tempfile.mkdtemp() + os.sep"
)

MEMORY = """
import gc, json, urllib.request
import jax, psutil
jax.jit(lambda x: x + 1)(1.0)
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
process = psutil.Process()
gc.collect()
before = process.memory_info().rss
import jitwatch
watch = jitwatch.install(port=0)
direct.open(watch.url + "/metrics", timeout=30).read()
gc.collect()
print(json.dumps({"bytes": process.memory_info().rss - before}))
"""

EVENTS = """
import gc, json, sys, time
import psutil
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.state.store import Store
count = int(sys.argv[1])
functions = [Function(f"job.module.function_{n}", f"function_{n}", f"/srv/job/module.py:{n}") for n in range(500)]
store = Store()
process = psutil.Process()
gc.collect()
before, started = process.memory_info().rss, time.perf_counter()
for n in range(count):
    store.apply(
        Compiled(
            function=functions[n % len(functions)],
            trace_s=0.001 * n, lower_s=0.002 * n, compile_s=0.05 * n, cache_entries=n, thread="MainThread",
        )
    )
took = time.perf_counter() - started
gc.collect()
print(json.dumps({"bytes": process.memory_info().rss - before, "seconds": took / count}))
"""


#: A job's environment: gevent and eventlet, if they are installed, make `install()` import all at once.
WITHOUT_GEVENT = "import sys; sys.modules['gevent'] = sys.modules['eventlet'] = None\n"


def figures(times: int) -> list[Figure]:
    """The rows of the speed table."""
    found = []
    for name, program in (
        ("`import jitwatch`", IMPORT),
        ("`install()`, jax imported", WITHOUT_GEVENT + INSTALL),
        ("`install()` where gevent is installed", INSTALL),
    ):
        fresh(program)
        agent = Spread.of([fresh(program)["seconds"] for _ in range(times)], 1e3)
        goal = "≤ 20 ms" if "where" not in name else ""
        found.append(Figure(name, goal, "ms", agent, None, f"wall clock, {times} fresh interpreters, with bytecode"))
    memory = Spread.of([fresh(MEMORY)["bytes"] for _ in range(times)], 1e-6)
    name = "memory after import, `install()` and a scrape"
    found.append(Figure(name, "", "MB", memory, None, f"resident memory, {times} fresh interpreters"))
    return found


def fresh(program: str, *arguments: str) -> dict[str, float]:
    """Run a program in a new interpreter, and return what it prints."""
    # With bytecode: compiling the source would take longer than what is measured.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=environment,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def row(what: str, values: list[float], unit: str, scale: float) -> None:
    low, middle, high = (value * scale for value in statistics.quantiles(values, n=4))
    print(f"{what:<44} {middle:9.2f} {unit:<3} ({low:.2f} to {high:.2f}, n={len(values)})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=9, help="interpreters for each time (default: 9)")
    parser.add_argument("--memory", type=int, default=7, help="interpreters for each amount of memory (default: 7)")
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    options = parser.parse_args()
    if options.figures:
        print(dump(figures(options.times)))
        return
    fresh(IMPORT)  # writes the .pyc files, which no figure should include

    print(f"{'median (quartiles)':>58}")
    for what, program in (
        ("import jitwatch", IMPORT),
        ("install(port=0), jax imported", INSTALL),
        ("install(port=0, event_log=…), jax imported", INSTALL_WITH_LOG),
    ):
        row(what, [fresh(program)["seconds"] for _ in range(options.times)], "ms", 1e3)
    row("memory: import, install, one scrape", [fresh(MEMORY)["bytes"] for _ in range(options.memory)], "MB", 1e-6)
    for count in (20_000, 100_000):
        results = [fresh(EVENTS, str(count)) for _ in range(options.memory)]
        row(f"memory: {count:,} compiles of 500 functions", [one["bytes"] for one in results], "MB", 1e-6)
        row("  time for each of them", [one["seconds"] for one in results], "µs", 1e6)


if __name__ == "__main__":
    main()
