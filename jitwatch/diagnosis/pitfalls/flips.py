"""Pitfalls of arguments and options that change: dtypes, placements, tree structures, JAX's configuration."""

from __future__ import annotations

import re
from abc import abstractmethod

from jitwatch.diagnosis.diff import ABSENT, REDACTED, looks_the_same, value_at
from jitwatch.diagnosis.eager import is_operation
from jitwatch.diagnosis.pitfalls.rule import CompileRule, Pitfall
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change, argument_of
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Cause

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


class _FlipRule(CompileRule):
    """Base: a property of an argument changes, usually because the first call passed something else."""

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if is_operation(event.function) or is_overridden(event):
            return None
        changed = self._changed(event)
        return self._pitfall(changed[0], len(changed), event.signature) if changed else None

    def _changed(self, event: Compiled) -> list[Change]:
        # Objects that look the same have a rule of their own.
        return [one for one in event.changes if one.kind in self.causes and not looks_the_same(one)]

    @abstractmethod
    def _pitfall(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
        """The pitfall, worded with the first of `count` changes of this signature."""


class WeakTypeFlip(_FlipRule):
    """An argument is a Python number in one call and an array in another."""

    name = "weak_type"
    causes = ("weak_type",)

    def _pitfall(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
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

    def _pitfall(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
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

    def _pitfall(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
        return Pitfall(
            argument_of(change.path),
            f"the placement of {change.path}{_others(count)} changed: {change.before} before, {change.after} now",
            "Use jax.device_put with the final sharding before the first step, also after restoring a checkpoint",
        )


class TreeFlip(_FlipRule):
    """The tree structure of an argument changes: a key, a length, None for an array, a class, or static data."""

    name = "tree_flip"
    causes = ("tree_structure",)

    def _changed(self, event: Compiled) -> list[Change]:
        # Static data that depends on the shape of an array changes together with it.
        if any(one.kind == "shape" for one in event.changes):
            return []
        # A number in static data is a pitfall only if it has many values (`StaticArgChurn`).
        return [one for one in super()._changed(event) if not _is_number(one, event.signature)]

    def _pitfall(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
        path, before, after = change.path, change.before, change.after
        more = f"; and {count - 1} more changes" if count > 1 else ""
        was = f"{path} was {before} and is {after} now{more}"
        if before.startswith("by ") and after.startswith("by "):
            message = f"{path} was passed {before} and is passed {after} now"
            return Pitfall(argument_of(path), message, "Pass it the same way in every call")
        if is_metadata(change, signature):
            if {before, after} == {"True", "False"}:
                advice = "One program for each of the two is expected; there is nothing to do unless it changes often"
            else:
                advice = f"Keep {path} the same, or make it an array in its class: each value needs its own program"
            return Pitfall(path, f"{was}, which is static metadata and not an array", advice)
        base = path[: path.rindex("[")] if _ITEM.search(path) else ""
        if base and ABSENT in (before, after):
            return _of_length(base, signature, was)
        if "None" in (before, after):
            advice = "Pass an array in every call, for example zeros or a mask, or accept one program for each case"
            return Pitfall(argument_of(path), was, advice)
        if ABSENT in (before, after):
            advice = "Keep the same keys and attributes in every call, from the first one on"
            return Pitfall(argument_of(path), was, advice)
        return Pitfall(argument_of(path), was, f"Pass the same kind of container for {path} in every call")


def _of_length(base: str, signature: Signature | None, was: str) -> Pitfall:
    """The pitfall of a list or tuple whose length changed."""
    shapes = dict(zip(signature.paths, signature.shapes, strict=True)) if signature is not None else {}
    scalars = sum(shape == () for path, shape in shapes.items() if path.startswith(f"{base}["))
    if scalars >= _MANY_SCALARS:
        return Pitfall(
            argument_of(base),
            f"{base} is a sequence of {scalars} scalars, each of them a separate argument, and its length changed",
            f"Pass one array instead: jnp.asarray({base}), padded to a fixed length",
        )
    return Pitfall(
        argument_of(base),
        f"the length of {base} changed: {was}",
        f"Keep the length of {base} constant, or stack it into one padded array",
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

    def _pitfall(self, change: Change, count: int, signature: Signature | None) -> Pitfall:
        return Pitfall(
            change.path,
            f"{change.path} was {change.before} and is {change.after} now",
            f"Set {change.path} once at start-up, or keep the same context around every call",
        )


def is_overridden(event: Compiled) -> bool:
    """Whether the function or its program is another one, which explains a recompile whatever the arguments."""
    return any(cause in _OVERRIDING for cause in event.causes)


def _others(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _quoted(dtype: str) -> str:
    return f"jnp.{dtype}" if dtype.isidentifier() else repr(dtype)
