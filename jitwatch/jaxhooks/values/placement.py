"""Shardings, devices, meshes and layouts as short text."""

from __future__ import annotations

from typing import Any

from jitwatch.jaxhooks.values.classes import class_name
from jitwatch.jaxhooks.values.texts import shorten
from jitwatch.model.signature import Placement

#: The placement of an argument that is not committed to a device.
UNCOMMITTED = Placement()
#: The attribute with the axes of a partition spec, by version.
_PARTITIONS = ("partitions", "_partitions")
#: Devices that are listed one by one.
_MAX_DEVICES = 8
#: Default memory kinds.
_DEFAULT_MEMORY = ("device", "unpinned_host", None)


def placement_of(sharding: Any, layout: Any) -> Placement:
    """Return the placement that JAX lowers an argument for.

    Args:
        sharding: The argument of `lower_sharding_computation`; `UNSPECIFIED` if not committed.
        layout: None for the default.
    """
    shown = "" if layout is None else _layout_text(layout)
    if sharding is None or type(sharding).__name__ in ("UnspecifiedValue", "AUTO"):
        return UNCOMMITTED if not shown else Placement(layout=shown)
    devices, memory = _devices_of(sharding), getattr(sharding, "memory_kind", None)
    text = _sharding_text(sharding)
    if memory not in _DEFAULT_MEMORY:
        text = f"{text} in {memory}"
    return Placement(sharding=text, devices=devices, layout=shown)


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
