"""When memory leaks, what with, and how often that is said."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch import agent as agents
from jitwatch.diagnosis.leaks import Leaks, Trend, is_leak
from jitwatch.model.events import MemoryLeak

MIB = 1 << 20
GIB = 1 << 30
SAMPLE_S = 5.0
HOUR = 3600
Series = Callable[[float], float]


def run(
    seconds: float,
    *,
    entries: Callable[[float], dict[str, int]] | None = None,
    leaks: Leaks | None = None,
    since: float = 0.0,
    holders: dict[str, tuple[str, str]] | None = None,
    **series: Series,
) -> list[tuple[float, MemoryLeak]]:
    """The leaks that are told of such series, each with its time."""
    leaks = leaks or Leaks()
    told: list[tuple[float, MemoryLeak]] = []
    for number in range(int(seconds / SAMPLE_S)):
        now = since + number * SAMPLE_S
        values = {kind: value(now) for kind, value in series.items()}
        told += [(now, leak) for leak in leaks.sample(now, values, entries(now) if entries else {}, holders)]
    return told


def tooth(at: float) -> float:
    return 500 * MIB * (at % 7.0) / 7.0


def per_hour(size: float) -> Series:
    """A job of 4 GiB with a saw-tooth that grows by so many bytes an hour."""
    return lambda at: 4 * GIB + tooth(at) + size * at / HOUR


def test_growth_is_told_once_with_its_rate():
    """One event for hours of growth, within half an hour, and right by a tenth."""
    told = run(4 * HOUR, host=per_hour(600 * MIB))
    ((at, leak),) = told

    assert at < 1800
    assert "host" == leak.growing
    assert 600 * MIB == pytest.approx(leak.bytes_per_second * HOUR, rel=0.1)
    assert 4 * GIB <= leak.bytes < 5 * GIB
    assert leak.message.startswith("host memory has been growing by ")
    assert " MiB/h" in leak.message


@pytest.mark.parametrize("kind", ["device", "live_arrays", "host"])
def test_each_kind_can_leak(kind):
    """Whatever grows is named."""
    ((_, leak),) = run(HOUR, **{kind: per_hour(GIB)})

    assert kind == leak.growing


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("saw-tooth", per_hour(0)),
        ("constant", lambda at: 4.0 * GIB),
        ("start-up", lambda at: 4 * GIB * min(1.0, at / 300) + tooth(at)),
        ("start-up that levels off", lambda at: 4 * GIB * (1 - 2.0 ** (-at / 200))),
        ("one jump", lambda at: 4 * GIB + tooth(at) + (2 * GIB if at > 1300 else 0)),
        ("late jump", lambda at: 4 * GIB + tooth(at) + (2 * GIB if at > 3 * HOUR else 0)),
        ("evaluation now and then", lambda at: 4 * GIB + (GIB if at % 1200 < 300 else 0)),
        ("shrinking", per_hour(-600 * MIB)),
        ("a little", per_hour(5 * MIB)),
    ],
)
def test_what_is_no_leak_is_not_told(name, series):
    """Seven hours of it give no event, in none of the windows."""
    assert [] == run(7 * HOUR, host=series)


def test_slow_leak_is_found_by_the_long_window():
    """16 MiB an hour of 4 GiB is nothing in two hours, and enough in twelve."""
    ((at, leak),) = run(12 * HOUR, host=per_hour(16 * MIB))

    assert 5 * HOUR < at
    assert 16 * MIB == pytest.approx(leak.bytes_per_second * HOUR, rel=0.1)
    assert leak.window_s > 4 * HOUR


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_no_leak(seed):
    """Eight hours of even noise of a tenth give no event."""
    source = random.Random(seed)

    assert [] == run(8 * HOUR, host=lambda at: 4 * GIB + source.uniform(-400, 400) * MIB)


def test_second_leak_after_a_pause_is_told_again():
    """A leak is told once for each time that it begins."""

    def series(at: float) -> float:
        return 4 * GIB + GIB * (min(at, HOUR) + max(0.0, at - 3 * HOUR)) / HOUR

    leaks = Leaks()
    first = run(2 * HOUR, leaks=leaks, host=series)
    assert [] == leaks.active
    second = run(3 * HOUR, leaks=leaks, since=2 * HOUR, host=series)

    assert (1, 1) == (len(first), len(second))
    assert ["host"] == leaks.active
    assert second[0][0] > 3 * HOUR


def test_growth_of_each_kind_is_known():
    """The gauge has the slope of the short window, also of what is no leak."""
    leaks = Leaks()
    run(HOUR, leaks=leaks, host=per_hour(5 * MIB), live_arrays=per_hour(0))
    growth = leaks.growth

    assert {"host", "live_arrays"} == set(growth)
    assert 5 * MIB == pytest.approx(growth["host"] * HOUR, rel=0.2)
    assert abs(growth["live_arrays"] * HOUR) < MIB
    assert {} == Leaks().growth


def caches(at: float) -> dict[str, int]:
    """One function that compiles every ten seconds, and others."""
    return {"train.eval_step": 3 + int(at / 10), "train.train_step": 2, "train.init": int(at / 100)}


def test_host_memory_that_grows_with_the_caches_is_a_cache_leak():
    """The event says so, by how many entries, and of which functions."""
    ((_, leak),) = run(HOUR, entries=caches, host=per_hour(600 * MIB))

    assert "jit_cache" == leak.cause
    assert 396 == pytest.approx(leak.cache_entries_per_hour, rel=0.05)
    assert ("train.eval_step", "train.init") == leak.functions
    assert "The jit caches grow with it" in leak.message
    assert "train.eval_step" in leak.message


HOLDERS = {"train.eval_step": ("self", "Agent")}


@pytest.mark.parametrize("kinds", [("live_arrays",), ("device", "live_arrays"), ("host", "live_arrays")])
def test_arrays_that_a_cache_keeps_are_no_list_of_the_job(kinds):
    """Its entries hold the values of a static argument, and those hold arrays."""
    told = run(HOUR, entries=caches, holders=HOLDERS, **dict.fromkeys(kinds, per_hour(600 * MIB)))
    assert set(kinds) == {leak.growing for _, leak in told}
    for _, leak in told:
        assert "jit_cache" == leak.cause
        assert "keeps each value of its static argument self alive, with its arrays" in leak.message
        assert "Make Agent a pytree and pass self as an ordinary argument" in leak.message
        assert "list" not in leak.message


@pytest.mark.parametrize(
    ("entries", "holders"),
    [
        (caches, {}),
        (caches, {"train.train_step": ("self", "Agent")}),
        (lambda at: {"train.eval_step": 3}, HOLDERS),
    ],
)
def test_arrays_that_no_cache_keeps_are_the_jobs(entries, holders):
    """No static argument holds arrays, or that of another function, or the cache does not grow."""
    told = run(HOUR, entries=entries, holders=holders, live_arrays=per_hour(600 * MIB))
    (leak,) = [leak for _, leak in told if leak.growing == "live_arrays"]
    assert leak.cause is None
    assert "The job keeps references to arrays" in leak.message


def test_static_argument_that_holds_arrays_is_known():
    """By the class of the argument; a frozen configuration, a tuple of numbers and a pytree are no such thing."""

    class Agent:
        def __init__(self):
            self.w = jnp.ones((3, 3))

        @functools.partial(jax.jit, static_argnums=0)
        def act(self, x):
            return x * 2

    class Settings:
        rate = 0.5

    with jitwatch.install(port=None):
        session = agents._agent.session
        Agent().act(jnp.ones(2))
        jax.jit(lambda x, s: x, static_argnums=1)(1.0, Settings())
        jax.jit(lambda x, s: x, static_argnums=1)(1.0, (1, 2))
        found = session.wrappers.holders()
    ((label, holder),) = found.items()
    assert "Agent.act" in label
    assert ("self", "Agent") == holder


@pytest.mark.parametrize("filled_at", [200, 750])
def test_host_memory_that_grows_beside_full_caches_is_no_cache_leak(filled_at):
    """Caches that were filled some time ago and then stand still explain nothing."""
    ((_, leak),) = run(HOUR, entries=lambda at: {"f": int(min(at, filled_at))}, host=per_hour(600 * MIB))

    assert leak.cause is None
    assert () == leak.functions
    assert leak.cache_entries_per_hour is None


def test_caches_that_go_up_and_down_explain_nothing():
    """They must look like the memory, not only end higher than they began."""
    source = random.Random(1)
    jumps = [source.randrange(1500) for _ in range(HOUR)]
    told = run(HOUR, entries=lambda at: {"f": int(at / 5) + jumps[int(at / 60)]}, host=per_hour(600 * MIB))

    assert [None] == [leak.cause for _, leak in told]


def test_functions_whose_caches_grow_most_are_named():
    """Three of them, the fastest first."""

    def entries(at: float) -> dict[str, int]:
        return {f"f{number}": number * int(at / 60) for number in range(6)}

    ((_, leak),) = run(HOUR, entries=entries, host=per_hour(600 * MIB))

    assert ("f5", "f4", "f3") == leak.functions


def test_few_cache_entries_explain_nothing():
    """Ten compiles in half an hour do not make hundreds of megabytes."""
    ((_, leak),) = run(HOUR, entries=lambda at: {"f": int(at / 180)}, host=per_hour(600 * MIB))

    assert leak.cause is None


def test_memory_that_grows_with_live_arrays_is_the_jobs_own():
    """Device memory and live arrays that grow alike: references are kept."""
    told = {leak.growing: leak for _, leak in run(HOUR, device=per_hour(GIB), live_arrays=per_hour(GIB))}

    assert {"device", "live_arrays"} == set(told)
    assert "live_arrays" == told["device"].cause
    assert told["live_arrays"].cause is None
    assert "references to arrays" in told["device"].message
    assert "references to arrays" in told["live_arrays"].message


def test_live_arrays_that_grow_a_little_explain_no_large_growth():
    """A tenth of it is not the reason for all of it."""
    told = {leak.growing: leak for _, leak in run(HOUR, device=per_hour(4 * GIB), live_arrays=per_hour(400 * MIB))}

    assert told["device"].cause is None


TREND = Trend(slope=2.0, early=2.0, late=2.0, steadiness=1.0, span_s=100.0, points=15, low=1000.0)


@pytest.mark.parametrize(
    ("trend", "expected"),
    [
        (TREND, True),
        (replace(TREND, points=14), False),
        (replace(TREND, span_s=40.0), False),
        (replace(TREND, low=30_000.0), False),
        (replace(TREND, late=1.3), False),
        (replace(TREND, early=0.9), False),
        (replace(TREND, steadiness=0.7), False),
        (replace(TREND, slope=-2.0, early=-2.0, late=-2.0), False),
        (replace(TREND, late=1.5, early=1.1, steadiness=0.85), True),
    ],
)
def test_leak_is_long_large_steady_and_goes_on(trend, expected):
    """Each of these is needed: points, bytes, a share of what there is, both halves, few pairs that fall."""
    assert expected == is_leak(trend, 100.0)


def test_device_memory_that_grows_beside_constant_arrays_has_no_cause():
    """What the runtime takes for itself is not put on the job."""
    ((_, leak),) = run(HOUR, device=per_hour(GIB), live_arrays=per_hour(0))

    assert ("device", None) == (leak.growing, leak.cause)


def test_kind_that_is_counted_rarely_is_judged_all_the_same():
    """Live arrays are left out of most samples when there are many of them."""
    leaks = Leaks()
    told = []
    for number in range(int(4 * HOUR / SAMPLE_S)):
        now = number * SAMPLE_S
        values = {"live_arrays": per_hour(GIB)(now)} if number % 24 == 0 else {}
        told += leaks.sample(now, values, {})

    assert ["live_arrays"] == [leak.growing for leak in told]


def test_caches_that_grow_alone_are_told_once():
    """Programs pile up long before the memory of the process shows it: by how many an hour, and whose."""
    leaks = Leaks()
    grown = {"few": 3, "train.step": 0}
    told = run(
        4 * HOUR, leaks=leaks, entries=lambda at: {**grown, "train.step": int(at / 10)}, host=lambda at: 4.0 * GIB
    )
    ((at, leak),) = told

    assert at < 1800
    assert ("jit_cache", None, ("train.step",)) == (leak.growing, leak.bytes_per_second, leak.functions)
    assert 360 == pytest.approx(leak.cache_entries_per_hour, rel=0.1)
    assert 360 == pytest.approx(leaks.entries_per_hour, rel=0.1)
    assert leak.message.startswith("the jit caches have been growing by 3")
    assert "mostly of train.step" in leak.message
    assert ["jit_cache"] == leaks.active
    assert not {"bytes", "bytes_per_second"} & set(leak.payload())


def test_caches_that_grow_are_over_when_they_stop_and_told_when_they_grow_again():
    """Three hours of growth, of rest, and of growth."""
    leaks = Leaks()

    def entries(at: float) -> dict[str, int]:
        return {"f": int((min(at, 3 * HOUR) + max(0.0, at - 6 * HOUR)) / 10)}

    told = run(9 * HOUR, leaks=leaks, entries=entries)

    assert 2 == len(told)
    assert told[1][0] > 6 * HOUR


@pytest.mark.parametrize(
    "entries",
    [
        lambda at: {"f": 40},
        lambda at: {"f": int(min(at, 900) / 10)},
        lambda at: {"f": int(at / 200)},
        lambda at: {"f": 100 + 50 * (int(at / 300) % 2)},
        lambda at: {"f": 300 if at > 1500 else 20},
    ],
    ids=["constant", "warm-up", "slow", "comes and goes", "one jump"],
)
def test_caches_that_do_not_go_on_growing_are_no_leak(entries):
    """A warm-up, a second phase, a cache that is cleared now and then."""
    assert [] == run(6 * HOUR, entries=entries, host=lambda at: 4.0 * GIB)
