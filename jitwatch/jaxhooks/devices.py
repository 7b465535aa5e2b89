"""The devices of this process and what they say of their memory, without ever making a backend.

`jax.local_devices()` and `jax.live_arrays()` make one when there is none, and wait for JAX's lock while
another thread does. So the backends are taken from where JAX keeps them, which needs no lock: a fork in
that moment leaves none behind in the child.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.memory import Reading

_MAX_PROBLEM = 200


def backends() -> tuple[Any, ...]:
    """The backends that exist, the default one first; none until JAX has made them all."""
    module = sys.modules.get(compat.BACKENDS.owner)
    default = getattr(module, compat.DEFAULT_BACKEND.attribute, None)
    known = getattr(module, compat.BACKENDS.attribute, None)
    if default is None or not isinstance(known, dict):
        return ()
    return (default, *(one for one in list(known.values()) if one is not default))


def device_name(device: Any) -> str:
    """`gpu:0`, as in signatures and metrics."""
    return f"{device.platform}:{device.id}"


def readings() -> Iterator[Reading]:
    """Ask each local device of the default backend; one that fails does not hide the others."""
    for backend in backends()[:1]:
        for device in backend.local_devices():
            statistics, problem = None, None
            try:
                statistics = device.memory_stats()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}".partition("\n")[0][:_MAX_PROBLEM]
            kind = str(getattr(device, "device_kind", ""))
            yield Reading(device_name(device), kind, device.platform, statistics, problem)
