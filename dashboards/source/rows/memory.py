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
_NO_DEVICE = "no device known yet"


def _of_devices(metric: str, function: str = "topk") -> str:
    return f"{function}(10, max by (instance, device) ({select(metric)}))"


DEVICE_MEMORY = Row(
    title="Device memory",
    panels=(
        series(
            "Device memory in use, as a share",
            "Memory in use as a share of its limit, the ten fullest devices. Above "
            f"{THRESHOLDS.device_memory_bad_ratio:.0%} the next larger batch or program runs out; a line that climbs "
            "for hours is a leak. Devices of one run should lie on each other.",
            (f"topk(10, {device_memory_ratio(by='instance, device')})", _DEVICE),
            unit=SHARE,
            steps=DEVICE_IN_USE,
            shows_limits=True,
            highest=1,
            no_value="no device tells its limit (a CPU has none)",
        ),
        series(
            "Device memory",
            "In use, the peak so far, reserved by the allocator, and the limit, of the fullest device. In use near the "
            "peak is steady training; a peak near the limit is a run that was lucky.",
            (f"max({select('device_memory_in_use_bytes')})", "in use"),
            (f"max({select('device_memory_peak_bytes')})", "peak"),
            (f"max({select('device_memory_reserved_bytes')})", "reserved"),
            (f"max({select('device_memory_limit_bytes')})", "limit"),
            unit=BYTES,
            no_value=_NO_DEVICE,
        ),
        series(
            "Largest free block",
            "The largest piece that can still be had in one go; the ten tightest devices. Much smaller than what is "
            "free in all: memory is in pieces, and a large array fails although there is room.",
            (_of_devices("device_memory_largest_free_block_bytes", "bottomk"), _DEVICE),
            unit=BYTES,
            width=8,
            no_value="no device tells it",
        ),
        series(
            "Live arrays, bytes",
            "Bytes of the arrays that are alive, the ten devices with most. Climbs without end: something keeps old "
            "arrays, often a list of losses that were never made floats.",
            (_of_devices("live_array_bytes"), _DEVICE),
            unit=BYTES,
            width=8,
            no_value=_NO_DEVICE,
        ),
        series(
            "Live arrays, number",
            "How many arrays are alive, the ten devices with most. Should be level from step to step.",
            (_of_devices("live_arrays"), _DEVICE),
            width=8,
            no_value=_NO_DEVICE,
        ),
        series(
            "Growth of memory",
            "How fast the low points of memory rise: of all devices, of live arrays, of the process. Above 0 for hours "
            "is a leak; the event log's `memory.leak` says what grows with it.",
            (f"max by (kind) ({select('memory_growth_bytes_per_second')})", "{{kind}}"),
            unit=BYTES_PER_SECOND,
            lowest=None,
            width=8,
            no_value="too early to say",
        ),
        worst(
            "Largest programs",
            "What the largest program of a function needs on a device, all kinds together. Temporaries that dwarf "
            "arguments and outputs ask for rematerialisation or a smaller batch.",
            f"topk(10, sum by (function) (max by (function, kind) ({select('executable_memory_bytes', OF_USER)})))",
            "{{function}}",
            unit=BYTES,
        ),
        worst(
            "Captured constants",
            "Arrays that are baked into a program instead of passed to it: copied into each program that captures "
            "them. Pass them as arguments.",
            f"topk(10, max by (function) ({select('captured_constant_bytes')}) > 0)",
            "{{function}}",
            unit=BYTES,
            steps=NONE_IS_FINE,
            no_value="none captured",
        ),
        series(
            "Programs by kind of memory",
            "Memory that the largest programs need, summed over functions, by kind, in the process that needs most.",
            (
                f"max by (kind) (sum by ({PROCESS}, kind) ({select('executable_memory_bytes')}))",
                "{{kind}}",
            ),
            unit=BYTES,
            width=8,
            no_value="nothing was compiled yet",
        ),
        worst(
            "Work of a call",
            "Floating-point operations of one call, as XLA estimates, of the ten functions that do most.",
            f"topk(10, max by (function) ({select('executable_flops', OF_USER)}))",
            "{{function}}",
            unit=COUNT,
            no_value="the backend does not tell",
        ),
        series(
            "Work done",
            "Estimated floating-point operations per second of functions that donate, whose calls are counted. A fall "
            "without fewer steps is a smaller program; compare with what the device can do.",
            (
                "topk(10, sum by (function) ("
                f"rate({select('calls_total')}{RATE}) * on ({PROCESS}, function) "
                f"sum by ({PROCESS}, function) ({select('executable_flops')})))",
                "{{function}}",
            ),
            unit=FLOPS,
            width=8,
            no_value="no function donates, or the backend does not tell",
        ),
        series(
            "Out of memory, by process",
            "Calls and compiles that ended since memory ran out. The event log's `memory.oom` of that process lists "
            "the largest arrays and programs of that moment.",
            (f"sum by (instance) (increase({select('oom_total')}{RATE})) > 0", "{{instance}}"),
            as_bars=True,
            width=12,
            no_value="never",
        ),
        timeline(
            "Devices that tell their memory",
            "Blue: the backend tells what is in use. Else the sum of live arrays stands in, which knows nothing of "
            "temporaries and of fragmentation.",
            f"topk(20, max by (instance, device) ({select('device_memory_stats_supported')}))",
            _DEVICE,
            on="tells",
            off="live arrays only",
            colors=(BLUE, "text"),
            no_value=_NO_DEVICE,
        ),
        table(
            "Devices",
            "Devices by kind and platform, and how many processes see them. A CPU where you expect an accelerator is a "
            "JAX without its plugin.",
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
            "Resident memory of each process and of its children (data loaders), the ten largest. A climb that never "
            "ends is a leak in host memory: see JitwatchHostMemoryLeak.",
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
            "Share of the machine's memory that is in use, by whomever; the ten fullest. Near 100 % the kernel kills "
            "somebody, most likely the job.",
            (f"topk(10, {host_memory_ratio(by='instance')})", "{{instance}}"),
            unit=SHARE,
            steps=HOST_IN_USE,
            shows_limits=True,
            highest=1,
        ),
        series(
            "CPU",
            "Share of the machine's CPU time in use, and cores in use by the data loaders. All of it in use while the "
            "device waits: the input pipeline is the bottleneck.",
            (f"max by (instance) ({select('host_cpu_ratio')})", "{{instance}} machine"),
            unit=SHARE,
            highest=1,
            width=8,
        ),
        series(
            "Data loaders",
            "Child processes, and the cores that they use together, in the process that has most. Children that climb "
            "are workers that were started and never ended.",
            (f"max({select('child_processes')})", "processes"),
            (f"max({select('child_processes_cpu_ratio')})", "cores in use"),
            width=8,
        ),
        series(
            "Threads and open files",
            "Threads and open files of the process and of its children, in the process that has most. A climb ends in "
            "'too many open files' or 'cannot start new thread'.",
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
