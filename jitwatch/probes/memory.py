"""Memory of devices, live arrays, compiled programs and the process; its growth, pressure and exhaustion.

Sampled in the sampler's thread, never on a call. No backend is created, no device is synchronized, no array is kept
alive. Devices are queried in a thread that can be abandoned, since a driver can hang. Counting the live arrays costs
about 1 µs each, half of it while holding the GIL, so the more there are, the less often they are counted: it takes a
thousandth of the time in all. `oom_report` reports out-of-memory errors, `fit` programs that will not fit.

Not seen: padding and layouts of arrays, memory that XLA's runtime allocates for itself, other processes on the same
device; on Python 3.11 an error of a call from C++ that the job catches.

    jitwatch_device_memory_in_use_bytes{device="gpu:0"} 3.2e+10
    jitwatch_device_memory_stats_supported{device="gpu:0"} 1.0
    jitwatch_live_array_bytes{device="gpu:0"} 2.9e+10
    jitwatch_executable_memory_bytes{function="train.train_step",kind="temporaries"} 1.1e+10
    jitwatch_memory_growth_bytes_per_second{kind="host"} 0.0
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from jitwatch import guard
from jitwatch.diagnosis.leaks import Leaks
from jitwatch.diagnosis.pressure import Pressure, uses_of
from jitwatch.jaxhooks.memory import device_memory
from jitwatch.model.devices import Reading, Source
from jitwatch.model.events import MemoryLeak, MemorySampled
from jitwatch.model.rows import DeviceRow
from jitwatch.probes import rows
from jitwatch.probes.fit import FitCheck
from jitwatch.probes.limits import CostLimiter, TimeBox
from jitwatch.probes.oom_report import OutOfMemoryReport
from jitwatch.probes.probe import Probe, ProbeContext
from jitwatch.render import formats
from jitwatch.state.schema import MemoryRow
from jitwatch.state.tables import LabelValues

#: Seconds to wait for all devices; stopping the agent may have to wait for it.
_TIMEOUT_S = 0.5
#: Share of the time that counting live arrays may take, and the longest time that it should hold the GIL.
_SHARE = 0.0008
_LONGEST_S = 0.1
#: Number of groups of alike arrays that a leak names, and the minimum size of a group.
_TOP_ARRAYS, _MANY_ALIKE = 3, 10
#: CPU seconds per sample for measuring newly compiled programs.
_PROGRAMS_S = 0.05
#: Seconds between two readings of all jit caches, and between two `memory.sample` events.
_CACHES_S = 30.0
_EVENT_S = 60.0


class MemoryProbe(Probe):
    """Samples memory, and reports leaks, pressure and out-of-memory errors."""

    name = "memory"
    #: Returns device statistics; replace it to simulate devices.
    source: Source = device_memory.Readings()

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._box: TimeBox[Reading] = TimeBox("jitwatch-memory", _TIMEOUT_S)
        self._was_stuck = False
        self._known: dict[str, Reading] = {}
        self._array_limiter = CostLimiter(share=_SHARE, longest_s=_LONGEST_S)
        self._arrays: device_memory.LiveArrays | None = None
        self._arrays_at = 0.0
        self._entries: dict[str, int] = {}
        self._next_entries = self._next_event = float("-inf")
        self._leaks = Leaks()
        self._pressure = Pressure()
        # An error may be raised in another thread than the sampler's.
        self._report = OutOfMemoryReport(
            context, read=lambda found: self._rows(TimeBox("jitwatch-memory", _TIMEOUT_S), found)
        )

        self._fit = FitCheck(context, read=self._read, has_limits=self._has_limits)

    def start(self) -> None:
        self.context.session.watch_memory(self._report.handle)
        self.context.session.executables.on_compiled = self._fit.compiled

    def stop(self) -> None:
        self.context.session.executables.on_compiled = None
        self._fit.stop()

    def sample(self) -> None:
        self.sample_at(time.monotonic())

    def sample_at(self, now: float) -> None:
        """Sample everything once; `now` is in monotonic seconds."""
        if self._array_limiter.is_due(now):
            self._arrays, self._arrays_at = device_memory.live_arrays(), now
            if self._arrays is not None:
                self._array_limiter.spent(now, cost_s=self._arrays.cost_s, stall_s=self._arrays.stall_s)
        table = self._rows(self._box, self._arrays)
        if self._box.is_stuck and not self._was_stuck:
            self.context.store.add("agent_errors", labels=(self.name,))
        self._was_stuck = self._box.is_stuck
        for name, series in rows.series_of(table).items():
            self.context.store.set_series(name, series)
        for program in self.context.session.executables.measure(_PROGRAMS_S):
            self.context.emit(program)
        host = rows.host_memory()
        self._diagnose(now, table, host)
        self.context.store.set_memory(self._state(now, table, host))
        if table and now >= self._next_event:
            self._next_event = now + _EVENT_S
            self.context.emit(
                MemorySampled(
                    devices=tuple(table),
                    host_resident_bytes=host.resident if host is not None else None,
                    host_available_bytes=host.available if host is not None else None,
                    growth_bytes_per_second=dict(self._leaks.growth),
                )
            )

    def _has_limits(self) -> bool:
        """Whether a device reported its memory in the last sample; before the first, whether it is an accelerator."""
        if self._known:
            return any(one.statistics for one in self._known.values())
        return any(one.platform != "cpu" for one in device_memory.backends()[:1])

    def _read(self) -> Iterable[Reading]:
        return self.source()

    def _rows(self, box: TimeBox[Reading], found_arrays: device_memory.LiveArrays | None) -> list[DeviceRow]:
        """A row for each device, and for the host or another backend if it holds arrays."""
        if self._box.is_stuck:
            box = self._box  # no second thread that hangs
        age_s = box.age_s
        may_overlap = getattr(self.source, "may_overlap", False)
        found = {reading.device: reading for reading in box.collect(self.source, may_overlap=may_overlap)}
        if not box.is_stuck:
            self._known = found
        else:
            for_s = max(age_s, _TIMEOUT_S)
            for name, one in self._known.items():
                found.setdefault(name, device_memory.silent(name, one.kind, one.platform, for_s))
        return rows.rows_of(list(found.values()), found_arrays)

    def _diagnose(self, now: float, table: list[DeviceRow], host: rows.HostMemory | None) -> None:
        values: dict[str, float] = {}
        reported = [row["in_use_bytes"] or 0 for row in table if row["stats_supported"]]
        if reported:
            values["device"] = sum(reported)
        if self._arrays is not None and self._arrays_at == now:
            values["live_arrays"] = sum(self._arrays.bytes.values())
        if host is not None:
            values["host"] = host.resident
        if now >= self._next_entries:
            self._next_entries = now + _CACHES_S
            self._entries = self.context.session.wrappers.entries()
        for leak in self._leaks.sample(now, values, self._entries, self.context.session.wrappers.holders()):
            self.context.emit(_with_arrays(leak))
        for pressure in self._pressure.sample(now, uses_of(table, None if host is None else host.row())):
            self.context.emit(pressure)
        growth: dict[LabelValues, float] = {(kind,): slope for kind, slope in self._leaks.growth.items()}
        self.context.store.set_series("memory_growth_bytes_per_second", growth)

    def _state(self, now: float, table: list[DeviceRow], host: rows.HostMemory | None) -> MemoryRow:
        found = self._arrays
        return {
            "devices": table,
            "live_arrays": None
            if found is None
            else {
                "count": found.total,
                "bytes": sum(found.bytes.values()),
                "age_seconds": now - self._arrays_at,
                "cost_seconds": found.cost_s,
                "stall_seconds": found.stall_s,
            },
            "host": None if host is None else host.row(),
            "growth_bytes_per_second": dict(self._leaks.growth),
            "growth_cache_entries_per_hour": self._leaks.entries_per_hour,
            "leaks": list(self._leaks.active),
            "pressure": list(self._pressure.active),
        }


def _with_arrays(leak: MemoryLeak) -> MemoryLeak:
    """The leak with the largest groups of alike arrays in its message, if arrays grow."""
    if leak.cause == "jit_cache" or (leak.growing not in ("device", "live_arrays") and leak.cause != "live_arrays"):
        return leak
    with guard.guarded("memory"):
        rows = [row for row in device_memory.largest(_TOP_ARRAYS) if row["count"] >= _MANY_ALIKE]
        if rows:
            shown = [
                f"{row['count']:,} × {row['dtype']}[{','.join(map(str, row['shape']))}] ({formats.size(row['bytes'])})"
                for row in rows
            ]
            text = (
                f"{leak.message}. Live now: {formats.listed(shown, _TOP_ARRAYS)}. For values that are only logged, "
                "keep float(x) or jax.device_get(x) instead of the array"
            )
            return replace(leak, message=text)
    return leak
