"""The only mutable truth: every event is numbered and counted here, and every exporter reads here.

One lock, held for microseconds; nothing of JAX, of the user or of a logger runs under it. All is
bounded: named functions, known functions, rings of records.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from jitwatch.events import (
    CAUSES,
    DONATION_KINDS,
    JAX_LABEL,
    OTHER_LABEL,
    PHASES,
    PITFALLS,
    SCHEMA,
    UNKNOWN_LABEL,
    Compiled,
    CompileFailed,
    DonationMissed,
    DonationViolation,
    DonorMade,
    Event,
    Function,
    FunctionWrapped,
    PersistentCacheSaved,
    PitfallFound,
    SteadyViolated,
    Stepped,
    StormEnded,
    StormStarted,
)
from jitwatch.state import FunctionStats, SiteStats, metrics_of, row_of, row_of_site, totals_of, whole
from jitwatch.tables import FunctionLabels, LabelValues, MetricTables

Record = dict[str, Any]

#: Records kept of user functions, and of JAX's own, which come in hundreds at start-up.
USER_RING = 10_000
JAX_RING = 1_000
#: Functions whose compiles are told apart (the 100 named ones are the first of them).
MAX_KNOWN = 10_000
#: Lines of the job whose recompiles are told apart, and how many of them the state shows.
MAX_SITES = 2_000
_TOP_SITES = 50
#: Pitfalls that the state lists.
MAX_PITFALLS = 200


class Store:
    """Aggregates, the event rings and the sequence number.

    Args:
        run: Name of the run, in every record.
        is_summary: Keep no series by function.
        clock: Unix time in seconds.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        run: str = "run",
        is_summary: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._tables = MetricTables(is_summary=is_summary)
        self._labels = FunctionLabels()
        self._functions: dict[str, FunctionStats] = {}
        self._jax_names: dict[str, int] = {}
        self._seq = 0
        self._user_ring: deque[Record] = deque(maxlen=USER_RING)
        self._jax_ring: deque[Record] = deque(maxlen=JAX_RING)
        self._sites: dict[tuple[str, str], SiteStats] = {}
        self._pitfalls: deque[Record] = deque(maxlen=MAX_PITFALLS)
        self._running: list[dict[str, Any]] = []
        self._step: int | None = None
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
                self._pitfalls.append(record)
            ring = self._jax_ring if record.get("function") == JAX_LABEL else self._user_ring
            ring.append(record)
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
            self._tables.replace(name, series)

    def set_calls(self, calls: Mapping[str, tuple[int, float, int]]) -> None:
        """Bring the watched functions up to date: calls, Unix time of the last, and bytes donated by label."""
        with self._lock:
            totals: dict[str, tuple[int, float, int]] = {}
            for label, (count, last, size) in calls.items():
                stats = self._functions.get(label)
                if stats is None:
                    continue
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
            self._running = running

    def know(self, function: Function) -> None:
        """Start the function's series at 0."""
        with self._lock:
            self._stats(function)

    # Reading

    def tables(self) -> MetricTables:
        """A copy of all metric values, safe to read at leisure."""
        with self._lock:
            return self._tables.copy()

    def has(self, name: str) -> bool:
        """Whether a gauge or counter without labels was ever set."""
        with self._lock:
            return () in self._tables.values[name]

    def is_up(self, probe: str) -> bool:
        """Whether the probe was started and works."""
        with self._lock:
            return self._tables.get("probe_up", (probe,)) == 1.0

    def forget_locks(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist here."""
        self._lock = threading.RLock()

    def records(self, since: int = 0, limit: int | None = None) -> tuple[list[Record], int]:
        """Records with `seq` > `since` still in the rings, oldest first, and the last number given."""
        with self._lock:
            found = [record for ring in (self._user_ring, self._jax_ring) for record in ring if record["seq"] > since]
            last = self._seq
        found.sort(key=_sequence)
        return (found if limit is None else found[max(0, len(found) - limit) :]), last

    def snapshot(self) -> dict[str, Any]:
        """The whole store as JSON-able values: run, totals, functions, every metric."""
        with self._lock:
            tables = self._tables.copy()
            functions = [row_of(stats) for stats in self._functions.values()]
            last, step, index, running = self._seq, self._step, self._process_index, self._running
            sites = sorted(self._sites.values(), key=lambda site: -site.lost_s)[:_TOP_SITES]
            pitfalls = list(self._pitfalls)
            step_s = self._mean_step_s()
        entries = tables.values["jit_cache_entries"]
        for row in functions:
            row["cache_entries"] = whole(entries.get((row["function"],)))
            row["lost_steps"] = row["lost_seconds"] / step_s if step_s else None
        functions.sort(key=lambda row: row["seconds"], reverse=True)
        wall = self._monotonic() - self._started_monotonic
        return {
            "schema": SCHEMA,
            "run": self.run,
            "process_index": index,
            "time": self._clock(),
            "start_time_seconds": self._started,
            "uptime_seconds": wall,
            "step": step,
            "last_seq": last,
            "totals": totals_of(functions, tables, wall),
            "in_progress": running,
            "functions": functions,
            "call_sites": [row_of_site(site, wall) for site in sites],
            "pitfalls": pitfalls,
            "metrics": metrics_of(tables),
        }

    # Reducers: called under the lock, return what the record says beyond the event's own fields

    def _wrapped(self, event: FunctionWrapped) -> dict[str, Any]:
        stats = self._stats(event.function)
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
        if nth > 1:
            stats.recompiles += 1
            self._tables.add("recompiles", labels=label)
            if not event.function.is_internal:
                self._recompiled(event, stats)
        for phase, seconds in zip(PHASES, (event.trace_s, event.lower_s, event.compile_s), strict=True):
            if seconds is not None:
                stats.phase_s[phase] += seconds
                self._tables.observe("compile_duration_seconds", seconds, (phase,))
        self._tables.add("compile_seconds", event.total_s, label)
        self._tables.set("last_compile_timestamp_seconds", self._clock())
        if event.persistent_cache != "off":
            self._tables.add("persistent_cache_hits" if event.persistent_cache == "hit" else "persistent_cache_misses")
        return {"event": event.repeated_kind if nth > 1 else event.kind, "nth": nth}

    def _recompiled(self, event: Compiled, stats: FunctionStats) -> None:
        stats.lost_s += event.total_s
        for cause in event.causes:
            stats.causes[cause] = stats.causes.get(cause, 0) + 1
            self._tables.add("recompile_causes", labels=(stats.shown_as, cause))
            self._tables.add("recompiles_by_cause", labels=(cause,))
        key = (event.function.label, event.call_site or "")
        if event.call_site and (key in self._sites or len(self._sites) < MAX_SITES):
            site = self._sites.setdefault(key, SiteStats(event.function.label, event.call_site))
            site.recompiles += 1
            site.lost_s += event.total_s

    def _compile_failed(self, event: CompileFailed) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.failures += 1
        stats.phase_s[event.phase] += event.spent_s
        self._tables.add("compile_failures", labels=(stats.shown_as,))
        self._tables.add("compile_seconds", event.spent_s, (stats.shown_as,))
        return {}

    def _saved(self, event: PersistentCacheSaved) -> dict[str, Any]:
        # A counter cannot fall; a negative estimate says that nothing was saved.
        self._tables.add("persistent_cache_saved_seconds", max(0.0, event.saved_s))
        return {}

    def _stepped(self, event: Stepped) -> dict[str, Any]:
        self._step = (self._step or 0) + event.steps
        self._tables.add("steps", event.steps)
        if event.duration_s is not None:
            self._tables.observe("step_duration_seconds", event.duration_s / event.steps)
        return {}

    def _storm_started(self, event: StormStarted) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.storms += 1
        stats.is_in_storm = True
        self._tables.add("recompile_storms", labels=(stats.shown_as,))
        self._show_storm(stats.shown_as)
        return {}

    def _storm_ended(self, event: StormEnded) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.is_in_storm = False
        self._show_storm(stats.shown_as)
        return {}

    def _steady_violated(self, event: SteadyViolated) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.steady_violations += 1
        stats.steady_lost_s += event.spent_s
        self._tables.add("steady_violations", labels=(stats.shown_as,))
        return {}

    def _pitfall_found(self, event: PitfallFound) -> dict[str, Any]:
        stats = self._stats(event.function)
        stats.pitfalls[event.pitfall] = stats.pitfalls.get(event.pitfall, 0) + 1
        self._tables.add("pitfalls", labels=(stats.shown_as, event.pitfall))
        self._tables.add("pitfalls_by_kind", labels=(event.pitfall,))
        return {}

    def _donor_made(self, event: DonorMade) -> dict[str, Any]:
        stats = self._stats(event.function)
        if stats.calls is None:
            stats.calls = 0
            self._tables.add("calls", 0.0, (stats.shown_as,))
        return {}

    def _donation_violated(self, event: DonationViolation) -> dict[str, Any]:
        stats = self._stats(event.function)
        kind = event.violation
        stats.donation_violations[kind] = stats.donation_violations.get(kind, 0) + 1
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

    def _mean_step_s(self) -> float | None:
        """Mean seconds of a training step, where the job reports them."""
        steps = self._tables.histograms["step_duration_seconds"].get(())
        return steps.total / steps.count if steps is not None and steps.count else None

    def _show_storm(self, shown_as: str) -> None:
        # Under `__other__` several functions share the gauge: 1 while any of them is in a storm.
        active = any(stats.is_in_storm for stats in self._functions.values() if stats.shown_as == shown_as)
        self._tables.set("recompile_storm_active", float(active), (shown_as,))

    # Helpers: called under the lock

    def _stats(self, function: Function) -> FunctionStats:
        stats = self._functions.get(function.label)
        if stats is not None:
            return stats
        if len(self._functions) >= MAX_KNOWN and not function.is_internal:
            function = Function(OTHER_LABEL, OTHER_LABEL)
            return self._functions.setdefault(OTHER_LABEL, FunctionStats(function, OTHER_LABEL))
        shown, _ = self._labels.admit(function.label)
        if shown == OTHER_LABEL:
            self._tables.add("agent_label_overflow", labels=("function",))
        self._tables.start_function(shown)
        shown_function = Function(JAX_LABEL, JAX_LABEL) if function.is_internal else function
        stats = self._functions[function.label] = FunctionStats(shown_function, shown)
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
            "process_index": self._process_index,
        }
        if self._step is not None:
            record["step"] = self._step
        record["seq"] = self._seq
        return record


def _sequence(record: Record) -> int:
    return int(record["seq"])
