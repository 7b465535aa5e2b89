"""What differs between two signatures of a function, leaf by leaf and field by field. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from operator import ne

from jitwatch.events import Cause, Change
from jitwatch.signature import Placement, Signature, Value

ABSENT = "absent"
#: End of the text of a value whose parts are those of the other.
LOOKS_THE_SAME = "with the same contents"
#: A difference in the function object weighs more than any one argument.
_FUNCTION_WEIGHT = 3


def distance(old: Signature, new: Signature) -> int:
    """How many things differ; 0 when JAX should have had the program. Cheap: columns are compared whole."""
    found = _FUNCTION_WEIGHT * (old.function != new.function) + (old.options != new.options)
    if old.paths is new.paths or old.paths == new.paths:
        found += _unequal(old, new) + (old.tree_token != new.tree_token)
    else:
        found += len(set(old.paths).symmetric_difference(new.paths)) + len(list(_common(old, new)))
    if old.statics != new.statics:
        found += len(set(old.statics).symmetric_difference(new.statics))
    if old.context != new.context:
        found += len(set(old.context).symmetric_difference(new.context))
    return found


def _unequal(old: Signature, new: Signature) -> int:
    """Differing leaves of two signatures with the same paths."""
    found = 0
    for one, other in (
        (old.shapes, new.shapes),
        (old.dtypes, new.dtypes),
        (old.weak_types, new.weak_types),
        # Both halves of a placement: another device of the same kind is nearer than another sharding.
        (_shardings(old), _shardings(new)) if old.placements is not new.placements else ((), ()),
        (old.placements, new.placements),
    ):
        if one is not other and one != other:
            found += sum(map(ne, one, other))
    return found


def _shardings(signature: Signature) -> tuple[str, ...]:
    return tuple([place.sharding for place in signature.placements])


def _common(old: Signature, new: Signature) -> Iterator[tuple[int, int]]:
    """Positions of the leaves that both have and that differ."""
    if old.paths == new.paths:
        places = [(i, i) for i in range(len(new.paths))]
    else:
        where = {path: i for i, path in enumerate(old.paths)}
        places = [(where[path], j) for j, path in enumerate(new.paths) if path in where]
    for i, j in places:
        if (
            old.shapes[i] != new.shapes[j]
            or old.dtypes[i] != new.dtypes[j]
            or old.weak_types[i] != new.weak_types[j]
            or old.placements[i] != new.placements[j]
        ):
            yield i, j


def changes(old: Signature, new: Signature) -> list[Change]:
    """Everything that differs, in the order in which a person would look for it."""
    found = [
        *_structure(old, new),
        *_leaves(old, new),
        *_statics(old, new),
        *_context(old, new),
    ]
    if old.function != new.function:
        found += _functions(old, new)
        # A function among the static arguments is the one that was made anew.
        found = [one for one in found if not (one.kind == "static_arg" and one.after.endswith(LOOKS_THE_SAME))]
    elif old.options != new.options:
        found.append(Change("options of jax.jit", "new_function", "as before", "others"))
    # Only the class of a value with an `__eq__` of its own knows whether two that look the same differ.
    doubtful = [one for one in found if _is_doubtful(one, new)]
    return [one for one in found if one not in doubtful] if len(doubtful) < len(found) else found


def _structure(old: Signature, new: Signature) -> Iterator[Change]:
    """Leaves and containers that came or went."""
    if old.tree_token == new.tree_token and old.paths == new.paths:
        return
    before, after = _shown(old), _shown(new)
    gone, come = before.keys() - after.keys(), after.keys() - before.keys()
    told: set[str] = set()
    for path in sorted(gone | come):
        if _is_below(path, told):
            continue
        told.add(path)
        yield Change(path, "tree_structure", before.get(path, ABSENT), after.get(path, ABSENT))
    for path in before.keys() & after.keys():
        one, other = before[path], after[path]
        is_leaf = path not in _nodes(old) and path not in _nodes(new)
        if one != other and not is_leaf and not _is_below(path, told) and not _is_above(path, told):
            told.add(path)
            yield Change(path, "tree_structure", _plain(one), _plain(other))
    if not told:
        one, other = dict(old.tree).get("**kwargs", ""), dict(new.tree).get("**kwargs", "")
        if one != other:
            yield Change("**kwargs", "tree_structure", one or "none", other or "none")
        elif old.tree_token and new.tree_token and old.tree_token != new.tree_token:
            yield Change("arguments", "tree_structure", "one structure", "another with the same leaves")


def _shown(signature: Signature) -> dict[str, str]:
    """Text of every leaf and node by path."""
    shown = {path: text for path, text in signature.tree if path != "**kwargs"}
    for path, dtype, shape in zip(signature.paths, signature.dtypes, signature.shapes, strict=True):
        shown[path] = array_text(dtype, shape)
    return shown


def _nodes(signature: Signature) -> set[str]:
    return {path for path, _ in signature.tree}


def _plain(text: str) -> str:
    """A node's text without the token that tells it apart."""
    return text.rpartition("#")[0] or text if "#" in text else text


def _is_below(path: str, told: set[str]) -> bool:
    """Whether a container of this path was already told of."""
    return any(path[:end] in told for end in range(len(path) - 1, 0, -1) if path[end] in ".[")


def _is_above(path: str, told: set[str]) -> bool:
    """Whether something inside of this container was already told of."""
    return any(one.startswith((f"{path}[", f"{path}.")) for one in told)


def _is_doubtful(change: Change, new: Signature) -> bool:
    value = dict(new.statics).get(change.path) if change.kind == "static_arg" else None
    return value is not None and value.hashing == "custom" and change.after.endswith(LOOKS_THE_SAME)


def _leaves(old: Signature, new: Signature) -> Iterator[Change]:
    """Leaves that both have, by path, whatever their order."""
    for i, j in _common(old, new):
        path = new.paths[j]
        if old.shapes[i] != new.shapes[j]:
            yield Change(
                path, "shape", array_text(old.dtypes[i], old.shapes[i]), array_text(new.dtypes[j], new.shapes[j])
            )
        if old.dtypes[i] != new.dtypes[j]:
            yield Change(path, "dtype", old.dtypes[i], new.dtypes[j])
        elif old.weak_types[i] != new.weak_types[j]:
            texts = [
                f"{new.dtypes[j]}, {'weak' if weak else 'strong'} type"
                for weak in (old.weak_types[i], new.weak_types[j])
            ]
            yield Change(path, "weak_type", *texts)
        if old.placements[i] != new.placements[j]:
            yield from _moved(path, old.placements[i], new.placements[j])


def _moved(path: str, old: Placement, new: Placement) -> Iterator[Change]:
    if old.layout != new.layout:
        yield Change(path, "layout", old.layout or "default layout", new.layout or "default layout")
    if (old.sharding, old.devices) == (new.sharding, new.devices):
        return
    before, after = _place_text(old), _place_text(new)
    kind: Cause
    if not old.is_committed or not new.is_committed:
        place = old if old.is_committed else new
        kind = "committed" if place.sharding.startswith("one device") else "sharding"
    else:
        kind = "device" if old.sharding == new.sharding else "sharding"
    yield Change(path, kind, before, after)


def _place_text(place: Placement) -> str:
    if not place.is_committed:
        return "not committed"
    if place.sharding.startswith("one device"):
        return f"committed to {place.devices}{place.sharding.removeprefix('one device')}"
    return f"{place.sharding}, devices {place.devices}" if place.devices else place.sharding


def _statics(old: Signature, new: Signature) -> Iterator[Change]:
    before, after = dict(old.statics), dict(new.statics)
    for name in list(before) + [one for one in after if one not in before]:
        if before.get(name) != after.get(name):
            yield from values(name, "static_arg", before.get(name), after.get(name))


def values(name: str, kind: Cause, old: Value | None, new: Value | None) -> Iterator[Change]:
    """What differs between two Python values: the fields that do, or the whole."""
    if old is None or new is None:
        yield Change(name, kind, old.text if old else "default", new.text if new else "default")
        return
    if old.type != new.type or not (old.fields and new.fields):
        same = old.type == new.type and old.text == new.text
        yield Change(name, kind, old.text, f"another {new.type} {LOOKS_THE_SAME}" if same else new.text)
        return
    before, after = dict(old.fields), dict(new.fields)
    differing = [
        path
        for path in list(before) + [one for one in after if one not in before]
        if before.get(path) != after.get(path)
    ]
    if not differing:
        yield Change(name, kind, old.text, f"another {new.type} {LOOKS_THE_SAME}")
    for path in differing:
        yield Change(name + path, kind, before.get(path, ABSENT), after.get(path, ABSENT))


def _context(old: Signature, new: Signature) -> Iterator[Change]:
    before, after = dict(old.context), dict(new.context)
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, "not set"), after.get(name, "not set")
        if one != other:
            yield Change(name, "config", one, other)


def _functions(old: Signature, new: Signature) -> Iterator[Change]:
    """A new function object for the same code: the captured values that changed, or just the fact."""
    before, after = dict(old.captured), dict(new.captured)
    told = False
    for name, value in after.items():
        if name in before and before[name] != value:
            told = True
            yield from values(name, "new_function", before[name], value)
    if not told:
        yield Change("function", "new_function", "one function object", "another for the same code")


def array_text(dtype: str, shape: tuple[int | str, ...]) -> str:
    """`float32[8,512]`."""
    return f"{dtype}[{','.join(map(str, shape))}]"
