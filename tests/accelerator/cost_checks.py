"""What the agent costs and leaves alone: calls, dispatch, backends, stderr; the demo."""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from tests.accelerator.checks import Findings, check, records, until

VARIANTS = ("bare", "agent", "control")
LEAVES = 200
#: Calls in a block. The device's queue does not fill up, so that a call does not wait for the device.
_CALLS = {"one array": 1000, f"{LEAVES} leaves": 50}
_SECONDS_PER_CASE = 9.0
_LEAST_ROUNDS, _ROUNDS_PER_JIT = 4, 25
#: Blocks of calls of a variant in a round: installing and uninstalling take longer than a block.
_BLOCKS = 5


def _state(case: str) -> Any:
    import jax.numpy as jnp

    return jnp.ones(8) if case == "one array" else {f"layer_{number}": jnp.ones(8) for number in range(LEAVES)}


def _calls(case: str, *, donates: bool) -> Callable[[int], float]:
    """Returns what calls a newly jitted function so often, and returns the CPU seconds of this thread."""
    import jax

    def step(state: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf * 0.9, state)

    jitted = jax.jit(step, donate_argnums=0) if donates else jax.jit(step)
    state = jax.block_until_ready(jitted(_state(case)))

    def donating(n: int) -> float:
        nonlocal state
        started = time.thread_time()
        for _ in range(n):
            state = jitted(state)
        took = time.thread_time() - started
        jax.block_until_ready(state)
        return took

    def keeping(n: int) -> float:
        started = time.thread_time()
        for _ in range(n):
            result = jitted(state)
        took = time.thread_time() - started
        jax.block_until_ready(result)
        return took

    return donating if donates else keeping


def _measure(found: Findings, case: str, *, donates: bool) -> None:
    import jitwatch

    n = _CALLS[case]
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    until_s: float | None = None
    turn = 0
    while turn < _LEAST_ROUNDS or (until_s is not None and time.monotonic() < until_s):
        if turn % _ROUNDS_PER_JIT == 0:
            # Jitted again: the place in memory can matter more than the agent.
            blocks = {}
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                if variant == "agent":
                    with jitwatch.install(port=0, sample_interval_s=3600):
                        blocks[variant] = _calls(case, donates=donates)
                else:
                    blocks[variant] = _calls(case, donates=donates)
        until_s = until_s or time.monotonic() + _SECONDS_PER_CASE  # not counting the first compiles
        turn += 1
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            is_watched = variant == "agent"
            with jitwatch.install(port=0, sample_interval_s=3600) if is_watched else nullcontext():
                gc.collect()
                blocks[variant](n // 4)
                seconds[variant] += [blocks[variant](n) / n for _ in range(_BLOCKS)]
    bare = seconds["bare"]
    ratios = {
        variant: [one / other for one, other in zip(seconds[variant], bare, strict=True)] for variant in VARIANTS[1:]
    }
    added = statistics.median(one - other for one, other in zip(seconds["agent"], bare, strict=True))
    name = f"{case}, {'donated' if donates else 'cached'}"
    quartiles = {variant: statistics.quantiles(values, n=4) for variant, values in ratios.items()}
    found.detail(name, {"rounds": turn, "calls": n, "seconds": seconds})
    agent, control = quartiles["agent"], quartiles["control"]
    found.figure(
        name,
        f"× {agent[1]:.3f} ({agent[0]:.3f} to {agent[2]:.3f}); bare against bare {control[1]:.3f} "
        f"({control[0]:.3f} to {control[2]:.3f}); {1e6 * added:+.2f} µs of {1e6 * statistics.median(bare):.1f}; "
        f"{turn} rounds of {_BLOCKS} blocks",
    )


@check("Cost of a cached and of a donating call", limit_s=100.0, is_alone=True)
def overhead(found: Findings) -> None:
    """Paired, interleaved, with a control; CPU time of the calling thread."""
    for donates in (False, True):
        for case in _CALLS:
            _measure(found, case, donates=donates)


@check("Calls return before the device has finished, also with the agent", is_alone=True)
def dispatch(found: Findings) -> None:
    """The agent synchronizes no device: time to dispatch a chain of calls, and until its result is there."""
    import jax
    import jax.numpy as jnp

    import jitwatch

    side, links, turns = (8192, 40, 6) if found.is_accelerator else (128, 10, 2)
    given = jax.block_until_ready(jnp.ones((side, side), jnp.bfloat16 if found.is_accelerator else jnp.float32))

    def chain(step: Any) -> tuple[float, float]:
        value = given + 0
        jax.block_until_ready(value)
        started = time.perf_counter()
        for _ in range(links):
            value = step(value)
        dispatched = time.perf_counter() - started
        jax.block_until_ready(value)
        return dispatched, time.perf_counter() - started

    def product(x: jax.Array) -> jax.Array:
        return (x @ x) * 1e-4

    times: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    for donate in ((), (0,)):
        for _ in range(turns):
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                if variant == "agent":
                    with jitwatch.install(port=0, sample_interval_s=0.1):
                        step = jax.jit(product, donate_argnums=donate)
                        chain(step)
                        times[variant].append(chain(step))
                else:
                    step = jax.jit(product, donate_argnums=donate)
                    chain(step)
                    times[variant].append(chain(step))
    found.detail("times", times)
    medians = {
        variant: tuple(statistics.median(one[i] for one in values) for i in range(2))
        for variant, values in times.items()
        if values
    }
    for variant, (sent, ended) in medians.items():
        found.figure(variant, f"sent in {1e3 * sent:.2f} ms, ended after {1e3 * ended:.1f} ms")
    if found.is_accelerator and "agent" in medians:
        sent, ended = medians["agent"]
        found.expect(sent < 0.5 * ended, f"{links} calls took {sent:.3f} s to dispatch and {ended:.3f} s to end")


@check("No backend is created by the agent, and nothing is printed")
def innocent(found: Findings) -> None:
    """Install, samples, a scrape: no backend, so no memory of the device, before the job's first use of it."""
    import urllib.request

    import jax

    import jitwatch

    bridge = sys.modules["jax._src.xla_bridge"]
    with jitwatch.install(port=0, sample_interval_s=0.1) as watch:
        for path in ("/metrics", "/api/v1/state"):
            urllib.request.urlopen(watch.url + path, timeout=10).read()
        until(lambda: len(watch.snapshot()["metrics"].get("jitwatch_collect_duration_seconds", ())) > 1)
        found.expect(not bridge._backends, f"backends: {list(bridge._backends)}")
        started = time.perf_counter()
        device = jax.local_devices()[0]
        found.figure("first use of the backend", f"{time.perf_counter() - started:.1f} s")
        found.expect(device.platform != "cpu" or not found.is_accelerator, f"the default device is {device}")
        body = urllib.request.urlopen(watch.url + "/metrics", timeout=10).read().decode()
        errors = [line for line in body.splitlines() if line.startswith("jitwatch_agent_errors_total")]
        found.expect(not errors, f"internal errors: {errors}")
        probes = {name: probe["reason"] for name, probe in watch.snapshot()["probes"].items() if not probe["up"]}
        found.expect(not probes, f"probes that do not work: {probes}")
        found.figure("probes down", len(probes))


@check("The demo, its log, the report and doctor", limit_s=170.0)
def demo(found: Findings) -> None:
    """`jitwatch demo` trains on the device; no internal error; the report reads its log."""
    with tempfile.TemporaryDirectory() as folder:
        for name, command in {
            "demo": [
                "demo",
                "--steps",
                "40" if found.is_accelerator else "2",
                "--no-open",
                "--port",
                "0",
                "--event-log",
                folder,
            ],
            "report": ["report", folder],
            "doctor": ["doctor"],
        }.items():
            started = time.perf_counter()
            ended = subprocess.run(
                [sys.executable, "-m", "jitwatch", *command],
                capture_output=True,
                text=True,
                timeout=140,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])},
            )
            found.detail(name, {"rc": ended.returncode, "stdout": ended.stdout[-6000:], "stderr": ended.stderr[-2000:]})
            found.expect(ended.returncode == 0, f"{name} ended with {ended.returncode}: {ended.stderr[-300:]}")
            found.figure(name, f"exit status {ended.returncode}, {time.perf_counter() - started:.1f} s")
        kinds: dict[str, int] = {}
        for file in os.listdir(folder):
            if file.endswith(".jsonl"):
                with open(os.path.join(folder, file), encoding="utf-8") as lines:
                    for line in lines:
                        kind = json.loads(line)["event"]
                        kinds[kind] = kinds.get(kind, 0) + 1
        found.detail("records", kinds)
        found.expect(kinds.get("jit.compiled"), f"records: {kinds}")
        found.expect(not kinds.get("agent.probe_failed"), f"records: {kinds}")
        found.expect(not kinds.get("donation.violation"), f"records: {kinds}")


@check("Results after errors, and after uninstall()")
def afterwards(found: Findings) -> None:
    """After errors and `uninstall()`, results are right and JAX is as before."""
    import jax
    import jax.numpy as jnp

    import jitwatch

    before = jax.jit
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        step = jax.jit(lambda x: x * 2, donate_argnums=0)
        dead = jnp.ones(8)
        step(dead)
        for _ in range(3):
            try:
                step(dead)
                found.expect(condition=False, otherwise="a donated array was used without an error")
            except (RuntimeError, ValueError):
                pass
        violations = len(records(watch, "donation.violation"))
        found.expect(violations == 3, f"{violations} violations for 3 errors")
        found.expect(float(step(jnp.ones(8)).sum()) == 16.0, "another result with the agent")
    found.expect(jax.jit is before, "jax.jit is not restored")
    found.expect(float(step(jnp.ones(8)).sum()) == 16.0, "another result after uninstall()")
    found.figure("violations", violations)
