"""What one picture is made of: the jobs, what the user chose, and what there is to say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from jitwatch.top.figures import FunctionFigures
from jitwatch.top.health import LEVELS, Verdict, verdicts_of
from jitwatch.top.tracking import Process

_Key = Callable[[FunctionFigures], tuple[float | str, ...]]
#: Orders of the functions table, in the order in which a key goes through them.
SORTS: Final[dict[str, _Key]] = {
    "lost": lambda one: (-one.lost_seconds, -one.seconds, one.function),
    "seconds": lambda one: (-one.seconds, one.function),
    "recompiles": lambda one: (-one.recompiles, -one.lost_seconds, one.function),
    "compiles": lambda one: (-one.compiles, -one.seconds, one.function),
    "name": lambda one: (one.function,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One picture.

    Attributes:
        processes: In the order of the screen.
        chosen: Address of the one process that is looked at; None for all of them.
        sort: A key of `SORTS`.
        note: What to say where there is no process.
        keys: Whether keys are read, so that the last line tells of them.
    """

    processes: Sequence[Process]
    chosen: str | None = None
    sort: str = "lost"
    is_paused: bool = False
    note: str = ""
    keys: bool = False
    interval_s: float = 2.0

    @property
    def shown(self) -> list[Process]:
        """Those whose functions are shown."""
        return [one for one in self.processes if self.chosen in (None, one.url)] or list(self.processes)

    def verdicts(self) -> list[tuple[Process, Verdict]]:
        """All that is to be said of the one process that is shown, or the worst of each; the worst first."""
        if len(self.shown) == 1:
            return [(self.shown[0], verdict) for verdict in verdicts_of(self.shown[0])]
        worst = [(one, verdicts_of(one)[0]) for one in self.shown]
        if all(verdict.level == "good" for _, verdict in worst):
            return [(self.shown[0], Verdict("good", f"All {len(worst)} processes are healthy."))]
        return sorted(worst, key=lambda pair: LEVELS.index(pair[1].level))


def in_order(processes: Sequence[Process]) -> list[Process]:
    """Those that live first, then by run and place in it."""
    return sorted(processes, key=_place)


def _place(one: Process) -> tuple[bool, str, int, str]:
    figures = one.figures
    run, index = (figures.run, figures.process_index) if figures is not None else ("", None)
    return (one.status in ("ended", "new"), run, -1 if index is None else index, one.url)


def name_of(one: Process) -> str:
    """`misbehaves`, `both/1` for a process of several, or the address of one that never answered."""
    if one.figures is None:
        return one.url.removeprefix("http://")
    index = one.figures.process_index
    return one.figures.run if index is None else f"{one.figures.run}/{index}"
