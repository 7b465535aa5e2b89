"""The sentences of the report, the same for text and HTML. From the document; not escaped."""

from __future__ import annotations

import itertools
import os

from jitwatch.render import compile_time as times
from jitwatch.render import formats, names, wording
from jitwatch.render.divergence import processes as of_processes
from jitwatch.report.document import Document, Row

_TOP = 3
#: Programs whose memory is described, and the bytes at their peak from which one is.
_TOP_PROGRAMS, _LARGE = 3, 64 << 20
#: Nouns for what the totals count.
_PROBLEMS = {
    "out_of_memory": "out-of-memory error",
    "leaks": "memory leak",
    "failures": "failed compile",
    "donation_violations": "donation violation",
    "steady_violations": "steady-state violation",
    "pitfalls": "pitfall",
}
_VERSIONS = {"jax": "JAX", "python": "Python"}
#: Whole lines and fields that were ignored, by their name in the counts of the log.
_IGNORED = {
    "torn": ("incomplete last line", " (the job was killed or is still writing)"),
    "unreadable": ("line", " that cannot be read"),
    "incomplete": ("event", " with missing fields"),
    "misfits": ("field", " with an invalid value"),
}
_NOTED = {
    "newer_schema": ("event", " of a newer jitwatch: install that version to read all fields."),
    "missing_events": (
        "event",
        " missing. The agent dropped them, for example because the disk or the queue was full.",
    ),
    "missing_compiles": (
        "compile",
        " missing: counted by the agents, but rotated away or in files that were not given.",
    ),
}


def verdict(document: Document) -> str:
    """The whole run in one sentence."""
    totals = document["totals"]
    losers = [row for row in document["functions"] if row["lost_seconds"]]
    worst = max(losers, key=lambda row: row["lost_seconds"], default=None)
    parts = [formats.count(totals[name], noun) for name, noun in _PROBLEMS.items() if totals[name]]
    if document["first_divergence"] is not None:
        parts.insert(0, "the processes compiled different programs")
    more = f"; {', '.join(parts)}" if parts else ""
    recompiles = formats.count(totals["recompiles"], "recompile")
    if worst is not None:
        return f"{recompiles}: {wording.of_cost(totals)}, the most in {_short(worst['function'])}{more}."
    if totals["recompiles"]:
        return f"{recompiles}, no time lost: planned, or a first use under grad, vmap or another transformation{more}."
    return f"No function recompiled{more}." if totals["compiles"] else f"No function compiled{more}."


def divergence(document: Document) -> list[str]:
    """The first difference between the programs of the processes, the program of each, and advice."""
    found = document["first_divergence"]
    if found is None:
        return []
    lines = [formats.sentences(found["message"])]
    for row in found["programs"]:
        if row["program"] is not None:
            at = f" at {row['call_site']}" if row["call_site"] else ""
            file = f", {row['hlo']}" if row["hlo"] else ""
            who = of_processes(row["processes"])
            lines.append(f"{who[:1].upper()}{who[1:]}: program {row['program']}, compile {row['nth']}{at}{file}.")
    difference = found["difference"]
    if difference is not None:
        first, second = (of_processes(row["processes"]) for row in found["programs"][:2])
        lines.append(f"In {second}, compared with {first}: {difference['summary']}")
        if difference["place"]:
            lines.append(f"First operation that differs: {difference['place']}.")
    return [*lines, found["advice"]]


def whose(document: Document) -> str:
    """Name, length, processes, period and versions of a run in one sentence."""
    runs = document["runs"]
    name = f"Run {runs[0]}" if len(runs) == 1 else f"{len(runs)} runs together ({_some(runs)})"
    number = document["totals"]["processes"]
    length = formats.seconds(document["wall_seconds"])
    if number > 1:
        length = f"{number:,} processes, {length} at most, {formats.seconds(document['process_seconds'])} together"
    began = f", from {_stamp(document['started'])} to {_stamp(document['ended'])} UTC" if document["started"] else ""
    versions = document["versions"]
    on = "".join(f", {shown} {' and '.join(versions[key])}" for key, shown in _VERSIONS.items() if key in versions)
    return f"{name}: {length}{began}{on}."


def parts(document: Document) -> list[str]:
    """The compile time by phase, and of JAX's own programs by name."""
    totals, own = document["totals"], document["jax_own"]
    found = []
    if totals["compile_seconds"]:
        phases = ", ".join(f"{phase} {formats.seconds(spent)}" for phase, spent in totals["phases"].items())
        found.append(f"By phase: {phases}.")
    if own:
        most = sorted(own, key=lambda one: -one["compiles"])[:_TOP]
        some = ", ".join(f"{one['name']} ({formats.count(one['compiles'], 'time')})" for one in most)
        found.append(f"JAX's own compiles: {formats.seconds(totals['jax_compile_seconds'])}, most often {some}.")
    return found


def name_of(process: Row, document: Document) -> str:
    """The displayed name of a process: `process 3`, with its run if there are several; its log if it has no index.

    If another process has the same index or log, the identifier is added.
    """
    index = process["process_index"]
    name = f"process {index}" if index is not None else f"the process of {process['log']}"
    if len(document["runs"]) > 1 and index is not None:
        name = f"{name} of {process['run']}"
    which = _which(process)
    is_one_of_many = sum(_which(one) == which for one in document["processes"]) > 1
    return f"{name} ({process['process']})" if is_one_of_many and process["process"] else name


def _which(process: Row) -> tuple[str, int | str]:
    index = process["process_index"]
    return process["run"], process["log"] if index is None else index


def processes(document: Document) -> list[str]:
    """Processes that compiled more than the others, were restarted, or have no end in the log."""
    found = []
    for odd in document["odd_processes"][:_TOP]:
        functions = ", ".join(f"{name} {more:+,}" for name, more in odd["functions"].items())
        which = f"; difference by function: {functions}" if functions else ""
        again = f"; it was started {odd['starts']:,} times" if odd["starts"] > 1 else ""
        found.append(
            f"{capital(name_of(odd, document))} compiled {odd['compiles']:,} times, compared with "
            f"{odd['usual_compiles']:,} for the median process of its run{which}{again}."
        )
    more = len(document["odd_processes"]) - _TOP
    if more > 0:
        found.append(f"And {more:,} other process{'es' if more > 1 else ''} compiled more than the median.")
    found += _again(document)
    open_ones = [one for one in document["processes"] if not one["is_ended"]]
    if open_ones:
        some = _some([name_of(one, document) for one in open_ones])
        found.append(f"Killed or still running (the log has no end): {some}.")
    found += [_unfinished(one, process, document) for process in open_ones for one in process["compiling"]][:_TOP]
    return found


def _unfinished(one: Row, process: Row, document: Document) -> str:
    """A compile that ran when the log ended: `Process 0 had been compiling train_step at train.py:88 for 10.0 s …`."""
    who, lasted = capital(name_of(process, document)), formats.seconds(one["for_s"])
    since = f", since {_stamp(one['since'])} UTC" if one["since"] else ""
    return f"{who} had been compiling {_who(one)}{_at(one)} for {lasted} when the log ended{since}."


def _again(document: Document) -> list[str]:
    """Indices that several processes have: of a restarted job, or of several jobs with one name."""
    by_index: dict[tuple[str, int | str], list[Row]] = {}
    for one in document["processes"]:
        if one["process_index"] is not None and one["process"]:
            by_index.setdefault(_which(one), []).append(one)
    found = []
    for (run, index), rows in by_index.items():
        if len(rows) < 2:
            continue
        rows.sort(key=lambda row: row["started"] or "")
        of_run = f" of {run}" if len(document["runs"]) > 1 else ""
        if all((before["ended"] or "") <= (after["started"] or "") for before, after in itertools.pairwise(rows)):
            times = _some([f"{_stamp(row['started'])} UTC" for row in rows if row["started"]])
            found.append(f"Process {index}{of_run} was started {len(rows):,} times: {times}.")
        else:
            some = _some([row["process"] for row in rows])
            found.append(f"{len(rows):,} processes have the index {index}{of_run} at the same time: {some}.")
    if len(found) > _TOP:
        found[_TOP:] = [f"The same applies to {len(found) - _TOP:,} more."]
    return found


def log(document: Document) -> list[str]:
    """Parts of the log that could not be read or are missing; empty for a complete log."""
    counts = document["log"]
    unknown = counts["unknown_events"]
    parts = [f"{formats.count(counts[key], noun)}{what}" for key, (noun, what) in _IGNORED.items() if counts[key]]
    if unknown:
        parts.append(f"{formats.count(sum(unknown.values()), 'event')} of unknown kind ({_some(list(unknown))})")
    found = []
    if parts:
        found.append(f"Ignored, of {counts['lines']:,} lines: {', '.join(parts)}.")
    if counts["problems"]:
        some = "; ".join(f"{one['log']}:{one['line']}: {one['reason']}" for one in counts["problems"][:_TOP])
        found.append(f"The first: {some}.")
    if counts["skipped"]:
        found.append(f"Skipped, because they are not regular files: {'; '.join(counts['skipped'][:_TOP])}.")
    if counts["damaged"]:
        found.append(f"Damaged or truncated compressed files: {_some(counts['damaged'])}.")
    numbers = {**counts, "missing_events": document["totals"]["missing_events"]}
    found += [formats.count(numbers[key], noun) + what for key, (noun, what) in _NOTED.items() if numbers[key]]
    found += [
        f"Probe {one['probe']} did not work: {one['reason'] or 'no reason given'}; {often(one)}."
        for one in document["probes_failed"]
    ]
    return found


def _short(label: str) -> str:
    return formats.short_name(names.last_of(label), label)


def _who(one: Row) -> str:
    return formats.short_name(one["name"], one["function"])


def _some(names: list[str]) -> str:
    more = len(names) - _TOP
    return ", ".join(os.path.basename(name) for name in names[:_TOP]) + (f" and {more:,} more" if more > 0 else "")


def _stamp(stamp: str) -> str:
    """A timestamp as text, `2025-03-01 12:00:00`."""
    return stamp[:19].replace("T", " ")


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


# Problems: donation violations, steady-state violations, failed compiles, memory, storms


def donations(document: Document) -> list[str]:
    """A sentence for each donation violation."""
    return [f"{_donation(one)}; {often(one)}." for one in document["donation_violations"]]


def _donation(one: Row) -> str:
    who, where = _who(one), _at(one)
    array = f"{one['leaf'] or 'an array'} ({one['dtype'] or '?'}[{','.join(map(str, one['shape']))}])"
    if one["kind"] == "use_after_donate":
        donor = one["donated_by"]
        by = f"{_short(donor)}{_at(one, 'donated_at')}" if donor and donor != "unknown" else "an unknown call"
        return f"{array} was used{where} after it was donated to {by}"
    if one["kind"] == "double_donation":
        return f"The buffer of {array} was passed twice to a call of {who}{where} that donates it"
    if one["kind"] == "unusable":
        size = f"; {size_of(one['bytes'])} are not reused" if one["bytes"] else ""
        return f"{array} was donated to {who}{where}, which has no result that could reuse its buffer{size}"
    return f"{one['kind']} of {array} in {who}{where}"


def steady(document: Document) -> list[str]:
    """A sentence for each call site that compiled in the steady state."""
    return [
        f"{_who(one)} compiled{_at(one)} in the steady state"
        f"{_because(one['reason'])}; {often(one)}, {formats.seconds(one['spent_seconds'])} spent."
        for one in document["steady_violations"]
    ]


def failures(document: Document) -> list[str]:
    """A sentence for each kind of failed compile."""
    return [
        f"{_who(one)} did not compile{_at(one)}: {one['error'] or 'an error'}"
        f"{f' in {phase}' if (phase := one['phase']) else ''}{_because(one['message'])}; {often(one)}, "
        f"{formats.seconds(one['spent_seconds'])} spent."
        for one in document["failures"]
    ]


def memory(document: Document) -> list[str]:
    """Sentences about out-of-memory errors, leaks, memory pressure, and the programs that need most memory."""
    rows = document["memory"]
    found = [_shortage(one) for one in rows["out_of_memory"]]
    found += [
        formats.sentences(f"Memory leak: {one['message'] or one['growing']}", capital(often(one)))
        for one in rows["leaks"]
    ]
    found += [
        f"{one['place']} was nearly full, {formats.percent(one['ratio'])}"
        f"{f' of {size_of(limit)}' if (limit := one['limit_bytes']) else ''}; {often(one)}."
        for one in rows["pressure"]
    ]
    found += [
        formats.sentences(f"Will not fit: {one['message'] or one['function']}", capital(often(one)))
        for one in rows["will_not_fit"]
    ]
    return found + _largest_programs(document)


def _largest_programs(document: Document) -> list[str]:
    """The memory of the largest programs at their peak."""
    large = [
        row for row in document["functions"] if row["executable"] and (row["executable"]["peak_bytes"] or 0) >= _LARGE
    ]
    large.sort(key=lambda row: -row["executable"]["peak_bytes"])
    texts = [wording.of_peak(row["executable"], name=_short(row["function"])) for row in large[:_TOP_PROGRAMS]]
    return [formats.sentences(text) for text in texts if text]


def _shortage(one: Row) -> str:
    what = one["function"] or one["program"] or "a call"
    programs = [f"{row.get('function')} {size_of(row.get('total_bytes'))}" for row in one["executables"][:_TOP]]
    return formats.sentences(
        f"Out of memory in {what}{_at(one)}: {one['message'] or 'no message'}",
        capital(wording.of_temporaries(one) or "") or None,
        capital(wording.of_largest_buffers(one) or "") or None,
        f"Largest arrays: {'; '.join(map(_arrays, one['arrays'][:_TOP]))}" if one["arrays"] else None,
        f"Largest programs: {', '.join(programs)}" if programs else None,
        capital(often(one)),
    )


def _arrays(row: Row) -> str:
    """A group of live arrays: `3 × float32[1024,1024], 3.0 GiB together`."""
    shape = ",".join(map(str, row.get("shape", ())))
    return f"{row.get('count', 1)} × {row.get('dtype', '?')}[{shape}], {size_of(row.get('bytes'))} together"


def compile_time(document: Document) -> list[str]:
    """Sentences about the time of long traces and of profiled compiles."""
    return times.sentences(document["functions"], most=len(document["functions"]) * 2)


def storms(document: Document) -> list[str]:
    """A sentence for each function with recompile storms."""
    return [
        f"{row['function']}: {formats.count(row['storms'], 'recompile storm')}"
        f"{'; the last one had not ended when the log ended' * bool(row['is_in_storm'])}."
        for row in document["functions"]
        if row["storms"]
    ]


def often(one: Row) -> str:
    """How often something happened: `3 times in 2 processes`."""
    times = "once" if one["times"] == 1 else f"{one['times']:,} times"
    return f"{times} in {one['processes']:,} processes" if one["processes"] > 1 else times


def size_of(size: float | None) -> str:
    """A number of bytes as text, `1.5 GiB`; it may be unknown."""
    return formats.size(int(size)) if isinstance(size, (int, float)) else "an unknown size"


def _at(one: Row, name: str = "call_site") -> str:
    return f" at {formats.file_line(one[name])}" if one[name] else ""


def _because(reason: str | None) -> str:
    return f" ({reason.removesuffix('.')})" if reason else ""
