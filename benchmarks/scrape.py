"""Cost of a scrape: CPU time and size of a response, and stalls of a busy Python thread.

A stall is a gap of more than a millisecond between two iterations of a loop that does nothing else. The loop runs in
segments, alternately with and without another process that scrapes over HTTP; that process exists in both, so the
difference is due to scraping.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
from figures import Figure, Spread, dump

import jitwatch
from jitwatch.server.http import Request
from jitwatch.server.routes import Routes

FUNCTIONS = 100
RENDERS = 50
GAP_S = 1e-3
OPENMETRICS = "application/openmetrics-text;version=1.0.0"

#: Scrapes at a given interval between lines 'on' and 'off' on stdin, and prints the number of scrapes.
SCRAPER = """
import select, sys, time, urllib.request
url, interval = sys.argv[1], float(sys.argv[2])
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print("ready", flush=True)
for line in sys.stdin:
    is_on, count, due = line == "on\\n", 0, time.monotonic()
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        due += interval
        if is_on:
            direct.open(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"}), timeout=30).read()
            count += 1
    sys.stdin.readline()
    print(count, flush=True)
"""


def compile_functions() -> None:
    """Compile many user functions once each."""
    scope: dict[str, Callable[[float], object]] = {}
    for number in range(FUNCTIONS):
        exec(f"def function_{number}(x): return x + {number}", scope)
        jax.jit(scope[f"function_{number}"])(1.0)


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


def cost_of(
    routes: Routes, path: str, accept: str, encoding: str, *, renders: int = RENDERS
) -> tuple[list[float], int]:
    """CPU seconds of the process for each of several responses, and their size in bytes."""
    request = Request("GET", path, {}, {"accept": accept, "accept-encoding": encoding})
    took, size = [], 0
    for _ in range(renders):
        started = time.process_time()
        size = len(routes(request).body)
        took.append(time.process_time() - started)
    return took, size


def stalls(url: str, interval_s: float, total_s: float, segments: int) -> dict[str, tuple[list[float], int]]:
    """Gaps and scrapes with and without scraping."""
    results: dict[str, tuple[list[float], int]] = {}
    with subprocess.Popen(
        [sys.executable, "-c", SCRAPER, url, str(interval_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as scraper:
        assert scraper.stdin is not None
        assert scraper.stdout is not None
        scraper.stdout.readline()
        for _ in range(segments):
            for name, word in (("control", "rest"), ("scraped", "on")):
                print(word, file=scraper.stdin, flush=True)
                found = gaps(total_s / segments)
                print("off", file=scraper.stdin, flush=True)
                before, count = results.get(name, ([], 0))
                results[name] = (before + found, count + int(scraper.stdout.readline()))
        scraper.stdin.close()
    return results


def figures(seconds: float, interval_s: float, segments: int) -> list[Figure]:
    """The rows of the speed table."""
    with jitwatch.install(port=0) as watch:
        compile_functions()
        agent = jitwatch.agent._agent
        assert agent is not None
        routes = Routes(agent._answers)
        cost_of(routes, "/metrics", "text/plain", "gzip", renders=2)
        costs, size = cost_of(routes, "/metrics", "text/plain", "gzip")
        found = stalls(f"{watch.url}/metrics", interval_s, seconds, segments)
    longest = {name: Spread(*[max(times, default=0.0) * 1e3] * 3) for name, (times, _) in found.items()}
    how = f"{seconds:.0f} s of a busy loop, scraped every {interval_s} s; control: the same, not scraped"
    name = f"scrape at {FUNCTIONS} functions"
    return [
        Figure(
            name, "≤ 2 ms", "ms", Spread.of(costs, 1e3), None, f"CPU time, {RENDERS} responses, {size:,} bytes gzip"
        ),
        Figure(f"{name}, longest stall", "≤ 1 ms", "ms", longest["scraped"], longest["control"], how),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of busy loop for each variant (default: 10)")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between scrapes (default: 0.2)")
    parser.add_argument("--segments", type=int, default=5, help="parts of the time, in turn (default: 5)")
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    options = parser.parse_args()
    if options.figures:
        print(dump(figures(options.seconds, options.interval, options.segments)))
        return
    with jitwatch.install(port=0) as watch:
        compile_functions()
        agent = jitwatch.agent._agent
        assert agent is not None
        routes = Routes(agent._answers)
        print(f"{FUNCTIONS} functions; CPU time of an answer, median of {RENDERS}\n")
        for what, path, accept, encoding in (
            ("/metrics, text", "/metrics", "text/plain", ""),
            ("/metrics, text, gzip", "/metrics", "text/plain", "gzip"),
            ("/metrics, OpenMetrics", "/metrics", OPENMETRICS, ""),
            ("/metrics, OpenMetrics, gzip", "/metrics", OPENMETRICS, "gzip"),
            ("/api/v1/state", "/api/v1/state", "", ""),
        ):
            costs, size = cost_of(routes, path, accept, encoding)
            print(f"{what:<30} {statistics.median(costs) * 1e3:7.2f} ms {size:8,d} bytes", flush=True)

        print(f"\nbusy loop of {options.seconds:.0f} s each, scraped every {options.interval} s; gaps above 1 ms\n")
        print(f"{'':<10} {'scrapes':>8} {'gaps':>6} {'longest':>10} {'median':>10} {'sum':>11}")
        found = stalls(f"{watch.url}/metrics", options.interval, options.seconds, options.segments)
        for name, (times, count) in found.items():
            longest, middle = max(times, default=0.0), statistics.median(times or [0.0])
            print(
                f"{name:<10} {count:8d} {len(times):6d} {longest * 1e3:7.2f} ms {middle * 1e3:7.2f} ms "
                f"{sum(times) * 1e3:8.1f} ms"
            )


if __name__ == "__main__":
    main()
