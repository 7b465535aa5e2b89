"""What the store keeps of memory: programs and constants by function, series that come and go."""

from __future__ import annotations

import pytest

from jitwatch.model.events import Compiled, ExecutableMeasured, OutOfMemory
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import OTHER_LABEL
from jitwatch.state.store import Store


def user(number: int) -> Function:
    return Function(f"train.f{number}", f"f{number}", f"train.py:{number}")


def measured(function: Function, size: int, flops: float | None = None) -> ExecutableMeasured:
    return ExecutableMeasured(function=function, arguments=size, outputs=1, temporaries=2, code=3, flops=flops)


def compiled(function: Function, constant_bytes: int) -> Compiled:
    return Compiled(function=function, trace_s=None, lower_s=None, compile_s=1.0, constant_bytes=constant_bytes)


def get(store: Store, name: str, *labels: str) -> float:
    return store.tables().get(name, labels)


@pytest.fixture
def store():
    return Store(run="run-7")


def test_program_is_shown_by_kind(store):
    """Each kind of memory is a series, and the record has all of them."""
    record = store.apply(measured(user(1), 10, flops=7.0))
    assert ("program.measured", 10, 1, 2, 3, 7.0) == tuple(
        record[name] for name in ("event", "argument_bytes", "output_bytes", "temporary_bytes", "code_bytes", "flops")
    )

    assert {("train.f1", "arguments"): 10, ("train.f1", "outputs"): 1, ("train.f1", "temporaries"): 2} | {
        ("train.f1", "code"): 3
    } == store.tables().values["executable_memory_bytes"]
    assert {("train.f1",): 7.0} == store.tables().values["executable_flops"]


def test_functions_that_share_a_label_show_the_largest(store):
    """Past the cap of names a small program does not hide the large one of another function."""
    for number in range(100):
        store.know(user(number))
    for number, size in ((101, 10), (102, 500), (103, 20)):
        store.apply(measured(user(number), size, flops=float(size)))
        store.apply(compiled(user(number), constant_bytes=size))

    assert 500 == get(store, "executable_memory_bytes", OTHER_LABEL, "arguments")
    assert 500 == get(store, "executable_flops", OTHER_LABEL)
    assert 500 == get(store, "captured_constant_bytes", OTHER_LABEL)
    assert [500, 20, 10] == [row["argument_bytes"] for row in store.largest_programs(10)]


def test_largest_constants_of_a_function_stay(store):
    """A later program without them does not hide those of the first, which is still there."""
    for size in (100, 300, 0):
        store.apply(compiled(user(1), constant_bytes=size))

    assert 300 == get(store, "captured_constant_bytes", "train.f1")


def test_function_without_constants_has_no_series(store):
    """Most functions capture nothing worth a series."""
    record = store.apply(compiled(user(1), constant_bytes=0))

    assert {} == store.tables().values["captured_constant_bytes"]
    assert "constant_bytes" not in record


def test_state_lists_the_programs_that_need_most(store):
    """Ten of them, the largest first, beside what the probe says."""
    store.set_memory({"devices": []})
    for number in range(15):
        store.apply(measured(user(number), number))
    memory = store.snapshot()["memory"]

    assert [] == memory["devices"]
    assert [f"train.f{number}" for number in range(14, 4, -1)] == [row["function"] for row in memory["executables"]]


def test_oom_is_counted_and_kept_as_it_is(store):
    """The record has all rows of the event."""
    record = store.apply(
        OutOfMemory(
            program="jit(f)",
            function="train.f1",
            call_site="train.py:1",
            message="no",
            devices=({"device": "gpu:0"},),
            arrays=(),
            live_arrays=1,
            live_array_bytes=2,
            executables=(),
            compiles=(),
        )
    )

    assert 1.0 == get(store, "oom")
    assert ("memory.oom", "train.f1", [{"device": "gpu:0"}]) == (record["event"], record["function"], record["devices"])


def test_set_series_replaces_all(store):
    """What is not given any more ends; an info metric has as many rows as it is given."""
    store.set_series("live_arrays", {("gpu:0",): 1.0, ("gpu:1",): 2.0})
    store.set_series("live_arrays", {("gpu:1",): 3.0})
    store.set_series("device", {("gpu:0", "card", "gpu"): 1.0, ("gpu:1", "card", "gpu"): 1.0})

    assert {("gpu:1",): 3.0} == store.tables().values["live_arrays"]
    shown = store.snapshot()["metrics"]["jitwatch_device_info"]
    assert ["gpu:0", "gpu:1"] == [row["labels"]["device"] for row in shown]
