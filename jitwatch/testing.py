"""A pytest plugin that asserts how often functions compile.

    def test_step_compiles_once(jitwatch_events):
        train(steps=10)
        assert jitwatch_events.compiles == {"train.train_step": 1}

    @pytest.mark.max_compiles(2)
    def test_two_batch_sizes(): ...

    def test_second_step_compiles_nothing():
        train_step(state, batch)
        with jitwatch.testing.no_recompiles():
            train_step(state, batch)

pytest loads it automatically if jitwatch is installed. The agent is installed for the duration of a test that uses the
plugin, on any free port; an agent that is already installed is used as it is.
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
    """The compiles since its creation. It is live: later compiles are included."""

    def __init__(self, watch: jitwatch.Watch) -> None:
        self._watch = watch
        self._start = watch.snapshot().get("last_seq", 0)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events of the user's functions, oldest first, as in the event log."""
        return [
            event
            for event in self._watch.events(_ALL_EVENTS)
            if event["seq"] > self._start and event.get("function", JAX_LABEL) != JAX_LABEL
        ]

    @property
    def compiles(self) -> dict[str, int]:
        """Number of compiles by function, the first one included."""
        return dict(Counter(event["function"] for event in self.events if _is_compile(event)))

    @property
    def recompiles(self) -> dict[str, int]:
        """Number of compiles by function, the first one excluded."""
        return dict(Counter(event["function"] for event in self.events if _is_recompile(event)))

    def __repr__(self) -> str:
        return f"<jitwatch.testing.CompileLog {self.compiles}>"


@contextmanager
def watched() -> Iterator[CompileLog]:
    """Log the compiles of a block. If no agent is installed, one is for the duration of the block.

    Raises:
        JitwatchError: The agent cannot start, or `JITWATCH_DISABLE` turns it off.
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
    """Fail if a function recompiles: if it compiles twice in the block, or once after a compile before the block.

    A compile before the agent was installed is inferred from JAX's cache, which also has an entry for a call that
    failed during tracing. Install the agent before such a call, or make that call after the block.

    Raises:
        AssertionError: A function recompiled; the message names function, call site and duration.
    """
    with watched() as log:
        yield log
        repeated = [event for event in log.events if _is_recompile(event)]
    if repeated:
        how_many = "1 recompile" if len(repeated) == 1 else f"{len(repeated)} recompiles"
        raise AssertionError(f"{how_many}, none allowed:\n{_lines(repeated)}")


@pytest.fixture
def jitwatch_events() -> Iterator[CompileLog]:
    """The compiles of the test."""
    with watched() as log:
        yield log


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", f"{_MARKER}(n): fail if the test compiles its functions more than n times in all (jitwatch)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a marked test if its functions compiled too often."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        return (yield)
    limit = marker.args[0] if len(marker.args) == 1 and not marker.kwargs else None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise pytest.UsageError(f"@pytest.mark.{_MARKER} expects one whole number of at least 0, such as {_MARKER}(2)")
    with watched() as log:
        result = yield
        compiled = [event for event in log.events if _is_compile(event)]
    if len(compiled) > limit:
        pytest.fail(f"{len(compiled)} compiles, at most {limit} allowed:\n{_lines(compiled)}", pytrace=False)
    return result


def _is_compile(event: dict[str, Any]) -> bool:
    return event["event"] in (Compiled.kind, Compiled.repeated_kind)


def _is_recompile(event: dict[str, Any]) -> bool:
    return event["event"] == Compiled.repeated_kind or _had_compiled(event)


def _had_compiled(event: dict[str, Any]) -> bool:
    """Whether a function's first compile under the agent is a recompile: its cache had an entry before."""
    return event["event"] == Compiled.kind and (event["cache_entries"] or 0) > 1


def _lines(events: list[dict[str, Any]]) -> str:
    lines = []
    for event in events:
        ordinal = "in the cache before" if _had_compiled(event) else f"compile {event['nth']}"
        took_s = sum(event[phase] or 0.0 for phase in ("trace_s", "lower_s", "compile_s"))
        where, reason = event["call_site"] or "an unknown line", event.get("reason")
        lines.append(
            f"  {event['function']} ({ordinal}) called at {where}, {took_s:.2f} s" + f": {reason}" * bool(reason)
        )
    return "\n".join(lines)
