"""A pytest plugin: tests that say how often their functions may compile.

    def test_step_compiles_once(jitwatch_events):
        train(steps=10)
        assert jitwatch_events.compiles == {"train.train_step": 1}

    @pytest.mark.max_compiles(2)
    def test_two_batch_sizes(): ...

    def test_second_step_compiles_nothing():
        train_step(state, batch)
        with jitwatch.testing.no_recompiles():
            train_step(state, batch)

pytest finds it by itself where jitwatch is installed. It installs the agent for the test that asks for
it, without an endpoint that anybody would scrape, and leaves an agent alone that is already there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import jitwatch
from jitwatch.model.events import Compiled
from jitwatch.model.taxonomy import JAX_LABEL

_MARKER = "max_compiles"
_ALL_EVENTS = 1_000_000


class CompileLog:
    """What compiled since it was made; grows while it is looked at."""

    def __init__(self, watch: jitwatch.Watch) -> None:
        self._watch = watch
        self._start = watch.snapshot().get("last_seq", 0)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of the user's functions so far, oldest first, as in the event log."""
        return [
            event
            for event in self._watch.events(_ALL_EVENTS)
            if event["seq"] > self._start and event.get("function", JAX_LABEL) != JAX_LABEL
        ]

    @property
    def compiles(self) -> dict[str, int]:
        """Compiles by function, first ones included."""
        return dict(Counter(event["function"] for event in self.events if _is_compile(event)))

    @property
    def recompiles(self) -> dict[str, int]:
        """Compiles by function that were not its first."""
        return dict(Counter(event["function"] for event in self.events if _is_recompile(event)))

    def __repr__(self) -> str:
        return f"<jitwatch.testing.CompileLog {self.compiles}>"


@contextmanager
def watched() -> Iterator[CompileLog]:
    """Log the compiles of a block, with an agent of its own where none is installed.

    Raises:
        JitwatchError: The agent cannot work here, or is switched off by JITWATCH_DISABLE.
    """
    had_agent = bool(jitwatch.snapshot())
    watch = jitwatch.install() if had_agent else jitwatch.install(port=0, probes=["compile", "cache"])
    if not watch.is_active:
        raise jitwatch.JitwatchError("JITWATCH_DISABLE is set, so compiles cannot be counted; unset it for these tests")
    try:
        yield CompileLog(watch)
    finally:
        if not had_agent:
            watch.uninstall()


@contextmanager
def no_recompiles() -> Iterator[CompileLog]:
    """Fail if a function compiles twice within the block, or once that had compiled before it.

    Where no agent saw that, JAX's cache tells, which also has an entry of a call that failed in its trace: install
    the agent before such a call, or make it after the block.

    Raises:
        AssertionError: Something recompiled; the message names function, line and cost.
    """
    with watched() as log:
        yield log
        repeated = [event for event in log.events if _is_recompile(event)]
    if repeated:
        how_many = "1 recompile" if len(repeated) == 1 else f"{len(repeated)} recompiles"
        raise AssertionError(f"{how_many}, none allowed:\n{_listed(repeated)}")


@pytest.fixture
def jitwatch_events() -> Iterator[CompileLog]:
    """The compiles of the test, as a `CompileLog`."""
    with watched() as log:
        yield log


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{_MARKER}(n): fail if the test compiles its functions more than n times in all (jitwatch)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Count the compiles of a test that is marked, and fail it when there are too many."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        return (yield)
    limit = _limit(marker)
    with watched() as log:
        result = yield
        compiled = [event for event in log.events if _is_compile(event)]
    if len(compiled) > limit:
        pytest.fail(f"{len(compiled)} compiles, at most {limit} allowed:\n{_listed(compiled)}", pytrace=False)
    return result


def _limit(marker: pytest.Mark) -> int:
    limit = marker.args[0] if len(marker.args) == 1 and not marker.kwargs else None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise pytest.UsageError(f"@pytest.mark.{_MARKER} takes one whole number from 0 up, as {_MARKER}(2)")
    return limit


def _is_compile(event: dict[str, Any]) -> bool:
    return event["event"] in (Compiled.kind, Compiled.repeated_kind)


def _is_recompile(event: dict[str, Any]) -> bool:
    return event["event"] == Compiled.repeated_kind or _had_compiled(event)


def _had_compiled(event: dict[str, Any]) -> bool:
    """Whether it is the first compile that the agent saw of a function whose cache was not empty any more."""
    return event["event"] == Compiled.kind and (event["cache_entries"] or 0) > 1


def _which(event: dict[str, Any]) -> str:
    return "in the cache before" if _had_compiled(event) else f"compile {event['nth']}"


def _listed(events: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"  {event['function']} ({_which(event)}) called at {event['call_site'] or 'an unknown line'}, "
        f"{sum(event[phase] or 0.0 for phase in ('trace_s', 'lower_s', 'compile_s')):.2f} s"
        + (f": {event['reason']}" if event.get("reason") else "")
        for event in events
    )
