"""An example of a job of several processes: each trains on its part of the data, and they average the gradients."""

import os

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jitwatch

jax.distributed.initialize(
    coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
    num_processes=int(os.environ["NUM_PROCESSES"]),
    process_id=int(os.environ["JAX_PROCESS_ID"]),
)
mesh = Mesh(jax.devices(), "data")
batch_of_all = NamedSharding(mesh, PartitionSpec("data"))
same_everywhere = NamedSharding(mesh, PartitionSpec())


@jax.jit
def train_step(weights: jax.Array, batch: jax.Array) -> jax.Array:
    """One step of gradient descent towards weights whose product with a row of the batch is 1."""
    return weights - 0.1 * jax.grad(lambda w: jnp.mean((batch @ w - 1) ** 2))(weights)


weights = jax.device_put(jnp.zeros(16), same_everywhere)
local = jax.random.normal(jax.random.key(jax.process_index()), (8 * jax.local_device_count(), 16))
batch = jax.make_array_from_process_local_data(batch_of_all, local)
for _ in range(int(os.environ.get("STEPS", "1000"))):
    weights = train_step(weights, batch)
    jitwatch.step()
print(f"process {jax.process_index()} of {jax.process_count()} is done", flush=True)
