"""Service discovery: a file for this process in a folder that Prometheus reads by `file_sd_configs`.

    [{"targets": ["node7:10431"], "labels": {"run": "4711", "host": "node7", "process_index": "3", …}}]

The file exists while the process runs. That of a killed process stays, and is recognized by its age: a running process
touches its file every half minute (which does not make Prometheus read it again). The name consists of machine and
port, so that the next process on this port replaces the file of one that was killed.

This is done in a thread of its own, since a network folder may hang. The folder may be world-writable, see `files`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.model.cleaning import clean
from jitwatch.system import files
from jitwatch.system.threads import BegunThread, Latch

_UNSAFE = re.compile(r"[^\w.-]+")


def target_of(url: str, host: str) -> str:
    """The address of an endpoint for other machines, such as `node7:10431`, from its URL and the host it listens on."""
    port = urlsplit(url).port
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def labels_of(url: str, *, run: str, process_index: int | None) -> dict[str, str]:
    """The labels of a target: its run, its machine and, if known, its process index."""
    labels = {"run": run, "host": clean(socket.gethostname())}
    if process_index is not None:
        labels["process_index"] = str(process_index)
    if urlsplit(url).scheme == "https":
        labels["__scheme__"] = "https"
    return labels


class DiscoveryEntry:
    """The service discovery entry of this process: a file that a thread keeps up to date.

    Args:
        folder: The folder that Prometheus reads; created if it does not exist.
        target: Host and port to scrape.
        labels: Returns the labels of the target. Called at each update: the process index is known only later.
        update_s: Seconds between two updates; a much older file is that of a killed process.
        first_s: Seconds that `start` waits for a folder that hangs.
    """

    def __init__(
        self,
        folder: str,
        *,
        target: str,
        labels: Callable[[], Mapping[str, str]],
        update_s: float = 30.0,
        first_s: float = 2.0,
    ) -> None:
        self._folder = folder
        self._target = target
        self._labels = labels
        self._update_s, self._first_s = update_s, first_s
        port = target.rpartition(":")[2]
        self.path = os.path.join(folder, f"jitwatch-{_UNSAFE.sub('-', socket.gethostname())}-{port}.json")
        self._written: Mapping[str, str] = {}
        #: The file that was written last; another one of this name belongs to another process.
        self._identity: files.Identity | None = None
        self._end = Latch()
        self._thread = BegunThread(self._write, self._serve, name="jitwatch-discovery")

    def start(self) -> None:
        """Write the entry, and keep it up to date from now on; raises ConfigError if the folder cannot be written."""
        try:
            error = self._thread.start_within(self._first_s)
        except RuntimeError as failure:
            raise ConfigError(
                f"sd_dir: its thread cannot be started ({failure}); raise the limit of threads, or omit sd_dir"
            ) from None
        if isinstance(error, OSError):
            raise ConfigError(f"sd_dir: {self._folder} cannot be written ({error}); name a writable folder") from None
        if error is not None:
            raise error

    def close(self, timeout_s: float = 0.5) -> None:
        """Remove the entry; a folder that hangs is not waited for."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _serve(self) -> None:
        with guard.guarded("discovery"):
            if self._thread.error is not None:
                raise self._thread.error
        while not self._end.wait(self._update_s):
            with guard.guarded("discovery"):
                self._update()
        with guard.guarded("discovery"):
            files.remove_own(self.path, self._identity)

    def _update(self) -> None:
        """Touch the file, or write it again if it is missing or its labels changed."""
        with suppress(FileNotFoundError):
            if files.identity(os.lstat(self.path)) == self._identity and self._labels() == self._written:
                os.utime(self.path, follow_symlinks=False)
                return
        # Also after the folder was emptied: Prometheus must not lose a running process.
        self._write()

    def _write(self) -> None:
        labels = dict(self._labels())
        # Prometheus drops labels that begin with __meta_ after relabelling: this one is for people and relabel_configs.
        # No process ID: all users of the machine may read the file.
        entry = [{"targets": [self._target], "labels": {**labels, "__meta_jitwatch_written": str(int(time.time()))}}]
        os.makedirs(self._folder, exist_ok=True)
        self._identity = files.replace(self.path, json.dumps(entry).encode() + b"\n")
        self._written = labels
