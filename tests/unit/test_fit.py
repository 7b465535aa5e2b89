"""Programs that will not fit in the memory that a device has left: what is reported, when, and the compile's wait."""

from __future__ import annotations

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch import agent, guard
from jitwatch.diagnosis.pressure import Use
from jitwatch.jaxhooks.memory import device_memory, programs
from jitwatch.model.devices import Reading
from jitwatch.model.function import Function
from jitwatch.probes import MemoryProbe, ProbeContext, fit
from jitwatch.render import wording

DEADLINE_S = 20.0
MIB = 1 << 20
F = Function("train.f", "f", "/home/ada/train.py:1")

pytestmark = pytest.mark.usefixtures("compiled_anew")


@pytest.fixture
def watch():
    with jitwatch.install(port=0, probes=["compile", "cache"], sample_interval_s=3600) as installed:
        yield installed


@pytest.fixture
def probe(watch, monkeypatch):
    """A probe that waits for each check, on a processor that reports 8 of 10 MiB in use."""
    monkeypatch.setattr(fit, "_LEAST_S", DEADLINE_S)
    monkeypatch.setattr(fit, "_LONGEST_S", DEADLINE_S)
    running = agent._agent
    subject = MemoryProbe(ProbeContext(running.store, running.emit, running.session))
    subject.source = lambda: [device(8)]
    subject.start()
    subject.sample_at(0.0)
    yield subject
    subject.stop()


def device(in_use_mib: int, limit_mib: int | None = 10, name: str = "cpu:0") -> Reading:
    """A device of the process, with memory statistics as on a GPU."""
    statistics = None if limit_mib is None else {"bytes_in_use": in_use_mib * MIB, "bytes_limit": limit_mib * MIB}
    return Reading(name, "card", "cpu", statistics)


def events(watch) -> list[dict[str, object]]:
    return [
        record
        for record in watch.events()
        if record["event"] == "memory.pressure" and record["state"] == "will_not_fit"
    ]


def doubled():
    """A function whose result is as large as its argument."""
    return jax.jit(lambda x: x * 2)


def test_program_that_will_not_fit_is_reported_before_it_runs(watch, probe):
    """3 MiB are needed and 2 MiB left: device, bytes, the largest buffers, and a sentence."""
    at_first_call = []
    target = jax.jit(lambda x: x[0] * jnp.ones(3 * MIB // 4))
    compiled = target.lower(np.ones(5, np.float32)).compile()
    at_first_call += events(watch)
    compiled(np.ones(5, np.float32))
    (event,) = events(watch)

    assert [event] == at_first_call
    assert ("cpu:0", "will_not_fit", 8 * MIB, 10 * MIB, 0.8) == tuple(
        event[key] for key in ("place", "state", "in_use_bytes", "limit_bytes", "ratio")
    )
    assert event["function"].partition("@")[0].endswith("<lambda>")
    assert 3 * MIB == event["needed_bytes"]
    assert [3 * MIB] == [row["bytes"] for row in event["peak_buffers"]]
    assert " needs 3 MiB more, but cpu:0 has 2 MiB of 10 MiB left. " in event["message"]
    assert "f32[786432]" in event["message"]


def test_report_precedes_the_first_call(watch, probe):
    """In a call that compiles, the callback of the program already finds the event."""
    found = []

    @jax.jit
    def target(x):
        jax.debug.callback(lambda: found.extend(events(watch)))
        return x[0] * jnp.ones(3 * MIB // 4)

    jax.block_until_ready(target(np.ones(5, np.float32)))
    jax.effects_barrier()
    assert 1 == len(found)


def test_program_that_fits_is_not_reported(watch, probe):
    """1 MiB is needed and 2 MiB are left."""
    doubled()(np.ones(MIB // 4, np.float32))
    assert [] == events(watch)


def test_arguments_are_in_use_already(watch, probe):
    """The arguments have 7 MiB, the result less than 2 MiB."""
    jax.jit(lambda x: x.sum())(np.ones(7 * MIB // 4, np.float32))
    assert [] == events(watch)


def test_output_in_a_donated_argument_needs_nothing(watch, probe):
    """The 6 MiB of the output are in use already."""
    jax.jit(lambda x: x + 1, donate_argnums=0)(jnp.ones(6 * MIB // 4))
    assert [] == events(watch)


def test_program_that_is_larger_than_the_device_is_reported(watch, probe):
    """It would not fit even if the device was empty: the event has all bytes that it needs."""
    probe.source = lambda: [device(0)]
    doubled().lower(jax.ShapeDtypeStruct((6 * MIB // 4,), np.float32)).compile()
    (event,) = events(watch)

    assert 12 * MIB == event["needed_bytes"]
    assert " needs 12 MiB, but the limit of cpu:0 is 10 MiB. " in event["message"]


def test_devices_of_other_programs_do_not_count(watch, probe):
    """The program runs on one device; another one is full."""
    probe.source = lambda: [device(0), device(10, name="cpu:77")]
    doubled()(np.ones(3 * MIB // 4, np.float32))
    assert [] == events(watch)


def test_operations_outside_of_jit_are_not_checked(watch, probe):
    """JAX's own programs are small and many."""
    jnp.ones(3 * MIB // 4) + 17
    assert [] == events(watch)


def test_function_is_reported_once_a_minute(watch, probe):
    """A storm causes one report for each function."""
    target = doubled()
    for extra in range(3):
        target(np.ones(3 * MIB // 4 + extra, np.float32))
    jax.jit(lambda x: x * 3)(np.ones(3 * MIB // 4, np.float32))

    assert 2 == len(events(watch))


def test_functions_that_are_remembered_are_bounded(watch, probe):
    """The job has an unlimited number of functions."""
    for number in range(1_000):
        event = fit.shortage_of(Function(f"f{number}", "f", None), _Sizes, [Use("cpu:0", 5, 10)])
        probe._fit.report(event)
    assert len(probe._fit._reported) <= 256


class _Sizes:
    argument_size_in_bytes, output_size_in_bytes, temp_size_in_bytes, alias_size_in_bytes = 0, 4, 4, 0


def test_event_does_not_count_as_a_device_that_is_nearly_full(watch, probe):
    """Pressure lasts from `started` to `ended`; `will_not_fit` changes neither."""
    doubled()(np.ones(3 * MIB // 4, np.float32))
    probe.sample_at(5.0)

    assert 1 == len(events(watch))
    assert "cpu:0" not in watch.snapshot()["memory"]["pressure"]


# What the compile waits for


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "jitwatch-fit"]


def test_backend_without_statistics_is_never_asked(watch, probe, monkeypatch):
    """As on CPUs, no thread is started and no device is read."""
    probe.source = lambda: [device(0, None)]
    probe.sample_at(5.0)
    monkeypatch.setattr(fit, "Thread", lambda **_: pytest.fail("a thread"))
    doubled()(np.ones(3 * MIB // 4, np.float32))

    assert [] == events(watch)


@pytest.mark.parametrize(("platform", "expected"), [("cpu", False), ("gpu", True)])
def test_before_the_first_sample_the_platform_decides(watch, monkeypatch, platform, expected):
    """On CPUs, no device is read from the first compile on."""

    class Backend:
        pass

    Backend.platform = platform
    subject = MemoryProbe(ProbeContext(agent._agent.store, agent._agent.emit, agent._agent.session))
    monkeypatch.setattr(device_memory, "backends", lambda: (Backend(),))
    assert expected is subject._has_limits()


def test_device_that_hangs_delays_the_compile_by_a_bounded_time(watch, probe, monkeypatch):
    """The delay is milliseconds; while the device hangs, later compiles are not delayed."""
    monkeypatch.setattr(fit, "_LEAST_S", 0.05)
    monkeypatch.setattr(fit, "_LONGEST_S", 0.05)
    release, asked = threading.Event(), []

    def source():
        asked.append(1)
        release.wait(DEADLINE_S)
        return [device(8)]

    probe.source = source
    checked = probe._fit
    program = Program()
    try:
        for _ in range(3):
            started = time.monotonic()
            checked.compiled(F, program, 0.1)
            assert time.monotonic() - started < 5
        assert ([1], ["jitwatch-fit"]) == (asked, threads())
    finally:
        release.set()
        checked.stop()

    assert [] == threads()
    # What came too late would count the program's own memory.
    assert [] == events(watch)
    assert 0 == program.asked


class Program:
    """A program that is larger than the device, and counts how often it was asked."""

    def __init__(self) -> None:
        self.xla_executable, self.asked = self, 0

    def get_compiled_memory_stats(self):
        self.asked += 1
        return _Sizes


@pytest.mark.parametrize(
    ("compile_s", "expected"), [(0.0, 0.002), (0.1, 0.002), (2.0, 0.02), (10.0, 0.1), (3_600.0, 0.5)]
)
def test_compile_waits_for_a_share_of_its_own_time(watch, monkeypatch, compile_s, expected):
    """The wait is a hundredth of the compile, within limits."""
    waited = []

    class Never:
        def wait(self, timeout_s: float) -> bool:
            waited.append(timeout_s)
            return False

        def set(self) -> None:
            pass

    monkeypatch.setattr(fit, "Latch", Never)
    check = fit.FitCheck(ProbeContext(agent._agent.store, agent._agent.emit, agent._agent.session), read=list,
                         has_limits=lambda: True)  # fmt: skip
    check.compiled(F, Program(), compile_s)
    check.stop()

    assert [expected] == waited


@pytest.mark.parametrize("error", [RuntimeError("driver is gone"), MemoryError()])
def test_failure_is_not_the_jobs(watch, probe, monkeypatch, error):
    """The compile continues, and the failure is counted."""
    monkeypatch.setattr(guard, "reraise", False)

    def source():
        raise error

    probe.source = source
    assert [2.0, 2.0] == list(doubled()(np.ones(2, np.float32)))
    assert [] == events(watch)


def test_nothing_is_checked_once_threads_are_patched(watch, probe, monkeypatch):
    """A green thread runs in the job's own one, where a driver that hangs would stop the job."""
    monkeypatch.setattr(fit, "is_patched", lambda: True)
    monkeypatch.setattr(fit, "Thread", lambda **_: pytest.fail("started"))
    probe._fit.compiled(F, Program(), 1.0)


def test_thread_that_cannot_start_is_not_the_jobs(watch, probe, monkeypatch):
    """No thread is left in the process."""
    monkeypatch.setattr(guard, "reraise", False)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(fit.Thread, "start", refuse)
    assert [2.0, 2.0] == list(doubled()(np.ones(2, np.float32)))


def test_stopped_probe_checks_nothing(watch, probe):
    """The session has no reference to the probe."""
    probe.stop()
    assert agent._agent.session.executables.on_compiled is None
    doubled()(np.ones(3 * MIB // 4, np.float32))
    assert [] == events(watch)


def test_program_that_was_freed_is_not_reported(watch, probe):
    """The program was freed before the thread has read it."""
    sizes = programs.sizes_of(object())
    assert sizes is None
    assert set() == programs.devices_of(object())


def test_sentence_without_buffers_ends_after_the_figures():
    """The backend lists no buffers."""
    event = fit.shortage_of(F, _Sizes, [Use("gpu:0", 5, 10)])
    assert (
        "train.f needs 8 bytes more, but gpu:0 has 5 bytes of 10 bytes left. Donate arguments that are not used again, "
        "use a smaller batch, or use jax.checkpoint."
    ) == wording.of_shortage(event)
