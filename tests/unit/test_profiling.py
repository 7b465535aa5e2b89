"""Profiles of compiles: which compile is profiled, and that the user's profiler has priority."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler
from jax._src import profiler as jax_profiler

import jitwatch
from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile import xla_passes
from jitwatch.jaxhooks.compile.profiling import CompileProfiler, Profile, Request
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function
from jitwatch.report import html
from tests.unit.hostile import HOSTILE

#: What starts the job's profiler.
START = compat.start_profile_hook().get()
FUNCTION = Function("train.step", "step", "train.py:1")
readable = pytest.mark.versions(jax=">=0.8.3", reason="older ones cannot be profiled")
pytestmark = pytest.mark.usefixtures("compiled_anew")


class Session:
    """A session of the profiler."""

    def __init__(self):
        self.stops = 0

    def stop(self):
        self.stops += 1
        return b"profile"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def sessions(monkeypatch):
    """The sessions that are started, in place of JAX's."""
    made = []
    monkeypatch.setattr(compat, "start_profiler", lambda: made.append(Session()) or made[-1])
    return made


@pytest.fixture
def profiler(sessions, monkeypatch):
    """A profiler of compiles on a clock of its own, with a request."""
    monkeypatch.setattr(xla_passes, "is_readable", lambda: True)
    monkeypatch.setattr(compat, "_SILENT_PROFILER", (0,))
    patcher = Patcher()
    made = CompileProfiler(clock=Clock())
    made.install(patcher)
    made.request(Request())
    yield made
    patcher.restore()


def step(x):
    """A program that takes XLA some time."""
    for _ in range(10):
        x = jnp.tanh(x @ x) + jnp.sin(x)
    return x


def profiles(watch):
    return [one for one in watch.events() if one["event"] == "jit.compile_profiled"]


class TestSessions:
    """When a session is started and stopped."""

    def test_session_lasts_as_long_as_the_compile(self, profiler, sessions):
        """One session is started, and stopped once."""
        found = []
        profiler.on_profile = found.append
        profile = profiler.begin(FUNCTION)
        profiler.clock.now = 3.0
        profiler.end(profile)
        profiler.end(profile)
        profiler.hand_over(profile, "train.py:8")

        assert [1] == [one.stops for one in sessions]
        assert [profile] == found
        assert (b"profile", 3.0, "train.py:8") == (profile.raw, profile.seconds, profile.call_site)

    def test_never_two_at_once(self, profiler, sessions):
        """A compile in another thread, or in a compile, is not profiled."""
        first = profiler.begin(FUNCTION)
        assert profiler.begin(FUNCTION) is None
        profiler.drop(first)
        assert profiler.begin(FUNCTION) is not None
        assert 2 == len(sessions)

    def test_not_while_the_users_profiler_runs(self, profiler, sessions, monkeypatch):
        """JAX knows its session."""
        state = jax_profiler._profile_state
        monkeypatch.setattr(state, next(name for name in compat._SESSIONS if hasattr(state, name)), object())
        assert profiler.begin(FUNCTION) is None
        assert [] == sessions

    def test_not_while_a_profiler_server_is_up(self, profiler, sessions, monkeypatch):
        """The server may be asked for a profile at any time."""
        monkeypatch.setattr(jax_profiler, "_profiler_server", object())
        assert profiler.begin(FUNCTION) is None
        assert [] == sessions

    def test_not_where_another_profiler_runs(self, profiler, monkeypatch):
        """JAX's session then cannot be started."""

        def refuse():
            raise RuntimeError("Another profiling session active")

        monkeypatch.setattr(compat, "start_profiler", refuse)
        assert profiler.begin(FUNCTION) is None
        assert profiler._current is None

    def test_interrupt_while_it_starts_leaves_nothing_open(self, profiler, monkeypatch):
        """The next compile is profiled."""

        def interrupt():
            raise KeyboardInterrupt

        with monkeypatch.context() as context:
            context.setattr(compat, "start_profiler", interrupt)
            with pytest.raises(KeyboardInterrupt):
                profiler.begin(FUNCTION)
        assert profiler.begin(FUNCTION) is not None

    def test_users_start_stops_ours_first(self, profiler, sessions):
        """The compile has no profile."""
        profile = profiler.begin(FUNCTION)
        state = profiler._user_begins("folder")
        assert [1] == [one.stops for one in sessions]
        assert profiler.begin(FUNCTION) is None
        profiler._user_ended(state, None)
        profiler.end(profile)

        assert profile.raw is None
        assert profiler.begin(FUNCTION) is not None

    def test_users_start_that_fails_frees_the_profiler(self, profiler):
        """The user's call raises its own error, and later compiles are profiled."""
        with pytest.raises(TypeError):
            jax.profiler.start_trace()
        assert profiler.begin(FUNCTION) is not None

    def test_signal_handler_that_starts_a_profiler(self, profiler, sessions, monkeypatch):
        """The handler runs after the session was started, before the agent has stored it."""
        start = compat.start_profiler

        def interrupted():
            session = start()
            profiler._user_ended(profiler._user_begins("folder"), None)
            return session

        monkeypatch.setattr(compat, "start_profiler", interrupted)
        assert profiler.begin(FUNCTION) is None
        assert [1] == [one.stops for one in sessions]

    def test_session_that_cannot_be_stopped_is_counted(self, profiler, sessions, monkeypatch):
        """The compile continues, and later ones are profiled."""
        monkeypatch.setattr(guard, "reraise", False)
        profile = profiler.begin(FUNCTION)
        monkeypatch.setattr(sessions[0], "stop", lambda: 1 / 0)
        profiler.end(profile)

        assert profile.raw is None
        assert profiler.begin(FUNCTION) is not None

    def test_forget_stops_what_runs(self, profiler, sessions):
        """The agent is uninstalled during a compile."""
        profiler.begin(FUNCTION)
        profiler.forget()

        assert [1] == [one.stops for one in sessions]
        assert not profiler.is_wanted


class TestSeconds:
    """How much is profiled."""

    def test_option_counts_the_seconds_of_compiles(self, profiler, sessions):
        """The last compile may exceed the limit, and is profiled up to it."""
        for request in list(profiler._requests):
            profiler.withdraw(request)
        profiler.allow(5.0)
        first = profiler.begin(FUNCTION)
        profiler.clock.now = 4.0
        profiler.end(first)
        profiler.hand_over(first, None)
        assert profiler.is_wanted
        second = profiler.begin(FUNCTION)

        assert 1.0 == pytest.approx(second.limit_s)
        profiler.clock.now = 4.5
        assert 0.5 == pytest.approx(profiler.stop_overdue())
        profiler.clock.now = 6.0
        assert profiler.stop_overdue() is None
        assert 1 == sessions[1].stops
        profiler.end(second)
        profiler.hand_over(second, None)
        assert b"profile" == second.raw
        assert not profiler.is_wanted

    def test_request_does_not_count(self, profiler):
        """A block profiles all of its compiles."""
        profile = profiler.begin(FUNCTION)
        profiler.clock.now = 100.0
        profiler.end(profile)
        profiler.hand_over(profile, None)
        assert profiler.is_wanted

    def test_failed_compile_does_not_count(self, profiler):
        """A failed compile has no profile."""
        profiler.on_profile = lambda profile: pytest.fail("a profile")
        profile = profiler.begin(FUNCTION)
        profiler.clock.now = 100.0
        profiler.drop(profile)
        profiler.hand_over(profile, None)

    def test_profile_with_compiles_of_other_threads_is_dropped(self, profiler):
        """The passes of the threads cannot be distinguished."""
        profiler.on_profile = lambda profile: pytest.fail("a profile")
        profile = profiler.begin(FUNCTION)
        profiler.clock.now = 10.0
        profiler.compiled_elsewhere(4.0)
        profiler.end(profile)
        profiler.hand_over(profile, None)

    def test_innermost_folder_is_used(self, profiler):
        """A block without a folder uses that of the enclosing block."""
        outer, inner = Request("/outer"), Request()
        profiler.request(outer)
        profiler.request(inner)
        assert "/outer" == profiler.begin(FUNCTION).folder


@readable
class TestProfiles:
    """Real compiles."""

    @pytest.fixture
    def watch(self):
        with jitwatch.install(port=0) as installed:
            yield installed

    def test_block_profiles_its_compiles(self, watch, tmp_path):
        """XLA's passes are in the record, in explain(), in the state and in the report, and no file is left."""
        with jitwatch.profile_compiles():
            jax.jit(step)(np.ones((16, 16)))
        (record,) = profiles(watch)
        (row,) = [one for one in watch.snapshot()["functions"] if one["function"] == record["function"]]

        assert f"{__name__}.step" == record["function"]
        assert record["call_site"].startswith(__file__)
        assert 0 < record["profiled_s"]
        assert record["profiled_s"] * 1.1 >= sum(one["seconds"] for one in record["xla_passes"]) > 0
        assert "file" not in record
        assert record["xla_passes"] == row["xla_passes"]
        assert "step: XLA took " in str(watch.explain())
        assert record["xla_passes"][0]["name"].replace("<", "&lt;") in html._compile_time({"functions": [row]})

    def test_compiles_outside_of_the_block_are_not_profiled(self, watch):
        """Compiles before and after the block are not profiled."""
        jax.jit(lambda x: step(x) + 1)(np.ones((8, 8)))
        with jitwatch.profile_compiles():
            pass
        jax.jit(lambda x: step(x) + 2)(np.ones((8, 8)))
        assert [] == profiles(watch)

    def test_programs_of_jax_are_not_profiled(self, watch):
        """Only those of the user's functions."""
        with jitwatch.profile_compiles():
            jnp.ones((3, 5)) + 1
        assert [] == profiles(watch)

    def test_compile_inside_of_a_trace_is_not_profiled(self, watch):
        """The enclosing compile is profiled."""

        def outer(x):
            with jax.ensure_compile_time_eval():
                jax.jit(step)(np.ones((8, 8)))
            return step(x)

        with jitwatch.profile_compiles():
            jax.jit(outer)(np.ones((8, 8)))
        assert ["outer"] == [one["name"] for one in profiles(watch)]

    def test_failed_compile_frees_the_profiler(self, watch, monkeypatch):
        """The next one is profiled."""
        real = compiler.backend_compile_and_load

        def fail(*arguments):
            raise RuntimeError("no")

        with jitwatch.profile_compiles():
            monkeypatch.setattr(compiler, "backend_compile_and_load", fail)
            with pytest.raises(RuntimeError, match="no"):
                jax.jit(lambda x: step(x) * 4)(np.ones((8, 8)))
            monkeypatch.setattr(compiler, "backend_compile_and_load", real)
            jax.jit(lambda x: step(x) * 5)(np.ones((8, 8)))
        assert 1 == len(profiles(watch))

    def test_option_profiles_until_its_seconds_are_used(self):
        """Later compiles are not profiled."""
        with jitwatch.install(port=0, profile_compiles=0.3) as watch:
            profiler, number = watch._agent.session.profiler, 0
            while profiler.is_wanted and number < 200:
                number += 1
                jax.jit(lambda x, number=number: step(x) + number)(np.ones((8, 8)))
            watch._agent._compile_watch.wait_for_profiles(60)
            found = profiles(watch)
            jax.jit(lambda x: step(x) - 1)(np.ones((8, 8)))
            watch._agent._compile_watch.wait_for_profiles(60)

            assert found
            assert found == profiles(watch)
            assert not profiler.is_wanted

    def test_files_are_kept_in_a_folder(self, watch, tmp_path):
        """The files are in the folders that TensorBoard reads, for any name of the function."""
        for number, name in enumerate(HOSTILE[::4]):
            code = compile(f"def make(step):\n    return lambda x: step(x) + {number}\n", "job.py", "exec")
            names: dict = {}
            exec(code, names)
            made = names["make"](step)
            made.__qualname__ = made.__name__ = name.encode("utf-8", "replace").decode()
            with jitwatch.profile_compiles(folder=tmp_path / "kept"):
                jax.jit(made)(np.ones((2, 2)))
        files = [one for one in tmp_path.rglob("*") if one.is_file()]

        assert [one["file"] for one in profiles(watch)]
        assert {one["file"] for one in profiles(watch)} <= {str(one) for one in files}
        assert all(one.parent.parent == tmp_path / "kept" / "plugins" / "profile" for one in files)
        assert all(one.name.endswith(".xplane.pb") and one.name.isprintable() for one in files)

    def test_folder_that_cannot_be_written(self, watch, tmp_path, caplog):
        """The record has the passes, and a warning is logged."""
        (tmp_path / "file").write_text("")
        with jitwatch.profile_compiles(folder=tmp_path / "file" / "folder"):
            jax.jit(lambda x: step(x) * 3)(np.ones((8, 8)))

        assert "file" not in profiles(watch)[0]
        assert "the profile of a compile cannot be written to" in caplog.text

    def test_uninstall_in_the_block(self, watch):
        """JAX's function is restored, and the block ends."""
        code = START.__code__
        with jitwatch.profile_compiles():
            assert code is not START.__code__
            watch.uninstall()
            assert code is START.__code__
            jax.jit(step)(np.ones((4, 4)))

    def test_profile_that_cannot_be_read(self, watch, monkeypatch):
        """It is counted as a failure of the agent."""
        monkeypatch.setattr(guard, "reraise", False)
        monkeypatch.setattr(xla_passes, "read", lambda raw: 1 / 0)
        with jitwatch.profile_compiles():
            jax.jit(lambda x: step(x) * 6)(np.ones((8, 8)))
        assert [] == profiles(watch)
        assert watch._agent._compile_watch.is_running


class TestWithout:
    """Where nothing can be profiled."""

    def test_without_an_agent(self):
        """The block does nothing."""
        with jitwatch.profile_compiles():
            assert 4.0 == float(jax.jit(lambda x: x + 1)(3.0))

    def test_as_a_decorator_of_a_recursive_function(self):
        """Each call has a block of its own."""

        @jitwatch.profile_compiles()
        def count(number):
            return number and 1 + count(number - 1)

        assert 5 == count(5)

    def test_folder_must_be_a_path(self):
        """As for open(), other types raise TypeError."""
        with pytest.raises(TypeError):
            jitwatch.profile_compiles(folder=3)
        with pytest.raises(TypeError, match="must be a path"):
            jitwatch.profile_compiles(folder=b"bytes")

    def test_jax_that_cannot_read_profiles_says_so_once(self, monkeypatch, caplog):
        """All other parts work."""
        monkeypatch.setattr(xla_passes, "is_readable", lambda: False)
        monkeypatch.setattr(compat, "_SILENT_PROFILER", (0,))
        with jitwatch.install(port=0, profile_compiles=30) as watch:
            for number in range(2):
                with jitwatch.profile_compiles():
                    jax.jit(lambda x, number=number: x + number)(3.0)
            assert [] == profiles(watch)
            assert 2 == watch.snapshot()["totals"]["compiles"]
        assert 1 == caplog.text.count("compiles cannot be profiled")

    def test_jax_whose_profiler_writes_to_stderr(self, monkeypatch, caplog):
        """It is not used."""
        monkeypatch.setattr(compat, "_SILENT_PROFILER", (99,))
        with jitwatch.install(port=0), jitwatch.profile_compiles():
            jax.jit(lambda x: x + 8)(3.0)
        assert "writes to stderr" in caplog.text

    @pytest.mark.parametrize("name", ["START_TRACE", "PROFILER", "PROFILER_STATE"])
    def test_name_of_jax_that_is_gone(self, monkeypatch, caplog, name):
        """The reason names it."""
        hook = compat.start_profile_hook() if name == "START_TRACE" else getattr(compat, name)
        gone = types.SimpleNamespace(missing=lambda: f"{hook.attribute} does not exist")
        for one in ("START_TRACE", "START_SESSION") if name == "START_TRACE" else (name,):
            monkeypatch.setattr(compat, one, gone)
        with jitwatch.install(port=0, profile_compiles=30) as watch:
            jax.jit(lambda x: x + 5)(3.0)
            assert [] == profiles(watch)
        assert f"{hook.attribute} does not exist" in caplog.text

    def test_nothing_is_instrumented_without_a_request(self):
        """The user's profiler is JAX's own."""
        code = START.__code__
        with jitwatch.install(port=0):
            jax.jit(lambda x: x + 6)(3.0)
            assert code is START.__code__


def test_profile_is_a_plain_object():
    """It keeps no array and no frame."""
    assert "session" in Profile.__slots__
