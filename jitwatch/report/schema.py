"""The fields of each event that the report reads, each with its type and range."""

from __future__ import annotations

from typing import Final

from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    DonationViolation,
    Installed,
    LogMoved,
    MemoryLeak,
    MemoryPressure,
    MemorySampled,
    OutOfMemory,
    PitfallFound,
    ProbeFailed,
    RunSummary,
    SteadyViolated,
    StormEnded,
    StormStarted,
    Uninstalled,
)
from jitwatch.report.fields import (
    AMOUNT,
    FLAG,
    INDEX,
    INSTANT,
    NUMBER,
    RATIO,
    SECONDS,
    SEQUENCE,
    SHAPE,
    TEXT,
    TEXTS,
    Kinds,
    rows,
)

#: What every record has besides its event.
COMMON: Final[Kinds] = {
    "timestamp": INSTANT,
    "schema": NUMBER,
    "run": TEXT,
    "process": TEXT,
    "process_index": INDEX,
    "seq": SEQUENCE,
}
_FUNCTION: Final[Kinds] = {"function": TEXT, "name": TEXT, "location": TEXT}
_CALL: Final[Kinds] = {**_FUNCTION, "call_site": TEXT}
_COMPILE: Final[Kinds] = {
    **_CALL,
    "trace_s": SECONDS,
    "lower_s": SECONDS,
    "compile_s": SECONDS,
    "persistent_cache": TEXT,
    "persistent_cache_reason": TEXT,
    "cache_entries": NUMBER,
    "constant_bytes": NUMBER,
}
_DEVICE: Final[Kinds] = {
    "device": TEXT,
    "device_kind": TEXT,
    "platform": TEXT,
    "stats_supported": FLAG,
    "in_use_bytes": NUMBER,
    "in_use_from": TEXT,
    "peak_bytes": NUMBER,
    "limit_bytes": NUMBER,
    "in_use_ratio": RATIO,
    "reserved_bytes": NUMBER,
    "largest_free_block_bytes": NUMBER,
    "live_arrays": NUMBER,
    "live_array_bytes": NUMBER,
    "problem": TEXT,
}
_PROGRAM: Final[Kinds] = {
    "function": TEXT,
    "total_bytes": NUMBER,
    "argument_bytes": NUMBER,
    "output_bytes": NUMBER,
    "temporary_bytes": NUMBER,
    "code_bytes": NUMBER,
    "aliased_bytes": NUMBER,
    "peak_bytes": NUMBER,
}
_PITFALL: Final[Kinds] = {
    **_CALL,
    "pitfall": TEXT,
    "subject": TEXT,
    "message": TEXT,
    "advice": TEXT,
    "lost_s": SECONDS,
}
_ARRAY: Final[Kinds] = {
    "shape": SHAPE,
    "dtype": TEXT,
    "sharding": TEXT,
    "devices": TEXT,
    "count": NUMBER,
    "bytes": NUMBER,
}

#: By event; what is not here is an event that this version does not know.
EVENTS: Final[dict[str, Kinds]] = {
    kind: {**COMMON, **fields}
    for kind, fields in {
        Installed.kind: {"version": TEXT, "jax": TEXT, "jaxlib": TEXT, "python": TEXT},
        Uninstalled.kind: {},
        LogMoved.kind: {},
        Compiled.kind: _COMPILE,
        Compiled.repeated_kind: {
            **_COMPILE,
            "causes": TEXTS,
            "changes": rows(path=TEXT),
            "expected": TEXT,
            "is_ignored": FLAG,
            "pitfall": TEXT,
            "pitfall_subject": TEXT,
            "reason": TEXT,
            "advice": TEXT,
            "explanation": TEXT,
        },
        CompileFailed.kind: {**_CALL, "phase": TEXT, "error": TEXT, "message": TEXT, "spent_s": SECONDS},
        PitfallFound.kind: _PITFALL,
        StormStarted.kind: _FUNCTION,
        StormEnded.kind: _FUNCTION,
        SteadyViolated.kind: {**_CALL, "spent_s": SECONDS, "reason": TEXT, "action": TEXT},
        DonationViolation.kind: {
            **_CALL,
            "kind": TEXT,
            "leaf": TEXT,
            "shape": SHAPE,
            "dtype": TEXT,
            "bytes": NUMBER,
            "donated_by": TEXT,
            "donated_at": TEXT,
            "donated_leaf": TEXT,
        },
        MemorySampled.kind: {"devices": rows(**_DEVICE)},
        MemoryPressure.kind: {"place": TEXT, "state": TEXT, "limit_bytes": NUMBER, "ratio": RATIO},
        MemoryLeak.kind: {
            "growing": TEXT,
            "message": TEXT,
            "bytes_per_second": AMOUNT,
            "cause": TEXT,
            "functions": TEXTS,
        },
        OutOfMemory.kind: {
            "program": TEXT,
            "function": TEXT,
            "call_site": TEXT,
            "message": TEXT,
            "devices": rows(**_DEVICE),
            "arrays": rows(**_ARRAY),
            "executables": rows(**_PROGRAM),
            "live_arrays": NUMBER,
            "live_array_bytes": NUMBER,
        },
        ProbeFailed.kind: {"probe": TEXT, "reason": TEXT},
        RunSummary.kind: {
            "wall_s": SECONDS,
            "busy_s": SECONDS,
            "compiles": NUMBER,
            "lost_s": SECONDS,
            "lost_steps": AMOUNT,
            "pitfalls": rows(**_PITFALL),
        },
    }.items()
}
