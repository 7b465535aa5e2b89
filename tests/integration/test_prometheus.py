"""A real Prometheus scrapes the demo job and knows exactly what an independent count knows."""

from __future__ import annotations

import subprocess

import pytest

from tests.waiting import wait_until

#: Trains the demo under watch, with a listener of the job's own that counts successful compiles.
JOB = """
import collections, json, sys, threading
import jitwatch

watch = jitwatch.install(port=0)
import jax

USERS = {"init_state", "train_step", "eval_step", "generate"}
PREFIX = "/jax/core/compile/"
PHASES = {PREFIX + "jaxpr_trace_duration": "trace", PREFIX + "jaxpr_to_mlir_module_duration": "lower"}
functions, phases, seen = collections.Counter(), collections.Counter(), threading.local()

def count(event, duration, fun_name="", **details):
    if event in PHASES:
        seen.phases = getattr(seen, "phases", set()) | {PHASES[event]}
    elif event == PREFIX + "backend_compile_duration":
        name = fun_name.removeprefix("jit(").removesuffix(")")
        functions[f"jitwatch.demo.model.{name}" if name in USERS else "__jax__"] += 1
        phases.update(getattr(seen, "phases", set()) | {"compile"})
        seen.phases = set()

jax.monitoring.register_event_duration_secs_listener(count)
from jitwatch.demo.train import train

train(steps=int(sys.argv[1]) if len(sys.argv) > 1 else 20, on_progress=lambda progress: None, on_step=jitwatch.step)
state = watch.snapshot()
print(json.dumps({"url": watch.url, "functions": functions, "phases": phases, "steps": state["step"]}), flush=True)
sys.stdin.readline()
"""


def scrape(url: str, extra: str = "") -> str:
    """The `scrape_configs` for one job."""
    scheme, _, target = url.partition("://")
    return (
        f"  - job_name: train\n    scheme: {scheme}\n{extra}"
        f"    static_configs:\n      - targets: ['{target}']\n        labels: {{run: demo}}\n"
    )


@pytest.mark.server
def test_prometheus_knows_every_compile_of_the_demo(start_prometheus, start_job):
    """By function and by phase, Prometheus has exactly the successful compiles that the job's own listener saw."""
    job = start_job(JOB)
    counted = job.line()
    prometheus = start_prometheus(scrape(counted["url"]))
    wait_until(lambda: prometheus.query("jitwatch_compiles_total"), what="the first scrape")
    compiles = prometheus.values("jitwatch_compiles_total > 0", "function")
    assert counted["functions"] == compiles
    assert {"jitwatch.demo.model.train_step": 2, "jitwatch.demo.model.eval_step": 2} == {
        name: number for name, number in compiles.items() if name.endswith("_step")
    }
    phases = prometheus.values("jitwatch_compile_duration_seconds_count", "phase")
    assert counted["phases"] == phases
    assert phases["compile"] == sum(compiles.values())
    assert {"": counted["steps"]} == prometheus.values("jitwatch_steps_total", "")
    assert 0 == job.end()


@pytest.mark.server
def test_prometheus_sees_counters_from_zero(start_prometheus, start_job):
    """A function that is jitted and scraped before its first call shows its compile to increase()."""
    job = start_job(
        """
import json, sys
import jitwatch
watch = jitwatch.install(port=0)
import jax
@jax.jit
def late(x):
    return x + 1
print(json.dumps({"url": watch.url}), flush=True)
sys.stdin.readline()
late(1.0)
print("{}", flush=True)
sys.stdin.readline()
"""
    )
    prometheus = start_prometheus(scrape(job.line()["url"]))
    series = 'jitwatch_compiles_total{function="__main__.late"}'
    wait_until(lambda: [row["value"][1] for row in prometheus.query(series)] == ["0"], what="the zero")
    assert job.process.stdin is not None
    job.process.stdin.write("\n")
    job.process.stdin.flush()
    job.line()
    wait_until(lambda: prometheus.query(f"increase({series}[1m]) > 0.5"), what="increase() seeing the compile")
    assert 0 == job.end()


@pytest.mark.server
def test_prometheus_scrapes_over_tls_with_a_token(start_prometheus, start_job, tmp_path):
    """TLS and the bearer token work with Prometheus's own client, and without the token it gets nothing."""
    certificate, key, token = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "token"
    token.write_text("s3cret-token\n")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    job = start_job(
        """
import json, sys
import jitwatch
watch = jitwatch.install(port=0)
print(json.dumps({"url": watch.url}), flush=True)
sys.stdin.readline()
""",
        JITWATCH_TLS_CERT=str(certificate),
        JITWATCH_TLS_KEY=str(key),
        JITWATCH_TOKEN_FILE=str(token),
    )
    url = job.line()["url"]
    assert url.startswith("https://")
    tls = f"    tls_config: {{ca_file: '{certificate}'}}\n"
    authorization = f"    authorization: {{credentials_file: '{token}'}}\n"
    without = scrape(url, tls).replace("job_name: train", "job_name: stranger")
    prometheus = start_prometheus(scrape(url, tls + authorization) + without)
    wait_until(
        lambda: prometheus.values("up", "job") == {"train": 1, "stranger": 0}, what="one target up and one refused"
    )
    assert {"train"} == set(prometheus.values("jitwatch_build_info", "job"))
    assert 0 == job.end()
