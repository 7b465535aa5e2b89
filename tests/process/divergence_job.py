"""A job of several processes, run by `test_divergence`: `python divergence_job.py INDEX PROCESSES ADDRESS MODE LOGS`.

In most modes the last process differs in one thing, which the mode names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

index, processes, address, mode, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
is_last = index == processes - 1

import jitwatch
from jitwatch.probes.divergence import DivergenceProbe

DivergenceProbe.confirm_s = 0.5
DivergenceProbe.pauses_s = (0.2,) * 300
watch = jitwatch.install(
    port=0, run="job", event_log=os.path.join(folder, f"{index}.jsonl"), hlo_dir=os.path.join(folder, f"hlo-{index}")
)

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh, NamedSharding, PartitionSpec

jax.config.update("jax_cpu_collectives_implementation", "gloo")
if mode == "option" and is_last:
    jax.config.update("jax_default_matmul_precision", "highest")
jax.distributed.initialize(address, processes, index)
mesh = Mesh(np.array(jax.devices()), ("data",))
SCALE = 0.2 if mode == "constant" and is_last else 0.1


def spread(size: int, over: Mesh = mesh) -> jax.Array:
    """An array on the devices of a mesh, this process's part filled with ones."""
    sharding = NamedSharding(over, PartitionSpec("data"))
    return jax.make_array_from_callback((size, 4), sharding, lambda at: np.ones((size, 4), np.float32)[at])


@jax.jit
def train_step(x: jax.Array) -> jax.Array:
    """A step without communication, so that processes with different programs do not wait for each other."""
    return jnp.dot(x, jnp.ones((4, 4))) * SCALE


@jax.jit
def normalize(x: jax.Array) -> jax.Array:
    """A step that communicates."""
    return x / jnp.sum(x)


@jax.jit
def evaluate(x: jax.Array) -> jax.Array:
    """A function that only some processes call."""
    return x + 1.0


size = 8 * processes
if mode == "behind" and is_last:
    time.sleep(2.0)
if mode == "threads":
    # The same programs, in another order.
    sizes = [size * factor for factor in (1, 2, 3, 4)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: train_step.lower(spread(one)).compile(), sizes[::-1] if is_last else sizes))
if mode == "hang" and is_last:
    # It compiles another program, and never takes part in the collective.
    normalize.lower(spread(2 * size)).compile()
    time.sleep(60.0)
if mode == "hang":
    jax.block_until_ready(normalize(spread(size)))
train_step(spread(2 * size if mode == "shape" and is_last else size))
if mode == "extra" and is_last:
    evaluate(spread(size))
if mode == "looks" and index == 0:
    evaluate.lower(spread(size)).compile()
if mode == "evaluation" and index == 0:
    evaluate(jnp.ones((size, 4)))
if mode == "local":
    # Shapes and constants that depend on the process, on its own devices.
    jax.jit(lambda x: x * (index + 1.0))(jnp.ones(index + 3))
if mode == "stages":
    # Each half of the processes runs a stage of its own.
    mine = [one for one in jax.devices() if (one.process_index < processes // 2) == (index < processes // 2)]
    evaluate(spread(size * (1 + index // 2), Mesh(np.array(mine), ("data",))))
jax.block_until_ready(normalize(spread(size)))

# As long as the comparison takes to find a difference.
is_to_find = mode in ("constant", "shape", "option") and index in (0, processes - 1)
deadline = time.monotonic() + (30.0 if is_to_find else 2.0)
while time.monotonic() < deadline and not watch.snapshot()["programs"]["diverged"]:
    time.sleep(0.05)
# What a Prometheus would compare.
metrics = watch.snapshot()["metrics"]
values = {
    name: [row["value"] for row in metrics[f"jitwatch_{name}"]]
    for name in ("program_fingerprint", "programs_fingerprint", "programs", "compiling_fingerprint")
}
Path(folder, f"{index}.metrics").write_text(json.dumps(values))
# The service of jax.distributed ends with process 0.
distributed.global_state.client.wait_at_barrier("end", 30_000)
jitwatch.uninstall()
os._exit(0)
