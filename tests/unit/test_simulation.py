"""The simulated processes of the benchmark of a fleet export what a real job exports."""

from __future__ import annotations

import re
from collections import defaultdict

import jax
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

import jitwatch
from benchmarks import simulation
from jitwatch.server.http import Request
from jitwatch.server.routes import Routes
from jitwatch.state.metrics import METRICS
from jitwatch.state.signals import metrics_of_signals

#: What the simulated processes have and the real job of this test has not: devices whose allocator reports more than
#: the memory in use, several processes, and growth, which takes minutes to be known.
NOT_HERE = {
    "jitwatch_device_memory_peak_bytes",
    "jitwatch_device_memory_limit_bytes",
    "jitwatch_device_memory_reserved_bytes",
    "jitwatch_device_memory_largest_free_block_bytes",
    "jitwatch_memory_growth_bytes_per_second",
    "jitwatch_process_info",
}
#: Declared, but exported only after events that the simulated jobs do not have: the steady state, violations, missed
#: donations, large constants, failures of the agent, a folder of the persistent cache.
NOT_SIMULATED = {
    "jitwatch_steady_since_timestamp_seconds",
    "jitwatch_donation_violations",
    "jitwatch_donation_opportunity_bytes",
    "jitwatch_captured_constant_bytes",
    "jitwatch_agent_errors",
    "jitwatch_agent_events_dropped",
    "jitwatch_persistent_cache_miss_reasons",
}
PLAIN, DONATING = "plain", "donating"


class Clock:
    """Unix time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def shape(text: str) -> dict[str, tuple[str, frozenset]]:
    """Of each family: its type, and the names of its samples' labels with the bounds of buckets."""
    return {
        family.name: (
            family.type,
            frozenset(
                (sample.name, frozenset(sample.labels), sample.labels.get("le", "")) for sample in family.samples
            ),
        )
        for family in parse(text)
    }


def by_function(text: str, *functions: str) -> dict[str, set[str]]:
    """The names of the series of some functions, by the functions' bare names."""
    found = defaultdict(set)
    for family in parse(text):
        for sample in family.samples:
            for name in functions:
                if re.search(rf"\.{name}(@|$)", sample.labels.get("function", "")):
                    found[name].add(sample.name)
    return found


def values(text: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def real(detail: str) -> str:
    """What a real job exports: two functions that recompile, one of which donates, and steps."""

    def plain(x):
        return x + 1

    def donating(x):
        return x + 2

    with jitwatch.install(port=0, detail=detail, sample_interval_s=3600):
        one, other = jax.jit(plain), jax.jit(donating, donate_argnums=0)
        for size in (3, 4):
            one(np.ones(size, np.float32))
            other(jax.numpy.ones(size))
            jitwatch.step()
        agent = jitwatch.agent._agent
        # Twice: what programs need is read after the round in which they were compiled.
        for _ in range(2):
            agent._sampler.sample_once()
        routes = Routes(agent._answers)
        # The seconds that a scrape takes are exported from the second one on.
        return [routes(Request("GET", "/metrics", {}, {"accept": "text/plain"})) for _ in range(2)][1].body.decode()


def simulated(detail: str, scrapes: int = 1, functions: int = 4) -> list[str]:
    """What a process of a simulated run exports, every ten minutes."""
    clock = Clock()
    run = simulation.Run(0, details=(detail,), functions=functions, clock=clock)
    texts = []
    for _ in range(scrapes):
        clock.now += 600
        texts.append(run.render(detail, "text/plain", 3)[0].decode())
    return texts


@pytest.mark.parametrize("detail", ["full", "summary"])
def test_simulation_exports_the_families_of_a_real_job(detail):
    """The same families, types, labels and buckets."""
    wanted, found = shape(real(detail)), shape(simulated(detail, 20)[-1])

    assert NOT_HERE | ({"jitwatch_pitfalls"} if detail == "full" else set()) == set(found) - set(wanted)
    assert wanted == {name: found[name] for name in wanted}


def test_simulation_exports_the_series_of_a_real_function():
    """Of a function that recompiles: the same series, more if it donates."""
    wanted, text = by_function(real("full"), "plain", "donating"), simulated("full")[0]
    found = by_function(text, "function_0", "function_1")
    # At the first pitfall of a function, which both may have or not.
    rare = {"jitwatch_pitfalls_total"}

    assert wanted["plain"] - rare == found["function_1"] - rare
    assert wanted["donating"] - rare == found["function_0"] - rare


def test_simulation_exports_all_declared_metrics_but_those_of_rare_events():
    """A new metric is simulated, or is named above."""
    declared = {f"jitwatch_{metric.name}" for metric in METRICS + metrics_of_signals()}
    found = {name.removesuffix("_info") for name in shape(simulated("full", 20)[-1])}

    assert NOT_SIMULATED == declared - found


def test_simulation_changes_as_a_job_does():
    """Counters rise, and fall only when the run starts again, which it does; steps, compiles and causes change."""
    texts = simulated("full", 60)
    kinds = {family.name: family.type for family in parse(texts[0])}
    read = [values(text) for text in texts]
    starts = [one["jitwatch_start_time_seconds", frozenset()] for one in read]
    rising = {
        key
        for before, after, was, is_ in zip(read, read[1:], starts, starts[1:], strict=False)
        if was == is_
        for key in before
        if kinds.get(key[0].removesuffix("_total")) == "counter" and after.get(key, 0.0) < before[key]
    }
    changed = {key[0] for one in read[1:] for key, value in one.items() if value != read[0].get(key)}
    causes = {dict(key[1])["cause"] for one in read for key in one if key[0] == "jitwatch_recompile_causes_total"}

    assert set() == rising
    assert len(set(starts)) > 1
    assert {
        "jitwatch_steps_total",
        "jitwatch_step_duration_seconds_bucket",
        "jitwatch_recompiles_total",
        "jitwatch_compile_duration_seconds_bucket",
        "jitwatch_device_memory_in_use_bytes",
        "jitwatch_recompile_storm_active",
    } <= changed
    assert len(causes) > 5


def test_processes_of_a_run_differ_in_their_index_only():
    """One rendering serves all processes of a run."""
    run = simulation.Run(0, clock=Clock())
    first, third = (run.render("full", "text/plain", index)[0].decode() for index in (0, 3))

    (line,) = (line for line in third.splitlines() if line not in first.splitlines())
    assert 'jitwatch_process_info{process_count="8",process_index="3"} 1.0' == line


def test_targets_have_a_path_each_and_mixed_detail():
    """Process 0 of each run in full detail, the others in summary; other paths are not found."""
    fleet = simulation.Fleet(20, "mixed", functions=4)
    groups = simulation.target_groups(10431, 20)
    paths = [group["labels"]["__metrics_path__"] for group in groups]
    texts = [fleet.render(path, "text/plain")[0].decode() for path in paths]

    assert 20 == len(set(paths)) == len({group["labels"]["instance"] for group in groups})
    assert [number % 8 == 0 for number in range(20)] == ["jitwatch_jit_wrappers_total{" in text for text in texts]
    assert [None] * 4 == [fleet.render(path, "") for path in ("/", "/3/0/metrics", "/0/8/metrics", "/x/0/metrics")]
