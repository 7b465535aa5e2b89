"""Pitfalls of array arguments: many shapes, and the sizes that an axis should be padded to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jitwatch.diagnosis.bounded import BoundedMap
from jitwatch.diagnosis.eager import is_operation
from jitwatch.diagnosis.pitfalls.flips import is_overridden
from jitwatch.diagnosis.pitfalls.rule import CompileRule, Pitfall
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change, argument_of
from jitwatch.model.signature import Signature
from jitwatch.render import formats

_CHURN_SIZES = 4
_MAX_SIZES = 1_000
_MAX_AXES = 200
_MAX_SHOWN_AXES = 4
_MAX_BUCKETS = 4
#: Past this overhead another bucket is added.
_MAX_OVERHEAD = 0.25
#: Maximum number of sizes to choose from; of more, every n-th is used.
_MAX_CANDIDATES = 32

#: Path of a leaf, and number of one of its axes.
Axis = tuple[str, int]


@dataclass(slots=True)
class _Shapes:
    """The shapes of a function's arguments.

    Attributes:
        paths: Paths of the leaves.
        seen: The distinct combinations of shapes of all leaves, in the order of their first compile.
        axes: The axes whose size ever differed from that of the nearest earlier compile.
        recompiles, by_shape: Number of recompiles of the function, and of those in which a shape changed.
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


class ShapeChurn(CompileRule):
    """Axes of the arguments have many sizes."""

    name = "shape_churn"

    def __init__(self) -> None:
        self._functions: BoundedMap[_Shapes] = BoundedMap(_Shapes)

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if is_operation(event.function) or event.signature is None:
            return None
        function = self._functions.entry(event.function.label)
        function.recompiles += bool(event.causes)
        changed = [one for one in event.changes if one.kind == "shape"]
        is_counted = not event.causes or (bool(changed) and not is_overridden(event))
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
    """The pitfall of axes with many sizes; `columns` has the axes by their sizes in each combination of shapes."""
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


def best_buckets(sizes: Sequence[int]) -> tuple[list[int], float]:
    """The fewest sizes to pad to, at most four, with at most a quarter more work; and that additional work as a share.

    Assumes that every size is equally frequent, and that work is proportional to the size. Sizes are ascending.
    """
    candidates = _thinned(sizes)
    most = max(1, min(_MAX_BUCKETS, len(candidates) - 1))
    for count in range(1, most + 1):
        buckets = _split(candidates, count)
        overhead = _added(sizes, buckets)
        if overhead <= _MAX_OVERHEAD:
            break
    return buckets, overhead


def _split(sizes: Sequence[int], count: int) -> list[int]:
    """The `count` bucket sizes with the least total work, by dynamic programming over the last size of each bucket."""
    n = len(sizes)
    # least[j]: work for the first j sizes with the buckets so far; cuts[k][j]: where the last of k + 1 buckets begins.
    least = [0.0] + [float(sizes[j - 1] * j) for j in range(1, n + 1)]
    cuts: list[list[int]] = [[0] * (n + 1)]
    for _ in range(count - 1):
        previous, least, cut = least, [0.0] * (n + 1), [0] * (n + 1)
        for j in range(1, n + 1):
            least[j], cut[j] = min((previous[i] + sizes[j - 1] * (j - i), i) for i in range(j))
        cuts.append(cut)
    buckets, end = [], n
    for cut in reversed(cuts):
        if end == 0:
            break
        buckets.append(sizes[end - 1])
        end = cut[end]
    return buckets[::-1]


def _added(sizes: Sequence[int], buckets: Sequence[int]) -> float:
    padded = sum(next(bucket for bucket in buckets if bucket >= size) for size in sizes)
    return padded / sum(sizes) - 1.0 if sum(sizes) else 0.0


def _thinned(sizes: Sequence[int]) -> list[int]:
    if len(sizes) <= _MAX_CANDIDATES:
        return list(sizes)
    stride = -(-len(sizes) // _MAX_CANDIDATES)
    return list(sizes[::-1][::stride])[::-1]
