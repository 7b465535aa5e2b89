"""The one declared list of metrics: name, type, help and labels. Exporter, page and tests read it.

Names are without the prefix `jitwatch_` and, for counters, without the suffix `_total`. Units are
base units (seconds, bytes) and part of the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "jitwatch_"

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric family.

    Attributes:
        name: Without prefix and `_total`.
        kind: Prometheus type.
        help: One sentence for the person who reads `/metrics`.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram, without +Inf.
        starts_at_zero: The series is exported as 0 as soon as its labels are known (a function
            that was just jitted; the process itself), so that `increase()` sees the first event.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    starts_at_zero: bool = False

    @property
    def exposed_name(self) -> str:
        """The name of the family's plain sample, as Prometheus stores it."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        return f"{PREFIX}{self.name}{suffix}"

    @property
    def is_by_function(self) -> bool:
        """Whether it has a series for every function (left out in summary detail)."""
        return "function" in self.labels


COMPILE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
STEP_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def _counter(name: str, text: str, *labels: str, zero: bool = True) -> Metric:
    return Metric(name=name, kind="counter", help=text, labels=labels, starts_at_zero=zero)


def _gauge(name: str, text: str, *labels: str, zero: bool = False) -> Metric:
    return Metric(name=name, kind="gauge", help=text, labels=labels, starts_at_zero=zero)


METRICS: tuple[Metric, ...] = (
    # Compiles
    _counter("compiles", "Compiles that succeeded, persistent-cache hits included.", "function"),
    _counter("recompiles", "Second and later compiles of the same function.", "function"),
    _counter(
        "recompile_causes",
        "Recompiles of the function by cause; one with two causes counts in both.",
        "function",
        "cause",
        zero=False,
    ),
    _counter("recompiles_by_cause", "Recompiles of all functions by cause.", "cause", zero=False),
    _counter(
        "pitfalls",
        "Known mistakes found in the function, each once for what it is about.",
        "function",
        "pitfall",
        zero=False,
    ),
    _counter("pitfalls_by_kind", "Known mistakes found in all functions.", "pitfall", zero=False),
    Metric(
        name="compile_duration_seconds",
        kind="histogram",
        help="Exclusive seconds of a compile by phase: trace (to jaxpr), lower (to StableHLO), compile (XLA).",
        labels=("phase",),
        buckets=COMPILE_BUCKETS,
        starts_at_zero=True,
    ),
    _counter("compile_seconds", "Seconds spent tracing, lowering and compiling the function.", "function"),
    _counter("compile_busy_seconds", "Wall clock in which at least one thread compiles; grows while it runs."),
    _gauge("compiles_in_progress", "Threads that trace, lower or compile right now.", zero=True),
    _gauge(
        "compile_oldest_in_progress_seconds", "Age of the oldest running compile phase; 0 when none runs.", zero=True
    ),
    _gauge("last_compile_timestamp_seconds", "Unix time of the last successful compile."),
    _counter("compile_failures", "Compiles that ended in an exception, in any phase.", "function"),
    _counter("recompile_storms", "Storms of recompiles of the function, counted when they start.", "function"),
    _gauge("recompile_storm_active", "1 while the function is in a storm of recompiles.", "function", zero=True),
    _counter("steady_violations", "Compiles of the function after jitwatch.steady().", "function"),
    _gauge("steady_since_timestamp_seconds", "Unix time since which jitwatch.steady() holds; 0 when it does not."),
    # Caches
    _gauge("jit_cache_entries", "Entries in the jit caches of the function.", "function"),
    _counter("jit_wrappers", "Times that the function's code was passed to jax.jit.", "function"),
    _gauge("tracked_functions", "Different functions that were jitted, JAX's own not counted.", zero=True),
    _gauge("jit_global_cache_entries", "Entries in JAX's global C++ jit caches."),
    _counter("persistent_cache_hits", "Compiles answered by JAX's persistent compilation cache."),
    _counter("persistent_cache_misses", "Compiles that the configured persistent cache did not know."),
    _counter("persistent_cache_saved_seconds", "Compile seconds that persistent-cache hits saved, as JAX estimates."),
    # Donation
    _counter("calls", "Calls of the function, for those whose calls are watched: they donate.", "function", zero=False),
    _gauge("last_call_timestamp_seconds", "Unix time of the last call of the function, where calls are.", "function"),
    _counter(
        "donation_violations",
        "Donations that went wrong: a dead array used, the same array given twice, memory that XLA could not use.",
        "function",
        "kind",
        zero=False,
    ),
    _counter("donation_violations_by_kind", "Donations of all functions that went wrong.", "kind", zero=False),
    _counter("donated_bytes", "Bytes that calls of the function donated.", "function"),
    _counter("donation_wasted_bytes", "Bytes offered for donation that a program could not use.", "function"),
    _gauge(
        "donation_opportunity_bytes", "Bytes a call of the function would save by donating what is dropped.", "function"
    ),
    # Memory
    _gauge("device_memory_in_use_bytes", "Memory in use on the device; without statistics its live arrays.", "device"),
    _gauge("device_memory_peak_bytes", "Most memory that was in use on the device so far.", "device"),
    _gauge("device_memory_limit_bytes", "Memory that the job may use on the device.", "device"),
    _gauge("device_memory_reserved_bytes", "Memory that the device's allocator holds or has set aside.", "device"),
    _gauge("device_memory_largest_free_block_bytes", "Largest free piece of the device's memory.", "device"),
    _gauge(
        "device_memory_stats_supported",
        "1 if the device tells what is in use, 0 if the sum of its live arrays stands in.",
        "device",
    ),
    Metric(
        name="device",
        kind="info",
        help="The devices of this process.",
        labels=("device", "device_kind", "platform"),
    ),
    _gauge("live_arrays", "Arrays of JAX that are alive, wholly or in part on the device.", "device"),
    _gauge("live_array_bytes", "Bytes of the live arrays on the device, without padding.", "device"),
    _gauge(
        "executable_memory_bytes",
        "What a program of the function needs on each device, of the one that needs most.",
        "function",
        "kind",
    ),
    _gauge("executable_flops", "Floating-point operations of a call of that program, as XLA estimates.", "function"),
    _gauge(
        "captured_constant_bytes",
        "Arrays of a mebibyte or more that are baked into a program of the function, of the one with most.",
        "function",
    ),
    _gauge(
        "memory_growth_bytes_per_second",
        "How fast the low points of memory rise: of all devices, of live arrays, of the process.",
        "kind",
    ),
    _counter("oom", "Times that a call or a compile ended since memory ran out."),
    # The training loop's heartbeat
    _counter("steps", "Training steps reported by jitwatch.step().", zero=False),
    Metric(
        name="step_duration_seconds",
        kind="histogram",
        help="Seconds between two calls of jitwatch.step(), for each step.",
        buckets=STEP_BUCKETS,
    ),
    # Host
    _gauge("host_memory_available_bytes", "Memory of the machine that can be had without swapping."),
    _gauge("host_memory_total_bytes", "Memory of the machine."),
    _gauge("host_cpu_ratio", "Share of the machine's CPU time that is in use, 0 to 1."),
    _gauge("process_threads", "Threads of the job's process."),
    _gauge("child_processes", "Child processes of the job, at any depth (data loaders)."),
    _gauge("child_processes_resident_memory_bytes", "Resident memory of the job's child processes."),
    _gauge("child_processes_cpu_ratio", "CPU cores in use by the job's child processes."),
    _gauge("child_processes_threads", "Threads of the job's child processes."),
    _gauge("child_processes_open_files", "Open files of the job's child processes."),
    # The agent itself
    Metric(
        name="build",
        kind="info",
        help="Versions in this process.",
        labels=("version", "schema", "jax", "jaxlib", "python", "platform"),
    ),
    Metric(
        name="process",
        kind="info",
        help="Place of this process in its run, as jax.distributed knows it.",
        labels=("process_index", "process_count"),
    ),
    _gauge("start_time_seconds", "Unix time at which the agent was installed."),
    _gauge("probe_up", "1 if the probe works here, 0 if not (jitwatch doctor says why).", "probe"),
    _gauge("collect_duration_seconds", "Seconds that the probe's last sample took.", "probe"),
    _counter("agent_errors", "Failures of the agent itself; they never reach the job.", "component", zero=False),
    _counter(
        "agent_overhead_seconds", "Seconds that the agent's own work took, by component.", "component", zero=False
    ),
    _counter("agent_events_dropped", "Events that could not be written to the event log.", "reason", zero=False),
    _counter("agent_label_overflow", "Functions filed under __other__ because all names were taken.", "metric"),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
