"""Builds the report as one JSON object, the document; text and HTML show only what is in it.

Keys are only ever added, see the public contract; `report` is the version of the format. Seconds are floats, bytes
whole numbers, times RFC 3339 in UTC; an unknown value is null. Lists are sorted by cost or frequency, and `*_left_out`
counts the rows past a list's limit. The rows of functions, call sites and totals are those of the live state
(`state.schema`), without the fields that only a live process has. Each signal of `state.signals` adds a key.

    {"report": 1, "jitwatch": "0.1.0",
     "runs": ["r1"], "started": "2025-03-01T12:00:00.000Z", "ended": …, "versions": {"jax": ["0.10.2"], …},
     "wall_seconds":     of the longest process
     "process_seconds":  of all processes together; ratios are shares of it
     "totals", "functions", "call_sites",
     "pitfalls": [{"pitfall", "function", "call_site", "subject", "message", "advice",
                   "lost_s":                      lost seconds when it was reported
                   "recompiles", "lost_seconds":  in total, "times", "processes", …}],
     "donation_violations", "steady_violations", "failures": [{"function", "call_site", …, "times", "processes"}],
     "memory": {"out_of_memory": […], "leaks": […], "pressure": […], "devices": {"gpu:0": {"most_bytes", …}}},
     "first_divergence": {"kind": program, extra or compiler, "function", "nth", "message", "advice",
                          "programs": [{"program", "processes", "call_site", …}], "compiler": […]}, or null
     "processes", "odd_processes": [{"run", "process_index", "process", "log", "compiles", "starts",
                   "compiling":  compiles that ran when the log ended: [{"function", "call_site", "since", …}], …}],
     "log": {"torn", "unreadable", "incomplete":  ignored lines, "misfits":  ignored fields with an invalid value,
             "problems":  the first of these lines: [{"log", "line", "reason"}], …}, …}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from jitwatch._version import __version__
from jitwatch.model.events import Compiling, Event
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL, PHASES
from jitwatch.report.aggregate import Group, Groups, Run
from jitwatch.report.decode import parsed
from jitwatch.report.processes import Outlier, Process, Session, outliers, runs_of
from jitwatch.report.read import Tally
from jitwatch.state.call_sites import Cost, total
from jitwatch.state.cost import Pace
from jitwatch.state.persistent_cache import PersistentCache
from jitwatch.state.views import function_row, totals_row

Row = dict[str, Any]
Document = dict[str, Any]

FORM = 1
#: Maximum number of elements of each list.
MAX_ROWS = 1_000
_MAX_OUTLIERS = 20
_MAX_JAX_PROGRAMS = 20
#: Arrays, programs and devices of an out-of-memory error.
_TOP = 5
#: Fields of the rows of pitfalls, and of what happened at a call site.
_AT = ("function", "call_site")
_PITFALL = ("pitfall", *_AT, "subject", "message", "advice")
_DONATION = ("violation", *_AT, "leaf", "dtype", "donated_by", "donated_at", "donated_leaf", "shape", "bytes")
_SHORTAGE = (
    "program", *_AT, "message", "devices", "arrays", "executables", "live_arrays", "live_array_bytes",
    "allocation_bytes", "peak_buffers",
)  # fmt: skip
_MISFIT = ("place", "function", "needed_bytes", "in_use_bytes", "limit_bytes", "peak_buffers", "message")
#: Fields of the state that are not in the report, since only a live process has them.
_LIVE_ONLY = {
    "shown_as", "wrappers", "calls", "last_call", "last_time", "donation_opportunity_bytes",
    "lost_seconds_since_steady", "lost_ratio_since_steady", "storms_active",
}  # fmt: skip


def document(run: Run, tally: Tally) -> Document:
    """The document of a run, from the aggregates of its events and the counts of what was read and ignored."""
    processes = run.processes.all
    pace = _pace(processes)
    state, findings = run.state, run.findings
    rows = [_logged(function_row(stats, pace, stats.cache_entries)) for stats in state.functions.values()]
    for row in rows:
        row["programs"] = list(run.programs.get(row["function"], ()))
    rows.sort(key=lambda row: -row["seconds"])
    sites = sorted(state.pitfalls.call_sites, key=lambda site: (-site.lost_s, -site.recompiles))
    return {
        "report": FORM,
        "jitwatch": __version__,
        "runs": list(dict.fromkeys(process.run for process in processes)),
        **_period(_sessions(processes)),
        "versions": _versions(processes),
        "wall_seconds": max((process.seconds for process in processes), default=0.0),
        "process_seconds": pace.wall_s,
        "totals": _totals(run, pace),
        "functions": rows[:MAX_ROWS],
        "functions_left_out": max(0, len(rows) - MAX_ROWS),
        "call_sites": [_logged(site.row(pace)) for site in sites[:MAX_ROWS]],
        "call_sites_left_out": max(0, len(sites) - MAX_ROWS),
        "pitfalls": _pitfalls(run, pace),
        **{name: signal.row() for name, signal in state.signals.items()},
        "donation_violations": _rows(findings.donations, *_DONATION),
        "steady_violations": _rows(findings.steady, *_AT, "reason", "action"),
        "failures": _rows(findings.failures, *_AT, "phase", "error", "message"),
        "memory": {
            "out_of_memory": _rows(findings.out_of_memory, *_SHORTAGE),
            "leaks": [
                row | {"bytes_per_second": row["bytes_per_second"] or 0.0}
                for row in _rows(findings.leaks, "growing", "message", "bytes_per_second", "cause", "functions")
            ],
            "pressure": [
                row | {"limit_bytes": row["limit_bytes"] or None}
                for row in _rows(findings.pressure, "place", "ratio", "limit_bytes")
            ],
            "will_not_fit": _rows(findings.will_not_fit, *_MISFIT),
            "devices": {name: asdict(peak) for name, peak in findings.devices.items()},
        },
        "processes": [_process(one) for one in sorted(processes, key=_sort_key)[:MAX_ROWS]],
        "processes_left_out": max(0, len(processes) - MAX_ROWS),
        "first_divergence": run.shared.first_divergence(runs_of(processes)),
        "odd_processes": [_outlier(one) for one in outliers(processes)[:_MAX_OUTLIERS]],
        "jax_own": _jax_own(run),
        "probes_failed": _rows(findings.probes, "probe", "reason"),
        "log": _log(tally, run),
    }


def _sessions(processes: Iterable[Process]) -> list[Session]:
    return [session for process in processes for session in process.sessions]


def _period(sessions: Iterable[Session]) -> Row:
    started = min((one.first for one in sessions if one.first), default=None)
    return {"started": started, "ended": max((one.last for one in sessions if one.last), default=None)}


def _pace(processes: list[Process]) -> Pace:
    """What lost seconds are related to: the wall clock of all processes together."""
    sessions = _sessions(processes)
    steps = [session.step_s for session in sessions if session.step_s]
    busy_s = sum(session.busy_s for session in sessions if session.busy_s is not None)
    if any(session.busy_s is None for session in sessions):
        # A killed job has no summary. The sum is an estimate: threads may have compiled at the same time.
        busy_s = sum(process.compile_s + process.jax_compile_s for process in processes)
    wall_s = sum(process.seconds for process in processes)
    return Pace(wall_s=wall_s, busy_s=min(busy_s, wall_s), step_s=sum(steps) / len(steps) if steps else None)


def _totals(run: Run, pace: Pace) -> Row:
    findings, cache = run.findings, run.state.signals["persistent_cache"]
    assert isinstance(cache, PersistentCache)
    users = [stats for label, stats in run.state.functions.items() if label != JAX_LABEL]
    return _logged(totals_row(run.state.totals, pace)) | {
        # Each pitfall once, however many processes report it; also those of operations outside of jit.
        "pitfalls": len(findings.pitfalls),
        "phases": {phase: sum(stats.phase_s[phase] for stats in users) for phase in PHASES},
        "out_of_memory": sum(group.times for group in findings.out_of_memory),
        "leaks": sum(group.times for group in findings.leaks),
        "pressure": sum(group.times for group in findings.pressure),
        "processes": len(run.processes.all),
        "missing_events": sum(session.missing for session in _sessions(run.processes.all)),
        "persistent_cache_hits": cache.hits,
        "persistent_cache_misses": cache.misses,
    }


def _logged(row: Any) -> Row:
    """A row of the state without the fields that only a live process has."""
    return {name: value for name, value in row.items() if name not in _LIVE_ONLY}


def _pitfalls(run: Run, pace: Pace) -> list[Row]:
    costs, found = run.state.pitfalls.call_sites.costs(), []
    is_cut = any(session.lowest != 1 for session in _sessions(run.processes.all))
    groups = run.findings.pitfalls
    subjects = Counter((group.event.function.label, group.event.pitfall) for group in groups)
    for group in groups:
        one = group.event
        which = (one.function.label, one.pitfall)
        cost = costs.get((*which, one.subject), Cost())
        if subjects[which] == 1:
            # Older logs do not say which subject a recompile was about.
            cost = total([cost for key, cost in costs.items() if key[:2] == which])
        if is_cut:
            # Records of its recompiles may have been rotated away; the event of the pitfall has their lost seconds.
            cost.lost_s = max(cost.lost_s, group.seconds)
        found.append(
            {**_fields(one, _PITFALL, empty=""), "lost_s": group.seconds, **_logged(cost.row(pace)), **_times(group)}
        )
    return sorted(found, key=lambda row: -row["lost_seconds"])[:MAX_ROWS]


# Rows of like events


def _rows(groups: Groups[Any], *names: str) -> list[Row]:
    """Rows of groups of events with these fields, the most frequent first, then the newest."""
    ordered = sorted(groups, key=lambda group: (group.times, group.last), reverse=True)[:MAX_ROWS]
    return [_fields(group.event, names) | _times(group) for group in ordered]


def _fields(event: Event, names: Iterable[str], *, empty: str | None = None) -> Row:
    """Fields of an event, with `empty` for a text that is empty."""
    row: Row = {}
    for name in names:
        value = getattr(event, name)
        if isinstance(value, Function):
            row |= {"function": value.label, "name": value.name, "location": value.location}
        elif isinstance(value, tuple):
            row[name] = list(value[:_TOP] if value and isinstance(value[0], dict) else value)
        else:
            row[event.renamed.get(name, name)] = empty if value == "" else value
    return row


def _times(group: Group[Any]) -> Row:
    spent = {"spent_seconds": group.seconds} if hasattr(group.event, "spent_s") else {}
    first, last = group.first or None, group.last or None
    return {**spent, "times": group.times, "processes": group.processes, "first": first, "last": last}


# Processes and the log


def _sort_key(process: Process) -> tuple[str, int, str, str]:
    started = process.sessions[0].first if process.sessions else ""
    return process.run, -1 if process.index is None else process.index, process.log, started


def _named(process: Process) -> Row:
    index, identifier = process.index, process.identifier
    return {"run": process.run, "process_index": index, "process": identifier, "log": process.log}


def _process(process: Process) -> Row:
    return {
        **_named(process),
        "compiles": process.compiles,
        "recompiles": process.recompiles,
        "failures": process.failures,
        "compile_seconds": process.compile_s,
        "jax_compiles": process.jax_compiles,
        "lost_seconds": process.lost_s,
        "seconds": process.seconds,
        **_period(process.sessions),
        "starts": process.starts,
        "is_ended": bool(process.sessions) and process.sessions[-1].is_ended,
        "compiling": [_compiling(event, at, process) for event, at in process.compiling.values()],
    }


def _compiling(event: Compiling, at: str, process: Process) -> Row:
    """A compile that had not ended when the log ended."""
    moment, last = parsed(at), parsed(process.sessions[-1].last) if process.sessions else None
    since = moment - timedelta(seconds=event.for_s) if moment is not None else None
    return {
        "function": event.function.label,
        "name": event.function.name,
        "call_site": event.call_site,
        "program": event.program,
        "phase": event.phase,
        "since": since.isoformat(timespec="milliseconds").replace("+00:00", "Z") if since is not None else None,
        "for_s": max(event.for_s, (last - since).total_seconds())
        if last is not None and since is not None
        else event.for_s,
    }


def _outlier(one: Outlier) -> Row:
    return {
        **_named(one.process),
        "compiles": one.process.compiles,
        "usual_compiles": one.usual,
        "starts": one.process.starts,
        "functions": one.functions,
    }


def _versions(processes: Iterable[Process]) -> dict[str, list[str]]:
    """The versions of jitwatch, JAX and Python; several if processes differ."""
    found: dict[str, list[str]] = {}
    for process in processes:
        for name, version in process.versions.items():
            known = found.setdefault(name, [])
            if version and version not in known and len(known) < 10:
                known.append(version)
    return {name: versions for name, versions in found.items() if versions}


def _jax_own(run: Run) -> list[Row]:
    ordered = sorted(run.state.jax_programs.items(), key=lambda pair: -pair[1].seconds)
    return [{"name": name, **asdict(one)} for name, one in ordered[:_MAX_JAX_PROGRAMS]]


def _log(tally: Tally, run: Run) -> Row:
    compiles = sum(process.compiles for process in run.processes.all)
    counts = ("files", "bytes", "lines", "torn", "unreadable", "incomplete", "misfits")
    return {
        **{name: getattr(tally, name) for name in counts},
        "events": run.events,
        "problems": [asdict(one) for one in tally.problems],
        "skipped": tally.skipped[:100],
        "unknown_events": dict(tally.unknown),
        "newer_schema": tally.newer,
        "damaged": tally.damaged[:100],
        "missing_compiles": max(0, run.findings.summed_compiles - compiles),
        "call_sites_untold": run.state.pitfalls.call_sites.left_out,
        "processes_untold": run.processes.left_out,
    }
