"""The examples for Slurm and long-term stores, as far as they can be run on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dashboards.source.generate import FOLDER
from tests.integration.conftest import Prometheus, free_port, need, running_job, running_prometheus, stop
from tests.integration.jobs import IDLE
from tests.waiting import wait_until

EXAMPLES = FOLDER / "examples"
pytestmark = pytest.mark.server

#: What `srun` does to a script: starts it so many times and says in the environment which one it is.
SRUN = """#!/bin/bash
for rank in $(seq 0 $((SLURM_NTASKS_HERE - 1))); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=$SLURM_NTASKS SLURMD_NODENAME=localhost "$@" &
done
wait
"""
TRAIN = """
import json, os, sys, time, jax
jax.jit(lambda x: x + 1)(1.0)
with open(f"trained.{os.environ['SLURM_PROCID']}", "w") as file:
    json.dump(sys.argv[1:], file)
while not os.path.exists("end"):
    time.sleep(0.05)
"""


@pytest.mark.parametrize(("tasks", "details"), [(2, ["full", "full"]), (65, ["full", "summary"])])
def test_slurm_script_announces_every_process(tmp_path, tasks, details):
    """With an srun that starts two processes here: entries with run, place and port; a large run is summed up."""
    bash = need("bash")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "train.py").write_text(TRAIN)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JITWATCH_", "SLURM"))},
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "JITWATCH_SD_DIR": str(tmp_path / "sd"),
        "JITWATCH_PORT": str(free_port()),
        "SLURM_JOB_ID": "4711",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_HERE": "2",
    }
    script = EXAMPLES / "slurm" / "train.sbatch"
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(
            [bash, script, "train.py", "--lr", "0.1"], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        trained = [tmp_path / f"trained.{rank}" for rank in range(2)]
        try:
            wait_until(
                lambda: all(path.exists() and path.read_text() == '["--lr", "0.1"]' for path in trained),
                timeout_s=180,
                what="two processes that train",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; the output was:\n{(tmp_path / 'output').read_text()}") from None
        entries = [json.loads(path.read_text())[0] for path in (tmp_path / "sd").glob("*.json")]
        found = {}
        for entry in entries:
            (address,) = entry["targets"]
            server = Prometheus(f"http://{address}")
            metrics = server.get("/api/v1/state")["metrics"]["jitwatch_compiles_total"]
            is_summed = [{"function": "__all__"}] == [one["labels"] for one in metrics]
            found[entry["labels"]["process_index"]] = "summary" if is_summed else "full"
        assert {"4711"} == {entry["labels"]["run"] for entry in entries}
        assert details == [found["0"], found["1"]]
        (tmp_path / "end").touch()
        assert 0 == process.wait(60), (tmp_path / "output").read_text()
    finally:
        (tmp_path / "end").touch()
        stop(process)
    assert [] == list((tmp_path / "sd").glob("*.json"))
    assert 2 == len(list((tmp_path / "logs").glob("*.jsonl")))


def test_agent_sends_what_boards_ask_for_to_a_long_term_store(tmp_path):
    """A Prometheus in agent mode with the example's configuration, another as the store."""
    promtool, program = need("promtool", "prometheus"), need("prometheus")
    text = (EXAMPLES / "prometheus" / "agent.yml").read_text()
    checked = tmp_path / "checked.yml"
    (tmp_path / "password").write_text("secret")
    checked.write_text(text.replace("/etc/prometheus/remote-write-password", str(tmp_path / "password")))
    done = subprocess.run([promtool, "check", "config", "--agent", checked], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr

    config = yaml.safe_load(text)
    config["global"]["scrape_interval"] = "1s"
    (tmp_path / "sd").mkdir()
    config["scrape_configs"][0]["file_sd_configs"][0].update(files=[f"{tmp_path}/sd/*.json"], refresh_interval="1s")
    nothing_else = "global: {}\n"
    with (
        running_job(tmp_path / "job.py", IDLE) as job,
        running_prometheus(tmp_path / "store", nothing_else, "--web.enable-remote-write-receiver") as store,
    ):
        address = job.line()["url"].removeprefix("http://")
        (tmp_path / "sd" / "job.json").write_text(json.dumps([{"targets": [address], "labels": {"run": "r"}}]))
        config["remote_write"][0]["url"] = f"{store.url}/api/v1/write"
        del config["remote_write"][0]["basic_auth"]
        (tmp_path / "agent.yml").write_text(yaml.safe_dump(config))
        with open(tmp_path / "log", "w") as log:
            agent = subprocess.Popen(
                [
                    program,
                    "--enable-feature=agent",
                    f"--config.file={tmp_path / 'agent.yml'}",
                    f"--storage.agent.path={tmp_path / 'agent'}",
                    f"--web.listen-address=127.0.0.1:{free_port()}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            (row,) = wait_until(lambda: store.query("jitwatch_build_info"), what="a series in the store")
            assert ("jitwatch", "r", "gpu-1") == tuple(row["metric"][label] for label in ("job", "run", "cluster"))
            assert wait_until(lambda: store.query("process_resident_memory_bytes"), what="the process's memory")
            assert [] == store.query("python_info")
        finally:
            stop(agent)


def targets_of(server: Prometheus) -> tuple[list[dict], list[dict]]:
    """The targets that a server scrapes, and those that its relabelling has dropped."""
    found = server.get("/api/v1/targets")["data"]
    return found["activeTargets"], found["droppedTargets"]


def test_shards_share_the_runs(tmp_path):
    """Every run is scraped by exactly one of the servers, with all of its processes."""
    promtool = need("promtool", "prometheus")
    path = EXAMPLES / "prometheus" / "sharded.yml"
    text = path.read_text()
    done = subprocess.run([promtool, "check", "config", "--syntax-only", path], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr
    targets = [
        {"targets": [f"127.0.0.1:{10 + 2 * run + index}"], "labels": {"run": f"run-{run}"}}
        for run in range(12)
        for index in range(2)
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(targets))
    config = yaml.safe_load(text)
    (job,) = config["scrape_configs"]
    job["file_sd_configs"][0]["files"] = [str(tmp_path / "jobs.json")]
    shards, keep = job["relabel_configs"][0]["modulus"], job["relabel_configs"][1]
    found = []
    for shard in range(shards):
        keep["regex"] = str(shard)
        with running_prometheus(tmp_path / str(shard), yaml.safe_dump(config)) as server:
            wait_until(
                lambda server=server: len(targets) == sum(map(len, targets_of(server))), what="all targets, kept or not"
            )
            scraped, _ = targets_of(server)
        found.append(sorted(one["labels"]["run"] for one in scraped))

    assert sorted(one["labels"]["run"] for one in targets) == sorted(run for runs in found for run in runs)
    assert [] == [run for runs in found for run in runs if runs.count(run) != 2]
    assert [] != found[0] != found[1]


def test_federation_takes_the_recorded_series_only(tmp_path):
    """The configuration is accepted, and what it asks for has the rules' series and none by function."""
    promtool = need("promtool", "prometheus")
    path = EXAMPLES / "prometheus" / "federation.yml"
    done = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr

    (tmp_path / "rules.yml").write_text(
        "groups: [{name: g, rules: [{record: 'jitwatch:compile_busy:ratio', expr: 'vector(1)'}, "
        "{record: 'other:thing', expr: 'vector(1)'}]}]"
    )
    lower = f"global: {{evaluation_interval: 1s}}\nrule_files: [{tmp_path / 'rules.yml'}]\n"
    with running_prometheus(tmp_path / "lower", lower) as one:
        wait_until(lambda: one.query("other:thing"), what="the rules")
        config = yaml.safe_load(path.read_text())
        config["global"]["scrape_interval"] = "1s"
        config["scrape_configs"][0]["static_configs"] = [{"targets": [one.url.removeprefix("http://")]}]
        with running_prometheus(tmp_path / "upper", yaml.safe_dump(config)) as upper:
            wait_until(lambda: upper.query("jitwatch:compile_busy:ratio"), what="the federated series")
            assert [] == upper.query("other:thing")
            assert time.time() - float(upper.query("timestamp(jitwatch:compile_busy:ratio)")[0]["value"][1]) < 60
