"""Declares the metrics: name, type, help and labels. The exporter, the state, the documentation and tests read them.

Names are without the prefix `jitwatch_` and, for counters, without the suffix `_total`. Units are base units (seconds,
bytes) and part of the name.
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
        name: Name without prefix and `_total`.
        kind: Prometheus type.
        help: Help text, one sentence.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram, without +Inf.
        starts_at_zero: Whether a series is exported as 0 as soon as its labels are known (a function that was jitted;
            the process itself), so that `increase()` counts the first event.
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
        """Whether it has a series for every function; not exported with `detail="summary"`."""
        return "function" in self.labels


COMPILE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
STEP_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def _counter(name: str, text: str, *labels: str, zero: bool = True) -> Metric:
    return Metric(name=name, kind="counter", help=text, labels=labels, starts_at_zero=zero)


def _gauge(name: str, text: str, *labels: str, zero: bool = False) -> Metric:
    return Metric(name=name, kind="gauge", help=text, labels=labels, starts_at_zero=zero)


METRICS: tuple[Metric, ...] = (
    # Compiles
    _counter("compiles", "Successful compiles of the function, including persistent-cache hits.", "function"),
    _counter("recompiles", "Second and later compiles of the function.", "function"),
    _counter(
        "recompile_causes",
        "Recompiles of the function by cause; a recompile with two causes is counted for each.",
        "function",
        "cause",
        zero=False,
    ),
    _counter("recompiles_by_cause", "Recompiles of all functions by cause.", "cause", zero=False),
    _counter(
        "pitfalls",
        "Pitfalls found in the function, each counted once for a subject.",
        "function",
        "pitfall",
        zero=False,
    ),
    _counter("pitfalls_by_kind", "Pitfalls found in all functions.", "pitfall", zero=False),
    Metric(
        name="compile_duration_seconds",
        kind="histogram",
        help="Exclusive duration of compile phases: trace (to jaxpr), lower (to StableHLO), compile (XLA).",
        labels=("phase",),
        buckets=COMPILE_BUCKETS,
        starts_at_zero=True,
    ),
    _counter(
        "compile_seconds",
        "Seconds spent tracing, lowering and compiling the function, including failed compiles.",
        "function",
    ),
    _counter(
        "compile_busy_seconds",
        "Wall-clock seconds in which at least one thread compiled, including compiles in progress.",
    ),
    _gauge("compiles_in_progress", "Threads that are tracing, lowering or compiling.", zero=True),
    _gauge(
        "compile_oldest_in_progress_seconds",
        "Age of the oldest compile phase in progress; 0 if there is none.",
        zero=True,
    ),
    _gauge("last_compile_timestamp_seconds", "Unix time of the last successful compile."),
    _counter("compile_failures", "Compiles of the function that failed with an exception in any phase.", "function"),
    _counter("recompile_storms", "Recompile storms of the function, counted when they start.", "function"),
    _gauge(
        "recompile_storm_active", "1 while the function is in a recompile storm, 0 otherwise.", "function", zero=True
    ),
    _counter("steady_violations", "Compiles of the function in the steady state (jitwatch.steady()).", "function"),
    _gauge(
        "steady_since_timestamp_seconds", "Unix time at which the steady state of the process began; 0 outside of one."
    ),
    # Caches
    _gauge("jit_cache_entries", "Entries in the jit caches of the function.", "function"),
    _counter("jit_wrappers", "Calls of jax.jit with the function's code.", "function"),
    _gauge("tracked_functions", "Distinct functions that were jitted, without those of JAX itself.", zero=True),
    _gauge("jit_global_cache_entries", "Entries in JAX's global C++ jit caches."),
    _counter("persistent_cache_hits", "Programs read from JAX's persistent compilation cache."),
    _counter("persistent_cache_misses", "Programs not found in JAX's persistent compilation cache."),
    _counter("persistent_cache_saved_seconds", "Compile seconds saved by persistent-cache hits, as estimated by JAX."),
    # Donation
    _counter("calls", "Calls of the function, if it donates.", "function", zero=False),
    _gauge(
        "last_call_timestamp_seconds",
        "Unix time of the last scrape or sample that found new calls of the function, if it donates.",
        "function",
    ),
    _counter(
        "donation_violations",
        "Donation violations of the function: use after donation, double donation, unusable donation.",
        "function",
        "kind",
        zero=False,
    ),
    _counter("donation_violations_by_kind", "Donation violations of all functions.", "kind", zero=False),
    _counter("donated_bytes", "Bytes donated by calls of the function.", "function"),
    _counter(
        "donation_wasted_bytes",
        "Bytes of unusable donations of the function: no output could reuse the buffer.",
        "function",
    ),
    _gauge(
        "donation_opportunity_bytes",
        "Bytes that a call of the function would save by donating arguments that the caller drops.",
        "function",
    ),
    # Memory
    _gauge(
        "device_memory_in_use_bytes",
        "Memory in use on the device; the bytes of its live arrays if the device has no memory statistics.",
        "device",
    ),
    _gauge("device_memory_peak_bytes", "Peak memory in use on the device.", "device"),
    _gauge("device_memory_limit_bytes", "Memory limit of the device's allocator.", "device"),
    _gauge("device_memory_reserved_bytes", "Memory held by the device's allocator, in use or not.", "device"),
    _gauge("device_memory_largest_free_block_bytes", "Largest free block of the device's memory.", "device"),
    _gauge(
        "device_memory_stats_supported",
        "1 if the device reports memory in use, 0 if the bytes of its live arrays are used instead.",
        "device",
    ),
    Metric(
        name="device",
        kind="info",
        help="Devices of this process.",
        labels=("device", "device_kind", "platform"),
    ),
    _gauge("live_arrays", "Live JAX arrays with data on the device.", "device"),
    _gauge("live_array_bytes", "Bytes of live JAX arrays on the device, without padding.", "device"),
    _gauge(
        "executable_memory_bytes",
        "Memory per device of the largest program of the function, by kind.",
        "function",
        "kind",
    ),
    _gauge(
        "executable_flops",
        "Floating-point operations of a call of the largest program of the function, as estimated by XLA.",
        "function",
    ),
    _gauge(
        "captured_constant_bytes",
        "Bytes of constants of 1 MiB or more in the function's program; of several programs, the one with the most.",
        "function",
    ),
    _gauge(
        "memory_growth_bytes_per_second",
        "Growth of memory between steps, by kind: all devices, all live arrays, the process.",
        "kind",
    ),
    _counter("oom", "Calls and compiles that failed because memory ran out."),
    # The training loop's heartbeat
    _counter("steps", "Training steps reported by jitwatch.step().", zero=False),
    Metric(
        name="step_duration_seconds",
        kind="histogram",
        help="Duration of training steps: seconds between calls of jitwatch.step().",
        buckets=STEP_BUCKETS,
    ),
    # Host
    _gauge("host_memory_available_bytes", "Memory of the machine that is available without swapping."),
    _gauge("host_memory_total_bytes", "Total memory of the machine."),
    _gauge("host_cpu_ratio", "CPU usage of the machine, 0 to 1."),
    _gauge("process_threads", "Threads of the job's process."),
    _gauge("child_processes", "Child processes of the job and their descendants, such as data loaders."),
    _gauge("child_processes_resident_memory_bytes", "Resident memory of the job's child processes."),
    _gauge("child_processes_cpu_ratio", "CPU usage of the job's child processes, in cores."),
    _gauge("child_processes_threads", "Threads of the job's child processes."),
    _gauge("child_processes_open_files", "Open files of the job's child processes."),
    # The agent itself
    Metric(
        name="build",
        kind="info",
        help="Versions of jitwatch, JAX and Python in this process.",
        labels=("version", "schema", "jax", "jaxlib", "python", "platform"),
    ),
    Metric(
        name="process",
        kind="info",
        help="Index of this process and number of processes, from jax.distributed.",
        labels=("process_index", "process_count"),
    ),
    _gauge("start_time_seconds", "Unix time at which the agent was installed."),
    _gauge("probe_up", "1 if the probe works, 0 if not; jitwatch doctor shows the reason.", "probe"),
    _gauge("collect_duration_seconds", "Duration of the probe's last sample, by the wall clock.", "probe"),
    _counter(
        "agent_errors",
        "Internal errors of the agent, by component; none of them reaches the job.",
        "component",
        zero=False,
    ),
    _counter(
        "agent_overhead_seconds",
        "CPU seconds of the agent's own work, by component. Waiting is not counted.",
        "component",
        zero=False,
    ),
    _counter("agent_events_dropped", "Events that were not written to the event log, by reason.", "reason", zero=False),
    _counter(
        "agent_label_overflow",
        "Functions counted under __other__ because the maximum number of labels was reached.",
        "metric",
    ),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
