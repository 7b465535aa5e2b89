"""Events about the run and the agent itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jitwatch.model.events.base import Event
from jitwatch.model.rows import FunctionSummaryRow, PitfallSummaryRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped(Event):
    """Training steps reported by `jitwatch.step()`. Counted, not logged."""

    steps: int
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed(Event):
    """The agent was installed in this process.

    Attributes:
        hlo_dir: The folder of the lowered programs, if this option is set.
    """

    kind: ClassVar[str] = "agent.installed"
    optional: ClassVar[frozenset[str]] = frozenset({"hlo_dir"})

    version: str
    jax: str | None
    jaxlib: str | None
    python: str
    pid: int
    url: str | None
    probes: tuple[str, ...]
    hlo_dir: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninstalled(Event):
    """The agent was uninstalled, and all hooks were removed."""

    kind: ClassVar[str] = "agent.uninstalled"
    is_urgent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed(Event):
    """A probe, or one of its hooks, does not work in this process; the others continue."""

    kind: ClassVar[str] = "agent.probe_failed"
    required: ClassVar[tuple[str, ...]] = ("probe",)

    probe: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMoved(Event):
    """The event log continues in another file than the requested one.

    Attributes:
        wanted: The requested file.
        path: The file that is written instead.
        because: The reason, such as another process that writes to the requested file.
    """

    kind: ClassVar[str] = "agent.log_moved"

    wanted: str
    path: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(Event):
    """The totals of the run, written when the agent stops.

    Attributes:
        wall_s: Seconds since the agent was installed.
        busy_s: Seconds of `wall_s` in which at least one thread compiled.
        lost_s: Lost seconds.
        lost_ratio: Lost seconds as a share of `wall_s`.
        lost_steps: Lost seconds as a number of training steps; None without steps.
        top: The functions with the most compile seconds, each with its compiles, seconds, lost seconds and causes.
        pitfalls: The pitfalls that were found, each with its call site, lost seconds and advice.
        pitfalls_left_out: Number of further pitfalls.
        persistent_cache: Hits and misses of the persistent cache and programs that were not written to it, if it is
            in use.
    """

    kind: ClassVar[str] = "run.summary"
    is_urgent: ClassVar[bool] = True
    required: ClassVar[tuple[str, ...]] = ("compiles",)
    optional: ClassVar[frozenset[str]] = frozenset({"persistent_cache"})

    wall_s: float
    compiles: int
    recompiles: int
    failures: int
    compile_s: float
    busy_s: float
    jax_compiles: int
    lost_s: float = 0.0
    lost_ratio: float = 0.0
    lost_steps: float | None = None
    top: tuple[FunctionSummaryRow, ...] = ()
    pitfalls: tuple[PitfallSummaryRow, ...] = ()
    pitfalls_left_out: int = 0
    persistent_cache: dict[str, Any] = field(default_factory=dict)
