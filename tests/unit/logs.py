"""Event logs for tests, written by the store and the renderer that write real ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jitwatch.exporters.eventlog.json_lines import make_renderer
from jitwatch.model.events import (
    CacheMissed,
    Compiled,
    CompileFailed,
    CompileProfiled,
    CompilerSeen,
    Compiling,
    DonationViolation,
    Event,
    ExecutableMeasured,
    Installed,
    LogMoved,
    MemoryLeak,
    MemoryPressure,
    MemorySampled,
    OutOfMemory,
    PitfallFound,
    ProbeFailed,
    ProgramsDiverged,
    RunSummary,
    SteadyViolated,
    StormEnded,
    StormStarted,
    Uninstalled,
)
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import wording
from jitwatch.report import document, sources
from jitwatch.report.read import read_logs
from jitwatch.state.store import Store
from tests.unit.hostile import HOSTILE

STEP = Function("train.step", "step", "/home/ada/train.py:10")
LOSS = Function("train.loss", "loss", "/home/ada/train.py:20")
ADD = Function(JAX_LABEL, "add")
#: 2025-03-01T12:00:00Z.
NOON = 1_740_830_400.0


class Writer:
    """Makes the lines of one process; a second passes with each event.

    Args:
        run: Name of the run.
        index: Process index, if JAX knows one.
        process: What identifies the process; each writer is one of its own.
        is_old: Whether its records identify no process, as those of before.
    """

    _numbers = itertools.count()

    def __init__(
        self, run: str = "r1", index: int | None = None, *, process: str | None = None, is_old: bool = False
    ) -> None:
        self.now = NOON
        self.is_old = is_old
        process = process or f"node7-{next(self._numbers)}-20250301T120000.000000"
        self.store = Store(run=run, process=process, clock=lambda: self.now, monotonic=lambda: self.now)
        if index is not None:
            self.store.set_process_place(index, index + 1)
        self._render = make_renderer()

    def lines(self, *events: Event) -> list[bytes]:
        """The lines of the events."""
        found = []
        for event in events:
            self.now += 1.0
            record = self.store.apply(event)
            if record is not None:
                shown = {key: value for key, value in record.items() if key != "process" or not self.is_old}
                found.append(self._render(shown))
        return found


#: Raw JSON texts that ended the report, or could.
TOKENS = (
    "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 400, "-" + "9" * 400, "9" * 4_300, "9" * 5_000,
    "0." + "0" * 400 + "1", "1e-320", "-0", "-1", "-1.5", "1e308", "1e15", "9007199254740993", "2.5", "true", "false",
    "null", '""', '"x"', "[]", "{}", '[["x"]]', '[null, "x", 7]', '{"a": {"b": []}}', "[" * 500 + "]" * 500,
    '"9999-12-31T23:59:59.999999Z"', '"0001-01-01T00:00:00Z"', '"2025-02-30T00:00:00.000Z"', '"2025-03-01T12:00:00Z"',
    '"2025-W09-6T12:00:00.000Z"', '"' + "x" * 5_000 + '"', '[{"path": "x"}, {"path": 7}, 7]',
    '[{"device": "gpu:0", "in_use_bytes": 1e999}, {"device": ["x"]}]', *(json.dumps(text[:2_000]) for text in HOSTILE),
)  # fmt: skip


def lines(*events: Event, run: str = "r1", index: int | None = None) -> list[bytes]:
    """The lines of a process."""
    return Writer(run, index).lines(*events)


def written(path: Path, content: Iterable[bytes]) -> str:
    """The path of a file with these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(content))
    return str(path)


def read(*paths: str | Path) -> dict[str, Any]:
    """The document of some logs; it must be JSON."""
    found = document.document(*read_logs(sources.find([str(path) for path in paths])))
    assert found == json.loads(json.dumps(found, allow_nan=False))
    return found


def document_of(tmp_path: Path, *events: Event, run: str = "r1", name: str = "events.jsonl") -> dict[str, Any]:
    """The document of one process with these events."""
    return read(written(tmp_path / name, lines(*events, run=run)))


# Events, as the diagnosis hands them on


def compiled(function: Function = STEP, seconds: float = 1.0, **options: Any) -> Compiled:
    """A compile of 0.75 seconds and more."""
    return Compiled(**{"function": function, "trace_s": 0.25, "lower_s": 0.5, "compile_s": seconds, "nth": 1} | options)


def missed(function: Function = STEP, **options: Any) -> CacheMissed:
    """The reason of a miss of the persistent cache that was found after the compile."""
    known = {"reason": "program", "explanation": "The program changed: the constant 1 changed to 2.", "compile_s": 1.0}
    return CacheMissed(**{"function": function, "call_site": "/home/ada/train.py:88"} | known | options)


def recompiled(size: int = 6, *, function: Function = STEP, line: int = 88, **options: Any) -> Compiled:
    """A recompile of two seconds."""
    known: dict[str, Any] = {
        "call_site": f"/home/ada/train.py:{line}",
        "trace_s": 0.25,
        "lower_s": 0.75,
        "compile_s": 1.0,
        "nth": 2,
        "causes": ("shape",),
        "changes": (Change("batch", "shape", "int32[8]", f"int32[{size}]"),),
    }
    event = Compiled(**{"function": function} | known | options)
    return Compiled(
        **{"function": function}
        | known
        | {
            "reason": wording.of_changes(event),
            "advice": wording.of_advice(event),
            "explanation": wording.of_recompile(event),
        }
        | options,
    )


def measured(function: Function = STEP, **sizes: Any) -> ExecutableMeasured:
    """A program of some MiB."""
    known: dict[str, Any] = {"arguments": 8 << 20, "outputs": 4 << 20, "temporaries": 64 << 20, "code": 0, "flops": 1e9}
    return ExecutableMeasured(function=function, **known | sizes)


def pitfall(name: str = "shape_churn", *, function: Function = STEP, lost_s: float = 2.0, **options: Any):
    """A mistake that was told."""
    return PitfallFound(
        **{
            "function": function,
            "call_site": "/home/ada/train.py:88",
            "pitfall": name,
            "message": "batch had 9 sizes in 10 compiles",
            "advice": "Pad it to 8",
            "lost_s": lost_s,
        }
        | options
    )


def used_after(**options: Any) -> DonationViolation:
    """An array that was used after it was donated."""
    return DonationViolation(
        **{
            "violation": "use_after_donate",
            "function": STEP,
            "call_site": "/home/ada/train.py:90",
            "leaf": "state['w']",
            "shape": (64, 64),
            "dtype": "float32",
            "bytes": 16_384,
            "donated_by": "train.step",
            "donated_at": "/home/ada/train.py:88",
            "donated_leaf": "state['w']",
            "calls_ago": 1,
        }
        | options
    )


def unsteady(**options: Any) -> SteadyViolated:
    """A compile after warm-up."""
    return SteadyViolated(
        **{
            "function": STEP,
            "call_site": "/home/ada/train.py:88",
            "spent_s": 2.0,
            "action": "warn",
            "causes": ("shape",),
            "reason": "batch int32[8] → int32[6]",
        }
        | options
    )


def compiling(**options: Any) -> Compiling:
    """A long compile that has not ended."""
    given = {"function": STEP, "call_site": "/home/ada/train.py:88", "program": "00ff", "for_s": 10.0}
    return Compiling(**(given | options))


def profiled(**options: Any) -> CompileProfiled:
    """A compile that was profiled."""
    rows = (
        {"name": "fusion", "phase": "HLO passes", "seconds": 6.0, "share": 0.5},
        {"name": "autotuner", "phase": "autotuning", "seconds": 3.0, "share": 0.25},
        {"name": "other", "phase": "other", "seconds": 3.0, "share": 0.25},
    )
    given = {"function": STEP, "call_site": "/home/ada/train.py:88", "profiled_s": 12.0, "autotuning_s": 3.0}
    return CompileProfiled(**(given | {"xla_passes": rows} | options))


#: Where a long trace spent its time.
HOT_LINES = (
    {"call_site": "/home/ada/model.py:88", "seconds": 33.2, "share": 0.83, "is_in_loop": True},
    {"call_site": "JAX: lowering rules", "seconds": 4.0, "share": 0.1},
)


def failed(**options: Any) -> CompileFailed:
    """A trace that raised."""
    return CompileFailed(
        **{
            "function": LOSS,
            "call_site": "/home/ada/train.py:91",
            "phase": "trace",
            "error": "TypeError",
            "message": "add got incompatible shapes",
            "spent_s": 0.5,
        }
        | options
    )


def exhausted(**options: Any) -> OutOfMemory:
    """Memory that ran out."""
    return OutOfMemory(
        **{
            "program": "jit(step)",
            "function": "train.step",
            "call_site": "/home/ada/train.py:88",
            "message": "RESOURCE_EXHAUSTED: Out of memory allocating 4 GiB",
            "devices": ({"device": "gpu:0", "in_use_bytes": 2**36},),
            "arrays": ({"shape": [1024, 1024], "dtype": "float32", "count": 3, "bytes": 3 * 2**30},),
            "live_arrays": 12,
            "live_array_bytes": 2**36,
            "executables": ({"function": "train.step", "total_bytes": 2**32},),
            "compiles": (),
        }
        | options
    )


def measured_buffers(**options: Any) -> ExecutableMeasured:
    """The memory of a program, with its largest buffers."""
    buffers = (
        {"bytes": 2**30, "shape": "f32[16384,16384]", "op": "jit(step)/jvp()/dot_general", "share": 0.5}
        | {"call_site": "/home/ada/model.py:8"},
        {"bytes": 2**29, "shape": "f32[8192,16384]", "op": "argument state['w']", "share": 0.25},
    )
    return ExecutableMeasured(
        **{
            "function": STEP,
            "arguments": 2**29,
            "outputs": 2**29,
            "temporaries": 2**30,
            "code": 0,
            "peak": 2**31,
            "flops": 1e12,
            "peak_buffers": buffers,
        }
        | options
    )


def misfit(**options: Any) -> MemoryPressure:
    """A program that will not fit."""
    event = MemoryPressure(
        **{
            "place": "gpu:0",
            "state": "will_not_fit",
            "in_use_bytes": 60 * 2**30,
            "limit_bytes": 80 * 2**30,
            "ratio": 0.75,
            "function": "train.step",
            "needed_bytes": 30 * 2**30,
            "peak_buffers": measured_buffers().peak_buffers,
        }
        | options
    )
    return replace(event, message=wording.of_shortage(event))


def leaking(**options: Any) -> MemoryLeak:
    """Memory that grows."""
    return MemoryLeak(
        **{
            "growing": "host",
            "bytes_per_second": 1e6,
            "bytes": 2**33,
            "window_s": 600.0,
            "message": "Host memory grows by 1 MB a second",
        }
        | options
    )


def pressed(state: str = "started", ratio: float = 0.95) -> MemoryPressure:
    """A device that is nearly full, or no longer."""
    return MemoryPressure(place="gpu:0", state=state, in_use_bytes=95 * 2**30, limit_bytes=100 * 2**30, ratio=ratio)


def sampled(most: int = 2**30) -> MemorySampled:
    """A look at memory."""
    device = {"device": "gpu:0", "in_use_bytes": most // 2, "peak_bytes": most, "limit_bytes": 2**33}
    return MemorySampled(devices=(device,), host_resident_bytes=1, host_available_bytes=1, growth_bytes_per_second={})


def installed(**options: Any) -> Installed:
    """The start of an agent."""
    return Installed(
        **{"version": "0.1", "jax": "0.10", "jaxlib": "0.10", "python": "3.11", "pid": 1, "url": None, "probes": ()}
        | options
    )


def ended(wall_s: float = 100.0, **options: Any) -> RunSummary:
    """The agent's sum."""
    zeros = dict.fromkeys(("compiles", "recompiles", "failures", "compile_s", "jax_compiles"), 0)
    return RunSummary(**{"wall_s": wall_s, "busy_s": 10.0} | zeros | options)


def storm_started(function: Function = STEP) -> StormStarted:
    """A function begins to recompile again and again."""
    return StormStarted(function=function, recompiles=5, within_s=60.0)


def storm_ended(function: Function = STEP) -> StormEnded:
    """It has stopped."""
    return StormEnded(function=function, recompiles=7, lasted_s=90.0, lost_s=14.0)


def unusable_probe(reason: str = "JAX has no such name") -> ProbeFailed:
    """A part of the agent that does not work there."""
    return ProbeFailed(probe="donation", reason=reason)


def uninstalled() -> Uninstalled:
    """The end of an agent."""
    return Uninstalled()


def compiler(**options: Any) -> CompilerSeen:
    """The flags and versions that all programs of a process depend on."""
    fields: dict[str, Any] = {"jaxlib": "0.10.2", "platform": "gpu", "platform_version": "cuda 12080"}
    fields |= {"device_kind": "H100", "devices": 16, "xla_flags": ("--xla_a=1",), "process_index": 1, "processes": 2}
    return CompilerSeen(**(fields | options))


def diverged(**options: Any) -> ProgramsDiverged:
    """A different program than that of process 0."""
    fields: dict[str, Any] = {"function": STEP, "call_site": "/job/train.py:88", "program": "0b", "nth": 2}
    fields |= {"other_process_index": 0, "other_program": "0a", "message": "Another program", "advice": "Look for it"}
    return ProgramsDiverged(**(fields | options))


def moved(path: str = "/logs/events-node7-7.jsonl") -> LogMoved:
    """The log goes on in another file."""
    return LogMoved(wanted="/logs/events.jsonl", path=path, because="another process writes to it")
