"""The upper part of a picture: who runs and how it goes, one process in lines or several in a table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import words
from jitwatch.top.addresses import shown
from jitwatch.top.cells import padded, short_name, size, size_of, width, wrapped
from jitwatch.top.figures import Figures, MemoryFigures
from jitwatch.top.frame import Frame, name_of
from jitwatch.top.health import LEVELS, Level, verdict_of
from jitwatch.top.lines import Column, Line, Span, Style, flowed, line, table
from jitwatch.top.tracking import Process

#: Marks that tell the levels apart without colours.
MARKS: Final[dict[Level, str]] = {"bad": "✗", "warn": "!", "gone": "–", "busy": "◐", "good": "✓"}
_DASH: Final = "–"


def header(frame: Frame, columns: int, rows: int) -> list[Line]:
    """Who runs, what is to be said of it, and what compiles now, in at most so many rows (4 or more)."""
    if len(frame.processes) == 1:
        head = _of_one(frame.processes[0], columns, 3 if rows >= 6 else 2)
    else:
        head = _of_several(frame, columns, max(3, rows - 4))
    return [*head, *_verdicts(frame, columns, max(1, min(4, rows - 1 - len(head)))), *_now(frame, columns)]


def _of_one(process: Process, columns: int, rows: int) -> list[Line]:
    figures = process.figures
    title = [Span(name_of(process), "bold")]
    if figures is None:
        return [tuple(title)]
    title += [Span(shown(process.url)), Span(f"up {duration(figures.uptime_seconds)}"), *_steps(figures)]
    counts = [
        Span(words.count(figures.compiles, "compile")),
        Span(words.count(figures.recompiles, "recompile"), "warn" if figures.recompiles else ""),
        Span(f"compiling {words.percent(figures.compiling_ratio)} of the time"),
        Span(f"{words.count(figures.storms_active, 'storm')} now", "bad" if figures.storms_active else ""),
        _misuses(figures),
        *_memory(figures),
    ]
    if figures.failures:
        counts.append(Span(f"{words.count(figures.failures, 'compile')} failed"))
    return [*flowed(title, columns, 1), *flowed(counts, columns, rows - 1)]


def _steps(figures: Figures) -> list[Span]:
    if figures.step is None:
        return []
    each = f", {short_seconds(figures.step_seconds)} each" if figures.step_seconds else ""
    return [Span(f"step {figures.step:,}{each}")]


def _misuses(figures: Figures) -> Span:
    number = figures.donation_violations
    return Span(words.count(number, "donation violation"), "bad" if number else "")


def _memory(figures: Figures) -> list[Span]:
    found = []
    if figures.memory is not None:
        is_full = figures.memory.device in figures.pressure
        found.append(Span(f"{figures.memory.device} {_use(figures.memory)}", "bad" if is_full else ""))
    if figures.host_resident_bytes is not None:
        found.append(Span(f"RSS {size(figures.host_resident_bytes)}", "bad" if "host" in figures.pressure else ""))
    return found


def _use(memory: MemoryFigures) -> str:
    if memory.limit_bytes is not None:
        return size_of(memory.in_use_bytes, memory.limit_bytes)
    return f"{size(memory.in_use_bytes)}{' of arrays' if memory.is_estimate else ''}"


def _of_several(frame: Frame, columns: int, rows: int) -> list[Line]:
    """A row a process; where there are too many, around the chosen one, or else those that are worst off."""
    processes = list(frame.processes)
    at = next((number for number, one in enumerate(processes) if one.url == frame.chosen), 0)
    fits = rows - 1
    first = 0
    if len(processes) > fits:
        fits -= 1
        first = min(max(0, at - fits // 2), len(processes) - fits)
        if frame.chosen is None:
            processes.sort(key=lambda one: LEVELS.index(verdict_of(one).level))
    lines = _table(processes[first : first + fits], frame.chosen, columns)
    hidden = [*processes[:first], *processes[first + fits :]]
    if hidden:
        ill = sum(verdict_of(one).level in ("bad", "warn") for one in hidden)
        text = f"  and {words.count(len(hidden), 'more process')}".replace("processs", "processes")
        lines.append(line(Span(f"{text}, {ill} of them not well" if ill else text, "warn" if ill else "dim")))
    return lines


def _table(processes: Sequence[Process], chosen: str | None, columns: int) -> list[Line]:
    levels = [verdict_of(one).level for one in processes]
    names = [
        f"{'▸' if one.url == chosen else ' '}{MARKS[level]} {name_of(one)}"
        for one, level in zip(processes, levels, strict=True)
    ]
    figures = [one.figures for one in processes]
    styles: list[Style] = [*levels]
    others = [
        Column("address", [shown(one.url) if one.figures else _DASH for one in processes], 9, is_right=False),
        Column("up", [_status(one) for one in processes], 5),
        Column("step", _cells(figures, lambda one: None if one.step is None else f"{one.step:,}"), 4),
        Column("each", _cells(figures, lambda one: short_seconds(one.step_seconds) if one.step_seconds else None), 6),
        Column("compiling", _cells(figures, lambda one: share(one.compiling_ratio)), 3),
        Column("compiles", _cells(figures, lambda one: f"{one.compiles:,}"), 2),
        Column("recompiles", _cells(figures, lambda one: f"{one.recompiles:,}")),
        Column("storms", _cells(figures, lambda one: f"{one.storms_active:,}"), 7),
        Column("donation", _cells(figures, lambda one: f"{one.donation_violations:,}"), 10),
        Column("device", _cells(figures, lambda one: _short_use(one.memory)), 8),
        Column("RSS", _cells(figures, lambda one: size(one.host_resident_bytes or 0)), 11),
    ]
    # What no process has takes no room.
    others = [column for column in others if set(column.cells) != {_DASH}]
    return table(Column("  process", names, styles=styles), others, columns, least=22)


def _cells(figures: Sequence[Figures | None], cell: Callable[[Figures], str | None]) -> list[str]:
    return [_DASH if one is None else (cell(one) or _DASH) for one in figures]


def _short_use(memory: MemoryFigures | None) -> str | None:
    if memory is None or not memory.in_use_bytes:
        return None
    if memory.limit_bytes:
        return f"{size(memory.in_use_bytes)} {words.percent(memory.in_use_bytes / memory.limit_bytes)}"
    return size(memory.in_use_bytes)


def _status(process: Process) -> str:
    if process.figures is None:
        return "no answer"
    if process.status == "live":
        return duration(process.figures.uptime_seconds)
    return process.status if process.status == "ended" else f"silent {duration(process.quiet_s)}"


def _verdicts(frame: Frame, columns: int, rows: int) -> list[Line]:
    """The worst, in two rows if it needs them, and as many of the others as there is room for."""
    found: list[Line] = []
    verdicts = frame.verdicts()
    if verdicts[0][1].level in ("bad", "warn"):
        # What is well needs no words beside what is not.
        verdicts = [pair for pair in verdicts if pair[1].level in ("bad", "warn")]
    for process, verdict in verdicts:
        whose = f"{name_of(process)}: " if len(frame.shown) > 1 and verdict.level != "good" else ""
        text = f"{MARKS[verdict.level]} {whose}{verdict.sentence}"
        if len(found) < rows:
            parts = wrapped(text, columns, min(2, rows - len(found)), indent="  ")
            found += [line(Span(part, verdict.level)) for part in parts]
        if verdict.level == "good":
            break
    return found


def _now(frame: Frame, columns: int) -> list[Line]:
    """What compiles right now, the longest first; nothing of jobs that are gone."""
    if not any(process.status == "live" for process in frame.shown):
        return []
    running = sorted(
        (
            (one.for_seconds, one, process)
            for process in frame.shown
            if process.figures is not None and process.status == "live"
            for one in process.figures.in_progress
        ),
        key=lambda row: -row[0],
    )
    if not running:
        return [line(Span("  nothing compiles right now", "dim"))]
    items = []
    for seconds, one, process in running:
        whose = f" in {name_of(process)}" if len(frame.shown) > 1 else ""
        name = "JAX's own" if one.function == JAX_LABEL else short_name(one.function)
        items.append(
            Span(f"{name}{' again' if one.is_again else ''}{whose} for {short_seconds(seconds)} ({one.phase})")
        )
    lead = "  compiles now: "
    first = flowed(items, columns - width(lead), 1)
    return [line(Span(padded(lead, width(lead)), "warn"), *(first[0] if first else ()))]


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `12 min`, `3 h 05 min`, `2 d 04 h`: no more than two units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if hours == 0:
        return f"{minutes} min {whole % 60:02d} s" if minutes < 10 else f"{minutes} min"
    return f"{hours} h {minutes % 60:02d} min" if days == 0 else f"{days} d {hours % 24:02d} h"


def share(ratio: float) -> str:
    """`4 %`, or a dash for nothing: a share in a table."""
    if ratio <= 0:
        return _DASH
    return "< 1 %" if ratio < 0.01 else words.percent(ratio)


def short_seconds(seconds: float) -> str:
    """`54 ms`, `1.25 s`, `12 min`: as a person would say them, no more digits than that."""
    return f"{seconds * 1000:.0f} ms" if 0.01 <= seconds < 1 else words.seconds(seconds)
