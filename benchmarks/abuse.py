"""Cost of misbehaving clients to a job: step time with and without them, scrapes meanwhile, and resources left.

    JAX_PLATFORMS=cpu python -m benchmarks.abuse [--attack NAME …]

An agent watches a job that trains with jitted steps. The clients are another process on 127.0.0.1, which is switched on
and off. Blocks with and without clients are interleaved in pairs. The result is the median of the ratios, of the time
of a step and of the CPU time of the process per step, which depends less on other programs of a shared machine, and the
CPU time of the agent's HTTP threads. A block with clients begins a second after they were switched on: by then the
burst that is answered at once has passed, as in a long flood. A third process scrapes all the time, so that the cost of
scrapes is in both blocks.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jitwatch
from jitwatch import agent_parts
from jitwatch.server.http import Server
from jitwatch.server.limits import Limits

CLIENTS = Path(__file__).with_name("abusers.py")
#: Names of the attacks, and whether each needs an endpoint with TLS.
ATTACKS = {
    "flood-state": False,
    "flood-metrics": False,
    "flood-healthz": False,
    "flood-unknown": False,
    "idle": False,
    "slow": False,
    "garbage": False,
    "pipelined": False,
    "traversal": False,
    "oversized": False,
    "unread": False,
    "reset": False,
    "half-open-tls": True,
    "handshakes": True,
}
_SETTLE_S = 1.0


def certificate(folder: str) -> tuple[str, str]:
    cert, key = f"{folder}/server.crt", f"{folder}/server.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    options = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *options, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def job(functions: int, size: int) -> Callable[[], None]:
    """Compile many functions, and return a training step."""
    scope: dict[str, Any] = {}
    for number in range(functions):
        exec(f"def function_{number}(x): return x + {number}", scope)
        jitted = jax.jit(scope[f"function_{number}"])
        for length in (4, 8):
            jitted(np.ones(length, np.float32))

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: Any, batch: Any) -> Any:
        def loss(weights: Any) -> Any:
            return jnp.mean((jnp.tanh(batch @ weights) - 0.5) ** 2)

        return state - 0.01 * jax.grad(loss)(state)

    state, batch = jnp.ones((size, size)), jnp.ones((size, size))

    def step() -> None:
        nonlocal state
        state = train_step(state, batch)
        state.block_until_ready()

    return step


class Clients:
    """A process with clients that can be switched on and off."""

    def __init__(self, attack: str, url: str) -> None:
        command = [sys.executable, str(CLIENTS), attack, url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def switch(self, is_on: bool) -> dict[str, int]:
        assert self._process.stdin is not None
        print("on" if is_on else "off", file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        found: dict[str, int] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> dict[str, int]:
        answer = self.switch(False)
        self._process.communicate()
        return answer


class Resources:
    """Resources of the process: resident memory, threads, descriptors."""

    def __init__(self) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.bytes = pages * os.sysconf("SC_PAGESIZE")
        self.threads = len(os.listdir("/proc/self/task"))
        self.descriptors = len(os.listdir("/proc/self/fd"))


def cpu_of_agent() -> float:
    """CPU seconds of the agent's threads."""
    found = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith("jitwatch-http"):
            found += int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9
    return found


def block(step: Callable[[], None], seconds: float) -> tuple[float, float, float]:
    """Train for some seconds. Return seconds and CPU seconds per step, and CPU seconds of the agent per second."""
    steps, agent, process, started = 0, cpu_of_agent(), time.process_time(), time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        step()
        steps += 1
    return took / steps, (time.process_time() - process) / steps, (cpu_of_agent() - agent) / took


def train_for(step: Callable[[], None], seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        step()


def measure(attack: str, step: Callable[[], None], url: str, options: argparse.Namespace) -> None:
    train_for(step, _SETTLE_S)
    before = Resources()
    scraper, clients = Clients("scrape", url), Clients(attack, url)
    scraper.switch(True)
    train_for(step, _SETTLE_S)
    pairs, made = [], 0
    for _ in range(options.rounds):
        quiet = block(step, options.seconds)
        made -= clients.switch(True)["made"]
        train_for(step, _SETTLE_S)
        busy = block(step, options.seconds)
        made += clients.switch(False)["made"]
        pairs.append((quiet, busy))
        train_for(step, 0.2)
    seen, scraped = clients.end(), scraper.end()
    train_for(step, options.leave)
    after = Resources()
    ratios = [spread([100 * (busy[at] / quiet[at] - 1) for quiet, busy in pairs]) for at in (0, 1)]
    shares = [100 * statistics.median(pair[at][2] for pair in pairs) for at in (0, 1)]
    per_second = made / options.rounds / (options.seconds + _SETTLE_S)
    print(
        f"{attack:<14}{ratios[0]:<28}{ratios[1]:<28}{shares[1]:.2f} % ({shares[0]:.2f})"
        f"  {per_second:>6.0f}/s, {seen['answered']:,d} answered, {seen['refused']:,d} refused"
        f"  {scraped['answered']} of {scraped['made']}, {scraped['slowest_ms'] / 1e3:.1f} s"
        f"  {(after.bytes - before.bytes) / 2**20:+.1f} MB, {after.threads - before.threads:+d} threads,"
        f" {after.descriptors - before.descriptors:+d} descriptors",
        flush=True,
    )


def spread(percent: list[float]) -> str:
    low, middle, high = statistics.quantiles(percent, n=4)
    return f"{middle:+.2f} % ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="run only this attack; may be repeated")
    parser.add_argument("--functions", type=int, default=100, help="number of functions of the job (default: 100)")
    parser.add_argument("--size", type=int, default=256, help="rows of the weights (default: 256; 8 is all overhead)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a block (default: 3)")
    parser.add_argument("--rounds", type=int, default=8, help="pairs of blocks (default: 8)")
    parser.add_argument(
        "--leave", type=float, default=7.0, help="seconds to wait for all connections to be dropped (default: 7)"
    )
    parser.add_argument("--unlimited", action="store_true", help="disable the limits, to show their effect")
    options = parser.parse_args()
    if options.unlimited:
        unlimited = Limits(api_share=1000.0, metrics_share=1000.0, loop_share=1000.0, loop_share_tls=1000.0)
        agent_parts.Server = functools.partial(Server, limits=unlimited)  # type: ignore[assignment,misc]
    step = job(options.functions, options.size)
    train_for(step, 1.0)
    print(f"{options.functions} functions, a step of {1e3 * block(step, 1.0)[0]:.2f} ms without the agent\n")
    print("Time of a step, and CPU time for one, with the clients against without (quartiles); CPU of the agent's HTTP")
    print("threads with and (without) them, of a core; connections; scrapes answered, the slowest; what is left.\n")
    chosen = options.attack or list(ATTACKS)
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(folder)
        for is_tls in (False, True):
            attacks = [name for name in chosen if ATTACKS[name] == is_tls]
            if not attacks:
                continue
            with jitwatch.install(port=0, **({"tls_cert": cert, "tls_key": key} if is_tls else {})) as watch:
                assert watch.url is not None
                step = job(options.functions, options.size)
                train_for(step, 2.0)
                for attack in attacks:
                    measure(attack, step, watch.url, options)


if __name__ == "__main__":
    main()
