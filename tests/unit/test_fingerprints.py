"""Fingerprints of programs: equal for equal programs, known before XLA compiles them, and their part of the state."""

from __future__ import annotations

import importlib
import itertools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jitwatch
from jitwatch.jaxhooks.compile import modules
from jitwatch.jaxhooks.compile.phases import PhaseClock, Work
from jitwatch.model.events import Compiled, CompilerSeen
from jitwatch.model.function import Function
from jitwatch.state.programs import Programs, number_of
from jitwatch.state.tables import MetricTables
from tests.unit.test_persistent_cache import cache_in, options_of_jax

STEP = Function("train.step", "step", "train.py:10")
EVALUATE = Function("train.evaluate", "evaluate", "train.py:20")


def scaled_by(factor: float):
    """A jitted function that multiplies by a constant."""

    @jax.jit
    def step(x):
        return jnp.sin(x) * factor

    return step


def moved(factor: float):
    """The same function, with different names and on different lines."""

    def step(values):
        # One line more than in the other function.
        sines = jnp.sin(values)
        return sines * factor

    return jax.jit(step)


def calling_back():
    """A function with its own Python callback."""

    @jax.jit
    def step(x):
        return jax.pure_callback(lambda value: value, jax.ShapeDtypeStruct((3,), jnp.float32), x)

    return step


def programs_of(*functions, argument=(1.0, 2.0, 3.0), dtype=np.float32) -> list[str]:
    """The fingerprints of the programs that calls of these functions compile."""
    with jitwatch.install(port=0) as watch:
        for function in functions:
            function(np.asarray(argument, dtype))
        return [record.get("program", "") for record in watch.events() if record.get("name") == "step"]


def test_equal_programs_have_equal_fingerprints() -> None:
    """The Python functions may differ; another constant, shape or dtype changes the fingerprint."""
    first, *others = programs_of(scaled_by(0.1), scaled_by(0.1), moved(0.1), scaled_by(0.2))
    assert len(first) == modules.DIGITS
    assert [first, first] == others[:2]
    assert first != others[2]
    assert first not in programs_of(scaled_by(0.1), argument=(1.0, 2.0))
    assert first not in programs_of(scaled_by(0.1), dtype=np.int32)


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("make", [lambda: scaled_by(0.1), calling_back])
def test_fingerprint_is_the_same_with_the_persistent_cache(tmp_path, make) -> None:
    """If the cache is on, JAX's bytes are used without a second conversion; a hit has the fingerprint, too."""
    (without,) = programs_of(make())
    with cache_in(tmp_path):
        assert [without, without] == programs_of(make()) + programs_of(make())


def test_fingerprint_is_the_same_with_the_cache_disabled() -> None:
    """JAX does not serialize the module then, so the agent does."""
    enabled = programs_of(scaled_by(0.1), calling_back())
    with options_of_jax(jax_enable_compilation_cache=False):
        assert enabled == programs_of(scaled_by(0.1), calling_back())


def test_bytes_that_jax_makes_are_not_made_again(monkeypatch) -> None:
    """The module is serialized once for each compile: by JAX, or by the agent if the cache is disabled."""
    made = []
    find = modules.ModuleHooks.canonicalize_ended
    monkeypatch.setattr(modules.ModuleHooks, "canonicalize_ended", lambda *args: made.append("jax") or find(*args))
    complete = modules.ModuleHooks._complete

    def completed(hooks, work, computation):
        made.extend(["ours"] * (work.module.fingerprint is None))
        complete(hooks, work, computation)

    monkeypatch.setattr(modules.ModuleHooks, "_complete", completed)
    programs_of(scaled_by(0.3))
    assert ["jax"] == made
    with options_of_jax(jax_enable_compilation_cache=False):
        programs_of(scaled_by(0.3))
    assert ["jax", "ours"] == made


def test_addresses_of_callbacks_are_no_difference() -> None:
    """Each of the two functions has its own callback, at a different address."""
    assert 1 == len(set(programs_of(calling_back(), calling_back())))


def test_program_with_large_constants_has_none(monkeypatch) -> None:
    """Hashing and copying it would take long; the compile is reported as usual."""
    monkeypatch.setattr(modules, "_MAX_BYTES", 1 << 20)
    table = np.random.default_rng(0).random((1024, 512), np.float32)

    def make():
        def step(x):
            return x[0] + jnp.asarray(table)

        return jax.jit(step)

    assert [""] == programs_of(make())
    with options_of_jax(jax_enable_compilation_cache=False):
        assert [""] == programs_of(make())


def other_ways():
    """Functions that reach XLA in other ways: shard_map, an exported program, pmap, vmap of a jitted function."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    shard_map = getattr(jax, "shard_map", None) or importlib.import_module("jax.experimental.shard_map").shard_map

    def step(x):
        return jnp.sin(x) * 0.1

    exported = export.export(jax.jit(step))(jax.ShapeDtypeStruct((1, 3), jnp.float32))
    return {
        "shard_map": jax.jit(shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec)),
        "export": jax.jit(lambda x: exported.call(x)),  # noqa: PLW0108 - the function of JAX alone is not the user's
        "pmap": jax.pmap(step),
        "vmap": jax.vmap(jax.jit(step)),
    }


@pytest.mark.parametrize("way", ["shard_map", "export", "pmap", "vmap"])
def test_programs_that_reach_xla_in_other_ways_have_fingerprints(way) -> None:
    found = []
    for _ in range(2):
        function = other_ways()[way]
        with jitwatch.install(port=0) as watch:
            function(np.ones((1, 3), np.float32))
            records = [one for one in watch.events() if one["event"] in ("jit.compiled", "jit.recompiled")]
        found.append([one["program"] for one in records if one["function"] != "__jax__"])
    assert found[0] == found[1]
    assert [modules.DIGITS] == [len(one) for one in found[0]]


def test_functions_of_jax_have_none() -> None:
    with jitwatch.install(port=0) as watch:
        jnp.cumsum(np.float32([1, 2, 3])) + 1
        records = watch.events()
    assert [] == [one for one in records if one.get("function") == "__jax__" and one.get("program")]


def test_compiler_is_reported_once_before_the_first_program(tmp_path) -> None:
    log = tmp_path / "events.jsonl"
    with jitwatch.install(port=0, event_log=str(log)):
        scaled_by(0.1)(1.0)
        scaled_by(0.2)(1.0)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = [one["event"] for one in records if one["event"] in ("run.compiler", "jit.compiled", "jit.recompiled")]
    assert ["run.compiler"] == [one for one in kinds if one == "run.compiler"]
    seen = next(one for one in records if one["event"] == "run.compiler")
    assert ("cpu", 1, 0) == (seen["platform"], seen["processes"], seen["process_index"])
    user = next(one for one in records if one.get("name") == "step")
    assert seen["seq"] < user["seq"]


def test_flags_without_effect_on_programs_are_left_out(monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x --xla_b=1 --xla_a=2")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_c=3")
    assert ["--xla_a=2", "--xla_b=1", "--xla_tpu_c=3"] == modules.compat.xla_flags()


def test_module_is_known_while_xla_compiles() -> None:
    """Another thread, such as a scrape, reads the module; after the compile there is none."""
    phases = PhaseClock(lambda: 0.0)
    work = Work("compile", STEP)
    phases.enter(work)
    phases.start("compile", STEP)
    work.module = modules.Module(on_all_processes=False, fingerprint="00000000abcd")
    found = []
    thread = threading.Thread(target=lambda: found.extend(phases.activity.running()))
    thread.start()
    thread.join()
    assert ["00000000abcd"] == [one.module.fingerprint for one in found]
    phases.end("compile", 0.0)
    phases.leave(work, 0)
    assert [] == phases.activity.running()


class TestState:
    """The signal of programs."""

    @staticmethod
    def reduced(*events, processes: int = 1, flags: tuple[str, ...] = ()) -> tuple[dict, MetricTables]:
        """The state's part and the metrics after the events of a process."""
        tables = MetricTables(metrics=Programs.metrics)
        programs = Programs()
        seen = CompilerSeen(
            jaxlib="0.10.2",
            platform="cpu",
            platform_version="",
            device_kind="cpu",
            devices=1,
            xla_flags=flags,
            processes=processes,
        )
        for event in (seen, *events):
            programs.reduce(event, tables)
        return programs.row(), tables

    @staticmethod
    def compiled(program: str, function: Function = STEP, *, spans: bool = False) -> Compiled:
        """A compile of a program."""
        return Compiled(
            function=function, trace_s=0.1, lower_s=0.1, compile_s=1.0, program=program, on_all_processes=spans
        )

    def test_order_and_repetition_do_not_matter(self) -> None:
        """Threads may compile at the same time, and a cleared cache compiles again."""
        events = [self.compiled("0a"), self.compiled("0b"), self.compiled("0a", EVALUATE), self.compiled("0a")]
        rows = {json.dumps(self.reduced(*order)[0]["fingerprint"]) for order in itertools.permutations(events)}
        assert 1 == len(rows)
        assert 3 == self.reduced(*events)[0]["distinct"]

    def test_program_function_and_flags_matter(self) -> None:
        seen = [
            self.reduced(self.compiled("0a"))[0],
            self.reduced(self.compiled("0b"))[0],
            self.reduced(self.compiled("0a", EVALUATE))[0],
            self.reduced(self.compiled("0a"), flags=("--xla_a=1",))[0],
        ]
        assert len(seen) == len({one["fingerprint"] for one in seen})
        assert ["--xla_a=1"] == seen[3]["xla_flags"]

    def test_program_that_precedes_the_compiler_counts(self) -> None:
        """Another thread may have compiled one while the first one reads the versions."""
        tables, programs = MetricTables(metrics=Programs.metrics), Programs()
        programs.reduce(self.compiled("0b"), tables)
        row, _ = self.reduced(self.compiled("0a"), self.compiled("0b"))
        seen = CompilerSeen(
            jaxlib="0.10.2", platform="cpu", platform_version="", device_kind="cpu", devices=1, processes=1
        )
        programs.reduce(seen, tables)
        programs.reduce(self.compiled("0a"), tables)
        assert row["fingerprint"] == programs.row()["fingerprint"]

    def test_metrics_are_the_numbers_of_the_fingerprints(self) -> None:
        row, tables = self.reduced(self.compiled("0a"), self.compiled("ffffffffffff"), self.compiled("0b", EVALUATE))
        assert {("train.step",): 2.0**48 - 1, ("train.evaluate",): 11.0} == tables.values["program_fingerprint"]
        assert {(): float(number_of(row["fingerprint"]))} == tables.values["programs_fingerprint"]
        assert {(): 3.0} == tables.values["programs"]

    def test_programs_of_one_process_are_left_out_in_a_job_of_several(self) -> None:
        """Each process may run its own programs on its own devices: an evaluation on the first one, for example."""
        both = self.compiled("0a", spans=True)
        row, tables = self.reduced(both, self.compiled("0b", EVALUATE), processes=2)
        assert row == self.reduced(both, processes=2)[0]
        assert {("train.step",): 10.0} == tables.values["program_fingerprint"]
        assert 2 == self.reduced(both, self.compiled("0b", EVALUATE))[0]["distinct"]
