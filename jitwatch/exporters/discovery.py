"""Tells Prometheus where this process is: an entry of its own in a folder of `file_sd_configs`.

    [{"targets": ["node7:10431"], "labels": {"run": "4711", "host": "node7", "process_index": "3", …}}]

The file is there while the process is, replaced in one go so that nobody reads half of it, and taken away at
a normal exit. Of a process that was killed it stays, and is told by its age: a living process touches its file
every half minute (Prometheus does not read it again for that). The name is made of machine and port, so that
the next process there takes the place of the one that was killed.

All that is done in a thread of its own: a folder on a network may hang. The folder may be one in which everybody
writes: no link in it is followed, and a draft has a name that nobody can guess.
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
from jitwatch.system.threads import Event, Thread

#: Seconds between two looks at the entry; much older ones are of processes that were killed.
BEAT_S = 30.0
#: Seconds that the start of the agent waits for the first entry.
_FIRST_S = 2.0
_UNSAFE = re.compile(r"[^\w.-]+")


def target_of(url: str, host: str) -> str:
    """Where other machines find an endpoint: `node7:10431`.

    Args:
        url: Address of the endpoint on this machine.
        host: The host that it was told to listen on.
    """
    port = urlsplit(url).port
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def labels_of(url: str, *, run: str, process_index: int | None) -> dict[str, str]:
    """What a target is told apart by: its run, its machine and, where it is known, its place in the run."""
    labels = {"run": run, "host": clean(socket.gethostname())}
    if process_index is not None:
        labels["process_index"] = str(process_index)
    if urlsplit(url).scheme == "https":
        labels["__scheme__"] = "https"
    return labels


class Announcement:
    """The entry of this process.

    Args:
        folder: Where Prometheus looks; made if it is missing.
        target: Host and port to scrape.
        labels: Gives the target's labels; asked again at each look, since a process learns its place in the
            run only when `jax.distributed` starts.
        beat_s: Seconds between two looks.
    """

    def __init__(
        self, folder: str, *, target: str, labels: Callable[[], Mapping[str, str]], beat_s: float = BEAT_S
    ) -> None:
        self._target = target
        self._labels = labels
        self._beat_s = beat_s
        port = target.rpartition(":")[2]
        self._folder = folder
        self.path = os.path.join(folder, f"jitwatch-{_UNSAFE.sub('-', socket.gethostname())}-{port}.json")
        self._written: Mapping[str, str] = {}
        #: The file that was written last; another one of this name is not ours.
        self._identity: files.Identity | None = None
        self._first_error: OSError | None = None
        self._is_begun = Event()
        self._end = Event()
        self._thread = Thread(target=self._run, name="jitwatch-discovery")

    def start(self) -> None:
        """Write the entry, and look after it from now on. A folder that hangs is waited for once.

        Raises:
            ConfigError: The folder cannot be written.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ConfigError(f"sd_dir needs a thread ({error}): raise the limit of threads, or leave it out") from None
        if not self._is_begun.wait(_FIRST_S):
            self._is_begun.set()  # nobody waits for an error any more
        if self._first_error is not None:
            self._thread.join(_FIRST_S)
            raise ConfigError(
                f"sd_dir: {self._folder} cannot be written ({self._first_error}); name a folder that can be"
            ) from None

    def close(self, timeout_s: float = 0.5) -> None:
        """Take the entry away; a folder that hangs is left behind."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        with guard.guarded("discovery"):
            try:
                self._write()
            except OSError as error:
                if not self._is_begun.is_set():
                    self._first_error = error
                    return
                raise
            finally:
                self._is_begun.set()
        while not self._end.wait(self._beat_s):
            with guard.guarded("discovery"):
                self._look()
        with guard.guarded("discovery"):
            files.remove_own(self.path, self._identity)

    def _look(self) -> None:
        """Bring the entry up to date, or only show that the process lives."""
        if self._is_there() and self._labels() == self._written:
            os.utime(self.path, follow_symlinks=False)
        else:
            # Also where somebody swept the folder; Prometheus shall not lose a process that lives.
            self._write()

    def _is_there(self) -> bool:
        try:
            return files.identity(os.lstat(self.path)) == self._identity
        except FileNotFoundError:
            return False

    def _write(self) -> None:
        labels = dict(self._labels())
        # Prometheus drops labels that begin with __meta_ after relabelling: for people, and for relabel_configs.
        # No process number: everybody on the machine may read the file.
        entry = [{"targets": [self._target], "labels": {**labels, "__meta_jitwatch_written": str(int(time.time()))}}]
        os.makedirs(self._folder, exist_ok=True)
        self._identity = files.replace(self.path, json.dumps(entry).encode() + b"\n")
        self._written = labels
