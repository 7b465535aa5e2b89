"""Compares the tree structures of two signatures, and reports the outermost nodes that differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import lru_cache

from jitwatch.model.signature import Node, Signature, Value

ABSENT = "absent"

#: Path, and what is there before and after: a text, or the static data of two nodes of one kind.
Difference = tuple[str, str | Value, str | Value]


def differing(old: Signature, new: Signature) -> Iterator[Difference]:
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


def _difference(path: str, one: str | Node | None, other: str | Node | None) -> Difference | None:
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
        texts = [node.aux.text if node.aux is not None else "None" for node in (one, other)]
        return path, texts[0], texts[1]
    if one.order != other.order and sorted(one.order) == sorted(other.order):
        texts = [f"{node.kind} in the order {', '.join(node.order)}" for node in (one, other)]
        return path, texts[0], texts[1]
    # The number of children differs; each is reported itself.
    return None


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


@lru_cache(maxsize=1_000)
def array_text(dtype: str, shape: tuple[int | str, ...]) -> str:
    """An array as text: `float32[8,512]`."""
    return f"{dtype}[{','.join(map(str, shape))}]"
