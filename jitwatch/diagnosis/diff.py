"""Compares two signatures of a function, leaf by leaf and field by field, and lists the changes. Pure."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache, lru_cache
from itertools import compress, count
from operator import attrgetter, ne

from jitwatch.model.function import Change
from jitwatch.model.signature import Node, Placement, Signature, Value
from jitwatch.model.taxonomy import Cause

ABSENT = "absent"
#: Ends of the text of a value whose text equals that of the earlier one.
SAME_CONTENTS = "with the same contents"
SAME_LOOKS = "that looks the same"
REDACTED = "redacted"
ANOTHER_FUNCTION = ("one function object", "another for the same code")
#: Causes of changes in Python values.
_OF_VALUES: tuple[Cause, ...] = ("static_arg", "tree_structure", "new_function")
#: Path, and what is there before and after: a text, or the static data of two nodes of one kind.
_Difference = tuple[str, str | Value, str | Value]
#: Text and token of each part of a value, by path.
Parts = dict[str, tuple[str, int]]
#: End of the text of a function: its location.
_DEFINED = re.compile(r"\(\S+:\d+\)$")
#: Path of the static part of a module's attribute in flax's `nnx`.
_GRAPH = re.compile(r"\._graphdef\.attributes(?:\[\d+\])?\['(\w+)'\](?:\.value)?")
#: Changes of leaves of one kind that get a path and texts; more than are ever shown.
_MAX_WORDED = 32
_NO_VALUES = (ABSENT, "default")
#: A difference in the function object weighs more than any one argument.
FUNCTION_WEIGHT = 3
#: The columns of the leaves.
_LEAVES = attrgetter("shapes", "dtypes", "weak_types", "placements")
#: More than the distance of any two signatures.
MAX_DISTANCE = sys.maxsize


def distance(old: Signature, new: Signature, limit: int = MAX_DISTANCE) -> int:
    """The number of differences; 0 if JAX could have used the same program. Fast: equal columns are skipped.

    Args:
        old: A signature.
        new: Another one.
        limit: The number from which on it does not matter: the result may be any number from it up to the distance.
    """
    found = FUNCTION_WEIGHT * (old.function != new.function) + (old.options != new.options)
    if found >= limit:
        return found
    if old.paths is new.paths or old.paths == new.paths:
        found += _unequal(old, new)
    else:
        found += len(set(old.paths).symmetric_difference(new.paths)) + len(list(_common(old, new)))
    found += (old.tree_token != new.tree_token) + (old.keywords != new.keywords)
    if found >= limit:
        return found
    found += old.passed != new.passed
    for one, other in ((old.tree, new.tree), (old.statics, new.statics), (old.context, new.context)):
        if one is not other and one != other:
            found += len({path for path, _ in set(one).symmetric_difference(other)})
    return found


def _unequal(old: Signature, new: Signature) -> int:
    """Differing leaves of two signatures with the same paths."""
    found = 0
    for one, other in (
        (old.shapes, new.shapes),
        (old.dtypes, new.dtypes),
        (old.weak_types, new.weak_types),
        # The sharding counts in addition to the placement: another device is nearer than another sharding.
        (_shardings(old), _shardings(new)) if old.placements is not new.placements else ((), ()),
        (old.placements, new.placements),
    ):
        if one is not other and one != other:
            found += sum(map(ne, one, other))
    return found


def _shardings(signature: Signature) -> tuple[str, ...]:
    return tuple([one.sharding for one in signature.placements])


def _common(old: Signature, new: Signature) -> Iterator[tuple[int, int]]:
    """Positions of the leaves that are in both signatures and differ."""
    if old.paths is new.paths or old.paths == new.paths:
        differing: set[int] = set()
        for one, other in zip(_LEAVES(old), _LEAVES(new), strict=True):
            if one is not other and one != other:
                differing.update(compress(count(), map(ne, one, other)))
        yield from ((i, i) for i in sorted(differing))
        return
    where = {path: i for i, path in enumerate(old.paths)}
    for j, path in enumerate(new.paths):
        i = where.get(path)
        if i is not None and any(one[i] != other[j] for one, other in zip(_LEAVES(old), _LEAVES(new), strict=True)):
            yield i, j


def changes(old: Signature, new: Signature, *, is_redacted: bool = False) -> list[Change]:
    """All differences: structure, leaves, static arguments, configuration, function object; no values if redacted."""
    show: Callable[[Change], Change] = _redacted if is_redacted else lambda one: one
    found = [*_structure(old, new, show), *_leaves(old, new), *map(show, _statics(old, new)), *_context(old, new)]
    if new.origin in ("derived", "eager"):
        # Results follow from arguments; they are listed only if no argument differs.
        found = [one for one in found if not one.path.startswith("result[")] or found
    if old.function != new.function:
        found += _functions(old, new, show)
        # A function among the static arguments is the new function object itself.
        again = [one.path for one in found if one.kind == "static_arg" and looks_the_same(one)]
        found = [one for one in found if one.path not in again and not any(is_below(one.path, path) for path in again)]
    elif old.options != new.options:
        names = {name for name, _ in set(old.options).symmetric_difference(new.options)}
        text = f"another {', '.join(sorted(names))}"
        found.append(Change("options of jax.jit", "new_function", "as before", text))
    found = _together(
        [
            replace(one, path=_GRAPH.sub(r".\1", one.path)) if "_graphdef" in one.path else one
            for one in _sure(found, new) or found
        ]
    )
    # Values that differ come before objects that look the same.
    return sorted(found, key=lambda one: one.kind in _OF_VALUES and looks_the_same(one))


def _together(found: list[Change]) -> list[Change]:
    """Merge several parts of one object that look the same, such as the functions of an optimizer."""
    groups: dict[tuple[Cause, str], list[Change]] = {}
    for one in found:
        if one.kind in ("static_arg", "tree_structure") and looks_the_same(one):
            groups.setdefault((one.kind, re.split(r"[.\[]", one.path)[0]), []).append(one)
    for (kind, _), several in groups.items():
        if len(several) > 1:
            path = container_of([one.path for one in several])
            found[found.index(several[0])] = Change(path, kind, "one object", f"another {SAME_LOOKS}")
            found = [one for one in found if one not in several]
    return found


def is_doubtful(found: list[Change], new: Signature) -> bool:
    """Whether none of the changes is certain."""
    return not _sure(found, new)


def _sure(found: list[Change], new: Signature) -> list[Change]:
    """The certain changes: without values of a class with its own `__eq__` that look the same, and may be equal."""
    custom = {name for name, value in new.statics if value.hashing == "custom"}
    custom |= {path for path, node in new.tree if node.aux is not None and node.aux.hashing != "plain"}
    return [one for one in found if one.path not in custom or not looks_the_same(one)]


def looks_the_same(change: Change) -> bool:
    """Whether both values have the same text, and only differ in their identity."""
    return change.after.endswith((SAME_CONTENTS, SAME_LOOKS))


def _redacted(change: Change) -> Change:
    """The change without values; that two values look the same, or that one is absent, stays."""
    after = change.after if change.after in _NO_VALUES or looks_the_same(change) else REDACTED
    return replace(change, before=change.before if change.before in _NO_VALUES else REDACTED, after=after)


def _structure(old: Signature, new: Signature, show: Callable[[Change], Change]) -> Iterator[Change]:
    """Changes of the tree structure: leaves and containers that were added or removed, and static data of nodes."""
    if old.tree_token == new.tree_token and old.paths == new.paths and old.tree == new.tree:
        if old.keywords != new.keywords:
            yield from _keywords(old, new)
        return
    differing = list(_differing(old, new))
    for path, before, after in differing:
        if isinstance(before, str) or isinstance(after, str):
            yield Change(path, "tree_structure", *map(str, (before, after)))
        else:
            yield from map(show, values(path, "tree_structure", before, after))
    if differing:
        return
    names = [set(one.keywords) - {name for name, _ in one.statics} for one in (old, new)]
    if names[0] != names[1]:
        yield from _keywords(old, new)
    elif old.keywords == new.keywords and old.tree_token and new.tree_token and old.tree_token != new.tree_token:
        yield Change("arguments", "tree_structure", "one structure", "another with the same leaves")


def _differing(old: Signature, new: Signature) -> Iterator[_Difference]:
    """Leaves and containers that were added, removed or replaced, without those inside of such containers."""
    before, after = _by_path(old), _by_path(new)
    paths = before.keys() | after.keys()
    reported: set[str] = set()
    # A container sorts before its contents.
    for path in sorted(paths):
        one, other = before.get(path), after.get(path)
        if reported and _container(path, paths) in reported:
            reported.add(path)
            continue
        if one == other:
            continue
        found = _difference(path, one, other)
        if found is not None:
            yield found
        if not (isinstance(one, Node) and isinstance(other, Node) and _is_same_kind(one, other)):
            reported.add(path)


def _by_path(signature: Signature) -> dict[str, str | Node]:
    """Every node, and the text of every leaf."""
    leaves = zip(signature.paths, signature.dtypes, signature.shapes, strict=True)
    return {path: array_text(dtype, shape) for path, dtype, shape in leaves} | dict(signature.tree)


def _difference(path: str, one: str | Node | None, other: str | Node | None) -> _Difference | None:
    if isinstance(one, str) and isinstance(other, str):
        return None  # both are arrays, which are compared leaf by leaf
    if not (isinstance(one, Node) and isinstance(other, Node)):
        return path, _text(one), _text(other)
    if one.kind != other.kind:
        return path, one.text, other.text
    if one.number != other.number:
        return path, one.text, f"another class {other.text}"
    if one.aux is not None and other.aux is not None and one.aux != other.aux:
        return path, _holding(one.kind, one.aux), _holding(other.kind, other.aux)
    if (one.aux is None) != (other.aux is None):
        return (
            path,
            one.aux.text if one.aux is not None else "None",
            other.aux.text if other.aux is not None else "None",
        )
    if one.order != other.order and sorted(one.order) == sorted(other.order):
        return path, _in_order(one), _in_order(other)
    # The number of children differs; each is reported itself.
    return None


def _in_order(node: Node) -> str:
    return f"{node.kind} in the order {', '.join(node.order)}"


def _holding(kind: str, aux: Value) -> Value:
    return replace(aux, type=kind, text=f"{kind} with {aux.text}")


def _text(one: str | Node | None) -> str:
    return ABSENT if one is None else one if isinstance(one, str) else one.text


def _is_same_kind(one: Node, other: Node) -> bool:
    return (one.kind, one.number) == (other.kind, other.number)


def _container(path: str, paths: AbstractSet[str]) -> str:
    """The path of the container of a node, or an empty text. A key may itself contain dots and brackets."""
    end = len(path)
    while end > 0:
        end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
        if path[:end] in paths:
            return path[:end]
    return ""


def _keywords(old: Signature, new: Signature) -> Iterator[Change]:
    """Arguments that were passed by position in one call and by keyword in the other."""
    gone = {name for name, _ in (*old.statics, *new.statics)}
    for name in sorted(set(old.keywords).symmetric_difference(new.keywords) - gone):
        texts = ["by keyword" if name in one.keywords else "by position" for one in (old, new)]
        yield Change(name, "tree_structure", *texts)


def _leaves(old: Signature, new: Signature) -> Iterator[Change]:
    """Changes of the leaves that are in both signatures; of many of one kind only the first have a path and texts."""
    counts: Counter[Cause] = Counter()
    for i, j in _common(old, new):
        for kind, before, after in _of_leaf(old, i, new, j):
            counts[kind] += 1
            yield Change(new.paths[j], kind, before, after) if counts[kind] <= _MAX_WORDED else _counted(kind)


@cache
def _counted(kind: Cause) -> Change:
    """A change past the limit, which is only counted."""
    return Change("", kind, "", "")


def _of_leaf(old: Signature, i: int, new: Signature, j: int) -> Iterator[tuple[Cause, str, str]]:
    """Cause and both texts of each difference between leaf `i` of the old and leaf `j` of the new signature."""
    if old.shapes[i] != new.shapes[j]:
        yield "shape", array_text(old.dtypes[i], old.shapes[i]), array_text(new.dtypes[j], new.shapes[j])
    if old.dtypes[i] != new.dtypes[j]:
        yield "dtype", old.dtypes[i], new.dtypes[j]
    elif old.weak_types[i] != new.weak_types[j]:
        before, after = ("weak" if one else "strong" for one in (old.weak_types[i], new.weak_types[j]))
        yield "weak_type", f"{new.dtypes[j]}, {before} type", f"{new.dtypes[j]}, {after} type"
    if old.placements[i] != new.placements[j]:
        yield from _moved(old.placements[i], new.placements[j])


def _moved(old: Placement, new: Placement) -> Iterator[tuple[Cause, str, str]]:
    if old.layout != new.layout:
        yield "layout", old.layout or "default layout", new.layout or "default layout"
    if (old.sharding, old.devices) == (new.sharding, new.devices):
        return
    kind: Cause = "device" if old.sharding == new.sharding else "sharding"
    if not old.is_committed or not new.is_committed:
        committed = old if old.is_committed else new
        kind = "committed" if committed.sharding.startswith("one device") else "sharding"
    yield kind, _placement_text(old), _placement_text(new)


def _placement_text(one: Placement) -> str:
    if not one.is_committed:
        return "not committed"
    if one.sharding.startswith("one device"):
        return f"committed to {one.devices}{one.sharding.removeprefix('one device')}"
    return f"{one.sharding}, devices {one.devices}" if one.devices else one.sharding


def _statics(old: Signature, new: Signature) -> Iterator[Change]:
    before, after = dict(old.statics), dict(new.statics)
    how_before, how_after = dict(old.passed), dict(new.passed)
    for name in before | after:
        if before.get(name) != after.get(name):
            yield from values(name, "static_arg", before.get(name), after.get(name))
        elif how_before.get(name) != how_after.get(name):
            texts = [f"{after[name].text} {how.get(name, '')}" for how in (how_before, how_after)]
            yield Change(name, "static_arg", *texts)


def values(name: str, kind: Cause, old: Value | None, new: Value | None) -> Iterator[Change]:
    """Changes between two Python values: of their fields, or of the whole value."""
    if old is None or new is None:
        yield Change(name, kind, old.text if old else "default", new.text if new else "default")
        return
    before, after = _parts(old), _parts(new)
    differing = [path for path in before | after if before.get(path) != after.get(path)]
    if old.type != new.type or not (before and after and differing):
        yield Change(name, kind, old.text, _another(new) if (old.type, old.text) == (new.type, new.text) else new.text)
        return
    for path in _without_containers(differing, before, after):
        (one, _), (other, _) = before.get(path, (ABSENT, 0)), after.get(path, (ABSENT, 0))
        yield Change(name + path, kind, one, other if one != other else f"another {other} {SAME_LOOKS}")


def _without_containers(paths: list[str], before: Parts, after: Parts) -> list[str]:
    """Leave out objects whose text differs only because of a part that is listed itself."""
    texts = {path: (before.get(path, (ABSENT, 0))[0], after.get(path, (ABSENT, 0))[0]) for path in paths}
    changed = [path for path, (one, other) in texts.items() if one != other]
    return [
        path for path in paths if _DEFINED.search(texts[path][1]) or not any(is_below(one, path) for one in changed)
    ]


def _parts(value: Value) -> Parts:
    """Text and token of each part, by path."""
    tokens = value.field_tokens or (0,) * len(value.fields)
    return {path: (text, token) for (path, text), token in zip(value.fields, tokens, strict=True)}


def _another(value: Value) -> str:
    """Text of a value with the same text as the earlier one; of an array only shape and dtype are known."""
    if value.text.endswith("]") and value.text.partition("[")[0].isidentifier():
        return f"another {value.text}"
    return f"another {value.type} {SAME_LOOKS if value.hashing == 'plain' else SAME_CONTENTS}"


def _context(old: Signature, new: Signature) -> Iterator[Change]:
    if old.context == new.context:
        return
    before, after = dict(old.context), dict(new.context)
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, "not set"), after.get(name, "not set")
        if one != other:
            yield Change(name, "config", one, other)


def _functions(old: Signature, new: Signature, show: Callable[[Change], Change]) -> Iterator[Change]:
    """Changes of a new function object of the same code: of the captured values, or else of the object itself."""
    before = dict(old.captured)
    changed = [(name, value) for name, value in dict(new.captured).items() if name in before and before[name] != value]
    for name, value in changed:
        yield from map(show, values(name, "new_function", before[name], value))
    if not changed:
        yield Change("function", "new_function", *ANOTHER_FUNCTION)


def is_below(path: str, container: str) -> bool:
    """Whether a path leads into the object at another path."""
    return path.startswith((f"{container}.", f"{container}["))


def container_of(paths: Sequence[str]) -> str:
    """The innermost container that all paths lead to or into: `state.tx` of `state.tx.init` and `state.tx.update`."""
    first = paths[0]
    ends = [len(first), *(i for i in range(len(first) - 1, 0, -1) if first[i] in ".[")]
    for end in ends:
        if all(path == first[:end] or is_below(path, first[:end]) for path in paths):
            return first[:end]
    return first


def value_at(signature: Signature | None, path: str) -> Value | None:
    """The static argument, or static data of a node, at a path or above it."""
    if signature is None:
        return None
    held = [(name, node.aux) for name, node in signature.tree if node.aux is not None]
    found = [(name, value) for name, value in (*signature.statics, *held) if name == path or is_below(path, name)]
    if not found:
        return None
    name, value = max(found, key=lambda one: len(one[0]))
    if name == path:
        return value
    below = path.removeprefix(name)
    fields = tuple((one, text) for one, text in value.fields if one == below or is_below(one, below))
    return replace(value, type="", fields=fields, hashing="plain") if fields else value


@lru_cache(maxsize=1_000)
def array_text(dtype: str, shape: tuple[int | str, ...]) -> str:
    """An array as text: `float32[8,512]`."""
    return f"{dtype}[{','.join(map(str, shape))}]"
