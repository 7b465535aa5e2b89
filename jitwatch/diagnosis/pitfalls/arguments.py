"""Mistakes with array arguments: shapes that never repeat, types, places and structures that change once."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from jitwatch.diagnosis.diff import REDACTED, looks_the_same, value_at
from jitwatch.diagnosis.eager import is_operation
from jitwatch.diagnosis.memory import Memory
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.diagnosis.pitfalls.buckets import best_buckets
from jitwatch.diagnosis.structures import ABSENT
from jitwatch.model.events import Compiled, Event
from jitwatch.model.function import Change
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Cause
from jitwatch.render import words

_CHURN_SIZES = 4
_MAX_SIZES = 1_000
_MAX_AXES = 200
_MAX_SHOWN_AXES = 4
#: Causes beside which a change of an argument says nothing: the function itself is another one.
_OVERRIDING: tuple[Cause, ...] = ("new_function", "transform", "cache_cleared", "aot")
#: From the one that holds least; `u` and `b` (bfloat16) in front of a name are of the same kind.
_KINDS = ("ool", "int", "float", "complex")
#: Scalars in one sequence that are better one array.
_MANY_SCALARS = 16
_NUMBER = re.compile(r"-?\d")
#: The last key of a path is a number.
_ITEM = re.compile(r"\[\d+\]$")
_DTYPE = re.compile(r"^(?P<kind>bool|u?int|b?float|complex)(?P<bits>\d*)")


#: Path of an argument, and number of one of its axes.
Axis = tuple[str, int]


@dataclass(slots=True)
class _Shapes:
    """What shapes the arguments of a function had.

    Attributes:
        paths: Names of the arguments, the same for all of them.
        seen: The different shapes of all arguments together, in the order in which they came.
        axes: The axes that were ever another size than in the nearest earlier compile.
        recompiles: All of the function.
        by_shape: Those in which a shape changed.
    """

    paths: tuple[str, ...] = ()
    seen: dict[tuple[tuple[int | str, ...], ...], None] = field(default_factory=dict)
    axes: dict[Axis, None] = field(default_factory=dict)
    recompiles: int = 0
    by_shape: int = 0

    def add(self, signature: Signature, moves: list[Axis]) -> None:
        """Take in a compile."""
        if signature.paths != self.paths:
            self.paths, self.seen, self.axes = signature.paths, {}, {}
        if len(self.seen) < _MAX_SIZES:
            self.seen[signature.shapes] = None
        for axis in moves[: max(0, _MAX_AXES - len(self.axes))]:
            self.axes[axis] = None

    def columns(self) -> dict[tuple[int, ...], list[Axis]]:
        """The axes that vary, by the sizes that they had, one for each shape; axes that vary alike are together."""
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
    """Axes of the arguments have ever new sizes."""

    name = "shape_churn"

    def __init__(self) -> None:
        self._functions: Memory[_Shapes] = Memory(_Shapes)

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or is_operation(event.function) or event.signature is None:
            return None
        function = self._functions.of(event.function.label)
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


def _of_columns(function: _Shapes, columns: dict[tuple[int, ...], list[Axis]]) -> Finding:
    """The axes whose sizes keep being new, each with the sizes that it had, one for each shape."""
    first, axes = next(iter(columns.items()))
    count = len(set(zip(*columns, strict=True)))
    buckets = {column: best_buckets(sorted(set(column)))[0] for column in columns}
    if len(set(_padded(columns, buckets))) > count / 2:
        # Too many combinations: one size for each axis.
        buckets = {column: [max(column)] for column in columns}
    compiles = words.count(len(set(_padded(columns, buckets))), "compile")
    needed = f"{compiles} instead of {count}, at {words.percent(_overhead(function, columns, buckets))} more work"
    path, number = axes[0]
    if len(columns) == 1:
        sizes = sorted(set(first))
        return Finding(
            _root(path),
            f"axis {number} of {path} had {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}, "
            "and each one is a compile",
            f"Pad to a few sizes: padding to {', '.join(map(str, buckets[first]))} would have needed {needed}",
        )
    shown = list(columns.items())[:_MAX_SHOWN_AXES]
    vary = [f"axis {one[0][1]} of {one[0][0]} from {min(column)} to {max(column)}" for column, one in shown]
    pads = [f"{one[0][0]} (axis {one[0][1]}) to {' or '.join(map(str, buckets[column]))}" for column, one in shown]
    return Finding(
        _root(path),
        f"{len(columns)} sizes vary independently: {words.listed(vary, _MAX_SHOWN_AXES)}; {count} combinations came, "
        "and each one is a compile",
        f"Pad all of them: {words.listed(pads, _MAX_SHOWN_AXES)} would have needed {needed}",
    )


def _padded(columns: Iterable[tuple[int, ...]], buckets: Mapping[tuple[int, ...], list[int]]) -> list[tuple[int, ...]]:
    """The sizes of all columns after padding, one tuple for each shape."""
    padded = [[next(size for size in buckets[column] if size >= one) for one in column] for column in columns]
    return list(zip(*padded, strict=True))


def _overhead(
    function: _Shapes, columns: dict[tuple[int, ...], list[Axis]], buckets: Mapping[tuple[int, ...], list[int]]
) -> float:
    """How many more elements the arrays that vary have after padding, as a share."""
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
    """Base: a change that a job makes once by mistake, since the first call passed something else."""

    causes: ClassVar[tuple[Cause, ...]]

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or is_operation(event.function) or _is_overridden(event):
            return None
        # What is only another object that looks the same has a rule of its own.
        changed = [one for one in event.changes if one.kind in self.causes and not looks_the_same(one)]
        if not changed:
            return None
        return self._found(changed[0], len(changed))

    @abstractmethod
    def _found(self, change: Change, count: int) -> Finding:
        """The finding for the first of `count` changes."""


class WeakTypeFlip(_FlipRule):
    """A Python number in one call, an array in the next."""

    name = "weak_type"
    causes = ("weak_type",)

    def _found(self, change: Change, count: int) -> Finding:
        dtype = change.after.partition(",")[0]
        return Finding(
            _root(change.path),
            f"{change.path}{_others(count)} had a weak type in one call (a Python number, or an array that was made of "
            "one) and a strong type in another",
            f"Make it an array before the loop: jnp.asarray({change.path}, {_quoted(dtype)})",
        )


def holding_both(one: str, other: str) -> str:
    """The dtype of the two that holds the values of both; the advice must not cut off what is behind the point."""
    ranks = [_rank(name) for name in (one, other)]
    if None in ranks or one == other:
        return other
    if {one, other} == {"float16", "bfloat16"}:
        return "float32"
    return max((one, other), key=lambda name: _rank(name) or (0, 0, 0))


def _rank(dtype: str) -> tuple[int, int, int] | None:
    """Kind, bits, and signed before unsigned; None for what is no plain number."""
    found = _DTYPE.match(dtype)
    if found is None:
        return None
    return _KINDS.index(found["kind"].lstrip("ub")), int(found["bits"] or 1), found["kind"] == "int"


class DtypeFlip(_FlipRule):
    """One dtype in one call, another in the next."""

    name = "dtype_flip"
    causes = ("dtype",)

    def _found(self, change: Change, count: int) -> Finding:
        dtype = holding_both(change.before, change.after)
        advice = f"Give it one dtype before the loop: jnp.asarray({change.path}, {_quoted(dtype)})"
        if "key<" in change.before + change.after:
            # A random key cannot be converted, only wrapped.
            advice = f"Make all keys with jax.random.key, or wrap a raw one: jax.random.wrap_key_data({change.path})"
        message = f"{change.path}{_others(count)} changed its dtype from {change.before} to {change.after}"
        return Finding(_root(change.path), message, advice)


class ShardingFlip(_FlipRule):
    """An array lies elsewhere than in the first call."""

    name = "sharding_flip"
    causes = ("sharding", "committed", "layout")

    def _found(self, change: Change, count: int) -> Finding:
        return Finding(
            _root(change.path),
            f"{change.path}{_others(count)} moved: {change.before} before, {change.after} now",
            "Put it on its final sharding with jax.device_put before the first step, also after restoring a checkpoint",
        )


class TreeFlip(_FlipRule):
    """The structure of an argument changes: a key, a length, None for an array, a class, or what a node holds."""

    name = "tree_flip"
    causes = ("tree_structure",)

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or is_operation(event.function) or _is_overridden(event):
            return None
        changed = [one for one in event.changes if one.kind in self.causes and not looks_the_same(one)]
        # A number that a node holds is a matter of how many values it takes.
        changed = [one for one in changed if not _is_number(one, event.signature)]
        # What mirrors the shape of an array changes together with it.
        if not changed or any(one.kind == "shape" for one in event.changes):
            return None
        return self._of(changed[0], len(changed), event.signature)

    def _found(self, change: Change, count: int) -> Finding:
        return self._of(change, count, None)

    def _of(self, change: Change, count: int, signature: Signature | None) -> Finding:
        path, before, after = change.path, change.before, change.after
        more = f"; and {count - 1} more changes" if count > 1 else ""
        was = f"{path} was {before} and is {after} now{more}"
        if before.startswith("by ") and after.startswith("by "):
            return Finding(_root(path), f"{path} was passed {before} and is passed {after} now", _SAME_WAY)
        if is_metadata(change, signature):
            if {before, after} == {"True", "False"}:
                advice = "One program for each of the two is normal; there is nothing to do unless it changes often"
            else:
                advice = f"Keep {path} the same, or make it an array of its class: as metadata, each value is a program"
            return Finding(path, f"{was}, which is no array but metadata of the structure", advice)
        base = path[: path.rindex("[")] if _ITEM.search(path) else ""
        if base and ABSENT in (before, after):
            return _of_length(base, signature, was)
        if "None" in (before, after):
            advice = "Pass an array in every call, for example zeros or a mask, or live with one program for each case"
            return Finding(_root(path), was, advice)
        if ABSENT in (before, after):
            return Finding(_root(path), was, "Keep the same keys and attributes in every call, from the first one on")
        return Finding(_root(path), was, f"Pass the same kind of container for {path} in every call")


_SAME_WAY = "Pass it the same way in every call"


def _of_length(base: str, signature: Signature | None, was: str) -> Finding:
    """A list or tuple with more or fewer elements."""
    shapes = dict(zip(signature.paths, signature.shapes, strict=True)) if signature is not None else {}
    scalars = sum(shape == () for path, shape in shapes.items() if path.startswith(f"{base}["))
    if scalars >= _MANY_SCALARS:
        return Finding(
            _root(base),
            f"{base} is a sequence of {scalars} scalars, each of them an argument of its own, and its length changed",
            f"Pass one array instead: jnp.asarray({base}), padded to a fixed length",
        )
    return Finding(
        _root(base),
        f"the length of {base} changed: {was}",
        f"Keep the length of {base}, or stack it into one array and pad that",
    )


def is_metadata(change: Change, signature: Signature | None) -> bool:
    """Whether it is about what a node of the structure holds, and not about the structure.

    Its path leads into a node, and to no leaf and no other node; or it names what a node holds as a whole.
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
    """Whether it is about a number that a node holds; the text of the change may be redacted."""
    if not is_metadata(change, signature):
        return False
    value = value_at(signature, change.path)
    texts = [text for _, text in value.fields] if value is not None and value.fields else [change.after]
    return len(texts) == 1 and _NUMBER.match(texts[0]) is not None


class ConfigFlip(_FlipRule):
    """An option of JAX is toggled between calls."""

    name = "config_flip"
    causes = ("config",)

    def _found(self, change: Change, count: int) -> Finding:
        return Finding(
            change.path,
            f"{change.path} was {change.before} and is {change.after} now",
            f"Set {change.path} once at start-up, or keep the same context around every call",
        )


def _is_overridden(event: Compiled) -> bool:
    return any(cause in _OVERRIDING for cause in event.causes)


def _moves(change: Change) -> list[Axis]:
    """The axes that changed; none when their number did."""
    before, after = _sizes(change.before), _sizes(change.after)
    if before is None or after is None or len(before) != len(after):
        return []
    pairs = enumerate(zip(before, after, strict=True))
    return [(change.path, number) for number, (one, other) in pairs if one != other]


def _sizes(text: str) -> list[int] | None:
    """`[8, 512]` of `int32[8,512]`; None for symbolic sizes."""
    inside = text.partition("[")[2].removesuffix("]")
    parts = inside.split(",") if inside else []
    return [int(part) for part in parts] if all(part.isdecimal() for part in parts) else None


def _root(path: str) -> str:
    """The argument that a path leads into: `batch` of `batch['tokens']`."""
    return path.partition("[")[0].partition(".")[0]


def _others(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _quoted(dtype: str) -> str:
    return f"jnp.{dtype}" if dtype.isidentifier() else repr(dtype)
