"""What jobs answer: a state cleaned to its declared types, one job over time, several merged. Pure.

An answer comes over the network and may hold anything: a missing or invalid value is None, 0 or empty, never an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from types import NoneType
from typing import Any, Final, Literal, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from jitwatch.model import cleaning
from jitwatch.render import formats
from jitwatch.state.schema import CallSiteRow, FunctionRow, PitfallRow, Present

#: new: never answered; live; silent: answered before and does not now; ended: nothing listens there any more.
Status = Literal["new", "live", "silent", "ended"]
#: From the worst to the best; `gone` is a job that does not answer, which may be as intended.
Level = Literal["bad", "warn", "gone", "busy", "good"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
#: Characters kept of one text of an answer, elements kept of one list.
_MAX_TEXT, _MAX_ROWS = 1_000, 20_000
#: Larger numbers are no measurement. Smaller ones are 0, so that every quotient of two numbers is finite.
_LARGEST, _SMALLEST = 1e16, 1e-9
#: Seconds for which a state stays valid while the job answers 429.
_PATIENCE_S = 60.0


class Finding(TypedDict):
    """One sentence on the health of a job."""

    level: Level
    sentence: str


class Health(Finding):
    """The worst finding, and the others."""

    others: list[Finding]


class Levels(TypedDict):
    """The levels of the figures that a finding is about."""

    figures: dict[str, Level]


class Function(FunctionRow):
    """A function of one process, or summed over several.

    Attributes:
        level: The worst level of its figures.
        compiles_spread, recompiles_spread: Least and most of the processes of a run, where they differ.
    """

    level: Level
    compiles_spread: tuple[int, int] | None
    recompiles_spread: tuple[int, int] | None


class Device(TypedDict):
    """Memory of a device; the limit is unknown where only its live arrays are counted."""

    device: str
    in_use_bytes: int | None
    limit_bytes: int | None
    in_use_ratio: float
    in_use_from: str
    level: Level


class Memory(TypedDict):
    """Memory of the devices and the host; names of the places under pressure, and of what grows."""

    devices: list[Device]
    host: dict[str, int | None]
    pressure: list[str]
    leaks: list[str]


class Sample(TypedDict):
    """A value of a metric."""

    value: float


class JobState(Present):
    """The part of an answer to `GET /api/v1/state` that is shown."""

    version: str
    pid: int | None
    health: Health
    levels: Levels
    functions: list[Function]
    call_sites: list[CallSiteRow]
    pitfalls: list[PitfallRow]
    memory: Memory
    metrics: dict[str, list[Sample]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of one request: the state of the job, or none.

    Attributes:
        problem: Why there is none, as the end of a sentence.
        is_gone: Nothing listens there: the process has ended, or never existed.
        retry_after_s: Seconds for which the job asks for no further request.
    """

    state: JobState | None = None
    problem: str = ""
    is_gone: bool = False
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Process:
    """A job at one moment: its last state, and whether it still answers.

    Attributes:
        quiet_s: Seconds since the last answer, or since the first request; 0 while it lives.
        problem: Why it does not answer.
        answered: When the last answer arrived, or the first request was sent, monotonic seconds.
    """

    url: str
    status: Status
    quiet_s: float = 0.0
    problem: str = ""
    state: JobState | None = None
    answered: float = 0.0

    @property
    def address(self) -> str:
        """`127.0.0.1:10431`."""
        return self.url.removeprefix("http://")

    @property
    def name(self) -> str:
        """`pretrain`; `both/1` for one process of several; the address of one that never answered."""
        if self.state is None:
            return self.address
        index = self.state["process_index"]
        return self.state["run"] if index is None else f"{self.state['run']}/{index}"

    @property
    def findings(self) -> Sequence[Finding]:
        """What is to be said of the job, the worst first; never empty."""
        if self.status == "ended":
            text = f"Ended {formats.ago(self.quiet_s)}: nothing listens at {self.address} any more."
            return [{"level": "gone", "sentence": text}]
        if self.state is None:
            return [{"level": "gone", "sentence": formats.sentences(self.problem or "No response yet")}]
        if self.status == "silent":
            return [
                {"level": "warn", "sentence": f"Not responding for {formats.duration(self.quiet_s)}: {self.problem}."}
            ]
        health = self.state["health"]
        if not health["sentence"]:
            return [{"level": "warn", "sentence": "The job responds, but reports no health."}]
        return [{"level": health["level"], "sentence": health["sentence"]}, *health["others"]]

    @property
    def level(self) -> Level:
        """Its worst level."""
        return self.findings[0]["level"]

    def after(self, answer: Answer, now: float) -> Process:
        """The job after an answer that arrived at this time."""
        if answer.retry_after_s and self.status == "live" and now - self.answered < _PATIENCE_S:
            return self  # it lives, and its state is recent
        if answer.state is not None:
            return Process(self.url, "live", state=answer.state, answered=now)
        status: Status = "new" if self.status == "new" else "ended" if answer.is_gone else "silent"
        return replace(self, status=status, problem=answer.problem)

    def at(self, now: float) -> Process:
        """The job at this time; its clock has gone on, so that its recompiles grow older."""
        older_s, state = now - self.answered, self.state
        if state is not None:
            state = {**state, "time": state["time"] + older_s}
        return replace(self, quiet_s=0.0 if self.status == "live" else older_s, state=state)


def in_order(processes: Iterable[Process]) -> list[Process]:
    """Jobs that live first, then by run and process index, so that a row keeps its place."""

    def place(one: Process) -> tuple[bool, str, int, str]:
        run, index = (one.state["run"], one.state["process_index"]) if one.state is not None else ("", None)
        return (one.status in ("ended", "new"), run, index or 0, one.url)

    return sorted(processes, key=place)


def counted(processes: Sequence[Process]) -> list[JobState]:
    """The states that a sum is made of: those of the jobs that live, or of the ended ones if none does."""
    living = [one.state for one in processes if one.state is not None and one.status != "ended"]
    return living or [one.state for one in processes if one.state is not None]


#: Orders of the functions table, in the order in which a key goes through them.
SORTS: Final[dict[str, Callable[[Function], tuple[float | str, ...]]]] = {
    "lost": lambda one: (-one["lost_seconds"], -one["seconds"], one["function"]),
    "seconds": lambda one: (-one["seconds"], one["function"]),
    "recompiles": lambda one: (-one["recompiles"], -one["lost_seconds"], one["function"]),
    "compiles": lambda one: (-one["compiles"], -one["seconds"], one["function"]),
    "name": lambda one: (one["function"],),
}


def functions_of(states: Sequence[JobState], sort: str = "lost") -> list[Function]:
    """One row per function that compiled or failed to, in order; of a single process as it is.

    A function that a process of the run does not have counts as 0 there. Processes of different runs are summed but
    not compared.
    """
    if len(states) == 1:
        rows = states[0]["functions"]
    else:
        tables = [(state["run"], {row["function"]: row for row in state["functions"]}) for state in states]
        labels = dict.fromkeys(label for _, table in tables for label in table)
        wall_s = sum(state["uptime_seconds"] for state in states)
        rows = [_merged([(run, table.get(label)) for run, table in tables], wall_s) for label in labels]
    return sorted((one for one in rows if one["compiles"] or one["failures"]), key=SORTS[sort])


def _merged(by_run: Sequence[tuple[str, Function | None]], wall_s: float) -> Function:
    rows = [row for _, row in by_run if row is not None]
    entries = [one["cache_entries"] for one in rows if one["cache_entries"] is not None]
    lost_s = sum(one["lost_seconds"] for one in rows)
    return {
        **rows[0],
        "compiles": sum(one["compiles"] for one in rows),
        "recompiles": sum(one["recompiles"] for one in rows),
        "failures": sum(one["failures"] for one in rows),
        "seconds": sum(one["seconds"] for one in rows),
        "lost_seconds": lost_s,
        "lost_ratio": lost_s / wall_s if wall_s > 0 else 0.0,
        "cache_entries": sum(entries) if entries else None,
        "causes": dict(sum((Counter(one["causes"]) for one in rows), Counter())),
        "level": min((one["level"] for one in rows), key=LEVELS.index),
        "compiles_spread": _spread((run, row["compiles"] if row else 0) for run, row in by_run),
        "recompiles_spread": _spread((run, row["recompiles"] if row else 0) for run, row in by_run),
    }


def _spread(numbers: Iterable[tuple[str, int]]) -> tuple[int, int] | None:
    """Least and most of the run whose processes differ most; None where all agree."""
    by_run: dict[str, list[int]] = {}
    for run, number in numbers:
        by_run.setdefault(run, []).append(number)
    least, most = max(((min(one), max(one)) for one in by_run.values()), key=lambda pair: pair[1] - pair[0])
    return (least, most) if least != most else None


def recompiles_of(states: Iterable[JobState]) -> list[tuple[float | None, CallSiteRow]]:
    """The call sites that recompiled, each with the seconds since then; the newest first, those of unknown age last."""
    found: list[tuple[float | None, CallSiteRow]] = []
    for state in states:
        for site in state["call_sites"]:
            ago = state["time"] - (site["last_time"] or inf)
            found.append((ago if ago >= 0 else None, site))
    return sorted(found, key=lambda pair: (inf if pair[0] is None else pair[0], -pair[1]["lost_seconds"]))


def fullest(state: JobState) -> Device | None:
    """The device with most of its memory in use."""
    known = (one for one in state["memory"]["devices"] if one["in_use_bytes"] is not None)
    return max(known, key=lambda one: (one["in_use_ratio"], one["in_use_bytes"]), default=None)


def state_of(answer: object) -> JobState | None:
    """The state in an answer; None if it is no answer of a job."""
    if not isinstance(answer, dict) or not isinstance(answer.get("totals"), dict):
        return None
    state: JobState = _reader(JobState)(answer)
    state["functions"] = [row for row in state["functions"] if row["function"]]
    state["call_sites"] = [row for row in state["call_sites"] if row["reason"]]
    return state


def clean(value: object) -> str:
    """Text that is safe on a terminal: control characters become `?`; a value that is no text is empty."""
    return cleaning.clean(value, _MAX_TEXT) if isinstance(value, str) else ""


def _number(value: object) -> float:
    """A finite number of plausible size, at least 0; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    # NaN fails both comparisons, and an integer of any length can be compared.
    return float(value) if _SMALLEST <= value <= _LARGEST else 0.0


#: How values of these types are read; a level that a newer version has added is a warning.
_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: clean,
    str | None: clean,
    float: _number,
    int: lambda value: int(_number(value)),
    bool: lambda value: value is True,
    Level: lambda value: next((one for one in LEVELS if one == value), "good" if value is None else "warn"),
    tuple[int, int] | None: lambda _: None,  # a job knows only itself
}
#: What they are in JSON; all other types are objects.
_IN_JSON: Final[Mapping[Any, Any]] = {str: str, float: (int, float), int: (int, float)}


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """A function that makes a value of this type of any value: a row, a list, a mapping, a value or None."""
    if kind in _READERS:
        return _READERS[kind]
    if is_typeddict(kind):
        fields = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
        return lambda value: {
            name: read(value.get(name) if isinstance(value, dict) else None) for name, read in fields.items()
        }
    inner = next(one for one in get_args(kind)[::-1] if one is not NoneType)
    read, expected = _reader(inner), _IN_JSON.get(inner, dict)
    if get_origin(kind) is dict:
        return lambda value: {clean(key): read(one) for key, one in value.items()} if isinstance(value, dict) else {}
    if get_origin(kind) is list:
        return lambda value: (
            [read(one) for one in value[:_MAX_ROWS] if isinstance(one, expected)] if isinstance(value, list) else []
        )
    return lambda value: read(value) if isinstance(value, expected) else None
