"""Donation violations on one device and on several: JAX's errors, their records and their notes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

from tests.accelerator.checks import Findings, NotHereError, check, records, short

#: Parts of JAX's messages about a donated or deleted array.
_MARKS = ("deleted", "donate", "Array is null")
_SIDE = 8


def train_step(state: Any) -> Any:
    """The donor."""
    return state * 2


class _Job:
    """Functions of a job that donates, all of them called before, so that they are cached."""

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp = jax, jnp
        self.donor = jax.jit(train_step, donate_argnums=0)
        self.reader = jax.jit(lambda x: x * 3)
        self.unused = jax.jit(lambda x, y: y + 1, keep_unused=False)
        self.one_donated = jax.jit(lambda a, b: a + b, donate_argnums=0)
        self.both_donated = jax.jit(lambda a, b: (a + b, a - b), donate_argnums=(0, 1))
        self.compiled = jax.jit(lambda x: x * 5).lower(self.fresh()).compile()
        self.donor(self.fresh())
        self.reader(self.fresh())
        self.unused(self.fresh(), 1.0)
        self.one_donated(self.fresh(), self.fresh())
        self.both_donated(self.fresh(), self.fresh())
        jax.block_until_ready(self.compiled(self.fresh()))

    def fresh(self) -> Any:
        """A new array."""
        return self.jax.block_until_ready(self.jnp.ones((_SIDE, _SIDE), self.jnp.float32) + 1)

    def dead(self) -> Any:
        """An array that the donor took."""
        array = self.fresh()
        self.donor(array)
        assert array.is_deleted()
        return array

    def uses(self) -> dict[str, Callable[[Any], Any]]:
        """Uses of a dead array by name: the rows of JAX's errors."""
        jax, jnp = self.jax, self.jnp
        import numpy as np

        return {
            "cached call": self.reader,
            "first call": lambda x: jax.jit(lambda y: y - 1)(x),
            "call compiled ahead of time": self.compiled,
            "call of the donor": self.donor,
            "jnp operation": jnp.sin,
            "arithmetic": lambda x: x + 1,
            "indexing": lambda x: x[0],
            "np.asarray": np.asarray,
            "repr": repr,
            "float": float,
            "device_get": jax.device_get,
            "tolist": methodcaller("tolist"),
            "copy": methodcaller("copy"),
            "copy_to_host_async": methodcaller("copy_to_host_async"),
            "scan": lambda x: jax.lax.scan(lambda c, _: (c * 1.5, None), x, None, length=2),
            "grad": lambda x: jax.grad(lambda y: (y**2).sum())(x),
            "vmap": lambda x: jax.vmap(lambda row: row * 2)(x),
            "dlpack": methodcaller("__dlpack__"),
            "device_put to a device": lambda x: jax.device_put(x, jax.local_devices()[-1]),
            "block_until_ready": methodcaller("block_until_ready"),
            "jax.block_until_ready": lambda x: jax.block_until_ready([x]),
            # In a frame with the array among its variables, where the agent looks for it.
            "memoryview": lambda x: memoryview(x),
            "unused argument": lambda x: self.unused(x, 1.0),
            "device_put without a target": jax.device_put,
            "eval_shape": lambda x: jax.eval_shape(lambda y: y + 1, x),
            "lower": self.reader.lower,
            "shape, nbytes, sharding": lambda x: (x.shape, x.nbytes, x.sharding),
        }


def _error_of(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _bare(job: _Job) -> dict[str, tuple[str, str] | None]:
    """Class and first line of each error without the agent."""
    found: dict[str, tuple[str, str] | None] = {}
    for name, use in job.uses().items():
        error = _error_of(partial(use, job.dead()))
        found[name] = None if error is None else (type(error).__name__, str(error).partition("\n")[0])
    return found


def _rows(
    found: Findings, watch: Any, uses: dict[str, Callable[[Any], Any]], dead: Callable[[], Any]
) -> dict[str, tuple[str, str] | None]:
    """Use a dead array in each way; each error is counted once, with its donor, and has one note."""
    errors: dict[str, tuple[str, str] | None] = {}
    counted = 0
    for name, use in uses.items():
        found.detail("row", name)  # the last one before a crash
        array = dead()
        before = len(records(watch, "donation.violation"))
        error = _error_of(partial(use, array))
        new = records(watch, "donation.violation")[before:]
        text = "" if error is None else str(error)
        notes = [] if error is None else [one for one in getattr(error, "__notes__", ()) if one.startswith("donated ")]
        errors[name] = None if error is None else (type(error).__name__, text.partition("\n")[0])
        found.detail(name, {"error": errors[name], "notes": notes, "records": new})
        is_violation = error is not None and any(mark in text for mark in _MARKS)
        if is_violation and name == "memoryview" and sys.version_info < (3, 12):
            found.left_out(name, "Python 3.11 does not report errors that C raises")
            continue
        wanted = int(is_violation)
        counted += len(new)
        found.expect(len(new) == wanted, f"{name}: {len(new)} violations for {errors[name]}")
        found.expect(len(notes) == wanted, f"{name}: {len(notes)} notes at {errors[name]}")
        for one in new:
            donor = short(one.get("donated_by"))
            found.expect(donor == "train_step", f"{name}: the donor is {donor}")
            found.expect(
                "donation_checks.py" in str(one.get("donated_at")), f"{name}: donated_at {one.get('donated_at')}"
            )
    found.figure("uses", len(errors))
    found.figure("errors", sum(one is not None for one in errors.values()))
    found.figure("counted with donor and note", counted)
    return errors


@check("Donation violations: errors, records, notes", limit_s=80.0)
def donation(found: Findings) -> None:
    """Every use of a donated array: JAX's error as without the agent, one record with the donor, one note."""
    import jax

    import jitwatch

    # On JAX ≤ 0.10 a donated array is marked, so that the error of a cached call is another one.
    marks = tuple(int(part) for part in jax.__version__.split(".")[:2]) < (0, 11)
    bare = _bare(_Job())
    with jitwatch.install(port=0, sample_interval_s=3600) as watch:
        job = _Job()
        errors = _rows(found, watch, job.uses(), job.dead)
        _double(found, watch, job)
        _unusable(found, watch)
        array = job.fresh()
        array.delete()
        before = len(records(watch, "donation.violation"))
        found.expect(_error_of(lambda: job.reader(array)) is not None, "an array that the job deleted can be used")
        found.expect(len(records(watch, "donation.violation")) == before, "x.delete() was counted as a donation")
    for name, error in bare.items():
        if error != errors[name]:
            same = marks and error is not None and errors[name] is not None
            found.expect(same, f"{name}: {error} without the agent, {errors[name]} with it")
            found.detail(f"{name}, without the agent", error)


def _double(found: Findings, watch: Any, job: _Job) -> None:
    for name, call in {"one donated": job.one_donated, "both donated": job.both_donated}.items():
        array = job.fresh()
        before = len(records(watch, "donation.violation"))
        error = _error_of(partial(call, array, array))
        new = records(watch, "donation.violation")[before:]
        found.detail(f"one buffer twice, {name}", {"error": repr(error)[:400], "records": new})
        kinds = [one["kind"] for one in new]
        wanted = [] if error is None else ["double_donation"]
        found.expect(kinds == wanted, f"one buffer twice, {name}: {kinds} for {error!r}"[:300])
        found.figure(f"one buffer twice, {name}", type(error).__name__)


def _unusable(found: Findings, watch: Any) -> None:
    import jax
    import jax.numpy as jnp

    before = len(records(watch, "donation.violation"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        array = jnp.ones((_SIDE, _SIDE))
        jax.jit(lambda x: x.sum(), donate_argnums=0)(array)
    kinds = [one["kind"] for one in records(watch, "donation.violation")[before:]]
    warned = sum("donated buffers" in str(one.message) for one in caught)
    found.expect(kinds == ["unusable"] * warned, f"unusable donation: {kinds}, {warned} warnings")
    found.figure("unusable donation", f"{warned} warning, {len(kinds)} record")


@check("Several devices: sharded arrays, donation, statistics of each", limit_s=80.0, cpu_devices=2)
def several_devices(found: Findings) -> None:
    """Memory by device, a sharded step that donates, and the uses of a donated sharded array."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import jitwatch
    from tests.accelerator.checks import metrics_of, until

    devices = jax.local_devices()
    if len(devices) < 2:
        raise NotHereError(f"there is one device ({devices[0].device_kind})")
    found.figure("devices", len(devices))
    mesh = Mesh(np.array(devices), ("d",))
    split, whole = NamedSharding(mesh, PartitionSpec("d")), NamedSharding(mesh, PartitionSpec())
    rows = len(devices) * _SIDE
    with jitwatch.install(port=0, sample_interval_s=0.2) as watch:
        donor = jax.jit(train_step, donate_argnums=0)
        reader = jax.jit(lambda x: (x * 3).sum())

        def fresh() -> Any:
            return jax.device_put(jnp.ones((rows, _SIDE)), split)

        def dead() -> Any:
            array = fresh()
            donor(array)
            return array

        reader(fresh())
        kept = jax.device_put(jnp.ones((rows, 1 << 16)), split)
        name = "jitwatch_live_array_bytes"

        def devices_with_share() -> int:
            """How many devices have their part of the array, as of the last sample; there may be none yet."""
            return sum(value >= kept.nbytes / len(devices) for _, value in metrics_of(watch).get(name, ()))

        until(lambda: devices_with_share() == len(devices))
        found.expect(devices_with_share() == len(devices), f"{name}: {metrics_of(watch).get(name)}")
        uses: dict[str, Callable[[Any], Any]] = {
            "cached call": reader,
            "call of the donor": donor,
            "arithmetic": lambda x: x + 1,
            "np.asarray": np.asarray,
            "device_put to another sharding": lambda x: jax.device_put(x, whole),
            "block_until_ready": methodcaller("block_until_ready"),
        }
        _rows(found, watch, uses, dead)
        found.expect(float(reader(fresh())) == 3.0 * rows * _SIDE, "a healthy array has another value")
        before = len(records(watch, "jit.recompiled"))
        reader(jax.device_put(jnp.ones((rows, _SIDE)), whole))
        causes = [one.get("causes") for one in records(watch, "jit.recompiled")[before:]]
        found.expect(causes == [["sharding"]], f"another sharding: causes {causes}")
