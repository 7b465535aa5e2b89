"""A real Prometheus finds jobs by the entries that they write, and loses them when they end."""

from __future__ import annotations

import socket

import pytest

from tests.integration.conftest import running_job
from tests.integration.stack import running_stack
from tests.waiting import wait_until

JOB = """
import json, sys
import jitwatch
watch = jitwatch.install(port=0, run=sys.argv[1], sd_dir=sys.argv[2])
print(json.dumps({"url": watch.url}), flush=True)
sys.stdin.readline()
"""


@pytest.mark.server
def test_prometheus_finds_jobs_and_loses_those_that_end(tmp_path):
    """Two jobs announce themselves. One ends and is no target any more; the other is killed and counts as down."""
    folder = tmp_path / "prometheus"
    with running_stack(folder, []) as prometheus:
        sd = str(folder / "sd")
        with (
            running_job(tmp_path / "a.py", JOB, arguments=["ends", sd]) as ends,
            running_job(tmp_path / "b.py", JOB, arguments=["killed", sd], SLURM_PROCID="3") as killed,
        ):
            url = killed.line()["url"]
            ends.line()
            wait_until(lambda: {"ends": 1, "killed": 1} == prometheus.values("up", "run"), what="two targets")
            (row,) = prometheus.query('jitwatch_build_info{run="killed"}')
            assert ("jitwatch", url.removeprefix("http://"), socket.gethostname(), "3") == tuple(
                row["metric"][label] for label in ("job", "instance", "host", "process_index")
            )
            assert [] == [label for label in row["metric"] if label.startswith("__meta")]

            assert 0 == ends.end()
            killed.process.kill()
            wait_until(lambda: {"killed": 0} == prometheus.values("up", "run"), what="one target, which is down")
        alert = 'ALERTS{alertname="JitwatchTargetsDown", alertstate="pending"}'
        wait_until(lambda: {"killed": 1} == prometheus.values(alert, "run"), what="the alert about it alone")
