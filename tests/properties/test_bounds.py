"""What is kept stays bounded, however much happens."""

from __future__ import annotations

import gc
import tracemalloc

from jitwatch.diagnosis.leaks import Leaks
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.state import aggregates
from jitwatch.state.store import Store
from jitwatch.state.tables import MAX_FUNCTIONS
from tests.unit.logs import compiled


def user(number: int) -> Function:
    return Function(f"train.f{number}", f"f{number}", f"train.py:{number}")


def of_jax(name: str) -> Function:
    return Function(JAX_LABEL, name)


def test_many_thousand_functions_stay_bounded():
    """More functions than are kept: everything still counts, nothing grows."""
    store, extra = Store(), 200
    for number in range(aggregates.MAX_FUNCTIONS + extra):
        store.apply(compiled(user(number)))
        store.apply(compiled(of_jax(f"op{number}")))
    state = store.snapshot()

    assert aggregates.MAX_FUNCTIONS + 2 >= len(state["functions"])
    assert MAX_FUNCTIONS + 2 == len(store.tables().values["compiles"])
    assert aggregates.MAX_FUNCTIONS + extra == state["totals"]["compiles"] == state["totals"]["jax_compiles"]
    assert aggregates.MAX_FUNCTIONS + extra == sum(store.tables().values["compiles"].values()) / 2
    assert aggregates.MAX_FUNCTIONS == len(store._aggregates.jax_programs)


def test_memory_is_flat_once_the_rings_are_full():
    """Another ten thousand compiles keep fewer than 16 bytes each."""
    store = Store(clock=lambda: 1_700_000_000.0)
    events = [compiled(user(number)) for number in range(150)] + [compiled(of_jax(f"op{n}")) for n in range(50)]
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        # Three quarters of them are of the user's functions, whose ring is the longer one.
        for number in range(14_000):
            store.apply(events[number % 200])
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            store.apply(events[number % 200])
        gc.collect()
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()

    assert 24_000 == store.records(limit=1)[1]
    assert growth < 160_000


def test_memory_of_the_rule_is_bounded():
    """A week of samples and thousands of functions are kept in a few hundred points."""
    leaks = Leaks()
    for number in range(2_000):
        leaks.sample(number * 300.0, {"host": float(1 << 30)}, {f"f{i}": i for i in range(number % 700)})

    assert {30, 36} == {len(series.points) for series in leaks._series.values()}
    assert 30 == len(leaks._caches)
    assert 50 >= max(map(len, leaks._caches))
