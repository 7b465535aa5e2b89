"""All living arrays of the process, counted by device, without keeping one of them alive.

A list of arrays held for even a moment would delay the freeing of what the job drops meanwhile, and
a job that is nearly full cannot afford that. So one single call into C walks all arrays and keeps only
their avals and shardings, which hold no buffer; what follows takes its time, in small slices.

Measured with 50,000 arrays of one kind: 20 ms for that call, in which no other Python thread runs, and
11 ms in slices after it (JAX 0.6.2 to 0.10.2, a shared core).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, methodcaller
from typing import Any

from jitwatch.jaxhooks.devices import backends, device_name
from jitwatch.jaxhooks.placement import placement_of

#: Arrays looked at between two chances for other threads: well under a millisecond.
_SLICE = 2_000
_GROUPS_IN_SLICE = 200
#: Label of arrays that lie in the host's memory although their device is an accelerator.
HOST = "host"
_parts = attrgetter("aval", "_sharding")
_arrays_of = methodcaller("live_arrays")


@dataclass(slots=True)
class LiveArrays:
    """How many arrays there are and how large they are, by device.

    Attributes:
        total: Number of arrays; one on several devices counts once.
        count, bytes: By device, each with what it holds of them.
        cost_s: CPU seconds that the look took.
        stall_s: Seconds of it in which no other Python thread ran.
    """

    total: int = 0
    count: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    cost_s: float = 0.0
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Group:
    """Arrays of the same aval and sharding."""

    aval: Any
    sharding: Any
    number: int


def live_arrays() -> LiveArrays | None:
    """Count them; None while there is no backend."""
    clients = backends()
    if not clients:
        return None
    started = time.thread_time()
    flat, stall_s = _flat(clients)
    found = LiveArrays(total=len(flat) // 2, stall_s=stall_s)
    for number, group in enumerate(_groups(flat)):
        if number % _GROUPS_IN_SLICE == 0:
            time.sleep(0)
        for device, size in _spread(group.aval, group.sharding):
            found.count[device] = found.count.get(device, 0) + group.number
            found.bytes[device] = found.bytes.get(device, 0) + group.number * size
    found.cost_s = time.thread_time() - started
    return found


def count_arrays() -> tuple[int, float] | None:
    """Only how many there are, and the seconds that took; a third of the cost."""
    clients = backends()
    if not clients:
        return None
    started = time.thread_time()
    return sum(map(len, map(_arrays_of, clients))), time.thread_time() - started


def largest(limit: int) -> list[dict[str, Any]]:
    """The arrays that take most room, alike ones together, as rows for an event."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in _groups(_flat(backends())[0]):
        spread = _spread(group.aval, group.sharding)
        place = placement_of(group.sharding, None)
        key = (tuple(group.aval.shape), str(group.aval.dtype), place.sharding, place.devices)
        row = rows.setdefault(
            key,
            {"shape": list(key[0]), "dtype": key[1], "sharding": key[2], "devices": key[3], "count": 0, "bytes": 0},
        )
        row["count"] += group.number
        row["bytes"] += group.number * sum(size for _, size in spread)
    return sorted(rows.values(), key=lambda row: -row["bytes"])[:limit]


def _flat(clients: Iterable[Any]) -> tuple[list[Any], float]:
    """Aval, sharding, aval, sharding … of all arrays."""
    arrays = chain.from_iterable(map(_arrays_of, clients))
    started = time.perf_counter()
    # One call from start to end: nobody else runs while an array is referenced here.
    flat = list(chain.from_iterable(map(_parts, arrays)))
    return flat, time.perf_counter() - started


def _groups(flat: list[Any]) -> list[_Group]:
    numbers: Counter[tuple[int, int]] = Counter()
    objects: dict[int, Any] = {}
    for start in range(0, len(flat), 2 * _SLICE):
        avals, shardings = flat[start : start + 2 * _SLICE : 2], flat[start + 1 : start + 2 * _SLICE : 2]
        # By identity: comparing avals or shardings runs much Python, and `flat` keeps them all alive.
        keys, values = list(map(id, avals)), list(map(id, shardings))
        numbers.update(zip(keys, values, strict=True))
        objects.update(zip(keys, avals, strict=True))
        objects.update(zip(values, shardings, strict=True))
        time.sleep(0)
    return [_Group(objects[aval], objects[sharding], number) for (aval, sharding), number in numbers.items()]


def _spread(aval: Any, sharding: Any) -> list[tuple[str, int]]:
    """The devices of this process that an array lies on, and its bytes on each; padding is not known."""
    shape = tuple(aval.shape)
    try:
        devices = list(sharding.addressable_devices)
        # Asking a sharding of one device takes several times as long as all the rest.
        held = shape if sharding.num_devices == 1 else sharding.shard_shape(shape)
        size = math.prod(held) * aval.dtype.itemsize
        is_on_host = str(sharding.memory_kind).endswith("_host")
    except Exception:  # shapes that a sharding cannot divide, kinds that are yet to come
        return []
    return [(HOST if is_on_host and one.platform != "cpu" else device_name(one), size) for one in devices]
