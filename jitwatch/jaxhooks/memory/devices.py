"""The devices of this process and what they say of their memory, without ever making a backend.

`jax.local_devices()` and `jax.live_arrays()` make one when there is none, and wait for JAX's lock while
another thread does. So the backends are taken from where JAX keeps them, which needs no lock: a fork in
that moment leaves none behind in the child.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.model.devices import Reading

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


class Readings:
    """Asks each local device of the default backend; one that fails or hangs does not hide the others.

    Attributes:
        may_overlap: It may be called again while an earlier call hangs: that device is not asked a second time.
    """

    may_overlap = True

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}

    def __call__(self) -> Iterator[Reading]:
        """A reading of each device."""
        for backend in backends()[:1]:
            for device in backend.local_devices():
                name, kind = device_name(device), str(getattr(device, "device_kind", ""))
                since = self._asked.get(name)
                if since is not None:
                    problem = f"memory_stats() has not answered for {time.monotonic() - since:.1f} s"
                    yield Reading(name, kind, device.platform, None, problem)
                    continue
                yield Reading(name, kind, device.platform, *self._ask(name, device))

    def _ask(self, name: str, device: Any) -> tuple[Any, str | None]:
        """Its statistics, and why there are none."""
        self._asked[name] = time.monotonic()
        try:
            return device.memory_stats(), None
        except Exception as error:
            return None, f"{type(error).__name__}: {error}".partition("\n")[0][:_MAX_PROBLEM]
        finally:
            del self._asked[name]
