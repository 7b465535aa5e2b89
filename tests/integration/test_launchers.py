"""Programs that send functions to other processes: nobody there, nor here, can tell that the agent is on."""

from __future__ import annotations

import zipfile

import pytest

from tests.integration.launching import BARE, WAYS, assert_same, write

#: A module of the user, whose functions are pickled by reference.
PARTS = """
import jax

@jax.jit
def imported(x):
    return x * 2

@jax.jit
def imported_donor(x):
    return x * 2
"""
#: Jitted functions of every kind, by name; each is called with one array.
KINDS = """
import functools, hashlib, itertools, pickle, pickletools, re, sys, uuid
import cloudpickle, dill
import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx

import parts

# cloudpickle gives classes of __main__ random numbers.
uuid.uuid4 = lambda numbers=itertools.count(): uuid.UUID(int=next(numbers))

@jax.jit
def plain(x):
    return x * 2 + 1

@functools.partial(jax.jit, donate_argnums=0)
def donor(x):
    return x * 3

@functools.partial(jax.jit, static_argnames="n")
def static(x, n=2):
    return x * n

class Model:
    scale = 5.0

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, x):
        return x * self.scale

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, x):
        return x * self.scale

class Net(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.float32(2))

def total(x):
    return jnp.sum(x * x)

def work(x):
    return plain(x) + donor(x + 0)

def makes_its_own(x):
    return jax.jit(lambda y: y + 1, donate_argnums=0)(x)

@eqx.filter_jit
def filtered(x):
    return x * 4

@eqx.filter_jit(donate="all")
def filtered_donor(x):
    return x * 4

@nnx.jit
def of_nnx(x):
    return x * 6

@functools.partial(nnx.jit, donate_argnums=0)
def of_nnx_donor(x):
    return x * 6

model = Model()
FUNCTIONS = {
    "plain": plain,
    "donor": donor,
    "static": static,
    "method": model.step,
    "donating method": model.update,
    "partial": functools.partial(static, n=3),
    "partial of a donor": functools.partial(donor),
    "vmap": jax.vmap(plain),
    "vmap of a donor": jax.vmap(donor),
    "grad": jax.grad(lambda x: jnp.sum(plain(x))),
    "jit of grad": jax.jit(jax.grad(total)),
    "jit of jit": jax.jit(plain),
    "remat": jax.checkpoint(plain),
    "closure": work,
    "jits when called": makes_its_own,
    "lambda": jax.jit(lambda x: x - 1),
    "imported": parts.imported,
    "imported donor": parts.imported_donor,
    "eqx.filter_jit": filtered,
    "eqx.filter_jit that donates": filtered_donor,
    "nnx.jit": of_nnx,
    "nnx.jit that donates": of_nnx_donor,
}
PICKLERS = {"pickle": pickle.dumps, "cloudpickle": cloudpickle.dumps, "dill": dill.dumps}
"""
PICKLES = (
    KINDS
    + """
def x():
    return jnp.arange(3.0)

def told(error):
    return f"{type(error).__name__}: {re.sub('0x[0-9a-f]+', '0x', str(error))}"

def contents_of(data):
    # Operations, with each string in full. Which equal strings are one object, and are written once, differs from run
    # to run: in some processes JAX's state of a jitted function has an interned key, in others it has not.
    memo, found = {}, []
    for operation, argument, _ in pickletools.genops(data):
        name = operation.name
        if name == "FRAME":
            continue
        if name == "MEMOIZE" or name.endswith("PUT"):
            is_text = isinstance(found[-1], str)
            memo[len(memo) if argument is None else argument] = (
                found[-1] if is_text else (sum(not isinstance(value, str) for value in memo.values()),)
            )
        elif name.endswith("GET"):
            found.append(memo[argument])
        elif "UNICODE" in name:
            found.append(argument)
        else:
            found.append((name, argument))
    return found

def dump_all():
    found = {}
    for name, function in FUNCTIONS.items():
        for pickler, dumps in PICKLERS.items():
            try:
                data = dumps(function)
            except Exception as error:
                print(name, pickler, told(error))
                continue
            found[f"{name} by {pickler}"] = data
            assert b"jitwatch" not in data, (name, pickler)
            if "method" in name:
                # The class is pickled with what it refers to, JAX's sets among that, whose order depends on addresses.
                words = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
                print(name, pickler, sorted(words))
            else:
                contents = repr(contents_of(data))
                print(name, pickler, len(contents), hashlib.sha256(contents.encode()).hexdigest())
    return found

def load_all(found):
    for name, data in found.items():
        try:
            loads = dill.loads if name.endswith("dill") else pickle.loads
            print(name, loads(data)(x()).tolist())
        except Exception as error:
            print(name, told(error))

found = dump_all()
print({name: function(x()).tolist() for name, function in FUNCTIONS.items()})
print("after a call", found == dump_all())
load_all(found)
with open(sys.argv[1], "wb") as file:
    pickle.dump({name: data for name, data in found.items() if name.endswith("by cloudpickle")}, file)
if "jitwatch" in sys.modules:
    assert sys.modules["jitwatch"].snapshot()
    sys.modules["jitwatch"].uninstall()
print("after uninstalling", found == dump_all())
load_all(found)
"""
)
#: A process in which jitwatch cannot be imported loads what the others wrote.
LOADS = """
import pickle, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jitwatch":
            raise ImportError("jitwatch is not installed here")

sys.meta_path.insert(0, Blocker())
import jax.numpy as jnp

with open(sys.argv[1], "rb") as file:
    found = pickle.load(file)
for name, data in found.items():
    print(name, pickle.loads(data)(jnp.arange(3.0)).tolist())
assert "jitwatch" not in sys.modules
"""


def test_jitted_functions_are_pickled_as_without_the_agent(launcher):
    """The contents are equal and hold no word of ours; they load here, where jitwatch is not, and after uninstall()."""
    write(launcher.folder, PICKLES)
    (launcher.folder / "parts.py").write_text(PARTS)
    (launcher.folder / "loads.py").write_text(LOADS)

    bare = assert_same({way: launcher.outcome(way, "job.py", f"{way}.pickle") for way in (BARE, *WAYS)})
    loaded = assert_same({way: launcher.outcome(BARE, "loads.py", f"{way}.pickle") for way in (BARE, *WAYS)})

    assert 0 == bare.code, bare.stderr
    assert 0 == loaded.code, loaded.stderr
    assert "donor [0.0, 3.0, 6.0]" in loaded.stdout.replace(" by cloudpickle", "").splitlines()
    assert 18 <= len(loaded.stdout.splitlines())


#: What all of the programs below send to other processes.
WORK = """
import functools, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import jax
import jax.numpy as jnp

@functools.partial(jax.jit, donate_argnums=0)
def step(x):
    return x * 2 + 1

@jax.jit
def measure(x):
    return jnp.sum(x * x)

class Model:
    def __init__(self, scale):
        self.scale = scale

    @functools.partial(jax.jit, static_argnums=0)
    def __call__(self, x):
        return x * self.scale

def work(n):
    return float(measure(step(jnp.arange(float(n + 1))))), float(Model(n)(jnp.float32(2))), __name__

def fails(n):
    gone = jnp.arange(float(n))
    step(gone)
    return gone + 1
"""
POOLS = (
    WORK
    + """
def main():
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        print(pool.map(work, range(4)), flush=True)
        print(pool.apply_async(Model, (3,)).get().scale, flush=True)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        print(list(pool.map(work, range(4))), flush=True)
        print(type(pool.submit(fails, 3).exception()), flush=True)
    process = context.Process(target=fails, args=("three",))
    process.start()
    process.join()
    print(process.exitcode, flush=True)

if __name__ == "__main__":
    main()
"""
)


@pytest.mark.parametrize(
    ("job", "method"),
    [
        ("job.py", "spawn"),
        ("job.py", "forkserver"),
        ("job.py", "fork"),
        ("-m package.part", "spawn"),
        ("-m package", "forkserver"),
        ("folder", "spawn"),
        ("app.zip", "spawn"),
    ],
)
def test_pools_of_processes(launcher, job, method):
    """Workers find the functions and classes of the main module, however it and they are started."""
    # Workers do not import what is run as a package, a folder or a zip file, so that its functions lie elsewhere.
    calls = "from tasks import main\n\nif __name__ == '__main__':\n    main()\n"
    for name in ("job.py", "package/part.py", "tasks.py"):
        write(launcher.folder, POOLS, name)
    for name in ("package/__main__.py", "folder/__main__.py"):
        write(launcher.folder, calls, name)
    (launcher.folder / "package/__init__.py").touch()
    (launcher.folder / "folder/tasks.py").symlink_to("../tasks.py")
    with zipfile.ZipFile(launcher.folder / "app.zip", "w") as archive:
        archive.write(launcher.folder / "folder/__main__.py", "__main__.py")
        archive.write(launcher.folder / "tasks.py", "tasks.py")

    # How a script, a module, a folder and a zip file start differs for `jitwatch run` alone.
    outcomes = launcher.outcomes(*job.split(), method, ways=WAYS if job == "job.py" else ["run"])

    bare = assert_same(outcomes)
    assert 0 == bare.code, bare.stderr
    assert 5 == len(bare.stdout.splitlines())


JOBLIB = (
    WORK
    + """
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

if __name__ == "__main__":
    print(Parallel(n_jobs=2)(delayed(work)(n) for n in range(4)))
    print(Parallel(n_jobs=2)(delayed(step)(jnp.float32(n)) for n in range(4)))
    print(get_reusable_executor(max_workers=2).submit(work, 5).result())
    get_reusable_executor().shutdown(wait=True)
"""
)
SUBMITIT = (
    WORK
    + """
import submitit

if __name__ == "__main__":
    executor = submitit.LocalExecutor(folder="jobs")
    executor.update_parameters(timeout_min=5)
    print([job.result() for job in [executor.submit(work, n) for n in range(2)]])
    print(executor.submit(measure, 3.0).result())
"""
)
GRAIN = """
import os, sys
import grain.python as grain
import jax, numpy as np
from absl import flags

@jax.jit
def augment(x):
    return x * 2 + 1

class Source:
    def __len__(self):
        return 16

    def __getitem__(self, i):
        return np.full((4,), i, np.float32)

class Augment(grain.MapTransform):
    def map(self, x):
        return np.asarray(augment(x))

if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    sampler = grain.IndexSampler(16, shuffle=False, num_epochs=1, shard_options=grain.NoSharding())
    loader = grain.DataLoader(
        data_source=Source(), sampler=sampler, operations=[Augment(), grain.Batch(4)], worker_count=2
    )
    print("total", sum(float(b.sum()) for b in loader), flush=True)
    dataset = grain.MapDataset.source(Source()).map(lambda x: np.asarray(augment(x))).batch(4).to_iter_dataset()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=2))
    print("total", sum(float(b.sum()) for b in dataset), flush=True)
"""
PROGRAMS = {"joblib": JOBLIB, "submitit": SUBMITIT, "grain": GRAIN}


@pytest.mark.parametrize("library", PROGRAMS)
def test_libraries_that_start_processes(launcher, library):
    """Loaders, executors and launchers of jobs do what they do without the agent."""
    write(launcher.folder, PROGRAMS[library])
    # Grain leaves shared memory behind or not, as it happens; and Python warns where its garbage collection comes while
    # it registers a semaphore (gh-109629), whenever that is.
    ignored = ("ignore:resource_tracker:UserWarning", "ignore:ResourceTracker called reentrantly:UserWarning")
    bare = assert_same(launcher.outcomes("job.py", PYTHONWARNINGS=",".join(ignored)))
    assert 0 == bare.code, bare.stderr
