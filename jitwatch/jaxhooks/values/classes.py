"""What is known of a class once and for all: its name, whose it is, where its objects keep what they hold."""

from __future__ import annotations

import dataclasses
import enum
import types
from typing import Any

from jitwatch.jaxhooks.values.texts import (
    CALLABLES,
    bases_of,
    class_attribute,
    class_name,
    is_of_library,
    is_of_standard_library,
    module_of,
    own_attributes,
)
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.signature import Hashing

#: What objects that `jax.jit` returns are called; their class has a private name.
JITTED = "jitted function"
#: File names of the code that dataclasses and attrs write for `__eq__`.
_WRITTEN = ("<string>", "<attrs generated")


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """Of one class.

    Attributes:
        name: Its bare name.
        hashing: How it compares its objects.
        is_library: Whether it is JAX's or numpy's own.
        is_standard: Whether it is one of the standard library for dates, paths and the like.
        is_treedef: Whether it is JAX's structure of a tree.
        slots: Its slots, by name.
        dictionary: What gives the dictionary of an object, where objects have one.
        compared: What the `__eq__` of a dataclass compares: its fields, but those that it leaves out. None for others.
    """

    name: str
    hashing: Hashing
    is_library: bool
    is_standard: bool
    is_treedef: bool
    slots: tuple[tuple[str, types.MemberDescriptorType], ...]
    dictionary: types.GetSetDescriptorType | None
    compared: frozenset[str] | None


#: By class, weakly; a structure of thousands of objects has a handful of classes.
_known: WeakIdMap[Facts] = WeakIdMap()


def facts_of(kind: type) -> Facts:
    """What is known of the class."""
    facts = _known.get(kind)
    if facts is None:
        facts = _read(kind)
        _known.set(kind, facts)
    return facts


def _read(kind: type) -> Facts:
    name, hashing, is_library = class_name(kind), _hashing_of(kind), is_of_library(kind)
    if is_library and name == "PjitFunction":
        name = JITTED
    slots = [
        (name, descriptor)
        for base in reversed(bases_of(kind))
        for name, descriptor in own_attributes(base).items()
        if type(descriptor) is types.MemberDescriptorType
    ]
    holders = [own_attributes(base).get("__dict__") for base in bases_of(kind)]
    return Facts(
        name=name,
        hashing=hashing,
        is_library=is_library,
        is_standard=is_of_standard_library(kind),
        is_treedef=is_library and name == "PyTreeDef",
        slots=tuple(slots),
        dictionary=next((one for one in holders if type(one) is types.GetSetDescriptorType), None),
        compared=_compared(kind) if hashing == "plain" else None,
    )


def _hashing_of(kind: type) -> Hashing:
    """How the class compares its objects: by content, by being the same, or by code of its own."""
    if issubclass(kind, (*CALLABLES, type(None), types.ModuleType, enum.Enum)):
        return "plain"
    owner = next(base for base in bases_of(kind) if "__eq__" in own_attributes(base))
    if owner is object:
        return "identity"
    equal = own_attributes(owner)["__eq__"]
    if module_of(owner) in ("builtins", "collections") or is_of_library(owner) or is_of_standard_library(owner):
        return "plain"
    is_written = type(equal) is types.FunctionType and equal.__code__.co_filename.startswith(_WRITTEN)
    return "plain" if is_written else "custom"


def _compared(kind: type) -> frozenset[str] | None:
    fields: Any = class_attribute(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return None
    return frozenset(name for name, one in fields.items() if type(one) is dataclasses.Field and one.compare)
