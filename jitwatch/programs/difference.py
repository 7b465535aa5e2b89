"""What differs between two programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Final, Literal

from jitwatch.model.cleaning import clean
from jitwatch.programs.locations import Locations
from jitwatch.programs.outline import ENDS, Argument, Outline, OutlineBuilder, loose, outline_of
from jitwatch.programs.tally import Tally
from jitwatch.programs.text import Entry, entries

Kind = Literal[
    "form", "name", "partitions", "replicas", "attributes", "mesh", "argument", "donation", "sharding", "constant",
    "custom_call", "result", "operation", "operation_types", "order",
]  # fmt: skip
#: Bounds of a difference: changes of each kind, operations that are listed, characters of one.
_MAX_CHANGES: Final = 20
_MAX_LISTED: Final = 10
_MAX_TEXT: Final = 240
#: Maximum number of different operations after the first difference; of more, none is listed as in one program only.
_MAX_DIFFERENT: Final = 200_000
_NEW: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        kind: `argument`, `result`: its type changed, or it was added or removed. `donation`, `sharding`: of an argument
            or a result. `constant`: its value changed, or it was added or removed. `operation`: there are more or fewer
            of this kind. `operation_types`: the same number of operations of this kind, but with different types or
            attributes. `order`: the same operations in a different order or with different operands. `form`: one text
            is in the generic form, and only types and constants were compared.
        what: What changed: `argument state['w']`, `result 0`, the type of a constant, the kind of the operation, the
            target of a custom call.
        before, after: Value in each program; None where it does not exist, a number for `operation` and `custom_call`.
        count: How often it occurs, for `constant` and `operation_types`.
    """

    kind: Kind
    what: str
    before: str | int | None = None
    after: str | int | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of one program.

    Attributes:
        text: Its line, without the location.
        line: Number of the line in the text.
        function: Function of the program that it belongs to.
        source: Source line, `/home/me/train.py:88`; None if the text has no locations.
    """

    text: str
    line: int
    function: str
    source: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two programs.

    Attributes:
        changes: The changes, those that cause others first.
        left_out: Number of further changes.
        same: Number of operations at the beginning that are known to be equal; None if all are.
        old_total, new_total: Number of operations.
        before, after: First differing operation of each text; None where there is none, or without texts.
        only_before, only_after: Operations after the first difference that only one text has, at most ten of each.
    """

    changes: tuple[Change, ...]
    left_out: int = 0
    same: int | None = None
    old_total: int = 0
    new_total: int = 0
    before: Operation | None = None
    after: Operation | None = None
    only_before: tuple[Operation, ...] = ()
    only_after: tuple[Operation, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether the programs are equal, except for names of values and functions, and locations."""
        return not self.changes

    def row(self) -> dict[str, Any]:
        """The difference as JSON values."""
        return {"is_equal": self.is_equal, **asdict(self)}


def difference(old: Outline, new: Outline) -> Difference:
    """The difference between two programs, as far as their outlines show it.

    If the outlines differ at all, so does at least one change.
    """
    found: list[list[Change]] = [_of_module(old, new)]
    found.append(_of_arguments("argument", old, new))
    constants = _of_constants(old.constants, new.constants)
    found.append(constants)
    body: list[Change] = list(constants)
    if old.form == new.form:
        body += _of_counts("custom_call", old.custom_calls, new.custom_calls)
        body += _of_operations(old, new, has_constants=bool(constants), has_calls=len(body) > len(constants))
        found.append(body[len(constants) :])
    found.insert(-1, _of_arguments("result", old, new))
    is_same = old.hash == new.hash
    if not is_same and old.form == new.form and not body and old.meshes == new.meshes:
        found.append([Change("order", "")])
    changes = tuple(one for group in found for one in group[:_MAX_CHANGES])
    return Difference(
        changes,
        left_out=sum(map(len, found)) - len(changes),
        same=None if is_same else _same(old, new),
        old_total=old.total,
        new_total=new.total,
    )


def compare_texts(old: str, new: str) -> Difference:
    """The difference between two programs, with the first differing operation and those that only one program has.

    Args:
        old: A StableHLO text, as for `outline_of`.
        new: Another one. Both are read once, and once more from the first difference on.
    """
    if old == new:
        total = outline_of(old).total
        return Difference((), old_total=total, new_total=total)
    builders = (OutlineBuilder(old), OutlineBuilder(new))
    first: tuple[Entry | None, Entry | None] | None = None
    same = 0
    numbers: dict[int, int] | None = {}
    for pair in zip_longest(_sequence(old, builders[0]), _sequence(new, builders[1])):
        before, after = pair
        if first is None:
            if before is not None and after is not None and before.form == after.form:
                same += bool(before.kind)
                continue
            first = pair
        if numbers is not None:
            for entry, one in ((before, 1), (after, _NEW)):
                if entry is not None and entry.kind:
                    key = hash(loose(entry.form))
                    numbers[key] = numbers.get(key, 0) + one
            if len(numbers) > _MAX_DIFFERENT:
                numbers = None
    found = difference(builders[0].outline(), builders[1].outline())
    if first is None:
        return found
    texts = (Locations(old), Locations(new))
    shown = [_operation(entry, where) for entry, where in zip(first, texts, strict=True)]
    only = [_only(*one, numbers or {}) for one in zip((old, new), first, texts, (1, _NEW), strict=True)]
    return Difference(
        found.changes,
        left_out=found.left_out,
        same=same,
        old_total=found.old_total,
        new_total=found.new_total,
        before=shown[0],
        after=shown[1],
        only_before=only[0],
        only_after=only[1],
    )


def _sequence(text: str, builder: OutlineBuilder) -> Iterator[Entry]:
    return (entry for entry in entries(text) if builder.add(entry))


def _only(text: str, begin: Entry | None, where: Locations, one: int, numbers: dict[int, int]) -> tuple[Operation, ...]:
    """The operations from an entry on that the other text does not have there, each once."""
    wanted = {key for key, number in numbers.items() if (number < _NEW if one == 1 else number % _NEW == 0)}
    found: list[Operation] = []
    if begin is not None and wanted:
        for entry in entries(text, begin):
            if entry.kind and entry.kind not in ENDS and (key := hash(loose(entry.form))) in wanted:
                wanted.discard(key)
                found += filter(None, [_operation(entry, where)])
                if not wanted or len(found) == _MAX_LISTED:
                    break
    return tuple(found)


def _operation(entry: Entry | None, where: Locations) -> Operation | None:
    if entry is None:
        return None
    text = clean(" ".join(entry.line[: 4 * _MAX_TEXT].split()), _MAX_TEXT)
    # JAX locates a constant at the call of the whole function, so the line of its first use is shown.
    used = where.use_of(entry) if entry.kind == "stablehlo.constant" else None
    source = where.source_of(*(used or (entry.start, entry.end)))
    return Operation(text, entry.number, clean(entry.function, _MAX_TEXT), clean(source) if source else None)


def _of_module(old: Outline, new: Outline) -> list[Change]:
    found = [] if old.form == new.form else [Change("form", "", old.form or "none", new.form or "none")]
    if old.name != new.name:
        found.append(Change("name", "", old.name, new.name))
    if old.partitions != new.partitions:
        found.append(Change("partitions", "", old.partitions, new.partitions))
    if old.replicas != new.replicas:
        found.append(Change("replicas", "", old.replicas, new.replicas))
    if old.attributes != new.attributes and old.form == new.form:
        found.append(Change("attributes", "", old.attributes, new.attributes))
    if old.meshes != new.meshes and old.form == new.form:
        found.append(Change("mesh", "", ", ".join(old.meshes) or None, ", ".join(new.meshes) or None))
    return found


def _of_arguments(which: Literal["argument", "result"], old: Outline, new: Outline) -> list[Change]:
    if which == "argument":
        hashes = (old.argument_hash, new.argument_hash)
        counts = (old.argument_count, new.argument_count)
        lists: tuple[Sequence[Argument], Sequence[Argument]] = (old.arguments, new.arguments)
    else:
        hashes = (old.result_hash, new.result_hash)
        counts = (old.result_count, new.result_count)
        lists = (old.results, new.results)
    if hashes[0] == hashes[1]:
        return []
    found: list[Change] = []
    for number, before, after in _paired(counts, lists):
        one = after or before
        assert one is not None
        name = (after.name if after else "") or (before.name if before else "") or number
        # JAX names results `result[0]` itself.
        what = name if which == "result" and name.startswith("result") else f"{which} {name}"
        if before is None or after is None:
            found.append(Change(which, what, before.type if before else None, after.type if after else None))
            continue
        if before.type != after.type:
            found.append(Change(which, what, before.type, after.type))
        elif which == "result" and before.name != after.name and before.name and after.name:
            found.append(Change(which, f"result {number}", f"named {before.name}", f"named {after.name}"))
        if before.other != after.other:
            found.append(Change(which, what, before.other or "no attributes", after.other or "no attributes"))
        if not _same_donation(before.donation, after.donation):
            found.append(Change("donation", what, before.donation or None, after.donation or None))
        if before.sharding != after.sharding:
            found.append(Change("sharding", what, before.sharding or None, after.sharding or None))
    if not found and old.form == new.form:
        # The outlines have only the first ones, or not their names.
        found.append(Change(which, "", counts[0], counts[1]))
    return found


def _paired(
    counts: tuple[int, int], lists: tuple[Sequence[Argument], Sequence[Argument]]
) -> Iterator[tuple[str, Argument | None, Argument | None]]:
    """Pairs of arguments: if their numbers differ and all names are distinct, by name; otherwise by position."""
    old, new = lists
    if counts[0] == counts[1]:
        yield from ((str(number), *pair) for number, pair in enumerate(zip(old, new, strict=False)))
        return
    if (len(old), len(new)) != counts:
        return
    names = [{one.name: (number, one) for number, one in enumerate(items) if one.name} for items in lists]
    if (len(names[0]), len(names[1])) == counts:
        for name, (number, before) in names[0].items():
            yield str(number), before, names[1].get(name, (0, None))[1]
        for name, (number, after) in names[1].items():
            if name not in names[0]:
                yield str(number), None, after
        return
    first = 0
    while first < min(counts) and old[first] == new[first]:
        first += 1
    last = 0
    while last < min(counts) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    middles = (old[first : counts[0] - last], new[first : counts[1] - last])
    for number, (before_, after_) in enumerate(zip_longest(*middles), first):
        yield str(number), before_, after_


def _same_donation(before: str, after: str) -> bool:
    # A row of a program with many arguments does not have the number of the output.
    return before == after or ("output" in (before, after) and before[:6] == after[:6])


def _of_constants(old: Tally, new: Tally) -> list[Change]:
    gone: dict[str, list[tuple[str, int]]] = {}
    come: dict[str, list[tuple[str, int]]] = {}
    for key in {**dict.fromkeys(old), **dict.fromkeys(new)}:
        if not (old.knows(key) and new.knows(key)):
            continue
        more = new.get(key)[0] - old.get(key)[0]
        value, _, kind = key.partition(" : ")
        if more:
            (come if more > 0 else gone).setdefault(kind, []).append((value, abs(more)))
    found: list[Change] = []
    for kind in {**gone, **come}:
        left, right = gone.get(kind, []), come.get(kind, [])
        # Constants with the same number of occurrences first, since these are most likely pairs.
        for number in sorted({number for _, number in left} & {number for _, number in right}):
            while (before := _pop(left, number)) is not None and (after := _pop(right, number)) is not None:
                found.append(Change("constant", kind, before, after, number))
            if before is not None:
                left.append((before, number))
        while left and right:
            (before, one), (after, other) = left.pop(0), right.pop(0)
            number = min(one, other)
            found.append(Change("constant", kind, before, after, number))
            if one > number:
                left.insert(0, (before, one - number))
            if other > number:
                right.insert(0, (after, other - number))
        found += [Change("constant", kind, value, None, number) for value, number in left]
        found += [Change("constant", kind, None, value, number) for value, number in right]
    # Replaced values first: most likely these were edited.
    return sorted(found, key=lambda one: one.before is None or one.after is None)


def _pop(values: list[tuple[str, int]], number: int) -> str | None:
    for place, (value, one) in enumerate(values):
        if one == number:
            del values[place]
            return value
    return None


def _of_counts(kind: Literal["custom_call", "operation"], old: Tally, new: Tally) -> list[Change]:
    found = []
    for key in {**dict.fromkeys(old), **dict.fromkeys(new)}:
        if old.knows(key) and new.knows(key) and (before := old.get(key)[0]) != (after := new.get(key)[0]):
            found.append(Change(kind, key, before, after))
    return found


def _of_operations(old: Outline, new: Outline, *, has_constants: bool, has_calls: bool) -> list[Change]:
    found = _of_counts("operation", old.operations, new.operations)
    # These have changes of their own.
    covered = {"stablehlo.constant"} if has_constants else set()
    covered |= {"stablehlo.custom_call"} if has_calls else set()
    covered |= {"sdy.mesh"} if old.meshes != new.meshes else set()
    found = [one for one in found if one.what not in covered]
    for kind in old.operations:
        before, after = old.operations.get(kind), new.operations.get(kind)
        if before[0] == after[0] and before[1] != after[1] and kind not in covered:
            found.append(Change("operation_types", kind, count=before[0]))
    return found


def _same(old: Outline, new: Outline) -> int:
    """Number of operations at the beginning that the hashes show to be equal."""
    stride = max(old.stride, new.stride)
    steps = (stride // old.stride, stride // new.stride)
    pairs = zip(old.checkpoints[steps[0] - 1 :: steps[0]], new.checkpoints[steps[1] - 1 :: steps[1]], strict=False)
    same = 0
    for before, after in pairs:
        if before != after:
            break
        same += stride
    return same
