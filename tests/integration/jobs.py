"""Programs of jobs for the live tests: one that does everything wrong, two of one run, and some that are innocent."""

from __future__ import annotations

#: Commits every known mistake, then trains on and goes on misbehaving until it is told to end. Device statistics
#: are those of an accelerator, since a CPU has none.
MISBEHAVES = """
import functools, json, os, subprocess, sys, tempfile, threading, time

import jitwatch
from jitwatch import guard
from jitwatch.model.devices import Reading
from jitwatch.probes.memory import MemoryProbe

GIB = 2**30
used = 30 * GIB

def readings():
    global used
    used += GIB // 8
    in_use = min(used, 78 * GIB)
    yield Reading("gpu:0", "NVIDIA A100-SXM4-80GB", "gpu", {
        "bytes_in_use": in_use, "peak_bytes_in_use": 79 * GIB, "bytes_limit": 80 * GIB, "bytes_reserved": GIB,
        "largest_free_block_bytes": (80 * GIB - in_use) // 3})
    yield Reading("gpu:1", "NVIDIA A100-SXM4-80GB", "gpu", {
        "bytes_in_use": 12 * GIB, "peak_bytes_in_use": 14 * GIB, "bytes_limit": 80 * GIB})

MemoryProbe.source = staticmethod(readings)
# Leaks show after minutes: a clock that goes sixty times as fast shows them in seconds.
MemoryProbe.sample = lambda probe: probe.sample_at(60 * time.monotonic())
# Every write to it fails: the disk is full.
log = "/dev/full" if os.path.exists("/dev/full") else None
folder = sys.argv[1] if len(sys.argv) > 1 else None
watch = jitwatch.install(
    port=0, run="misbehaves", sample_interval_s=0.5, storm_threshold=3, event_log=log,
    cache_index=tempfile.mkdtemp(dir=folder))

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(dir=folder))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

from jitwatch.demo.pitfalls import EXAMPLES

for example in EXAMPLES:
    example()

@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, batch):
    return {name: leaf - 0.01 * batch.mean() for name, leaf in state.items()}

@functools.partial(jax.jit, static_argnums=1)
def sample(x, length):
    return jnp.sin(x) * length

@functools.partial(jax.jit, static_argnums=1)
def too_large(x, size):
    return jnp.zeros((size,), jnp.int8) + x

@jax.jit
def fails(x):
    raise ValueError("a function that cannot be traced")

@jax.jit
def last_batch(batch):
    return batch.mean()

# One recompile is no known mistake.
for size in (8, 6):
    last_batch(np.ones((size, 4), np.float32))

def strange(x):
    return x + 1

strange.__qualname__ = strange.__name__ = 'say "hi" \\\\\\\\ {x}'
jax.jit(strange)(jnp.ones(3))
# A storm for good: more recompiles than the first minute allows.
for length in range(25):
    sample(np.ones(4, np.float32), length)
try:
    too_large(jnp.int8(1), 2**46)
except jax.errors.JaxRuntimeError:
    pass

def fail_ourselves():
    try:
        raise RuntimeError("a failure of the agent's own")
    except RuntimeError:
        guard.failed("demonstration")

for number in range(110):
    # More functions than names.
    scope = {}
    exec(f"def f_{number}(x): return x + {number}", scope)
    jax.jit(scope[f"f_{number}"])

loader = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.readline()"], stdin=subprocess.PIPE)
state = {"w": jnp.ones((64, 64)), "b": jnp.ones(64)}
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
steady = jitwatch.steady(on_recompile="count")
print(json.dumps({"url": watch.url}), flush=True)
turn = 0
while not ended.wait(0.05):
    turn += 1
    state = train_step(state, jnp.ones((8, 8)))
    jitwatch.step()
    if turn % 10 == 0:
        sample(np.ones(4, np.float32), 25 + turn)
        jax.jit(lambda x: x - turn)(state["b"])
        old = {"w": jnp.ones((64, 64)), "b": jnp.ones(64)}
        train_step(old, jnp.ones((8, 8)))
        try:
            np.asarray(old["w"])
        except (RuntimeError, ValueError):
            pass
        try:
            # Of another size each time: the same shortage again would be no news.
            too_large(jnp.int8(1), 2**46 + turn)
        except jax.errors.JaxRuntimeError:
            pass
        try:
            fails(1.0)
        except ValueError:
            pass
        fail_ourselves()
loader.communicate(b"\\n")
"""

#: One of two processes of a jax.distributed run; process 1 compiles one function once more than process 0, and
#: process 0 alone evaluates. Arguments: index, address of the coordinator, folder for discovery or nothing.
ONE_OF_TWO = """
import json, os, sys
import jitwatch
index, coordinator, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None
options = {"sd_dir": folder} if folder else {}
watch = jitwatch.install(port=0, run="both", sample_interval_s=0.5, **options)
import jax
import numpy as np

jax.distributed.initialize(coordinator_address=coordinator, num_processes=2, process_id=index)

@jax.jit
def train_step(x):
    return x * 2

@jax.jit
def evaluate(x):
    return x.sum()

train_step(np.ones(8, np.float32))
if index == 0:
    evaluate(np.ones(8, np.float32))
print(json.dumps({"url": watch.url, "devices": jax.device_count()}), flush=True)
sys.stdin.readline()
if index == 1:
    # Its last batch is shorter than that of the other process.
    train_step(np.ones(5, np.float32))
print(json.dumps({"diverged": index == 1}), flush=True)
sys.stdin.readline()
"""

#: The same, and process 1 compiles another program for the devices of both processes.
OTHER_PROGRAM = ONE_OF_TWO.replace(
    "jax.distributed.initialize(",
    'jax.config.update("jax_cpu_collectives_implementation", "gloo")\njax.distributed.initialize(',
).replace(
    'print(json.dumps({"diverged": index == 1}), flush=True)',
    """
from jax.sharding import Mesh, NamedSharding, PartitionSpec

@jax.jit
def update(x):
    return x * (index + 2.0)

sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
update(jax.make_array_from_callback((8,), sharding, lambda at: np.ones(8, np.float32)[at]))
print(json.dumps({"diverged": index == 1}), flush=True)
""",
)

#: Installed, and does nothing at all.
IDLE = """
import json, sys
import jitwatch
watch = jitwatch.install(port=0, run="idle", sample_interval_s=0.5)
print(json.dumps({"url": watch.url}), flush=True)
sys.stdin.readline()
"""

#: A hundred functions and more, all of them well behaved, some with strange names; on a given port, so that it can
#: be started again. Arguments: port.
MANY = """
import json, sys
import jitwatch
watch = jitwatch.install(port=int(sys.argv[1]), run="many", sample_interval_s=0.5)
import jax
import numpy as np

NAMES = [
    '<lambda>',
    'quo"te', "apo'strophe", 'back\\\\\\\\slash', 'new\\\\nline', '{brace} [x] (y) $z ^a', 'ünï·码', '.*+?|',
]
for number in range(105):
    scope = {}
    exec(f"def f_{number}(x): return x + {number}", scope)
    function = scope[f"f_{number}"]
    if number < len(NAMES):
        function.__name__ = function.__qualname__ = NAMES[number]
    # Each is called: those that are not get at most half of the labels.
    jax.jit(function)(np.ones(4, np.float32))
names = [row["function"] for row in watch.snapshot()["functions"]]
print(json.dumps({"url": watch.url, "names": names}), flush=True)
sys.stdin.readline()
"""

#: Names that would be markup if anybody took them for it. Compiles once more whenever it is told to, and says when.
#: Arguments: port.
HOSTILE = """
import json, sys, time
import jitwatch
watch = jitwatch.install(port=int(sys.argv[1]), run="hostile", sample_interval_s=0.5)
import jax
import jax.numpy as jnp
import numpy as np

def double(x):
    return x * 2

double.__name__ = double.__qualname__ = "<img src=x onerror=alert(1)>"
double = jax.jit(double, donate_argnums=0)

@jax.jit
def calm(x):
    return x + 1

calm(np.ones(3, np.float32))
for size in range(2, 8):
    double(jnp.ones(size))
gone = jnp.ones(4)
double(gone)
try:
    np.asarray(gone)
except (RuntimeError, ValueError):
    pass
print(json.dumps({"url": watch.url}), flush=True)
for size, _ in enumerate(sys.stdin, 100):
    double(jnp.ones(size))
    print(json.dumps({"compiled": time.time()}), flush=True)
"""
