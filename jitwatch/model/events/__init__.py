"""Events: frozen dataclasses for all that the agent observes, without JAX objects.

A probe emits an event, the store numbers and reduces it, exporters read the numbered record. An event cleans its texts
when it is created (`model.cleaning`): names, paths, keys, values and messages come from the job. Durations are seconds
of a monotonic clock (their field names end in `_s`), sizes are bytes.
"""

from __future__ import annotations

from jitwatch.model.events.base import Event
from jitwatch.model.events.compile import (
    CacheMissed,
    CachesCleared,
    Compiled,
    CompileFailed,
    CompileProfiled,
    CompilerSeen,
    Compiling,
    FunctionWrapped,
    PersistentCacheSaved,
    PitfallFound,
    ProgramsDiverged,
    StaticRefused,
    SteadyViolated,
    StormEnded,
    StormStarted,
)
from jitwatch.model.events.donation import DonationMissed, DonationViolation, DonorMade
from jitwatch.model.events.memory import (
    ExecutableMeasured,
    Growing,
    MemoryLeak,
    MemoryPressure,
    MemorySampled,
    OutOfMemory,
    State,
)
from jitwatch.model.events.run import Installed, LogMoved, ProbeFailed, RunSummary, Stepped, Uninstalled

__all__ = [
    "CacheMissed",
    "CachesCleared",
    "CompileFailed",
    "CompileProfiled",
    "Compiled",
    "CompilerSeen",
    "Compiling",
    "DonationMissed",
    "DonationViolation",
    "DonorMade",
    "Event",
    "ExecutableMeasured",
    "FunctionWrapped",
    "Growing",
    "Installed",
    "LogMoved",
    "MemoryLeak",
    "MemoryPressure",
    "MemorySampled",
    "OutOfMemory",
    "PersistentCacheSaved",
    "PitfallFound",
    "ProbeFailed",
    "ProgramsDiverged",
    "RunSummary",
    "State",
    "StaticRefused",
    "SteadyViolated",
    "Stepped",
    "StormEnded",
    "StormStarted",
    "Uninstalled",
]
