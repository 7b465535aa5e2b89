"""The store: numbers and reduces every event, keeps the newest records, and returns the state to every exporter.

One lock, held for microseconds; no code of JAX, of the user or of a logger runs under it. Bounded: see `aggregates`,
`tables` and the rings below.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from jitwatch.model.events import Event, PitfallFound
from jitwatch.model.function import Function
from jitwatch.model.rows import ProgramRow
from jitwatch.model.taxonomy import CAUSES, DONATION_KINDS, JAX_LABEL, PHASES, PITFALLS, SCHEMA
from jitwatch.state.aggregates import Aggregates, FunctionStats
from jitwatch.state.cost import Pace
from jitwatch.state.metrics import METRICS
from jitwatch.state.own_time import OwnTime
from jitwatch.state.pitfalls import Costliest
from jitwatch.state.schema import CallSiteRow, FunctionRow, MemoryRow, PitfallRow, Present, RunningRow, State
from jitwatch.state.signals import metrics_of_signals
from jitwatch.state.tables import LabelValues, MetricTables
from jitwatch.state.timeline import Moment, Timeline
from jitwatch.state.views import function_row, metric_rows, program_row, totals_row
from jitwatch.system.launchers import process_id
from jitwatch.system.threads import RLock

Record = dict[str, Any]

#: Maximum number of records of the user's functions, and of JAX's own programs (hundreds at start-up).
USER_RING = 10_000
JAX_RING = 1_000
#: Programs that the state lists, those that need most memory.
_TOP_PROGRAMS = 10
#: Rows that are made while the lock is held once, some microseconds each.
_ROWS_AT_ONCE = 20
#: Metrics whose label values are known, so that their series start at 0.
_KNOWN_SERIES = {
    "compile_duration_seconds": PHASES,
    "recompiles_by_cause": CAUSES,
    "pitfalls_by_kind": PITFALLS,
    "donation_violations_by_kind": DONATION_KINDS,
    "agent_label_overflow": ("function",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Incremental updates for a polling client.

    Attributes:
        revision: The cursor for the next call.
        functions: Rows of the functions that changed, those with most recompiles first.
        left_out: Number of further functions that changed.
        pitfalls: Rows of the pitfalls that are new or changed.
        sites: Rows of the call sites with new recompiles, the latest first; without a cursor, those with most lost
            seconds.
    """

    revision: int
    functions: list[FunctionRow]
    left_out: int
    pitfalls: list[PitfallRow]
    sites: list[CallSiteRow]


class Store:
    """The state of this process: aggregates, metrics, rings of records and the sequence number.

    Args:
        run: Name of the run, for the field `run` of every record.
        process: Identifier of this process, for the field `process`; see `launchers.process_id`.
        is_summary: Keep no series by function.
        clock: Unix time in seconds.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        run: str = "run",
        process: str | None = None,
        is_summary: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self._process = process if process is not None else process_id()
        self._clock = clock
        self._monotonic = monotonic
        self._lock = RLock()
        self._tables = MetricTables(is_summary=is_summary, metrics=METRICS + metrics_of_signals())
        self._aggregates = Aggregates(series=self._tables)
        self._seq = 0
        self._timeline = Timeline()
        self._user_ring: deque[Record] = deque(maxlen=USER_RING)
        self._jax_ring: deque[Record] = deque(maxlen=JAX_RING)
        self._running: list[RunningRow] = []
        self._memory: MemoryRow = {}
        self._process_index: int | None = None
        #: Times the agent's own work.
        self.own_time = OwnTime(lambda component, took_s: self.add("agent_overhead_seconds", took_s, (component,)))
        self._started = clock()
        self._started_monotonic = monotonic()
        for name, values in _KNOWN_SERIES.items():
            for value in values:
                self._tables.start_series(name, (value,))
        self._tables.set("start_time_seconds", self._started)

    # Writing

    def apply(self, event: Event) -> Record | None:
        """Reduce an event, and return its record; None for an event that is not logged."""
        with self._lock:
            now = self._clock()
            known = self._aggregates.apply(event, now)
            if not event.kind:
                return None
            self._seq += 1
            record = self._envelope(event.kind, now) | event.payload()
            if known is not None:
                record |= known
            if isinstance(event, PitfallFound):
                self._aggregates.pitfalls.found(event, record)
            is_internal = record.get("function") == JAX_LABEL and not isinstance(event, PitfallFound)
            (self._jax_ring if is_internal else self._user_ring).append(record)
        return record

    def add(self, name: str, amount: float = 1.0, labels: LabelValues = ()) -> None:
        """Increment a declared counter that no event counts."""
        with self._lock:
            self._tables.add(name, amount, labels)

    def set(self, name: str, value: float, labels: LabelValues = ()) -> None:
        """Set a declared gauge."""
        with self._lock:
            self._tables.set(name, value, labels)

    def set_total(self, name: str, total: float) -> None:
        """Set a counter to a total that is counted elsewhere; it never decreases."""
        with self._lock:
            self._tables.add(name, max(0.0, total - self._tables.get(name)))

    def set_by_function(self, name: str, values: Mapping[str, float]) -> None:
        """Replace a gauge by function; functions past the maximum number of labels are added up under `__other__`."""
        with self._lock:
            series: dict[LabelValues, float] = {}
            for label, value in values.items():
                key = (self._aggregates.shown_as(label),)
                series[key] = series.get(key, 0.0) + value
            before = self._tables.values[name]
            self._tables.replace(name, series)
            # A summary keeps no series by function, so that nothing changes.
            after = self._tables.values[name]
            for (label,) in {key for key in {*before, *after} if before.get(key) != after.get(key)}:
                if label in self._aggregates.functions:
                    self._aggregates.touch(self._aggregates.functions[label])

    def set_series(self, name: str, series: Mapping[LabelValues, float]) -> None:
        """Replace all series of a gauge, or all rows of an info metric."""
        with self._lock:
            self._tables.replace(name, dict(series))

    def set_memory(self, memory: MemoryRow) -> None:
        """Set the state's `memory`, without the programs."""
        with self._lock:
            self._memory = memory

    def set_calls(self, calls: Mapping[str, tuple[int, float, int]]) -> None:
        """Set the call counts of functions that donate: calls, Unix time of the last call, donated bytes."""
        with self._lock:
            totals: dict[str, tuple[int, float, int]] = {}
            for label, (count, last, size) in calls.items():
                stats = self._aggregates.functions.get(label)
                if stats is None:
                    continue
                if count != stats.calls:
                    self._aggregates.touch(stats)
                stats.calls, stats.last_call = count, last or None
                known = totals.get(stats.shown_as, (0, 0.0, 0))
                totals[stats.shown_as] = (known[0] + count, max(known[1], last), known[2] + size)
            for shown_as, (count, last, size) in totals.items():
                labels = (shown_as,)
                self._tables.add("calls", max(0, count - self._tables.get("calls", labels)), labels)
                self._tables.add("donated_bytes", max(0, size - self._tables.get("donated_bytes", labels)), labels)
                if last:
                    self._tables.set("last_call_timestamp_seconds", last, labels)

    def set_info(self, name: str, labels: LabelValues) -> None:
        """Set the labels of an info metric."""
        with self._lock:
            self._tables.infos[name] = labels

    def set_process_place(self, index: int, count: int) -> None:
        """Set the index of this process in its run and the number of processes, for every later record."""
        with self._lock:
            self._process_index = index
            self._tables.infos["process"] = (str(index), str(count))

    def set_running(self, running: list[RunningRow]) -> None:
        """Set the compiles in progress."""
        with self._lock:
            for row in running:
                stats = self._aggregates.functions.get(row["function"])
                # Functions of JAX itself share one label.
                row["is_again"] = stats is not None and stats.compiles > 0 and not stats.function.is_internal
            self._running = running

    def know(self, function: Function) -> None:
        """Start the series of a function that is called, at 0."""
        with self._lock:
            self._aggregates.know(function)

    def mark(self) -> None:
        """Add the current figures to the timeline."""
        moment = self.moment()
        with self._lock:
            self._timeline.add(moment)

    def forget_locks(self) -> None:
        """In a forked child: replace the lock, which a thread that does not exist here may hold."""
        self._lock = RLock()

    # Reading

    def tables(self) -> MetricTables:
        """A copy of all metric values, to read without the lock."""
        with self._lock:
            return self._tables.copy()

    def values(self, name: str) -> dict[LabelValues, float]:
        """All series of a counter or gauge, by their labels."""
        with self._lock:
            return dict(self._tables.values[name])

    def has(self, name: str) -> bool:
        """Whether a gauge or counter without labels was ever set."""
        with self._lock:
            return () in self._tables.values[name]

    def memory(self) -> MemoryRow:
        """The state's `memory`, without the programs."""
        with self._lock:
            return self._memory

    def largest_programs(self, limit: int) -> list[ProgramRow]:
        """Rows of the programs that need most memory, one a function."""
        with self._lock:
            known = [stats.executable for stats in self._aggregates.functions.values() if stats.executable is not None]
        return [program_row(one) for one in sorted(known, key=lambda one: -one.total)[:limit]]

    def slowest(self) -> tuple[str, float, int]:
        """Label, compile seconds and number of compiles of the function with most compile seconds."""
        with self._lock:
            stats = self._aggregates.slowest
            return (stats.function.label, stats.seconds, stats.compiles) if stats is not None else ("", 0.0, 0)

    def costliest(self) -> Costliest:
        """The function with most lost seconds, ignored functions left out."""
        with self._lock:
            return self._aggregates.pitfalls.costliest()

    def now(self) -> Present:
        """The current figures, without rows of functions."""
        with self._lock:
            return self._present(self._pace())

    def snapshot(self, metrics: Collection[str] | None = None) -> State:
        """The whole state.

        Args:
            metrics: Exposed names of the metrics to include; None for all.
        """
        with self._lock:
            tables, pace, last, memory = self._tables.copy(), self._pace(), self._seq, self._memory
            present = self._present(pace)
            functions = [self._row(stats, pace) for stats in self._aggregates.functions.values()]
            pitfalls, sites = self._aggregates.pitfalls.rows(pace)
            signals = {name: signal.row() for name, signal in self._aggregates.signals.items()}
        calls = {row["function"]: row["calls"] for row in functions}
        for row in (*functions, *sites, *pitfalls):
            row["lost_calls"] = pace.calls(row["lost_seconds"], calls.get(row["function"]))
        functions.sort(key=lambda row: row["seconds"], reverse=True)
        found: Any = {
            "schema": SCHEMA,
            **present,
            "last_seq": last,
            "functions": functions,
            "call_sites": sites,
            "pitfalls": pitfalls,
            **signals,
            "memory": {**memory, "executables": self.largest_programs(_TOP_PROGRAMS)},
            "metrics": metric_rows(tables, metrics),
        }
        state: State = found
        return state

    def changes(self, revision: int, limit: int) -> Changes:
        """The changes since a revision.

        Args:
            revision: The `revision` of the previous call; 0 for all.
            limit: Maximum number of rows of functions.
        """
        stale: list[FunctionStats] = []
        with self._lock:
            now = self._aggregates.revision
            for stats in reversed(self._aggregates.changed.values()):
                if stats.revision <= revision:
                    break
                stale.append(stats)
            pitfalls, sites = self._aggregates.pitfalls.rows(self._pace(), revision)
        # Without the lock: a row that changes meanwhile has a later revision, and is returned again by the next call.
        stale.sort(key=lambda stats: (-stats.recompiles, -stats.seconds))
        rows = [
            row
            for start in range(0, min(len(stale), limit), _ROWS_AT_ONCE)
            for row in self._rows(stale[start : min(start + _ROWS_AT_ONCE, limit)])
        ]
        return Changes(
            revision=now, functions=rows, left_out=max(0, len(stale) - limit), pitfalls=pitfalls, sites=sites
        )

    def records(
        self, since: int = 0, limit: int | None = None, function: str | None = None
    ) -> tuple[list[Record], int]:
        """Records in the rings with `seq` > `since`, oldest first, and the highest `seq` assigned.

        Args:
            since: The `seq` of the last known record.
            limit: Maximum number of records, the newest; None for all.
            function: Only records of the function with this label, or of functions with this bare name.
        """
        with self._lock:
            found = [record for ring in (self._user_ring, self._jax_ring) for record in ring if record["seq"] > since]
            last = self._seq
        if function is not None:
            found = [record for record in found if function in (record.get("function"), record.get("name"))]
        found.sort(key=_sequence)
        return (found if limit is None else found[max(0, len(found) - limit) :]), last

    def newer(self, seq: int) -> tuple[list[Record], int]:
        """Records of the user's functions with a higher `seq`, oldest first, and the highest `seq` assigned."""
        found = []
        with self._lock:
            for record in reversed(self._user_ring):
                if record["seq"] <= seq:
                    break
                found.append(record)
            return found[::-1], self._seq

    def moment(self) -> Moment:
        """The current figures as a point of the timeline."""
        with self._lock:
            memory, totals = self._memory, self._aggregates.totals
            in_use = [row["in_use_bytes"] or 0 for row in memory.get("devices", ()) if row["stats_supported"]]
            arrays, host = memory.get("live_arrays"), memory.get("host")
            causes = {cause: self._tables.get("recompiles_by_cause", (cause,)) for cause in CAUSES}
            return Moment(
                time=self._clock(),
                busy_seconds=self._tables.get("compile_busy_seconds"),
                compiles=totals.compiles,
                recompiles=totals.recompiles,
                lost_seconds=totals.lost_seconds,
                steps=self._aggregates.step,
                causes={cause: int(count) for cause, count in causes.items() if count},
                device_bytes=sum(in_use) if in_use else None,
                live_array_bytes=arrays["bytes"] if arrays else None,
                host_bytes=host["resident_bytes"] if host else None,
            )

    def moments(self, after: float) -> list[Moment]:
        """The points of the timeline that are later than a Unix time."""
        with self._lock:
            return self._timeline.after(after)

    def _rows(self, functions: list[FunctionStats]) -> list[FunctionRow]:
        """Rows of a few functions; holds the lock meanwhile."""
        with self._lock:
            pace = self._pace()
            return [self._row(stats, pace) for stats in functions]

    # Called under the lock

    def _row(self, stats: FunctionStats, pace: Pace) -> FunctionRow:
        entries = self._tables.values["jit_cache_entries"].get((stats.function.label,))
        return function_row(stats, pace, None if entries is None else int(entries))

    def _present(self, pace: Pace) -> Present:
        return {
            "run": self.run,
            "process_index": self._process_index,
            "time": self._clock(),
            "start_time_seconds": self._started,
            "uptime_seconds": pace.wall_s,
            "busy_seconds": pace.busy_s,
            "steady_seconds": pace.steady_s,
            "mean_step_seconds": pace.step_s,
            "step": self._aggregates.step,
            "in_progress": self._running,
            "totals": totals_row(self._aggregates.totals, pace),
            "functions_known": len(self._aggregates.functions),
            "storms": list(self._aggregates.storms),
        }

    def _pace(self) -> Pace:
        since = self._tables.get("steady_since_timestamp_seconds")
        if since:
            self._aggregates.begin_steady(since)
        return Pace(
            wall_s=self._monotonic() - self._started_monotonic,
            busy_s=self._tables.get("compile_busy_seconds"),
            steady_s=max(0.0, self._clock() - since) if since else None,
            step_s=self._aggregates.step_times.mean_s,
        )

    def _envelope(self, kind: str, now: float) -> Record:
        """The fields that all records have."""
        stamp = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="milliseconds")
        record: Record = {
            "timestamp": stamp.replace("+00:00", "Z"),
            "event": kind,
            "schema": SCHEMA,
            "run": self.run,
            "process": self._process,
            "process_index": self._process_index,
        }
        if self._aggregates.step is not None:
            record["step"] = self._aggregates.step
        record["seq"] = self._seq
        return record


def _sequence(record: Record) -> int:
    return int(record["seq"])
