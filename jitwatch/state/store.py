"""The only mutable truth: every event is numbered and counted here, and every exporter reads here.

One lock, held for microseconds; nothing of JAX, of the user or of a logger runs under it. All is
bounded: named functions, known functions, rings of records.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    DonationMissed,
    DonationViolation,
    DonorMade,
    Event,
    ExecutableMeasured,
    FunctionWrapped,
    OutOfMemory,
    PersistentCacheSaved,
    PitfallFound,
    SteadyViolated,
    Stepped,
    StormEnded,
    StormStarted,
)
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import (
    CAUSES,
    DONATION_KINDS,
    JAX_LABEL,
    OTHER_LABEL,
    PHASES,
    PITFALLS,
    SCHEMA,
    UNKNOWN_LABEL,
)
from jitwatch.state.cost import Pace, StepTimes
from jitwatch.state.persistent_cache import PersistentCache
from jitwatch.state.pitfalls import Dearest, Mistakes
from jitwatch.state.schema import (
    FunctionStats,
    Sums,
    metrics_of,
    row_of,
    row_of_executable,
    totals_of,
    whole,
)
from jitwatch.state.tables import FunctionLabels, LabelValues, MetricTables
from jitwatch.state.timeline import Moment, Timeline
from jitwatch.system.launchers import process_id
from jitwatch.system.threads import RLock

Record = dict[str, Any]

#: Records kept of user functions, and of JAX's own, which come in hundreds at start-up.
USER_RING = 10_000
JAX_RING = 1_000
#: Functions whose compiles are told apart (the 100 named ones are the first of them).
MAX_KNOWN = 10_000
#: Programs that the state lists by what they need.
_TOP_EXECUTABLES = 10
#: Rows that are made while the lock is held, some microseconds each.
_ROWS_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What somebody who follows the store has not seen yet.

    Attributes:
        revision: To ask with the next time.
        functions: Rows of the functions that changed, those that recompiled most first.
        left_out: How many more have changed.
        pitfalls: Those that are new, or whose figures are, with what they cost.
        sites: Lines whose recompiles are new, as in the state, those that changed last first; from the beginning, the
            dearest.
    """

    revision: int
    functions: list[dict[str, Any]]
    left_out: int
    pitfalls: list[Record]
    sites: list[dict[str, Any]]


class Store:
    """Aggregates, the event rings and the sequence number.

    Args:
        run: Name of the run, in every record.
        process: What tells this process from any other, in every record; see `launchers.process_id`.
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
        self._tables = MetricTables(is_summary=is_summary)
        self._labels = FunctionLabels()
        self._functions: dict[str, FunctionStats] = {}
        self._jax_names: dict[str, int] = {}
        self._seq = 0
        #: Grows with every change of a function or a pitfall, so that a page asks only for what it does not have.
        self._revision = 0
        #: The functions in the order in which they changed, the last one at the end.
        self._changed: dict[str, FunctionStats] = {}
        self._sums = Sums()
        self._slowest: FunctionStats | None = None
        self._timeline = Timeline()
        self._user_ring: deque[Record] = deque(maxlen=USER_RING)
        self._jax_ring: deque[Record] = deque(maxlen=JAX_RING)
        self._mistakes = Mistakes(self._next_revision)
        self._persistent_cache = PersistentCache()
        #: Labels of the functions in a storm, in the order in which it came over them.
        self._storms: dict[str, None] = {}
        self._running: list[dict[str, Any]] = []
        self._memory: dict[str, Any] = {}
        self._step: int | None = None
        self._step_times = StepTimes()
        #: Unix time at which the steady state began whose losses are kept; 0 before the first.
        self._steady_since = 0.0
        self._process_index: int | None = None
        self._started = clock()
        self._started_monotonic = monotonic()
        self._reducers: dict[type[Event], Callable[[Any], dict[str, Any]]] = {
            FunctionWrapped: self._wrapped,
            Compiled: self._compiled,
            CompileFailed: self._compile_failed,
            PersistentCacheSaved: self._saved,
            Stepped: self._stepped,
            StormStarted: self._storm_started,
            StormEnded: self._storm_ended,
            SteadyViolated: self._steady_violated,
            PitfallFound: self._pitfall_found,
            ExecutableMeasured: self._executable_measured,
            OutOfMemory: self._out_of_memory,
            DonorMade: self._donor_made,
            DonationViolation: self._donation_violated,
            DonationMissed: self._donation_missed,
        }
        for phase in PHASES:
            self._tables.start_series("compile_duration_seconds", (phase,))
        for cause in CAUSES:
            self._tables.start_series("recompiles_by_cause", (cause,))
        for pitfall in PITFALLS:
            self._tables.start_series("pitfalls_by_kind", (pitfall,))
        for kind in DONATION_KINDS:
            self._tables.start_series("donation_violations_by_kind", (kind,))
        self._tables.start_series("agent_label_overflow", ("function",))
        self._tables.start_function(JAX_LABEL)
        self._tables.set("start_time_seconds", self._started)

    # Writing

    def apply(self, event: Event) -> Record | None:
        """Count an event; returns its record when it is one that the event log shows."""
        reduce = self._reducers.get(type(event))
        with self._lock:
            extra = reduce(event) if reduce is not None else {}
            if not event.kind:
                return None
            self._seq += 1
            record = self._envelope(extra.pop("event", event.kind)) | event.payload() | extra
            if isinstance(event, PitfallFound):
                self._mistakes.found(event, record)
            is_own = record.get("function") == JAX_LABEL and not isinstance(event, PitfallFound)
            (self._jax_ring if is_own else self._user_ring).append(record)
        return record

    def add(self, name: str, amount: float = 1.0, labels: LabelValues = ()) -> None:
        """Raise a declared counter that no event stands for."""
        with self._lock:
            self._tables.add(name, amount, labels)

    def set(self, name: str, value: float, labels: LabelValues = ()) -> None:
        """Set a declared gauge."""
        with self._lock:
            self._tables.set(name, value, labels)

    def set_total(self, name: str, total: float) -> None:
        """Set a counter that is kept elsewhere to its present total; it never falls."""
        with self._lock:
            self._tables.add(name, max(0.0, total - self._tables.get(name)))

    def set_by_function(self, name: str, values: Mapping[str, float]) -> None:
        """Replace a gauge by function; labels past the cap are added up under `__other__`."""
        with self._lock:
            series: dict[LabelValues, float] = {}
            for label, value in values.items():
                key = (self._shown_as(label),)
                series[key] = series.get(key, 0.0) + value
            before = self._tables.values[name]
            self._tables.replace(name, series)
            # As kept: in summary detail nothing is, and so nothing changes.
            after = self._tables.values[name]
            for (label,) in {key for key in {*before, *after} if before.get(key) != after.get(key)}:
                if label in self._functions:
                    self._touch(self._functions[label])

    def set_series(self, name: str, series: Mapping[LabelValues, float]) -> None:
        """Replace all series of a gauge, or all rows of an info metric; those that are missing end."""
        with self._lock:
            self._tables.replace(name, dict(series))

    def set_memory(self, memory: dict[str, Any]) -> None:
        """What the state says of memory, besides the programs."""
        with self._lock:
            self._memory = memory

    def set_calls(self, calls: Mapping[str, tuple[int, float, int]]) -> None:
        """Bring the watched functions up to date: calls, Unix time of the last, and bytes donated by label."""
        with self._lock:
            totals: dict[str, tuple[int, float, int]] = {}
            for label, (count, last, size) in calls.items():
                stats = self._functions.get(label)
                if stats is None:
                    continue
                if count != stats.calls:
                    self._touch(stats)
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
        """Place of this process in its run, for every later record."""
        with self._lock:
            self._process_index = index
            self._tables.infos["process"] = (str(index), str(count))

    def set_running(self, running: list[dict[str, Any]]) -> None:
        """What compiles right now: function, phase, for how many seconds, in which thread."""
        with self._lock:
            for row in running:
                stats = self._functions.get(row["function"])
                # JAX's own are many functions under one label.
                row["is_again"] = stats is not None and stats.compiles > 0 and not stats.function.is_internal
            self._running = running

    def know(self, function: Function) -> None:
        """The function is called: start its series at 0."""
        with self._lock:
            stats = self._functions.get(function.label)
            if stats is None or not stats.is_called:
                self._stats(function)

    def mark(self) -> None:
        """Keep how things stand now for the time line."""
        moment = self.moment()
        with self._lock:
            self._timeline.add(moment)

    # Reading

    def tables(self) -> MetricTables:
        """A copy of all metric values, safe to read at leisure."""
        with self._lock:
            return self._tables.copy()

    def has(self, name: str) -> bool:
        """Whether a gauge or counter without labels was ever set."""
        with self._lock:
            return () in self._tables.values[name]

    def largest_executables(self, limit: int) -> list[dict[str, Any]]:
        """The programs that need most memory, one a function."""
        with self._lock:
            programs = [stats.executable for stats in self._functions.values() if stats.executable is not None]
        return [row_of_executable(one) for one in sorted(programs, key=lambda one: -one.total)[:limit]]

    def slowest(self) -> tuple[str, float, int]:
        """The function that compiled longest, the seconds, and how often it compiled."""
        with self._lock:
            stats = self._slowest
            return (stats.function.label, stats.seconds, stats.compiles) if stats is not None else ("", 0.0, 0)

    def dearest(self) -> Dearest:
        """Where recompiles of functions that may alarm lost most."""
        with self._lock:
            return self._mistakes.dearest()

    def forget_locks(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist here."""
        self._lock = RLock()

    def values(self, name: str) -> dict[LabelValues, float]:
        """All series of a counter or gauge, by their labels."""
        with self._lock:
            return dict(self._tables.values[name])

    def memory(self) -> dict[str, Any]:
        """What was last set by `set_memory`."""
        with self._lock:
            return self._memory

    def now(self) -> dict[str, Any]:
        """What changes all the time and is no row: time, steps, what is running."""
        with self._lock:
            pace = self._pace()
            return {
                "run": self.run,
                "process_index": self._process_index,
                "time": self._clock(),
                "start_time_seconds": self._started,
                "uptime_seconds": pace.wall_s,
                "busy_seconds": pace.busy_s,
                "steady_seconds": pace.steady_s,
                "mean_step_seconds": pace.step_s,
                "step": self._step,
                "in_progress": self._running,
                "totals": self._sums.row(),
                "functions_known": len(self._functions),
                "storms": list(self._storms),
            }

    def records(
        self, since: int = 0, limit: int | None = None, function: str | None = None
    ) -> tuple[list[Record], int]:
        """Records with `seq` > `since` still in the rings, oldest first, and the last number given.

        Args:
            since: Number of the last record that is known already.
            limit: Only so many, the newest.
            function: Only those of the function with this label, or of the functions with this bare name.
        """
        with self._lock:
            found = [record for ring in (self._user_ring, self._jax_ring) for record in ring if record["seq"] > since]
            last = self._seq
        if function is not None:
            found = [record for record in found if function in (record.get("function"), record.get("name"))]
        found.sort(key=_sequence)
        return (found if limit is None else found[max(0, len(found) - limit) :]), last

    def moment(self) -> Moment:
        """How things stand now."""
        with self._lock:
            memory = self._memory
            told = [row["in_use_bytes"] for row in memory.get("devices", ()) if row["stats_supported"]]
            causes = {cause: self._tables.get("recompiles_by_cause", (cause,)) for cause in CAUSES}
            return Moment(
                time=self._clock(),
                busy_seconds=self._tables.get("compile_busy_seconds"),
                compiles=self._sums.compiles,
                recompiles=self._sums.recompiles,
                lost_seconds=self._sums.lost_seconds,
                steps=self._step,
                causes={cause: int(count) for cause, count in causes.items() if count},
                device_bytes=sum(told) if told else None,
                live_array_bytes=(memory.get("live_arrays") or {}).get("bytes"),
                host_bytes=(memory.get("host") or {}).get("resident_bytes"),
            )

    def moments(self, after: float) -> list[Moment]:
        """The points of the time line that are later than this Unix time."""
        with self._lock:
            return self._timeline.after(after)

    def newer(self, seq: int) -> tuple[list[Record], int]:
        """Records of user functions with a number above `seq`, oldest first, and the last number given."""
        found = []
        with self._lock:
            for record in reversed(self._user_ring):
                if record["seq"] <= seq:
                    break
                found.append(record)
            return found[::-1], self._seq

    def changes(self, revision: int, limit: int) -> Changes:
        """What is new since a revision: at most so many functions, and all pitfalls."""
        stale: list[FunctionStats] = []
        with self._lock:
            now = self._revision
            for stats in reversed(self._changed.values()):
                if stats.revision <= revision:
                    break
                stale.append(stats)
            pitfalls, sites = self._mistakes.rows(self._pace(), revision)
        # Outside of the lock: a row that changes meanwhile has a later revision, and is told again.
        stale.sort(key=lambda stats: (-stats.recompiles, -stats.seconds))
        rows = [
            row
            for start in range(0, min(len(stale), limit), _ROWS_AT_ONCE)
            for row in self._rows(stale[start : min(start + _ROWS_AT_ONCE, limit)])
        ]
        return Changes(
            revision=now, functions=rows, left_out=max(0, len(stale) - limit), pitfalls=pitfalls, sites=sites
        )

    def _rows(self, functions: list[FunctionStats]) -> list[dict[str, Any]]:
        """Rows of a few functions, under the lock for a moment."""
        with self._lock:
            pace = self._pace()
            entries = self._tables.values["jit_cache_entries"]
            return [
                row_of(stats, pace) | {"cache_entries": whole(entries.get((stats.function.label,)))}
                for stats in functions
            ]

    def snapshot(self, metrics: Collection[str] | None = None) -> dict[str, Any]:
        """The whole store as JSON-able values: run, totals, functions, every metric, or those with these names."""
        with self._lock:
            tables = self._tables.copy()
            pace = self._pace()
            functions = [row_of(stats, pace) for stats in self._functions.values()]
            memory = self._memory
            last, step, index, running = self._seq, self._step, self._process_index, self._running
            totals = totals_of(self._sums, pace)
            pitfalls, sites = self._mistakes.rows(pace)
            persistent_cache = self._persistent_cache.row()
        entries = tables.values["jit_cache_entries"]
        for row in functions:
            row["cache_entries"] = whole(entries.get((row["function"],)))
            row["lost_calls"] = pace.calls(row["lost_seconds"], row.get("calls"))
        calls = {row["function"]: row.get("calls") for row in functions}
        for row in (*sites, *pitfalls):
            row["lost_calls"] = pace.calls(row["lost_seconds"], calls.get(row["function"]))
        functions.sort(key=lambda row: row["seconds"], reverse=True)
        return {
            "schema": SCHEMA,
            "run": self.run,
            "process_index": index,
            "time": self._clock(),
            "start_time_seconds": self._started,
            "uptime_seconds": pace.wall_s,
            "steady_seconds": pace.steady_s,
            "mean_step_seconds": pace.step_s,
            "step": step,
            "last_seq": last,
            "totals": totals,
            "in_progress": running,
            "functions": functions,
            "call_sites": sites,
            "pitfalls": pitfalls,
            "persistent_cache": persistent_cache,
            "memory": {**memory, "executables": self.largest_executables(_TOP_EXECUTABLES)},
            "metrics": metrics_of(tables, metrics),
        }

    # Reducers: called under the lock, return what the record says beyond the event's own fields

    def _wrapped(self, event: FunctionWrapped) -> dict[str, Any]:
        stats = self._stats(event.function, is_called=False)
        stats.wrappers += 1
        self._tables.add("jit_wrappers", labels=(stats.shown_as,))
        return {}

    def _compiled(self, event: Compiled) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.compiles += 1
        if event.function.is_internal:
            nth = self._nth_of_jax(event.function.name)
        else:
            # Past the bound functions are not told apart, so nobody knows which compile was a repeated one.
            nth = event.nth or (stats.compiles if stats.function.label == event.function.label else 1)
        label = (stats.shown_as,)
        self._tables.add("compiles", labels=label)
        self._sums.compiled(event.total_s, is_internal=event.function.is_internal)
        if nth > 1:
            stats.recompiles += 1
            self._tables.add("recompiles", labels=label)
            if not event.function.is_internal:
                self._recompiled(event, stats)
        self._mistakes.compiled(event)
        for phase, seconds in zip(PHASES, (event.trace_s, event.lower_s, event.compile_s), strict=True):
            if seconds is not None:
                stats.phase_s[phase] += seconds
                self._tables.observe("compile_duration_seconds", seconds, (phase,))
        if self._slowest is None or stats.seconds > self._slowest.seconds:
            self._slowest = stats
        self._tables.add("compile_seconds", event.total_s, label)
        self._step_times.compiled(event.total_s)
        self._captured(event, stats)
        if event.cache_entries is not None and label != (OTHER_LABEL,) and not event.function.is_internal:
            self._tables.set("jit_cache_entries", event.cache_entries, label)
        self._tables.set("last_compile_timestamp_seconds", self._clock())
        if event.persistent_cache != "off":
            self._tables.add("persistent_cache_hits" if event.persistent_cache == "hit" else "persistent_cache_misses")
            self._persistent_cache.compiled(
                event.function.label, event.persistent_cache, event.persistent_cache_reason, event.compile_s
            )
        return {"event": event.repeated_kind if nth > 1 else event.kind, "nth": nth}

    def _recompiled(self, event: Compiled, stats: FunctionStats) -> None:
        stats.lost_s += event.lost_s
        self._sums.recompiles += 1
        self._sums.lost_seconds += event.lost_s
        for cause in event.causes:
            stats.causes[cause] = stats.causes.get(cause, 0) + 1
            self._tables.add("recompile_causes", labels=(stats.shown_as, cause))
            self._tables.add("recompiles_by_cause", labels=(cause,))
        if not event.is_ignored:
            self._mistakes.recompiled(event, self._clock())

    def _captured(self, event: Compiled, stats: FunctionStats) -> None:
        if event.constant_bytes > stats.captured_constant_bytes:
            stats.captured_constant_bytes = event.constant_bytes
            self._raise_to("captured_constant_bytes", event.constant_bytes, (stats.shown_as,))

    def _executable_measured(self, event: ExecutableMeasured) -> dict[str, Any]:
        """A function shows its program that needs most: a small last batch does not hide the large one."""
        stats = self._stats(event.function)
        if stats.executable is not None and stats.executable.total >= event.total:
            return {}
        stats.executable = event
        sizes = {
            "arguments": event.arguments,
            "outputs": event.outputs,
            "temporaries": event.temporaries,
            "code": event.code,
        }
        for kind, size in sizes.items():
            self._raise_to("executable_memory_bytes", size, (stats.shown_as, kind))
        if event.flops is not None:
            self._raise_to("executable_flops", event.flops, (stats.shown_as,))
        return {}

    def _raise_to(self, name: str, value: float, labels: LabelValues) -> None:
        """Set a gauge; of the functions that share `__other__`, the largest counts."""
        is_shared = labels[0] == OTHER_LABEL
        self._tables.set(name, max(value, self._tables.get(name, labels)) if is_shared else value, labels)

    def _out_of_memory(self, event: OutOfMemory) -> dict[str, Any]:
        self._tables.add("oom")
        return {}

    def _compile_failed(self, event: CompileFailed) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.failures += 1
        self._sums.failed(event.spent_s, is_internal=event.function.is_internal)
        stats.phase_s[event.phase] += event.spent_s
        self._tables.add("compile_failures", labels=(stats.shown_as,))
        self._tables.add("compile_seconds", event.spent_s, (stats.shown_as,))
        self._step_times.compiled(event.spent_s)
        return {}

    def _saved(self, event: PersistentCacheSaved) -> dict[str, Any]:
        # A counter cannot fall; a negative estimate says that nothing was saved.
        self._tables.add("persistent_cache_saved_seconds", max(0.0, event.saved_s))
        return {}

    def _stepped(self, event: Stepped) -> dict[str, Any]:
        self._step = (self._step or 0) + event.steps
        self._tables.add("steps", event.steps)
        self._step_times.stepped(event.steps, event.duration_s)
        if event.duration_s is not None:
            self._tables.observe("step_duration_seconds", event.duration_s / event.steps)
        return {}

    def _storm_started(self, event: StormStarted) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.storms += 1
        self._sums.storms += 1
        stats.is_in_storm = True
        self._storms[stats.function.label] = None
        self._sums.storms_active = len(self._storms)
        self._tables.add("recompile_storms", labels=(stats.shown_as,))
        self._show_storm(stats.shown_as)
        return {}

    def _storm_ended(self, event: StormEnded) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.is_in_storm = False
        self._storms.pop(stats.function.label, None)
        self._sums.storms_active = len(self._storms)
        self._show_storm(stats.shown_as)
        return {}

    def _steady_violated(self, event: SteadyViolated) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.steady_violations += 1
        self._sums.steady_violations += 1
        if event.since is not None:
            self._begin_steady(event.since)
        stats.steady_lost_s += event.spent_s
        self._sums.lost_seconds_since_steady += event.spent_s
        self._mistakes.violated(event)
        self._tables.add("steady_violations", labels=(stats.shown_as,))
        return {}

    def _pitfall_found(self, event: PitfallFound) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.pitfalls[event.pitfall] = stats.pitfalls.get(event.pitfall, 0) + 1
        # Also one in JAX's own compiles: operations outside of jit are the job's.
        self._sums.pitfalls += 1
        self._tables.add("pitfalls", labels=(stats.shown_as, event.pitfall))
        self._tables.add("pitfalls_by_kind", labels=(event.pitfall,))
        return {}

    def _donor_made(self, event: DonorMade) -> dict[str, Any]:
        stats = self._stats(event.function, is_called=False)
        if stats.calls is None:
            stats.calls = 0
            self._tables.add("calls", 0.0, (stats.shown_as,))
        return {}

    def _donation_violated(self, event: DonationViolation) -> dict[str, Any]:
        stats = self._stats(event.function)
        kind = event.violation
        stats.donation_violations[kind] = stats.donation_violations.get(kind, 0) + 1
        self._sums.donation_violations += not event.function.is_internal
        self._tables.add("donation_violations", labels=(stats.shown_as, kind))
        self._tables.add("donation_violations_by_kind", labels=(kind,))
        if kind == "unusable":
            self._tables.add("donation_wasted_bytes", event.bytes, (stats.shown_as,))
        return {}

    def _donation_missed(self, event: DonationMissed) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.donation_opportunity = event.bytes
        self._tables.set("donation_opportunity_bytes", event.bytes, (stats.shown_as,))
        return {}

    def _show_storm(self, shown_as: str) -> None:
        # Under `__other__` several functions share the gauge: 1 while any of them is in a storm.
        active = any(stats.is_in_storm for stats in self._functions.values() if stats.shown_as == shown_as)
        self._tables.set("recompile_storm_active", float(active), (shown_as,))

    # Helpers: called under the lock

    def _pace(self) -> Pace:
        since = self._tables.get("steady_since_timestamp_seconds")
        if since:
            self._begin_steady(since)
        return Pace(
            wall_s=self._monotonic() - self._started_monotonic,
            busy_s=self._tables.get("compile_busy_seconds"),
            steady_s=max(0.0, self._clock() - since) if since else None,
            step_s=self._step_times.mean_s,
        )

    def _begin_steady(self, since: float) -> None:
        """Losses since steady begin at 0 with each steady state."""
        if since != self._steady_since:
            self._steady_since = since
            self._sums.lost_seconds_since_steady = 0.0
            for stats in self._functions.values():
                stats.steady_lost_s = 0.0
            self._mistakes.sites.forget_steady()

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def _touch(self, stats: FunctionStats) -> None:
        stats.revision = self._next_revision()
        self._changed.pop(stats.function.label, None)
        self._changed[stats.function.label] = stats

    def _stats(self, function: Function, *, is_called: bool = True) -> FunctionStats:
        """What is known of a function; who asks is about to change it.

        Args:
            function: Which one.
            is_called: Whether it was called by now, and not only jitted.
        """
        stats = self._functions.get(function.label)
        if stats is None:
            stats = self._new_stats(function, is_called=is_called)
        elif is_called and not stats.is_called:
            self._place(stats, is_called=True)
        self._touch(stats)
        return stats

    def _place(self, stats: FunctionStats, *, is_called: bool) -> None:
        """Give a function a label of its own, if there is one; once it is called for the last time."""
        function, stats.is_called = stats.function, is_called
        stats.shown_as, _ = self._labels.admit(function.label, is_called=is_called, is_library=function.is_library)
        if is_called and stats.shown_as == OTHER_LABEL:
            self._tables.add("agent_label_overflow", labels=("function",))
        self._tables.start_function(stats.shown_as)

    def _new_stats(self, function: Function, *, is_called: bool) -> FunctionStats:
        if len(self._functions) >= MAX_KNOWN and not function.is_internal:
            function = Function(OTHER_LABEL, OTHER_LABEL)
            return self._functions.setdefault(OTHER_LABEL, FunctionStats(function, OTHER_LABEL))
        shown_function = Function(JAX_LABEL, JAX_LABEL) if function.is_internal else function
        stats = self._functions[function.label] = FunctionStats(shown_function, OTHER_LABEL)
        self._place(stats, is_called=is_called)
        if not function.is_internal and function.label != UNKNOWN_LABEL:
            self._tables.add("tracked_functions")
        return stats

    def _shown_as(self, label: str) -> str:
        stats = self._functions.get(label)
        return stats.shown_as if stats is not None else OTHER_LABEL

    def _nth_of_jax(self, name: str) -> int:
        if name not in self._jax_names and len(self._jax_names) >= MAX_KNOWN:
            return 1
        self._jax_names[name] = nth = self._jax_names.get(name, 0) + 1
        return nth

    def _envelope(self, kind: str) -> Record:
        stamp = datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="milliseconds")
        record: Record = {
            "timestamp": stamp.replace("+00:00", "Z"),
            "event": kind,
            "schema": SCHEMA,
            "run": self.run,
            "process": self._process,
            "process_index": self._process_index,
        }
        if self._step is not None:
            record["step"] = self._step
        record["seq"] = self._seq
        return record


def _sequence(record: Record) -> int:
    return int(record["seq"])
