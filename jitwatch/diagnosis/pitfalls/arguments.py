"""Pitfalls of array arguments: many shapes; dtypes, placements, tree structures and options that change."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from jitwatch.diagnosis.bounded import BoundedMap
from jitwatch.diagnosis.diff import ABSENT, REDACTED, looks_the_same, value_at
from jitwatch.diagnosis.eager import is_operation
from jitwatch.diagnosis.pitfalls.base import Pitfall, Rule
from jitwatch.diagnosis.pitfalls.buckets import best_buckets
from jitwatch.model.events import Compiled, Event
from jitwatch.model.function import Change, argument_of
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Cause
from jitwatch.render import formats

_CHURN_SIZES = 4
_MAX_SIZES = 1_000
_MAX_AXES = 200
_MAX_SHOWN_AXES = 4
#: Causes that explain a recompile whatever the arguments: the function or its program is another one.
_OVERRIDING: tuple[Cause, ...] = ("new_function", "transform", "cache_cleared", "aot")
#: Ascending by what they can represent; without the prefixes `u` and `b` (bfloat16).
_KINDS = ("ool", "int", "float", "complex")
#: Number of scalars in one sequence from which on one array is better.
_MANY_SCALARS = 16
_NUMBER = re.compile(r"-?\d")
#: The last key of a path is a number.
_ITEM = re.compile(r"\[\d+\]$")
_DTYPE = re.compile(r"^(?P<kind>bool|u?int|b?float|complex)(?P<bits>\d*)")


#: Path of a leaf, and number of one of its axes.
Axis = tuple[str, int]


@dataclass(slots=True)
class _Shapes:
    """The shapes of a function's arguments.

    Attributes:
        paths: Paths of the leaves.
        seen: The distinct combinations of shapes of all leaves, in the order of their first compile.
        axes: The axes whose size ever differed from that of the nearest earlier compile.
        recompiles: Number of recompiles of the function.
        by_shape: Number of recompiles in which a shape changed.
    """

    paths: tuple[str, ...] = ()
    seen: dict[tuple[tuple[int | str, ...], ...], None] = field(default_factory=dict)
    axes: dict[Axis, None] = field(default_factory=dict)
    recompiles: int = 0
    by_shape: int = 0

    def add(self, signature: Signature, moves: list[Axis]) -> None:
        """Add the shapes of a compile, and the axes that changed."""
        if signature.paths != self.paths:
            self.paths, self.seen, self.axes = signature.paths, {}, {}
        if len(self.seen) < _MAX_SIZES:
            self.seen[signature.shapes] = None
        for axis in moves[: max(0, _MAX_AXES - len(self.axes))]:
            self.axes[axis] = None

    def columns(self) -> dict[tuple[int, ...], list[Axis]]:
        """The axes that vary, by their sizes in each combination of `seen`; axes with equal sizes are grouped."""
        where = {path: number for number, path in enumerate(self.paths)}
        found: dict[tuple[int, ...], list[Axis]] = {}
        for path, number in self.axes:
            sizes = [shapes[where[path]][number : number + 1] for shapes in self.seen if path in where]
            if all(size and type(size[0]) is int for size in sizes):
                column = tuple(int(size[0]) for size in sizes)
                if len(set(column)) > 1:
                    found.setdefault(column, []).append((path, number))
        return found


class ShapeChurn(Rule):
    """Axes of the arguments have many sizes."""

    name = "shape_churn"

    def __init__(self) -> None:
        self._functions: BoundedMap[_Shapes] = BoundedMap(_Shapes)

    def check(self, event: Event, now: float) -> Pitfall | None:
        if not isinstance(event, Compiled) or is_operation(event.function) or event.signature is None:
            return None
        function = self._functions.entry(event.function.label)
        function.recompiles += bool(event.causes)
        changed = [one for one in event.changes if one.kind == "shape"]
        is_counted = not event.causes or (bool(changed) and not _is_overridden(event))
        if is_counted:
            function.add(event.signature, [move for change in changed for move in _moves(change)])
        if not changed or not is_counted:
            return None
        function.by_shape += 1
        if function.by_shape < function.recompiles / 2:
            return None
        columns = {column: axes for column, axes in function.columns().items() if len(set(column)) >= _CHURN_SIZES}
        return _of_columns(function, columns) if columns else None


def _of_columns(function: _Shapes, columns: dict[tuple[int, ...], list[Axis]]) -> Pitfall:
    """The pitfall of axes with many sizes.

    Args:
        function: Shapes of the function.
        columns: The axes, by their sizes in each combination of shapes.
    """
    first, axes = next(iter(columns.items()))
    count = len(set(zip(*columns, strict=True)))
    buckets = {column: best_buckets(sorted(set(column)))[0] for column in columns}
    if len(set(_padded(columns, buckets))) > count / 2:
        # Too many combinations: pad each axis to a single size.
        buckets = {column: [max(column)] for column in columns}
    compiles = formats.count(len(set(_padded(columns, buckets))), "compile")
    needed = f"{compiles} instead of {count}, at {formats.percent(_overhead(function, columns, buckets))} more work"
    path, number = axes[0]
    if len(columns) == 1:
        sizes = sorted(set(first))
        return Pitfall(
            argument_of(path),
            f"axis {number} of {path} had {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}, "
            "and each one needed a compile",
            f"Pad to a few sizes: padding to {', '.join(map(str, buckets[first]))} would have needed {needed}",
        )
    shown = list(columns.items())[:_MAX_SHOWN_AXES]
    vary = [f"axis {one[0][1]} of {one[0][0]} from {min(column)} to {max(column)}" for column, one in shown]
    pads = [f"{one[0][0]} (axis {one[0][1]}) to {' or '.join(map(str, buckets[column]))}" for column, one in shown]
    return Pitfall(
        argument_of(path),
        f"{len(columns)} sizes vary independently: {formats.listed(vary, _MAX_SHOWN_AXES)}; "
        f"{count} combinations occurred, and each one needed a compile",
        f"Pad all of them: {formats.listed(pads, _MAX_SHOWN_AXES)} would have needed {needed}",
    )


def _padded(columns: Iterable[tuple[int, ...]], buckets: Mapping[tuple[int, ...], list[int]]) -> list[tuple[int, ...]]:
    """The sizes of all columns after padding, a tuple for each combination of shapes."""
    padded = [[next(size for size in buckets[column] if size >= one) for one in column] for column in columns]
    return list(zip(*padded, strict=True))


def _overhead(
    function: _Shapes, columns: dict[tuple[int, ...], list[Axis]], buckets: Mapping[tuple[int, ...], list[int]]
) -> float:
    """The additional elements that padding adds to the arrays that vary, as a share."""
    where = {path: number for number, path in enumerate(function.paths)}
    before = after = 0
    for shapes, padded in zip(function.seen, _padded(columns, buckets), strict=True):
        wanted = {axis: size for axes, size in zip(columns.values(), padded, strict=True) for axis in axes}
        for path in {path for path, _ in wanted}:
            sizes = [int(size) for size in shapes[where[path]]]
            before += math.prod(sizes)
            after += math.prod(wanted.get((path, number), size) for number, size in enumerate(sizes))
    return after / before - 1 if before else 0.0


class _FlipRule(Rule):
    """Base: a property of an argument changes, usually because the first call passed something else."""

    causes: ClassVar[tuple[Cause, ...]]

    def check(self, event: Event, now: float) -> Pitfall | None:
        if not isinstance(event, Compiled) or is_operation(event.function) or _is_overridden(event):
            return None
        # Objects that look the same have a rule of their own.
        changed = [one for one in event.changes if one.kind in self.causes and not looks_the_same(one)]
        if not changed:
            return None
        return self._pitfall(changed[0], len(changed))

    @abstractmethod
    def _pitfall(self, change: Change, count: int) -> Pitfall:
        """The pitfall, worded with the first of `count` changes."""


class WeakTypeFlip(_FlipRule):
    """An argument is a Python number in one call and an array in another."""

    name = "weak_type"
    causes = ("weak_type",)

    def _pitfall(self, change: Change, count: int) -> Pitfall:
        dtype = change.after.partition(",")[0]
        return Pitfall(
            argument_of(change.path),
            f"{change.path}{_others(count)} had a weak type in one call (a Python number, or an array made from "
            "one) and a strong type in another",
            f"Make it an array before the loop: jnp.asarray({change.path}, {_quoted(dtype)})",
        )


def holding_both(one: str, other: str) -> str:
    """The dtype that can represent the values of both, so that the advice does not truncate floats to integers."""
    ranks = [_rank(name) for name in (one, other)]
    if None in ranks or one == other:
        return other
    if {one, other} == {"float16", "bfloat16"}:
        return "float32"
    return max((one, other), key=lambda name: _rank(name) or (0, 0, 0))


def _rank(dtype: str) -> tuple[int, int, int] | None:
    """Sort key by kind, bits and sign; None for a dtype that is not a plain number."""
    found = _DTYPE.match(dtype)
    if found is None:
        return None
    return _KINDS.index(found["kind"].lstrip("ub")), int(found["bits"] or 1), found["kind"] == "int"


class DtypeFlip(_FlipRule):
    """The dtype of an argument changes."""

    name = "dtype_flip"
    causes = ("dtype",)

    def _pitfall(self, change: Change, count: int) -> Pitfall:
        dtype = holding_both(change.before, change.after)
        advice = f"Convert it to one dtype before the loop: jnp.asarray({change.path}, {_quoted(dtype)})"
        if "key<" in change.before + change.after:
            # A raw random key cannot be converted to a typed one by its dtype, only wrapped.
            advice = f"Make all keys with jax.random.key, or wrap a raw one: jax.random.wrap_key_data({change.path})"
        message = f"{change.path}{_others(count)} changed its dtype from {change.before} to {change.after}"
        return Pitfall(argument_of(change.path), message, advice)


class ShardingFlip(_FlipRule):
    """The sharding, commitment or layout of an argument changes."""

    name = "sharding_flip"
    causes = ("sharding", "committed", "layout")

    def _pitfall(self, change: Change, count: int) -> Pitfall:
        return Pitfall(
            argument_of(change.path),
            f"{change.path}{_others(count)} moved: {change.before} before, {change.after} now",
            "Put it on its final sharding with jax.device_put before the first step, also after restoring a checkpoint",
        )


class TreeFlip(_FlipRule):
    """The tree structure of an argument changes: a key, a length, None for an array, a class, or static data."""

    name = "tree_flip"
    causes = ("tree_structure",)

    def check(self, event: Event, now: float) -> Pitfall | None:
        if not isinstance(event, Compiled) or is_operation(event.function) or _is_overridden(event):
            return None
        changed = [one for one in event.changes if one.kind in self.causes and not looks_the_same(one)]
        # A number in static data is a pitfall only if it has many values (`StaticArgChurn`).
        changed = [one for one in changed if not _is_number(one, event.signature)]
        # Static data that depends on the shape of an array changes together with it.
        if not changed or any(one.kind == "shape" for one in event.changes):
            return None
        return self._of(changed[0], len(changed), event.signature)

    def _pitfall(self, change: Change, count: int) -> Pitfall:
        return self._of(change, count, None)

    def _of(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
        path, before, after = change.path, change.before, change.after
        more = f"; and {count - 1} more changes" if count > 1 else ""
        was = f"{path} was {before} and is {after} now{more}"
        if before.startswith("by ") and after.startswith("by "):
            return Pitfall(argument_of(path), f"{path} was passed {before} and is passed {after} now", _SAME_WAY)
        if is_metadata(change, signature):
            if {before, after} == {"True", "False"}:
                advice = "One program for each of the two is expected; there is nothing to do unless it changes often"
            else:
                advice = f"Keep {path} the same, or make it an array in its class: as metadata, each value is a program"
            return Pitfall(path, f"{was}, which is static metadata and not an array", advice)
        base = path[: path.rindex("[")] if _ITEM.search(path) else ""
        if base and ABSENT in (before, after):
            return _of_length(base, signature, was)
        if "None" in (before, after):
            advice = "Pass an array in every call, for example zeros or a mask, or accept one program for each case"
            return Pitfall(argument_of(path), was, advice)
        if ABSENT in (before, after):
            return Pitfall(
                argument_of(path), was, "Keep the same keys and attributes in every call, from the first one on"
            )
        return Pitfall(argument_of(path), was, f"Pass the same kind of container for {path} in every call")


_SAME_WAY = "Pass it the same way in every call"


def _of_length(base: str, signature: Signature | None, was: str) -> Pitfall:
    """The pitfall of a list or tuple whose length changed."""
    shapes = dict(zip(signature.paths, signature.shapes, strict=True)) if signature is not None else {}
    scalars = sum(shape == () for path, shape in shapes.items() if path.startswith(f"{base}["))
    if scalars >= _MANY_SCALARS:
        return Pitfall(
            argument_of(base),
            f"{base} is a sequence of {scalars} scalars, each of them an argument of its own, and its length changed",
            f"Pass one array instead: jnp.asarray({base}), padded to a fixed length",
        )
    return Pitfall(
        argument_of(base),
        f"the length of {base} changed: {was}",
        f"Keep the length of {base}, or stack it into one array and pad that",
    )


def is_metadata(change: Change, signature: Signature | None) -> bool:
    """Whether a change is about static data of a node, and not about the structure.

    Its path is that of a part of the static data, which is neither a leaf nor a node; or that of a node, and its texts
    are about the static data as a whole.
    """
    if change.kind != "tree_structure" or signature is None or {change.before, change.after} & {ABSENT, "None"}:
        return False
    if change.before.startswith("by ") and change.after.startswith("by "):
        return False
    node = dict(signature.tree).get(change.path)
    if node is not None:
        return node.aux is not None and (change.after == REDACTED or change.after.startswith(f"{node.kind} with "))
    return change.path not in signature.paths and change.path != "arguments"


def _is_number(change: Change, signature: Signature | None) -> bool:
    """Whether a change is about a number in static data; the text of the change may be redacted."""
    if not is_metadata(change, signature):
        return False
    value = value_at(signature, change.path)
    texts = [text for _, text in value.fields] if value is not None and value.fields else [change.after]
    return len(texts) == 1 and _NUMBER.match(texts[0]) is not None


class ConfigFlip(_FlipRule):
    """An option of JAX changes between calls."""

    name = "config_flip"
    causes = ("config",)

    def _pitfall(self, change: Change, count: int) -> Pitfall:
        return Pitfall(
            change.path,
            f"{change.path} was {change.before} and is {change.after} now",
            f"Set {change.path} once at start-up, or keep the same context around every call",
        )


def _is_overridden(event: Compiled) -> bool:
    return any(cause in _OVERRIDING for cause in event.causes)


def _moves(change: Change) -> list[Axis]:
    """The axes whose sizes changed; none if the number of axes changed."""
    before, after = _sizes(change.before), _sizes(change.after)
    if before is None or after is None or len(before) != len(after):
        return []
    pairs = enumerate(zip(before, after, strict=True))
    return [(change.path, number) for number, (one, other) in pairs if one != other]


def _sizes(text: str) -> list[int] | None:
    """The sizes in the text of an array, `[8, 512]` of `int32[8,512]`; None for symbolic sizes."""
    inside = text.partition("[")[2].removesuffix("]")
    parts = inside.split(",") if inside else []
    return [int(part) for part in parts] if all(part.isdecimal() for part in parts) else None


def _others(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _quoted(dtype: str) -> str:
    return f"jnp.{dtype}" if dtype.isidentifier() else repr(dtype)
