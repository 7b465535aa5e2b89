"""Checks that a Ray job behaves the same with the agent: bare, `install()`, `jitwatch run` and `jitwatch activate`.

    pip install ray
    python benchmarks/check_ray.py

Starts Ray on this machine four times, which takes some minutes. For each way it prints whether the output of the job is
that of the bare job, and whether a line of stderr names jitwatch. The exit code is 1 if something differs.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jitwatch.autoinstall import PTH_LINE

JOB = """import os; os.environ.get("INSTALL") and __import__("jitwatch").install(port=0)
import functools, sys
import jax, jax.numpy as jnp
import ray

@functools.partial(jax.jit, donate_argnums=0)
def step(x):
    return x * 2 + 1

@jax.jit
def measure(x):
    return jnp.sum(x * x)

@ray.remote
def work(n):
    return float(measure(step(jnp.arange(float(n + 1)))))

@ray.remote
def apply(function, n):
    return float(function(jnp.float32(n)))

@ray.remote
class Trainer:
    def __init__(self):
        self.state = jnp.ones(4)

    def train(self, steps):
        for _ in range(steps):
            self.state = step(self.state)
        return self.state.tolist()

@ray.remote
def agent():
    found = sys.modules.get("jitwatch")
    return found.snapshot().get("run") if found and os.environ.get("JITWATCH_AUTOINSTALL") else "not asked"

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=True)
    print(ray.get([work.remote(n) for n in range(4)]))
    functions = (step, measure, jax.jit(lambda x: x - 1), jax.grad(measure))
    print(ray.get([apply.remote(function, 3) for function in functions]))
    trainer = Trainer.remote()
    print(ray.get(trainer.train.remote(3)))
    try:
        ray.get(apply.remote(jax.jit(lambda x: x.there_is_none), 3))
    except ray.exceptions.RayTaskError as error:
        print(type(error.cause).__name__, "jitwatch" in str(error))
    print("runs", set(ray.get([agent.remote() for _ in range(4)])), file=sys.stderr)
    ray.shutdown()
"""
WAYS = ("bare", "install", "run", "autoinstall")
TIMEOUT_S = 600


def outcome(folder: Path, way: str) -> subprocess.CompletedProcess[str]:
    """Run the job to its end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(folder / "site"), "RAY_DEDUP_LOGS": "0"}
    if way == "install":
        environment["INSTALL"] = "1"
    if way == "autoinstall":
        environment |= {"JITWATCH_AUTOINSTALL": "1", "JITWATCH_PORT": "0", "JITWATCH_EVENT_LOG": str(folder / "logs/")}
    ours = ["-m", "jitwatch", "run", "--quiet", "--port", "0"] if way == "run" else []
    return subprocess.run(
        [sys.executable, *ours, "job.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def main() -> int:
    ray, jax = (importlib.metadata.version(name) for name in ("ray", "jax"))
    print(f"ray {ray}, jax {jax}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.py").write_text(JOB)
        (folder / "site").mkdir()
        # The effect of `jitwatch activate`, without changing this environment.
        (folder / "site" / "sitecustomize.py").write_text(PTH_LINE)
        found = {way: outcome(folder, way) for way in WAYS}
    bare = found["bare"]
    print(bare.stdout)
    is_same = bare.returncode == 0
    for way, done in found.items():
        ours = [line for line in done.stderr.splitlines() if "jitwatch" in line]
        same = (done.returncode, done.stdout) == (bare.returncode, bare.stdout) and not ours
        is_same = is_same and same
        runs = next((line for line in done.stderr.splitlines() if line.startswith("runs ")), "no runs")
        print(f"{way}: {'same' if same else 'DIFFERS'}, exit code {done.returncode}, {runs}")
        if not same:
            print(done.stdout, done.stderr[-3000:], sep="\n")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
