"""Memory of devices, of programs and of the machine."""

from __future__ import annotations

from dashboards.source.common import OF_USER
from dashboards.source.model import Row
from dashboards.source.panels import Column, series, table, timeline, worst
from dashboards.source.queries import RATE, device_memory_ratio, host_memory_ratio, select, select_any
from dashboards.source.settings import (
    BLUE,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    DEVICE_IN_USE,
    FLOPS,
    HOST_IN_USE,
    NONE_IS_FINE,
    PROCESS,
    SHARE,
)
from jitwatch.model.thresholds import THRESHOLDS

_DEVICE = "{{instance}} {{device}}"
_NO_DEVICE = "no device yet"


def _of_devices(metric: str, function: str = "topk") -> str:
    return f"{function}(10, max by (instance, device) ({select(metric)}))"


DEVICE_MEMORY = Row(
    title="Device memory",
    panels=(
        series(
            "Device memory in use, as a share",
            "Memory in use as a share of its limit, of the ten fullest devices. Above "
            f"{THRESHOLDS.device_memory_bad_ratio:.0%} a larger batch or program may run out of memory. A line that "
            "rises for hours is a leak. Within a run all devices should be equal.",
            (f"topk(10, {device_memory_ratio(by='instance, device')})", _DEVICE),
            unit=SHARE,
            steps=DEVICE_IN_USE,
            shows_limits=True,
            highest=1,
            no_value="no device reports a limit (CPUs have none)",
        ),
        series(
            "Device memory",
            "Largest value over all devices: memory in use, peak, memory reserved by the allocator, and limit. If the "
            "peak is near the limit, a larger batch or program may run out of memory.",
            (f"max({select('device_memory_in_use_bytes')})", "in use"),
            (f"max({select('device_memory_peak_bytes')})", "peak"),
            (f"max({select('device_memory_reserved_bytes')})", "reserved"),
            (f"max({select('device_memory_limit_bytes')})", "limit"),
            unit=BYTES,
            no_value=_NO_DEVICE,
        ),
        series(
            "Largest free block",
            "Largest free block of memory, of the ten devices where it is smallest. If it is much smaller than the "
            "free memory, memory is fragmented, and the allocation of a large array may fail.",
            (_of_devices("device_memory_largest_free_block_bytes", "bottomk"), _DEVICE),
            unit=BYTES,
            width=8,
            no_value="not reported by the devices",
        ),
        series(
            "Live arrays, bytes",
            "Bytes of live arrays, of the ten devices with most. If it keeps growing, the job keeps references to old "
            "arrays, for example losses in a list that were not converted to floats.",
            (_of_devices("live_array_bytes"), _DEVICE),
            unit=BYTES,
            width=8,
            no_value=_NO_DEVICE,
        ),
        series(
            "Live arrays, number",
            "Number of live arrays, of the ten devices with most. It should be constant from step to step.",
            (_of_devices("live_arrays"), _DEVICE),
            width=8,
            no_value=_NO_DEVICE,
        ),
        series(
            "Growth of memory",
            "Growth of memory between steps: of all devices, of live arrays, of the process. Above 0 for hours is a "
            "leak. The event `memory.leak` names what grows with it.",
            (f"max by (kind) ({select('memory_growth_bytes_per_second')})", "{{kind}}"),
            unit=BYTES_PER_SECOND,
            lowest=None,
            width=8,
            no_value="not known yet",
        ),
        worst(
            "Largest programs",
            "Memory per device of the largest program of each function: arguments, outputs, temporaries and code. The "
            "panel 'Programs by kind of memory' shows the kinds.",
            f"topk(10, sum by (function) (max by (function, kind) ({select('executable_memory_bytes', OF_USER)})))",
            "{{function}}",
            unit=BYTES,
        ),
        worst(
            "Captured constants",
            "Bytes of arrays of 1 MiB or more that are constants of a program. Each program that captures an array has "
            "its own copy. Pass them as arguments.",
            f"topk(10, max by (function) ({select('captured_constant_bytes')}) > 0)",
            "{{function}}",
            unit=BYTES,
            steps=NONE_IS_FINE,
            no_value="none",
        ),
        series(
            "Programs by kind of memory",
            "Memory of the largest program of each function, summed over functions, in the process with most. If "
            "temporaries are much larger than arguments and outputs, use rematerialization (`jax.checkpoint`) or a "
            "smaller batch.",
            (
                f"max by (kind) (sum by ({PROCESS}, kind) ({select('executable_memory_bytes')}))",
                "{{kind}}",
            ),
            unit=BYTES,
            width=8,
            no_value="no compile yet",
        ),
        worst(
            "Floating-point operations of a call",
            "Floating-point operations of one call, as estimated by XLA, of the ten functions with most.",
            f"topk(10, max by (function) ({select('executable_flops', OF_USER)}))",
            "{{function}}",
            unit=COUNT,
            no_value="not reported by the backend",
        ),
        series(
            "Floating-point operations per second",
            "Estimated floating-point operations per second of functions that donate, whose calls are counted. Compare "
            "with the peak of the device.",
            (
                "topk(10, sum by (function) ("
                f"rate({select('calls_total')}{RATE}) * on ({PROCESS}, function) "
                f"sum by ({PROCESS}, function) ({select('executable_flops')})))",
                "{{function}}",
            ),
            unit=FLOPS,
            width=8,
            no_value="no function donates, or not reported by the backend",
        ),
        series(
            "Out of memory, by process",
            "Calls and compiles that failed because memory ran out. The event `memory.oom` lists the largest live "
            "arrays and programs at that time.",
            (f"sum by (instance) (increase({select('oom_total')}{RATE})) > 0", "{{instance}}"),
            as_bars=True,
            width=12,
            no_value="none",
        ),
        timeline(
            "Devices with memory statistics",
            "Blue: the device reports its memory in use. Otherwise the bytes of its live arrays are used instead, "
            "without temporaries and fragmentation.",
            f"topk(20, max by (instance, device) ({select('device_memory_stats_supported')}))",
            _DEVICE,
            on="statistics",
            off="live arrays only",
            colors=(BLUE, "text"),
            no_value=_NO_DEVICE,
        ),
        table(
            "Devices",
            "Devices by kind and platform, with the number of processes that use them. If there are only CPUs on a "
            "machine with an accelerator, JAX has no plugin for it.",
            Column("Device", label="device"),
            Column("Kind", label="device_kind"),
            Column("Platform", label="platform"),
            Column("Processes", f"topk(50, count by (device, device_kind, platform) ({select('device_info')}))"),
            sort_by="Processes",
            width=12,
            height=6,
        ),
    ),
)

HOST_MEMORY = Row(
    title="Host",
    panels=(
        series(
            "Memory of the processes",
            "Resident memory of each process and of its children (data loaders); the ten largest. If it keeps growing, "
            "see the runbook JitwatchHostMemoryLeak.",
            (
                f"topk(10, sum by (instance) ({select_any('process_resident_memory_bytes')} "
                f"and on ({PROCESS}) {select('build_info')}))",
                "{{instance}}",
            ),
            (
                f"topk(10, sum by (instance) ({select('child_processes_resident_memory_bytes')}) > 0)",
                "{{instance}} children",
            ),
            unit=BYTES,
        ),
        series(
            "Memory of the machines",
            "Memory in use by all processes of the machine as a share of its total; the ten fullest. Near 100 % the "
            "kernel kills a process, most likely the job.",
            (f"topk(10, {host_memory_ratio(by='instance')})", "{{instance}}"),
            unit=SHARE,
            steps=HOST_IN_USE,
            shows_limits=True,
            highest=1,
        ),
        series(
            "CPU",
            "CPU usage of the machine. Near 100 % while the device is idle, the input pipeline is the bottleneck.",
            (f"max by (instance) ({select('host_cpu_ratio')})", "{{instance}} machine"),
            unit=SHARE,
            highest=1,
            width=8,
        ),
        series(
            "Data loaders",
            "Child processes and the cores that they use together, in the process with most. If their number keeps "
            "growing, workers are started and never ended.",
            (f"max({select('child_processes')})", "processes"),
            (f"max({select('child_processes_cpu_ratio')})", "cores in use"),
            width=8,
        ),
        series(
            "Threads and open files",
            "Threads and open files of the process and of its children, in the process with most. If they keep "
            "growing, the job ends with 'Too many open files' or 'can't start new thread'.",
            (f"max({select('process_threads')})", "threads"),
            (f"max({select('child_processes_threads')})", "threads of children"),
            (
                f"max({select_any('process_open_fds')} and on ({PROCESS}) {select('build_info')})",
                "open files",
            ),
            (f"max({select('child_processes_open_files')})", "open files of children"),
            width=8,
        ),
    ),
)
