"""Events about the run and the agent itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jitwatch.model.events.base import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped(Event):
    """The training loop's heartbeat; counted, not logged."""

    steps: int
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed(Event):
    """The agent watches this process."""

    kind: ClassVar[str] = "agent.installed"

    version: str
    jax: str | None
    jaxlib: str | None
    python: str
    pid: int
    url: str | None
    probes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninstalled(Event):
    """The agent put everything back."""

    kind: ClassVar[str] = "agent.uninstalled"
    is_urgent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed(Event):
    """A probe, or one hook of it, does not work here; the rest goes on."""

    kind: ClassVar[str] = "agent.probe_failed"
    required: ClassVar[tuple[str, ...]] = ("probe",)

    probe: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMoved(Event):
    """The event log goes on in another file than the one that was named.

    Attributes:
        wanted: The file that was named.
        path: The file of this process alone.
        because: Why: another process writes to it, or somebody else has put it there.
    """

    kind: ClassVar[str] = "agent.log_moved"

    wanted: str
    path: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(Event):
    """What the run's compiles cost, written when the agent stops.

    Attributes:
        wall_s: Seconds since the agent was installed.
        busy_s: The part of it in which at least one thread compiled.
        lost_s, lost_ratio, lost_steps: What recompiles cost: seconds, their share of `wall_s`, and how many
            training steps take as long (None without steps).
        top: The functions that cost most, each with its compiles, seconds, losses and causes.
        pitfalls: The known mistakes that were found, each with its line, cost and advice.
        pitfalls_left_out: How many more there were.
        persistent_cache: What the persistent cache answered and what was not written to it, if it was asked.
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
    top: tuple[dict[str, Any], ...] = ()
    pitfalls: tuple[dict[str, Any], ...] = ()
    pitfalls_left_out: int = 0
    persistent_cache: dict[str, Any] = field(default_factory=dict)
