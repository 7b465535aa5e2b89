"""The parts of an agent: built from its options, and started so that the others go on without one that fails."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jitwatch import guard
from jitwatch.config import ALL_PROBES, Config
from jitwatch.errors import ConfigError, JitwatchError
from jitwatch.jaxhooks import compat
from jitwatch.probes import PROBES, Probe, ProbeContext
from jitwatch.server.access import server_context
from jitwatch.server.http import Server
from jitwatch.server.routes import Routes
from jitwatch.state.store import Store
from jitwatch.system import shortages, threads
from jitwatch.system.launchers import global_rank, local_rank
from jitwatch.system.programs import ProgramFiles

if TYPE_CHECKING:
    from jitwatch.exporters.discovery import DiscoveryEntry
    from jitwatch.exporters.eventlog import EventLog
    from jitwatch.exporters.prometheus import Exposition

T = TypeVar("T")
#: Event logs in these folders are not regular files.
_DEVICES = ("/dev/", "/proc/")
#: Name of the folder next to the event log.
_CACHE_INDEX = "jitwatch-cache-index"
logger = logging.getLogger("jitwatch")

#: Imported by the sampler's thread in its first round, to keep `install()` fast: what a compile does not need.
_LAZY_IMPORTS = (
    "jitwatch.exporters.prometheus",
    "psutil",
    "jitwatch.jaxhooks.compile.xla_passes",
    "jitwatch.jaxhooks.memory.assignment",
    "jitwatch.jaxhooks.memory.hlo",
    "jitwatch.render.explain",
    "jitwatch.render.summary",
)
#: Held while they are imported.
_imports = threads.RLock()
_LONGEST_IMPORT_S = 2.0
_is_forking = False
#: What the job lacks without a part, by the part's name in `probe_up` and in the state.
_PROVIDES = {
    "endpoint": "its endpoint",
    "metrics": "/metrics",
    "event_log": "its event log",
    "sampler": "samples of memory, caches and processes",
    "compile_watch": "samples of long traces, and events of long compiles",
    "discovery": "its entry in sd_dir",
    "programs": "its programs in hlo_dir",
}


class OptionalParts:
    """Starts parts that the agent can work without, and records which of them failed."""

    def __init__(self, *, is_strict: bool, on_failure: Callable[[str, str], None]) -> None:
        self._is_strict = is_strict
        self._on_failure = on_failure
        self._unreported: list[str] = []

    def start(self, name: str, start: Callable[[ExitStack], T], cleanup: ExitStack) -> T | None:
        """Start a part; returns what `start` returns, or None if it failed.

        Args:
            name: Its name.
            start: Starts it, and registers on the given stack how it is stopped.
            cleanup: Takes over these registrations once it has started. If it fails to start, they run at once.

        Raises:
            JitwatchError: Its options are invalid, or it failed and the agent is strict.
        """
        try:
            with ExitStack() as part:
                started = start(part)
                cleanup.callback(part.pop_all().close)
            return started
        except Exception as error:
            is_short = shortages.is_shortage(error)
            if isinstance(error, ConfigError) and not is_short:
                raise
            if self._is_strict:
                raise shortages.as_jitwatch_error(error, f"the agent cannot start {_PROVIDES[name]}") from error
            if not isinstance(error, JitwatchError) and not is_short:
                guard.failed(name)
            self.mark_failed(name, str(shortages.as_jitwatch_error(error)))
            return None

    def mark_failed(self, name: str, reason: str) -> None:
        """Record that a part failed; `report` logs it."""
        self._unreported.append(f"{_PROVIDES[name]}: {reason}")
        guard.call("agent", lambda: self._on_failure(name, reason))

    def report(self) -> None:
        """Log the failures since the last call in one warning."""
        failures, self._unreported = self._unreported, []
        if failures:
            logger.warning("jitwatch: the job continues without %s", "; and without ".join(failures))


def import_eagerly() -> None:
    """Import what the agent's threads would import later, if the job may patch Python's threads in between.

    The lock of a module that one thread imports while another one patches is never released.
    """
    if threads.may_be_patched():
        import_the_rest()


def import_the_rest() -> None:
    """Import what `install()` has left out, in the sampler's thread.

    Soon after `install()`, so that a job that later changes `sys.path`, the working directory or the installed packages
    has the modules of this version. Where it is used before that, the thread that uses it imports it.
    """
    with _imports:
        for name in _LAZY_IMPORTS:
            # A module that cannot be used is reported where it is used.
            with suppress(ImportError, AttributeError, OSError):
                importlib.import_module(name)


def before_fork() -> None:
    """Wait for imports of other threads: a child that is forked meanwhile could never import these modules."""
    global _is_forking
    _is_forking = _imports.acquire(timeout=_LONGEST_IMPORT_S)


def after_fork() -> None:
    """Let other threads import again; in the child, too."""
    global _is_forking
    if _is_forking:
        _is_forking = False
        _imports.release()


def chosen_probes(config: Config) -> list[Callable[[ProbeContext], Probe]]:
    """The probe classes that the option `probes` selects; raises ConfigError for an unknown one."""
    known = {kind.name: kind for kind in PROBES}
    unknown = sorted(set(config.probes) - {ALL_PROBES, *known})
    if unknown:
        raise ConfigError(f"probes: expected {ALL_PROBES} or names of {', '.join(known)}, got {', '.join(unknown)}")
    return [kind for name, kind in known.items() if ALL_PROBES in config.probes or name in config.probes]


def program_files(config: Config) -> ProgramFiles | None:
    """The folder for lowered programs, if the option is set; raises ConfigError if it cannot be created."""
    folder, rank = config.hlo_dir, global_rank()
    if folder is None:
        return None
    try:
        return ProgramFiles(os.path.abspath(folder), prefix="" if rank is None else f"{rank}-")
    except OSError as error:
        raise ConfigError(f"hlo_dir: {folder} cannot be created ({error}); name a writable folder") from error


def cache_index(config: Config, log: str | None) -> str | None:
    """The folder of the index of the persistent cache: that of the option, or one next to the event log.

    Args:
        config: The options.
        log: The file of the event log; None without one.
    """
    if config.cache_index is not None:
        return os.path.abspath(config.cache_index)
    if log is None or log.startswith(_DEVICES):
        return None
    return os.path.join(os.path.dirname(log), _CACHE_INDEX)


def event_log(
    target: str, *, run: str, on_drop: Callable[[str, int], None], on_move: Callable[[str, str, str], object]
) -> EventLog:
    """The event log, opened but not started; raises ConfigError if the file cannot be written."""
    # Lazy: structlog takes 30 ms to import, and not every job has an event log.
    from jitwatch.exporters.eventlog import EventLog, resolve_path

    path, is_in_folder = resolve_path(target, run=run, rank=global_rank())
    # Absolute: rotation opens the path again, and the job may have changed its working directory.
    return EventLog(os.path.abspath(path), is_exclusive=is_in_folder, on_drop=on_drop, on_move=on_move)


def endpoint(config: Config, routes: Routes, on_end: Callable[[], None]) -> Server:
    """The HTTP endpoint, not yet opened; raises ConfigError if the token or the TLS files cannot be used."""
    cert, key = config.tls_cert, config.tls_key
    return Server(
        routes,
        host=config.host,
        port=config.port + (local_rank() or 0) if config.port else 0,
        context=server_context(cert, key, config.tls_client_ca) if cert and key else None,
        token=_token(config),
        allowed_hosts=config.allowed_hosts,
        cached=routes.cached,
        on_error=lambda: guard.failed("server"),
        on_end=on_end,
    )


def exposition(store: Store) -> Exposition:
    """The renderer of `/metrics`."""
    # Lazy: it takes 10 ms to import, and neither install() nor a job that is never scraped needs it.
    from jitwatch.exporters.prometheus import Exposition

    return Exposition(store.tables)


class NoExposition:
    """Takes the place of the renderer of `/metrics` where prometheus_client is not one that jitwatch can use."""

    def __init__(self, error: Exception) -> None:
        module = sys.modules.get("prometheus_client")
        file, version = getattr(module, "__file__", None), compat.version_of("prometheus-client")
        self.reason = f"{file} cannot be used ({error}); prometheus-client {version} is installed, see jitwatch doctor"

    def render(self, accept: str) -> tuple[bytes, str]:
        """Raise a JitwatchError, which becomes the response."""
        raise JitwatchError(self.reason)

    def content_type(self, accept: str) -> str:
        """The content type of the response."""
        return "text/plain"


def discovery_entry(config: Config, folder: str, url: str) -> DiscoveryEntry:
    """The service discovery entry of this process, not yet written."""
    # Lazy: most jobs have no such entry.
    from jitwatch.exporters import discovery

    def labels() -> dict[str, str]:
        place = compat.process_place()
        index = place[0] if place is not None else global_rank()
        return discovery.labels_of(url, run=config.run, process_index=index)

    target = discovery.target_of(url, config.host)
    return discovery.DiscoveryEntry(os.path.abspath(folder), target=target, labels=labels)


def _token(config: Config) -> str | None:
    if config.token_file is None:
        return config.token
    try:
        token = Path(config.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"token_file: {config.token_file} cannot be read ({error}); check the path and its permissions"
        ) from error
    if not token:
        raise ConfigError(f"token_file: {config.token_file} is empty; write the token to it")
    return token
