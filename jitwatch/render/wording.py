"""Words recompiles and pitfalls: what changed, what it cost, and what to change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jitwatch.model.events import Compiled, MemoryPressure, SteadyViolated
from jitwatch.model.function import Change
from jitwatch.model.signature import BODY_OF
from jitwatch.render.formats import (
    count,
    defined_at,
    file_line,
    listed,
    ordinal,
    percent,
    seconds,
    sentences,
    short_name,
    size,
)

#: Changes that a sentence lists.
_MAX_CHANGES = 3
#: The size that the allocator of CPUs and GPUs was asked for, in the message of an error.
_ALLOCATION = re.compile(r"allocat\w+ (\d{1,18}) bytes")
#: Buffers that a sentence lists, and how the operation of an argument begins.
_MAX_BUFFERS, _ARGUMENT = 3, "argument "
_AFTER_AHEAD = "the earlier program was compiled ahead of time, by .lower().compile()"
_AGAIN = "the function was jitted again, "
#: Advice by cause, for a recompile that shows no known pitfall.
_ADVICE = {
    "shape": "Keep the shape constant, or pad to a few sizes",
    "dtype": "Convert it once before the loop, with jnp.asarray(value, dtype)",
    "weak_type": "Make it an array once before the loop, with jnp.asarray(value, dtype)",
    "tree_structure": "Give the argument its final structure before the loop",
    "static_arg": "If it changes often, pass it as an ordinary argument instead of a static one",
    "sharding": "Use jax.device_put with the final sharding before the first step",
    "device": "One program for each device is expected; there is nothing to do",
    "committed": "Use jax.device_put before the first step, also after restoring a checkpoint",
    "layout": "Keep the layout, or convert it once before the loop",
    "new_function": "Call jax.jit once, outside of the loop, and reuse the result",
    "config": "Set it once at start-up",
    "transform": "This is expected; there is nothing to do",
    "cache_cleared": "Clear caches between phases of the job, not in a loop",
    "aot": "Compile ahead of time once and reuse the result",
}


def of_recompile(event: Compiled, *, reason: str | None = None, advice: str | None = None) -> str:
    """A recompile: `train_step recompiled at train.py:88: batch int32[8] → int32[6]. 12.3 s lost. <advice>.`.

    Args:
        event: The recompile.
        reason: What `of_changes` returns for it, if the caller has it.
        advice: The same of `of_advice`.
    """
    cost = of_harmless(event, event.total_s) or f"{seconds(event.total_s)} lost"
    where = f" at {file_line(event.call_site)}" if event.call_site else ""
    name = short_name(event.function.name, event.function.label)
    what = f"{name} recompiled{of_nth(event)}{where}: {reason or of_changes(event)}"
    return sentences(what, cost, advice or of_advice(event))


def of_steady_violation(event: SteadyViolated) -> str:
    """What happened and what to do, for the log or the error."""
    where = f" at {event.call_site}" if event.call_site else ""
    why = f" ({event.reason})" if event.reason else ""
    return (
        f"{event.function.label} compiled{where} in the steady state{why}; {event.spent_s:.2f} s lost. If "
        "the compile is planned, wrap it in `with jitwatch.expected(...)` or pass "
        f"allow=({event.function.label!r},) to steady()"
    )


def of_pitfall(record: Mapping[str, Any], *, name: str, when: str = "") -> str:
    """A pitfall: its name, function, location and call site, what happened, what it cost, and what to change.

    Args:
        record: The pitfall's row of the state.
        name: Displayed name of the function.
        when: When it happened, after a comma; may be empty.
    """
    defined = defined_at(name, record["location"])
    where = f" at {file_line(record['call_site'])}" if record["call_site"] else ""
    number = f"{count(record['recompiles'], 'recompile')}: " if record["recompiles"] else ""
    lost = f"{number}{of_cost(record)}" if record["lost_seconds"] else None
    return sentences(
        f"{record['pitfall']} in {name}{defined}{where}{when}: {record['message']}", lost, record["advice"]
    )


def of_nth(event: Compiled) -> str:
    """How often a function recompiled: ` (3rd time)`; empty for the first recompile."""
    return f" ({ordinal(event.nth - 1)} time)" if event.nth and event.nth > 2 else ""


def of_changes(event: Compiled) -> str:
    """Why a function compiled: `batch['tokens'] int32[8,512] → int32[8,498]; and 2 more`, or that it is unknown."""
    if not event.causes:
        return "its first compile"
    if not event.changes:
        return "the cause is unknown"
    shown: list[str] = []
    for one in event.changes[:_MAX_CHANGES]:
        text = _change(one)
        # Only the first captured value says that the function was jitted again.
        shown.append(text.removeprefix(_AGAIN) if shown and shown[0].startswith(_AGAIN) else text)
    more = len(event.changes) - len(shown) + event.changes_left_out
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def of_harmless(event: Compiled, spent_s: float) -> str | None:
    """The cost of a recompile that lost nothing (expected, or a first use under a transform); None for any other."""
    if event.expected is not None:
        return f"{seconds(spent_s)}, expected: {event.expected}"
    return f"{seconds(spent_s)} spent" if event.is_harmless else None


def of_cost(row: Mapping[str, Any]) -> str:
    """Lost seconds of a row of the state: `12.3 s lost, 4 % of the run, equivalent to 310 steps`."""
    return f"{seconds(row['lost_seconds'])} lost{_share(row)}" if row["lost_seconds"] else "no time lost"


def _share(row: Mapping[str, Any]) -> str:
    """Lost seconds in relation, as far as known: `, 4 % of the run, equivalent to 310 steps`."""
    parts = [f"{percent(row['lost_ratio'])} of the run"] if row["lost_ratio"] else []
    for amount, noun in ((row.get("lost_steps"), "step"), (row.get("lost_calls"), "call")):
        if amount:
            # Calls are shown where the job reports no steps.
            number = round(amount)
            parts.append(f"equivalent to {count(number, noun)}" if number else f"less than one {noun}")
            break
    return "".join(f", {part}" for part in parts)


def of_advice(event: Compiled) -> str | None:
    """What to change, without a full stop: advice of the event's pitfall or else its cause; None if expected."""
    return event.advice or (None if event.expected is not None else _advice_by_cause(event))


def of_temporaries(record: Mapping[str, Any]) -> str | None:
    """The memory of the program that ran out of memory, if most of it is temporaries; from a record `memory.oom`.

    If the error names no function, the program is the one whose temporaries are at least as large as the failed
    allocation: `the program of pairwise needs 2.33 TiB for temporaries and 6.1 MiB for arguments; ...`.
    """
    label, asked = record.get("function"), _ALLOCATION.search(str(record.get("message")))
    for one in record.get("executables", ()):
        name, temporaries, arguments = (one.get(key) for key in ("function", "temporary_bytes", "argument_bytes"))
        if not isinstance(name, str) or not isinstance(temporaries, int) or not isinstance(arguments, int):
            continue
        is_culprit = name == label if label else asked is not None and temporaries >= int(asked[1])
        if is_culprit and temporaries > arguments:
            whose = "its program" if label else f"the program of {name}"
            return (
                f"{whose} needs {size(temporaries)} for temporaries and {size(arguments)} for arguments; "
                "process it in parts, for example with batch_size of jax.lax.map"
            )
    return None


def of_peak(program: Mapping[str, Any], *, name: str) -> str | None:
    """The memory that a program needs at its peak, without a full stop; None if its buffers are not known.

    `train_step needs 21.4 GiB at its peak: 9.7 GiB f32[8192,50304] dot_general at model.py:88 and 4 more`.

    Args:
        program: A row of the state or the report, or a record `program.measured`.
        name: Displayed name of the function, or `its program`.
    """
    peak, buffers = program.get("peak_bytes"), of_buffers(program.get("peak_buffers") or ())
    return f"{name} needs {size(peak)} at its peak: {buffers}" if isinstance(peak, int) and buffers else None


def of_buffers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The largest buffers of a program: `9.7 GiB f32[8192,50304] dot_general at model.py:88, … and 4 more`."""
    numbers = Counter(_buffer(row) for row in rows if isinstance(row.get("bytes"), int))
    shown = [text if number == 1 else f"{number:,} × {text}" for text, number in numbers.items()]
    return listed(shown, most=_MAX_BUFFERS)


def _buffer(row: Mapping[str, Any]) -> str:
    parts = [size(row["bytes"]), row.get("shape"), name_of_operation(row.get("op"))]
    where = f" at {file_line(row['call_site'])}" if row.get("call_site") else ""
    return " ".join(part for part in parts if isinstance(part, str) and part) + where


def name_of_operation(op: object) -> str:
    """The last part of an operation's name, `dot_general` of `jit(f)/jvp()/dot_general`; all of an argument's."""
    text = op if isinstance(op, str) else ""
    return text if text.startswith(_ARGUMENT) else text.partition("[")[0].rpartition("/")[2]


def of_largest_buffers(record: Mapping[str, Any]) -> str | None:
    """The largest buffers of the program that ran out of memory, without a full stop; from a record `memory.oom`.

    Those that the error lists, otherwise those of the largest program of the function.
    """
    if listed_ones := of_buffers(record.get("peak_buffers") or ()):
        return f"its largest buffers are {listed_ones}"
    label = record.get("function")
    program = next((one for one in record.get("executables", ()) if label and one.get("function") == label), None)
    return of_peak(program, name="its program") if program is not None else None


def of_shortage(event: MemoryPressure) -> str:
    """The sentences about a program that will not fit in the memory that a device has left."""
    needed, limit = event.needed_bytes or 0, event.limit_bytes
    left = max(0, limit - event.in_use_bytes)
    if needed > limit:
        what = f"needs {size(needed)}, but the limit of {event.place} is {size(limit)}"
    else:
        what = f"needs {size(needed)} more, but {event.place} has {size(left)} of {size(limit)} left"
    buffers = of_buffers(event.peak_buffers)
    return sentences(
        f"{event.function} {what}",
        f"Its largest buffers are {buffers}" if buffers else None,
        "Donate arguments that are not used again, use a smaller batch, or use jax.checkpoint",
    )


def passed_otherwise(change: Change) -> tuple[str, str, str] | None:
    """A static argument that was passed in another way: its value, and how it was passed before and after; or None."""
    before, after = change.before.rpartition(" by "), change.after.rpartition(" by ")
    if change.kind != "static_arg" or before[0] != after[0] or not before[0] or before[2] == after[2]:
        return None
    return before[0], f"by {before[2]}", f"by {after[2]}"


def _change(change: Change) -> str:
    text = f"{change.path} {change.before} → {change.after}"
    if how := passed_otherwise(change):
        return f"{change.path} is {how[0]} in both calls, but was passed {how[1]} and then {how[2]}"
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
            else "the jit cache no longer had the program"
        )
    if change.kind == "transform":
        return "the first use under grad, vmap or another transformation"
    if change.kind == "aot":
        return "it was compiled ahead of time, by .lower().compile()" if change.after != "called" else _AFTER_AHEAD
    return text


def _advice_by_cause(event: Compiled) -> str | None:
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
    return next((_ADVICE[cause] for cause in event.causes if cause in _ADVICE), None)


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
