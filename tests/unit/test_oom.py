"""Memory runs out: what is written down, when, and how often; the error itself stays as it is."""

from __future__ import annotations

import gc
import json
import sys
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

import jitwatch
from jitwatch import agent, guard
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.memory import device_memory, oom_errors
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.events import OutOfMemory
from jitwatch.probes import MemoryProbe
from jitwatch.probes.oom_report import OutOfMemoryReport
from tests.unit import payloads
from tests.unit.test_oom_texts import GPU

DEADLINE_S = 20.0
#: More bytes than a processor has addresses for: really refused, on any machine.
HUGE = 1 << 54
TEXT = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7406166528 bytes."


@pytest.fixture(autouse=True)
def nothing_runs():
    """While a program runs in the background, the next one does so, too, and its error comes later."""
    jax.block_until_ready(jnp.ones(3) + 1)


@pytest.fixture
def watch(tmp_path):
    with jitwatch.install(port=0, sample_interval_s=3600, event_log=tmp_path / "log.jsonl") as installed:
        yield installed


def events(watch) -> list[dict[str, object]]:
    return [record for record in watch.events() if record["event"] == "memory.oom"]


def total(watch) -> float:
    return watch.snapshot()["metrics"]["jitwatch_oom_total"][0]["value"]


@pytest.fixture
def too_large():
    """A function whose result fits nowhere, not compiled yet."""

    @jax.jit
    def too_large(x):
        return jnp.zeros((HUGE,), jnp.int8) + x

    return too_large


def failing(call, *args):
    """The error that a call ends in."""
    with pytest.raises(JaxRuntimeError, match="RESOURCE_EXHAUSTED") as caught:
        call(*args)
    return caught.value


def uncaught(error: BaseException) -> None:
    """What the interpreter does with an error that nobody caught."""
    try:
        raise error
    except type(error) as raised:
        sys.excepthook(type(raised), raised, raised.__traceback__)


def test_nothing_ran_out_yet(watch):
    """The counter starts at 0."""
    assert 0.0 == total(watch)


def test_call_that_runs_out_is_written_down(watch, too_large):
    """Program, function, line, devices, the largest arrays, programs and the last compiles; all of it small."""
    kept = [jax.device_put(np.ones((4321, 10), np.float32)) for _ in range(3)]
    jax.jit(lambda x: x[0])(kept[0])
    failing(too_large, jnp.int8(1))
    (event,) = events(watch)

    assert 1.0 == total(watch)
    assert "jit(too_large)" == event["program"]
    assert event["function"].partition("@")[0].endswith("too_large")
    assert event["call_site"].rpartition(":")[0] == __file__
    assert f"RESOURCE_EXHAUSTED: Out of memory allocating {HUGE} bytes." == event["message"]
    (device,) = [row for row in event["devices"] if row["device"] == "cpu:0"]
    assert device["live_array_bytes"] >= 3 * 4 * 43210
    # Arrays that earlier tests left on other devices count too.
    assert sum(row["live_array_bytes"] for row in event["devices"]) == event["live_array_bytes"]
    (group,) = [row for row in event["arrays"] if row["shape"] == [4321, 10]]
    assert (3, 3 * 4 * 43210) == (group["count"], group["bytes"])
    assert ("float32", "cpu:0") == (group["dtype"], group["devices"])
    assert HUGE == event["executables"][0]["output_bytes"]
    assert ["too_large", "<lambda>"] == [
        one["function"].partition("@")[0].rpartition(".")[2] for one in event["compiles"]
    ]
    assert len(json.dumps(event)) < 16_000
    assert 3 == len(kept)


def test_buffers_of_the_error_and_of_the_program_are_written_down(watch, too_large, monkeypatch):
    """The list of XLA's text, as on GPUs; and what the program that failed needs."""
    failing(too_large, jnp.int8(1))
    (event,) = events(watch)
    (row, *_) = event["executables"]

    assert HUGE == event["allocation_bytes"]
    assert "peak_buffers" not in event
    assert [(HUGE, f"s8[{HUGE}]", 1.0)] == [(one["bytes"], one["shape"], one["share"]) for one in row["peak_buffers"]]
    assert row["peak_buffers"][0]["call_site"].rpartition(":")[0] == __file__

    report_at(watch, [0.0]).handle(JaxRuntimeError(GPU), "", None)
    assert [16 << 30, 2 << 30, 512 << 10] == [one["bytes"] for one in events(watch)[-1]["peak_buffers"]]
    assert 16 << 30 == events(watch)[-1]["allocation_bytes"]


def test_buffers_of_few_programs_are_written_down(watch, too_large):
    """A record is small: those of the largest three programs, and of the one that failed."""
    kept = [
        jax.jit(lambda x: x + 1),
        jax.jit(lambda x: x + 2),
        jax.jit(lambda x: x + 3),
        jax.jit(lambda x: x + 4),
        jax.jit(lambda x: x + 5),
    ]
    for number, function in enumerate(kept, 1):
        function(np.ones(10_000 * number, np.float32))
    report_at(watch, [0.0]).handle(JaxRuntimeError(TEXT), "", None)
    (event,) = events(watch)

    assert [True] * 3 + [False] * 2 == [bool(row.get("peak_buffers")) for row in event["executables"]]
    # The state keeps them.
    assert all(row["peak_buffers"] for row in watch.snapshot()["memory"]["executables"])


def test_event_is_in_the_log_before_the_job_sees_the_error(watch, tmp_path, too_large):
    """Whatever the job does next, it is written."""
    failing(too_large, jnp.int8(1))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()

    assert ["memory.oom"] == [json.loads(line)["event"] for line in lines if '"memory.oom"' in line]
    assert OutOfMemory.is_urgent


def test_error_stays_as_it_is(watch, too_large):
    """Same class, text, notes and cause as without the agent."""
    watched = failing(too_large, jnp.int8(1))
    jitwatch.uninstall()
    bare = failing(too_large, jnp.int8(1))

    assert type(bare) is type(watched)
    assert bare.args == watched.args
    assert getattr(bare, "__notes__", []) == getattr(watched, "__notes__", [])
    assert (bare.__cause__ is None, bare.__context__ is None) == (
        watched.__cause__ is None,
        watched.__context__ is None,
    )


def test_frames_of_ours_are_hidden(watch, too_large):
    """JAX leaves our file out of the traceback that it shows, as it does with its own."""
    error = failing(too_large, jnp.int8(1))
    files = set()
    trace = error.__traceback__
    while trace is not None:
        files.add(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next

    assert oom_errors.__file__ not in files


def test_error_and_arguments_are_not_kept_alive(watch):
    """They die as soon as the job lets go of them."""
    argument = jax.device_put(np.ones(11, np.int8))
    error = failing(jax.jit(lambda x: jnp.zeros((HUGE,), jnp.int8) + x[0]), argument)
    found = weakref.ref(error), weakref.ref(argument)
    assert 1 == len(events(watch))
    del error, argument
    gc.collect()

    assert (None, None) == (found[0](), found[1]())


def test_ahead_of_time_compiled_call_is_seen(watch, too_large):
    """A call of a compiled object goes another way."""
    compiled = too_large.lower(jnp.int8(1)).compile()
    failing(compiled, jnp.int8(1))

    assert ["jit(too_large)"] == [event["program"] for event in events(watch)]


def test_eager_operation_is_seen(watch):
    """JAX's own programs run out too; they are no function of the job's."""
    failing(lambda: jnp.zeros((HUGE,), jnp.int8))
    (event,) = events(watch)

    assert event["function"] in (None, "__jax__")
    assert event["program"].startswith("jit(")


def test_compile_that_runs_out_is_seen(watch, monkeypatch):
    """XLA refuses a program that cannot fit; it is a failed compile as well."""

    def refuse(*args, **kwargs):
        raise JaxRuntimeError(TEXT)

    monkeypatch.setattr("jax._src.compiler.compile_or_get_cached", refuse)
    failing(jax.jit(lambda x: x * 3), np.ones(3))
    (event,) = events(watch)

    assert TEXT == event["message"]
    assert "jit(<lambda>)" == event["program"].replace("_lambda_", "<lambda>")
    assert 1 == watch.snapshot()["totals"]["failures"]


def test_uncaught_error_of_a_call_from_cpp_is_seen(watch, capsys):
    """Where JAX runs no Python; the interpreter prints it as always."""
    uncaught(JaxRuntimeError(TEXT))
    (event,) = events(watch)

    assert "" == event["program"]
    assert event["call_site"].rpartition(":")[0] == __file__
    assert TEXT in capsys.readouterr().err


def test_uncaught_error_in_a_thread_is_seen(watch, monkeypatch):
    """Threads have a hook of their own."""
    seen = []
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    jitwatch.uninstall()
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    with jitwatch.install(port=0, sample_interval_s=3600) as again:
        thread = threading.Thread(target=uncaught_in_thread)
        thread.start()
        thread.join()
        assert [JaxRuntimeError] == seen
        assert 1 == len(events(again))


def uncaught_in_thread() -> None:
    raise JaxRuntimeError(TEXT)


@pytest.mark.versions(python=">=3.12", reason="Python 3.11 does not report errors that the job catches")
def test_caught_error_of_a_call_from_cpp_is_seen(watch):
    """From Python 3.12 on also those are seen that the job catches."""
    with pytest.raises(JaxRuntimeError):
        raise JaxRuntimeError(TEXT)

    assert 1 == len(events(watch))


def test_caught_error_of_a_donating_call_is_seen(watch):
    """Those calls are watched, so that an error from C++ is told on every Python, also one that the job catches."""
    donating = jax.jit(lambda x: x * 2, donate_argnums=0)

    def refuse(*args):
        raise JaxRuntimeError(TEXT)

    donating._calls.jitted = refuse
    failing(donating, jnp.ones(3))

    assert 1 == len(events(watch))


def test_one_error_at_several_places_is_one_event(watch, capsys, too_large):
    """The compiler's, the call's and the interpreter's view of it."""
    error = failing(too_large, jnp.int8(1))
    uncaught(error)
    agent._agent.session.call_failed(error)

    assert 1 == len(events(watch))
    assert capsys.readouterr().err


def test_many_errors_of_one_shortage_are_one_event(watch, too_large):
    """Every array that waited for the program raises the same text."""
    for _ in range(5):
        failing(too_large, jnp.int8(1))

    assert (1, 1.0) == (len(events(watch)), total(watch))


def test_shortages_that_differ_are_told_each(watch, too_large):
    """Another size is another attempt."""
    failing(too_large, jnp.int8(1))
    failing(jax.jit(lambda x: jnp.zeros((2 * HUGE,), jnp.int8) + x), jnp.int8(1))

    assert (2, 2.0) == (len(events(watch)), total(watch))


def report_at(watch, times: list[float]) -> OutOfMemoryReport:
    """A report whose clock shows these times, one a look."""
    probe = next(one for one in agent._agent._probes if isinstance(one, MemoryProbe))
    left = iter(times)
    return OutOfMemoryReport(probe.context, read=lambda found: [], clock=lambda: next(left))


def test_same_shortage_later_is_told_again(watch):
    """Within a minute of the last it is the same one, later a new one."""
    report = report_at(watch, [0.0, 59.0, 118.0, 178.0])
    for _ in range(4):
        report.handle(JaxRuntimeError(TEXT), "", None)

    assert 2 == len(events(watch))


def test_same_shortage_of_another_function_is_told(watch):
    """As large in two functions: both are named, and each of them once."""
    first = jax.jit(lambda x: jnp.zeros((HUGE,), jnp.int8) + x)
    second = jax.jit(lambda x: jnp.zeros((HUGE,), jnp.int8) - x)
    for function in (first, second, first, second):
        failing(function, jnp.int8(1))

    assert (2, 2.0) == (len({event["function"] for event in events(watch)}), total(watch))


def test_error_without_a_text_is_told_by_its_class(watch):
    """XLA's errors always have one; a class alone is better than nothing."""
    report_at(watch, [0.0]).handle(JaxRuntimeError(), "", None)

    assert ["JaxRuntimeError"] == [event["message"].replace("Xla", "Jax") for event in events(watch)]


def test_texts_that_are_remembered_are_bounded(watch):
    """Endless different shortages keep the last few texts only."""
    report = report_at(watch, [float(number) for number in range(100)])
    for number in range(100):
        report.handle(JaxRuntimeError(f"RESOURCE_EXHAUSTED: {number}"), "", None)

    assert 32 == len(report._reported)


def test_status_of_the_error_counts_before_its_text(too_large):
    """Where XLA's error says what it is, its text is not read; JAX gives it one since 0.9.1."""
    error = failing(too_large, jnp.int8(1))
    if hasattr(error, "error_code_string"):
        error.args = ("something else",)
    assert oom_errors.says_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (JaxRuntimeError(TEXT), True),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Attempting to reserve 5.2G at the bottom of memory"), True),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Buffer Definition Event: Out of memory allocating 9 bytes."), True),
        (JaxRuntimeError("INTERNAL: Buffer Definition Event: Out of memory allocating 9 bytes."), True),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), True),
        (ValueError("not enough: RESOURCE_EXHAUSTED"), False),
        (ValueError("Out of memory"), False),
        (JaxRuntimeError("INVALID_ARGUMENT: Buffer has been deleted or donated."), False),
        (JaxRuntimeError("INTERNAL: " + "x" * 1000 + " RESOURCE_EXHAUSTED"), False),
        (JaxRuntimeError(), False),
        (ValueError(b"RESOURCE_EXHAUSTED"), False),
    ],
)
def test_only_shortages_of_memory_count(error, expected):
    """The status at the beginning of XLA's text, or the allocator's words in it."""
    assert expected == oom_errors.says_out_of_memory(error)


def test_error_classes_of_the_job_are_left_alone(watch):
    """Nothing of an exception that is not JAX's is read, since that may run code of the user."""

    class Nosy(JaxRuntimeError):
        @property
        def args(self):
            raise AssertionError("the agent looked")

    agent._agent.session.call_failed(Nosy(TEXT))
    agent._agent.session.call_failed(KeyError(TEXT))

    assert [] == events(watch)


def test_part_that_fails_does_not_take_the_others_with_it(watch, monkeypatch, too_large):
    """In a process without memory anything may fail; the rest is written."""
    monkeypatch.setattr(guard, "reraise", False)

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(device_memory, "largest", fail)
    monkeypatch.setattr(device_memory, "live_arrays", fail)
    failing(too_large, jnp.int8(1))
    (event,) = events(watch)

    assert ([], None) == (event["arrays"], event["live_arrays"])
    assert event["compiles"][0]["function"].partition("@")[0].endswith(".too_large")


def test_failure_of_ours_is_not_the_jobs(watch, monkeypatch, too_large):
    """The job gets its error, whatever becomes of the event."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(OutOfMemoryReport, "_is_new", lambda *_: 1 / 0)
    failing(too_large, jnp.int8(1))

    assert [] == events(watch)


def test_error_within_the_report_is_not_reported(watch, monkeypatch, too_large):
    """The report itself may run out of memory; it does not begin anew."""

    def fail_again():
        error = JaxRuntimeError("RESOURCE_EXHAUSTED: again")
        agent._agent.session.call_failed(error)
        return device_memory.LiveArrays()

    monkeypatch.setattr(device_memory, "live_arrays", fail_again)
    failing(too_large, jnp.int8(1))

    assert 1 == len(events(watch))


def test_device_that_hangs_delays_the_error_by_a_bounded_time_only(watch, monkeypatch, too_large):
    """Its row says so, and the job gets its error."""
    release, threads = threading.Event(), []

    def source():
        threads.append(threading.current_thread())
        yield payloads.gpu(0)
        release.wait(DEADLINE_S)

    monkeypatch.setattr(MemoryProbe, "source", staticmethod(source))
    try:
        failing(too_large, jnp.int8(1))
        (event,) = events(watch)
        assert "gpu:0" in [row["device"] for row in event["devices"]]
    finally:
        release.set()
        for thread in threads:
            thread.join(DEADLINE_S)


def test_after_uninstalling_nothing_is_watched(watch, too_large):
    """JAX is as it was, and the error goes by."""
    jitwatch.uninstall()
    failing(too_large, jnp.int8(1))

    assert [] == events(watch)


def test_without_the_probe_nothing_is_watched(too_large):
    """Who does not want it does not pay for it."""
    with jitwatch.install(port=0, probes=["compile", "cache"], sample_interval_s=3600) as watch:
        failing(too_large, jnp.int8(1))
        assert [] == events(watch)


def test_watchers_of_raised_errors_share_one_hook(capsys):
    """Two parts of the agent are each told of their own classes, until each stops."""
    told: list[tuple[str, str]] = []
    patchers = Patcher(), Patcher()
    watch_raises(patchers[0], (KeyError,), (), lambda error, *_: told.append(("first", type(error).__name__)))
    watch_raises(patchers[1], (KeyError, OSError), (), lambda error, *_: told.append(("second", type(error).__name__)))
    uncaught(KeyError("a"))
    uncaught(OSError("b"))
    everything = {("first", "KeyError"), ("second", "KeyError"), ("second", "OSError")}

    assert everything == set(told)
    told.clear()
    assert [] == patchers[1].restore()
    uncaught(KeyError("c"))
    assert {("first", "KeyError")} == set(told)
    assert [] == patchers[0].restore()
    told.clear()
    uncaught(KeyError("d"))
    assert [] == told
    assert 4 == capsys.readouterr().err.count("Error: ")
