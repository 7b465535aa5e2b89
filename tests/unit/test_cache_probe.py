"""Cache entries and wrappers by function."""

from __future__ import annotations

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch.model.taxonomy import JAX_LABEL, OTHER_LABEL
from jitwatch.state.tables import FunctionLabels
from tests.waiting import wait_until


def by_function(watch, metric: str) -> dict[str, float]:
    """Values of a metric by the last part of the function's name, JAX's own left out."""
    rows = watch.snapshot()["metrics"].get(metric, [])
    return {
        row["labels"]["function"].partition("@")[0].rpartition(".")[2]: row["value"]
        for row in rows
        if row["labels"]["function"] != JAX_LABEL
    }


@pytest.fixture
def watch():
    # A long interval: nothing but the snapshot itself brings these figures up to date.
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


def test_entries_grow_with_signatures_and_fall_when_cleared(watch):
    """jit_cache_entries follows JAX's own cache, also for entries that cost no compile."""

    @jax.jit
    def target(x):
        return x

    sizes = []
    for x in (jnp.ones(1), jnp.ones(2), np.ones(2, np.float32)):
        target(x)
        sizes.append(by_function(watch, "jitwatch_jit_cache_entries")["target"])
    target.clear_cache()
    sizes.append(by_function(watch, "jitwatch_jit_cache_entries")["target"])
    assert [1, 2, 3, 0] == sizes


def test_shared_cache_counts_once(watch):
    """Two wrappers of one function share its cache; one with other options has its own."""

    def target(x):
        return x + 1

    first, second, donating = jax.jit(target), jax.jit(target), jax.jit(target, donate_argnums=0)
    for size in (1, 2):
        first(jnp.ones(size))
        second(jnp.ones(size))
    donating(jnp.ones(3))
    assert 3 == by_function(watch, "jitwatch_jit_cache_entries")["target"]


def test_wrappers_are_counted_by_code(watch):
    """Jitting the same code again and again shows as many wrappers of one function."""

    def make():
        def target(x):
            return x

        return jax.jit(target)

    wrappers = [make() for _ in range(7)]
    assert 7 == by_function(watch, "jitwatch_jit_wrappers_total")["target"]
    assert 1 == watch.snapshot()["metrics"]["jitwatch_tracked_functions"][0]["value"]
    del wrappers


def test_function_starts_at_zero_when_jitted(watch):
    """A function that was jitted and not called has its counters at 0."""

    @jax.jit
    def target(x):
        return x

    for metric in ("compiles_total", "recompiles_total", "compile_failures_total", "compile_seconds_total"):
        assert {"target": 0} == by_function(watch, f"jitwatch_{metric}")


def test_dead_wrappers_are_forgotten(watch):
    """Wrappers are not kept alive, and their entries end with them."""
    for _ in range(50):
        jax.jit(lambda x: x)
    gc.collect()
    assert {"<lambda>": 0} == by_function(watch, "jitwatch_jit_cache_entries")
    assert 50 == by_function(watch, "jitwatch_jit_wrappers_total")["<lambda>"]


def test_function_jitted_before_install_is_known_from_its_next_miss():
    """The cache of an older function is counted whole, its earlier entries too."""

    @jax.jit
    def early_target(x):
        return x

    early_target(jnp.ones(1))
    early_target(jnp.ones(2))
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        early_target(jnp.ones(3))
        assert 3 == early_target._cache_size()
        assert 3 == by_function(watch, "jitwatch_jit_cache_entries")["early_target"]
        early_target.clear_cache()
        assert 0 == by_function(watch, "jitwatch_jit_cache_entries")["early_target"]


def test_tuples_under_construction_are_left_alone():
    """No sample of ours touches objects that another thread is building (SystemError in its code)."""
    stop = threading.Event()

    def wait_inside():
        while not stop.wait(0.001):
            yield None

    built = []
    thread = threading.Thread(target=lambda: built.append(tuple(wait_inside())))
    thread.start()
    with jitwatch.install(port=0, sample_interval_s=0.1) as watch:
        for _ in range(3):
            wait_until(
                lambda: watch.snapshot()["metrics"].get("jitwatch_collect_duration_seconds"),
                what="a sample of the caches",
            )
        stop.set()
        thread.join()
    assert [True] == [len(one) > 0 for one in built]


def test_global_caches_are_counted(watch):
    """The C++ caches that all functions share grow with every entry."""

    def size():
        return watch.snapshot()["metrics"]["jitwatch_jit_global_cache_entries"][0]["value"]

    before = size()
    target = jax.jit(lambda x: x * 2 + 1)
    target(np.float32(1))
    assert before < size()


def test_event_carries_cache_entries(watch):
    """A recompile's event says how many entries the function has by then."""
    target = jax.jit(lambda x: x)
    for number in (1, 2, 3):
        target(np.ones(number, np.float32))
    assert [1, 2, 3] == [record["cache_entries"] for record in watch.events() if "cache_entries" in record]


class Trainer:
    """A user's object that its own jitted function leads back to, by a default argument."""

    def __init__(self):
        def step(x, *, trainer=self):
            return x + 1

        self.step = jax.jit(step, static_argnames="trainer")


@pytest.mark.parametrize("order", ["jitted before install", "jitted after install"])
def test_object_behind_a_jitted_function_is_not_kept_alive(order):
    """A model that is dropped dies, whenever its function was jitted."""
    trainer = Trainer() if order == "jitted before install" else None
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        trainer = trainer or Trainer()
        trainer.step(1.0)
        watch.snapshot()
        reference = weakref.ref(trainer)
        del trainer
        jax.clear_caches()
        gc.collect()
        assert reference() is None


def test_endless_new_functions_are_bounded(watch):
    """Functions of ever new names (exec, generated code) do not fill the registry with their remains."""
    for number in range(2_500):
        scope: dict[str, object] = {}
        exec(f"def generated_{number}(x): return x", scope)
        jax.jit(scope[f"generated_{number}"])
    from jitwatch import agent

    assert len(agent._agent.session.wrappers._by_label) <= 2_000


def test_functions_that_are_never_called_leave_labels_for_those_that_are(watch):
    """Libraries jit hundreds of helpers when they are imported."""
    names = {f"helper_{number}": {} for number in range(150)}
    for name, space in names.items():
        exec(f"def {name}(x):\n    return x", space)
    helpers = [jax.jit(space[name]) for name, space in names.items()]

    @jax.jit
    def train_step(x):
        return x + 1

    train_step(1.0)
    helpers[-1](1.0)
    compiles = by_function(watch, "jitwatch_compiles_total")
    assert (1, 1) == (compiles["train_step"], compiles["helper_149"])


def test_function_is_at_zero_before_it_has_compiled(watch):
    """Whoever asks while the first trace runs finds the function with 0 compiles."""
    seen = []

    @jax.jit
    def target(x):
        seen.append(by_function(watch, "jitwatch_compiles_total")["target"])
        return x

    target(1.0)
    assert [0] == seen


def test_users_functions_come_before_those_of_a_library():
    """Four fifths of the labels are enough for libraries."""
    labels = FunctionLabels(limit=10)
    library = [labels.admit(f"library.f{n}", is_library=True)[0] for n in range(20)]
    users = [labels.admit(f"job.f{n}")[0] for n in range(5)]
    assert (8, 2) == (len({*library} - {OTHER_LABEL}), len({*users} - {OTHER_LABEL}))
    assert OTHER_LABEL == FunctionLabels(limit=10).admit("library.f", is_called=False, is_library=True)[0]
