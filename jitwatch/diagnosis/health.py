"""Judges the health of a job: findings with a level, from facts. `jitwatch.render.health` words them.

The level of a finding is also the level of a figure and of the rows of its functions, so that the colours of the page
agree with its sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from jitwatch.diagnosis.pressure import FullMemory
from jitwatch.model.thresholds import LEVELS, THRESHOLDS, Level, Thresholds, level_above, worst

Kind = Literal[
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
    """All findings, the worst first; never empty."""
    found = [one for rule in _RULES if (one := rule(facts)) is not None]
    return tuple(sorted(found, key=lambda one: LEVELS.index(one.level))) or (Finding("calm", "good"),)


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


def _out_of_memory(facts: Facts) -> Finding | None:
    return _of_record(facts, "memory.oom", "out_of_memory", "bad")


def _storm(facts: Facts) -> Finding | None:
    return Finding("storm", "bad", tuple(facts.storms)) if facts.storms else None


def _stuck(facts: Facts) -> Finding | None:
    oldest = facts.oldest
    if oldest is None:
        return None
    level = level_above(oldest["for_s"], warn=facts.thresholds.compile_warn_s, bad=facts.thresholds.compile_bad_s)
    return Finding("compile_stuck", level, (oldest["function"],)) if level != "good" else None


def _full(facts: Facts) -> Finding | None:
    return Finding("memory_full", worst(one.level for one in facts.full)) if facts.full else None


def _leak(facts: Facts) -> Finding | None:
    return Finding("memory_leak", "warn") if facts.leaks else None


def _donation_violation(facts: Facts) -> Finding | None:
    record, _ = facts.last.get("donation.violation", ({}, 0.0))
    # An unusable donation changes no result.
    is_unusable = record.get("kind") == "unusable"
    return None if is_unusable else _of_record(facts, "donation.violation", "donation_violation", "warn")


def _steady_violation(facts: Facts) -> Finding | None:
    return _of_record(facts, "jit.steady_violation", "steady_violation", "warn")


def _recompiles(facts: Facts) -> Finding | None:
    if facts.storms or not facts.recent:
        return None
    return Finding("recompiles", "warn", tuple(facts.recent))


def _lost(facts: Facts) -> Finding | None:
    if facts.share_of_run(facts.lost_s) < facts.thresholds.lost_warn_ratio:
        return None
    most = [facts.most_lost[0]] if facts.most_lost[0] else []
    others = [label for label, lost_s in facts.lost_by_function.items() if is_lossy(lost_s, facts.uptime_s)]
    return Finding("lost", "warn", tuple(dict.fromkeys([*most, *others])))


def _compiling(facts: Facts) -> Finding | None:
    oldest = facts.oldest
    limits = facts.thresholds
    if oldest is None or not limits.compile_busy_s <= oldest["for_s"] < limits.compile_warn_s:
        return None
    return Finding("compiling", "busy")


def _compile_bound(facts: Facts) -> Finding | None:
    is_long = facts.busy_s >= facts.thresholds.busy_notice_s
    is_large = facts.busy_s > facts.thresholds.busy_notice_ratio * facts.uptime_s
    return Finding("compile_bound", "busy") if is_long and is_large else None


def _probe_down(facts: Facts) -> Finding | None:
    return Finding("probe_down", "warn") if facts.down else None


def _of_record(facts: Facts, event: str, kind: Kind, level: Level) -> Finding | None:
    """A finding for as long as the newest record of an event is recent."""
    return Finding(kind, level, tuple(facts.functions.get(event, ()))) if facts.is_recent(event) else None


def is_lossy(lost_s: float, uptime_s: float) -> bool:
    """Whether lost seconds reach the warning share of the run."""
    return lost_s > 0 and lost_s >= THRESHOLDS.lost_warn_ratio * uptime_s


#: In the order of importance among findings of one level.
_RULES: Final[tuple[Callable[[Facts], Finding | None], ...]] = (
    _out_of_memory,
    _storm,
    _stuck,
    _full,
    _leak,
    _donation_violation,
    _steady_violation,
    _recompiles,
    _lost,
    _compiling,
    _compile_bound,
    _probe_down,
)
