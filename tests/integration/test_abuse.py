"""Clients that misbehave while a job trains: scrapes go on, and afterwards everything is as it was.

The clients are those of `python -m benchmarks.abuse`, which also says what they cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.checkout import ROOT
from tests.integration.conftest import Job, running_job, stop
from tests.serving import certificate
from tests.waiting import wait_until

CLIENTS = ROOT / "benchmarks" / "abusers.py"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

#: Trains until it is told to end; a line on stdin is answered with what the process holds. Arguments: options.
TRAINS = """
import functools, gc, json, os, sys, threading
import jitwatch
watch = jitwatch.install(port=0, sample_interval_s=0.5, **json.loads(sys.argv[1]))
import jax
import jax.numpy as jnp
import numpy as np

@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, batch):
    return state - 0.01 * jax.grad(lambda weights: jnp.mean((batch @ weights) ** 2))(state)

for number in range(20):
    scope = {}
    exec(f"def function_{number}(x): return x + {number}", scope)
    jitted = jax.jit(scope[f"function_{number}"])
    for length in (4, 8):
        jitted(np.ones(length, np.float32))

state, batch, steps = jnp.ones((64, 64)), jnp.ones((64, 64)), 0
asked, ended = threading.Event(), threading.Event()

def listen():
    for _ in sys.stdin:
        asked.set()
    ended.set()

threading.Thread(target=listen, daemon=True).start()
print(json.dumps({"url": watch.url}), flush=True)
while not ended.is_set():
    state = train_step(state, batch)
    state.block_until_ready()
    steps += 1
    if asked.is_set():
        asked.clear()
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        errors = watch.snapshot()["metrics"].get("jitwatch_agent_errors_total", [])
        print(json.dumps({
            "steps": steps,
            "finite": bool(np.isfinite(np.asarray(state)).all()),
            "mb": pages * os.sysconf("SC_PAGESIZE") / 2**20,
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "errors": errors,
        }), flush=True)
"""


class Clients:
    """A process of clients that can be switched on and off."""

    def __init__(self, attack: str, url: str) -> None:
        command = [sys.executable, str(CLIENTS), attack, url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def switch(self, is_on: bool) -> dict[str, int]:
        assert self.process.stdin is not None
        print("on" if is_on else "off", file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, int]:
        assert self.process.stdout is not None
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found


@pytest.fixture
def clients() -> Iterator[Callable[[str, str], Clients]]:
    started: list[Clients] = []

    def start(attack: str, url: str) -> Clients:
        started.append(Clients(attack, url))
        return started[-1]

    yield start
    for one in started:
        stop(one.process)


def held(job: Job) -> dict[str, Any]:
    job.tell()
    return job.line()


def settled(job: Job, before: dict[str, Any]) -> Callable[[], bool]:
    """Whether the job holds no more threads and descriptors than before."""

    def is_settled() -> bool:
        now = held(job)
        return now["threads"] == before["threads"] and now["descriptors"] <= before["descriptors"]

    return is_settled


PLAIN = ["flood-state", "flood-metrics", "flood-unknown", "idle", "slow", "garbage", "pipelined", "traversal"]
PLAIN += ["oversized", "unread", "reset"]


@pytest.mark.parametrize(("is_tls", "attacks"), [(False, PLAIN), (True, ["half-open-tls", "handshakes", "garbage"])])
def test_scrapes_go_on_and_nothing_is_left(tmp_path, clients, is_tls, attacks):
    """Under each attack the exposition is answered and the job trains; threads and descriptors come back."""
    options = dict(zip(("tls_cert", "tls_key"), certificate(tmp_path, "server"), strict=True)) if is_tls else {}
    with running_job(tmp_path / "job.py", TRAINS, arguments=[json.dumps(options)]) as job:
        url = job.line()["url"]
        scraper = clients("scrape", url)
        scraper.switch(True)
        wait_until(lambda: scraper.switch(True)["answered"] >= 2, what="a scrape")
        scraper.switch(False)
        # Until the first clients have gone and the sampler has done all that it does for the first time.
        wait_until(lambda: "jitwatch-http-2" not in held(job)["threads"], what="one worker")
        before = held(job)
        for attack in attacks:
            attackers = clients(attack, url)
            attackers.switch(True)
            wait_until(lambda attackers=attackers: attackers.switch(True)["made"] >= 8, what=attack)
            seen = scraper.switch(True)["answered"]
            steps = held(job)["steps"]
            wait_until(
                lambda seen=seen: scraper.switch(True)["answered"] > seen, timeout_s=90, what=f"{attack}: scrape"
            )
            wait_until(lambda steps=steps: held(job)["steps"] > steps, what=f"{attack}: a step")
            assert 0 == attackers.switch(False)["leaked"]
            scraper.switch(False)
            stop(attackers.process)
        wait_until(settled(job, before), timeout_s=90, what="everything being dropped")
        after = held(job)
        assert after["finite"]
        assert [] == after["errors"]
        # Buffers and caches of a first time; a leak of a connection's buffers would be more.
        assert after["mb"] - before["mb"] < 64
        assert 0 == job.end()


def test_ten_pages_and_a_terminal_view_are_never_refused(tmp_path):
    """A page asks again when the job says, and the view every two seconds, for longer than the burst lasts."""
    with running_job(tmp_path / "job.py", TRAINS, arguments=["{}"]) as job:
        url, until = job.line()["url"], time.monotonic() + 12
        pause = threading.Event()  # never set
        statuses: list[tuple[str, int]] = []

        def ask(path: str) -> dict[str, Any]:
            try:
                with DIRECT.open(f"{url}{path}", timeout=30) as answer:
                    statuses.append((path.partition("?")[0], answer.status))
                    text = answer.read()
                    return json.loads(text) if path.startswith("/api") else {}
            except urllib.error.HTTPError as error:
                statuses.append((path.partition("?")[0], error.code))
                error.close()
                return {}

        def page() -> None:
            for path in ("/", "/page/main.js", "/page/api.js", "/page/parts.js", "/page/page.css", "/page/charts.js"):
                ask(path)
            seen = {"revision": 0, "seq": 0, "since": 0.0}
            while time.monotonic() < until:
                found = ask("/api/v1/live?" + "&".join(f"{name}={value}" for name, value in seen.items()))
                if found:
                    seen = {"revision": found["revision"], "seq": found["last_seq"], "since": f"{found['time']:.6f}"}
                pause.wait(found.get("poll_after_seconds", 1.7))

        def view() -> None:
            while time.monotonic() < until:
                ask("/api/v1/state?metrics=jitwatch_oom_total")
                pause.wait(2.0)

        threads = [threading.Thread(target=page) for _ in range(10)] + [threading.Thread(target=view)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {200} == {status for _, status in statuses}
        assert {"/api/v1/live", "/api/v1/state"} <= {path for path, _ in statuses}
        assert 0 == job.end()


def test_flood_of_the_state_is_answered_429_and_the_rest_goes_on(tmp_path, clients):
    """Once the burst is used up: with the seconds after which to come back; scrapes and health are answered."""
    with running_job(tmp_path / "job.py", TRAINS, arguments=["{}"]) as job:
        url = job.line()["url"]
        flood = clients("flood-state", url)
        flood.switch(True)
        wait_until(lambda: flood.switch(True)["refused"] > 8, timeout_s=90, what="a refusal")
        with pytest.raises(urllib.error.HTTPError) as caught:
            for _ in range(20):
                DIRECT.open(f"{url}/api/v1/state", timeout=30).read()
        with caught.value as refused:
            assert 429 == refused.code
            assert int(refused.headers["Retry-After"]) >= 1
        for path in ("/metrics", "/healthz"):
            with DIRECT.open(f"{url}{path}", timeout=30) as answer:
                assert 200 == answer.status
        flood.switch(False)
        stop(flood.process)
        assert os.path.exists(CLIENTS)
        assert 0 == job.end()
