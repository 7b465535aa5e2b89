"""Compiles by function and by line of the job, as the store counts them while the job runs."""

from __future__ import annotations

from dataclasses import dataclass

from jitwatch.model.function import Function
from jitwatch.model.taxonomy import HARMLESS_CAUSES, JAX_LABEL, OTHER_LABEL, PHASES
from jitwatch.report.fields import FieldError, Record, instant, needed, number, text, whole
from jitwatch.report.processes import Process, Processes
from jitwatch.state.call_sites import Sites, SiteStats
from jitwatch.state.persistent_cache import PersistentCache
from jitwatch.state.schema import FunctionStats

#: Functions and lines that are told apart.
MAX_FUNCTIONS = 10_000
MAX_SITES = 10_000
_MAX_JAX_NAMES = 1_000
#: Causes of a function; there are fifteen, and a newer version may know more.
_MAX_CAUSES = 50
#: Causes and changes of one recompile that are looked at.
_MAX_LISTED = 32


@dataclass(slots=True)
class Site(SiteStats):
    """A line of the job that caused recompiles; `explained` is when the explanation was written."""

    explained: str = ""


@dataclass(slots=True)
class JaxName:
    """A small program that JAX compiled for itself."""

    compiles: int = 0
    seconds: float = 0.0


class Functions:
    """Aggregates by function, by line, and by the name of JAX's own programs."""

    def __init__(self, processes: Processes) -> None:
        self.stats: dict[str, FunctionStats] = {}
        self.cache_entries: dict[str, int] = {}
        self.sites = Sites(Site, MAX_SITES)
        self.jax_names: dict[str, JaxName] = {}
        self.persistent_cache = PersistentCache()
        self._processes = processes

    def compiled(self, record: Record, process: Process) -> None:
        """The first compile of a function in a process."""
        self._compile(record, process)

    def recompiled(self, record: Record, process: Process) -> None:
        """A later one."""
        stats, seconds = self._compile(record, process)
        stats.recompiles += 1
        label = stats.function.label
        if label == JAX_LABEL:
            return
        process.recompiles += 1
        causes = tuple(record.get("causes", ())[:_MAX_LISTED])
        # As `Compiled.is_planned` has it.
        is_planned = "expected" in record or (bool(causes) and HARMLESS_CAUSES.issuperset(causes))
        lost_s = 0.0 if is_planned else seconds
        stats.lost_s += lost_s
        process.lost_s += lost_s
        _add_causes(stats.causes, causes)
        if record.get("is_ignored"):
            return
        site = self.sites.of(label, text(record, "call_site"), causes, _paths(record))
        site.recompiles += 1
        site.lost_s += lost_s
        name = text(record, "pitfall")
        if name:
            self.sites.claim(site, (label, name, text(record, "pitfall_subject") or ""))
        if not is_planned and (at := instant(record)) >= site.explained and (told := text(record, "explanation")):
            site.explanation, site.explained = told, at
            site.reason, site.advice = text(record, "reason") or "", text(record, "advice") or ""

    def failed(self, record: Record, process: Process) -> None:
        """A compile that ended in an exception; its seconds count as the function's."""
        stats = self.of(record)
        spent_s = number(record, "spent_s")
        phase = record.get("phase")
        stats.failures += 1
        stats.phase_s[phase if phase in PHASES else "compile"] += spent_s
        process.failures += 1
        process.compile_s += spent_s

    def storm_started(self, record: Record, process: Process) -> None:
        """A function recompiles again and again."""
        stats = self.of(record)
        stats.storms += 1
        stats.is_in_storm = True

    def storm_ended(self, record: Record, process: Process) -> None:
        """It does so no longer."""
        self.of(record).is_in_storm = False

    def of(self, record: Record) -> FunctionStats:
        """The entry of the function that a record names.

        Raises:
            FieldError: It names none.
        """
        label = record.get("function")
        stats = self.stats.get(label) if label is not None else None
        return stats if stats is not None else self._new(record)

    def users(self) -> list[FunctionStats]:
        """All but JAX's own."""
        return [stats for label, stats in self.stats.items() if label != JAX_LABEL]

    def _new(self, record: Record) -> FunctionStats:
        label = needed(record, "function")
        if len(self.stats) >= MAX_FUNCTIONS and label != JAX_LABEL:
            label = OTHER_LABEL
        if label in self.stats:
            return self.stats[label]
        known = label in (JAX_LABEL, OTHER_LABEL)
        function = Function(label, label if known else name_of(record), None if known else text(record, "location"))
        self.stats[label] = FunctionStats(function, label)
        return self.stats[label]

    def _compile(self, record: Record, process: Process) -> tuple[FunctionStats, float]:
        if "compile_s" not in record:
            raise FieldError("compile_s")
        stats = self.of(record)
        trace_s, lower_s, compile_s = number(record, "trace_s"), number(record, "lower_s"), number(record, "compile_s")
        phase_s = stats.phase_s
        phase_s["trace"] += trace_s
        phase_s["lower"] += lower_s
        phase_s["compile"] += compile_s
        seconds = trace_s + lower_s + compile_s
        stats.compiles += 1
        label = stats.function.label
        if label == JAX_LABEL:
            process.jax_compiles += 1
            process.jax_compile_s += seconds
            self._jax(record, seconds)
        else:
            process.compiles += 1
            process.compile_s += seconds
            self._processes.compiled(process, label)
            entries = whole(record, "cache_entries")
            if entries is not None and entries > self.cache_entries.get(label, 0):
                self.cache_entries[label] = entries
        self.persistent_cache.compiled(
            label, record.get("persistent_cache"), record.get("persistent_cache_reason"), compile_s
        )
        stats.captured_constant_bytes = max(stats.captured_constant_bytes, whole(record, "constant_bytes") or 0)
        return stats, seconds

    def _jax(self, record: Record, seconds: float) -> None:
        name = name_of(record)
        if name not in self.jax_names and len(self.jax_names) >= _MAX_JAX_NAMES:
            name = "…"
        one = self.jax_names.setdefault(name, JaxName())
        one.compiles += 1
        one.seconds += seconds


def name_of(record: Record) -> str:
    """The bare name of a record's function."""
    return text(record, "name") or text(record, "function") or "unknown"


def _paths(record: Record) -> tuple[str, ...]:
    """Which arguments, options or settings changed."""
    return tuple(path for one in record.get("changes", ())[:_MAX_LISTED] if (path := one.get("path")))


def _add_causes(into: dict[str, int], causes: tuple[str, ...]) -> None:
    for cause in causes:
        if cause in into or len(into) < _MAX_CAUSES:
            into[cause] = into.get(cause, 0) + 1
