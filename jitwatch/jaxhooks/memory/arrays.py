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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import add, attrgetter, methodcaller
from typing import Any

from jitwatch.jaxhooks.memory.devices import backends, device_name
from jitwatch.jaxhooks.values.placement import placement_of

#: Arrays looked at between two chances for other threads: well under a millisecond.
_SLICE = 1_000
_GROUPS_IN_SLICE = 200
#: Label of arrays that lie in the host's memory although their device is an accelerator.
HOST = "host"
#: Room for an object's number.
_HIGH = 1 << 64
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


def live_arrays() -> LiveArrays | None:
    """Count them; None while there is no backend."""
    clients = backends()
    if not clients:
        return None
    started = time.thread_time()
    flat, stall_s = _flat(clients)
    found = LiveArrays(total=len(flat) // 2, stall_s=stall_s)
    for turn, (aval, sharding, number) in enumerate(_groups(flat)):
        if turn % _GROUPS_IN_SLICE == 0:
            time.sleep(0)
        for device, size in _spread(aval, sharding):
            found.count[device] = found.count.get(device, 0) + number
            found.bytes[device] = found.bytes.get(device, 0) + number * size
    found.cost_s = time.thread_time() - started
    return found


def largest(limit: int) -> list[dict[str, Any]]:
    """The arrays that take most room, alike ones together, as rows for an event."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for aval, sharding, number in _groups(_flat(backends())[0]):
        place = placement_of(sharding, None)
        key = (tuple(aval.shape), str(aval.dtype), place.sharding, place.devices)
        row = rows.setdefault(
            key,
            {"shape": list(key[0]), "dtype": key[1], "sharding": key[2], "devices": key[3], "count": 0, "bytes": 0},
        )
        row["count"] += number
        row["bytes"] += number * sum(size for _, size in _spread(aval, sharding))
    return sorted(rows.values(), key=lambda row: -row["bytes"])[:limit]


def _flat(clients: Iterable[Any]) -> tuple[list[Any], float]:
    """Aval, sharding, aval, sharding … of all arrays."""
    arrays = chain.from_iterable(map(_arrays_of, clients))
    started = time.perf_counter()
    # One call from start to end: nobody else runs while an array is referenced here.
    flat = list(chain.from_iterable(map(_parts, arrays)))
    return flat, time.perf_counter() - started


def _groups(flat: list[Any]) -> Iterator[tuple[Any, Any, int]]:
    """Aval, sharding and number of the arrays that are alike, by identity: comparing them runs much Python.

    Nothing is made for each array that the garbage collector would have to follow: 50,000 new tuples make
    it look through the whole heap of the job, in our thread and with everybody waiting.
    """
    numbers: Counter[int] = Counter()
    first: dict[int, int] = {}
    for start in range(0, len(flat), 2 * _SLICE):
        end = start + 2 * _SLICE
        # Both numbers in one integer; `flat` keeps all objects alive, so that no number is used twice.
        keys = list(map(add, map(_HIGH.__mul__, map(id, flat[start:end:2])), map(id, flat[start + 1 : end : 2])))
        numbers.update(keys)
        first.update(zip(keys, range(start, end, 2), strict=False))
        time.sleep(0)
    for key, number in numbers.items():
        position = first[key]
        yield flat[position], flat[position + 1], number


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
