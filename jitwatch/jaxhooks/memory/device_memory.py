"""The memory of devices and of all live arrays of the process, without keeping any of them alive.

Even a short-lived list of arrays would delay the release of what the job drops meanwhile, which a job close to its
memory limit cannot afford. So a single call into C visits all arrays and keeps only their avals and shardings, which
hold no buffer; the counting is then done in small slices. Measured with 50,000 arrays of one kind: 20 ms for that call,
in which no other Python thread runs, and 11 ms in slices after it (JAX 0.6.2 to 0.10.2, a shared core).
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import add, attrgetter, methodcaller
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.values.texts import device_name, placement_of
from jitwatch.model.devices import Reading
from jitwatch.model.rows import ArraysRow
from jitwatch.system.threads import pause

#: Arrays counted before other threads get a chance to run: well under a millisecond.
_SLICE = 1_000
_GROUPS_IN_SLICE = 200
_MAX_PROBLEM = 200
#: Label of arrays in the memory of the host whose device is an accelerator.
HOST = "host"
#: Shifts an object's `id` to the upper half of a pair.
_HIGH = 1 << 64
_parts = attrgetter("aval", "_sharding")
_arrays_of = methodcaller("live_arrays")


def backends() -> tuple[Any, ...]:
    """Return the backends that exist, the default one first; nothing until JAX has created all.

    `jax.local_devices()` and `jax.live_arrays()` create a backend if there is none, and wait for JAX's lock while
    another thread does. JAX's dictionary of backends takes no lock: a fork at that moment leaves none held.
    """
    module = sys.modules.get(compat.BACKENDS.owner)
    default = getattr(module, compat.DEFAULT_BACKEND.attribute, None)
    known = getattr(module, compat.BACKENDS.attribute, None)
    if default is None or not isinstance(known, dict):
        return ()
    return (default, *(one for one in list(known.values()) if one is not default))


class Readings:
    """Reads the statistics of each local device of the default backend; one that fails or hangs hides no other.

    It may be called while an earlier call hangs (`may_overlap`): that device is then skipped.
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
                if since is None:
                    yield Reading(name, kind, device.platform, *self._read(name, device))
                else:
                    yield silent(name, kind, device.platform, time.monotonic() - since)

    def _read(self, name: str, device: Any) -> tuple[Any, str | None]:
        """Return the statistics of a device, or why there are none."""
        self._pending[name] = time.monotonic()
        try:
            return device.memory_stats(), None
        except Exception as error:
            return None, f"{type(error).__name__}: {error}".partition("\n")[0][:_MAX_PROBLEM]
        finally:
            del self._pending[name]


def silent(device: str, kind: str, platform: str, for_s: float) -> Reading:
    """Return the reading of a device that has not returned for so many seconds."""
    return Reading(device, kind, platform, None, f"memory_stats() has not returned for {for_s:.1f} s")


@dataclass(slots=True)
class LiveArrays:
    """Number and size of the live arrays, by device.

    Attributes:
        total: Number of arrays; one on several devices counts once.
        count, bytes: Arrays and bytes on each device.
        cost_s: CPU seconds that the count took.
        stall_s: Seconds of it in which no other Python thread ran.
    """

    total: int = 0
    count: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    cost_s: float = 0.0
    stall_s: float = 0.0


def live_arrays() -> LiveArrays | None:
    """Count the live arrays; None if there is no backend."""
    clients = backends()
    if not clients:
        return None
    started = time.thread_time()
    flat, stall_s = _flat(clients)
    found = LiveArrays(total=len(flat) // 2, stall_s=stall_s)
    for turn, (aval, sharding, number) in enumerate(_groups(flat)):
        if turn % _GROUPS_IN_SLICE == 0:
            pause(0)
        for device, size in _spread(aval, sharding):
            found.count[device] = found.count.get(device, 0) + number
            found.bytes[device] = found.bytes.get(device, 0) + number * size
    found.cost_s = time.thread_time() - started
    return found


def largest(limit: int) -> list[ArraysRow]:
    """Return the largest groups of arrays with equal shape, dtype and placement, as rows for an event."""
    rows: dict[tuple[Any, ...], ArraysRow] = {}
    for aval, sharding, number in _groups(_flat(backends())[0]):
        placement = placement_of(sharding, None)
        key = (tuple(aval.shape), str(aval.dtype), placement.sharding, placement.devices)
        row = rows.setdefault(
            key, {"shape": list(key[0]), "dtype": key[1], "sharding": key[2], "devices": key[3], "count": 0, "bytes": 0}
        )
        row["count"] += number
        row["bytes"] += number * sum(size for _, size in _spread(aval, sharding))
    return sorted(rows.values(), key=lambda row: -row["bytes"])[:limit]


def _flat(clients: Iterable[Any]) -> tuple[list[Any], float]:
    """Return aval, sharding, aval, sharding … of all arrays, and the seconds that no other thread ran."""
    arrays = chain.from_iterable(map(_arrays_of, clients))
    started = time.perf_counter()
    # A single call into C: no other thread runs while an array is referenced here.
    flat = list(chain.from_iterable(map(_parts, arrays)))
    return flat, time.perf_counter() - started


def _groups(flat: list[Any]) -> Iterator[tuple[Any, Any, int]]:
    """Yield aval, sharding and number of arrays that share both, by identity: comparing them runs a lot of Python.

    No object that the garbage collector tracks is made per array: 50,000 new tuples would make it scan the whole heap
    of the job, while all other threads wait.
    """
    numbers: Counter[int] = Counter()
    first: dict[int, int] = {}
    for start in range(0, len(flat), 2 * _SLICE):
        end = start + 2 * _SLICE
        # Both ids in one integer; `flat` keeps all objects alive, so that no id is used twice.
        keys = list(map(add, map(_HIGH.__mul__, map(id, flat[start:end:2])), map(id, flat[start + 1 : end : 2])))
        numbers.update(keys)
        first.update(zip(keys, range(start, end, 2), strict=False))
        pause(0)
    for key, number in numbers.items():
        position = first[key]
        yield flat[position], flat[position + 1], number


def _spread(aval: Any, sharding: Any) -> list[tuple[str, int]]:
    """Return the devices of this process that hold an array, and its bytes on each; padding is not known."""
    shape = tuple(aval.shape)
    try:
        devices = list(sharding.addressable_devices)
        # `shard_shape` for a single device takes several times as long as all the rest.
        held = shape if sharding.num_devices == 1 else sharding.shard_shape(shape)
        size = math.prod(held) * aval.dtype.itemsize
        is_on_host = str(sharding.memory_kind).endswith("_host")
    except Exception:  # shapes that a sharding cannot divide, kinds of shardings not known yet
        return []
    return [(HOST if is_on_host and one.platform != "cpu" else device_name(one), size) for one in devices]
