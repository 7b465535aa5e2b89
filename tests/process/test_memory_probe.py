"""Memory of a process with devices of its own."""

from __future__ import annotations

import json

from tests.process.running import run_python


def answer(code: str, **environment: str) -> object:
    """What a program prints, as JSON."""
    done = run_python(code, **environment)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_sampling_makes_no_backend():
    """An agent in a process that has not used JAX yet leaves it that way, whoever asks for the state."""
    found = answer(
        "import json, jax, jitwatch\n"
        "from jitwatch import agent\n"
        "from jax._src import xla_bridge\n"
        "watch = jitwatch.install(port=0, sample_interval_s=3600)\n"
        "(probe,) = [one for one in agent._agent._probes if one.name == 'memory']\n"
        "probe.sample()\n"
        "before = xla_bridge.backends_are_initialized()\n"
        "state = watch.snapshot()\n"
        "jax.jit(lambda x: x)(1.0)\n"
        "probe.sample()\n"
        "print(json.dumps([before, state['memory']['devices'], watch.snapshot()['memory']['devices'][0]['device']]))\n"
    )

    assert [False, [], "cpu:0"] == found


def test_sharded_arrays_count_where_they_lie():
    """Half of it on each device when it is split, all of it on each when it is not."""
    found = answer(
        "import json, jax, numpy as np\n"
        "from jax.sharding import Mesh, NamedSharding, PartitionSpec as P\n"
        "from jitwatch.jaxhooks.memory import device_memory\n"
        "mesh = Mesh(np.array(jax.devices()), ('x',))\n"
        "split = jax.device_put(np.ones((8, 4), np.float32), NamedSharding(mesh, P('x')))\n"
        "copied = jax.device_put(np.ones(10, np.float32), NamedSharding(mesh, P()))\n"
        "single = jax.device_put(np.ones(3, np.int8), jax.devices()[1])\n"
        "found = device_memory.live_arrays()\n"
        "rows = {tuple(row['shape']): row['bytes'] for row in device_memory.largest(10)}\n"
        "print(json.dumps([found.total, found.count, found.bytes, rows[8, 4], rows[10,], rows[3,]]))\n",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )

    assert [3, {"cpu:0": 2, "cpu:1": 3}, {"cpu:0": 64 + 40, "cpu:1": 64 + 40 + 3}, 128, 80, 3] == found
