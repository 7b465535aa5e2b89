"""The job's process, its children (data loaders) and the machine, read with psutil.

Sampled in the sampler's thread, never on a call. Memory, CPU time and open files of the process itself are `process_*`
of prometheus_client. Not seen: other containers of the machine.

    jitwatch_host_memory_available_bytes 2.1e+10
    jitwatch_child_processes_resident_memory_bytes 0.0
"""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from typing import TYPE_CHECKING

from jitwatch.probes.probe import Probe, ProbeContext

if TYPE_CHECKING:
    import psutil

#: Maximum number of children that are measured; all of them are counted.
_MAX_CHILDREN = 256


class ProcessProbe(Probe):
    """Memory, CPU, threads and open files."""

    name = "process"
    needs_jax = False

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._children: dict[int, psutil.Process] = {}

    def start(self) -> None:
        """Check that psutil is installed. It takes 50 ms to import, which is left to the sampler's thread."""
        if importlib.util.find_spec("psutil") is None:
            raise ModuleNotFoundError("psutil is not installed; run: pip install psutil")

    def sample(self) -> None:
        import psutil

        memory, store = psutil.virtual_memory(), self.context.store
        store.set("host_memory_available_bytes", memory.available)
        store.set("host_memory_total_bytes", memory.total)
        store.set("host_cpu_ratio", psutil.cpu_percent(interval=None) / 100)
        process = psutil.Process()
        store.set("process_threads", process.num_threads())
        self._sample_children(process, psutil.Error)

    def _sample_children(self, process: psutil.Process, gone: type[Exception]) -> None:
        living = {child.pid: child for child in process.children(recursive=True)}
        # The same objects as in the last sample: psutil measures CPU time since the previous reading of an object.
        self._children = {pid: self._children.get(pid, child) for pid, child in living.items()}
        totals = dict.fromkeys(("resident_memory_bytes", "cpu_ratio", "threads", "open_files"), 0.0)
        for child in list(self._children.values())[:_MAX_CHILDREN]:
            # It may have ended meanwhile, or belong to another user.
            with suppress(gone), child.oneshot():
                totals["resident_memory_bytes"] += child.memory_info().rss
                totals["cpu_ratio"] += child.cpu_percent(interval=None) / 100
                totals["threads"] += child.num_threads()
                totals["open_files"] += child.num_fds() if hasattr(child, "num_fds") else 0  # not on Windows
        self.context.store.set("child_processes", len(living))
        for name, value in totals.items():
            self.context.store.set(f"child_processes_{name}", value)
