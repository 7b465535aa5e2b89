"""The job's process, its children (data loaders) and the machine, read with psutil.

Sampled in the sampler's thread, never on a call. Memory, CPU time and open files of the process itself are `process_*`
of prometheus_client. Not seen: other containers of the machine.

    jitwatch_host_memory_available_bytes 2.1e+10
    jitwatch_child_processes_resident_memory_bytes 0.0
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, ClassVar

from jitwatch.probes.base import Probe, ProbeContext

if TYPE_CHECKING:
    import psutil

#: Maximum number of children that are measured; all of them are counted.
_MAX_CHILDREN = 256


class ProcessProbe(Probe):
    """Memory, CPU, threads and open files."""

    name: ClassVar[str] = "process"
    needs_jax: ClassVar[bool] = False

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._children: dict[int, psutil.Process] = {}

    def start(self) -> None:
        """Check that psutil is installed. It takes 50 ms to import, which is left to the sampler's thread."""
        if importlib.util.find_spec("psutil") is None:
            raise ModuleNotFoundError("psutil is not installed; run: pip install psutil")

    def sample(self) -> None:
        """Read machine, process and children."""
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
        resident = cpu = 0.0
        threads = files = 0
        for child in list(self._children.values())[:_MAX_CHILDREN]:
            try:
                with child.oneshot():
                    resident += child.memory_info().rss
                    cpu += child.cpu_percent(interval=None) / 100
                    threads += child.num_threads()
                    files += _open_files(child)
            except gone:
                continue  # it ended meanwhile, or belongs to another user
        store = self.context.store
        store.set("child_processes", len(living))
        store.set("child_processes_resident_memory_bytes", resident)
        store.set("child_processes_cpu_ratio", cpu)
        store.set("child_processes_threads", threads)
        store.set("child_processes_open_files", files)


def _open_files(process: psutil.Process) -> int:
    count = getattr(process, "num_fds", None)  # not on Windows
    return int(count()) if count is not None else 0
