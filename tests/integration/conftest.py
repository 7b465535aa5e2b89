"""Real servers for the tests: started on free ports, stopped by their own process id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.launching import Launcher, make_python
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def python_of_jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the line of `jitwatch activate` in its environment."""
    return make_python(tmp_path_factory.mktemp("python") / "env")


@pytest.fixture
def launcher(python_of_jobs: Path, tmp_path: Path) -> Launcher:
    """Starts jobs in an empty folder."""
    return Launcher(python_of_jobs, tmp_path)


def need(program: str, package: str | None = None) -> str:
    """Path of a server program. Without it the test is skipped; see `tests/conftest.py` for what that means in CI."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package or program})")
    return path


def node_packages(folder: Path, *packages: str) -> str:
    """Install npm packages into a folder; path of Node. Without npm, or where it cannot install, as in `need`."""
    node, npm = need("node", "nodejs"), need("npm")
    (folder / "package.json").write_text('{"private": true}')
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *packages],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {', '.join(packages)} here: {done.stderr}")
    return node


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """A running Prometheus server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Instant query; the result vector."""
        text = urllib.parse.urlencode({"query": expression})
        return self.get(f"/api/v1/query?{text}")["data"]["result"]

    def query_range(self, expression: str, *, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Range query; the result matrix."""
        text = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": step})
        return self.get(f"/api/v1/query_range?{text}")["data"]["result"]

    def get(self, path: str) -> dict[str, Any]:
        """A JSON answer."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def values(self, expression: str, label: str) -> dict[str, float]:
        """Instant query; values by one label."""
        return {row["metric"].get(label, ""): float(row["value"][1]) for row in self.query(expression)}

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def running_prometheus(folder: Path, config: str, *options: str) -> Iterator[Prometheus]:
    """A Prometheus with this configuration (YAML) and further command-line options, in a folder of its own."""
    program = need("prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--web.external-url={url}",
                "--log.level=warn",
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            server = Prometheus(url)
            wait_until(server.is_ready, what="Prometheus being ready")
            yield server
        finally:
            stop(process)


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    """Start Prometheus with the given `scrape_configs` (YAML)."""
    need("prometheus")
    with contextlib.ExitStack() as stack:

        def start(scrape_configs: str) -> Prometheus:
            config = f"global:\n  scrape_interval: 1s\nscrape_configs:\n{scrape_configs}"
            return stack.enter_context(running_prometheus(tmp_path / "prometheus", config))

        yield start


class Job:
    """A training job in a process of its own that prints one JSON line and then waits to be told to end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> dict[str, Any]:
        """The next line that the job prints, as JSON."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, f"the job ended with {self.process.wait(10)}"
        found: dict[str, Any] = json.loads(text)
        return found

    def tell(self) -> None:
        """Let it go on to its next line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Let it end; its exit code."""
        self.process.communicate("\n", timeout=60)
        return self.process.returncode


@contextlib.contextmanager
def running_job(path: Path, program: str, *, arguments: Sequence[str] = (), **environment: str) -> Iterator[Job]:
    """A Python program as a job, written to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    try:
        yield Job(process)
    finally:
        stop(process)


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a Python program as a job."""
    with contextlib.ExitStack() as stack:

        def start(program: str, **environment: str) -> Job:
            return stack.enter_context(running_job(tmp_path / "job.py", program, **environment))

        yield start


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process that we started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
