"""Facts about classes: name, origin, how objects are compared, and where they store their contents.

Attributes of classes are read where Python stores them, since a metaclass of the user may compute them.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from typing import Any

from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.cleaning import clean
from jitwatch.model.signature import Hashing

#: Name shown for objects that `jax.jit` returns; their class has a private name.
JITTED = "jitted function"
#: File names of the `__eq__` that dataclasses and attrs generate.
_GENERATED = ("<string>", "<attrs generated")
_LIBRARIES = ("jax", "jaxlib", "numpy", "ml_dtypes")
#: Modules of the standard library whose values are shown by their own `repr`.
_STANDARD = ("pathlib", "datetime", "decimal", "fractions", "uuid", "ipaddress", "zoneinfo")
CALLABLES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
_MAX_NAME = 80

_mro = type.__dict__["__mro__"].__get__
_dict = type.__dict__["__dict__"].__get__
_module = type.__dict__["__module__"].__get__
qualname_of = type.__dict__["__qualname__"].__get__


@dataclasses.dataclass(frozen=True, slots=True)
class ClassFacts:
    """Facts about one class.

    Attributes:
        is_library: Whether it is JAX's or NumPy's own.
        is_standard: Whether it is a class of the standard library for dates, paths and similar values.
        is_treedef: Whether it is JAX's tree structure.
        slots: Its slots, by name.
        dictionary: The descriptor of the instance dictionary, if objects have one.
        compared: The fields that the `__eq__` of a dataclass compares; None for other classes.
    """

    name: str
    hashing: Hashing
    is_library: bool
    is_standard: bool
    is_treedef: bool
    slots: tuple[tuple[str, types.MemberDescriptorType], ...]
    dictionary: types.GetSetDescriptorType | None
    compared: frozenset[str] | None


#: By class, weakly; a structure of thousands of objects has few classes.
_known: WeakIdMap[ClassFacts] = WeakIdMap()


def class_facts(kind: type) -> ClassFacts:
    """Return the facts about a class; cached."""
    facts = _known.get(kind)
    if facts is None:
        facts = _read(kind)
        _known.set(kind, facts)
    return facts


def _read(kind: type) -> ClassFacts:
    name, hashing, is_library = class_name(kind), _hashing_of(kind), is_of_library(kind)
    attributes = [own_attributes(base) for base in bases_of(kind)]
    fields: Any = class_attribute(kind, "__dataclass_fields__") if hashing == "plain" else None
    compared = None
    if type(fields) is dict:
        compared = frozenset(name for name, one in fields.items() if type(one) is dataclasses.Field and one.compare)
    holders = (own.get("__dict__") for own in attributes)
    return ClassFacts(
        name=JITTED if is_library and name == "PjitFunction" else name,
        hashing=hashing,
        is_library=is_library,
        is_standard=is_of_standard_library(kind),
        is_treedef=is_library and name == "PyTreeDef",
        slots=tuple(
            (name, descriptor)
            for own in reversed(attributes)
            for name, descriptor in own.items()
            if type(descriptor) is types.MemberDescriptorType
        ),
        dictionary=next((one for one in holders if type(one) is types.GetSetDescriptorType), None),
        compared=compared,
    )


def _hashing_of(kind: type) -> Hashing:
    """Return how the class compares its objects: by content, by identity, or by code of its own."""
    if issubclass(kind, (*CALLABLES, type(None), types.ModuleType, enum.Enum)):
        return "plain"
    owner = next(base for base in bases_of(kind) if "__eq__" in own_attributes(base))
    if owner is object:
        return "identity"
    equal = own_attributes(owner)["__eq__"]
    if module_of(owner) in ("builtins", "collections") or is_of_library(owner) or is_of_standard_library(owner):
        return "plain"
    is_generated = type(equal) is types.FunctionType and equal.__code__.co_filename.startswith(_GENERATED)
    return "plain" if is_generated else "custom"


def bases_of(kind: type) -> tuple[type, ...]:
    """Return the class and its bases, in the order of attribute lookup."""
    found: tuple[type, ...] = _mro(kind)
    return found


def own_attributes(kind: type) -> dict[str, Any]:
    """Return the attributes that the class itself defines."""
    found: dict[str, Any] = _dict(kind)
    return found


def class_attribute(kind: type, name: str, default: Any = None) -> Any:
    """Return the attribute that the class or one of its bases defines, without calling descriptors."""
    return next((own[name] for base in bases_of(kind) if name in (own := own_attributes(base))), default)


def class_name(kind: type) -> str:
    """Return the bare name of a class."""
    return clean(str(qualname_of(kind)).rpartition(".")[2], _MAX_NAME)


def module_of(kind: type) -> str:
    """Return the `__module__` of a class, or an empty string."""
    module = _module(kind)
    return module if isinstance(module, str) else ""


def is_of_library(kind: type) -> bool:
    """Whether the class is JAX's or NumPy's own, whose attributes and `repr` run no user code."""
    return module_of(kind).partition(".")[0] in _LIBRARIES


def is_of_standard_library(kind: type) -> bool:
    """Whether it is a standard class for dates, paths and similar values, and not a subclass of one."""
    name = module_of(kind)
    module = sys.modules.get(name)
    return name.partition(".")[0] in _STANDARD and getattr(module, str(qualname_of(kind)), None) is kind


def is_one_of(kind: type, kinds: tuple[type, ...]) -> bool:
    """Whether it is one of these classes; `in` would run code of a user's metaclass."""
    return any(kind is one for one in kinds)
