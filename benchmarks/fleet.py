"""Cost of many processes to Prometheus: series, memory, CPU, disk, rules and panels, extrapolated to 10,000.

Simulated processes (`benchmarks.simulation`) are scraped by a real Prometheus with the shipped configuration and rules.
For each detail and number of targets: a start of both, some minutes of scraping, then every query of every dashboard
once, as Grafana does for the last five minutes, and a snapshot, whose size is that of the data on disk. The fleet's
dashboard asks about all runs, that of a job about one run, and that of a function about one function of it. From three
sizes on, a straight line is fitted to each figure.

    python -m benchmarks.fleet                                  # the table of docs/scale.md; 2 hours
    python -m benchmarks.fleet --targets 400 --detail full      # one size
    python -m benchmarks.fleet --remote-write --targets 400     # agent mode; the store is restarted meanwhile

Needs `prometheus` (Debian: apt-get install prometheus). All traffic stays on the loopback address.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, get_args

import psutil
import yaml

from benchmarks.simulation import Detail, target_groups
from dashboards.source.asking import Question, Series
from dashboards.source.generate import FOLDER
from dashboards.source.substitute import panels_of

PROMETHEUS: Final = FOLDER / "prometheus"
AGENT: Final = FOLDER / "examples" / "prometheus" / "agent.yml"
SCRAPE_S: Final = 15
EXTRAPOLATED_TO: Final = 10_000
#: Blocks of two hours in a day.
BLOCKS_PER_DAY: Final = 12
_START_S: Final = 600.0
_MIB: Final = 1 << 20

Figures = dict[str, float]

#: What is printed, in order: the figure's name, its unit, and the number of digits. A straight line is fitted to those
#: that are marked, since they grow with the number of targets.
ROWS: Final = (
    ("targets up", "", 0, False),
    ("series in the head", "", 0, True),
    ("samples per second", "", 0, True),
    ("memory, peak", "MiB", 0, True),
    ("memory, live heap", "MiB", 0, True),
    ("bytes of memory per series", "B", 0, False),
    ("CPU", "% of a core", 1, True),
    ("CPU without rules", "% of a core", 1, True),
    ("disk per day", "GiB", 2, True),
    ("bytes of chunks per sample", "B", 2, False),
    ("bytes of index per series and block", "B", 0, False),
    ("received per second", "kB", 0, True),
    ("scrape, median", "ms", 1, False),
    ("scrape, 99th percentile", "ms", 1, False),
    ("all rules once", "ms", 0, True),
    ("costliest panel", "ms of CPU", 0, True),
    ("all panels", "ms of CPU", 0, True),
    ("median panel", "ms", 1, False),
    ("load average of the machine", "", 1, False),
)


@dataclass(frozen=True, slots=True)
class Server:
    """A running Prometheus."""

    url: str
    process: psutil.Process
    folder: Path

    def value(self, query: str) -> float:
        """The single value of a query; `nan` if there is none."""
        found = self.answers(query)
        return found[0].last if found else float("nan")

    def answers(self, query: str) -> list[Series]:
        """The current result of a query."""
        panel = {"targets": [{"expr": query, "instant": True, "refId": "A", "legendFormat": ""}]}
        return self.question(60).ask({"templating": {"list": []}}, panel)

    def question(self, seconds: float, chosen: Mapping[str, Sequence[str]] | None = None) -> Question:
        """What a board asks about so many last seconds, with these values of its variables."""
        return Question(url=self.url, chosen=chosen or {}, end=time.time(), seconds=seconds, scrape_s=SCRAPE_S)

    def cpu_s(self) -> float:
        """CPU seconds since its start."""
        return sum(self.process.cpu_times()[:2])

    def peak_bytes(self) -> int:
        """The most memory that it had, by the kernel."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10

    def snapshot(self) -> tuple[dict[str, int], int, int]:
        """Statistics, bytes of chunks and bytes of the index of all that is in the head, as a block on disk."""
        request = urllib.request.Request(f"{self.url}/api/v1/admin/tsdb/snapshot", method="POST")
        with urllib.request.urlopen(request, timeout=600) as answer:
            folder = self.folder / "data" / "snapshots" / json.load(answer)["data"]["name"]
        stats = {"numSamples": 0, "numSeries": 0}
        for path in folder.glob("*/meta.json"):
            found = json.loads(path.read_text(encoding="utf-8"))["stats"]
            stats = {name: stats[name] + found[name] for name in stats}
        chunks = sum(path.stat().st_size for path in folder.glob("*/chunks/*"))
        index = sum(path.stat().st_size for path in folder.glob("*/index"))
        shutil.rmtree(folder)
        return stats, chunks, index


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def simulated(targets: int, detail: Detail, functions: int) -> Iterator[int]:
    """Serve simulated processes from a process of their own; yields the port."""
    command = [sys.executable, "-m", "benchmarks.simulation"]
    command += [f"--targets={targets}", f"--detail={detail}", f"--functions={functions}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here."""
    process.terminate()
    process.wait(120)


@contextlib.contextmanager
def running(folder: Path, config: Mapping[str, Any], *options: str, port: int | None = None) -> Iterator[Server]:
    """Run Prometheus with a configuration in a folder of its own."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    is_agent = "--enable-feature=agent" in options
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.{'agent' if is_agent else 'tsdb'}.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
            *options,
        ]
    )
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid), folder)
    try:
        _wait_ready(server.url)
        yield server
    finally:
        stop(process)


def _wait_ready(url: str) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{url} is not ready")


def shipped(folder: Path, groups: Sequence[Mapping[str, object]], port: int) -> dict[str, Any]:
    """The shipped configuration, with its rules, for these targets and itself."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["alerting"]["alertmanagers"] = []
    (itself,) = (one for one in config["scrape_configs"] if one["job_name"] == "prometheus")
    itself["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    shutil.copytree(PROMETHEUS / "rules", folder / "rules")
    (folder / "sd").mkdir()
    write_targets(folder, groups)
    return config


def write_targets(folder: Path, groups: Sequence[Mapping[str, object]]) -> None:
    """A file of targets, as `file_sd_configs` reads it."""
    (folder / "targets").mkdir()
    (folder / "targets" / "jobs.yml").write_text(json.dumps(groups), encoding="utf-8")


def ask_boards(server: Server, cpu: float) -> list[tuple[float, float, str]]:
    """CPU seconds and seconds that the queries of each panel took, most CPU first.

    Args:
        server: The server.
        cpu: The CPU that it uses meanwhile for scrapes and rules, in percent of a core, which is left out.
    """
    newest = max(server.answers("jitwatch_start_time_seconds"), key=lambda one: one.last).labels["run"]
    one_function = server.answers(f'topk(1, jitwatch_recompiles_total{{run="{newest}", function!~"__.+__"}})')
    chosen: dict[str, dict[str, list[str]]] = {
        "jitwatch-job": {"run": [newest]},
        "jitwatch-function": {"run": [newest], "function": [one.labels["function"] for one in one_function]},
    }
    found = []
    for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        question = server.question(300, chosen.get(board["uid"]))
        for panel in panels_of(board):
            started, before = time.perf_counter(), server.cpu_s()
            try:
                question.ask(board, panel)
            except TimeoutError:
                print(f"  no answer: {panel['title']}")
            took_s = time.perf_counter() - started
            cpu_s = server.cpu_s() - before - cpu / 100 * took_s
            found.append((max(0.0, cpu_s), took_s, f"{board['uid']}: {panel['title']}"))
    return sorted(found, reverse=True)


def groups_of(server: Server) -> dict[str, float]:
    """Seconds of an evaluation by group of rules: the least of two minutes, which other processes disturb least."""
    query = "min_over_time(prometheus_rule_group_last_duration_seconds[2m])"
    return {one.labels["rule_group"].rpartition(";")[2]: one.last for one in server.answers(query)}


def measure(server: Server, minutes: float, *, with_panels: bool) -> Figures:
    """Let Prometheus scrape for some minutes and return its cost; CPU in the second half of them."""
    time.sleep(30 * minutes)
    cpu = cpu_percent(server, 30 * minutes)
    ask = server.value
    samples_per_s = ask("sum(scrape_samples_scraped{job=`jitwatch`})") / SCRAPE_S
    found = {
        "targets up": ask("count(up{job=`jitwatch`} == 1)"),
        "series in the head": ask("prometheus_tsdb_head_series"),
        "samples per second": samples_per_s,
        "memory, live heap": ask("min_over_time(go_memstats_heap_alloc_bytes{job=`prometheus`}[2m])") / _MIB,
        "memory, peak": server.peak_bytes() / _MIB,
        "CPU": cpu,
        "scrape, median": 1e3 * ask("quantile(0.5, scrape_duration_seconds{job=`jitwatch`})"),
        "scrape, 99th percentile": 1e3 * ask("quantile(0.99, scrape_duration_seconds{job=`jitwatch`})"),
        "load average of the machine": os.getloadavg()[0],
    }
    found["bytes of memory per series"] = found["memory, peak"] * _MIB / found["series in the head"]
    groups = groups_of(server)
    found |= {f"rules of {name}": 1e3 * took_s for name, took_s in groups.items()}
    found["all rules once"] = 1e3 * sum(groups.values())
    if with_panels:
        panels = ask_boards(server, cpu)
        found["costliest panel"] = 1e3 * panels[0][0]
        found["all panels"] = 1e3 * sum(cpu_s for cpu_s, _, _ in panels)
        found["median panel"] = 1e3 * statistics.median(took_s for _, took_s, _ in panels)
        for cpu_s, took_s, name in panels[:3]:
            print(f"  {name}: {1e3 * cpu_s:.0f} ms of CPU, {1e3 * took_s:.0f} ms")
    firing = sorted({one.labels["alertname"] for one in server.answers("ALERTS{alertstate=`firing`}")})
    print(f"  alerts that fire: {', '.join(firing)}", flush=True)
    stats, chunks, index = server.snapshot()
    found["bytes of chunks per sample"] = chunks / stats["numSamples"]
    found["bytes of index per series and block"] = index / stats["numSeries"]
    # Samples of a day, and an index for each block of two hours.
    stored_per_s = ask("rate(prometheus_tsdb_head_samples_appended_total{job=`prometheus`}[2m])")
    found["disk per day"] = (
        86400 * stored_per_s * found["bytes of chunks per sample"]
        + BLOCKS_PER_DAY * found["series in the head"] * found["bytes of index per series and block"]
    ) / (1 << 30)
    without_rules(server)
    found["CPU without rules"] = cpu_percent(server, 45)
    return found


def cpu_percent(server: Server, seconds: float) -> float:
    """CPU that it uses in the next seconds, in percent of a core."""
    before, since = server.cpu_s(), time.monotonic()
    time.sleep(seconds)
    return 100 * (server.cpu_s() - before) / (time.monotonic() - since)


def without_rules(server: Server) -> None:
    """Let it go on without rules."""
    path = server.folder / "prometheus.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    del config["rule_files"]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)


def cost(targets: int, detail: Detail, functions: int, minutes: float, *, with_panels: bool) -> Figures:
    """The cost of so many processes, in a Prometheus of their own."""
    with tempfile.TemporaryDirectory() as name, simulated(targets, detail, functions) as source:
        folder, port = Path(name), free_port()
        config = shipped(folder, target_groups(source, targets), port)
        received = body_bytes(source)
        with running(folder, config, "--web.enable-admin-api", port=port) as server:
            found = measure(server, minutes, with_panels=with_panels)
        found["received per second"] = received * targets / SCRAPE_S / 1000
        return found


def body_bytes(port: int) -> float:
    """Mean bytes of a compressed scrape, over the processes of a run."""
    sizes = []
    for index in range(8):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/0/{index}/metrics",
            headers={"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            sizes.append(len(answer.read()))
    return statistics.fmean(sizes)


def remote_write(targets: int, detail: Detail, functions: int, minutes: float) -> None:
    """Print the cost of an agent that scrapes so many processes and sends to a store, which is restarted meanwhile."""
    with tempfile.TemporaryDirectory() as name, simulated(targets, detail, functions) as source:
        folder, port = Path(name), free_port()
        config = yaml.safe_load(AGENT.read_text(encoding="utf-8"))
        config["global"]["scrape_interval"] = f"{SCRAPE_S}s"
        config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [f"{folder}/agent/targets/*.yml"]
        config["remote_write"][0]["url"] = f"http://127.0.0.1:{port}/api/v1/write"
        del config["remote_write"][0]["basic_auth"]
        (folder / "agent").mkdir()
        write_targets(folder / "agent", target_groups(source, targets))
        shutil.copytree(PROMETHEUS / "rules", folder / "store" / "rules")
        store = ({"rule_files": ["rules/*.yml"]}, "--web.enable-remote-write-receiver")
        with running(folder / "agent", config, "--enable-feature=agent") as agent:
            with running(folder / "store", *store, port=port) as first:
                time.sleep(30 * minutes)
                before, samples_before, bytes_before = agent.cpu_s(), *sent(agent)
                since, store_before = time.monotonic(), first.cpu_s()
                time.sleep(30 * minutes)
                passed_s = time.monotonic() - since
                samples, size = (
                    now - then for now, then in zip(sent(agent), (samples_before, bytes_before), strict=True)
                )
                print(f"samples sent per second        {samples / passed_s:,.0f}")
                print(f"bytes on the wire per sample   {size / samples:.1f}")
                print(f"sent per second                {size / passed_s / 1000:,.0f} kB")
                print(f"CPU of the agent               {100 * (agent.cpu_s() - before) / passed_s:.1f} % of a core")
                print(
                    f"CPU of the store               {100 * (first.cpu_s() - store_before) / passed_s:.1f} % of a core"
                )
            down_at = time.time()
            time.sleep(60)
            with running(folder / "store", *store, port=port) as second:
                up_at = time.time()
                time.sleep(120)
                while up_at > (newest := second.value("max(timestamp(up{job=`jitwatch`}))")) or math.isnan(newest):
                    time.sleep(5)
                time.sleep(30)
                print(f"store down for                 {up_at - down_at:.0f} s")
                print(f"caught up after                {time.time() - up_at:.0f} s at most")
                scrapes, missing = gaps(second, 60 * minutes + up_at - down_at + 60)
                print(f"scrapes in the store           {scrapes:,d}, missing {missing:,d}")
                failed = counter(agent, "prometheus_remote_storage_samples_failed_total")
                print(f"samples that were not sent     {failed:.0f}")
                print(f"memory of the store, peak      {second.peak_bytes() / _MIB:,.0f} MiB")
            print(f"memory of the agent, peak      {agent.peak_bytes() / _MIB:,.0f} MiB", flush=True)


def counter(server: Server, name: str) -> float:
    """Sum of a counter's series in a server's own metrics; an agent answers no queries."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def sent(agent: Server) -> tuple[float, float]:
    """Samples and bytes that an agent has sent."""
    return counter(agent, "prometheus_remote_storage_samples_total"), counter(
        agent, "prometheus_remote_storage_bytes_total"
    )


def gaps(store: Server, seconds: float) -> tuple[int, int]:
    """Scrapes of all targets that a store has of the last seconds, and the number of those that are missing between."""
    query = urllib.parse.urlencode({"query": f"up{{job='jitwatch'}}[{seconds:.0f}s]"})
    with urllib.request.urlopen(f"{store.url}/api/v1/query?{query}", timeout=60) as answer:
        rows = json.load(answer)["data"]["result"]
    times = [[float(at) for at, _ in row["values"]] for row in rows]
    missing = sum(round((after - at) / SCRAPE_S) - 1 for one in times for at, after in pairwise(one))
    return sum(len(one) for one in times), missing


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Intercept and slope of the straight line of least squares, and its largest relative residual."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    worst = max(abs(intercept + slope * x - y) / y for x, y in points)
    return intercept, slope, worst


def table(found: Mapping[int, Figures]) -> None:
    """Print the figures of each size, and from three sizes on the extrapolated ones with the residual of the line."""
    sizes = sorted(found)
    is_extrapolated = len(sizes) >= 3
    heads = [f"{size:,d}" for size in sizes] + [f"{EXTRAPOLATED_TO:,d} (residual)"] * is_extrapolated
    print(f"{'processes':<38}" + "".join(f"{head:>20}" for head in heads))
    groups = sorted({name for figures in found.values() for name in figures if name.startswith("rules of ")})
    for name, unit, digits, grows in (*ROWS, *((name, "ms", 0, True) for name in groups)):
        cells = [f"{found[size].get(name, math.nan):,.{digits}f}" for size in sizes]
        if grows and is_extrapolated and "nan" not in cells:
            intercept, slope, worst = line([(size, found[size][name]) for size in sizes])
            cells.append(f"{intercept + slope * EXTRAPOLATED_TO:,.{digits}f} ({100 * worst:.0f} %)")
        print(f"{name + (f', {unit}' if unit else ''):<38}" + "".join(f"{cell:>20}" for cell in cells))
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, nargs="+", default=[100, 400, 1000, 2000], help="numbers of processes")
    parser.add_argument("--detail", nargs="+", choices=get_args(Detail), default=list(get_args(Detail)))
    parser.add_argument("--functions", type=int, default=30, help="functions of each process (default: 30)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of scraping for each size (default: 10)")
    parser.add_argument("--without-panels", action="store_true", help="do not ask what the boards ask")
    parser.add_argument("--remote-write", action="store_true", help="agent mode instead, for the first of the numbers")
    options = parser.parse_args()
    if options.remote_write:
        for detail in options.detail:
            print(f"{options.targets[0]} processes, {detail}", flush=True)
            remote_write(options.targets[0], detail, options.functions, options.minutes)
        return
    for detail in options.detail:
        found: dict[int, Figures] = {}
        for targets in options.targets:
            print(f"{targets} processes, {detail}", flush=True)
            found[targets] = cost(
                targets, detail, options.functions, options.minutes, with_panels=not options.without_panels
            )
            print(f"  {json.dumps(found[targets])}", flush=True)
        print(f"\n{detail}: {options.functions} functions, every {SCRAPE_S} s, after {options.minutes:g} minutes\n")
        table(found)


if __name__ == "__main__":
    main()
