"""Builds the parts of an agent from its options: probes, event log, endpoint, service discovery entry."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jitwatch import guard
from jitwatch.config import ALL_PROBES, Config
from jitwatch.errors import ConfigError
from jitwatch.jaxhooks import compat
from jitwatch.probes import PROBES, Probe, ProbeContext
from jitwatch.server.http import Server
from jitwatch.server.routes import Routes
from jitwatch.state.store import Store
from jitwatch.system import threads
from jitwatch.system.launchers import global_rank, local_rank
from jitwatch.system.programs import ProgramFiles

if TYPE_CHECKING:
    from jitwatch.exporters.discovery import DiscoveryEntry
    from jitwatch.exporters.eventlog import EventLog
    from jitwatch.exporters.prometheus import Exposition


#: Imported by the agent's threads on first use, to keep `install()` fast.
_LAZY_IMPORTS = ("jitwatch.exporters.prometheus", "psutil")


def import_eagerly() -> None:
    """Import what the agent's threads would import later, if the job may patch Python's threads in between.

    The lock of a module that one thread imports while another one patches is never released, and the next import of
    that module, in the job, would wait forever.
    """
    if threads.may_be_patched():
        for name in _LAZY_IMPORTS:
            importlib.import_module(name)


def chosen_probes(config: Config) -> list[Callable[[ProbeContext], Probe]]:
    """The probe classes that the option `probes` selects.

    Raises:
        ConfigError: It names an unknown probe.
    """
    known = {kind.name: kind for kind in PROBES}
    unknown = sorted(set(config.probes) - {ALL_PROBES, *known})
    if unknown:
        raise ConfigError(f"probes: expected {ALL_PROBES} or names of {', '.join(known)}, got {', '.join(unknown)}")
    return [kind for name, kind in known.items() if ALL_PROBES in config.probes or name in config.probes]


def program_files(config: Config) -> ProgramFiles | None:
    """The folder for lowered programs, or None if the option `hlo_dir` is not set.

    Raises:
        ConfigError: The folder cannot be created.
    """
    if config.hlo_dir is None:
        return None
    rank = global_rank()
    try:
        return ProgramFiles(os.path.abspath(config.hlo_dir), prefix="" if rank is None else f"{rank}-")
    except OSError as error:
        raise ConfigError(
            f"hlo_dir: {config.hlo_dir} cannot be created ({error}); name a folder that can be written"
        ) from error


def event_log(
    config: Config,
    target: str,
    *,
    on_drop: Callable[[str, int], None],
    on_move: Callable[[str, str, str], None],
) -> EventLog:
    """The event log, opened but not started.

    Raises:
        ConfigError: The file cannot be written.
    """
    # Lazy: structlog takes 30 ms to import, and not every job has an event log.
    from jitwatch.exporters.eventlog import EventLog, resolve_path

    path, is_in_folder = resolve_path(target, run=config.run, rank=global_rank())
    # Absolute: rotation opens the path again, and the job may have changed its working directory.
    return EventLog(os.path.abspath(path), is_exclusive=is_in_folder, on_drop=on_drop, on_move=on_move)


def endpoint(config: Config, routes: Routes, on_end: Callable[[], None]) -> Server:
    """The HTTP endpoint, checked but not opened.

    Raises:
        ConfigError: The token cannot be read.
        ServerError: The TLS files are invalid.
    """
    server = Server(
        routes,
        host=config.host,
        port=config.port + (local_rank() or 0) if config.port else 0,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        tls_client_ca=config.tls_client_ca,
        token=_token(config),
        allowed_hosts=config.allowed_hosts,
        cached=routes.cached,
        on_error=lambda: guard.failed("server"),
        on_end=on_end,
    )
    server.check()
    return server


def exposition(store: Store) -> Exposition:
    """The renderer of `/metrics`."""
    # Lazy: it takes 10 ms to import, and neither install() nor a job that is never scraped needs it.
    from jitwatch.exporters.prometheus import Exposition

    return Exposition(store.tables)


def discovery_entry(config: Config, folder: str, url: str) -> DiscoveryEntry:
    """The service discovery entry of this process, not yet written."""
    # Lazy: most jobs have no such entry.
    from jitwatch.exporters import discovery

    def labels() -> dict[str, str]:
        place = compat.process_place()
        index = place[0] if place is not None else global_rank()
        return discovery.labels_of(url, run=config.run, process_index=index)

    return discovery.DiscoveryEntry(
        os.path.abspath(folder), target=discovery.target_of(url, config.host), labels=labels
    )


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
