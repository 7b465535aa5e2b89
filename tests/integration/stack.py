"""A real stack for the live tests: the shipped configuration with short intervals, and a receiver of alerts."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dashboards.source.generate import FOLDER
from tests.integration.conftest import Prometheus, free_port, need, running_prometheus, stop
from tests.waiting import wait_until

PROMETHEUS = FOLDER / "prometheus"


class Receiver:
    """Somebody who is paged: keeps what a webhook of Alertmanager sends, by the receiver's name."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.got += [(self.path.strip("/"), alert) for alert in body["alerts"]]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def alerts(self, receiver: str | None = None) -> list[dict[str, Any]]:
        """The alerts that came, of one receiver or of all."""
        return [alert for name, alert in list(self.got) if receiver in (None, name)]

    def names(self, receiver: str) -> set[str]:
        """The names of the alerts that came to a receiver and fire."""
        return {alert["labels"]["alertname"] for alert in self.alerts(receiver) if alert["status"] == "firing"}


class Alertmanager:
    """A running Alertmanager."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        """A JSON answer of its API."""
        with urllib.request.urlopen(f"{self.url}/api/v2{path}", timeout=10) as answer:
            return json.load(answer)

    def post(self, alert: dict[str, Any]) -> None:
        """Hand in an alert, as Prometheus does."""
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts",
            data=json.dumps([alert]).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.get("/status"))
        except OSError:
            return False


@contextlib.contextmanager
def running_alertmanager(folder: Path, receiver: Receiver) -> Iterator[Alertmanager]:
    """The shipped configuration, with the webhook at each receiver and without waiting."""
    program = need("prometheus-alertmanager")
    config = yaml.safe_load((FOLDER / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8"))
    for route in [config["route"], *config["route"]["routes"]]:
        route.update(group_wait="0s", group_interval="1s")
    for one in config["receivers"]:
        one["webhook_configs"] = [{"url": f"{receiver.url}/{one['name']}"}]
    folder.mkdir()
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            server = Alertmanager(f"http://127.0.0.1:{port}")
            wait_until(server.is_ready, what="Alertmanager being ready")
            yield server
        finally:
            stop(process)


@contextlib.contextmanager
def running_stack(
    folder: Path, targets: list[dict[str, Any]], alertmanager: Alertmanager | None = None
) -> Iterator[Prometheus]:
    """Prometheus with the shipped configuration, rules and runbooks; every interval is a second, and the targets "
    "ours."""
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="1s")
    host = [] if alertmanager is None else [alertmanager.url.removeprefix("http://")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": host}]}]
    (job,) = (one for one in config["scrape_configs"] if one["job_name"] == "jitwatch")
    job["file_sd_configs"][0]["refresh_interval"] = "1s"
    config["scrape_configs"] = [job]
    rules = yaml.safe_load((PROMETHEUS / "rules" / "jitwatch.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group.pop("interval", None)
    (folder / "rules").mkdir()
    (folder / "rules" / "jitwatch.yml").write_text(yaml.safe_dump(rules, width=1_000_000))
    (folder / "sd").mkdir()
    (folder / "targets").mkdir()
    (folder / "targets" / "jobs.yml").write_text(yaml.safe_dump(targets))
    options = (
        f"--web.console.templates={FOLDER / 'runbooks'}",
        # What fires before Prometheus has found its Alertmanager is told again, by default after a minute.
        "--rules.alert.resend-delay=1s",
    )
    with running_prometheus(folder, yaml.safe_dump(config), *options) as prometheus:
        yield prometheus


def target(url: str, run: str, **labels: str) -> dict[str, Any]:
    """An entry of a target file."""
    return {"targets": [url.removeprefix("http://")], "labels": {"run": run, **labels}}
