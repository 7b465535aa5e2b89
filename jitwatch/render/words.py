"""A recompile in a few sentences, and what it cost, for a person who is tired."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jitwatch.model.events import Compiled
from jitwatch.model.function import Change
from jitwatch.model.signature import BODY_OF

_MAX_CHANGES = 3
#: Columns of a paragraph, where no terminal is narrower.
WIDTH, _NARROWEST = 100, 40
_INDENT = "    "
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_CELL = re.compile(r"ipykernel_\d+[/\\]\d+\.py:(?P<line>\d+)$")
#: How much the allocator of CPUs and GPUs was asked for, in an error's text.
_ALLOCATION = re.compile(r"allocat\w+ (\d{1,18}) bytes")
_AFTER_AHEAD = "before, it was compiled ahead of time, by .lower().compile()"
_AGAIN = "the function was jitted again, "
#: What to look at, where no pitfall is known yet; by cause.
_HINTS = {
    "shape": "Keep the shape, or pad to a few sizes",
    "dtype": "Convert it once before the loop, with jnp.asarray(value, dtype)",
    "weak_type": "Make it an array once before the loop, with jnp.asarray(value, dtype)",
    "tree_structure": "Give the argument its final structure before the loop",
    "static_arg": "If it changes often, pass it as an ordinary argument instead of a static one",
    "sharding": "Put the array on its final sharding before the first step, with jax.device_put",
    "device": "One program for each device is normal, there is nothing to do",
    "committed": "Put it where it stays before the first step, with jax.device_put; restored arrays are committed",
    "layout": "Keep the layout, or convert it once before the loop",
    "new_function": "Call jax.jit once, outside of the loop, and keep the result",
    "config": "Set it once at start-up",
    "transform": "That is normal, there is nothing to do",
    "cache_cleared": "Clear caches between phases of the job, not inside of a loop",
    "aot": "Compile ahead of time once and keep the result",
}


def of_recompile(event: Compiled) -> str:
    """The sentences, as `train_step recompiled at train.py:88: batch int32[8] → int32[6]. 12.3 s lost. Advice`."""
    cost = of_harmless(event, event.total_s) or f"{seconds(event.total_s)} lost"
    where = f" at {place(event.call_site)}" if event.call_site else ""
    what = f"{called(event.function.name, event.function.label)} recompiled{of_nth(event)}{where}: {of_changes(event)}"
    return sentences(what, cost, of_advice(event))


def of_pitfall(record: Mapping[str, Any], *, name: str, when: str = "") -> str:
    """A known mistake: which, in which function, what happened, what it costs, what to change.

    Args:
        record: As the state has it.
        name: What to call the function.
        when: When that was, behind a comma.
    """
    defined = of_place(name, record["location"])
    where = f" at {place(record['call_site'])}" if record["call_site"] else ""
    number = f"{count(record['recompiles'], 'recompile')}: " if record["recompiles"] else ""
    lost = f"{number}{of_cost(record)}" if record["lost_seconds"] else None
    return sentences(
        f"{record['pitfall']} in {name}{defined}{where}{when}: {record['message']}", lost, record["advice"]
    )


def of_nth(event: Compiled) -> str:
    """` (3rd time)`; nothing for the first recompile."""
    return f" ({_ordinal(event.nth - 1)} time)" if event.nth and event.nth > 2 else ""


def of_temporaries(record: Mapping[str, Any]) -> str | None:
    """What the program needs that a record `memory.oom` is about, where its temporaries are most of it.

    Of an error that names no function, it is the program whose temporaries are as large as what could not be
    allocated: `the program of pairwise needs 2.33 TiB for temporaries and 6.1 MiB for arguments; ...`.
    """
    label, asked = record.get("function"), _ALLOCATION.search(str(record.get("message")))
    for one in record.get("executables", ()):
        name, temporaries, arguments = (one.get(key) for key in ("function", "temporary_bytes", "argument_bytes"))
        if not isinstance(name, str) or not isinstance(temporaries, int) or not isinstance(arguments, int):
            continue
        is_it = name == label if label else asked is not None and temporaries >= int(asked[1])
        if is_it and temporaries > arguments:
            whose = "its program" if label else f"the program of {name}"
            return (
                f"{whose} needs {size(temporaries)} for temporaries and {size(arguments)} for arguments; "
                "do it in parts, as jax.lax.map does by batch_size"
            )
    return None


def of_harmless(event: Compiled, spent_s: float) -> str | None:
    """What a recompile cost that is no loss; None for one that is."""
    if event.expected is not None:
        return f"{seconds(spent_s)}, expected: {event.expected}"
    return f"{seconds(spent_s)} spent" if event.is_harmless else None


def of_advice(event: Compiled) -> str | None:
    """What to change, without a full stop: the advice of its pitfall, else a hint; None for a planned compile."""
    return event.advice or (None if event.expected is not None else _hint(event))


def of_changes(event: Compiled) -> str:
    """`batch['tokens'] int32[8,512] → int32[8,498]; and 2 more`, or that the reason is unknown."""
    if not event.causes:
        return "its first compile"
    if not event.changes:
        return "the reason is not known"
    shown: list[str] = []
    for one in event.changes[:_MAX_CHANGES]:
        text = _change(one)
        # That it was jitted again is said once, before the first value that it captures.
        shown.append(text.removeprefix(_AGAIN) if shown and shown[0].startswith(_AGAIN) else text)
    more = len(event.changes) - len(shown) + event.changes_left_out
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def of_cost(row: Mapping[str, Any]) -> str:
    """`12.3 s lost, 4 % of the run, as long as 310 steps`, from a row of the state."""
    return f"{seconds(row['lost_seconds'])} lost{_share(row)}" if row["lost_seconds"] else "no time lost"


def _share(row: Mapping[str, Any]) -> str:
    """`, 4 % of the run, as long as 310 steps`: what lost seconds amount to, as far as it is known."""
    parts = [f"{percent(row['lost_ratio'])} of the run"] if row["lost_ratio"] else []
    for amount, noun in ((row.get("lost_steps"), "step"), (row.get("lost_calls"), "call")):
        if amount:
            # Steps are the job's own measure; calls stand in for them.
            number = round(amount)
            parts.append(f"as long as {count(number, noun)}" if number else f"less than one {noun}")
            break
    return "".join(f", {part}" for part in parts)


def percent(ratio: float) -> str:
    """`4 %`; a small share is not told as none."""
    return "under 1 %" if 0 < ratio < 0.01 else f"{round(100 * ratio)} %"


def ago(seconds_ago: float) -> str:
    """`just now`, `12 s ago`, `3.2 min ago`."""
    if seconds_ago < 1:
        return "just now"
    return f"{seconds_ago:.0f} s ago" if seconds_ago < 100 else f"{seconds(seconds_ago)} ago"


def sentences(*parts: str | None) -> str:
    """The parts that there are, each with one full stop."""
    return " ".join(f"{part.removesuffix('.')}." for part in parts if part)


def columns(stream: Any) -> int:
    """Columns for text that goes to a stream: those of its terminal, or what is read well in a file."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else WIDTH
    except (AttributeError, OSError, ValueError):
        return WIDTH
    # A terminal that nobody told its size says 0.
    return min(max(found, _NARROWEST), WIDTH) if found else WIDTH


def paragraph(text: str, width: int = WIDTH) -> str:
    """Text wrapped for a terminal, the lines after the first indented; names and paths stay whole."""
    return textwrap.fill(text, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)


def called(name: str, label: str) -> str:
    """The bare name of a function, and of a lambda its place as well, `<lambda>@train.py:88`; else its label."""
    bare, _, where = label.partition("@")
    if not bare.endswith(f".{name}"):
        return label
    return name if name.isidentifier() else f"{name}@{where}" if where else label


def of_place(name: str, location: str | None) -> str:
    """` (train.py:10)`, unless the name says it already."""
    return f" ({place(location)})" if location and not name.endswith(f"@{place(location)}") else ""


def place(location: str | None) -> str:
    """`train.py:88` of a whole path, and `cell:3` of a notebook's, whose file is a number."""
    if location and (cell := _CELL.search(location)):
        return f"cell:{cell['line']}"
    return os.path.basename(location) if location else "an unknown line"


def seconds(value: float) -> str:
    """Seconds as a person would say them."""
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(number: int) -> str:
    """Bytes as a person would say them, `1.5 GiB`."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return f"{number} {_UNITS[0]}"
    return f"{value:.3g} {_UNITS[unit]}" if value < 1000 else f"{value:,.0f} {_UNITS[unit]}"


def count(number: int, noun: str) -> str:
    """`1 recompile`, `2,000 recompiles`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """`a`, `a and b`, `a, b and 7 more`: so many at the most."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most:,} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _change(change: Change) -> str:
    text = f"{change.path} {change.before} → {change.after}"
    if how := passed_otherwise(change):
        return f"{change.path} is {how[0]} both times, only passed {how[1]} and then {how[2]}"
    if change.kind == "new_function" and change.path == "function":
        return "the function was jitted again: a new function object for the same code"
    if change.kind == "new_function" and change.path == "options of jax.jit":
        return f"the function was jitted again with {change.after}"
    if change.kind == "new_function" and change.path.startswith(BODY_OF):
        return f"the {change.path} is a new function object of the same code"
    if change.kind == "new_function":
        return f"{_AGAIN}{text}"
    if change.kind == "cache_cleared":
        return (
            f"the jit cache had the program, but was {change.after}"
            if "cleared" in change.after
            else "the jit cache had lost the program"
        )
    if change.kind == "transform":
        return "the first use under grad, vmap or another transformation"
    if change.kind == "aot":
        return "it was compiled ahead of time, by .lower().compile()" if change.after != "called" else _AFTER_AHEAD
    return text


def passed_otherwise(change: Change) -> tuple[str, str, str] | None:
    """Value of a static argument that is the same, and how it was passed before and after; else None."""
    before, after = change.before.rpartition(" by "), change.after.rpartition(" by ")
    if change.kind != "static_arg" or before[0] != after[0] or not before[0] or before[2] == after[2]:
        return None
    return before[0], f"by {before[2]}", f"by {after[2]}"


def _hint(event: Compiled) -> str | None:
    if any(map(passed_otherwise, event.changes)):
        return "Pass it the same way in every call: always by keyword, or always by position"
    if "aot" in event.causes and len(event.causes) > 1:
        return (
            "Compile ahead of time for what the calls pass: jax.ShapeDtypeStruct(shape, dtype, sharding=…) with their "
            "sharding, and under the same mesh and configuration"
        )
    smaller = _size_before(event)
    if smaller is not None:
        return f"If that is the last batch of an epoch, drop the remainder or pad it to {smaller}"
    return next((_HINTS[cause] for cause in event.causes if cause in _HINTS), None)


def _size_before(event: Compiled) -> int | None:
    """The earlier size of the one axis that shrank in every changed leaf, if nothing else changed."""
    sizes = {_shrunk(change) for change in event.changes}
    return sizes.pop() if len(sizes) == 1 else None


def _shrunk(change: Change) -> int | None:
    before, after = _shape(change.before), _shape(change.after)
    if change.kind != "shape" or len(before) != len(after):
        return None
    axes = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    if len(axes) != 1 or not all(size.isdecimal() for size in axes[0]) or int(axes[0][0]) < int(axes[0][1]):
        return None
    return int(axes[0][0])


def _shape(text: str) -> list[str]:
    return text.partition("[")[2].removesuffix("]").split(",") if text.endswith("]") else []
