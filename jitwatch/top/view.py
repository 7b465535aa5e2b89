"""How jobs, functions and recompiles are worded, styled and set in columns; as plain text and as JSON too. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats
from jitwatch.render.layout import Line, Row, Span, fit, flowed, table, width, wrapped
from jitwatch.top import model
from jitwatch.top.model import Function, JobState, Level, Process

#: A text, and what to change; empty where there is no advice.
Note = tuple[str, str]
#: Marks that distinguish the levels without colours.
MARKS: Final[dict[Level, str]] = {"bad": "✗", "warn": "!", "gone": "–", "busy": "◐", "good": "✓"}
#: Version of the JSON; a name is only ever dropped with a new one.
SCHEMA: Final = 1
#: Columns of the tables; on a narrow terminal those of the highest rank are left out first, those of rank 0 never.
_PROCESS: Final = {
    "  process": 0, "address": 9, "up": 5, "step": 4, "each": 6, "compiling": 3, "compiles": 2, "recompiles": 0,
    "storms": 7, "donation": 10, "device": 8, "RSS": 11,
}  # fmt: skip
_FUNCTION: Final = {
    "function": 0, "compiles": 3, "recompiles": 0, "seconds": 2, "lost": 0, "of run": 1, "cached": 4, "cause": 1,
}  # fmt: skip
#: Names of rows of the JSON.
_FUNCTION_NAMES: Final = (
    "function location compiles recompiles failures seconds lost_seconds lost_ratio cache_entries causes is_in_storm"
)
_SITE_NAMES: Final = "function call_site causes paths recompiles lost_seconds reason advice pitfall"
_PITFALL_NAMES: Final = "pitfall function location call_site message advice lost_seconds timestamp"
#: Rows of plain text for processes and functions, and notes of each kind.
_MOST_PROCESSES, _MOST_FUNCTIONS, _MOST_NOTES = 24, 30, 5


def name_of(function: str, columns: int = 0) -> str:
    """The label of a function if it fits, else its name: `loss@train.py:9` of `train.f.<locals>.loss@train.py:9`."""
    label = "(JAX's own)" if function == JAX_LABEL else function
    head, at, where = label.partition("@")
    return label if width(label) <= columns else f"{head.rpartition('.')[2]}{at}{where}" or label


def verdicts(processes: Sequence[Process], columns: int, rows: int = 4) -> list[Line]:
    """All findings of one job, or the worst of each of several, the worst first; beside a problem nothing else."""
    if len(processes) == 1:
        pairs = [("", one) for one in processes[0].findings]
    elif all(one.level == "good" for one in processes):
        pairs = [("", {"level": "good", "sentence": f"All {len(processes)} processes are healthy."})]
    else:
        pairs = [(f"{process.name}: ", process.findings[0]) for process in processes]
        pairs.sort(key=lambda pair: model.LEVELS.index(pair[1]["level"]))
    found: list[Line] = []
    for whose, one in [pair for pair in pairs if pair[1]["level"] in ("bad", "warn")] or pairs:
        text = f"{MARKS[one['level']]} {whose}{one['sentence']}"
        found += [((part, one["level"]),) for part in wrapped(text, columns, min(2, rows - len(found)))]
    return found


def running(processes: Sequence[Process], columns: int) -> list[Line]:
    """What compiles now, the longest first; nothing of jobs that do not answer."""
    live = [(one, one.state) for one in processes if one.state is not None and one.status == "live"]
    found = [(row, process) for process, state in live for row in state["in_progress"]]
    if not found:
        return [(("  no compile in progress", "dim"),)] if live else []
    items: list[Span] = []
    for row, process in sorted(found, key=lambda pair: -pair[0]["for_s"]):
        again = " again" if row["is_again"] else ""
        whose = f" in {process.name}" if len(processes) > 1 else ""
        items.append((f"{name_of(row['function'])}{again}{whose} for {_short(row['for_s'])} ({row['phase']})", ""))
    return [(("  compiling: ", "warn"), *line) for line in flowed(items, columns - 16, 1)]


class Figure(NamedTuple):
    """A figure of a job: as the cell of a table, in words, and how it is styled."""

    cell: str
    words: str
    style: str = ""


def figures_of(process: Process) -> dict[str, Figure]:
    """The figures of a job by the titles of their columns."""
    state = process.state
    if state is None:
        return {"up": Figure("no response", "")}
    totals, memory, levels = state["totals"], state["memory"], state["levels"]["figures"]

    def counted(number: int, noun: str, name: str, more: str = "") -> Figure:
        return Figure(f"{number:,}", f"{formats.count(number, noun)}{more}", _alarm(levels.get(name)))

    up, busy = formats.duration(state["uptime_seconds"]), formats.percent(totals["busy_ratio"])
    each = _short(state["mean_step_seconds"]) if state["mean_step_seconds"] else ""
    status = {"live": up, "silent": f"silent {formats.duration(process.quiet_s)}"}.get(process.status, "ended")
    found = {
        "address": Figure(process.address, process.address),
        "up": Figure(status, f"up {up}"),
        "each": Figure(each, ""),
        "compiles": counted(totals["compiles"], "compile", "compiles"),
        "recompiles": counted(totals["recompiles"], "recompile", "recompiles"),
        "compiling": Figure(busy, f"compiling {busy} of the time", _alarm(levels.get("busy_seconds"))),
        "storms": counted(totals["storms_active"], "storm", "storms_active", " now"),
        "donation": counted(totals["donation_violations"], "donation violation", "donation_violations"),
    }
    if state["step"] is not None:
        found["step"] = Figure(f"{state['step']:,}", f"step {state['step']:,}{f', {each} each' if each else ''}")
    if (device := model.fullest(state)) is not None:
        use, limit = device["in_use_bytes"] or 0, device["limit_bytes"]
        arrays = "" if device["in_use_from"] == "device" else " of arrays"
        cell = f"{formats.size(use)} {formats.percent(use / limit)}" if limit else formats.size(use)
        of = arrays if limit is None else f" of {formats.size(limit)}"
        found["device"] = Figure(cell, f"{device['device']} {formats.size(use)}{of}", _alarm(device["level"]))
    if (resident := memory["host"].get("resident_bytes")) is not None:
        size = formats.size(resident)
        found["RSS"] = Figure(size, f"RSS {size}", "bad" if "host" in memory["pressure"] else "")
    if totals["failures"]:
        found["failed"] = counted(totals["failures"], "compile", "failures", " failed")
    return found


def _alarm(level: Level | None) -> str:
    """The style of a figure with this level: none unless something is wrong."""
    return level if level in ("bad", "warn") else ""


def facts(process: Process, columns: int, rows: int = 3) -> list[Line]:
    """One job in at most so many lines: its run and pace, its counts, its memory."""
    figures = [(title, (one.words, one.style)) for title, one in figures_of(process).items() if one.words]
    pace = [span for title, span in figures if title in ("address", "up", "step")]
    others = [span for _, span in figures if span not in pace]
    return [*flowed([(process.name, "bold"), *pace], columns, 1), *flowed(others, columns, rows - 1)]


def processes_table(processes: Sequence[Process], chosen: str | None, columns: int, rows: int) -> list[Line]:
    """A row per job; where they do not fit, the chosen one and the worst, and how many more."""
    fits = len(processes) if len(processes) < rows else max(1, rows - 2)
    worst = sorted(processes, key=lambda one: (one.url != chosen, model.LEVELS.index(one.level)))
    kept, hidden = {one.url for one in worst[:fits]}, worst[fits:]
    cells: list[Row] = []
    for one in (one for one in processes if one.url in kept):
        name = f"{'▸' if one.url == chosen else ' '}{MARKS[one.level]} {one.name}"
        figures = {title: (figure.cell, figure.style) for title, figure in figures_of(one).items() if figure.cell}
        cells.append({"  process": (name, one.level), **figures})
    lines = table(_PROCESS, cells, columns, left={"address"})
    if hidden:
        ill = sum(one.level in ("bad", "warn") for one in hidden)
        more = f"  and {len(hidden):,} more {'process' if len(hidden) == 1 else 'processes'}"
        lines.append(((f"{more}, {ill:,} unhealthy", "warn") if ill else (more, "dim"),))
    return lines


def functions_table(rows: Sequence[Function], columns: int, most: int) -> list[Line]:
    """The first so many functions, and how many more there are; the first line is the head."""
    if not rows:
        return [(("No function has compiled yet.", "dim"),)]
    shown = rows if len(rows) <= most else rows[: most - 1]
    lines = table(_FUNCTION, map(_function, shown), columns, left={"cause"}, shorten=name_of)
    if hidden := len(rows) - len(shown):
        lines.append(((f"and {formats.count(hidden, 'more function')}", "dim"),))
    return lines


def _function(one: Function) -> Row:
    def number(value: int, spread: tuple[int, int] | None) -> str:
        return f"{value:,}" if spread is None else f"{value:,} ({spread[0]:,}–{spread[1]:,})"

    causes = sorted(one["causes"], key=lambda cause: (-one["causes"][cause], cause))
    texts = {
        "function": one["function"],
        "compiles": number(one["compiles"], one["compiles_spread"]),
        "recompiles": number(one["recompiles"], one["recompiles_spread"]),
        "seconds": f"{one['seconds']:,.2f}" if one["seconds"] else "",
        "lost": f"{one['lost_seconds']:,.2f}" if one["lost_seconds"] else "",
        "of run": formats.percent(one["lost_ratio"]).replace("under", "<") if one["lost_ratio"] else "",
        "cached": "" if one["cache_entries"] is None else f"{one['cache_entries']:,}",
        "cause": f"{causes[0]} +{len(causes) - 1}" if len(causes) > 1 else "".join(causes),
    }
    alarm = _alarm(one["level"])
    return {name: (text, alarm if name in ("function", "recompiles") else "") for name, text in texts.items() if text}


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if 0.01 <= seconds < 1 else formats.seconds(seconds)


def recompiles(states: Sequence[JobState]) -> list[Note]:
    """The newest recompiles: when and where each was, what changed, what it lost."""
    found = []
    for seconds_ago, site in model.recompiles_of(states):
        ago = "" if seconds_ago is None else f"{formats.ago(seconds_ago)}: "
        often = f"{formats.count(site['recompiles'], 'recompile')}, " if site["recompiles"] > 1 else ""
        lost = f" {often}{formats.seconds(site['lost_seconds'])} lost." if site["lost_seconds"] else ""
        found.append((f"{ago}{_where(site)}: {site['reason']}.{lost}", ""))
    return found


def advice(states: Sequence[JobState]) -> list[Note]:
    """What to change, once for all processes: pitfalls, and recompiles without one; the most lost seconds first."""
    found: dict[object, tuple[float, Note]] = {}
    pitfalls = (one for state in states for one in state["pitfalls"])
    for one in sorted(pitfalls, key=lambda one: one["timestamp"], reverse=True):
        note = (f"{one['pitfall']} in {_where(one)}: {one['message']}.", one["advice"])
        found[one["pitfall"], one["function"], one["message"]] = (one["lost_seconds"], note)
    for site in (one for state in states for one in state["call_sites"] if one["advice"] and not one["pitfall"]):
        note = (f"{_where(site)}: {site['reason']}.", site["advice"])
        found[site["function"], site["call_site"], *site["causes"], *site["paths"]] = (site["lost_seconds"], note)
    return [note for _, note in sorted(found.values(), key=lambda pair: -pair[0])]


def _where(row: Mapping[str, Any]) -> str:
    """`train_step at train.py:88`."""
    place = row["call_site"] or row.get("location")
    return f"{name_of(row['function'])}{f' at {formats.file_line(place)}' if place else ''}"


#: The parts of texts: name, title, and what makes the texts.
TEXTS: Final = (("recompiles", "Newest recompiles", recompiles), ("advice", "Advice", advice))


def notes(found: Sequence[Note], columns: int, lines: int) -> list[Line]:
    """Each text in about so many lines, and below it what to change."""
    shown: list[Line] = []
    for text, change in found:
        shown += [((part, ""),) for part in wrapped(f"- {text}", columns, max(1, lines - 1) if change else lines)]
        parts = wrapped(f"  → {change}.", columns, max(2, lines), indent="    ") if change else []
        shown += [((part, "good"),) for part in parts]
    return shown


def as_text(processes: Sequence[Process], columns: int) -> str:
    """All of it as plain text: a line break at the end, no blanks at the end of a line."""
    states, is_one = model.counted(processes), len(processes) == 1
    lines = facts(processes[0], columns) if is_one else processes_table(processes, None, columns, _MOST_PROCESSES)
    lines += [*verdicts(processes, columns), *running(processes, columns)]
    if states:
        lines += [(), *functions_table(model.functions_of(states), columns, _MOST_FUNCTIONS)]
    for _, title, texts in TEXTS:
        if found := texts(states):
            more = f" · {len(found) - _MOST_NOTES:,} more" if len(found) > _MOST_NOTES else ""
            lines += [(), ((f"{title}{more}", ""),), *notes(found[:_MOST_NOTES], columns, 3)]
    return "".join(fit("".join(text for text, _ in line), columns).rstrip() + "\n" for line in lines)


def as_json(processes: Sequence[Process]) -> str:
    """All figures as one JSON object; docs/cli.md describes it."""
    found = [
        {
            "url": one.url,
            "status": one.status,
            "quiet_seconds": one.quiet_s,
            "problem": one.problem,
            "health": one.findings,
            "figures": None if one.state is None else _in_json(one.state),
        }
        for one in processes
    ]
    return json.dumps({"schema": SCHEMA, "time": time.time(), "processes": found}, indent=2, allow_nan=False)


def _in_json(state: JobState) -> dict[str, Any]:
    totals, memory, device = state["totals"], state["memory"], model.fullest(state)
    functions = sorted(state["functions"], key=model.SORTS["lost"])
    return {
        **_named(state, "run process_index pid version uptime_seconds step"),
        "start_time": state["start_time_seconds"],
        "step_seconds": state["mean_step_seconds"] or None,
        "compiling_ratio": totals["busy_ratio"],
        **_named(totals, "compiles recompiles failures lost_seconds lost_ratio storms_active steady_violations"),
        "donation_violations": totals["donation_violations"],
        "out_of_memory": int(sum(one["value"] for one in state["metrics"].get("jitwatch_oom_total", ()))),
        "is_steady": state["steady_seconds"] is not None,
        "memory": device
        and _named(device, "device in_use_bytes limit_bytes", is_estimate=device["in_use_from"] != "device"),
        "host_resident_bytes": memory["host"].get("resident_bytes"),
        **_named(memory, "pressure leaks"),
        "in_progress": [
            _named(one, "function phase is_again", for_seconds=one["for_s"]) for one in state["in_progress"]
        ],
        "functions": [_named(one, _FUNCTION_NAMES) for one in functions],
        "newest_recompiles": [_named(one, _SITE_NAMES, seconds_ago=ago) for ago, one in model.recompiles_of([state])],
        "pitfalls": [_named(one, _PITFALL_NAMES) for one in state["pitfalls"]],
    }


def _named(row: Mapping[str, Any], names: str, **others: object) -> dict[str, Any]:
    return {name: row[name] for name in names.split()} | others
