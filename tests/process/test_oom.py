"""An out-of-memory error that ends a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap


def test_uncaught_error_is_logged_before_the_job_ends(tmp_path):
    """As `jitwatch run` starts it: same traceback, same exit code; the log has the snapshot."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        import jax, jax.numpy as jnp
        from jax.errors import JaxRuntimeError
        kept = jnp.ones((100, 100))
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        """)
    )
    log = tmp_path / "log.jsonl"
    ended = subprocess.run(
        [sys.executable, "-m", "jitwatch", "run", "--port", "0", "--event-log", str(log), str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (event,) = [json.loads(line) for line in log.read_text().splitlines() if '"memory.oom"' in line]

    assert 1 == ended.returncode, ended.stderr
    assert 1 == ended.stderr.count("Traceback")
    assert f"{script}:5" == event["call_site"]
    assert [[100, 100]] == [row["shape"] for row in event["arrays"] if row["bytes"] == 40_000]


def test_program_on_two_devices_is_measured_by_device(tmp_path):
    """Half of the batch, and all of the weights, on each; the report says what they are for."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        import time
        import jax, jax.numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        import jitwatch

        devices = jax.devices()
        assert 2 == len(devices), devices
        mesh = Mesh(devices, ("data",))
        batch = jax.device_put(jnp.ones((8192, 2048)), NamedSharding(mesh, PartitionSpec("data")))
        weights = jax.device_put(jnp.ones((2048, 2048)), NamedSharding(mesh, PartitionSpec()))

        @jax.jit
        def train_step(weights, batch):
            return jnp.tanh(batch @ weights)

        jax.block_until_ready(train_step(weights, batch))
        watch = jitwatch.install()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if any(record["event"] == "program.measured" for record in watch.events()):
                break
            time.sleep(0.1)
        """)
    )
    log = tmp_path / "log.jsonl"
    ended = subprocess.run(
        [sys.executable, "-m", "jitwatch", "run", "--port", "0", "--event-log", str(log), str(script)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JITWATCH_SAMPLE_INTERVAL_S": "1"},
    )
    assert 0 == ended.returncode, ended.stderr
    (record,) = [json.loads(line) for line in log.read_text().splitlines() if '"program.measured"' in line]
    mib = 1 << 20
    found = {(row["op"].rpartition("/")[2], row["shape"]): row["bytes"] for row in record["peak_buffers"]}

    assert (48 * mib, 32 * mib) == (record["argument_bytes"], record["output_bytes"])
    assert 32 * mib == found["argument batch", "f32[4096,2048]"]
    assert 16 * mib == found["argument weights", "f32[2048,2048]"]
    assert {f"{script}:{line}" for line in (14, 15)} >= {
        row["call_site"] for row in record["peak_buffers"] if "call_site" in row
    }
    report = subprocess.run(
        [sys.executable, "-m", "jitwatch", "report", str(log)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "train_step needs " in report.stdout
    assert "MiB f32[4096,2048] argument batch" in " ".join(report.stdout.split())
