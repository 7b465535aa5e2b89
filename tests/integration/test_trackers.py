"""`jitwatch.scalars()` in the trackers that people use: what is logged is what comes back.

Each is a program of its own, as a user would write it, with the tracker's own files read again afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from textwrap import dedent, indent

import pytest

#: A job that recompiles in its third step, and what it logs after each step.
JOB = """
import jax, json, sys
import jax.numpy as jnp
import jitwatch

jitwatch.install(port=0)
step = jax.jit(lambda x: x * 2)
logged = []
{before}
for number, size in enumerate((4, 4, 3)):
    step(jnp.ones(size))
    jitwatch.step()
    logged.append(jitwatch.scalars())
{each}
{after}
print(json.dumps(logged))
"""
TENSORBOARD = (
    """
    from tensorboardX import SummaryWriter
    writer = SummaryWriter("runs")
    """,
    """
    for name, value in logged[-1].items():
        writer.add_scalar(name, value, number)
    """,
    """
    writer.close()
    """,
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator("runs").Reload()
    shown = {name: [one.value for one in found.Scalars(name)] for name in found.Tags()["scalars"]}
    """,
)
MLFLOW = (
    """
    import mlflow
    run = mlflow.start_run()
    """,
    """
    mlflow.log_metrics(logged[-1], step=number)
    """,
    """
    mlflow.end_run()
    """,
    """
    import mlflow
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    shown = {
        name: [one.value for one in sorted(client.get_metric_history(run.info.run_id, name), key=lambda one: one.step)]
        for name in run.data.metrics
    }
    """,
)
#: Its file of an offline run is a log of records in blocks of 32 KiB, behind seven bytes of their own.
WANDB = (
    """
    import wandb
    run = wandb.init(mode="offline", dir=".", settings=wandb.Settings(silent=True, console="off"))
    """,
    """
    run.log(logged[-1], step=number)
    """,
    """
    run.finish()
    """,
    """
    import glob, json, struct
    from wandb.proto import wandb_internal_pb2
    data = open(glob.glob("wandb/offline-run-*/*.wandb")[0], "rb").read()
    at, whole, shown = 7, b"", {}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if name.startswith("jitwatch/"):
                    shown.setdefault(name, []).append(json.loads(item.value_json))
    """,
)


def run(folder, name, program):
    """Run a program of this name in the folder; what it prints last, as JSON."""
    (folder / name).write_text(program)
    own = {"MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    own |= {name: str(folder) for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **own},
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("tracker", [TENSORBOARD, MLFLOW, WANDB], ids=["tensorboard", "mlflow", "wandb"])
def test_tracker_keeps_every_figure_of_every_step(tmp_path, tracker):
    """Written by the tracker, in its mode without a server, and read again from its files."""
    before, each, after, read = map(dedent, tracker)
    logged = run(tmp_path, "train.py", JOB.format(before=before, each=indent(each, "    "), after=after))
    shown = run(tmp_path, "read.py", f"{read}\nimport json\nprint(json.dumps(shown))\n")

    assert [0.0, 0.0, 1.0] == shown["jitwatch/recompiles"]
    assert set(logged[-1]) == set(shown)
    # TensorBoard keeps single precision.
    assert logged[-1] == pytest.approx({name: values[-1] for name, values in shown.items()}, rel=1e-6)
