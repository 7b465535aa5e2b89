"""Judges the health of a job: findings with a level, from facts and the newest records of each kind.

`jitwatch.render.health` words them. The level of a finding is also the level of a figure and of the rows of its
functions, so that the colours of the page agree with its sentences.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from jitwatch.diagnosis.pressure import FullMemory
from jitwatch.model.taxonomy import HARMLESS_CAUSES
from jitwatch.model.thresholds import LEVELS, THRESHOLDS, Level, Thresholds, level_above, worst

Kind = Literal[
    "programs_diverged",
    "out_of_memory",
    "storm",
    "compile_stuck",
    "memory_full",
    "memory_leak",
    "donation_violation",
    "steady_violation",
    "recompiles",
    "lost",
    "compiling",
    "compile_bound",
    "probe_down",
    "calm",
]
#: The figure that each kind of finding is about, by its name in the state.
FIGURES: Final[Mapping[Kind, str]] = {
    "out_of_memory": "memory",
    "storm": "storms_active",
    "compile_stuck": "in_progress",
    "memory_full": "memory",
    "memory_leak": "memory",
    "donation_violation": "donation_violations",
    "steady_violation": "steady_violations",
    "recompiles": "recompiles",
    "lost": "lost_seconds",
    "compiling": "in_progress",
    "compile_bound": "busy_seconds",
    "probe_down": "probes",
}
#: Events that are reported for as long as their newest record is recent.
REPORTED_EVENTS: Final = ("memory.oom", "donation.violation", "jit.steady_violation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts that the health is judged from.

    Attributes:
        totals: The state's totals.
        uptime_s: Seconds since the agent was installed.
        busy_s: Seconds of `uptime_s` in which at least one thread compiled.
        running: Compiles in progress, as in the state.
        storms: Labels of the functions in a storm.
        recent: Number of alarming recompiles in the last minute, by function.
        newest: Record of the newest alarming recompile; during storms, of a function in a storm.
        lost_s: Lost seconds of functions that are not ignored.
        most_lost: The function with most of them, its lost seconds, and the reason.
        lost_by_function: Lost seconds by function; functions below the warning share may be missing.
        last: The newest record of each kind, with its age in seconds.
        functions: Labels of the functions in the recent records of each of `REPORTED_EVENTS`.
        leaks: Kinds of memory that leak.
        full: The devices that are nearly full, the host included.
        down: Names of the probes that are down.
        slowest: The function that compiled longest, its seconds, and its number of compiles.
        thresholds: The thresholds that it is judged by.
    """

    totals: Mapping[str, Any]
    uptime_s: float
    busy_s: float = 0.0
    running: Sequence[Mapping[str, Any]] = ()
    storms: Sequence[str] = ()
    recent: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, Any] = field(default_factory=dict)
    lost_s: float = 0.0
    most_lost: tuple[str, float, str] = ("", 0.0, "")
    lost_by_function: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, tuple[Mapping[str, Any], float]]
    functions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    leaks: Sequence[str] = ()
    full: Sequence[FullMemory] = ()
    down: Sequence[str] = ()
    slowest: tuple[str, float, int] = ("", 0.0, 0)
    thresholds: Thresholds = THRESHOLDS

    @property
    def oldest(self) -> Mapping[str, Any] | None:
        """The compile that has been in progress longest."""
        return max(self.running, key=lambda one: float(one["for_s"]), default=None)

    def is_recent(self, kind: str) -> bool:
        """Whether a record of this kind is recent enough to be reported."""
        return self.last.get(kind, ({}, float("inf")))[1] < self.thresholds.recent_s

    def share_of_run(self, seconds: float) -> float:
        """Seconds as a share of the run."""
        return seconds / self.uptime_s if self.uptime_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A statement about the health of the job.

    Attributes:
        kind: What it is about.
        level: `bad` needs attention now, `warn` needs attention, `busy` is a compile in progress, `good` is healthy.
        functions: Labels of the functions that it is about.
    """

    kind: Kind
    level: Level
    functions: tuple[str, ...] = ()


def findings(facts: Facts) -> tuple[Finding, ...]:
    """All findings, the worst first, and of one level the most important first; never empty."""
    found = [*_of_events(facts), *_of_compiles(facts)]
    return tuple(sorted(found, key=lambda one: LEVELS.index(one.level))) or (Finding("calm", "good"),)


def _of_events(facts: Facts) -> Iterator[Finding]:
    """Findings about memory, storms and violations."""
    limits, oldest, functions = facts.thresholds, facts.oldest, facts.functions
    # Regardless of its age, since the processes do not recover.
    if "programs.diverged" in facts.last:
        yield Finding("programs_diverged", "bad")
    if facts.is_recent("memory.oom"):
        yield Finding("out_of_memory", "bad", tuple(functions.get("memory.oom", ())))
    if facts.storms:
        yield Finding("storm", "bad", tuple(facts.storms))
    if oldest is not None:
        level = level_above(oldest["for_s"], warn=limits.compile_warn_s, bad=limits.compile_bad_s)
        if level != "good":
            yield Finding("compile_stuck", level, (oldest["function"],))
    if facts.full:
        yield Finding("memory_full", worst(one.level for one in facts.full))
    if facts.leaks:
        yield Finding("memory_leak", "warn")
    kinds: dict[str, Kind] = {"donation.violation": "donation_violation", "jit.steady_violation": "steady_violation"}
    for event, kind in kinds.items():
        # An unusable donation changes no result.
        if facts.is_recent(event) and facts.last[event][0].get("kind") != "unusable":
            yield Finding(kind, "warn", tuple(functions.get(event, ())))


def _of_compiles(facts: Facts) -> Iterator[Finding]:
    """Findings about the time that compiles took, and about the probes."""
    limits, oldest = facts.thresholds, facts.oldest
    if facts.recent and not facts.storms:
        yield Finding("recompiles", "warn", tuple(facts.recent))
    if facts.share_of_run(facts.lost_s) >= limits.lost_warn_ratio:
        most = [facts.most_lost[0]] if facts.most_lost[0] else []
        others = [label for label, lost_s in facts.lost_by_function.items() if is_lossy(lost_s, facts.uptime_s)]
        yield Finding("lost", "warn", tuple(dict.fromkeys([*most, *others])))
    if oldest is not None and limits.compile_busy_s <= oldest["for_s"] < limits.compile_warn_s:
        yield Finding("compiling", "busy")
    if facts.busy_s >= limits.busy_notice_s and facts.busy_s > limits.busy_notice_ratio * facts.uptime_s:
        yield Finding("compile_bound", "busy")
    if facts.down:
        yield Finding("probe_down", "warn")


def figure_levels(found: Iterable[Finding]) -> dict[str, Level]:
    """The level of each figure that a finding is about."""
    levels: dict[str, Level] = {}
    for one in found:
        if (figure := FIGURES.get(one.kind)) is not None:
            levels[figure] = worst((one.level, levels.get(figure, "good")))
    return levels


def function_levels(found: Iterable[Finding]) -> dict[str, dict[str, Level]]:
    """The levels of the figures of each function that a finding is about, the worst functions first."""
    levels: dict[str, dict[str, Level]] = {}
    for one in found:
        for label in one.functions:
            levels.setdefault(label, {}).setdefault(FIGURES[one.kind], one.level)
    return levels


def is_lossy(lost_s: float, uptime_s: float) -> bool:
    """Whether lost seconds reach the warning share of the run."""
    return lost_s > 0 and lost_s >= THRESHOLDS.lost_warn_ratio * uptime_s


Record = dict[str, Any]

#: Maximum number of records of each kind, so that a storm does not displace a single violation.
MAX_OF_KIND = 25
#: Maximum number of recompiles whose times are kept.
_MAX_RECOMPILES = 1_000


class RecentRecords:
    """The newest records of some kinds. Not thread-safe."""

    def __init__(self, kinds: Iterable[str], thresholds: Thresholds = THRESHOLDS) -> None:
        self._thresholds = thresholds
        #: By kind, with the Unix time of each.
        self._records: dict[str, deque[tuple[float, Record]]] = {
            one: deque(maxlen=MAX_OF_KIND) for one in sorted(kinds)
        }
        #: Unix time and function of the alarming recompiles.
        self._recompiles: deque[tuple[float, str]] = deque(maxlen=_MAX_RECOMPILES)
        self._last_seq = 0

    def add(self, record: Record) -> None:
        """Keep a record, if it is of one of the kinds."""
        ring = self._records.get(record["event"])
        if ring is None:
            return
        time_s = datetime.fromisoformat(record["timestamp"]).timestamp()
        ring.append((time_s, record))
        self._last_seq = record["seq"]
        if record["event"] == "jit.recompiled" and is_alarming(record):
            self._recompiles.append((time_s, record["function"]))

    def since(self, seq: int) -> list[Record]:
        """The records with a higher `seq`, oldest first."""
        if self._last_seq <= seq:
            return []
        found = [record for ring in self._records.values() for _, record in ring if record["seq"] > seq]
        return sorted(found, key=lambda record: int(record["seq"]))

    def records(self, kind: str) -> list[Record]:
        """The records of one kind, oldest first."""
        return [record for _, record in self._records[kind]]

    def newest(self, now_s: float) -> dict[str, tuple[Record, float]]:
        """The newest record of each kind with its age in seconds; unusable donations are left out."""
        found = {kind: next(filter(_is_harmful, reversed(ring)), None) for kind, ring in self._records.items()}
        return {kind: (one[1], max(0.0, now_s - one[0])) for kind, one in found.items() if one is not None}

    def functions(self, kind: str, now_s: float) -> list[str]:
        """Labels of the functions in the recent records of one kind."""
        recent = (one for one in self._records[kind] if now_s - one[0] < self._thresholds.recent_s)
        return sorted({record["function"] for _, record in filter(_is_harmful, recent) if record.get("function")})

    def recompiles(self, now_s: float) -> Mapping[str, int]:
        """Number of alarming recompiles in the last minute, by function."""
        recent_s = self._thresholds.recent_recompiles_s
        return Counter(label for at, label in self._recompiles if now_s - at < recent_s)

    def newest_recompile(self, storms: Collection[str]) -> Record:
        """The newest alarming recompile; while there are storms, of a function in one. Empty without one."""
        alarming = (record for _, record in reversed(self._records["jit.recompiled"]) if is_alarming(record))
        return next((one for one in alarming if not storms or one["function"] in storms), {})


def is_alarming(record: Mapping[str, Any]) -> bool:
    """Whether a recompile is reported in the health: not planned, and not of an ignored function."""
    causes = record.get("causes", ())
    is_harmless = bool(causes) and HARMLESS_CAUSES.issuperset(causes)
    return record["expected"] is None and not is_harmless and not record.get("is_ignored")


def _is_harmful(at_and_record: tuple[float, Record]) -> bool:
    """False for an unusable donation, which changes no result."""
    return at_and_record[1].get("kind") != "unusable"
