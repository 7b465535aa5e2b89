"""What is shown of a process, a function, a recompile: frozen figures, made by `reading` and shown by `layout`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFigures:
    """A row of the functions table, of one process or summed over several.

    Attributes:
        cache_entries: Programs in its jit cache; None where nobody knows.
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

    @property
    def worst_cause(self) -> str:
        """The most frequent cause of its recompiles; empty without any."""
        return min(self.causes, key=lambda cause: (-self.causes[cause], cause), default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecompileFigures:
    """Recompiles from one line of the job for one reason.

    Attributes:
        causes, paths: Why, and which arguments changed.
        reason, advice: Of the last one, in words.
        pitfall: The known mistake that they show, or empty.
        seen_s_ago: When that was; None where the job does not tell.
    """

    function: str
    call_site: str
    causes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    recompiles: int
    lost_seconds: float
    reason: str
    advice: str
    pitfall: str = ""
    seen_s_ago: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PitfallFigures:
    """A known mistake with its advice; `lost_seconds` is what it has cost by now."""

    pitfall: str
    function: str
    location: str
    call_site: str
    message: str
    advice: str
    lost_seconds: float
    timestamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFigures:
    """A compile that goes on; `is_again` if the function has a program already."""

    function: str
    phase: str
    for_seconds: float
    is_again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """The fullest device of a process; `limit_bytes` is None where only its live arrays are known."""

    device: str
    in_use_bytes: int
    limit_bytes: int | None
    is_estimate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one process says of itself; durations in seconds, ratios of its wall clock.

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
    memory: MemoryFigures | None
    host_resident_bytes: int | None
    pressure: tuple[str, ...]
    leaks: tuple[str, ...]
    in_progress: tuple[RunningFigures, ...]
    functions: tuple[FunctionFigures, ...]
    newest_recompiles: tuple[RecompileFigures, ...]
    pitfalls: tuple[PitfallFigures, ...]
