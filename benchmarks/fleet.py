"""Cost of a fleet to Prometheus: series and bytes per process, and memory, time and CPU for many processes.

An agent watches a real job with many functions, and is served on as many ports as there are targets, each by a server
of its own. A real Prometheus with the shipped configuration and rules scrapes all of them. Then every query of every
board is evaluated once, as Grafana does for the last five minutes.

Needs `prometheus` on this machine. All traffic stays on the loopback address.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import psutil
import yaml

import jitwatch
from dashboards.source.asking import Question, Series
from dashboards.source.generate import FOLDER
from dashboards.source.substitute import panels_of
from jitwatch.server.http import Request, Server
from jitwatch.server.routes import Routes

PROMETHEUS = FOLDER / "prometheus"
SCRAPE_S = 15
PROCESSES_OF_A_RUN = 8


def job(functions: int) -> Callable[[], None]:
    """Compile many functions for two shapes, a quarter of which donate, and return a training step."""
    scope: dict[str, Callable[[object], object]] = {}
    jitted = []
    for number in range(functions):
        exec(f"def function_{number}(x): return x + {number}", scope)
        donated = {"donate_argnums": 0} if number % 4 == 0 else {}
        jitted.append(jax.jit(scope[f"function_{number}"], **donated))
        for size in (4, 8):
            jitted[-1](jax.numpy.ones(size))
    turn = 0

    def step() -> None:
        nonlocal turn
        turn += 1
        jitted[turn % functions](jax.numpy.ones(4))
        if turn % 20 == 0:
            jitted[turn // 20 % functions](np.ones(8 + turn % 400, np.float32))
        jitwatch.step()

    return step


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_prometheus(folder: Path, ports: list[int]) -> tuple[subprocess.Popen[bytes], str]:
    """Run Prometheus with the shipped configuration and every port as a target; yields its URL."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["alerting"]["alertmanagers"] = []
    port = free_port()
    (itself,) = (one for one in config["scrape_configs"] if one["job_name"] == "prometheus")
    itself["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    shutil.copytree(PROMETHEUS / "rules", folder / "rules")
    (folder / "sd").mkdir()
    (folder / "targets").mkdir()
    targets = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"run": f"run-{number // PROCESSES_OF_A_RUN}", "process_index": str(number % PROCESSES_OF_A_RUN)},
        }
        for number, port in enumerate(ports)
    ]
    (folder / "targets" / "jobs.yml").write_text(yaml.safe_dump(targets))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
    )
    return process, f"http://127.0.0.1:{port}"


def answers(url: str, query: str) -> list[Series]:
    """The current result of a query."""
    board = {"templating": {"list": []}}
    panel = {"targets": [{"expr": query, "instant": True, "refId": "A", "legendFormat": ""}]}
    return Question(url=url, chosen={}, end=time.time(), seconds=60).ask(board, panel)


def value(url: str, query: str) -> float:
    """The single value of a query; `nan` if there is none."""
    found = answers(url, query)
    return found[0].last if found else float("nan")


def ask_boards(url: str) -> list[tuple[float, str]]:
    """Seconds that the queries of each panel took, slowest first."""
    question = Question(url=url, chosen={}, end=time.time(), seconds=300, scrape_s=SCRAPE_S)
    found = []
    for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in panels_of(board):
            started = time.perf_counter()
            question.ask(board, panel)
            found.append((time.perf_counter() - started, f"{board['uid']}: {panel['title']}"))
    return sorted(found, reverse=True)


def sizes(routes: Routes) -> tuple[int, int]:
    """Bytes of a scrape, uncompressed and compressed."""
    plain, small = (
        routes(Request("GET", "/metrics", {}, {"accept": "text/plain", "accept-encoding": encoding})).body
        for encoding in ("", "gzip")
    )
    return len(plain), len(small)


def report(url: str, process: psutil.Process, routes: Routes, cpu_s: float, wall_s: float) -> None:
    """Print the cost of a fleet of this size."""

    def ask(query: str) -> float:
        return value(url, query)

    def line(what: str, figure: str, more: str = "") -> None:
        print(f"{what:<34} {figure:>14} {more}")

    plain, small = sizes(routes)
    series, rss = ask("prometheus_tsdb_head_series"), process.memory_info().rss
    line("targets up", f"{ask('count(up{job=`jitwatch`} == 1)'):.0f}")
    line("series of a process", f"{ask('avg(scrape_samples_scraped{job=`jitwatch`})'):.0f}")
    line("bytes of a scrape", f"{plain:,d}", f"({small:,d} with gzip)")
    for share in (0.5, 0.99):
        took_s = ask(f"quantile({share}, scrape_duration_seconds{{job=`jitwatch`}})")
        line(f"time of a scrape, quantile {share}", f"{1e3 * took_s:.1f} ms")
    line("series in Prometheus", f"{series:,.0f}")
    line("memory of Prometheus", f"{rss / 2**20:,.0f} MiB", f"({rss / series / 1000:.1f} kB a series)")
    line("CPU of Prometheus", f"{100 * cpu_s / wall_s:.1f} %", f"of a core, over {wall_s:.0f} s")
    line("all rules once", f"{1e3 * ask('sum(prometheus_rule_group_last_duration_seconds)'):.1f} ms")
    firing = sorted({one.labels["alertname"] for one in answers(url, "ALERTS{alertstate=`firing`}")})
    line("alerts that fire", ", ".join(firing))
    panels = ask_boards(url)
    line(f"a panel, median of {len(panels)}", f"{1e3 * statistics.median(took for took, _ in panels):.1f} ms")
    for took_s, name in panels[:3]:
        line("  one of the slowest", f"{1e3 * took_s:.1f} ms", name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=400, help="number of processes (default: 400)")
    parser.add_argument("--functions", type=int, default=30, help="number of functions of the job (default: 30)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of scraping (default: 10)")
    parser.add_argument("--detail", choices=("full", "summary"), default="full", help="(default: full)")
    options = parser.parse_args()
    ended = threading.Event()
    with jitwatch.install(port=0, detail=options.detail), tempfile.TemporaryDirectory() as folder:
        step = job(options.functions)
        agent = jitwatch.agent._agent
        assert agent is not None
        routes = Routes(agent._answers)
        servers = [Server(routes, host="127.0.0.1", port=0) for _ in range(options.targets)]
        for server in servers:
            server.start()
        prometheus, url = start_prometheus(Path(folder), [server.port for server in servers])
        try:
            seen = psutil.Process(prometheus.pid)
            end = time.monotonic() + 60 * options.minutes
            trainer = threading.Thread(target=_train, args=(step, ended))
            trainer.start()
            # From the second minute on: at first, every series is new.
            time.sleep(min(60.0, 30 * options.minutes))
            before, since = sum(seen.cpu_times()[:2]), time.monotonic()
            time.sleep(max(0.0, end - time.monotonic()))
            print(f"{options.functions} functions, detail {options.detail}, scraped every {SCRAPE_S} s\n")
            report(url, seen, routes, sum(seen.cpu_times()[:2]) - before, time.monotonic() - since)
        finally:
            ended.set()
            prometheus.terminate()
            prometheus.wait(30)
            for server in servers:
                server.close()


def _train(step: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(0.2):
        step()


if __name__ == "__main__":
    main()
