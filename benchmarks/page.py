"""Cost of the live page: bytes to load it, CPU time of the job for a poll, and for ten open pages.

An agent watches a real job with many functions, a quarter of which donate. The pages are another process that polls as
a browser does: with gzip, and for changes only. A poll is timed with `process_time`, including the refresh of what is
in progress; for ten pages the time of an equal pause without pages is subtracted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

import jitwatch
from jitwatch.server.routes import ASSETS, read_asset

#: Polls once for each line that it reads, and prints the bytes of each response.
ONE_PAGE = """
import gzip, json, sys, urllib.request
seen = {"revision": 0, "seq": 0, "since": 0}
for _ in sys.stdin:
    query = "&".join(f"{name}={value}" for name, value in seen.items())
    request = urllib.request.Request(f"{sys.argv[1]}/api/v1/live?{query}", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
        found = json.loads(gzip.decompress(body) if answer.headers["Content-Encoding"] else body)
    seen = {"revision": found["revision"], "seq": found["last_seq"], "since": f"{found['time']:.6f}"}
    print(len(body), found["poll_after_seconds"], flush=True)
"""
#: Many pages for some seconds, each polling at the interval that the job requests, and not at the same time.
MANY_PAGES = """
import subprocess, sys, threading, time
url, pages, seconds, program = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
loaded, polls = threading.Barrier(pages + 1), []
def page(number):
    command, pipe = [sys.executable, "-c", program, url], subprocess.PIPE
    one = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    time.sleep(1.7 * number / pages)
    def poll():
        print(file=one.stdin, flush=True)
        time.sleep(float(one.stdout.readline().split()[1]))
    poll()
    loaded.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        poll()
        polls.append(number)
    one.communicate()
threads = [threading.Thread(target=page, args=(number,)) for number in range(pages)]
for thread in threads: thread.start()
loaded.wait()
print(flush=True)
for thread in threads: thread.join()
print(len(polls))
"""


def job(functions: int) -> Callable[[], None]:
    """Compile many functions for two shapes, and return a function that recompiles one of them."""
    scope: dict[str, Callable[[object], object]] = {}
    jitted = []
    for number in range(functions):
        exec(f"def function_{number}(x): return x + {number}", scope)
        donated = {"donate_argnums": 0} if number % 4 == 0 else {}
        jitted.append(jax.jit(scope[f"function_{number}"], **donated))
        for size in (4, 8):
            jitted[-1](jax.numpy.ones(size))
    turn = 0

    def change() -> None:
        nonlocal turn
        turn += 1
        jitted[turn % functions](np.ones(8 + turn, np.float32))

    return change


def line(what: str, figure: str, more: str = "") -> None:
    print(f"{what:<44} {figure:>12} {more}")


def weigh() -> None:
    sizes = {path: len(read_asset(path)[0]) for path in ("/", *ASSETS)}
    line("bytes of the page, uncompressed", f"{sum(sizes.values()):,d}", f"({len(sizes)} requests; at most 150,000)")


def time_polls(url: str, change: Callable[[], None] | None, polls: int) -> None:
    """CPU time of the job for a poll without changes, or with one changed function."""
    agent = jitwatch.agent._agent
    assert agent is not None
    page = subprocess.Popen(
        [sys.executable, "-c", ONE_PAGE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert page.stdin is not None
    assert page.stdout is not None
    costs, sizes = [], []
    for number in range(polls + 2):
        if change is not None:
            change()
        # As if the last refresh were long ago: most polls do not need one.
        agent._live._pulsed_at = float("-inf")
        started = time.process_time()
        print(file=page.stdin, flush=True)
        size = int(page.stdout.readline().split()[0])
        # The thread that responded may still be cleaning up.
        time.sleep(0.01)
        if number == 0:
            line("  the first answer of all", f"{1e3 * (time.process_time() - started):.2f} ms", f"({size:,d} bytes)")
        elif number > 1:
            costs.append(time.process_time() - started)
            sizes.append(size)
    page.communicate()
    low, median, high = statistics.quantiles(costs, n=4)
    what = "a poll, one function changed" if change is not None else "a poll, quiet"
    quartiles = f"(quartiles {1e3 * low:.2f} to {1e3 * high:.2f}; {statistics.median(sizes):,.0f} bytes; at most 2 ms)"
    line(f"{what}, CPU of the job", f"{1e3 * median:.2f} ms", quartiles)


def share_of_many(url: str, pages: int, seconds: float) -> tuple[float, float, int]:
    """CPU share of the job with open pages and in an equal pause before, and the number of polls."""
    cpu, wall = time.process_time(), time.monotonic()
    time.sleep(seconds)
    idle = (time.process_time() - cpu) / (time.monotonic() - wall)
    command = [sys.executable, "-c", MANY_PAGES, url, str(pages), str(seconds), ONE_PAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as many:
        assert many.stdout is not None
        many.stdout.readline()
        cpu, wall = time.process_time(), time.monotonic()
        polls = int(many.stdout.readline())
        return (time.process_time() - cpu) / (time.monotonic() - wall), idle, polls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=100, help="functions of the job (default: 100)")
    parser.add_argument("--polls", type=int, default=60, help="number of timed polls of each kind (default: 60)")
    parser.add_argument("--pages", type=int, default=10, help="number of open pages (default: 10)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds that they are open (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="number of repetitions (default: 5)")
    options = parser.parse_args()
    with jitwatch.install(port=0) as watch:
        assert watch.url is not None
        change = job(options.functions)
        print(f"{options.functions} functions, two compiles each\n")
        weigh()
        time_polls(watch.url, None, options.polls)
        time_polls(watch.url, change, options.polls)
        rounds = [share_of_many(watch.url, options.pages, options.seconds) for _ in range(options.rounds)]
        shares = sorted(100 * (busy - idle) for busy, idle, _ in rounds)
        idle = 100 * statistics.median(idle for _, idle, _ in rounds)
        line(
            f"{options.pages} open pages, {options.seconds:.0f} s, {rounds[0][2]} polls",
            f"{statistics.median(shares):.2f} %",
            f"of a core ({shares[0]:.2f} to {shares[-1]:.2f}), on top of {idle:.2f} % without them (at most 0.5 %)",
        )


if __name__ == "__main__":
    main()
