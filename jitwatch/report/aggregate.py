"""Aggregates the events of a run, of any number of processes, with the reducer of the live state.

In addition to that state, the report groups similar problems (`Findings`) and counts compiles by process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from jitwatch.model.cleaning import clean
from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    CompilerSeen,
    Compiling,
    DonationViolation,
    Event,
    Installed,
    MemoryLeak,
    MemoryPressure,
    MemorySampled,
    OutOfMemory,
    PitfallFound,
    ProbeFailed,
    RunSummary,
    SteadyViolated,
    Uninstalled,
)
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.report.decode import Decoded, parsed
from jitwatch.report.divergence import SharedPrograms
from jitwatch.report.processes import Process, Processes
from jitwatch.state.aggregates import Aggregates

#: Maximum numbers of functions and call sites; a report may be about thousands of processes.
MAX_FUNCTIONS = 10_000
MAX_CALL_SITES = 10_000
_MAX_DEVICES = 1_000
#: Maximum number of distinct programs of a function.
_MAX_PROGRAMS = 100
#: Maximum number of simultaneous compiles of a process.
_MAX_COMPILING = 20

E = TypeVar("E", bound=Event)


@dataclass(slots=True)
class Group(Generic[E]):
    """A group of similar events.

    Attributes:
        event: The newest event.
        times: Number of events.
        seconds: Sum of their seconds.
        first, last: Their timestamps; empty if no record has one.
    """

    event: E
    times: int = 0
    seconds: float = 0.0
    first: str = ""
    last: str = ""
    #: A bit for each process: sets of thousands of them would take too much memory.
    bits: int = 0

    @property
    def processes(self) -> int:
        """Number of processes that the events are from."""
        return self.bits.bit_count()


class Groups(Generic[E]):
    """Groups of events by key, in the order of their first event.

    Args:
        limit: Maximum number of groups.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._groups: dict[Hashable, Group[E]] = {}

    def add(self, key: Hashable, event: E, at: str, process: Process, *, seconds: float = 0.0) -> None:
        """Add an event to the group of a key; past the limit no group is added."""
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._limit:
                return
            group = self._groups[key] = Group(event)
        group.times += 1
        group.seconds += seconds
        group.bits |= 1 << max(0, process.number)
        group.first = min(group.first or at, at)
        if at >= group.last:
            group.event, group.last = event, at

    def get(self, key: Hashable) -> Group[E] | None:
        """The group of a key."""
        return self._groups.get(key)

    def __iter__(self) -> Iterator[Group[E]]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)


@dataclass(slots=True)
class DevicePeak:
    """Most memory in use on a device, and its limit, in bytes; None if no sample has it."""

    most_bytes: int | None = None
    limit_bytes: int | None = None


@dataclass(slots=True)
class Findings:
    """The problems of a run besides recompiles: similar events in groups."""

    pitfalls: Groups[PitfallFound] = field(default_factory=lambda: Groups(1_000))
    donations: Groups[DonationViolation] = field(default_factory=lambda: Groups(500))
    steady: Groups[SteadyViolated] = field(default_factory=lambda: Groups(500))
    failures: Groups[CompileFailed] = field(default_factory=lambda: Groups(500))
    out_of_memory: Groups[OutOfMemory] = field(default_factory=lambda: Groups(100))
    leaks: Groups[MemoryLeak] = field(default_factory=lambda: Groups(100))
    pressure: Groups[MemoryPressure] = field(default_factory=lambda: Groups(_MAX_DEVICES))
    will_not_fit: Groups[MemoryPressure] = field(default_factory=lambda: Groups(100))
    probes: Groups[ProbeFailed] = field(default_factory=lambda: Groups(100))
    devices: dict[str, DevicePeak] = field(default_factory=dict)
    #: Number of compiles in the agents' summaries.
    summed_compiles: int = 0


class Run:
    """The aggregates of all events of a report.

    Attributes:
        state: The state, as the store of a live process has it.
        findings: Similar problems in groups.
        processes: The processes that wrote the records.
        shared: Programs on devices of all processes, by process.
        programs: Fingerprints of the programs by label of the function, in order.
        events: Number of events.
    """

    def __init__(self) -> None:
        self.events = 0
        self.state = Aggregates(max_functions=MAX_FUNCTIONS, max_call_sites=MAX_CALL_SITES)
        self.findings = Findings()
        self.processes = Processes()
        self.shared = SharedPrograms()
        self.programs: dict[str, dict[str, None]] = {}
        self._logs: dict[str, int] = {}
        self._names: list[str] = []
        self._handlers: dict[type[Event], Callable[[Any, str, Process], None]] = {
            Compiled: self._compiled,
            CompilerSeen: self._compiler_seen,
            CompileFailed: self._failed,
            Compiling: self._compiling,
            PitfallFound: self._pitfall,
            SteadyViolated: self._steady_violated,
            DonationViolation: self._donation,
            MemorySampled: self._sampled,
            MemoryPressure: self._pressure,
            MemoryLeak: self._leak,
            OutOfMemory: self._out_of_memory,
            ProbeFailed: self._probe_failed,
            Installed: self._installed,
            RunSummary: self._summed_up,
            Uninstalled: self._ended,
        }

    def log(self, path: str) -> int:
        """A number for a log, the same for all of its parts."""
        if path not in self._logs:
            self._logs[path] = len(self._names)
            self._names.append(clean(os.path.basename(path)))
        return self._logs[path]

    def add(self, record: Decoded, log: int) -> None:
        """Count a record, and reduce its event if it has one.

        Args:
            record: The checked record.
            log: Number of the log.
        """
        process = self.processes.count(record, log, self._names[log])
        if record.name:
            self.events += 1
        event = record.event
        if event is None:
            return
        moment = record.moment
        self.state.apply(event, moment.timestamp() if moment is not None else 0.0)
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, record.timestamp, process)

    # Not in the state: groups of similar events, and sums by process

    def _compiled(self, event: Compiled, at: str, process: Process) -> None:
        seconds, label = event.total_s, event.function.label
        if process.compiling:
            process.compiling.pop(label, None)
        if label == JAX_LABEL:
            process.jax_compiles += 1
            process.jax_compile_s += seconds
            return
        process.compiles += 1
        process.compile_s += seconds
        self.processes.compiled(process, label)
        if event.program:
            if event.on_all_processes:
                self.shared.compiled(process, event, at)
            if label in self.programs or len(self.programs) < MAX_FUNCTIONS:
                programs = self.programs.setdefault(label, {})
                if len(programs) < _MAX_PROGRAMS:
                    programs[event.program] = None
        if (event.nth or 1) > 1:
            process.recompiles += 1
            process.lost_s += 0.0 if event.is_harmless else seconds

    def _compiler_seen(self, event: CompilerSeen, at: str, process: Process) -> None:
        self.shared.compiler(process, event)

    def _failed(self, event: CompileFailed, at: str, process: Process) -> None:
        process.failures += 1
        process.compiling.pop(event.function.label, None)
        process.compile_s += event.spent_s
        key = (event.function.label, event.call_site, event.error, event.phase)
        self.findings.failures.add(key, event, at, process, seconds=event.spent_s)

    def _compiling(self, event: Compiling, at: str, process: Process) -> None:
        if len(process.compiling) < _MAX_COMPILING:
            process.compiling[event.function.label] = event, at

    def _pitfall(self, event: PitfallFound, at: str, process: Process) -> None:
        key = (event.function.label, event.pitfall, event.subject)
        self.findings.pitfalls.add(key, event, at, process, seconds=event.lost_s)

    def _steady_violated(self, event: SteadyViolated, at: str, process: Process) -> None:
        key = (event.function.label, event.call_site)
        self.findings.steady.add(key, event, at, process, seconds=event.spent_s)

    def _donation(self, event: DonationViolation, at: str, process: Process) -> None:
        key = (
            event.violation,
            event.function.label,
            event.call_site,
            event.leaf,
            event.donated_by,
            event.donated_at,
        )
        self.findings.donations.add(key, event, at, process)

    def _out_of_memory(self, event: OutOfMemory, at: str, process: Process) -> None:
        self.findings.out_of_memory.add((event.program, event.function, event.call_site), event, at, process)

    def _leak(self, event: MemoryLeak, at: str, process: Process) -> None:
        self.findings.leaks.add((event.growing, event.cause), event, at, process)

    def _pressure(self, event: MemoryPressure, at: str, process: Process) -> None:
        """Count how often memory was nearly full, and keep the highest ratio; and which programs did not fit."""
        if event.state == "will_not_fit":
            self.findings.will_not_fit.add((event.place, event.function), event, at, process)
            return
        if event.state != "started":
            return
        known = self.findings.pressure.get(event.place)
        if known is not None and known.event.ratio > event.ratio:
            event = replace(event, ratio=known.event.ratio)
        self.findings.pressure.add(event.place, event, at, process)

    def _sampled(self, event: MemorySampled, at: str, process: Process) -> None:
        devices = self.findings.devices
        for row in event.devices:
            name = row.get("device")
            peak = devices.get(name) if name is not None else None
            if peak is None:
                if name is None or len(devices) >= _MAX_DEVICES:
                    continue
                peak = devices[name] = DevicePeak()
            most, used, highest = peak.most_bytes or 0, row.get("in_use_bytes") or 0, row.get("peak_bytes") or 0
            if used > most or highest > most:
                peak.most_bytes = max(used, highest)
            peak.limit_bytes = row.get("limit_bytes") or peak.limit_bytes

    def _probe_failed(self, event: ProbeFailed, at: str, process: Process) -> None:
        self.findings.probes.add((event.probe, event.reason), event, at, process)

    def _installed(self, event: Installed, at: str, process: Process) -> None:
        process.compiling.clear()
        self.processes.installed(process, event)
        self.shared.installed(process, event)

    def _summed_up(self, event: RunSummary, at: str, process: Process) -> None:
        """Add the agent's summary: its pitfalls have the newest texts, even if their events were rotated away."""
        self.processes.summed_up(process, event)
        self.findings.summed_compiles += event.compiles
        known = {
            (group.event.pitfall, group.event.function.label, group.event.call_site): group
            for group in self.findings.pitfalls
        }
        for row in event.pitfalls:
            name, label = row.get("pitfall"), row.get("function")
            if not name or not label:
                continue
            found = PitfallFound(
                function=Function(label, row.get("name") or label, row.get("location")),
                call_site=row.get("call_site"),
                pitfall=name,
                subject=row.get("subject", ""),
                message=row.get("message", ""),
                advice=row.get("advice", ""),
                lost_s=row.get("lost_s", 0.0),
            )
            group = known.get((name, label, row.get("call_site")))
            if group is None:
                self.state.apply(found, _unix(at))
                self._pitfall(found, at, process)
            elif at >= group.last:
                old = group.event
                group.event = replace(old, message=found.message or old.message, advice=found.advice or old.advice)

    def _ended(self, event: Uninstalled, at: str, process: Process) -> None:
        process.sessions[-1].is_ended = True
        process.compiling.clear()


def _unix(stamp: str) -> float:
    moment = parsed(stamp) if stamp else None
    return moment.timestamp() if moment is not None else 0.0
