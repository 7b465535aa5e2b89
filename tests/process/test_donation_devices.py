"""Several devices: JAX ≤ 0.10 hangs or ends the process when a donated sharded array is used again; here it raises.

Each case runs in a process of its own with two host devices, under a time limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
    import faulthandler, json, os
    faulthandler.dump_traceback_later(90, exit=True)
    import jax, jax.numpy as jnp, numpy as np
    import jitwatch
    from jitwatch import guard
    guard.reraise = True
    watch = jitwatch.install(port=0, event_log=os.environ["LOG"])
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec("d"))

    def fresh():
        return jax.device_put(np.ones((4, 4), np.float32), sharding)

    def train_step(state):
        return {"w": state["w"] * 2}

    step = jax.jit(train_step, donate_argnums=0)
    user = jax.jit(lambda x: x * 2)
    compiled = user.lower(fresh()).compile()
    double = jax.jit(lambda x: x * 2.0, donate_argnums=0)
    healthy = fresh()
    for warm in (user, compiled):
        warm(fresh())

    def by_call():
        x = fresh()
        step({"w": x})
        return x

    def by_cached_call():
        by_call()
        return by_call()

    def by_vmap():
        x = fresh()
        jax.vmap(double)(x)
        return x

    def by_grad():
        x = fresh()
        jax.grad(lambda x: double(x).sum())(x)
        return x

    def by_compiled():
        x = fresh()
        step.lower({"w": x}).compile()({"w": x})
        return x

    def by_pmap():
        x = jax.pmap(lambda x: x * 1)(np.ones((2, 4), np.float32))
        jax.pmap(lambda x: x * 2, donate_argnums=0)(x)
        return x

    def attempt(name, use, donate):
        array = donate()
        assert array.is_deleted(), name
        try:
            use(array)
        except Exception as error:
            kind = type(error).__name__
        else:
            kind = "nothing"
        # A healthy array goes on working, and nothing hangs.
        assert 32.0 == float(user(healthy).sum()), name
        print(json.dumps([name, kind]), flush=True)
"""
USES = """
    uses = {
        "fast path": user,
        "slow path": lambda x: jax.jit(lambda x: x * 7)(x),
        "the donor again": lambda x: step({"w": x}),
        "beside a healthy array": lambda x: jax.jit(lambda s, b: s + b, donate_argnums=0)(healthy, x),
        "compiled ahead of time": compiled,
        "jnp operation": jnp.sin,
        "arithmetic": lambda x: x + 1,
        "np.asarray": np.asarray,
        "repr": repr,
        "indexing": lambda x: x[0],
        "device_get": jax.device_get,
        "block_until_ready": lambda x: x.block_until_ready(),
        "block_until_ready of a tree": lambda x: jax.block_until_ready([x, healthy]),
        "shards": lambda x: x.addressable_shards,
        "device_put": lambda x: jax.device_put(x, jax.devices()[0]),
        "resharding": lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "d"))),
        "is_ready": lambda x: x.is_ready(),
        "grad": lambda x: jax.grad(lambda x: user(x).sum())(x),
        "vmap": jax.vmap(user),
    }
    for name, use in uses.items():
        attempt(name, use, by_call)
        attempt(name, use, by_cached_call)
    for donate in (by_vmap, by_grad, by_compiled):
        attempt(donate.__name__, user, donate)
        attempt(donate.__name__, jnp.sin, donate)
    attempt("by_pmap", jax.pmap(lambda x: x * 3), by_pmap)
    attempt("by_pmap", np.asarray, by_pmap)
"""


def run(code: str, log: str, prelude: str = PRELUDE) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "LOG": log,
    }
    program = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=200, env=environment
    )


def test_every_use_of_a_donated_sharded_array_is_a_clean_error(tmp_path):
    """Each way of using it after each way of donating: an error of JAX's, a logged violation, and the job goes on."""
    log = tmp_path / "log.jsonl"
    done = run(USES + "\n    print('end')\n", str(log))
    assert 0 == done.returncode, done.stderr[-3000:]
    *attempts, last = done.stdout.splitlines()
    assert "end" == last
    attempts = [json.loads(line) for line in attempts]
    assert 2 * 19 + 2 * 3 + 2 == len(attempts)
    assert [] == [name for name, kind in attempts if kind not in ("RuntimeError", "JaxRuntimeError", "XlaRuntimeError")]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    violations = [event for event in events if event["event"] == "donation.violation"]
    assert len(attempts) == len(violations)
    assert {"use_after_donate"} == {event["kind"] for event in violations}
    assert [] == [event for event in violations if event["donated_by"] == "unknown"]
    assert {"w", "state", "x"} >= {event["donated_leaf"].partition("[")[0] for event in violations}


def test_violation_is_logged_before_the_job_ends_by_it(tmp_path):
    """A job that does not catch the error ends with it, with its traceback, and the log says why."""
    log = tmp_path / "log.jsonl"
    done = run("x = fresh()\nstep({'w': x})\nuser(x)\n", str(log))
    assert 1 == done.returncode
    assert "RuntimeError: Array has been deleted" in done.stderr
    assert "donated to train_step(state) at <string>" in done.stderr
    (event,) = [one for one in map(json.loads, log.read_text().splitlines()) if one["event"] == "donation.violation"]
    assert ("use_after_donate", "state['w']") == (event["kind"], event["donated_leaf"])


@pytest.mark.parametrize("use", ["user(x)", "x + 1"])
def test_dead_arrays_stay_safe_after_uninstall(tmp_path, use):
    """What was marked raises on; the process ends as it should."""
    code = f"""
    x = fresh()
    step({{"w": x}})
    jitwatch.uninstall()
    try:
        {use}
    except RuntimeError:
        print("clean")
    print(float(user(healthy).sum()))
    """
    done = run(code, str(tmp_path / "log.jsonl"))
    assert (0, ["clean", "32.0"]) == (done.returncode, done.stdout.split()), done.stderr[-3000:]


EARLY = """
    import jax, jax.numpy as jnp, numpy as np
    import faulthandler, os
    faulthandler.dump_traceback_later(90, exit=True)
    early = jax.jit(lambda state: state * 2, donate_argnums=0)
    use = jax.jit(lambda x: x * 3)
    import jitwatch
    watch = jitwatch.install(port=0)
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))

    def fresh():
        return jax.device_put(np.ones((4, 4), np.float32), sharding)

    use(fresh())
    for call in range(4):
        old = fresh()
        assert 32.0 == float(early(old).sum())
        try:
            use(old)
        except Exception as error:
            print(type(error).__name__, flush=True)
        assert 48.0 == float(use(fresh()).sum())
    kinds = [event["kind"] for event in watch.events(100) if event["event"] == "donation.violation"]
    assert ["use_after_donate"] * 4 == kinds, kinds
    print("end", flush=True)
"""


def test_function_that_was_jitted_before_install_is_safe_too(tmp_path):
    """C++ is not told of its program, so every call of it is seen: each dead array is a clean error, and counted."""
    done = run("", str(tmp_path / "log.jsonl"), EARLY)
    assert (0, ["RuntimeError"] * 4 + ["end"]) == (done.returncode, done.stdout.split()), done.stderr[-3000:]
