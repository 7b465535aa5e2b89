"""Identifies the processes of a run in their records, and finds those that compiled more than the others."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from jitwatch.model.events import Compiling, Installed, RunSummary
from jitwatch.report.decode import Decoded, Header, parsed

#: Maximum number of processes.
MAX_PROCESSES = 5_000
#: Maximum number of pairs of a process and a function.
_MAX_PAIRS = 200_000
_TOP_FUNCTIONS = 3


@dataclass(slots=True)
class Session:
    """The time from the start of an agent to its end, or to the end of its log.

    Attributes:
        first, last: Timestamps.
        lines, lowest, highest: Number of records with a `seq`, and the ends of their range; dropped events leave gaps.
        wall_s, busy_s, step_s: Wall clock, busy seconds and mean step from the agent's summary; None without it.
        is_ended: Whether the log has the end of the agent.
    """

    first: str = ""
    last: str = ""
    lines: int = 0
    lowest: int = 0
    highest: int = 0
    wall_s: float | None = None
    busy_s: float | None = None
    step_s: float | None = None
    is_ended: bool = False

    @property
    def seconds(self) -> float:
        """Wall-clock seconds: of the agent's summary, or else from the first timestamp to the last."""
        if self.wall_s is not None:
            return self.wall_s
        first, last = parsed(self.first), parsed(self.last)
        return max(0.0, (last - first).total_seconds()) if first and last else 0.0

    @property
    def missing(self) -> int:
        """Number of events that are missing between the first and the last one."""
        return max(0, self.highest - self.lowest + 1 - self.lines) if self.lines else 0


@dataclass(slots=True)
class Process:
    """One process of a run, with its sessions.

    Attributes:
        number: Number of the process in the report.
        index: Its index in the run; None without `jax.distributed`.
        log: Name of the log of its first record.
        identifier: Its unique identifier; None in logs of older versions.
        functions: Compiles by function.
        compiling: The long compiles that have not ended, with the times of their records, by function.
    """

    number: int
    run: str
    index: int | None
    log: str
    identifier: str | None = None
    compiles: int = 0
    recompiles: int = 0
    failures: int = 0
    jax_compiles: int = 0
    compile_s: float = 0.0
    jax_compile_s: float = 0.0
    lost_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    functions: dict[str, int] = field(default_factory=dict)
    compiling: dict[str, tuple[Compiling, str]] = field(default_factory=dict)
    #: Seconds of the sessions that are no longer in `sessions`.
    past_s: float = 0.0
    starts: int = 0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all sessions."""
        return self.past_s + sum(one.seconds for one in self.sessions)


class Processes:
    """All processes of a report (at most `limit`), whichever files their records are in.

    Processes are found by their identifier: a restarted job, or several jobs in one allocation, have the same run and
    index but are different processes. Records of older versions have no identifier: their processes are found by run
    and index, and without an index by run and log. The index is known only after the first events, so events without
    one belong to the process with an index in the same log.
    """

    _MAX_SESSIONS = 100

    def __init__(self, limit: int = MAX_PROCESSES) -> None:
        self._limit = limit
        self.all: list[Process] = []
        #: Number of events of processes past the limit.
        self.left_out = 0
        self._rest = Process(-1, "others", None, "")
        self._by_identifier: dict[tuple[str, str], Process] = {}
        self._by_index: dict[tuple[str, int], Process] = {}
        self._by_log: dict[tuple[str, int], Process] = {}
        #: Header and log of the last record.
        self._last_header, self._last_log = Header(), -1
        self._last: Process | None = None
        self._pairs = 0
        self._numbers = itertools.count()

    def count(self, record: Decoded, log: int, name: str) -> Process:
        """Find the process that wrote a record, and count the record."""
        process, header = self._last, record.header
        # Mostly the same object.
        is_same = (header is self._last_header or header == self._last_header) and log == self._last_log
        if process is None or not is_same:
            run = header.run or "unknown"
            if header.process:
                process = self._identified(run, header.process, header.process_index, name)
            else:
                process = self._find(run, header.process_index, log, name)
            self._last_header, self._last_log, self._last = header, log, process
        # For every line of the log: function calls are avoided.
        if record.name == Installed.kind or not process.sessions:
            self._start(process)
        session, seq, at = process.sessions[-1], record.seq, record.timestamp
        if seq is not None:
            session.lines += 1
            if seq > session.highest:  # noqa: PLR1730 - max() is slower
                session.highest = seq
            if seq < session.lowest or not session.lowest:
                session.lowest = seq
        if at > session.last:  # noqa: PLR1730
            session.last = at
        if at < session.first or not session.first:
            session.first = at or session.first
        return process

    def compiled(self, process: Process, function: str) -> None:
        """Count a compile of a function in a process."""
        times = process.functions.get(function, 0)
        if not times:
            if self._pairs >= _MAX_PAIRS:
                return
            self._pairs += 1
        process.functions[function] = times + 1

    def _identified(self, run: str, identifier: str, index: int | None, name: str) -> Process:
        found = self._by_identifier.get((run, identifier))
        if found is None:
            if len(self.all) >= self._limit:
                self.left_out += 1
                return self._rest
            found = self._by_identifier[run, identifier] = self._new(run, index, name)
            found.identifier = identifier
        if found.index is None:
            found.index = index
        return found

    def _find(self, run: str, index: int | None, log: int, name: str) -> Process:
        known = self._by_log.get((run, log))
        found = known if index is None else self._by_index.get((run, index))
        if found is None and (known is None or known.index is not None) and len(self.all) >= self._limit:
            self.left_out += 1
            return self._rest
        if index is None:
            return found or self._by_log.setdefault((run, log), self._new(run, None, name))
        if found is None:
            found = known if known is not None and known.index is None else self._new(run, index, name)
            found.index = index
            self._by_index[run, index] = found
        elif known is not None and known.index is None:
            self._merge(found, known)
        self._by_log[run, log] = found
        return found

    def _new(self, run: str, index: int | None, name: str) -> Process:
        self.all.append(Process(next(self._numbers), run, index, name))
        return self.all[-1]

    def _merge(self, into: Process, other: Process) -> None:
        """Merge a process of another log, whose index became known, into the process with this index."""
        for name in ("compiles", "recompiles", "failures", "jax_compiles", "compile_s", "jax_compile_s", "lost_s"):
            setattr(into, name, getattr(into, name) + getattr(other, name))
        into.past_s += other.past_s
        into.starts += other.starts
        into.sessions += other.sessions
        for function, count in other.functions.items():
            into.functions[function] = into.functions.get(function, 0) + count
        self.all = [one for one in self.all if one is not other]

    def _start(self, process: Process) -> None:
        process.starts += 1
        if len(process.sessions) >= self._MAX_SESSIONS:
            process.past_s += process.sessions.pop(0).seconds
        process.sessions.append(Session())

    def installed(self, process: Process, event: Installed) -> None:
        """Set the versions of a process; one that is unknown keeps its last value."""
        for name in ("version", "jax", "jaxlib", "python"):
            process.versions[name] = getattr(event, name) or process.versions.get(name, "")

    def summed_up(self, process: Process, summary: RunSummary) -> None:
        """Set the durations of the last session from the agent's summary."""
        session = process.sessions[-1]
        session.wall_s = summary.wall_s or None
        session.busy_s = summary.busy_s or None
        session.step_s = summary.lost_s / summary.lost_steps if summary.lost_steps else None
        session.is_ended = True


@dataclass(frozen=True, slots=True)
class Outlier:
    """A process that compiled more than the median process of its run.

    Attributes:
        usual: Number of compiles of the median process.
        functions: The functions that it compiled more often than the median process, with the difference.
    """

    process: Process
    usual: int
    functions: dict[str, int]


def outliers(processes: Iterable[Process]) -> list[Outlier]:
    """The processes that compiled more than the median process of their run, the largest difference first."""
    found = []
    for run in runs_of(list(processes)):
        usual = statistics.median_low([process.compiles for process in run])
        found += [Outlier(one, usual, _surplus(one, run)) for one in run if one.compiles > usual]
    return sorted(found, key=lambda one: one.usual - one.process.compiles)


def runs_of(processes: list[Process]) -> list[list[Process]]:
    """The processes by run; with unique indices they are one run, since without a scheduler each has its own name."""
    indices = [process.index for process in processes]
    if None not in indices and len(set(indices)) == len(indices) > 0:
        return [processes]
    by_run: dict[str, list[Process]] = {}
    for process in processes:
        by_run.setdefault(process.run, []).append(process)
    return list(by_run.values())


def _surplus(process: Process, run: list[Process]) -> dict[str, int]:
    more = {
        function: count - statistics.median_low([one.functions.get(function, 0) for one in run])
        for function, count in process.functions.items()
    }
    top = sorted(((more_by, name) for name, more_by in more.items() if more_by > 0), reverse=True)
    return {name: more_by for more_by, name in top[:_TOP_FUNCTIONS]}
