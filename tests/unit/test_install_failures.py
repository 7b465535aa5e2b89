"""What `install()` does where something is missing, and that it leaves nothing behind where it fails."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import socket
import sys
import threading
from contextlib import ExitStack, suppress

import jax
import pytest

import jitwatch
from jitwatch import agent as agent_module
from jitwatch import guard
from jitwatch.errors import EndpointConfigError
from jitwatch.server.limits import Limits
from jitwatch.system import shortages
from tests.conftest import listeners, open_files, own_threads, patched_names
from tests.waiting import wait_until

ADVICE = {errno.EMFILE: "ulimit -n", errno.ENOMEM: "raise the memory limit of the job", errno.ENOSPC: "free space"}


@pytest.fixture(autouse=True)
def in_production(monkeypatch):
    """Failures of ours are counted and logged, as in a job."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())


def traces() -> dict[str, object]:
    """What an agent leaves, if it leaves anything."""
    return {
        "names": patched_names(),
        "listeners": listeners(),
        "finders": list(sys.meta_path),
        "files": sorted(open_files().values()),
        "level": logging.getLogger("jitwatch").level,
        "is wanted": agent_module.is_wanted(),
        "sink": guard._sink,
        "agent": (agent_module._agent, agent_module._watch),
    }


@pytest.fixture
def nothing_left():
    """After the test the process is as it was."""
    before = traces()
    yield
    wait_until(lambda: own_threads() == [], what="the end of the threads")
    assert before == traces()


def no_thread(*_: object, **__: object) -> None:
    raise RuntimeError("can't start new thread")


def fails_with(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "jitwatch"]


def taken_ports() -> tuple[ExitStack, int]:
    """64 ports in a row that are taken, below those that the system hands out."""
    first = 21000 + 64 * (os.getpid() % 150)
    held = ExitStack()
    for port in range(first, first + 64):
        with suppress(OSError):  # taken by another program: just as well
            held.enter_context(socket.create_server(("127.0.0.1", port)))
    return held, first


# --- the job continues without parts that cannot start


def test_job_goes_on_without_a_free_port(nothing_left, caplog):
    """No endpoint, but everything else; said once, with what to do."""
    held, first = taken_ports()
    with held, jitwatch.install(port=first) as watch:
        jax.jit(lambda x: x + 1)(1.0)
        state = watch.snapshot()
        assert (None, None, True) == (watch.url, state["url"], watch.is_active)
        assert 1 == state["totals"]["compiles"]
        assert not state["probes"]["endpoint"]["up"]
        assert f"ports {first} to {first + 63} of 127.0.0.1 are in use" in state["probes"]["endpoint"]["reason"]
        assert {"probe": "endpoint"} in [row["labels"] for row in state["metrics"]["jitwatch_probe_up"]]
        assert "endpoint" in [record.get("probe") for record in watch.events()]
        assert "endpoint is down" in str(state["health"])
        assert repr(watch).startswith("<jitwatch.Watch")
    (said,) = warnings_of(caplog)
    assert said.startswith("jitwatch: the job continues without its endpoint: ports ")
    assert "name another port, or use port=0 for any free port" in said


@pytest.mark.parametrize(
    ("place", "error", "advice"),
    [
        ("jitwatch.server.listener._listen_at", OSError(errno.EACCES, "Permission denied"), "privileges"),
        ("jitwatch.server.listener._listen_at", OSError(errno.EPERM, "Operation not permitted"), "permit it"),
        ("jitwatch.server.listener._listen_at", OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (
            "jitwatch.server.listener._listen_at",
            OSError(errno.ENOBUFS, "No buffer space"),
            "raise the memory limit of the job",
        ),
        ("jitwatch.server.listener.Listener.__init__", OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        ("jitwatch.server.workers.WorkerPool.start", RuntimeError("can't start new thread"), "ulimit -u"),
        ("jitwatch.server.loop.EventLoop.__init__", MemoryError(), "raise the memory limit of the job"),
        ("jitwatch.server.http.Server._start", ValueError("a defect"), "JITWATCH_DISABLE=1"),
    ],
)
def test_job_goes_on_without_an_endpoint(nothing_left, monkeypatch, caplog, place, error, advice):  # noqa: PLR0917
    """Whatever keeps it from being opened; with `strict` it raises an error that says what to do."""
    port = 80 if advice == "privileges" else 10431
    monkeypatch.setattr(place, fails_with(error))
    with jitwatch.install(port=port) as watch:
        assert (None, True) == (watch.url, watch.is_active)
        assert advice in watch.snapshot()["probes"]["endpoint"]["reason"]
    assert 1 == len([one for one in warnings_of(caplog) if "continues without its endpoint" in one])
    with pytest.raises(jitwatch.JitwatchError, match=advice):
        jitwatch.install(port=port, strict=True)


def test_job_goes_on_where_the_host_is_no_address_of_this_machine(nothing_left, caplog):
    """A variable for all machines of a job may be wrong on one of them."""
    with jitwatch.install(port=0, host="203.0.113.7") as watch:
        assert None is watch.url
    assert "it is not an address of this machine" in caplog.text


def test_job_goes_on_without_threads(nothing_left, monkeypatch, caplog, tmp_path):
    """No endpoint, no event log, no samples, and one line that says so; what JAX does is still counted."""
    for name in ("_start_new_thread", "_start_joinable_thread"):
        monkeypatch.setattr(threading, name, no_thread, raising=False)
    with jitwatch.install(port=0, event_log=tmp_path / "log.jsonl", sd_dir=tmp_path) as watch:
        jax.jit(lambda x: x + 1)(1.0)
        state = watch.snapshot()
    monkeypatch.undo()
    assert 1 == state["totals"]["compiles"]
    parts = {"endpoint", "event_log", "sampler", "compile_watch"}
    assert parts == {name for name, one in state["probes"].items() if not one["up"]}
    assert None is state["event_log"]
    (said,) = warnings_of(caplog)
    assert len(parts) == said.count("can't start new thread") == said.count("raise the limit")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM])
def test_job_goes_on_without_an_event_log_for_which_there_is_no_room(nothing_left, monkeypatch, tmp_path, code):
    """A full disk or table of descriptors is no wrong option."""
    error = OSError(code, os.strerror(code))
    monkeypatch.setattr("jitwatch.exporters.eventlog.log.RotatingFile", fails_with(error))
    with jitwatch.install(port=0, event_log=tmp_path / "log.jsonl") as watch:
        state = watch.snapshot()
        assert watch.url is not None
    assert None is state["event_log"]
    assert os.strerror(code) in state["probes"]["event_log"]["reason"]


def test_job_goes_on_without_a_folder_for_which_there_is_no_room(nothing_left, monkeypatch, tmp_path):
    """That of lowered programs, and that in which Prometheus looks."""
    error = OSError(errno.ENOSPC, "No space left on device")
    short = jitwatch.ConfigError("the folder cannot be written")
    short.__cause__ = error
    monkeypatch.setattr("jitwatch.agent_parts.ProgramFiles", fails_with(error))
    monkeypatch.setattr("jitwatch.exporters.discovery.DiscoveryEntry.start", fails_with(short))
    with jitwatch.install(port=0, hlo_dir=tmp_path / "hlo", sd_dir=tmp_path / "sd") as watch:
        down = {name for name, one in watch.snapshot()["probes"].items() if not one["up"]}
    assert {"programs", "discovery"} == down


def test_job_goes_on_without_an_agent_where_nothing_can_be_imported(nothing_left, monkeypatch, caplog):
    """An inert handle, one line, and nothing changed; a strict job has an error that says what to do."""
    monkeypatch.setitem(sys.modules, "jitwatch.runtime", None)
    monkeypatch.setattr("builtins.__import__", _without_descriptors(__import__))
    watch = jitwatch.install(port=0)
    assert (False, None, {}, []) == (watch.is_active, watch.url, watch.snapshot(), watch.events())
    with pytest.raises(jitwatch.JitwatchError, match=r"Too many open files.*ulimit -n"):
        jitwatch.install(port=0, strict=True)
    monkeypatch.undo()
    (said,) = warnings_of(caplog)
    assert "the job runs without jitwatch" in said
    watch.uninstall()


def _without_descriptors(real):
    def importing(name, *more):
        if name == "jitwatch.runtime":
            raise OSError(errno.EMFILE, "Too many open files")
        return real(name, *more)

    return importing


def test_endpoint_that_ends_later_is_down(caplog):
    """It is said once, the state shows it, and the rest goes on."""
    with jitwatch.install(port=0) as watch:
        running = agent_module._agent
        running._server.limits = Limits(failures=2)
        running._server._loop._listener.selector.select = fails_with(OSError("for good"))
        running._server._loop._wake()
        wait_until(lambda: watch.url is None, what="the end of the endpoint")
        wait_until(lambda: "continues without its endpoint: it ended (for good)" in caplog.text, what="the warning")
        assert not watch.snapshot()["probes"]["endpoint"]["up"]
        assert watch.is_active


# --- options that are wrong


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tls_cert": "/nonexistent/cert.pem", "tls_key": "/nonexistent/key.pem"}, "cannot be read"),
        ({"token_file": "/nonexistent/token"}, "cannot be read"),
        ({"event_log": "/dev/null/log.jsonl"}, "cannot be written"),
        ({"sd_dir": "/dev/null/sd"}, "cannot be written"),
        ({"hlo_dir": "/dev/null/hlo"}, "cannot be created"),
        ({"allowed_hosts": "http://a"}, "host names without http://"),
        ({"port": "x"}, "a port number"),
    ],
)
def test_wrong_option_is_an_error_and_leaves_nothing(nothing_left, options, match):
    """Whatever the part, strict or not: going on without what was asked for would hide the mistake."""
    for strict in (False, True):
        with pytest.raises(jitwatch.ConfigError, match=match):
            jitwatch.install(**{"port": 0, "strict": strict, **options})


def test_empty_token_is_an_error(monkeypatch, tmp_path):
    """An empty token must not make the endpoint public."""
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(jitwatch.ConfigError, match="is empty"):
        jitwatch.install(port=0, token_file=tmp_path / "token")
    monkeypatch.setenv("JITWATCH_TOKEN", " ")
    with pytest.raises(jitwatch.ConfigError, match="a non-empty string"):
        jitwatch.install(port=0)


def test_wrong_option_of_tls_is_an_error_of_the_server_too():
    """As it was before there were two classes for it."""
    assert issubclass(EndpointConfigError, jitwatch.ServerError)
    assert issubclass(EndpointConfigError, jitwatch.ConfigError)


def test_options_of_tls_for_which_there_is_no_descriptor_are_not_wrong(nothing_left, monkeypatch, tmp_path):
    """The files may be there: they could not be opened now."""
    monkeypatch.setattr("jitwatch.server.access.open", fails_with(OSError(errno.EMFILE, "")), raising=False)
    with jitwatch.install(port=0, tls_cert=tmp_path / "cert", tls_key=tmp_path / "key") as watch:
        assert None is watch.url


# --- all or nothing


#: What `install()` comes by.
PLACES = (
    "jitwatch.state.store.Store.__init__",
    "jitwatch.runtime.Agent.__init__",
    "jitwatch.runtime.Agent._start",
    "jitwatch.jaxhooks.session.JaxSession.attach",
    "jitwatch.runtime.when_imported",
    "jitwatch.runtime.Installed",
    "jitwatch.runtime.Agent.emit",
    "jitwatch.agent.Watch.__init__",
    "jitwatch.agent.atexit.register",
    "jitwatch.agent._register_fork_hook",
)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        *((place, error) for place in PLACES for error in (RuntimeError("a defect"), KeyboardInterrupt())),
        # One `except` is for all errors: others are tried in the middle of it only.
        *(("jitwatch.runtime.Agent._start", error) for error in (OSError("a defect"), KeyError("x"))),
    ],
)
def test_failure_anywhere_leaves_nothing(nothing_left, monkeypatch, tmp_path, place, error):
    """JAX is untouched, no thread, file or socket is left; with `strict` an error says what to do; Ctrl-C is the job's.

    Without `strict` the job runs, with a handle that does nothing.
    """
    is_handle = place.startswith("jitwatch.agent.Watch.")
    monkeypatch.setattr(place, fails_with(error))
    is_interrupt = isinstance(error, KeyboardInterrupt)
    for strict in (False, True):
        options = {"event_log": tmp_path / "log.jsonl", "sd_dir": tmp_path / "sd", "log_level": "info"}
        if not strict and not is_interrupt:
            if not is_handle:
                assert not jitwatch.install(port=0, **options).is_active
            continue
        with pytest.raises(KeyboardInterrupt if is_interrupt else jitwatch.JitwatchError) as caught:
            jitwatch.install(port=0, strict=strict, **options)
        if not is_interrupt:
            assert "set JITWATCH_DISABLE=1 to run without jitwatch" in str(caught.value)
            assert caught.value.__cause__ is error
    monkeypatch.undo()
    assert [] == list((tmp_path / "sd").iterdir()) if (tmp_path / "sd").exists() else True
    # The next one works.
    with jitwatch.install(port=0) as watch:
        jax.jit(lambda x: x + 1)(1.0)
        assert 1 == watch.snapshot()["totals"]["compiles"]


def test_strict_may_be_a_variable(nothing_left, monkeypatch):
    """Of whatever fails: an option that is set for all jobs counts as one that is given."""
    monkeypatch.setenv("JITWATCH_STRICT", "1")
    monkeypatch.setattr("jitwatch.runtime.Agent._start", fails_with(ValueError("a defect")))
    with pytest.raises(jitwatch.JitwatchError, match="a defect"):
        jitwatch.install(port=0)
    assert not jitwatch.install(port=0, strict=False).is_active


def test_failed_install_leaves_no_handler_of_the_exit(monkeypatch):
    """The interpreter's end has nothing to do with an agent that never was."""
    registered: list[object] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", lambda call: registered.remove(call) if call in registered else None)
    monkeypatch.setattr(agent_module, "_register_fork_hook", fails_with(ValueError("a defect")))
    with pytest.raises(jitwatch.JitwatchError):
        jitwatch.install(port=0, strict=True)
    assert [] == registered


def test_failure_to_put_back_does_not_hide_why_it_failed(nothing_left, monkeypatch):
    """The first error is the one that the job sees."""
    monkeypatch.setattr("jitwatch.runtime.Agent.emit", fails_with(RuntimeError("the first")))
    with monkeypatch.context() as patch:
        close = jitwatch.probes.sampler.Sampler.stop

        def fail(self, timeout_s=None):
            close(self, timeout_s)
            raise RuntimeError("the second")

        patch.setattr("jitwatch.probes.sampler.Sampler.stop", fail)
        with pytest.raises(jitwatch.JitwatchError, match="the first"):
            jitwatch.install(port=0, strict=True)


# --- what an endpoint that anybody can read says


def test_open_endpoint_is_warned_of_once(monkeypatch, caplog, tmp_path):
    """Where other machines reach it, without a token and in clear; not on loopback, and not with a token."""
    monkeypatch.setattr("jitwatch.server.http.names_of_machine", set)
    token = tmp_path / "token"
    token.write_text("a-rather-secret-token")
    for options, expected in (({}, 0), ({"host": "0.0.0.0"}, 1), ({"host": "0.0.0.0", "token_file": token}, 0)):
        caplog.clear()
        with jitwatch.install(port=0, **options):
            wait_until(lambda: "jitwatch-names" not in own_threads(), what="the end of the thread that asks for names")
        assert expected == len([one for one in warnings_of(caplog) if "is open to other machines" in one])


# --- shortages


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.ENOSPC, ""), True),
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("psutil.so: cannot open shared object file: Too many open files"), True),
        (OSError(errno.EACCES, ""), False),
        (OSError(errno.ENOENT, ""), False),
        (RuntimeError("a defect"), False),
        (ImportError("No module named 'x'"), False),
        (socket.gaierror(socket.EAI_NONAME, ""), False),
    ],
)
def test_shortage_is_told_from_a_wrong_option_and_from_a_defect(error, expected):
    """Also where another error was raised from it."""
    outer = ValueError("x")
    outer.__cause__ = error
    assert [expected, expected] == [shortages.is_shortage(error), shortages.is_shortage(outer)]
    assert not shortages.is_shortage(None)


def test_every_error_of_the_agent_says_what_to_do():
    """One of ours stays what it is; others become one."""
    ours = jitwatch.ServerError("take another port")
    assert ours is shortages.as_jitwatch_error(ours)
    for code, advice in ADVICE.items():
        assert advice in str(shortages.as_jitwatch_error(OSError(code, os.strerror(code)), "it fails"))
    assert "it fails (ValueError)" in str(shortages.as_jitwatch_error(ValueError(), "it fails"))
