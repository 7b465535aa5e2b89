"""The memory of devices, of all live arrays of the process and of compiled programs, without keeping any of them alive.

Even a short-lived list of arrays would delay the release of what the job drops meanwhile, which a job close to its
memory limit cannot afford. So a single call into C visits all arrays and keeps only their avals and shardings, which
hold no buffer; the counting is then done in small slices. Measured with 50,000 arrays of one kind: 20 ms for that call,
in which no other Python thread runs, and 11 ms in slices after it (JAX 0.6.2 to 0.10.2, a shared core).

XLA takes 0.2 to 40 ms to compute sizes and FLOPs of a program (JAX 0.10.2, one to 200 layers; below 1 ms until 0.7), so
a compile only stores a weak reference to the program, and the sampler, or an out-of-memory report, reads it later. The
sizes are computed with Python's lock released, the FLOPs are not (0.3 % of the program's compile time).
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import add, attrgetter, methodcaller
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.values.texts import device_name, placement_of
from jitwatch.model.devices import Reading
from jitwatch.model.events import ExecutableMeasured
from jitwatch.model.function import Function
from jitwatch.model.rows import ArraysRow

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
            time.sleep(0)
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
        time.sleep(0)
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


#: Programs that wait to be measured; if a job makes more between two samples, the oldest are dropped.
_MAX_WAITING = 256


class Executables:
    """The programs that wait to be measured."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Function, weakref.ref[Any]]] = deque(maxlen=_MAX_WAITING)

    def add(self, function: Function, executable: Any) -> None:
        """Add a compiled program (`MeshExecutable`), which lives as long as its cache entry; takes microseconds."""
        if function.is_internal:
            return
        try:
            self._waiting.append((function, weakref.ref(executable)))
        except TypeError:
            return

    def measure(self, budget_s: float) -> Iterator[ExecutableMeasured]:
        """Measure the waiting programs that are still alive, the latest first, until the CPU time is used up."""
        started = time.thread_time()
        while self._waiting and time.thread_time() - started < budget_s:
            try:
                function, reference = self._waiting.pop()
            except IndexError:  # another thread, which reports an out-of-memory error, has measured it
                return
            found = _measured(function, getattr(reference(), "xla_executable", None))
            if found is not None:
                yield found

    def forget(self) -> None:
        """Drop the waiting programs."""
        self._waiting.clear()


def _measured(function: Function, program: Any) -> ExecutableMeasured | None:
    try:
        sizes = program.get_compiled_memory_stats()
    except Exception:  # it was freed, or its backend has no statistics, with various error classes
        return None
    if sizes is None:
        return None
    try:
        return ExecutableMeasured(
            function=function,
            arguments=sizes.argument_size_in_bytes,
            outputs=sizes.output_size_in_bytes,
            temporaries=sizes.temp_size_in_bytes,
            code=sizes.generated_code_size_in_bytes,
            aliased=sizes.alias_size_in_bytes,
            peak=getattr(sizes, "peak_memory_in_bytes", None) or None,
            flops=_flops(program),
        )
    except Exception:
        guard.failed("memory")
        return None


def _flops(program: Any) -> float | None:
    """Return XLA's estimate for one call, or None if the backend has none."""
    try:
        analysis = program.cost_analysis()
    except Exception:  # as above
        return None
    if isinstance(analysis, (list, tuple)):
        analysis = analysis[0] if analysis else None
    flops = analysis.get("flops") if isinstance(analysis, dict) else None
    return float(flops) if isinstance(flops, (int, float)) and flops >= 0 else None
