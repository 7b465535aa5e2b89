"""Device statistics, live arrays, memory that runs out, programs that will not fit."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.accelerator.checks import SMALL, Findings, NotHereError, check, metrics_of, mib, records, short, until

MIB = 1 << 20
#: More bytes than a CPU has addresses for: refused on any machine.
_HUGE = 1 << 54
#: Metric of each value of `memory_stats()` that the agent shows.
_SHOWN = {
    "jitwatch_device_memory_in_use_bytes": "bytes_in_use",
    "jitwatch_device_memory_peak_bytes": "peak_bytes_in_use",
    "jitwatch_device_memory_limit_bytes": "bytes_limit",
}
#: What the runtime may allocate for itself between two readings.
_SLACK = 4 * MIB
#: Seconds that running out of memory may take in all; XLA's allocator waits up to 10 s for memory to be freed.
_OOM_S = 140.0


@check("Device memory statistics: metrics and state", is_alone=True, environment={})
def statistics(found: Findings) -> None:
    """The metrics and the state against `memory_stats()`, as JAX allocates by default."""
    _statistics(found)


@check(
    "Device memory statistics without preallocation",
    environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)
def statistics_growing(found: Findings) -> None:
    """The same where the allocator takes memory from the driver as it is needed."""
    _statistics(found)


@check(
    "Device memory statistics with the platform's allocator",
    environment={"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"},
)
def statistics_platform(found: Findings) -> None:
    """The same where each array is an allocation of the driver: the backend may have no statistics."""
    _statistics(found, may_lack=True)


def _statistics(found: Findings, *, may_lack: bool = False) -> None:
    import jax
    import jax.numpy as jnp

    import jitwatch

    size = 256 * MIB if found.is_accelerator else 16 * MIB
    with jitwatch.install(port=0, sample_interval_s=0.2) as watch:
        kept = jax.block_until_ready([jnp.ones(size // 8, jnp.float32) * n for n in range(2)])
        device = jax.local_devices()[0]
        name = f"{device.platform}:{device.id}"
        try:
            raw, problem = device.memory_stats(), None
        except Exception as error:
            raw, problem = None, f"{type(error).__name__}: {error}"[:200]
        found.detail("memory_stats", raw if raw is not None else problem)
        found.figure("keys", "none" if not raw else ", ".join(sorted(raw)))
        for _ in range(2):
            before = _sampled_s(watch)
            found.expect(until(lambda before=before: _sampled_s(watch) > before), "the sampler made no round in 20 s")
        # The agent counts live arrays less often than it reads statistics.
        shown_in_use = "jitwatch_device_memory_in_use_bytes"
        until(lambda: (_value(metrics_of(watch), shown_in_use, name) or 0) >= size, 5.0)
        metrics = metrics_of(watch)
        found.detail(
            "metrics", {name: rows for name, rows in metrics.items() if "_device_" in name or "_live_" in name}
        )
        (row,) = [one for one in watch.snapshot()["memory"]["devices"] if one["device"] == name]
        found.detail("state", row)
        supported = bool(raw) and "bytes_in_use" in raw
        values = {metric: _value(metrics, metric, name) for metric in metrics}
        found.expect(
            (values.get("jitwatch_device_memory_stats_supported") == 1.0) == supported,
            f"device_memory_stats_supported is {values.get('jitwatch_device_memory_stats_supported')}, not {supported}",
        )
        if found.is_accelerator and not may_lack:
            found.expect(supported, f"memory_stats() of {device.device_kind}: {raw or problem}")
        if supported:
            assert raw is not None
            for metric, key in _SHOWN.items():
                if key in raw:
                    shown = values.get(metric)
                    is_near = shown is not None and abs(shown - raw[key]) <= _SLACK
                    found.expect(is_near, f"{metric} is {shown}, and {key} is {raw[key]}")
            now = device.memory_stats()["bytes_in_use"]
            found.expect(now >= size, f"{mib(size)} were allocated, in use are {mib(now)}")
            found.figure("in use", mib(raw["bytes_in_use"]))
            found.figure("limit", mib(raw.get("bytes_limit")))
            found.figure("reserved", mib(row.get("reserved_bytes")))
        else:
            in_use = values.get("jitwatch_device_memory_in_use_bytes")
            found.expect(in_use is not None and in_use >= size, f"the live arrays stand in, and are {in_use}")
            found.figure("in use", f"{mib(in_use)}, of live arrays")
        del kept


def _sampled_s(watch: Any) -> float:
    """Seconds of the sampler, which grow with each of its rounds."""
    rows = metrics_of(watch).get("jitwatch_agent_overhead_seconds_total", ())
    return sum(value for labels, value in rows if labels["component"] == "sampler")


def _value(metrics: dict[str, list[tuple[dict[str, str], float]]], name: str, device: str) -> float | None:
    return next((value for labels, value in metrics.get(name, ()) if labels.get("device") == device), None)


@check("Live arrays against memory_stats()")
def live_arrays(found: Findings) -> None:
    """The bytes of live arrays grow with the memory in use, and fall with it, also by donation."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jitwatch

    device = jax.local_devices()[0]
    name = f"{device.platform}:{device.id}"

    def in_use() -> int | None:
        stats = device.memory_stats()
        return stats["bytes_in_use"] if stats else None

    def shown(expected: int) -> int:
        """The agent's count, once it is as expected or three seconds later."""

        def count() -> int:
            return int(_value(metrics_of(watch), "jitwatch_live_array_bytes", name) or 0)

        until(lambda: count() == expected, 3.0)
        return count()

    with jitwatch.install(port=0, sample_interval_s=0.1) as watch:
        jax.block_until_ready(jnp.ones(3) + 1)
        gc.collect()
        base = sum(one.nbytes for one in jax.live_arrays())
        before = in_use()
        sizes = (1, 1000, 3 * MIB + 1, 16 * MIB)
        kept = [jax.device_put(np.ones(size, np.int8)) for size in sizes for _ in range(4)]
        jax.block_until_ready(kept)
        expected = base + 4 * sum(sizes)
        live, after = shown(expected), in_use()
        found.expect(live == expected, f"live arrays are {live:,} bytes, not {expected:,}")
        found.figure("arrays", mib(live - base))
        if before is not None and after is not None:
            grown = after - before
            found.figure("in use, grown by", mib(grown))
            found.expect(
                4 * sum(sizes) <= grown <= 4 * sum(sizes) + len(kept) * 512 + _SLACK,
                f"memory in use grew by {grown:,} bytes for arrays of {4 * sum(sizes):,}",
            )
        else:
            found.left_out("memory in use", "the device has no memory statistics")
        del kept
        live = shown(base)
        found.expect(live == base, f"after the release live arrays are {live:,} bytes, not {base:,}")
        if before is not None:
            found.figure("in use, after the release", f"{(in_use() or 0) - before:+,} bytes")
        _donated_memory(found, in_use)


def _donated_memory(found: Findings, in_use: Callable[[], int | None]) -> None:
    """A donated array holds no memory while the agent knows its donor."""
    import jax
    import jax.numpy as jnp

    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jax.block_until_ready(step(jnp.ones(32 * MIB // 4)))
    before, kept = in_use(), []
    for _ in range(5):
        kept.append(state)  # dead from the next line on
        state = step(state)
    jax.block_until_ready(state)
    found.expect(all(one.is_deleted() for one in kept), "a donated array is not deleted")
    if before is not None:
        grown = (in_use() or 0) - before
        found.expect(grown < 32 * MIB, f"5 donating calls left {mib(grown)}")
        found.figure("in use, after 5 donating calls", f"{grown:+,} bytes")


@check("Out of memory in calls", limit_s=165.0, environment=SMALL)
def out_of_memory(found: Findings) -> None:
    """Memory really runs out: one record before the job sees its error, and the same error as without the agent."""
    cases = _oom_cases(found)
    errors: dict[str, dict[str, tuple[str, ...]]] = {"agent": {}, "bare": {}}
    import jitwatch

    started = time.monotonic()
    with jitwatch.install(port=0, sample_interval_s=0.5, event_log=os.environ["CHECK_FOLDER"]) as watch:
        for name, case in cases.items():
            if time.monotonic() - started > _OOM_S:
                found.left_out(name, "no time was left")
                continue
            _oom_case(found, watch, name, case, errors["agent"])
        expected, total = len(records(watch, "memory.oom")), metrics_of(watch)["jitwatch_oom_total"][0][1]
        found.expect(total == expected, f"{expected} records, but jitwatch_oom_total is {total}")
        found.figure("errors", len(errors["agent"]))
        found.figure("recorded before the job saw them", expected)
    for name, case in cases.items():
        if time.monotonic() - started > _OOM_S:
            found.left_out(f"{name} without the agent", "no time was left")
            continue
        gc.collect()
        try:
            case()
        except Exception as error:
            errors["bare"][name] = _kind_of(error)
    for name, kind in errors["bare"].items():
        with_agent = errors["agent"].get(name)
        found.expect(kind == with_agent, f"{name}: {kind} without the agent, {with_agent} with it")
    found.figure("compared without the agent", len(errors["bare"]))


def _oom_case(
    found: Findings, watch: Any, name: str, case: Callable[[], Any], errors: dict[str, tuple[str, ...]]
) -> None:
    is_seen_on_311 = name in ("result of a first call", "donating call")
    from jax.errors import JaxRuntimeError

    gc.collect()
    before = len(records(watch, "memory.oom"))
    started = time.monotonic()
    try:
        case()
    except Exception as error:
        # In the handler: the record precedes the error.
        new = records(watch, "memory.oom")[before:]
        errors[name] = _kind_of(error)
        took = time.monotonic() - started
        summary: dict[str, Any] = {
            "error": type(error).__name__,
            "text": str(error)[:600],
            "notes": getattr(error, "__notes__", None),
            "code": getattr(error, "error_code_string", None),
            "took_s": round(took, 2),
            "records": [
                {key: value for key, value in one.items() if key not in ("compiles", "executables")} for one in new
            ],
        }
        found.detail(name, summary)
        found.expect(isinstance(error, (JaxRuntimeError, ValueError)), f"{name}: {type(error).__name__}: {error}"[:300])
        if not new and not is_seen_on_311 and sys.version_info < (3, 12):
            found.left_out(name, "Python 3.11 reports no error that C raises and the job catches")
            errors[name] = _kind_of(error)
        elif found.expect(len(new) == 1, f"{name}: {len(new)} records for one error ({_kind_of(error)})"):
            (record,) = new
            site = str(record["call_site"])
            found.expect("memory_checks.py" in site, f"{name}: call_site is {site}")
            found.expect(record["message"], f"{name}: no message")
            found.expect(record.get("allocation_bytes"), f"{name}: the bytes are not read from {record['message']!r}")
            found.expect(record["live_arrays"] is not None, f"{name}: the live arrays are not in the record")
            found.figure(
                name, f"{record.get('program') or '–'}, {mib(record.get('allocation_bytes'))}, after {took:.1f} s"
            )
    else:
        found.expect(condition=False, otherwise=f"{name}: memory did not run out")


def _kind_of(error: BaseException) -> tuple[str, ...]:
    """Class, text and notes of an error, without numbers and what follows the first line."""
    text = re.sub(r"\d[\d.]*", "N", str(error).partition("\n")[0])[:200]
    return type(error).__name__, text, *(note[:60] for note in getattr(error, "__notes__", ()))


def _oom_cases(found: Findings) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit") or stats.get("bytes_reservable_limit")
    if found.is_accelerator and not limit:
        raise NotHereError("the device reports no memory limit, so it is not known how much is too much")
    found.figure("limit", mib(limit))
    rows = (2 * limit if limit else _HUGE) // MIB
    jax.block_until_ready(jnp.ones(3) + 1)
    one = jax.block_until_ready(jnp.int8(1))

    # Each case has another size: errors with the same text within a minute are one out-of-memory event.
    def too_large(x: jax.Array, more: int = 0) -> jax.Array:
        return jnp.zeros((rows + more, MIB), jnp.int8) + x

    def temporary(x: jax.Array) -> jax.Array:
        side = int((rows * MIB / 4) ** 0.5)
        column = jnp.full((side, 8), x, jnp.float32)
        return jax.lax.optimization_barrier(column @ column.T).sum()

    donating = jax.jit(lambda state, x: (state + 1, too_large(x, 1)), donate_argnums=0)
    compiled: list[Any] = []

    def ahead_of_time() -> Any:
        if not compiled:
            compiled.append(jax.jit(partial(too_large, more=2)).lower(one).compile())
        return jax.block_until_ready(compiled[0](one))

    cases: dict[str, Callable[[], Any]] = {
        "result of a first call": lambda: jax.block_until_ready(jax.jit(too_large)(one)),
        "eager operation": lambda: jax.block_until_ready(jnp.zeros((rows + 3, MIB), jnp.int8)),
        "compiled ahead of time": ahead_of_time,
        "donating call": lambda: jax.block_until_ready(donating(jnp.ones(3), one)),
    }
    if limit:
        block = limit // 6
        fill = jax.jit(lambda x: jnp.zeros((block // MIB, MIB), jnp.int8) + x)

        def cached_call() -> None:
            kept = []
            for _ in range(12):
                kept.append(jax.block_until_ready(fill(one)))

        # Before the others: it is the one that C++ raises into the job's code.
        cases = {"cached call": cached_call, **cases}
        cases["temporaries of a program"] = lambda: jax.block_until_ready(jax.jit(temporary)(one))
        cases["array from the host"] = lambda: jax.block_until_ready(
            jax.device_put(np.zeros((limit + limit // 4) // 8, np.float64).view(np.int8))
        )
    else:
        found.left_out(
            "cached call, temporaries, array from the host", "the memory of a CPU has no limit to fill up to"
        )
    return cases


@check("Memory at compile time, and a program that will not fit", limit_s=80.0)
def will_not_fit(found: Findings) -> None:
    """The shortage is reported after the compile and before the run; a compile that runs out of memory is recorded."""
    import jax
    import jax.numpy as jnp

    import jitwatch

    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if found.is_accelerator and not limit:
        raise NotHereError("the device reports no memory limit")
    name = f"{device.platform}:{device.id}"
    if limit is None:
        from jitwatch.model.devices import Reading
        from jitwatch.probes import MemoryProbe

        limit = 64 * MIB
        simulated = {"bytes_in_use": 48 * MIB, "bytes_limit": limit}
        MemoryProbe.source = staticmethod(lambda: [Reading(name, "simulated", device.platform, simulated)])
        found.left_out("real statistics", "the device has none; 48 of 64 MiB in use are simulated")
    else:
        filled = jax.block_until_ready(jnp.zeros((limit * 3 // 4 // MIB, MIB), jnp.int8))
        found.detail("filled", filled.nbytes)
    with jitwatch.install(port=0, sample_interval_s=0.2) as watch:
        until(lambda: records(watch, "memory.sample"), 5.0)
        count = limit // 2 // 4

        @jax.jit
        def too_much(x: jax.Array) -> jax.Array:
            return jnp.full((count,), 1.0, jnp.float32) * x

        argument = jnp.float32(2)
        started = time.perf_counter()
        try:
            too_much.lower(argument).compile()
        except Exception as error:
            found.figure("compile", f"{type(error).__name__}: {str(error)[:120]}")
            found.expect(records(watch, "memory.oom"), "the compile ran out of memory without a record")
        found.figure("compile took", f"{time.perf_counter() - started:.2f} s")
        early = [one for one in records(watch, "memory.pressure") if one["state"] == "will_not_fit"]
        found.figure("reported before the run", bool(early))
        late = until(lambda: [one for one in records(watch, "memory.pressure") if one["state"] == "will_not_fit"], 10.0)
        if found.expect(late, "no record will_not_fit"):
            event = late[0]
            found.detail("event", event)
            found.expect(short(event["function"]) == "too_much", f"function is {event['function']}")
            found.expect(event["place"] == name, f"place is {event['place']}")
            found.expect(event["needed_bytes"] >= count * 4, f"needed_bytes is {event['needed_bytes']}")
            found.figure("message", event["message"])
            found.figure("buffers", len(event.get("peak_buffers", ())))
        if found.is_accelerator:
            try:
                jax.block_until_ready(too_much(argument))
                found.expect(condition=False, otherwise="the program ran although it was said not to fit")
            except Exception as error:
                found.figure("run", f"{type(error).__name__}: {str(error)[:120]}")
