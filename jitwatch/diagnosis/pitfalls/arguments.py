"""Mistakes with array arguments: shapes that never repeat, types, places and structures that change once."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from jitwatch.diagnosis import words
from jitwatch.diagnosis.diff import looks_the_same
from jitwatch.diagnosis.eager import is_operation
from jitwatch.diagnosis.memory import Memory
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.diagnosis.pitfalls.buckets import best_buckets
from jitwatch.diagnosis.structures import ABSENT
from jitwatch.events import Cause, Change, Compiled, Event
from jitwatch.signature import Signature

_CHURN_SIZES = 4
_MAX_SIZES = 1_000
_MAX_AXES = 200
#: Different changes of size in one compile: one axis that several arrays share, perhaps a second one.
_MAX_PAIRS = 2
#: Causes beside which a change of an argument says nothing: the function itself is another one.
_OVERRIDING: tuple[Cause, ...] = ("new_function", "transform", "cache_cleared", "aot")
#: From the one that holds least; `u` and `b` (bfloat16) in front of a name are of the same kind.
_KINDS = ("ool", "int", "float", "complex")
#: Scalars in one sequence that are better one array.
_MANY_SCALARS = 16
_NUMBER = re.compile(r"-?\d")
#: The last key of a path is a number.
_ITEM = re.compile(r"\[\d+\]$")
#: Text of an array or of a container.
_ARRAY_OR_CONTAINER = re.compile(
    r"\w+(<\w+>)?\[[\d,]*\]$|(list|tuple) of \d+$|[A-Za-z_]\w*$(?<!True)(?<!False)|another class "
)
_DTYPE = re.compile(r"^(?P<kind>bool|u?int|b?float|complex)(?P<bits>\d*)")


@dataclass(slots=True)
class _Axis:
    sizes: set[int] = field(default_factory=set)
    recompiles: int = 0


@dataclass(slots=True)
class _Shapes:
    """What sizes the axes of a function's arguments had, by path and number of the axis."""

    axes: dict[tuple[str, int], _Axis] = field(default_factory=dict)
    recompiles: int = 0


class ShapeChurn(Rule):
    """One axis of one argument has ever new sizes."""

    name = "shape_churn"

    def __init__(self) -> None:
        self._functions: Memory[_Shapes] = Memory(_Shapes)

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or not event.causes or is_operation(event.function):
            return None
        function = self._functions.of(event.function.label)
        function.recompiles += 1
        changed = [one for one in event.changes if one.kind == "shape"]
        if not changed or _is_overridden(event):
            return None
        moves = [move for change in changed for move in _moves(change)]
        for path, number, before, after in moves:
            if (path, number) in function.axes or len(function.axes) < _MAX_AXES:
                axis = function.axes.setdefault((path, number), _Axis())
                axis.recompiles += 1
                if len(axis.sizes) < _MAX_SIZES:
                    axis.sizes |= {before, after}
        if len({(before, after) for _, _, before, after in moves}) > _MAX_PAIRS:
            return None
        return self._judge(function, moves)

    def _judge(self, function: _Shapes, moves: list[tuple[str, int, int, int]]) -> Finding | None:
        for path, number, _, _ in moves:
            axis = function.axes.get((path, number))
            if axis is None or len(axis.sizes) < _CHURN_SIZES or axis.recompiles < function.recompiles / 2:
                continue
            sizes = sorted(axis.sizes)
            return Finding(
                _root(path),
                f"axis {number} of {path} had {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}, and each one is a "
                "compile",
                _advice(sizes),
            )
        return None


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
            f"{change.path}{_others(count)} was a Python number in one call and an array in another (weak type)",
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
        changed = [one for one in changed if not (is_metadata(one) and _NUMBER.match(one.after))]
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
        if is_metadata(change):
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


def is_metadata(change: Change) -> bool:
    """Whether it is about what a node of the structure holds, and not about the structure."""
    texts = (change.before, change.after)
    is_structure = any(
        text in (ABSENT, "None") or text.startswith("by ") or _ARRAY_OR_CONTAINER.match(text) for text in texts
    )
    return change.kind == "tree_structure" and not is_structure


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


def _moves(change: Change) -> list[tuple[str, int, int, int]]:
    """Path, axis, size before and after of every axis that changed; none when the number of axes did."""
    before, after = _sizes(change.before), _sizes(change.after)
    if before is None or after is None or len(before) != len(after):
        return []
    pairs = enumerate(zip(before, after, strict=True))
    return [(change.path, number, one, other) for number, (one, other) in pairs if one != other]


def _sizes(text: str) -> list[int] | None:
    """`[8, 512]` of `int32[8,512]`; None for symbolic sizes."""
    inside = text.partition("[")[2].removesuffix("]")
    parts = inside.split(",") if inside else []
    return [int(part) for part in parts] if all(part.isdecimal() for part in parts) else None


def _advice(sizes: list[int]) -> str:
    buckets, overhead = best_buckets(sizes)
    listed, compiles = ", ".join(map(str, buckets)), words.count(len(buckets), "compile")
    return (
        f"Pad to a few sizes, or drop the remainder: padding to {listed} would have needed {compiles} instead of "
        f"{len(sizes)}, at {words.percent(overhead)} more work"
    )


def _root(path: str) -> str:
    """The argument that a path leads into: `batch` of `batch['tokens']`."""
    return path.partition("[")[0].partition(".")[0]


def _others(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _quoted(dtype: str) -> str:
    return f"jnp.{dtype}" if dtype.isidentifier() else repr(dtype)
