"""A recompile in a few sentences, for a person who is tired."""

from __future__ import annotations

import os

from jitwatch.events import Change, Compiled

_MAX_CHANGES = 3
#: What to look at, where no pitfall is known yet; by cause.
_HINTS = {
    "shape": "Keep the shape: pad to a few sizes, or drop the remainder",
    "dtype": "Convert it once before the loop, with jnp.asarray(value, dtype)",
    "weak_type": "Make it an array once before the loop, with jnp.asarray(value, dtype)",
    "tree_structure": "Give the argument its final structure before the loop",
    "static_arg": "If it changes often, pass it as an ordinary argument instead of a static one",
    "sharding": "Put the array on its final sharding before the first step, with jax.device_put",
    "device": "Put the array on its final device before the first step, with jax.device_put",
    "committed": "Put it where it stays before the first step, with jax.device_put; restored arrays are committed",
    "layout": "Keep the layout, or convert it once before the loop",
    "new_function": "Call jax.jit once, outside of the loop, and keep the result",
    "config": "Set it once at start-up",
    "transform": "This is the first use under grad, vmap or the like; nothing to do",
    "cache_cleared": "Clear caches between phases of the job, not inside of a loop",
    "aot": "Compile ahead of time once and keep the result",
}


def of_recompile(event: Compiled) -> str:
    """The sentences, as `train_step recompiled at train.py:88: batch int32[8] → int32[6]. 12.3 s lost. Advice`."""
    time = f" ({_ordinal(event.nth - 1)} time)" if event.nth and event.nth > 2 else ""
    where = f" at {place(event.call_site)}" if event.call_site else ""
    parts = [f"{event.function.name} recompiled{time}{where}: {of_changes(event)}.", f"{seconds(event.total_s)} lost."]
    hint = event.advice or _hint(event)
    if hint:
        parts.append(f"{hint}.")
    return " ".join(parts)


def of_changes(event: Compiled) -> str:
    """`batch['tokens'] int32[8,512] → int32[8,498]; and 2 more`, or that the reason is unknown."""
    if not event.causes:
        return "its first compile"
    if not event.changes:
        return "the reason is not known"
    shown = [_change(one) for one in event.changes[:_MAX_CHANGES]]
    more = len(event.changes) - len(shown) + event.changes_left_out
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def place(location: str | None) -> str:
    """`train.py:88` of a whole path."""
    return os.path.basename(location) if location else "an unknown line"


def seconds(value: float) -> str:
    """Seconds as a person would say them."""
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min"


def _change(change: Change) -> str:
    text = f"{change.path} {change.before} → {change.after}"
    if change.kind == "new_function" and change.path == "function":
        return "the function was jitted again: a new function object for the same code"
    if change.kind == "new_function" and change.path == "options of jax.jit":
        return f"the function was jitted again with {change.after}"
    if change.kind == "new_function":
        return f"the function was jitted again, {text}"
    if change.kind == "cache_cleared":
        return (
            f"the jit cache had the program, but was {change.after}"
            if "cleared" in change.after
            else "the jit cache had lost the program"
        )
    if change.kind == "transform":
        return "the first use under grad, vmap or another transformation"
    if change.kind == "aot":
        return "it was compiled ahead of time, by .lower().compile()"
    return text


def _hint(event: Compiled) -> str | None:
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


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
