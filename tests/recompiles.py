"""A table of small programs, and what the agent must say about the last compile of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jitwatch
from jitwatch.model.taxonomy import CAUSES, JAX_LABEL
from tests.truths import assert_truths

#: Cause and path, and where it is telling also the text before and after.
Change = tuple[str, str] | tuple[str, str, str, str]


@dataclass(frozen=True)
class Case:
    """One program.

    Attributes:
        program: Runs under the agent.
        changes: All changes of its last compile; none for a program that must stay silent.
        compiles: Compiles of the user's functions in all.
    """

    program: Callable[[], Any]
    changes: frozenset[Change]
    compiles: int

    @property
    def name(self) -> str:
        """Its name among the tests."""
        return self.program.__name__


class Table:
    """Collects the cases of a test module, by decorators."""

    def __init__(self) -> None:
        self.recompiling: list[Case] = []
        self.silent: list[Case] = []

    def recompiles(self, *changes: Change, compiles: int = 2) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """The last compile of the program is a recompile, for exactly these changes."""

        def add(program: Callable[[], Any]) -> Callable[[], Any]:
            self.recompiling.append(Case(program, frozenset(changes), compiles))
            return program

        return add

    def stays_silent(self, compiles: int = 1) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """The program compiles so often, and none of it is a recompile."""

        def add(program: Callable[[], Any]) -> Callable[[], Any]:
            self.silent.append(Case(program, frozenset(), compiles))
            return program

        return add


def compiles_of(program: Callable[[], Any], **options: Any) -> list[dict[str, Any]]:
    """Events of the compiles of the user's functions while the program runs, oldest first."""
    with jitwatch.install(port=0, **options) as watch:
        program()
        assert_truths(watch)
        return compile_events(watch)


def compile_events(watch: jitwatch.Watch) -> list[dict[str, Any]]:
    """The same of an agent that runs."""
    return [
        event
        for event in watch.events(10_000)
        if event["event"] in ("jit.compiled", "jit.recompiled") and event["function"] != JAX_LABEL
    ]


def check_recompiling(case: Case) -> None:
    """Its last compile has the changes of the table, no more and no fewer, and their kinds as causes."""
    events = compiles_of(case.program)
    last = events[-1]
    found = {(one["kind"], one["path"]): (one["before"], one["after"]) for one in last.get("changes", [])}
    assert {change[:2] for change in case.changes} == set(found)
    telling = {change[:2]: change[2:] for change in case.changes if len(change) == 4}
    assert telling == {place: found[place] for place in telling}
    assert [cause for cause in CAUSES if cause in {kind for kind, _ in found}] == last["causes"]
    assert case.compiles == len(events)
    assert "unknown" not in {cause for event in events for cause in event.get("causes", [])}
    assert 0 == last.get("changes_left_out", 0)


def check_silent(case: Case) -> None:
    """Nothing of it is a recompile, and it compiles no more than it must."""
    events = compiles_of(case.program)
    assert ["jit.compiled"] * case.compiles == [event["event"] for event in events]
