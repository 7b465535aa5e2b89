"""Memory of devices, of programs and of the host."""

from __future__ import annotations

from dashboards.source.board import Row
from dashboards.source.common import OF_USER
from dashboards.source.panels import Column, bars, lines, table, worst
from dashboards.source.queries import host_memory_ratio, rise, select, select_any
from dashboards.source.settings import BLUE, BYTES, BYTES_PER_SECOND, HOST_IN_USE, PROCESS, SHARE, UNKNOWN

_DEVICE = "{{instance}} {{device}}"
_BY = "device, device_kind, platform"


def _of_devices(metric: str) -> str:
    """A value of each device, with the labels of its model."""
    info = f"max by ({PROCESS}, {_BY}) ({select('device_info')})"
    joined = f"{select(metric)} * on ({PROCESS}, device) group_left (device_kind, platform) {info}"
    return f"topk(50, max by ({_BY}) ({joined}))"


DEVICE_MEMORY = Row(
    title="Memory",
    panels=(
        lines(
            "Device memory",
            "Memory in use, peak, memory reserved by the allocator and limit: the largest value over all devices; and "
            "the smallest 'largest free block'. If the peak is near the limit, a larger batch or program may run out "
            "of memory. A free block much smaller than the free memory means that memory is fragmented.",
            (f"max({select('device_memory_in_use_bytes')})", "in use"),
            (f"max({select('device_memory_peak_bytes')})", "peak"),
            (f"max({select('device_memory_reserved_bytes')})", "reserved"),
            (f"max({select('device_memory_limit_bytes')})", "limit"),
            (f"min({select('device_memory_largest_free_block_bytes')})", "largest free block"),
            of=select("device_memory_in_use_bytes"),
            none="not reported by the devices",
            unit=BYTES,
            width=8,
        ),
        lines(
            "Live arrays",
            "Bytes of live arrays, of the ten devices with the most. If it keeps growing, the job keeps references to "
            "old arrays, for example losses in a list that were not converted to floats.",
            (f"topk(10, max by (instance, device) ({select('live_array_bytes')}))", _DEVICE),
            of=select("live_array_bytes"),
            none="arrays are not counted yet",
            unit=BYTES,
            width=8,
        ),
        lines(
            "Growth of memory",
            "Growth of memory between steps: of all devices, of live arrays, of the process. Above 0 for hours is a "
            "leak. The event `memory.leak` names what grows with it.",
            (f"max by (kind) ({select('memory_growth_bytes_per_second')})", "{{kind}}"),
            of=select("memory_growth_bytes_per_second"),
            none="not known yet",
            unit=BYTES_PER_SECOND,
            lowest=None,
            width=8,
        ),
        worst(
            "Largest programs",
            "Memory per device of the largest program of each function: arguments, outputs, temporaries and code. The "
            "function dashboard shows the kinds.",
            f"topk(10, sum by (function) (max by (function, kind) ({select('executable_memory_bytes', OF_USER)})))",
            "function",
            unit=BYTES,
            width=8,
            none="no program yet",
        ),
        bars(
            "Out of memory, by process",
            "Calls and compiles that failed because memory ran out. The event `memory.oom` lists the largest live "
            "arrays and programs at that time.",
            (f"{rise('oom_total', 'instance')} > 0", "{{instance}}"),
            of=select("oom_total"),
            none="memory did not run out in this time range",
            width=8,
            height=8,
        ),
        table(
            "Devices",
            "Devices by kind; each value is the largest over all processes. Without statistics of the device, the "
            "bytes of its live arrays are used instead, without temporaries and fragmentation. If there are only CPUs "
            "on a machine with an accelerator, JAX has no plugin for it.",
            Column("Device", label="device"),
            Column("Kind", label="device_kind", width=110),
            Column(
                "Statistics",
                _of_devices("device_memory_stats_supported"),
                texts={0: ("no", UNKNOWN), 1: ("yes", BLUE)},
            ),
            Column("Live arrays", _of_devices("live_arrays"), width=100),
            Column("In use", _of_devices("device_memory_in_use_bytes"), unit=BYTES),
            sort_by="Live arrays",
            none="no device yet",
            width=8,
        ),
        lines(
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
            of=select_any("process_resident_memory_bytes"),
            unit=BYTES,
            width=8,
        ),
        lines(
            "Memory and CPU of the machines",
            "Share of the machine's memory and CPU time that all of its processes use; the ten highest. With memory "
            "near 100 % the kernel kills a process, most likely the job. With the CPU near 100 % while the device is "
            "idle, the input pipeline is the bottleneck.",
            (f"topk(10, {host_memory_ratio(by='instance')})", "{{instance}} memory"),
            (f"topk(10, max by (instance) ({select('host_cpu_ratio')}))", "{{instance}} CPU"),
            of=select("host_memory_total_bytes"),
            unit=SHARE,
            steps=HOST_IN_USE,
            shows_limits=True,
            highest=1,
            width=8,
        ),
        lines(
            "Threads, files and children",
            "Threads, open files and child processes with their cores in use, in the process with the most. If one "
            "keeps growing, the job ends with 'Too many open files' or 'can't start new thread'.",
            (f"max({select('process_threads')})", "threads"),
            (f"max({select('child_processes_threads')})", "threads of children"),
            (f"max({select_any('process_open_fds')} and on ({PROCESS}) {select('build_info')})", "open files"),
            (f"max({select('child_processes_open_files')})", "open files of children"),
            (f"max({select('child_processes')})", "children"),
            (f"max({select('child_processes_cpu_ratio')})", "cores of children"),
            of=select("process_threads"),
            width=8,
        ),
    ),
)
