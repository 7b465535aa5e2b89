"""Failures of our own: logged once a line, counted, and never passed on to the job."""

from __future__ import annotations

import logging
import signal
import threading

import pytest

from jitwatch import guard


@pytest.fixture(autouse=True)
def _as_in_production(monkeypatch):
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())
    monkeypatch.setattr(guard, "_sink", None)


@pytest.fixture
def counted():
    """Components of the failures that the sink was told."""
    components: list[str] = []
    guard.set_sink(components.append)
    return components


def fail(component: str = "compile", message: str = "broken") -> None:
    try:
        raise ValueError(message)
    except ValueError:
        guard.failed(component)


def test_failed_is_counted_each_time(counted):
    """The counter shows how often, whatever the log says."""
    for _ in range(3):
        fail("compile")
    fail("cache")

    assert ["compile", "compile", "compile", "cache"] == counted


def test_failed_is_logged_once_for_each_line_and_component(caplog):
    """A failure on every call must not fill the job's log, but a second defect is still seen."""
    with caplog.at_level(logging.WARNING, logger="jitwatch"):
        for number in range(3):
            fail("compile", f"number {number}")
        fail("cache")
        try:
            raise KeyError
        except KeyError:
            guard.failed("compile")

    assert ["compile", "cache", "compile"] == [record.args[0] for record in caplog.records]
    assert "number 0" == str(caplog.records[0].exc_info[1])


def test_failed_logs_the_traceback(caplog):
    """One line is all there will be, so it has everything."""
    with caplog.at_level(logging.WARNING, logger="jitwatch"):
        fail()

    assert "the compile component failed and continues" in caplog.records[0].getMessage()
    assert "ValueError: broken" in caplog.text


def test_failed_without_a_sink_is_harmless():
    """Before an agent runs and after it stopped nobody counts."""
    fail()


def test_failed_with_a_sink_that_fails_is_harmless():
    """The counter itself may be what is broken."""

    def sink(component):
        raise RuntimeError(component)

    guard.set_sink(sink)
    fail()


def test_failed_with_a_log_handler_that_fails_is_harmless(counted):
    """A user's handler that raises would otherwise end in JAX's call."""

    class Broken(logging.Handler):
        """Raises on each record."""

        def emit(self, record):
            raise OSError("disk full")

    handler = Broken()
    guard.logger.addHandler(handler)
    try:
        fail()
    finally:
        guard.logger.removeHandler(handler)

    assert ["compile"] == counted


def test_a_bounded_number_of_lines_is_remembered():
    """Past the bound no line is new, so that it is counted in silence."""
    assert [True, True, False, False] == [guard._first_time(name, ValueError(), max_lines=2) for name in "abcd"]
    assert 2 == len(guard._seen)


def test_failed_raises_under_tests(monkeypatch, counted):
    """With `reraise` the very exception goes on, and nothing is counted."""
    monkeypatch.setattr(guard, "reraise", True)

    with pytest.raises(ValueError, match="ours") as caught:
        fail(message="ours")

    assert caught.value.__context__ is None
    assert [] == counted


def test_guarded_ends_an_exception_of_ours(counted):
    """The block ends, what comes after it runs."""
    with guard.guarded("sampler"):
        raise ValueError

    assert ["sampler"] == counted


def test_guarded_without_exception_counts_nothing(counted):
    """The good case leaves no trace."""
    with guard.guarded("sampler"):
        pass

    assert [] == counted


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_guarded_passes_what_is_not_ours(kind, counted):
    """Ctrl-C and exits are for the job."""
    with pytest.raises(kind), guard.guarded("sampler"):
        raise kind

    assert [] == counted


def test_guarded_raises_under_tests(monkeypatch):
    """No failure stays hidden in our own tests."""
    monkeypatch.setattr(guard, "reraise", True)

    with pytest.raises(ValueError, match="ours"), guard.guarded("sampler"):
        raise ValueError("ours")


def test_failed_in_many_threads_logs_once(caplog, counted):
    """The bookkeeping holds when all threads fail at the same line at once."""
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        for _ in range(50):
            fail()

    threads = [threading.Thread(target=work) for _ in range(8)]
    with caplog.at_level(logging.WARNING, logger="jitwatch"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 400 == len(counted)
    assert 1 == len(caplog.records)


def test_what_a_signal_handler_of_the_job_raises_goes_on(monkeypatch):
    """A timeout that arrives while our code runs reaches the job, and is no failure of ours."""
    monkeypatch.setattr(guard, "reraise", False)
    counted = []
    monkeypatch.setattr(guard, "_sink", counted.append)

    class Deadline(Exception):
        pass

    class Job:
        def expired(self, *_):
            raise Deadline

    before = signal.signal(signal.SIGUSR1, Job().expired)
    try:
        with pytest.raises(Deadline), guard.guarded("compile"):
            signal.raise_signal(signal.SIGUSR1)
        with guard.guarded("compile"):
            raise ValueError("ours")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ["compile"] == counted
