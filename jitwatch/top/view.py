"""How jobs, functions and recompiles are worded, styled and set in columns; as plain text and as JSON too. Pure."""

from __future__ import annotations

import json
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Final, Literal

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats
from jitwatch.top import model
from jitwatch.top.model import Figures, FunctionRow, Level, Process

Style = Literal["", "bold", "dim", "good", "busy", "warn", "bad", "gone", "head"]
#: Cleaned text in one style, and a line of such texts.
Span = tuple[str, Style]
Line = tuple[Span, ...]
#: A text, and what to change; empty where there is no advice.
Note = tuple[str, str]
#: Marks that distinguish the levels without colours.
MARKS: Final[dict[Level, str]] = {"bad": "✗", "warn": "!", "gone": "–", "busy": "◐", "good": "✓"}
#: Version of the JSON; a name is only ever dropped with a new one.
SCHEMA: Final = 1
_JAX_NAME: Final = "(JAX's own)"
_DASH: Final = "–"
_LEAST_NAME: Final = 22
#: Rows of plain text for processes and functions, and notes of each kind.
_PROCESSES, _FUNCTIONS, _NOTES = 24, 30, 5


def width(text: str) -> int:
    """Columns of a cleaned text on a terminal."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """The text in at most so many columns; `…` at the end of a cut one."""
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    kept = sum(used < columns for used in accumulate(map(_width_of, text)))
    return f"{text[:kept]}…"


def padded(text: str, columns: int, *, is_right: bool = False) -> str:
    """The text in exactly so many columns."""
    if (space := columns - width(text)) < 0:
        text = fit(text, columns)
        space = columns - width(text)
    return f"{' ' * space}{text}" if is_right else f"{text}{' ' * space}"


def wrapped(text: str, columns: int, lines: int, *, indent: str = "") -> list[str]:
    """The text in at most so many lines, all but the first indented; `…` at the end of a cut one."""
    if columns <= len(indent) + 1 or lines < 1:
        return []
    found = textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False)
    if len(found) > lines:
        found[lines - 1 :] = [f"{found[lines - 1]} {found[lines].strip()}"]
    # Wide characters were counted as one column each.
    return [fit(line, columns) for line in found]


def short_name(label: str, columns: int | None = None) -> str:
    """A function's label in so many columns, or its bare name.

    `train.make.<locals>.loss@train.py:9` becomes `loss@train.py:9` or `loss`; a lambda keeps its place.
    """
    if columns is not None and width(label) <= columns:
        return label
    path, at, where = label.partition("@")
    bare = path.rpartition(".<locals>.")[2].rpartition(".")[2] or path
    full = f"{bare}{at}{where}"
    is_whole = bare.startswith("<") or (columns is not None and width(full) <= columns)
    name = full if is_whole else bare
    return name if columns is None else fit(name, columns)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `12 min`, `3 h 05 min`, `2 d 04 h`: at most two units."""
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86_400
    if minutes < 10:
        return f"{minutes} min {int(seconds) % 60:02d} s" if minutes else f"{int(seconds)} s"
    if hours == 0:
        return f"{minutes} min"
    return f"{days} d {hours % 24:02d} h" if days else f"{hours} h {minutes % 60:02d} min"


def _short_seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if 0.01 <= seconds < 1 else formats.seconds(seconds)


def _share(ratio: float) -> str:
    return _DASH if ratio <= 0 else "< 1 %" if ratio < 0.01 else formats.percent(ratio)


def plain(line: Line) -> str:
    """The text of a line."""
    return "".join(text for text, _ in line).rstrip()


def cut(line: Line, columns: int) -> Line:
    """The line in at most so many columns."""
    found: list[Span] = []
    for text, style in line:
        found.append((fit(text, columns), style))
        columns -= width(text)
        if columns <= 0:
            break
    return tuple(found)


def flowed(items: Iterable[Span], columns: int, lines: int) -> list[Line]:
    """Items separated by dots in at most so many lines, each item whole; what does not fit is left out."""
    found: list[list[Span]] = [[]]
    used = 0
    for item in items:
        if found[-1] and used + 3 + width(item[0]) > columns:
            if len(found) == lines:
                continue
            found.append([])
        used = used + 3 + width(item[0]) if found[-1] else width(item[0])
        found[-1] += [(" · ", "dim"), item] if found[-1] else [item]
    return [cut(tuple(one), columns) for one in found if one]


@dataclass(slots=True)
class Column:
    """A column of a table.

    Attributes:
        cells: One per row.
        rank: On a narrow terminal the columns of the highest rank are left out first, those of rank 0 never.
        styles: One per row, or none.
        columns: Width of the widest cell, and of the gap before it.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    is_right: bool = True
    styles: Sequence[Style] = ()
    columns: int = field(init=False)

    def __post_init__(self) -> None:
        self.columns = max(map(width, (self.title, *self.cells))) + 2

    def cell(self, text: str) -> str:
        """The text at its place in the column."""
        return padded(text if self.is_right else f"  {text}", self.columns, is_right=self.is_right)

    def style(self, row: int) -> Style:
        """The style of a row."""
        return self.styles[row] if self.styles else ""


def table(
    names: Column, others: Iterable[Column], columns: int, *, shorten: Callable[[str, int], str] = fit
) -> list[Line]:
    """A head and the rows; the names get what the other columns leave, and are shortened where they must be."""
    kept = list(others)
    longest = names.columns - 2
    while columns - sum(one.columns for one in kept) < min(_LEAST_NAME, longest) and any(one.rank for one in kept):
        kept.remove(max(kept, key=lambda one: one.rank))
    space = max(1, columns - sum(one.columns for one in kept))
    shown = [shorten(name, space) for name in names.cells]
    size = min(space, max(map(width, (names.title, *shown))))
    lines: list[Line] = [((padded(names.title, size), "head"), *((one.cell(one.title), "head") for one in kept))]
    for row, name in enumerate(shown):
        cells = ((one.cell(one.cells[row]), one.style(row)) for one in kept)
        lines.append(((padded(name, size), names.style(row)), *cells))
    return [cut(line, columns) for line in lines]


def verdicts(processes: Sequence[Process], columns: int, rows: int = 4) -> list[Line]:
    """The worst that is to be said, in two lines if it needs them, and as many of the others as fit."""
    found: list[Line] = []
    for process, verdict in model.verdicts_of_all(processes):
        whose = f"{process.name}: " if len(processes) > 1 and verdict.level != "good" else ""
        text = f"{MARKS[verdict.level]} {whose}{verdict.sentence}"
        found += [((part, verdict.level),) for part in wrapped(text, columns, min(2, rows - len(found)), indent="  ")]
    return found


def running(processes: Sequence[Process], columns: int) -> list[Line]:
    """What compiles now, the longest first; nothing of jobs that do not answer."""
    live = [(one, one.figures) for one in processes if one.figures is not None and one.status == "live"]
    found = [(compile_.for_seconds, compile_, one) for one, figures in live for compile_ in figures.in_progress]
    if not found:
        return [(("  no compile in progress", "dim"),)] if live else []
    items: list[Span] = []
    for seconds, one, process in sorted(found, key=lambda row: -row[0]):
        again = " again" if one.is_again else ""
        whose = f" in {process.name}" if len(processes) > 1 else ""
        items.append((f"{_name_of(one.function)}{again}{whose} for {_short_seconds(seconds)} ({one.phase})", ""))
    lead = "  compiling: "
    return [((lead, "warn"), *line) for line in flowed(items, columns - len(lead), 1)]


def facts(process: Process, columns: int, rows: int = 3) -> list[Line]:
    """One job in at most so many lines: its run and pace, its counts, its memory."""
    figures = process.figures
    title: list[Span] = [(process.name, "bold")]
    if figures is None:
        return flowed(title, columns, 1)
    title += [(process.url.removeprefix("http://"), ""), (f"up {duration(figures.uptime_seconds)}", "")]
    if figures.step is not None:
        each = f", {_short_seconds(figures.step_seconds)} each" if figures.step_seconds else ""
        title.append((f"step {figures.step:,}{each}", ""))
    violations, pressure = figures.donation_violations, figures.pressure
    counts: list[Span] = [
        (formats.count(figures.compiles, "compile"), ""),
        (formats.count(figures.recompiles, "recompile"), "warn" if figures.recompiles else ""),
        (f"compiling {formats.percent(figures.compiling_ratio)} of the time", ""),
        (f"{formats.count(figures.storms_active, 'storm')} now", "bad" if figures.storms_active else ""),
        (formats.count(violations, "donation violation"), "bad" if violations else ""),
    ]
    if (memory := figures.memory) is not None:
        limit = f" of {formats.size(memory.limit_bytes)}" if memory.limit_bytes is not None else ""
        arrays = " of arrays" if memory.is_estimate and not limit else ""
        use = f"{memory.device} {formats.size(memory.in_use_bytes)}{limit}{arrays}"
        counts.append((use, "bad" if memory.device in pressure else ""))
    if figures.host_resident_bytes is not None:
        counts.append((f"RSS {formats.size(figures.host_resident_bytes)}", "bad" if "host" in pressure else ""))
    if figures.failures:
        counts.append((f"{formats.count(figures.failures, 'compile')} failed", ""))
    return [*flowed(title, columns, 1), *flowed(counts, columns, rows - 1)]


def processes_table(processes: Sequence[Process], chosen: str | None, columns: int, rows: int) -> list[Line]:
    """A row per job; where they do not fit, those around the chosen one or else the worst, and how many more."""
    ordered, first = list(processes), 0
    if len(ordered) > (fits := max(1, rows - 1)):
        fits = max(1, fits - 1)
        if chosen is None:
            ordered.sort(key=lambda one: model.LEVELS.index(model.level_of(one)))
        at = next((number for number, one in enumerate(ordered) if one.url == chosen), 0)
        first = min(max(0, at - fits // 2), len(ordered) - fits)
    shown, hidden = ordered[first : first + fits], [*ordered[:first], *ordered[first + fits :]]
    lines = _processes(shown, chosen, columns)
    if hidden:
        ill = model.unhealthy(hidden)
        more = f"  and {len(hidden):,} more {'process' if len(hidden) == 1 else 'processes'}"
        lines += [cut(((f"{more}, {ill:,} unhealthy" if ill else more, "warn" if ill else "dim"),), columns)]
    return lines


def _processes(shown: Sequence[Process], chosen: str | None, columns: int) -> list[Line]:
    levels = [model.level_of(one) for one in shown]
    marks = [f"{'▸' if one.url == chosen else ' '}{MARKS[level]} " for one, level in zip(shown, levels, strict=True)]

    def column(title: str, rank: int, cell: Callable[[Figures], str | None]) -> Column:
        cells = [one.figures and cell(one.figures) for one in shown]
        return Column(title, [one or _DASH for one in cells], rank)

    def device(figures: Figures) -> str | None:
        memory = figures.memory
        if memory is None or not memory.in_use_bytes:
            return None
        share = f" {formats.percent(memory.in_use_bytes / memory.limit_bytes)}" if memory.limit_bytes else ""
        return f"{formats.size(memory.in_use_bytes)}{share}"

    others = [
        Column("address", [one.url.removeprefix("http://") if one.figures else _DASH for one in shown], 9, False),
        Column("up", [_status(one) for one in shown], 5),
        column("step", 4, lambda one: None if one.step is None else f"{one.step:,}"),
        column("each", 6, lambda one: _short_seconds(one.step_seconds) if one.step_seconds else None),
        column("compiling", 3, lambda one: _share(one.compiling_ratio)),
        column("compiles", 2, lambda one: f"{one.compiles:,}"),
        column("recompiles", 0, lambda one: f"{one.recompiles:,}"),
        column("storms", 7, lambda one: f"{one.storms_active:,}"),
        column("donation", 10, lambda one: f"{one.donation_violations:,}"),
        column("device", 8, device),
        column("RSS", 11, lambda one: formats.size(one.host_resident_bytes or 0)),
    ]
    # A column in which no process has a value is left out.
    names = Column("  process", [f"{mark}{one.name}" for mark, one in zip(marks, shown, strict=True)], styles=levels)
    return table(names, [one for one in others if set(one.cells) != {_DASH}], columns)


def _status(process: Process) -> str:
    if process.figures is None:
        return "no response"
    if process.status == "live":
        return duration(process.figures.uptime_seconds)
    return process.status if process.status == "ended" else f"silent {duration(process.quiet_s)}"


def functions_table(rows: Sequence[FunctionRow], columns: int, most: int) -> list[Line]:
    """The first so many functions, and how many more there are; the first line is the head."""
    shown = rows if len(rows) <= most else rows[: most - 1]
    if not shown:
        return [(("No function has compiled yet.", "dim"),)]

    def column(title: str, rank: int, cell: Callable[[FunctionRow], str], **options: Any) -> Column:
        return Column(title, [cell(one) for one in shown], rank, **options)

    styles: list[Style] = ["bad" if one.is_in_storm else "" for one in shown]
    warns: list[Style] = ["warn" if one.recompiles and one.function != JAX_LABEL else "" for one in shown]
    names = [_JAX_NAME if one.function == JAX_LABEL else one.function for one in shown]
    others = [
        column("compiles", 3, lambda one: _number(one.compiles, one.compiles_spread)),
        column("recompiles", 0, lambda one: _number(one.recompiles, one.recompiles_spread), styles=warns),
        column("seconds", 2, lambda one: _seconds(one.seconds)),
        column("lost", 0, lambda one: _seconds(one.lost_seconds)),
        column("of run", 1, lambda one: _share(one.lost_ratio)),
        column("cached", 4, lambda one: _DASH if one.cache_entries is None else f"{one.cache_entries:,}"),
        column("cause", 1, _cause, is_right=False),
    ]
    lines = table(Column("function", names, styles=styles), others, columns, shorten=short_name)
    if hidden := len(rows) - len(shown):
        lines.append(((fit(f"and {formats.count(hidden, 'more function')}", columns), "dim"),))
    return lines


def _number(number: int, spread: tuple[int, int] | None) -> str:
    return f"{number:,}" if spread is None else f"{number:,} ({spread[0]:,}–{spread[1]:,})"


def _seconds(seconds: float) -> str:
    if seconds <= 0:
        return _DASH
    return f"{seconds:.2f}" if seconds < 1000 else f"{seconds:,.0f}"


def _cause(one: FunctionRow) -> str:
    """The most frequent cause, and how many others there are."""
    first = min(one.causes, key=lambda cause: (-one.causes[cause], cause), default="")
    return f"{first} +{len(one.causes) - 1}" if len(one.causes) > 1 else first


def recompiles(all_figures: Sequence[Figures]) -> list[Note]:
    """The newest recompiles: when and where each was, what changed, what it lost."""
    found = []
    for one in sorted((one for figures in all_figures for one in figures.newest_recompiles), key=model.newest_first):
        ago = f"{formats.ago(one.seconds_ago)}: " if one.seconds_ago is not None else ""
        often = f"{formats.count(one.recompiles, 'recompile')}, " if one.recompiles > 1 else ""
        lost = f" {often}{formats.seconds(one.lost_seconds)} lost." if one.lost_seconds else ""
        found.append((f"{ago}{_where(one.function, one.call_site)}: {one.reason}.{lost}", ""))
    return found


def advice(all_figures: Sequence[Figures]) -> list[Note]:
    """What to change, once for all processes: pitfalls, and recompiles without one; the most lost seconds first."""
    found: dict[object, tuple[float, Note]] = {}
    for pitfall in sorted((one for each in all_figures for one in each.pitfalls), key=lambda one: one.timestamp)[::-1]:
        where = _where(pitfall.function, pitfall.call_site or pitfall.location)
        note = (f"{pitfall.pitfall} in {where}: {pitfall.message}.", pitfall.advice)
        found[pitfall.pitfall, pitfall.function, pitfall.message] = (pitfall.lost_seconds, note)
    for one in (one for each in all_figures for one in each.newest_recompiles if one.advice and not one.pitfall):
        note = (f"{_where(one.function, one.call_site)}: {one.reason}.", one.advice)
        found[one.function, one.call_site, one.causes, one.paths] = (one.lost_seconds, note)
    return [note for _, note in sorted(found.values(), key=lambda pair: -pair[0])]


def notes(found: Sequence[Note], columns: int, lines: int) -> list[Line]:
    """Each text in about so many lines, and below it what to change."""
    shown: list[Line] = []
    for text, change in found:
        parts = wrapped(text, columns - 2, max(1, lines - 1) if change else lines)
        shown += [(("  " if number else "- ", ""), (part, "")) for number, part in enumerate(parts)]
        if change:
            parts = wrapped(f"→ {change}.", columns - 2, max(2, lines))
            shown += [(("  ", ""), (part, "good")) for part in parts]
    return shown


def _name_of(function: str) -> str:
    return _JAX_NAME if function == JAX_LABEL else short_name(function)


def _where(function: str, place: str) -> str:
    """`train_step at train.py:88`; a lambda has its place in its name."""
    name = _name_of(function)
    return name if "@" in name or not place else f"{name} at {formats.file_line(place)}"


def as_text(processes: Sequence[Process], columns: int) -> str:
    """All of it as plain text: a line break at the end, no blanks at the end of a line."""
    all_figures = model.counted(processes)
    is_one = len(processes) == 1
    lines = facts(processes[0], columns) if is_one else processes_table(processes, None, columns, _PROCESSES)
    lines += [*verdicts(processes, columns), *running(processes, columns)]
    if all_figures:
        lines += [(), *functions_table(model.functions_of(processes), columns, _FUNCTIONS)]
    for title, found in (("Newest recompiles", recompiles(all_figures)), ("Advice", advice(all_figures))):
        if found:
            more = f" · {len(found) - _NOTES:,} more" if len(found) > _NOTES else ""
            lines += [(), ((f"{title}{more}", "head"),), *notes(found[:_NOTES], columns, 3)]
    return "".join(f"{plain(cut(line, columns))}\n" for line in lines)


def as_json(processes: Sequence[Process]) -> str:
    """All figures as one JSON object.

    `{"schema": 1, "time": T, "processes": […]}`, T in Unix seconds, with for each process:

    - `url`; `status`: `live`, `silent` (answered before and does not now), `ended` (nothing listens there any
      more) or `new` (never answered); `quiet_seconds` since its last answer; `problem` in words, or empty.
    - `health`: a list of `{"level": …, "sentence": …}`, the worst first, the level one of `bad`, `warn`,
      `gone`, `busy`, `good`.
    - `figures`: null where it never answered, else the fields of `model.Figures`: `run`, `process_index`, `pid`,
      `version`, `start_time` (Unix seconds), `uptime_seconds`, `step`, `step_seconds`, `compiling_ratio`, `compiles`,
      `recompiles`, `failures`, `lost_seconds`, `lost_ratio`, `storms_active`, `steady_violations`,
      `donation_violations`, `out_of_memory`, `is_steady`, `memory` (`device`, `in_use_bytes`, `limit_bytes`,
      `is_estimate`; null where nothing is known), `host_resident_bytes`, `pressure` and `leaks` (names), and the lists

      - `in_progress`: `function`, `phase`, `for_seconds`, `is_again`,
      - `functions`: `function`, `location`, `compiles`, `recompiles`, `failures`, `seconds`, `lost_seconds`,
        `lost_ratio`, `cache_entries`, `causes` (number by cause), `is_in_storm`, the most lost seconds first,
      - `newest_recompiles`: `function`, `call_site`, `causes`, `paths`, `recompiles`, `lost_seconds`, `reason`,
        `advice`, `pitfall`, `seconds_ago`, the newest first,
      - `pitfalls`: `pitfall`, `function`, `location`, `call_site`, `message`, `advice`, `lost_seconds`, `timestamp`.

    Ratios are of the process's wall clock. Texts are cleaned of control characters.
    """
    found = {"schema": SCHEMA, "time": time.time(), "processes": [_process(one) for one in processes]}
    return json.dumps(found, indent=2, allow_nan=False)


def _process(one: Process) -> dict[str, Any]:
    figures = None if one.figures is None else asdict(one.figures)
    if figures is not None:
        del figures["health"]
        for row in figures["functions"]:
            # Those of a single process cannot differ.
            del row["compiles_spread"], row["recompiles_spread"]
        figures["functions"] = sorted(figures["functions"], key=lambda row: (-row["lost_seconds"], -row["seconds"]))
    return {
        "url": one.url,
        "status": one.status,
        "quiet_seconds": one.quiet_s,
        "problem": one.problem,
        "health": [asdict(verdict) for verdict in model.verdicts_of(one)],
        "figures": figures,
    }
