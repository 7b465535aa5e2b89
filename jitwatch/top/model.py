"""What jobs answer, as typed rows: one process over time, several merged, and their order. Pure; time is an argument.

An answer comes over the network and may hold anything: a missing or invalid value is None, 0 or empty, never an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeVar

from jitwatch.model import cleaning
from jitwatch.render import formats

#: new: never answered; live; silent: answered before and does not now; ended: nothing listens there any more.
Status = Literal["new", "live", "silent", "ended"]
#: From the worst to the best; `gone` is a job that does not answer, which may be as intended.
Level = Literal["bad", "warn", "gone", "busy", "good"]
LEVELS: Final[tuple[Level, ...]] = ("bad", "warn", "gone", "busy", "good")
#: Characters kept of one text of an answer, rows kept of one list.
_MAX_TEXT, _MAX_ROWS = 1_000, 20_000
#: Larger numbers are no measurement. Smaller ones are 0, so that every quotient of two numbers is finite.
_LARGEST, _SMALLEST = 1e16, 1e-9
#: Seconds for which figures stay valid while the job answers 429.
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRow:
    """A function of one process, or summed over several.

    Attributes:
        cache_entries: Programs in its jit cache; None where unknown.
        compiles_spread, recompiles_spread: Least and most of the processes of a run, where they differ.
    """

    function: str
    location: str = ""
    compiles: int = 0
    recompiles: int = 0
    failures: int = 0
    seconds: float = 0.0
    lost_seconds: float = 0.0
    lost_ratio: float = 0.0
    cache_entries: int | None = None
    causes: dict[str, int] = field(default_factory=dict)
    is_in_storm: bool = False
    compiles_spread: tuple[int, int] | None = None
    recompiles_spread: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecompileRow:
    """Recompiles from one call site with the same causes; `reason`, `advice` and `seconds_ago` are of the last one."""

    function: str
    call_site: str
    causes: tuple[str, ...]
    paths: tuple[str, ...]
    recompiles: int
    lost_seconds: float
    reason: str
    advice: str
    pitfall: str
    seconds_ago: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PitfallRow:
    """A pitfall with its advice and the seconds that it has lost so far."""

    pitfall: str
    function: str
    location: str
    call_site: str
    message: str
    advice: str
    lost_seconds: float
    timestamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCompile:
    """A compile in progress; `is_again` if the function has a program already."""

    function: str
    phase: str
    for_seconds: float
    is_again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """The fullest device of a process; `limit_bytes` is None where only its live arrays are known."""

    device: str
    in_use_bytes: int
    limit_bytes: int | None
    is_estimate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one process reports of itself; durations in seconds, ratios of its wall clock.

    Attributes:
        health: Pairs of a level and a sentence, the worst first.
    """

    run: str
    process_index: int | None
    pid: int | None
    version: str
    start_time: float
    uptime_seconds: float
    step: int | None
    step_seconds: float | None
    compiling_ratio: float
    compiles: int
    recompiles: int
    failures: int
    lost_seconds: float
    lost_ratio: float
    storms_active: int
    steady_violations: int
    donation_violations: int
    out_of_memory: int
    is_steady: bool
    health: tuple[tuple[str, str], ...]
    memory: DeviceMemory | None
    host_resident_bytes: int | None
    pressure: tuple[str, ...]
    leaks: tuple[str, ...]
    in_progress: tuple[RunningCompile, ...]
    functions: tuple[FunctionRow, ...]
    newest_recompiles: tuple[RecompileRow, ...]
    pitfalls: tuple[PitfallRow, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of one request.

    Attributes:
        figures: The figures of the job, or None.
        problem: Why there are none, as the end of a sentence.
        is_gone: Nothing listens there: the process has ended, or never existed.
        retry_after_s: Seconds for which the job asks for no further request.
    """

    figures: Figures | None = None
    problem: str = ""
    is_gone: bool = False
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Process:
    """A job at one moment: its last figures, and whether it still answers.

    Attributes:
        quiet_s: Seconds since the last answer, or since the first request; 0 while it lives.
        problem: Why it does not answer.
        answered: When the last answer arrived, or the first request was sent, monotonic seconds.
    """

    url: str
    status: Status
    quiet_s: float = 0.0
    problem: str = ""
    figures: Figures | None = None
    answered: float = 0.0

    @property
    def name(self) -> str:
        """`pretrain`; `both/1` for one process of several; the address of one that never answered."""
        if self.figures is None:
            return self.url.removeprefix("http://")
        index = self.figures.process_index
        return self.figures.run if index is None else f"{self.figures.run}/{index}"

    def after(self, answer: Answer, now: float) -> Process:
        """The job after an answer that arrived at this time."""
        if answer.retry_after_s and self.status == "live" and now - self.answered < _PATIENCE_S:
            return self  # it lives, and its figures are recent
        if answer.figures is not None:
            return Process(self.url, "live", figures=answer.figures, answered=now)
        status: Status = "new" if self.status == "new" else "ended" if answer.is_gone else "silent"
        return replace(self, status=status, problem=answer.problem)

    def at(self, now: float) -> Process:
        """The job at this time, its recompiles as old as they are by now."""
        older_s, figures = now - self.answered, self.figures
        if figures is not None:
            aged = (
                one if one.seconds_ago is None else replace(one, seconds_ago=one.seconds_ago + older_s)
                for one in figures.newest_recompiles
            )
            figures = replace(figures, newest_recompiles=tuple(aged))
        return replace(self, quiet_s=0.0 if self.status == "live" else older_s, figures=figures)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence on the health of a job."""

    level: Level
    sentence: str


def verdicts_of(process: Process) -> list[Verdict]:
    """What is to be said of a job, the worst first; never empty."""
    figures = process.figures
    if process.status == "ended":
        address = process.url.removeprefix("http://")
        return [Verdict("gone", f"Ended {formats.ago(process.quiet_s)}: nothing listens at {address} any more.")]
    if figures is None:
        return [Verdict("gone", formats.sentences(process.problem or "No response yet"))]
    if process.status == "silent":
        last = formats.ago(process.quiet_s)
        return [Verdict("warn", formats.sentences(f"Not responding, last response {last}: {process.problem}"))]
    known: dict[str, Level] = {level: level for level in LEVELS}
    found = [Verdict(known.get(level, "warn"), sentence) for level, sentence in figures.health]
    return found or [Verdict("warn", "The job responds, but reports no health.")]


def level_of(process: Process) -> Level:
    """The worst level of a job."""
    return verdicts_of(process)[0].level


def unhealthy(processes: Iterable[Process]) -> int:
    """How many of the jobs have a problem."""
    return sum(level_of(one) in ("bad", "warn") for one in processes)


def verdicts_of_all(processes: Sequence[Process]) -> list[tuple[Process, Verdict]]:
    """All verdicts of a single job, or the worst of each of several; the worst first.

    Beside a problem nothing else is said.
    """
    if len(processes) == 1:
        pairs = [(processes[0], verdict) for verdict in verdicts_of(processes[0])]
    else:
        pairs = [(one, verdicts_of(one)[0]) for one in processes]
        if all(verdict.level == "good" for _, verdict in pairs):
            return [(processes[0], Verdict("good", f"All {len(processes)} processes are healthy."))]
        pairs.sort(key=lambda pair: LEVELS.index(pair[1].level))
    problems = [pair for pair in pairs if pair[1].level in ("bad", "warn")]
    return problems or pairs


def in_order(processes: Iterable[Process]) -> list[Process]:
    """Jobs that live first, then by run and process index, so that a row keeps its place."""

    def place(one: Process) -> tuple[bool, str, int, str]:
        run, index = (one.figures.run, one.figures.process_index) if one.figures is not None else ("", None)
        return (one.status in ("ended", "new"), run, -1 if index is None else index, one.url)

    return sorted(processes, key=place)


def shown_of(processes: Sequence[Process], chosen: str | None) -> list[Process]:
    """The job at the chosen address; all of them where none is chosen."""
    return [one for one in processes if chosen in (None, one.url)] or list(processes)


def counted(processes: Sequence[Process]) -> list[Figures]:
    """The figures that a sum is made of: those of the jobs that live, or of the ended ones if none does."""
    living = [one.figures for one in processes if one.figures is not None and one.status != "ended"]
    return living or [one.figures for one in processes if one.figures is not None]


#: Orders of the functions table, in the order in which a key goes through them.
SORTS: Final[dict[str, Callable[[FunctionRow], tuple[float | str, ...]]]] = {
    "lost": lambda one: (-one.lost_seconds, -one.seconds, one.function),
    "seconds": lambda one: (-one.seconds, one.function),
    "recompiles": lambda one: (-one.recompiles, -one.lost_seconds, one.function),
    "compiles": lambda one: (-one.compiles, -one.seconds, one.function),
    "name": lambda one: (one.function,),
}


def functions_of(processes: Sequence[Process], sort: str = "lost") -> list[FunctionRow]:
    """The functions of these jobs that compiled or failed to, merged and in order."""
    rows = merged(counted(processes))
    return sorted((one for one in rows if one.compiles or one.failures), key=SORTS[sort])


def merged(all_figures: Sequence[Figures]) -> list[FunctionRow]:
    """One row per function; of a single process as it is.

    A function that a process of the run does not have counts as 0 there. Processes of different runs are summed but
    not compared.
    """
    if len(all_figures) == 1:
        return list(all_figures[0].functions)
    tables = [(figures.run, {row.function: row for row in figures.functions}) for figures in all_figures]
    labels = dict.fromkeys(label for _, table in tables for label in table)
    wall_s = sum(figures.uptime_seconds for figures in all_figures)
    return [_merged_row(label, tables, wall_s) for label in labels]


_Tables = Sequence[tuple[str, Mapping[str, FunctionRow]]]


def _merged_row(label: str, tables: _Tables, wall_s: float) -> FunctionRow:
    rows = [table[label] for _, table in tables if label in table]
    names = ("compiles", "recompiles", "failures", "seconds", "lost_seconds")
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in rows) for name in names}
    causes: Counter[str] = Counter()
    for one in rows:
        causes.update(one.causes)
    entries = [one.cache_entries for one in rows if one.cache_entries is not None]
    return replace(
        rows[0],
        **sums,
        lost_ratio=sums["lost_seconds"] / wall_s if wall_s > 0 else 0.0,
        cache_entries=sum(entries) if entries else None,
        causes=dict(causes),
        is_in_storm=any(one.is_in_storm for one in rows),
        compiles_spread=_spread(label, tables, "compiles"),
        recompiles_spread=_spread(label, tables, "recompiles"),
    )


def _spread(label: str, tables: _Tables, name: str) -> tuple[int, int] | None:
    """Least and most of the run whose processes differ most; None where all agree."""
    counts: dict[str, list[int]] = {}
    for run, table in tables:
        counts.setdefault(run, []).append(getattr(table[label], name) if label in table else 0)
    least, most = max(((min(one), max(one)) for one in counts.values()), key=lambda pair: pair[1] - pair[0])
    return (least, most) if least != most else None


def figures_of(state: object) -> Figures | None:
    """The figures of an answer to `GET /api/v1/state`; None if it is no such answer."""
    if not isinstance(state, Mapping) or not isinstance(state.get("totals"), Mapping):
        return None
    totals, memory, health = state["totals"], _mapping(state.get("memory")), _mapping(state.get("health"))
    sentences = [one for one in (health, *_rows(health.get("others"))) if one.get("sentence")]
    out_of_memory = _rows(_mapping(state.get("metrics")).get("jitwatch_oom_total"))
    sites = [_recompile(row, _number(state.get("time"))) for row in _rows(state.get("call_sites")) if row.get("reason")]
    return _read(
        Figures,
        {**totals, **state},
        start_time=_number(state.get("start_time_seconds")),
        step_seconds=_number(state.get("mean_step_seconds")) or None,
        compiling_ratio=_number(totals.get("busy_ratio")),
        out_of_memory=_whole(sum(_number(row.get("value")) for row in out_of_memory)),
        is_steady=state.get("steady_seconds") is not None,
        health=tuple((clean(one.get("level")), clean(one.get("sentence"))) for one in sentences),
        memory=_fullest(_rows(memory.get("devices"))),
        host_resident_bytes=_whole_or_none(_mapping(memory.get("host")).get("resident_bytes")),
        pressure=_texts(memory.get("pressure")),
        leaks=_texts(memory.get("leaks")),
        in_progress=tuple(
            _read(RunningCompile, row, for_seconds=_number(row.get("for_s"))) for row in _rows(state.get("in_progress"))
        ),
        functions=tuple(_read(FunctionRow, row) for row in _rows(state.get("functions")) if row.get("function")),
        newest_recompiles=tuple(sorted(sites, key=newest_first)),
        pitfalls=tuple(_read(PitfallRow, row) for row in _rows(state.get("pitfalls"))),
    )


def newest_first(one: RecompileRow) -> tuple[bool, float, float]:
    """Sort key: by age, then those of unknown age; the most lost seconds first."""
    return (one.seconds_ago is None, one.seconds_ago or 0.0, -one.lost_seconds)


def _recompile(row: Mapping[str, Any], now: float) -> RecompileRow:
    last = _number(row.get("last_time"))
    return _read(RecompileRow, row, seconds_ago=max(0.0, now - last) if last and now else None)


def _fullest(devices: list[Mapping[str, Any]]) -> DeviceMemory | None:
    known = [one for one in devices if _whole_or_none(one.get("in_use_bytes")) is not None]
    if not known:
        return None
    fullest = max(known, key=lambda one: (_number(one.get("in_use_ratio")), _number(one.get("in_use_bytes"))))
    return _read(DeviceMemory, fullest, is_estimate=fullest.get("in_use_from") != "device")


def clean(value: object) -> str:
    """Text that is safe on a terminal: control characters become `?`; a value that is no text is empty."""
    return cleaning.clean(value, _MAX_TEXT) if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(clean(one) for one in value[:100] if isinstance(one, str)) if isinstance(value, list) else ()


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value[:_MAX_ROWS] if isinstance(row, Mapping)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    """A finite number of plausible size from 0 up; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    # NaN fails both comparisons, and an integer of any length can be compared.
    return float(value) if _SMALLEST <= value <= _LARGEST else 0.0


def _whole(value: object) -> int:
    return int(_number(value))


def _whole_or_none(value: object) -> int | None:
    return _whole(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


#: How a field of a row is read, by its annotation.
_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "str": clean,
    "int": _whole,
    "float": _number,
    "int | None": _whole_or_none,
    "bool": lambda value: value is True,
    "tuple[str, ...]": _texts,
    "dict[str, int]": lambda value: {clean(key): _whole(one) for key, one in _mapping(value).items()},
}


_FIELDS: Final[dict[Any, list[tuple[str, Callable[[object], Any]]]]] = {
    kind: [(one.name, _READERS[str(one.type)]) for one in fields(kind) if one.type in _READERS]
    for kind in (Figures, FunctionRow, RecompileRow, PitfallRow, RunningCompile, DeviceMemory)
}
_R = TypeVar("_R")


def _read(kind: type[_R], values: Mapping[str, Any], **known: Any) -> _R:
    """A row whose fields are the values of the same name, but for those that are known already."""
    return kind(**{name: read(values.get(name)) for name, read in _FIELDS[kind] if name not in known}, **known)
