"""Reduces events to the state of a run: compiles, lost seconds, storms, violations, by function and in total.

The only reducer: the store applies it while the job runs, the report applies it to the event log, so that both count in
the same way. Bounded. Not thread-safe: the owner holds a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    CompileProfiled,
    DonationMissed,
    DonationViolation,
    DonorMade,
    Event,
    ExecutableMeasured,
    FunctionWrapped,
    OutOfMemory,
    PitfallFound,
    SteadyViolated,
    Stepped,
    StormEnded,
    StormStarted,
)
from jitwatch.model.function import Function
from jitwatch.model.rows import HotLineRow
from jitwatch.model.taxonomy import JAX_LABEL, OTHER_LABEL, PHASES, UNKNOWN_LABEL, Phase
from jitwatch.state.call_sites import MAX_CALL_SITES
from jitwatch.state.cost import StepTimes
from jitwatch.state.pitfalls import Pitfalls
from jitwatch.state.signals import SIGNALS, Signal
from jitwatch.state.tables import LabelValues, NoSeries, Series

#: Maximum number of functions, and of JAX's own programs, that are counted separately.
MAX_FUNCTIONS = 10_000
MAX_JAX_PROGRAMS = 10_000
#: Maximum number of causes, pitfalls or kinds of a function: a log of a newer version may have unknown ones.
_MAX_NAMES = 50


class HotTrace(NamedTuple):
    """The hot lines of the trace and lowering of a compile, and their seconds."""

    lines: tuple[HotLineRow, ...]
    seconds: float


@dataclass(slots=True)
class FunctionStats:
    """The aggregates of one function.

    Attributes:
        shown_as: Its value of the metric label `function`.
        revision: The state's revision when it last changed.
        is_called: Whether it was called or traced, not only passed to `jax.jit`.
        lost_s: Seconds of recompiles that were neither expected nor a first use under a transform.
        steady_lost_s: Seconds of the compiles that violated the current steady state, or else the last one.
        cache_entries: Most entries that its jit caches had after a compile; None if unknown.
        executable: The one of its programs that needs most memory.
        donation_opportunity: Bytes that a call would save by donating; None if unknown.
        calls, last_call: Number of calls, and Unix time at which new ones were last found; None for functions whose
            calls are not counted.
        phase_s: Seconds of all compiles by phase, failed ones included.
        traced: The compile with `trace_hot_lines` whose trace and lowering took longest.
        profiled: The longest profile of a compile.
    """

    function: Function
    shown_as: str
    revision: int = 0
    compiles: int = 0
    recompiles: int = 0
    failures: int = 0
    wrappers: int = 0
    is_called: bool = False
    storms: int = 0
    is_in_storm: bool = False
    steady_violations: int = 0
    lost_s: float = 0.0
    steady_lost_s: float = 0.0
    causes: dict[str, int] = field(default_factory=dict)
    pitfalls: dict[str, int] = field(default_factory=dict)
    cache_entries: int | None = None
    captured_constant_bytes: int = 0
    executable: ExecutableMeasured | None = None
    donation_violations: dict[str, int] = field(default_factory=dict)
    donation_opportunity: int | None = None
    calls: int | None = None
    last_call: float | None = None
    phase_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    traced: HotTrace | None = None
    profiled: CompileProfiled | None = None

    @property
    def seconds(self) -> float:
        """Seconds of all phases of all compiles, failed ones included."""
        return sum(self.phase_s.values())


@dataclass(slots=True)
class Totals:
    """Sums over all functions, updated with each event: there may be thousands of functions.

    Attributes:
        jax_compiles, jax_compile_seconds: Of JAX's own programs; of the other sums only `pitfalls` includes them.
    """

    compiles: int = 0
    recompiles: int = 0
    failures: int = 0
    compile_seconds: float = 0.0
    storms: int = 0
    steady_violations: int = 0
    pitfalls: int = 0
    donation_violations: int = 0
    lost_seconds: float = 0.0
    lost_seconds_since_steady: float = 0.0
    storms_active: int = 0
    jax_compiles: int = 0
    jax_compile_seconds: float = 0.0


@dataclass(slots=True)
class JaxProgram:
    """Compiles of one operation outside of jit, or of another program of JAX's own."""

    compiles: int = 0
    seconds: float = 0.0


class Aggregates:
    """The state of a run, reduced from its events.

    Args:
        series: Where metrics are counted; nowhere by default.
        max_functions: Maximum number of functions that are counted separately; the others share `__other__`.
        max_call_sites: Maximum number of call sites.
    """

    def __init__(
        self,
        *,
        series: Series | None = None,
        max_functions: int = MAX_FUNCTIONS,
        max_call_sites: int = MAX_CALL_SITES,
    ) -> None:
        self._series = series if series is not None else NoSeries()
        self._has_series = series is not None
        self._max_functions = max_functions
        self.functions: dict[str, FunctionStats] = {}
        self.totals = Totals()
        self.pitfalls = Pitfalls(self.next_revision, max_call_sites)
        self.jax_programs: dict[str, JaxProgram] = {}
        self.signals: dict[str, Signal] = {kind.name: kind() for kind in SIGNALS}
        #: Labels of the functions in a storm, in the order in which the storms began.
        self.storms: dict[str, None] = {}
        #: The function with most compile seconds.
        self.slowest: FunctionStats | None = None
        self._slowest_s = 0.0
        self.step: int | None = None
        self.step_times = StepTimes()
        #: Unix time at which the steady state began to which `steady_lost_s` refers; 0 before the first.
        self.steady_since = 0.0
        #: Incremented with every change of a function, a pitfall or a call site: the cursor of polling clients.
        self.revision = 0
        #: Functions in the order of their last change.
        self.changed: dict[str, FunctionStats] = {}
        self._handlers: dict[type[Event], Callable[[Any, float], Mapping[str, Any] | None]] = {
            FunctionWrapped: self._wrapped,
            Compiled: self._compiled,
            CompileFailed: self._compile_failed,
            CompileProfiled: self._compile_profiled,
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
        self._signals_of: dict[type[Event], list[Signal]] = {}
        for signal in self.signals.values():
            for kind in signal.events:
                self._signals_of.setdefault(kind, []).append(signal)
        self._series.start_function(JAX_LABEL)

    def apply(self, event: Event, at: float) -> Mapping[str, Any] | None:
        """Reduce an event.

        Args:
            event: An event of any class; one without a reducer changes nothing.
            at: Unix time of the event.

        Returns:
            Fields that the state adds to the event's record: the number of the compile among those of its function.
        """
        kind = type(event)
        handler = self._handlers.get(kind)
        known = handler(event, at) if handler is not None else None
        for signal in self._signals_of.get(kind, ()):
            signal.reduce(event, self._series)
        return known

    def know(self, function: Function) -> None:
        """Start the series of a function that is called, at 0."""
        stats = self.functions.get(function.label)
        if stats is None or not stats.is_called:
            self._stats(function)

    def begin_steady(self, since: float) -> None:
        """Set the Unix time since which the process is steady; losses since then begin at 0."""
        if since != self.steady_since:
            self.steady_since = since
            self.totals.lost_seconds_since_steady = 0.0
            for stats in self.functions.values():
                stats.steady_lost_s = 0.0
            self.pitfalls.call_sites.forget_steady()

    def touch(self, stats: FunctionStats) -> None:
        """Note that a function has changed."""
        stats.revision = self.next_revision()
        self.changed.pop(stats.function.label, None)
        self.changed[stats.function.label] = stats

    def next_revision(self) -> int:
        """Increment and return the revision."""
        self.revision += 1
        return self.revision

    def shown_as(self, label: str) -> str:
        """The value of the metric label `function` for a function's label."""
        stats = self.functions.get(label)
        return stats.shown_as if stats is not None else OTHER_LABEL

    # Reducers by event

    def _wrapped(self, event: FunctionWrapped, at: float) -> None:
        stats = self._stats(event.function, is_called=False)
        stats.wrappers += 1
        self._series.add("jit_wrappers", labels=(stats.shown_as,))

    def _compiled(self, event: Compiled, at: float) -> Mapping[str, Any]:
        function, totals = event.function, self.totals
        trace_s, lower_s, compile_s = event.trace_s or 0.0, event.lower_s or 0.0, event.compile_s
        seconds = trace_s + lower_s + compile_s
        stats, label = self._stats(function), function.label
        is_internal = label == JAX_LABEL
        stats.compiles += 1
        if is_internal:
            nth = self._internal_nth(event, seconds)
            totals.jax_compiles += 1
            totals.jax_compile_seconds += seconds
        else:
            # Functions past the limit share an entry, so that their recompiles are not known.
            nth = event.nth or (stats.compiles if stats.function.label == label else 1)
            totals.compiles += 1
            totals.compile_seconds += seconds
            if event.cache_entries is not None:
                stats.cache_entries = max(event.cache_entries, stats.cache_entries or 0)
        phase_s = stats.phase_s
        phase_s["trace"] = traced_s = phase_s["trace"] + trace_s
        phase_s["lower"] = lowered_s = phase_s["lower"] + lower_s
        phase_s["compile"] = compiled_s = phase_s["compile"] + compile_s
        spent_s = traced_s + lowered_s + compiled_s
        if spent_s > self._slowest_s:
            self.slowest, self._slowest_s = stats, spent_s
        self.step_times.compiled(seconds)
        if event.trace_hot_lines:
            traced_s = (event.trace_s or 0.0) + (event.lower_s or 0.0)
            if stats.traced is None or traced_s >= stats.traced.seconds:
                stats.traced = HotTrace(event.trace_hot_lines, traced_s)
        is_larger = event.constant_bytes > stats.captured_constant_bytes
        if is_larger:
            stats.captured_constant_bytes = event.constant_bytes
        if nth > 1:
            stats.recompiles += 1
            if not is_internal:
                self._recompiled(event, stats, 0.0 if event.is_harmless else seconds, at)
        if event.pitfall is not None:
            self.pitfalls.compiled(event)
        if self._has_series:
            self._count_compile(event, stats, nth, at)
            if is_larger:
                self._raise_to("captured_constant_bytes", event.constant_bytes, (stats.shown_as,))
        return {"event": event.repeated_kind if nth > 1 else event.kind, "nth": nth}

    def _compile_profiled(self, event: CompileProfiled, at: float) -> None:
        stats = self._stats(event.function)
        if stats.profiled is None or event.profiled_s >= stats.profiled.profiled_s:
            stats.profiled = event

    def _count_compile(self, event: Compiled, stats: FunctionStats, nth: int, at: float) -> None:
        series, label = self._series, (stats.shown_as,)
        series.add("compiles", labels=label)
        series.add("compile_seconds", event.total_s, label)
        series.set("last_compile_timestamp_seconds", at)
        for phase, spent_s in zip(PHASES, (event.trace_s, event.lower_s, event.compile_s), strict=True):
            if spent_s is not None:
                series.observe("compile_duration_seconds", spent_s, (phase,))
        if nth > 1:
            series.add("recompiles", labels=label)
        if event.function.is_internal:
            return
        if event.cache_entries is not None and label != (OTHER_LABEL,):
            series.set("jit_cache_entries", event.cache_entries, label)
        for cause in event.causes if nth > 1 else ():
            series.add("recompile_causes", labels=(stats.shown_as, cause))
            series.add("recompiles_by_cause", labels=(cause,))

    def _internal_nth(self, event: Compiled, seconds: float) -> int:
        """Number of this compile of a program of JAX's own among those of its name, from 1."""
        name = event.function.name
        program = self.jax_programs.get(name)
        if program is None:
            if len(self.jax_programs) >= MAX_JAX_PROGRAMS:
                return 1
            program = self.jax_programs[name] = JaxProgram()
        program.compiles += 1
        program.seconds += seconds
        # A log of several processes has several first compiles of one name.
        return event.nth or program.compiles

    def _recompiled(self, event: Compiled, stats: FunctionStats, lost_s: float, at: float) -> None:
        stats.lost_s += lost_s
        self.totals.recompiles += 1
        self.totals.lost_seconds += lost_s
        for cause in event.causes:
            _count(stats.causes, cause)
        if not event.is_ignored:
            self.pitfalls.recompiled(event, lost_s, at)

    def _compile_failed(self, event: CompileFailed, at: float) -> None:
        stats = self._stats(event.function)
        stats.failures += 1
        if event.function.is_internal:
            self.totals.jax_compile_seconds += event.spent_s
        else:
            self.totals.failures += 1
            self.totals.compile_seconds += event.spent_s
        stats.phase_s[event.phase if event.phase in PHASES else "compile"] += event.spent_s
        self._series.add("compile_failures", labels=(stats.shown_as,))
        self._series.add("compile_seconds", event.spent_s, (stats.shown_as,))
        self.step_times.compiled(event.spent_s)

    def _executable_measured(self, event: ExecutableMeasured, at: float) -> None:
        """Keep the program that needs most memory, so that a small last batch does not hide the large one."""
        stats = self._stats(event.function)
        if stats.executable is not None and stats.executable.total >= event.total:
            return
        stats.executable = event
        for kind in ("arguments", "outputs", "temporaries", "code"):
            self._raise_to("executable_memory_bytes", getattr(event, kind), (stats.shown_as, kind))
        if event.flops is not None:
            self._raise_to("executable_flops", event.flops, (stats.shown_as,))

    def _out_of_memory(self, event: OutOfMemory, at: float) -> None:
        self._series.add("oom")

    def _stepped(self, event: Stepped, at: float) -> None:
        self.step = (self.step or 0) + event.steps
        self._series.add("steps", event.steps)
        self.step_times.stepped(event.steps, event.duration_s)
        if event.duration_s is not None:
            self._series.observe("step_duration_seconds", event.duration_s / event.steps)

    def _storm_started(self, event: StormStarted, at: float) -> None:
        stats = self._stats(event.function)
        stats.storms += 1
        self.totals.storms += 1
        self._series.add("recompile_storms", labels=(stats.shown_as,))
        self._set_storm(stats, is_active=True)

    def _storm_ended(self, event: StormEnded, at: float) -> None:
        self._set_storm(self._stats(event.function), is_active=False)

    def _set_storm(self, stats: FunctionStats, *, is_active: bool) -> None:
        stats.is_in_storm = is_active
        if is_active:
            self.storms[stats.function.label] = None
        else:
            self.storms.pop(stats.function.label, None)
        self.totals.storms_active = len(self.storms)
        # The gauge of `__other__` is 1 while any of its functions is in a storm.
        is_any = is_active or any(self.functions[label].shown_as == stats.shown_as for label in self.storms)
        self._series.set("recompile_storm_active", float(is_any), (stats.shown_as,))

    def _steady_violated(self, event: SteadyViolated, at: float) -> None:
        stats = self._stats(event.function)
        stats.steady_violations += 1
        self.totals.steady_violations += 1
        if event.since is not None:
            self.begin_steady(event.since)
        stats.steady_lost_s += event.spent_s
        self.totals.lost_seconds_since_steady += event.spent_s
        self.pitfalls.violated(event)
        self._series.add("steady_violations", labels=(stats.shown_as,))

    def _pitfall_found(self, event: PitfallFound, at: float) -> None:
        stats = self._stats(event.function)
        _count(stats.pitfalls, event.pitfall)
        # Also of JAX's own functions: operations outside of jit are called by the job.
        self.totals.pitfalls += 1
        self._series.add("pitfalls", labels=(stats.shown_as, event.pitfall))
        self._series.add("pitfalls_by_kind", labels=(event.pitfall,))

    def _donor_made(self, event: DonorMade, at: float) -> None:
        stats = self._stats(event.function, is_called=False)
        if stats.calls is None:
            stats.calls = 0
            self._series.add("calls", 0.0, (stats.shown_as,))

    def _donation_violated(self, event: DonationViolation, at: float) -> None:
        stats, kind = self._stats(event.function), event.violation
        _count(stats.donation_violations, kind)
        self.totals.donation_violations += not event.function.is_internal
        self._series.add("donation_violations", labels=(stats.shown_as, kind))
        self._series.add("donation_violations_by_kind", labels=(kind,))
        if kind == "unusable":
            self._series.add("donation_wasted_bytes", event.bytes, (stats.shown_as,))

    def _donation_missed(self, event: DonationMissed, at: float) -> None:
        stats = self._stats(event.function)
        stats.donation_opportunity = event.bytes
        self._series.set("donation_opportunity_bytes", event.bytes, (stats.shown_as,))

    # Functions

    def _stats(self, function: Function, *, is_called: bool = True) -> FunctionStats:
        """The aggregates of a function, made if it is new, and marked as changed.

        Args:
            function: The function.
            is_called: Whether it was called, and not only passed to `jax.jit`.
        """
        stats = self.functions.get(function.label)
        if stats is None:
            stats = self._new_stats(function, is_called=is_called)
        elif is_called and not stats.is_called:
            self._label(stats, is_called=True)
        if self._has_series:
            self.touch(stats)
        return stats

    def _new_stats(self, function: Function, *, is_called: bool) -> FunctionStats:
        if len(self.functions) >= self._max_functions and not function.is_internal:
            function = Function(OTHER_LABEL, OTHER_LABEL)
            return self.functions.setdefault(OTHER_LABEL, FunctionStats(function, OTHER_LABEL))
        shown_function = Function(JAX_LABEL, JAX_LABEL) if function.is_internal else function
        stats = self.functions[function.label] = FunctionStats(shown_function, OTHER_LABEL)
        self._label(stats, is_called=is_called)
        if not function.is_internal and function.label != UNKNOWN_LABEL:
            self._series.add("tracked_functions")
        return stats

    def _label(self, stats: FunctionStats, *, is_called: bool) -> None:
        """Assign the metric label of a function: its own, or `__other__`. Decided again once it is called."""
        function, stats.is_called = stats.function, is_called
        stats.shown_as = self._series.admit(function.label, is_called=is_called, is_library=function.is_library)
        if is_called and stats.shown_as == OTHER_LABEL:
            self._series.add("agent_label_overflow", labels=("function",))
        self._series.start_function(stats.shown_as)

    def _raise_to(self, name: str, value: float, labels: LabelValues) -> None:
        """Set a gauge; for `__other__`, keep the largest value of its functions."""
        is_shared = labels[0] == OTHER_LABEL
        self._series.set(name, max(value, self._series.get(name, labels)) if is_shared else value, labels)


def _count(counts: dict[str, int], name: str) -> None:
    if name in counts or len(counts) < _MAX_NAMES:
        counts[name] = counts.get(name, 0) + 1
