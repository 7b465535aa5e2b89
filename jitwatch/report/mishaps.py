"""Whatever went wrong but for recompiles: pitfalls, donations, steady states, failures, memory, the agent itself."""

from __future__ import annotations

from typing import Any

from jitwatch.report.fields import FieldError, Record, instant, needed, number, text, whole
from jitwatch.report.functions import Functions, name_of
from jitwatch.report.groups import Groups
from jitwatch.report.processes import Process, Processes

_MAX_KINDS = 50
_MAX_PLACES = 1_000
#: Largest arrays and programs of an out-of-memory report that are told.
_TOP = 5


class Mishaps:
    """Aggregates of everything that a person should look at."""

    def __init__(self, functions: Functions, processes: Processes) -> None:
        self.pitfalls = Groups(1_000)
        self.donations = Groups(500)
        self.steady = Groups(500)
        self.failures = Groups(500)
        self.oom = Groups(100)
        self.leaks = Groups(100)
        self.pressure = Groups(_MAX_PLACES)
        self.probes = Groups(100)
        #: By device: the most that was in use, and the limit.
        self.devices: dict[str, dict[str, int | None]] = {}
        #: Compiles that the agents counted, of the processes that summed up.
        self.claimed_compiles = 0
        self._functions = functions
        self._processes = processes

    def pitfall(self, record: Record, process: Process) -> None:
        """A known mistake."""
        name = needed(record, "pitfall")
        stats = self._functions.of(record)
        if name in stats.pitfalls or len(stats.pitfalls) < _MAX_KINDS:
            stats.pitfalls[name] = stats.pitfalls.get(name, 0) + 1
        key = (stats.function.label, name, text(record, "subject"))
        self.pitfalls.add(key, record, process, _pitfall(record), seconds=number(record, "lost_s"))

    def donation(self, record: Record, process: Process) -> None:
        """A donation that went wrong."""
        kind = needed(record, "kind")
        stats = self._functions.of(record)
        if kind in stats.donation_violations or len(stats.donation_violations) < _MAX_KINDS:
            stats.donation_violations[kind] = stats.donation_violations.get(kind, 0) + 1
        names = ("leaf", "dtype", "donated_by", "donated_at", "donated_leaf")
        fields = {"kind": kind, **_who(record), **{name: text(record, name) for name in names}}
        key = tuple(fields.get(name) for name in ("kind", "function", "call_site", "leaf", "donated_by", "donated_at"))
        fields |= {"shape": record.get("shape", []), "bytes": whole(record, "bytes")}
        self.donations.add(key, record, process, fields)

    def steady_violated(self, record: Record, process: Process) -> None:
        """A compile after warm-up."""
        stats = self._functions.of(record)
        spent_s = number(record, "spent_s")
        stats.steady_violations += 1
        stats.steady_lost_s += spent_s
        fields = {**_who(record), "reason": text(record, "reason"), "action": text(record, "action")}
        key = (stats.function.label, fields["call_site"])
        self.steady.add(key, record, process, fields, seconds=spent_s)

    def failed(self, record: Record, process: Process) -> None:
        """A compile that ended in an exception."""
        self._functions.failed(record, process)
        fields = {**_who(record), **{name: text(record, name) for name in ("phase", "error", "message")}}
        key = tuple(fields[name] for name in ("function", "call_site", "error", "phase"))
        self.failures.add(key, record, process, fields, seconds=number(record, "spent_s"))

    def out_of_memory(self, record: Record, process: Process) -> None:
        """Memory ran out."""
        fields: dict[str, Any] = {name: text(record, name) for name in ("program", "function", "call_site", "message")}
        key = (fields["program"], fields["function"], fields["call_site"])
        for name in ("devices", "arrays", "executables"):
            fields[name] = record.get(name, [])[:_TOP]
        for name in ("live_arrays", "live_array_bytes"):
            fields[name] = whole(record, name)
        self.oom.add(key, record, process, fields)

    def leak(self, record: Record, process: Process) -> None:
        """Memory grows on and on."""
        growing = needed(record, "growing")
        fields = {
            "growing": growing,
            "message": text(record, "message"),
            "bytes_per_second": number(record, "bytes_per_second"),
            "cause": text(record, "cause"),
            "functions": record.get("functions", []),
        }
        self.leaks.add((growing, fields["cause"]), record, process, fields)

    def under_pressure(self, record: Record, process: Process) -> None:
        """Memory is nearly full, or no longer: the times count, and the highest share stays."""
        place = needed(record, "place")
        if record.get("state") != "started":
            return
        known = self.pressure.get(place)
        ratio = max(number(record, "ratio"), known.fields["ratio"] if known is not None else 0.0)
        fields = {"place": place, "ratio": ratio, "limit_bytes": whole(record, "limit_bytes")}
        self.pressure.add(place, record, process, fields)

    def sampled(self, record: Record, process: Process) -> None:
        """Where memory is: only the most of it is kept."""
        for row in record.get("devices", ()):
            name = text(row, "device")
            if name is None or (name not in self.devices and len(self.devices) >= _MAX_PLACES):
                continue
            device = self.devices.setdefault(name, {"most_bytes": None, "limit_bytes": None})
            most = max(whole(row, "in_use_bytes") or 0, whole(row, "peak_bytes") or 0, device["most_bytes"] or 0)
            device["most_bytes"] = most or None
            device["limit_bytes"] = whole(row, "limit_bytes") or device["limit_bytes"]

    def probe_failed(self, record: Record, process: Process) -> None:
        """A part of the agent does not work there."""
        fields = {"probe": needed(record, "probe"), "reason": text(record, "reason")}
        self.probes.add((fields["probe"], fields["reason"]), record, process, fields)

    def summed_up(self, record: Record, process: Process) -> None:
        """The agent's own sum: its pitfalls have the newest figures, and are there when the log was rotated away."""
        if "compiles" not in record:
            raise FieldError("compiles")
        self._processes.summed_up(process, record)
        self.claimed_compiles += whole(record, "compiles") or 0
        told = {
            (group.fields["pitfall"], group.fields["function"], group.fields["call_site"]): group
            for group in self.pitfalls
        }
        for row in record.get("pitfalls", ()):
            name, function = text(row, "pitfall"), text(row, "function")
            if not name or not function:
                continue
            group = told.get((name, function, text(row, "call_site")))
            if group is None:
                self.pitfall({"timestamp": instant(record), **row}, process)
            elif instant(record) >= group.last:
                group.fields |= {key: text(row, key) or group.fields[key] for key in ("message", "advice")}


def _who(record: Record) -> dict[str, Any]:
    return {
        "function": needed(record, "function"),
        "name": name_of(record),
        "location": text(record, "location"),
        "call_site": text(record, "call_site"),
    }


def _pitfall(record: Record) -> dict[str, Any]:
    return {
        "pitfall": needed(record, "pitfall"),
        **_who(record),
        "subject": text(record, "subject") or "",
        "message": text(record, "message") or "",
        "advice": text(record, "advice") or "",
    }
