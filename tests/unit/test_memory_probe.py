"""The memory probe: devices, live arrays, programs, constants, and what it must leave alone."""

from __future__ import annotations

import gc
import json
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch import agent, guard
from jitwatch.diagnosis.pressure import HOST
from jitwatch.jaxhooks.memory import device_memory
from jitwatch.probes import MemoryProbe, ProbeContext, rows
from tests.unit import payloads
from tests.unit.payloads import gpu
from tests.waiting import wait_until

DEADLINE_S = 20.0
MIB = 1 << 20
HOUR = 3600


@pytest.fixture
def watch():
    # The agent's own probe is left out: the test says when to sample.
    with jitwatch.install(port=0, probes=["compile", "cache"], sample_interval_s=3600) as installed:
        yield installed


@pytest.fixture
def probe(watch):
    running = agent._agent
    subject = MemoryProbe(ProbeContext(running.store, running.emit, running.session))
    subject.start()
    return subject


def series(watch, metric: str, label: str = "device") -> dict[str, float]:
    """Values of a metric by one of its labels."""
    return {row["labels"][label]: row["value"] for row in watch.snapshot()["metrics"].get(f"jitwatch_{metric}", [])}


def events(watch, kind: str) -> list[dict[str, object]]:
    return [record for record in watch.events() if record["event"] == kind]


# Devices


def test_device_statistics_are_exported(watch, probe):
    """Each figure that the device tells is a gauge of the device; what it does not tell has no series."""
    probe.source = lambda: [gpu(0), gpu(1, payloads.ROCM)]
    probe.sample_at(0.0)

    assert {"gpu:0": 41_875_931_136, "gpu:1": 12_884_901_888} == _gpus(series(watch, "device_memory_in_use_bytes"))
    assert {"gpu:0": 57_311_248_384, "gpu:1": 17_179_869_184} == _gpus(series(watch, "device_memory_peak_bytes"))
    assert {"gpu:0": 63_739_396_096, "gpu:1": 51_527_024_640} == _gpus(series(watch, "device_memory_limit_bytes"))
    assert {"gpu:0": 63_739_396_096, "gpu:1": 0} == _gpus(series(watch, "device_memory_reserved_bytes"))
    assert {} == _gpus(series(watch, "device_memory_largest_free_block_bytes"))
    assert {"gpu:0": 1, "gpu:1": 1} == _gpus(series(watch, "device_memory_stats_supported"))
    assert {"gpu:0": "NVIDIA H100 80GB HBM3", "gpu:1": "NVIDIA H100 80GB HBM3"} == _gpus(
        {row["labels"]["device"]: row["labels"]["device_kind"] for row in _info(watch)}
    )


def _gpus(found: dict[str, float]) -> dict[str, float]:
    """Without the processor, whose arrays other tests may have left."""
    return {device: value for device, value in found.items() if device.startswith("gpu")}


def _info(watch) -> list[dict[str, dict[str, str]]]:
    return watch.snapshot()["metrics"].get("jitwatch_device_info", [])


def test_tpu_statistics_have_the_free_block(watch, probe):
    """Where the largest free block is known it is exported."""
    probe.source = lambda: [gpu(0, payloads.TPU)]
    probe.sample_at(0.0)

    assert {"gpu:0": 23_622_320_128} == _gpus(series(watch, "device_memory_largest_free_block_bytes"))


def test_state_has_a_row_for_each_device(watch, probe):
    """The same figures in /api/v1/state, with where they are from."""
    jax.devices()
    probe.source = lambda: [gpu(0), gpu(1, None, "UNIMPLEMENTED: no statistics")]
    probe.sample_at(0.0)
    by_name = {row["device"]: row for row in watch.snapshot()["memory"]["devices"]}

    assert "device" == by_name["gpu:0"]["in_use_from"]
    assert pytest.approx(0.657, abs=0.001) == by_name["gpu:0"]["in_use_ratio"]
    assert ("live arrays", 0, False) == tuple(
        by_name["gpu:1"][key] for key in ("in_use_from", "in_use_bytes", "stats_supported")
    )
    assert "UNIMPLEMENTED: no statistics" == by_name["gpu:1"]["problem"]


def test_device_without_statistics_shows_its_live_arrays(watch, probe):
    """On a CPU the sum of live arrays stands in, and says so."""
    kept = jnp.ones((256, 256), np.float32)
    probe.sample_at(0.0)

    assert {f"cpu:{device.id}": 0.0 for device in jax.devices()} == series(watch, "device_memory_stats_supported")
    assert series(watch, "live_array_bytes") == series(watch, "device_memory_in_use_bytes")
    assert series(watch, "live_array_bytes")["cpu:0"] >= 256 * 256 * 4
    assert {} == series(watch, "device_memory_limit_bytes")
    assert not kept.is_deleted()


def test_device_that_disappears_ends_its_series(watch, probe):
    """No stale figure stays behind."""
    probe.source = lambda: [gpu(0), gpu(1)]
    probe.sample_at(0.0)
    probe.source = lambda: [gpu(1)]
    probe.sample_at(5.0)

    assert {"gpu:1"} == set(_gpus(series(watch, "device_memory_in_use_bytes")))
    assert {"gpu:1"} == {row["labels"]["device"] for row in _info(watch) if row["labels"]["platform"] != "cpu"}


class BrokenDevice:
    """A device whose driver has gone."""

    platform, id, device_kind = "gpu", 0, "card"

    def memory_stats(self):
        raise RuntimeError("INTERNAL: driver is gone\nmore of it")


class Backend:
    """A backend with these devices."""

    def __init__(self, *found: object) -> None:
        self.found = found

    def local_devices(self) -> list[object]:
        return list(self.found)

    def live_arrays(self) -> list[object]:
        return []


class FullDevice(BrokenDevice):
    id = 1

    def memory_stats(self):
        return payloads.CUDA


def test_device_that_raises_does_not_hide_the_others(monkeypatch):
    """Its row says why, in one line."""
    monkeypatch.setattr(device_memory, "backends", lambda: (Backend(BrokenDevice(), FullDevice()),))
    broken, full = device_memory.Readings()()

    assert ("gpu:0", None, "RuntimeError: INTERNAL: driver is gone") == (
        broken.device,
        broken.statistics,
        broken.problem,
    )
    assert ("gpu:1", payloads.CUDA, None) == (full.device, full.statistics, full.problem)


class HangingDevice(BrokenDevice):
    """A driver that does not answer until it is told to."""

    def __init__(self):
        self.release, self.asked = threading.Event(), []

    def memory_stats(self):
        self.asked.append(threading.current_thread())
        self.release.wait(DEADLINE_S)
        return payloads.CUDA


def test_device_that_hangs_does_not_hide_the_others(monkeypatch, watch, probe):
    """It costs them one sample; from the next on they tell, and the one that hangs is not asked again meanwhile."""
    hanging = HangingDevice()
    monkeypatch.setattr(device_memory, "backends", lambda: (Backend(hanging, FullDevice()),))
    monkeypatch.setattr(probe._box, "_timeout_s", 0.2)
    probe.source = device_memory.Readings()
    try:
        probe.sample_at(5.0)
        monkeypatch.setattr(probe._box, "_timeout_s", DEADLINE_S)
        for now in (10.0, 15.0):
            probe.sample_at(now)
            assert {"gpu:0": 0.0, "gpu:1": 1.0} == _gpus(series(watch, "device_memory_stats_supported"))
        problems = {row["device"]: row["problem"] for row in watch.snapshot()["memory"]["devices"]}
        assert problems["gpu:0"].startswith("memory_stats() has not returned for ")
        assert problems["gpu:1"] is None
        assert 1 == len(hanging.asked)
    finally:
        hanging.release.set()
        hanging.asked[0].join(DEADLINE_S)
    probe.sample_at(20.0)

    assert {"gpu:0": 1.0, "gpu:1": 1.0} == _gpus(series(watch, "device_memory_stats_supported"))


def test_source_that_raises_is_no_end_of_sampling(monkeypatch, watch, probe):
    """The agent counts the failure; the next sample has the figures."""
    monkeypatch.setattr(guard, "reraise", False)

    def source():
        raise OSError("no such device")

    probe.source = source
    with guard.guarded(probe.name):
        probe.sample_at(0.0)
    assert {"memory": 1.0} == series(watch, "agent_errors_total", "component")
    probe.source = lambda: [gpu(0)]
    probe.sample_at(5.0)

    assert {"gpu:0"} == set(_gpus(series(watch, "device_memory_in_use_bytes")))


def test_hanging_device_is_left_out_and_comes_back(monkeypatch, watch, probe):
    """A call that hangs holds up a sample once, is counted once, and is asked no second time meanwhile."""
    monkeypatch.setattr(probe._box, "_timeout_s", 0.5)
    release, asked = threading.Event(), []
    probe.source = lambda: [gpu(0), gpu(1)]
    probe.sample_at(0.0)

    def hanging():
        asked.append(threading.current_thread())
        yield gpu(0)
        release.wait(DEADLINE_S)
        yield gpu(1)

    probe.source = hanging
    try:
        probe.sample_at(5.0)
        assert {"gpu:0"} == set(_gpus(series(watch, "device_memory_limit_bytes")))
        probe.sample_at(10.0)
        assert {} == _gpus(series(watch, "device_memory_limit_bytes"))
        assert {"gpu:0": 0.0, "gpu:1": 0.0} == _gpus(series(watch, "device_memory_stats_supported"))
        by_name = {row["device"]: row["problem"] for row in watch.snapshot()["memory"]["devices"]}
        assert by_name["gpu:1"].startswith("memory_stats() has not returned for ")
        kinds = {row["labels"]["device"]: row["labels"]["device_kind"] for row in _info(watch)}
        assert "NVIDIA H100 80GB HBM3" == kinds["gpu:1"]
        assert 1 == len(asked)
        assert {"memory": 1.0} == series(watch, "agent_errors_total", "component")
    finally:
        release.set()
        asked[0].join(DEADLINE_S)
    monkeypatch.setattr(probe._box, "_timeout_s", DEADLINE_S)
    probe.source = lambda: [gpu(0), gpu(1)]
    probe.sample_at(15.0)

    assert {"gpu:0", "gpu:1"} == set(_gpus(series(watch, "device_memory_limit_bytes")))


def test_hanging_device_does_not_keep_the_agent(monkeypatch):
    """It stops while the call hangs, and JAX is put back."""
    release, threads, asked = threading.Event(), [], threading.Event()

    def hanging():
        threads.append(threading.current_thread())
        asked.set()
        release.wait(DEADLINE_S)
        return []

    monkeypatch.setattr(MemoryProbe, "source", staticmethod(hanging))
    try:
        watch = jitwatch.install(port=0, sample_interval_s=0.1)
        assert asked.wait(DEADLINE_S)
        watch.uninstall()
        assert not watch.is_active
        assert ["jitwatch-memory"] == [thread.name for thread in threads if thread.is_alive()]
    finally:
        release.set()
        for thread in threads:
            thread.join(DEADLINE_S)


def test_backends_that_are_being_made_are_left_alone(monkeypatch):
    """JAX fills its table one by one; the default is set at the end."""
    jax.devices()
    assert 1 <= len(device_memory.backends())
    monkeypatch.setattr("jax._src.xla_bridge._default_backend", None)

    assert () == device_memory.backends()
    assert [] == list(device_memory.Readings()())
    assert device_memory.live_arrays() is None


def test_sampling_takes_no_lock_of_jax(probe):
    """A fork in the middle of a sample leaves no lock behind, and a slow start of a backend holds up nobody."""
    from jax._src import xla_bridge

    jax.devices()
    thread = threading.Thread(target=probe.sample_at, args=(0.0,))
    with xla_bridge._backend_lock:
        thread.start()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


# Live arrays


def test_live_arrays_are_counted_with_their_bytes(watch, probe):
    """What is made shows, what is dropped or deleted does not."""
    gc.collect()
    probe.sample_at(0.0)
    count, size = series(watch, "live_arrays").get("cpu:0", 0), series(watch, "live_array_bytes").get("cpu:0", 0)
    kept = [jax.device_put(np.ones((8, 16), np.float32)) for _ in range(5)]
    kept += [jax.device_put(np.ones(100, np.int8)), jax.device_put(np.ones((), np.float16))]
    probe.sample_at(HOUR)

    assert count + 7 == series(watch, "live_arrays")["cpu:0"]
    assert size + 5 * 8 * 16 * 4 + 100 + 2 == series(watch, "live_array_bytes")["cpu:0"]
    kept[0].delete()
    del kept[1:]
    probe.sample_at(2 * HOUR)

    assert count == series(watch, "live_arrays").get("cpu:0", 0)
    assert size == series(watch, "live_array_bytes").get("cpu:0", 0)


def test_donated_array_is_not_counted():
    """Its buffer is the result's now, whoever still refers to it."""
    given = jax.device_put(np.ones((77, 3), np.float32))
    result = jax.jit(lambda x: x + 1, donate_argnums=0)(given)
    found = [row["count"] for row in device_memory.largest(1_000) if row["shape"] == [77, 3]]

    assert given.is_deleted()
    assert [1] == found
    assert not result.is_deleted()


def test_arrays_deleted_while_they_are_summed_do_no_harm():
    """What was there at the start of the look counts to its end."""
    kept = jax.device_put(np.ones((123, 7), np.float32))
    flat, _ = device_memory._flat(device_memory.backends())
    kept.delete()
    ((aval, sharding, number),) = [group for group in device_memory._groups(flat) if group[0].shape == (123, 7)]

    assert 1 == number
    assert [("cpu:0", 123 * 7 * 4)] == device_memory._spread(aval, sharding)


def test_array_is_not_kept_alive(probe):
    """It dies with its last reference, while the result of the sample is still there."""
    kept = jax.device_put(np.ones((64, 64), np.float32))
    probe.sample_at(0.0)
    found = device_memory.largest(1_000)
    reference = weakref.ref(kept)
    del kept

    assert reference() is None
    assert [64, 64] in [row["shape"] for row in found]


def test_largest_arrays_are_grouped():
    """Alike ones are one row with their number; the row with most bytes comes first."""
    make = jax.jit(lambda: jnp.ones((31, 1000), np.float32))
    # Two of one program, which share their aval, and one that has its own.
    kept = [make(), make(), jax.device_put(np.ones((31, 1000), np.float32))]
    kept.append(jax.device_put(np.ones((17, 1000), np.float32)))
    found = [row for row in device_memory.largest(1_000) if row["shape"] in ([31, 1000], [17, 1000])]

    assert [(3, 3 * 31 * 4000, "float32", "cpu:0"), (1, 17 * 4000, "float32", "cpu:0")] == [
        (row["count"], row["bytes"], row["dtype"], row["devices"]) for row in found
    ]
    assert 1 == len(device_memory.largest(1))
    assert 4 == len(kept)


def test_arrays_that_are_not_alike_are_told_apart(monkeypatch):
    """Whatever numbers Python gives to avals and shardings, no two pairs are taken for one."""
    monkeypatch.setattr(device_memory, "id", lambda one: one, raising=False)

    assert {(1, 2, 2), (2, 1, 1), (3, 0, 1)} == set(device_memory._groups([1, 2, 2, 1, 3, 0, 1, 2]))


def test_many_arrays_are_counted_more_rarely(monkeypatch, probe):
    """A look that took a second of CPU time is not repeated for a quarter of an hour."""
    looks = []

    def costly():
        looks.append(1)
        return device_memory.LiveArrays(cost_s=1.0)

    monkeypatch.setattr(device_memory, "live_arrays", costly)
    for now in range(0, 2000, 5):
        probe.sample_at(float(now))

    assert 2 == len(looks)
    # Two figures are no growth yet, however often they are shown.
    assert {"host"} == set(probe._leaks.growth)


def test_array_in_host_memory_is_not_on_its_device():
    """What was put into the host's memory takes none of the accelerator's."""

    class Device:
        platform, id = "gpu", 0

    class Sharding:
        memory_kind, num_devices, addressable_devices = "pinned_host", 1, (Device(),)

    aval = jax.device_put(np.ones(4, np.float32)).aval

    assert [("host", 16)] == device_memory._spread(aval, Sharding())
    table = rows.rows_of([gpu(0)], device_memory.LiveArrays(count={"host": 1}, bytes={"host": 16}))
    published = rows.series_of(table)
    assert {("gpu:0",): 0.0, ("host",): 16.0} == published["live_array_bytes"]
    assert {("gpu:0",)} == set(published["device_memory_in_use_bytes"])


# Programs


def by_function(watch, metric: str, kind: str | None = None) -> dict[str, float]:
    rows_found = watch.snapshot()["metrics"].get(f"jitwatch_{metric}", [])
    return {
        row["labels"]["function"].partition("@")[0].rpartition(".")[2]: row["value"]
        for row in rows_found
        if kind is None or row["labels"]["kind"] == kind
    }


def test_programs_needs_are_read_without_another_compile(watch, probe):
    """Arguments and outputs are those of the call; temporaries, code and flops are XLA's to tell."""

    @jax.jit
    def target(x):
        return jnp.sin(x) @ x.T

    target(np.ones((64, 64), np.float32))
    before = watch.snapshot()["totals"]
    assert {} == by_function(watch, "executable_memory_bytes")
    probe.sample_at(0.0)

    assert {"target": 64 * 64 * 4} == by_function(watch, "executable_memory_bytes", "arguments")
    assert {"target": 64 * 64 * 4} == by_function(watch, "executable_memory_bytes", "outputs")
    assert {"target"} == set(by_function(watch, "executable_memory_bytes", "temporaries"))
    assert {"target"} == set(by_function(watch, "executable_memory_bytes", "code"))
    assert by_function(watch, "executable_flops")["target"] >= 2 * 64**3
    after = watch.snapshot()["totals"]
    assert (before["compiles"], before["jax_compiles"]) == (after["compiles"], after["jax_compiles"])


def test_program_that_needs_most_is_shown(watch, probe):
    """A small batch that compiles later does not hide the large one."""
    target = jax.jit(lambda x: x + 1)
    sizes = []
    for size in (1_000, 5_000, 10):
        target(np.ones(size, np.float32))
        probe.sample_at(0.0)
        sizes.append(by_function(watch, "executable_memory_bytes", "arguments")["<lambda>"])

    assert [4_000, 20_000, 20_000] == sizes
    (row,) = watch.snapshot()["memory"]["executables"]
    assert (20_000, 20_000) == (row["argument_bytes"], row["output_bytes"])
    assert row["total_bytes"] >= 40_000


def test_donated_argument_counts_once_in_the_total(watch, probe):
    """An output that lies in a donated argument takes no room of its own."""
    target = jax.jit(lambda x: x + 1, donate_argnums=0)
    target(jnp.ones(1_000, np.float32))
    probe.sample_at(0.0)
    (row,) = watch.snapshot()["memory"]["executables"]

    assert (4_000, 4_000, 4_000) == (row["argument_bytes"], row["output_bytes"], row["aliased_bytes"])
    assert 4_000 + row["temporary_bytes"] + row["code_bytes"] == row["total_bytes"]


def test_programs_of_jax_are_not_listed(watch, probe):
    """Eager operations are JAX's own."""
    jnp.arange(37) * 3
    probe.sample_at(0.0)

    assert [] == watch.snapshot()["memory"]["executables"]


@pytest.mark.usefixtures("compiled_anew")
def test_program_is_not_kept_alive(watch):
    """A program that is dropped before anybody looked at it is gone."""
    session = agent._agent.session
    target = jax.jit(lambda x: x * 5)
    target(np.ones(3))
    (waiting,) = session.executables._waiting
    reference = waiting.reference
    assert reference() is not None
    del target
    jax.clear_caches()
    gc.collect()

    assert reference() is None
    assert [] == list(session.executables.measure(1.0))


def test_waiting_programs_are_bounded(watch, probe):
    """Of endless compiles between two samples the latest count."""
    waiting = agent._agent.session.executables
    for _ in range(1_000):
        waiting.add(_function("f"), Program(Sizes, {}), 1.0)

    assert 256 == len(waiting._waiting)
    waiting.add(_function("f"), 7, 1.0)  # cannot be weakly referenced
    probe.sample_at(0.0)
    assert 0 == len(waiting._waiting)


def _function(name: str):
    from jitwatch.model.function import Function

    return Function(f"train.{name}", name)


class Program:
    """A program as a backend gives it that tells little."""

    def __init__(self, sizes: object = None, costs: object = None) -> None:
        self.xla_executable = self
        self.sizes, self.costs = sizes, costs

    def get_compiled_memory_stats(self):
        if isinstance(self.sizes, Exception):
            raise self.sizes
        return self.sizes

    def cost_analysis(self):
        if isinstance(self.costs, Exception):
            raise self.costs
        return self.costs


class Sizes:
    argument_size_in_bytes, output_size_in_bytes, temp_size_in_bytes = 10, 20, 30
    generated_code_size_in_bytes, alias_size_in_bytes = 40, 10


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({"flops": 12.0, "bytes accessed": 48.0}, (12.0, 48.0)),
        ([{"flops": 12.0}], (12.0, None)),
        ({"flops": -1.0, "bytes accessed": "x"}, (None, None)),
        ({}, (None, None)),
        ([], (None, None)),
        (None, (None, None)),
        (NotImplementedError("no"), (None, None)),
    ],
)
def test_costs_are_left_out_where_the_backend_has_none(watch, costs, expected):
    """The sizes count all the same."""
    waiting, program = agent._agent.session.executables, Program(Sizes, costs)
    waiting.add(_function("f"), program, 1.0)
    (found,) = waiting.measure(1.0)

    assert (10, 20, 30, 40, 90, expected) == (
        found.arguments,
        found.outputs,
        found.temporaries,
        found.code,
        found.total,
        (found.flops, found.bytes_accessed),
    )


def test_backend_without_sizes_is_no_failure(watch):
    """A plug-in may refuse; the next program is looked at."""
    waiting = agent._agent.session.executables
    programs = [Program(Sizes, {}), Program(NotImplementedError("no")), Program(None)]
    for program in programs:
        waiting.add(_function("f"), program, 1.0)

    assert 1 == len(list(waiting.measure(1.0)))


@pytest.mark.parametrize("make", [np.arange, jnp.arange])
def test_captured_constants_are_exported(watch, make):
    """Arrays of a mebibyte or more that a program holds, of the program with most."""
    table = make(MIB, dtype=np.float32)
    target = jax.jit(lambda x: x + jnp.asarray(table)[: x.shape[0]])
    plain = jax.jit(lambda y: y + 1)
    target(np.ones(2, np.float32))
    target(np.ones(3, np.float32))
    plain(1.0)
    values = watch.snapshot()["metrics"]["jitwatch_captured_constant_bytes"]

    assert [4 * MIB] == [row["value"] for row in values]
    assert [4 * MIB] * 2 == [record["constant_bytes"] for record in watch.events() if "constant_bytes" in record]
    rows_of_state = watch.snapshot()["functions"]
    assert {0, 4 * MIB} == {row["captured_constant_bytes"] for row in rows_of_state}


# Events


@pytest.fixture
def quiet_host(monkeypatch):
    """A machine whose memory stands still."""
    host = rows.HostMemory(resident=1 << 30, available=8 << 30, total=16 << 30)
    monkeypatch.setattr(rows, "host_memory", lambda: host)


def test_sample_event_comes_once_a_minute(watch, probe, quiet_host):
    """Where the memory is, slowly."""
    probe.source = lambda: [gpu(0)]
    for now in range(0, 121, 5):
        probe.sample_at(float(now))
    found = events(watch, "memory.sample")

    assert 3 == len(found)
    assert "gpu:0" in [row["device"] for row in found[0]["devices"]]
    assert (1 << 30, 8 << 30) == (found[0]["host_resident_bytes"], found[0]["host_available_bytes"])


def test_full_device_is_told(watch, probe, quiet_host):
    """memory.pressure, once, with the device; the state shows it while it lasts."""
    probe.source = lambda: [gpu(0, {"bytes_in_use": 95, "bytes_limit": 100}), gpu(1)]
    for now in (0.0, 5.0):
        probe.sample_at(now)

    (event,) = events(watch, "memory.pressure")
    assert ("gpu:0", "started", 0.95) == (event["place"], event["state"], event["ratio"])
    assert ["gpu:0"] == watch.snapshot()["memory"]["pressure"]


def test_machine_without_memory_is_told(monkeypatch, watch, probe):
    """The kernel is about to end processes."""
    monkeypatch.setattr(rows, "host_memory", lambda: rows.HostMemory(resident=1, available=1, total=100))
    probe.sample_at(0.0)

    assert [HOST] == [event["place"] for event in events(watch, "memory.pressure")]


def test_leak_is_told_and_its_slope_exported(monkeypatch, watch, probe, quiet_host):
    """A device that grows by 1 GiB an hour, under a saw-tooth."""
    monkeypatch.setattr(device_memory, "live_arrays", device_memory.LiveArrays)
    for now in range(0, HOUR, 5):
        grown = int(10 * 2**30 + now * 2**30 / HOUR + (now % 7) * 50 * MIB)
        probe.source = lambda grown=grown: [gpu(0, {"bytes_in_use": grown})]
        probe.sample_at(float(now))

    (leak,) = events(watch, "memory.leak")
    assert "device" == leak["growing"]
    slopes = series(watch, "memory_growth_bytes_per_second", "kind")
    assert 2**30 == pytest.approx(slopes["device"] * HOUR, rel=0.05)
    assert (0.0, 0.0) == (slopes["host"], slopes["live_arrays"])
    assert ["device"] == watch.snapshot()["memory"]["leaks"]


def test_leak_of_arrays_names_those_that_are_alike(monkeypatch, watch, probe, quiet_host):
    """With shape, number and bytes, and what to keep in their place."""
    history = [jnp.full((50, 7), float(number)) for number in range(12)]
    monkeypatch.setattr(device_memory, "live_arrays", device_memory.LiveArrays)
    for now in range(0, HOUR, 5):
        grown = int(10 * 2**30 + now * 2**30 / HOUR)
        probe.source = lambda grown=grown: [gpu(0, {"bytes_in_use": grown})]
        probe.sample_at(float(now))

    (leak,) = events(watch, "memory.leak")
    assert f"{len(history)} × float32[50,7] (16.4 KiB)" in leak["message"]
    assert "keep float(x) or jax.device_get(x)" in leak["message"]


def test_state_of_memory_is_json(watch, probe):
    """Everything that is shown can be sent."""
    jax.jit(lambda x: x)(1.0)
    probe.sample_at(0.0)
    state = json.loads(json.dumps(watch.snapshot()["memory"]))

    assert {
        "devices",
        "live_arrays",
        "host",
        "growth_bytes_per_second",
        "growth_cache_entries_per_hour",
        "leaks",
        "pressure",
        "executables",
    } == set(state)
    assert state["live_arrays"]["cost_seconds"] >= 0


def test_summary_detail_keeps_devices_and_leaves_functions_out():
    """No series by function; those by device are few."""
    with jitwatch.install(port=0, probes=["compile", "cache"], detail="summary", sample_interval_s=3600) as watch:
        running = agent._agent
        subject = MemoryProbe(ProbeContext(running.store, running.emit, running.session))
        jax.jit(lambda x: x)(1.0)
        subject.sample_at(0.0)
        found = watch.snapshot()["metrics"]

        assert "jitwatch_device_memory_in_use_bytes" in found
        assert "jitwatch_executable_memory_bytes" not in found


def test_probe_runs_in_the_agent():
    """Installed like the others, it brings its figures within seconds."""
    kept = jax.device_put(np.ones(10))
    with jitwatch.install(port=0, sample_interval_s=0.1) as watch:
        wait_until(lambda: "cpu:0" in series(watch, "live_arrays"), what="a sample of the memory")
        assert {"up": True, "reason": None} == watch.snapshot()["probes"]["memory"]
    assert not kept.is_deleted()


def test_probe_says_why_it_does_not_work(monkeypatch):
    """Where JAX keeps its backends elsewhere, nothing is asked at all."""
    monkeypatch.delattr("jax._src.xla_bridge._default_backend")
    with jitwatch.install(port=0) as watch:
        state = watch.snapshot()["probes"]["memory"]

    assert not state["up"]
    assert "_default_backend does not exist" in state["reason"]
