"""The devices of this process and their memory statistics, without ever creating a backend.

`jax.local_devices()` and `jax.live_arrays()` create a backend if there is none, and wait for JAX's lock while another
thread does. So the backends are read from JAX's dictionary of them, which takes no lock: a fork at that moment leaves
no lock held in the child.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.values.placement import device_name
from jitwatch.model.devices import Reading

_MAX_PROBLEM = 200


def backends() -> tuple[Any, ...]:
    """Return the backends that exist, the default one first; nothing until JAX has created all."""
    module = sys.modules.get(compat.BACKENDS.owner)
    default = getattr(module, compat.DEFAULT_BACKEND.attribute, None)
    known = getattr(module, compat.BACKENDS.attribute, None)
    if default is None or not isinstance(known, dict):
        return ()
    return (default, *(one for one in list(known.values()) if one is not default))


class Readings:
    """Reads the statistics of each local device of the default backend; one that fails or hangs hides no other.

    Attributes:
        may_overlap: It may be called while an earlier call hangs: that device is then skipped.
    """

    may_overlap = True

    def __init__(self) -> None:
        #: Start of the pending reads, by device.
        self._pending: dict[str, float] = {}

    def __call__(self) -> Iterator[Reading]:
        """Yield a reading of each device."""
        for backend in backends()[:1]:
            for device in backend.local_devices():
                name, kind = device_name(device), str(getattr(device, "device_kind", ""))
                since = self._pending.get(name)
                if since is not None:
                    problem = f"memory_stats() has not returned for {time.monotonic() - since:.1f} s"
                    yield Reading(name, kind, device.platform, None, problem)
                    continue
                yield Reading(name, kind, device.platform, *self._read(name, device))

    def _read(self, name: str, device: Any) -> tuple[Any, str | None]:
        """Return the statistics of a device, or why there are none."""
        self._pending[name] = time.monotonic()
        try:
            return device.memory_stats(), None
        except Exception as error:
            return None, f"{type(error).__name__}: {error}".partition("\n")[0][:_MAX_PROBLEM]
        finally:
            del self._pending[name]
