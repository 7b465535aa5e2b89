"""Names, keys, simple values, and JAX's shardings and meshes as short text, made without running user code."""

from __future__ import annotations

import os
import types
from typing import Any

from jitwatch.jaxhooks.values.classes import CALLABLES, class_name, is_one_of
from jitwatch.model.cleaning import clean
from jitwatch.model.signature import Placement

MAX_TEXT = 80
_MAX_BITS = 256
_MAX_KEYS = 8
_NUMBERS = (bool, int, float, complex)
#: The placement of an argument that is not committed to a device.
UNCOMMITTED = Placement()
#: The attribute with the axes of a partition spec, by version.
_PARTITIONS = ("partitions", "_partitions")
#: Devices that are listed one by one.
_MAX_DEVICES = 8
#: Default memory kinds.
_DEFAULT_MEMORY = ("device", "unpinned_host", None)


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Return text in one line of bounded length, without characters that control a terminal or the text direction."""
    return clean(text, limit)


def number_text(value: Any, kind: type) -> tuple[str, int] | None:
    """Return text and hash of a Python number, or None for other values."""
    for number in _NUMBERS:
        if issubclass(kind, number):
            own = number.__hash__(value)
            token = hash((number.__name__, own))
            if number is int and int.bit_length(value) > _MAX_BITS:
                return f"<int of {int.bit_length(value)} bits, #{own & 0xFFFFFF:06x}>", token
            return number.__repr__(value), token
    return None


def quoted(value: Any, kind: type[str] | type[bytes]) -> str:
    """Return text in quotes; a long one is cut and gets a part of its hash, to distinguish two of them."""
    length = kind.__len__(value)
    text = shorten(repr(kind.__getitem__(value, slice(MAX_TEXT // 2))))
    if length <= MAX_TEXT // 2:
        return text
    units = "characters" if kind is str else "bytes"
    return f"{text[:-1]}…{text[-1]} ({length:,} {units}, #{kind.__hash__(value) & 0xFFFFFF:06x})"


def attribute_path(name: str) -> str:
    """Return `.name`, cleaned if the name is no usual identifier."""
    return f".{name}" if len(name) <= MAX_TEXT and name.isprintable() else f".{shorten(name)}"


def key_text(key: Any) -> str:
    """Return the text of a key of a mapping or an element of a set."""
    kind = type(key)
    if kind is str or kind is bytes:
        return shorten(quoted(key, kind), MAX_TEXT)
    if is_one_of(kind, (*_NUMBERS, type(None))):
        return shorten(repr(key), MAX_TEXT // 2)
    if kind is tuple:
        return shorten(f"({', '.join(key_text(one) for one in key[:_MAX_KEYS])})", MAX_TEXT // 2)
    if issubclass(kind, CALLABLES):
        return callable_text(key)
    return f"<{class_name(kind)}>"


def callable_text(value: Any) -> str:
    """Return the name of a function or class, of a function with the line of its definition."""
    if issubclass(type(value), type):
        return class_name(value)
    function = value.__func__ if type(value) is types.MethodType else value
    if type(function) is types.FunctionType:
        code, name = function.__code__, function.__qualname__.rpartition("<locals>.")[2]
        return shorten(f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})")
    named = function.__name__ if type(function) is types.BuiltinFunctionType else None
    return shorten(named if isinstance(named, str) else class_name(type(function)))


def placement_of(sharding: Any, layout: Any) -> Placement:
    """Return the placement that JAX lowers an argument for; `layout` is None for the default."""
    shown = "" if layout is None else _layout_text(layout)
    if sharding is None or type(sharding).__name__ in ("UnspecifiedValue", "AUTO"):
        return UNCOMMITTED if not shown else Placement(layout=shown)
    text, memory = _sharding_text(sharding), getattr(sharding, "memory_kind", None)
    where = "" if memory in _DEFAULT_MEMORY else f" in {memory}"
    return Placement(sharding=text + where, devices=_devices_of(sharding), layout=shown)


def device_name(device: Any) -> str:
    """Return `gpu:0`, as in signatures and metrics, in all versions of JAX."""
    return f"{device.platform}:{device.id}"


def mesh_text(value: Any) -> str | None:
    """Return `mesh(data=2, model=4)` for a mesh of JAX, else None."""
    shape: Any = getattr(value, "shape", None)
    if not hasattr(value, "axis_names") or not hasattr(shape, "items"):
        return None
    return shorten(f"mesh({', '.join(f'{_axis(name, bare=True)}={size}' for name, size in shape.items())})")


def spec_text(spec: Any) -> str:
    """Return `P('data', None)` for a partition spec of JAX; `P(None, unreduced={'x'})` for one with such axes."""
    # Newer JAX does not iterate over a spec with unreduced axes; the oldest has a tuple.
    partitions = next((found for name in _PARTITIONS if (found := getattr(spec, name, None)) is not None), spec)
    parts = [_axis(axis) for axis in tuple(partitions)]
    for name in ("unreduced", "reduced"):
        if axes := getattr(spec, name, None):
            parts.append(f"{name}={{{', '.join(sorted(map(_axis, axes)))}}}")
    return shorten(f"P({', '.join(parts)})")


def _axis(axis: Any, *, bare: bool = False) -> str:
    """Return the text of a mesh axis; a name may be any object, but only strings are shown."""
    if type(axis) is str:
        # pmap (from 0.9.1 on) names its axis by an address, which differs between functions.
        axis = "<axis>" if axis.startswith("<axis 0x") else axis
        return axis if bare else repr(axis)
    if type(axis) is tuple:
        return f"({', '.join(_axis(one) for one in axis)})"
    return "None" if axis is None else f"<{class_name(type(axis))}>"


def _sharding_text(sharding: Any) -> str:
    kind = type(sharding).__name__
    if kind == "SingleDeviceSharding":
        return "one device"
    mesh, spec = getattr(sharding, "mesh", None), getattr(sharding, "spec", None)
    if mesh is not None and spec is not None:
        return f"{spec_text(spec)} on {mesh_text(mesh) or 'a mesh'}"
    return shorten(str(sharding), 120)


def _devices_of(sharding: Any) -> str:
    try:
        devices = list(getattr(sharding, "_device_assignment", None) or sharding.device_set)
    except Exception:  # an abstract mesh has no devices
        return ""
    names = [device_name(device) for device in devices[:_MAX_DEVICES]]
    rest = len(devices) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest else "")


def _layout_text(layout: Any) -> str:
    order = getattr(layout, "major_to_minor", None)
    return f"major_to_minor={tuple(order)}" if order is not None else shorten(str(layout))
