"""The report as one JSON-able object; text and HTML show nothing that is not in it.

Keys are only ever added; `report` is the version of the form. Seconds are floats, bytes whole
numbers, times RFC 3339 in UTC; what is not known is null. Lists begin with what costs most or
happened last, and `*_left_out` counts what was past a list's limit.

    {"report": 1, "jitwatch": "0.1.0",
     "runs": ["r1"], "started": "2025-03-01T12:00:00.000Z", "ended": …, "versions": {"jax": "0.10.2", …},
     "wall_seconds":     of the process that ran longest
     "process_seconds":  of all processes together; what ratios are shares of
     "totals": {"compiles", "recompiles", "failures", "compile_seconds", "lost_seconds", "lost_ratio", "lost_steps",
                "storms", "steady_violations", "pitfalls", "donation_violations", "out_of_memory", "leaks", "pressure",
                "jax_compiles", "jax_compile_seconds", "busy_seconds", "busy_ratio", "processes", "missing_events",
                "persistent_cache_hits", "persistent_cache_misses", "phases": {"trace", "lower", "compile"}},
     "functions": [{"function", "location", "compiles", "recompiles", "failures", "seconds", "phases": {"trace", …},
                    "lost_seconds", "lost_ratio", "lost_steps", "causes": {"shape": 3}, "pitfalls": {…}, "storms",
                    "is_in_storm", "steady_violations", "donation_violations": {…}, "cache_entries",
                    "captured_constant_bytes"}],
     "call_sites": [{"function", "call_site", "causes", "paths", "recompiles", "lost_seconds", "lost_ratio", "reason",
                     "advice", "explanation", "pitfall":  the known mistake that these recompiles show}],
     "pitfalls": [{"pitfall", "function", "name", "location", "call_site", "subject", "message", "advice",
                   "lost_s":        what it had cost when it was told
                   "recompiles", "lost_seconds":  what it cost in all, "times", "processes"}],
     "persistent_cache": {"hits", "misses", "unwritten": {"short_compile":  why programs were not written to it
                          {"programs", "seconds", "functions": {"train_step": 2}, "jax_programs"}}},
     "donation_violations", "steady_violations", "failures": [{"function", "call_site", …, "times", "processes"}],
     "memory": {"out_of_memory": […], "leaks": […], "pressure": […], "devices": {"gpu:0": {"most_bytes", …}}},
     "processes": [{"run", "process_index", "process", "log", "compiles", "recompiles", "lost_seconds", "seconds",
                    "started", "ended", "is_ended", …}],
     "odd_processes": [{"run", "process_index", "process", "log", "compiles", "usual_compiles", "starts", …}],
     "jax_own": [{"name", "compiles", "seconds"}], "probes_failed": […],
     "log": {"files", "bytes", "lines", "events", "unknown_events", "newer_schema",
             "torn", "unreadable", "incomplete":  lines that were left out,
             "misfits":       fields that were left out since they hold what they cannot hold,
             "problems":      the first of them: [{"log", "line", "reason"}],
             "skipped":       files of a folder that are not regular, "damaged": compressed ones that are cut off, …}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from jitwatch._version import __version__
from jitwatch.model.taxonomy import PHASES
from jitwatch.report.folding import Fold
from jitwatch.report.functions import Functions
from jitwatch.report.groups import Group
from jitwatch.report.processes import Odd, Process, odd_ones
from jitwatch.report.reading import Tally
from jitwatch.state.call_sites import Cost, total
from jitwatch.state.cost import Pace
from jitwatch.state.schema import FunctionStats, row_of, sums_over, totals_of

Document = dict[str, Any]

FORM = 1
#: Elements of each list of the document.
MAX_ROWS = 1_000
_MAX_ODD = 20
_MAX_JAX_NAMES = 20
_FUNCTION = (
    "function",
    "location",
    "compiles",
    "recompiles",
    "failures",
    "seconds",
    "phases",
    "lost_seconds",
    "lost_ratio",
    "lost_steps",
    "causes",
    "pitfalls",
    "storms",
    "is_in_storm",
    "steady_violations",
    "donation_violations",
    "captured_constant_bytes",
)
_COST = ("recompiles", "lost_seconds", "lost_ratio", "lost_steps")
_SITE = ("function", "call_site", "causes", "paths", *_COST, "reason", "advice", "explanation", "pitfall")


def document(fold: Fold, tally: Tally) -> Document:
    """Put what was read into the form above."""
    processes = fold.processes.all
    pace = _pace(processes)
    rows = [_function(stats, pace, fold.functions) for stats in fold.functions.stats.values()]
    rows.sort(key=lambda row: -row["seconds"])
    sites = sorted(fold.functions.sites, key=lambda site: (-site.lost_s, -site.recompiles))
    mishaps = fold.mishaps
    sessions = [session for process in processes for session in process.sessions]
    return {
        "report": FORM,
        "jitwatch": __version__,
        "runs": list(dict.fromkeys(process.run for process in processes)),
        "started": min((one.first for one in sessions if one.first), default=None),
        "ended": max((one.last for one in sessions if one.last), default=None),
        "versions": _versions(processes),
        "wall_seconds": max((process.seconds for process in processes), default=0.0),
        "process_seconds": pace.wall_s,
        "totals": _totals(fold, pace),
        "functions": rows[:MAX_ROWS],
        "functions_left_out": max(0, len(rows) - MAX_ROWS),
        "call_sites": [_of(site.row(pace), _SITE) for site in sites[:MAX_ROWS]],
        "call_sites_left_out": max(0, len(sites) - MAX_ROWS),
        "pitfalls": _pitfalls(fold, pace),
        "persistent_cache": fold.functions.persistent_cache.row(),
        "donation_violations": _groups(mishaps.donations),
        "steady_violations": _groups(mishaps.steady, seconds="spent_seconds"),
        "failures": _groups(mishaps.failures, seconds="spent_seconds"),
        "memory": {
            "out_of_memory": _groups(mishaps.oom),
            "leaks": _groups(mishaps.leaks),
            "pressure": _groups(mishaps.pressure),
            "devices": mishaps.devices,
        },
        "processes": [_process(one) for one in sorted(processes, key=_place)[:MAX_ROWS]],
        "processes_left_out": max(0, len(processes) - MAX_ROWS),
        "odd_processes": [_odd(one) for one in odd_ones(processes)[:_MAX_ODD]],
        "jax_own": _jax_own(fold.functions),
        "probes_failed": _groups(mishaps.probes),
        "log": _log(tally, fold),
    }


def _pace(processes: Iterable[Process]) -> Pace:
    """What losses are measured against: the wall clock of all processes together."""
    sessions = [session for process in processes for session in process.sessions]
    steps = [session.step_s for session in sessions if session.step_s]
    busy_s = sum(session.busy_s for session in sessions if session.busy_s is not None)
    if any(session.busy_s is None for session in sessions):
        # A job that was killed has not summed up; its threads may have compiled at the same time.
        busy_s = sum(process.compile_s + process.jax_compile_s for process in processes)
    wall_s = sum(process.seconds for process in processes)
    return Pace(
        wall_s=wall_s,
        busy_s=min(busy_s, wall_s),
        step_s=sum(steps) / len(steps) if steps else None,
    )


def _totals(fold: Fold, pace: Pace) -> dict[str, Any]:
    functions, mishaps = fold.functions, fold.mishaps
    totals = totals_of(sums_over(functions.stats.values()), pace)
    for name in ("lost_seconds_since_steady", "lost_ratio_since_steady", "storms_active"):
        del totals[name]
    return totals | {
        # Each mistake once, however many processes tell of it; those in JAX's own compiles are the job's as well.
        "pitfalls": len(mishaps.pitfalls),
        "phases": {phase: sum(stats.phase_s[phase] for stats in functions.users()) for phase in PHASES},
        "out_of_memory": sum(group.times for group in mishaps.oom),
        "leaks": sum(group.times for group in mishaps.leaks),
        "pressure": sum(group.times for group in mishaps.pressure),
        "processes": len(fold.processes.all),
        "missing_events": sum(session.missing for process in fold.processes.all for session in process.sessions),
        "persistent_cache_hits": functions.persistent_cache.hits,
        "persistent_cache_misses": functions.persistent_cache.misses,
    }


def _function(stats: FunctionStats, pace: Pace, functions: Functions) -> dict[str, Any]:
    row = row_of(stats, pace)
    entries = functions.cache_entries.get(stats.function.label)
    return {name: row[name] for name in _FUNCTION} | {"cache_entries": entries}


def _pitfalls(fold: Fold, pace: Pace) -> list[dict[str, Any]]:
    costs, found = fold.functions.sites.costs(), []
    sessions = [session for process in fold.processes.all for session in process.sessions]
    is_cut = any(session.lowest != 1 for session in sessions)
    subjects = Counter((one.fields["function"], one.fields["pitfall"]) for one in fold.mishaps.pitfalls)
    for group in fold.mishaps.pitfalls:
        one = group.fields
        which = (one["function"], one["pitfall"])
        cost = costs.get((*which, one["subject"]), Cost())
        if subjects[which] == 1:
            # Logs of before do not say which subject a recompile was about.
            cost = total([cost for mistake, cost in costs.items() if mistake[:2] == which])
        if is_cut:
            # Some of its recompiles may have been rotated away; what they had cost was told with the mistake.
            cost.lost_s = max(cost.lost_s, group.seconds)
        found.append({**one, "lost_s": group.seconds, **_of(cost.row(pace), _COST), **_times(group)})
    return sorted(found, key=lambda one: -one["lost_seconds"])[:MAX_ROWS]


def _of(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _groups(groups: Iterable[Group], *, seconds: str | None = None) -> list[dict[str, Any]]:
    """The most frequent first, the newest of those that happened as often."""
    ordered = sorted(groups, key=lambda group: (group.times, group.last), reverse=True)[:MAX_ROWS]
    return [{**group.fields, **({seconds: group.seconds} if seconds else {}), **_times(group)} for group in ordered]


def _times(group: Group) -> dict[str, Any]:
    return {
        "times": group.times,
        "processes": group.processes,
        "first": group.first or None,
        "last": group.last or None,
    }


def _place(process: Process) -> tuple[str, int, str, str]:
    started = process.sessions[0].first if process.sessions else ""
    return process.run, -1 if process.index is None else process.index, process.log, started


def _named(process: Process) -> dict[str, Any]:
    return {
        "run": process.run,
        "process_index": process.index,
        "process": process.identifier,
        "log": process.log,
    }


def _process(process: Process) -> dict[str, Any]:
    return {
        **_named(process),
        "compiles": process.compiles,
        "recompiles": process.recompiles,
        "failures": process.failures,
        "compile_seconds": process.compile_s,
        "jax_compiles": process.jax_compiles,
        "lost_seconds": process.lost_s,
        "seconds": process.seconds,
        "started": min((one.first for one in process.sessions if one.first), default=None),
        "ended": max((one.last for one in process.sessions if one.last), default=None),
        "starts": process.starts,
        "is_ended": bool(process.sessions) and process.sessions[-1].is_ended,
    }


def _odd(odd: Odd) -> dict[str, Any]:
    named = _named(odd.process)
    compiles, starts = odd.process.compiles, odd.process.starts
    return {**named, "compiles": compiles, "usual_compiles": odd.usual, "starts": starts, "functions": odd.functions}


def _versions(processes: Iterable[Process]) -> dict[str, list[str]]:
    """What ran there; several where processes differ, which is worth knowing."""
    found: dict[str, list[str]] = {}
    for process in processes:
        for name, version in process.versions.items():
            known = found.setdefault(name, [])
            if version and version not in known and len(known) < 10:
                known.append(version)
    return {name: versions for name, versions in found.items() if versions}


def _jax_own(functions: Functions) -> list[dict[str, Any]]:
    ordered = sorted(functions.jax_names.items(), key=lambda pair: -pair[1].seconds)
    return [{"name": name, "compiles": one.compiles, "seconds": one.seconds} for name, one in ordered[:_MAX_JAX_NAMES]]


def _log(tally: Tally, fold: Fold) -> dict[str, Any]:
    compiles = sum(process.compiles for process in fold.processes.all)
    return {
        "files": tally.files,
        "bytes": tally.bytes,
        "lines": tally.lines,
        "events": fold.events,
        "torn": tally.torn,
        "unreadable": tally.unreadable,
        "incomplete": tally.incomplete,
        "misfits": tally.misfits,
        "problems": [asdict(one) for one in tally.problems],
        "skipped": tally.skipped[:100],
        "unknown_events": dict(tally.unknown),
        "newer_schema": tally.newer,
        "damaged": tally.damaged[:100],
        "missing_compiles": max(0, fold.mishaps.claimed_compiles - compiles),
        "call_sites_untold": fold.functions.sites.left_out,
        "processes_untold": fold.processes.left_out,
    }
