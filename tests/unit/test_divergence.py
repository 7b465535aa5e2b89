"""The first program that differs between processes: what counts as a difference, and how it is found."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from jitwatch.diagnosis import divergence
from jitwatch.diagnosis.divergence import Compile, first_divergence
from jitwatch.jaxhooks import coordination
from jitwatch.jaxhooks.compile.phases import Module
from jitwatch.model.events import Compiled, ProgramsDiverged
from jitwatch.model.function import Function
from jitwatch.probes import divergence as probe
from jitwatch.probes.divergence import Comparison, DivergenceProbe
from jitwatch.probes.probe import ProbeContext
from jitwatch.render import divergence as wording
from jitwatch.system.threads import pause
from tests.unit.logs import Writer, compiler, installed, read, written
from tests.waiting import wait_until

STEP = Function("train.step", "step", "train.py:10")


def compiles(*programs: str, is_called: bool = True) -> list[Compile]:
    """The compiles of a process: `f=1` is program 1 of the function f."""
    numbers: dict[str, int] = {}
    found = []
    for text in programs:
        function, _, program = text.partition("=")
        numbers[function] = numbers.get(function, 0) + 1
        found.append(
            Compile(function=function, program=program, nth=numbers[function], call_site="a.py:1", is_called=is_called)
        )
    return found


class TestFirst:
    """The comparison of the programs of all processes."""

    @pytest.mark.parametrize(
        "processes",
        [
            pytest.param({}, id="no process"),
            pytest.param({0: compiles("f=1")}, id="one process"),
            pytest.param({0: compiles("f=1", "g=2"), 1: compiles("f=1", "g=2")}, id="equal"),
            pytest.param({0: compiles("f=1", "f=2", "g=3"), 1: compiles("g=3", "f=2", "f=1")}, id="another order"),
            pytest.param({0: compiles("f=1"), 1: []}, id="a process without programs on all devices"),
            pytest.param({0: compiles("f=1", "f=1"), 1: compiles("f=1")}, id="compiled again"),
            pytest.param(
                {0: [*compiles("f=1"), *compiles("g=2", is_called=False)], 1: compiles("f=1")}, id="only looked at"
            ),
        ],
    )
    def test_no_difference(self, processes) -> None:
        assert first_divergence(processes) is None

    def test_another_program_names_both_groups(self) -> None:
        found = first_divergence({0: compiles("f=1", "g=2"), 1: compiles("f=1", "g=3"), 2: compiles("f=1", "g=2")})
        assert found is not None
        assert ("program", "g", 1) == (found.kind, found.function, found.nth)
        assert [("2", (0, 2)), ("3", (1,))] == [(one.program, some) for one, some in found.groups]
        assert (
            "Process 1 compiled a different program than processes 0 and 2: compile 1 of g (a.py:1)"
            == wording.message(found)
        )

    def test_first_in_the_order_of_compiles_is_reported(self) -> None:
        """Later differences may follow from it."""
        found = first_divergence({0: compiles("a=0", "g=1", "f=2"), 1: compiles("a=0", "g=5", "f=6")})
        assert found is not None
        assert "g" == found.function

    def test_second_compile_of_a_function(self) -> None:
        found = first_divergence({0: compiles("f=1", "f=2"), 1: compiles("f=1", "f=3")})
        assert found is not None
        assert 2 == found.nth

    def test_program_that_only_one_process_called(self) -> None:
        """This proves less than different programs of one function, which are always reported first."""
        extra = {0: compiles("f=1"), 1: compiles("f=1", "g=2")}
        found = first_divergence(extra)
        assert found is not None
        assert ("extra", "g") == (found.kind, found.function)
        assert "Only process 1 has compiled g (a.py:1), for the devices of all processes" == wording.message(found)
        later = {0: [*extra[0], *compiles("h=3")], 1: [*extra[1], *compiles("h=4")]}
        found = first_divergence(later)
        assert found is not None
        assert ("program", "h") == (found.kind, found.function)

    def test_process_that_is_behind_is_named_with_what_it_has(self) -> None:
        """The process has the first program of the function, as all processes, and neither of the two that differ."""
        found = first_divergence({0: compiles("f=1", "f=2"), 1: compiles("f=1", "f=3"), 2: compiles("f=1")})
        assert found is not None
        assert [("2", (0,)), ("3", (1,)), (None, (2,))] == [(one and one.program, some) for one, some in found.groups]

    def test_processes_that_are_behind_each_other_are_no_contradiction(self) -> None:
        """Each has a part of what the next one has: none has a program in the place of another one."""
        found = first_divergence({0: compiles("f=1", "f=2", "f=3"), 1: compiles("f=1", "f=2"), 2: compiles("f=1")})
        assert found is not None
        assert "extra" == found.kind

    def test_thousands_of_processes(self) -> None:
        programs = [f"f={number}" for number in range(50)]
        every = {process: compiles(*programs) for process in range(2_000)}
        assert first_divergence(every) is None
        every[1_234] = compiles(*programs[:-1], "f=other")
        found = first_divergence(every)
        assert found is not None
        assert [1_999, 1] == [len(some) for _, some in found.groups]
        assert "Process 1234 compiled a different program than processes" in wording.message(found)

    def test_process_that_is_far_behind_takes_little_time(self, monkeypatch) -> None:
        """A thousand programs that the other one lacks: while the job runs they are compared after each of them."""
        asked = []
        real = divergence._contradict
        monkeypatch.setattr(divergence, "_contradict", lambda *sets: asked.append(1) or real(*sets))
        found = first_divergence({0: compiles("f=0"), 1: compiles(*[f"f={number}" for number in range(1_000)])})
        assert found is not None
        assert "extra" == found.kind
        assert len(asked) < 10_000


class Service:
    """The key-value store of jax.distributed, in memory; it can become unavailable."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.calls = 0
        self.is_gone = False

    def put(self, key: str, value: str) -> None:
        self._called()
        self.values[key] = value

    def get(self, key: str) -> str | None:
        self._called()
        return self.values.get(key)

    def values_under(self, prefix: str) -> list[str]:
        self._called()
        return [value for key, value in list(self.values.items()) if key.startswith(prefix)]

    def _called(self) -> None:
        self.calls += 1
        if self.is_gone:
            raise coordination.UnavailableError("gone")


@pytest.fixture
def service(monkeypatch) -> Service:
    """The store that `jaxhooks.coordination` uses."""
    found = Service()
    for name in ("put", "get", "values_under"):
        monkeypatch.setattr(coordination, name, getattr(found, name))
    return found


class Process:
    """A process of a job: its comparison and the events that it emits."""

    def __init__(self, index: int, confirm_s: float, is_concurrent: Callable[[], bool] = lambda: False) -> None:
        self.events: list[ProgramsDiverged] = []
        self.comparison = Comparison(
            index,
            self.events.append,
            confirm_s=confirm_s,
            pauses_s=[0.01] * 200,
            is_concurrent=is_concurrent,
        )

    def compile(self, *programs: str) -> None:
        """Compile programs of a function."""
        for program in programs:
            self.comparison.add(STEP, program, "train.py:88")

    def settle(self) -> None:
        """Wait until process 0 has all programs of this one."""
        wait_until(lambda: self.comparison.is_settled, what="both have the same programs")


@pytest.fixture
def processes(service) -> Iterator[list[Process]]:
    """Two processes; both end with the test."""
    found = [Process(0, 0.0), Process(1, 0.05)]
    yield found
    for one in found:
        one.comparison.stop()
        assert one.comparison.join(10.0)


class TestWhileRunning:
    """The comparison through the service, in threads."""

    def test_both_processes_report_another_program(self, processes) -> None:
        zero, one = processes
        zero.compile("0a", "0b")
        one.compile("0a", "0c")
        wait_until(lambda: zero.events and one.events, what="both report it")
        assert ["0b", "0c"] == [zero.events[0].program, one.events[0].program]
        assert [1, 0] == [zero.events[0].other_process_index, one.events[0].other_process_index]
        assert zero.events[0].message == one.events[0].message
        assert "compile 2 of train.step (train.py:88)" in one.events[0].message

    def test_equal_programs_in_another_order_are_no_difference(self, processes, service) -> None:
        zero, one = processes
        zero.compile("0a", "0b", "0a")
        one.compile("0b", "0a")
        one.settle()
        assert [] == zero.events + one.events

    def test_difference_that_does_not_last_is_none(self, service) -> None:
        """Threads compile in any order: the other process compiles the program a moment later."""
        zero, one = Process(0, 0.0), Process(1, 60.0)
        zero.compile("0a")
        one.compile("0b")
        wait_until(lambda: one.comparison.has_difference, what="there is a difference")
        zero.compile("0b")
        one.compile("0a")
        one.settle()
        assert [] == zero.events + one.events
        for process in (zero, one):
            process.comparison.stop()
            assert process.comparison.join(10.0)

    def test_nothing_is_reported_while_threads_compile(self, service) -> None:
        """They may take minutes for the same programs in another order."""
        is_concurrent = [True]
        zero, one = Process(0, 0.0), Process(1, 0.0, lambda: is_concurrent[0])
        zero.compile("0a")
        one.compile("0b")
        wait_until(lambda: service.calls > 20, what="looks of both")
        assert [] == one.events
        is_concurrent[0] = False
        wait_until(lambda: one.events and zero.events, what="both report it")
        for process in (zero, one):
            process.comparison.stop()
            assert process.comparison.join(10.0)

    def test_service_that_is_gone_ends_the_comparison(self, processes, service) -> None:
        """No message is logged: the job may have shut down jax.distributed."""
        service.is_gone = True
        for process in processes:
            process.compile("0a")
            assert process.comparison.join(10.0)
            assert [] == process.events
            process.compile("0b")

    def test_restarted_agent_of_process_0_begins_anew(self, processes, service) -> None:
        """The programs of its earlier session are still known, and those of the new one are read."""
        zero, one = processes
        zero.compile("0a", "0b")
        one.compile("0a", "0b")
        one.settle()
        again = Process(0, 0.0)
        again.compile("0c")
        one.compile("0c")
        one.settle()
        assert [] == one.events
        again.comparison.stop()
        assert again.comparison.join(10.0)

    def test_no_thread_is_started_once_threads_are_patched(self, service, monkeypatch) -> None:
        """A green thread that waits for the queue would stop the job's own thread."""
        monkeypatch.setattr(probe, "is_patched", lambda: True)
        one = Process(1, 60.0)
        one.compile("0a")
        assert one.comparison._thread is None
        assert one.comparison.is_settled

    def test_no_thread_can_be_started(self, service, monkeypatch) -> None:
        """The compile does not notice it, and the next program is compared."""

        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        one = Process(0, 60.0)
        with monkeypatch.context() as patch:
            patch.setattr(probe.Thread, "start", refuse)
            one.compile("0a")
        one.compile("0b")
        wait_until(lambda: service.values, what="a program is published")
        one.comparison.stop()
        assert one.comparison.join(10.0)

    def test_programs_that_are_compiled_at_once_have_one_comparison(self, service, monkeypatch) -> None:
        """Two threads compile their first programs: a program of a second comparison would not be published."""
        go, made = threading.Barrier(2), []

        class Slow(Comparison):
            def __init__(self, *args, **options) -> None:
                made.append(self)
                super().__init__(*args, **options)
                if len(made) == 1:
                    go.wait(10.0)  # the other thread arrives
                    pause(0.2)

        monkeypatch.setattr(probe, "Comparison", Slow)
        monkeypatch.setattr(probe.compat, "process_place", lambda: (0, 2))
        activity = SimpleNamespace(running=list)
        session = SimpleNamespace(call_site=lambda: (None, None), phases=SimpleNamespace(activity=activity))
        found = DivergenceProbe(ProbeContext(None, lambda _: [], session))  # type: ignore[arg-type]

        def compile_second() -> None:
            go.wait(10.0)
            found._compiling(STEP, Module(True, fingerprint="0b"))

        other = threading.Thread(target=compile_second)
        other.start()
        found._compiling(STEP, Module(True, fingerprint="0a"))
        other.join(10.0)
        found.stop()
        assert 1 == len(made)
        assert made[0].join(10.0)


class TestReport:
    """The logs of all processes together."""

    @staticmethod
    def log(
        tmp_path, index: int, *programs: str, start_s: float = 0.0, name: str = "", hlo_dir: str = "", **seen
    ) -> str:
        """The log of a process with these programs of the step, whose first record is so much later."""
        writer = Writer("r1", index)
        writer.now += start_s
        events = [installed(hlo_dir=hlo_dir), compiler(process_index=index, **seen)]
        events += [
            Compiled(
                function=STEP,
                call_site="train.py:88",
                trace_s=0.1,
                lower_s=0.1,
                compile_s=1.0,
                nth=nth,
                program=program,
                hlo=f"{program}.mlir" if hlo_dir else None,
                on_all_processes=True,
            )
            for nth, program in enumerate(programs, 1)
        ]
        return written(tmp_path / f"{index}{name}.jsonl", writer.lines(*events))

    def test_first_divergence_is_in_the_report(self, tmp_path) -> None:
        paths = [
            self.log(tmp_path, 0, "0a", "0b"),
            self.log(tmp_path, 1, "0a", "0c"),
            self.log(tmp_path, 2, "0a", "0b"),
        ]
        found = read(*paths)["first_divergence"]
        assert ("program", "train.step", 2, "r1") == (found["kind"], found["function"], found["nth"], found["run"])
        assert [("0b", [0, 2]), ("0c", [1])] == [(one["program"], one["processes"]) for one in found["programs"]]
        assert "Process 1 compiled a different program than processes 0 and 2" in found["message"]
        assert "PYTHONHASHSEED" in found["advice"]
        json.dumps(found)

    def test_equal_logs_have_none(self, tmp_path) -> None:
        paths = [self.log(tmp_path, 0, "0a", "0b"), self.log(tmp_path, 1, "0a", "0b")]
        assert read(*paths)["first_divergence"] is None

    def test_other_flags_are_named(self, tmp_path) -> None:
        """Flags are named even if the programs are equal, since XLA compiles them differently."""
        paths = [self.log(tmp_path, 0, "0a"), self.log(tmp_path, 1, "0a", xla_flags=("--xla_a=1", "--xla_b=2"))]
        found = read(*paths)["first_divergence"]
        assert "compiler" == found["kind"]
        assert "The XLA flags differ: --xla_a=1 in process 0 and --xla_a=1 --xla_b=2 in process 1" == found["message"]
        assert "XLA_FLAGS" in found["advice"]

    def test_other_flags_of_single_processes_are_no_difference(self, tmp_path) -> None:
        """The processes are independent, as in a sweep."""
        paths = [
            self.log(tmp_path, 0, processes=1),
            self.log(tmp_path, 1, processes=1, xla_flags=("--xla_b=2",)),
        ]
        assert read(*paths)["first_divergence"] is None

    def test_restarted_job_is_not_compared_with_itself(self, tmp_path) -> None:
        """A job that is queued again has the same run and indices, and may have another program by now."""
        paths = [
            self.log(tmp_path, 0, "0a"),
            self.log(tmp_path, 1, "0a"),
            self.log(tmp_path, 0, "0b", start_s=600, name="again"),
            self.log(tmp_path, 1, "0b", start_s=601, name="again"),
        ]
        assert read(*paths)["first_divergence"] is None
        paths.append(self.log(tmp_path, 0, "0a", "0c", start_s=1200, name="last"))
        paths.append(self.log(tmp_path, 1, "0a", "0d", start_s=1201, name="last"))
        found = read(*paths)["first_divergence"]
        assert [("0c", [0]), ("0d", [1])] == [(one["program"], one["processes"]) for one in found["programs"]]

    def test_process_that_is_missing_in_one_start_is_not_replaced(self, tmp_path) -> None:
        """That of the other start is none of this one."""
        paths = [
            self.log(tmp_path, 0, "0a"),
            self.log(tmp_path, 1, "0b", start_s=600, name="again"),
            self.log(tmp_path, 0, "0b", start_s=601, name="again"),
        ]
        assert read(*paths)["first_divergence"] is None

    def test_jobs_that_ran_at_once_are_not_compared(self, tmp_path) -> None:
        """Two jobs in one allocation have the same run and indices."""
        paths = [self.log(tmp_path, index, f"0{job}", name=job) for job in "ab" for index in (0, 1)]
        assert read(*paths)["first_divergence"] is None

    @pytest.mark.parametrize("kind", ["fifo", "device"])
    def test_only_regular_files_of_programs_are_read(self, tmp_path, kind) -> None:
        """A log names the folder, which is not trusted: a FIFO would never end, nor would a device."""
        if kind == "fifo":
            os.mkfifo(tmp_path / "0b.mlir")
        else:
            (tmp_path / "0b.mlir").symlink_to("/dev/full")
        (tmp_path / "0c.mlir").write_text("module @m {\n}\n")
        paths = [
            self.log(tmp_path, 0, "0a", "0b", hlo_dir=str(tmp_path)),
            self.log(tmp_path, 1, "0a", "0c", hlo_dir=str(tmp_path)),
        ]
        found = read(*paths)["first_divergence"]
        assert ("program", None) == (found["kind"], found["difference"])
