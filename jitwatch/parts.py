"""Makes the parts of an agent from its options: probes, event log, endpoint, entry for Prometheus."""

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
    from jitwatch.exporters.discovery import Announcement
    from jitwatch.exporters.eventlog import EventLog
    from jitwatch.exporters.prometheus import Exposition


#: What the agent's threads import when they first need it, so that install() does not take the time.
_IMPORTED_LATER = ("jitwatch.exporters.prometheus", "psutil")


def import_at_once() -> None:
    """Import what threads of ours would import, where the job may patch Python's threads meanwhile.

    The lock of a module that is being imported by one thread while another one patches is never released, and
    whoever imports that module then waits for ever: the job.
    """
    if threads.may_be_patched():
        for name in _IMPORTED_LATER:
            importlib.import_module(name)


def chosen_probes(config: Config) -> list[Callable[[ProbeContext], Probe]]:
    """The probes that the option `probes` names.

    Raises:
        ConfigError: It names one that is none.
    """
    known = {kind.name: kind for kind in PROBES}
    unknown = sorted(set(config.probes) - {ALL_PROBES, *known})
    if unknown:
        raise ConfigError(f"probes: expected {ALL_PROBES} or names of {', '.join(known)}, got {', '.join(unknown)}")
    return [kind for name, kind in known.items() if ALL_PROBES in config.probes or name in config.probes]


def program_files(config: Config) -> ProgramFiles | None:
    """Where lowered programs are kept, or None.

    Raises:
        ConfigError: The folder cannot be made.
    """
    if config.hlo_dir is None:
        return None
    rank = global_rank()
    try:
        return ProgramFiles(os.path.abspath(config.hlo_dir), prefix="" if rank is None else f"{rank}-")
    except OSError as error:
        raise ConfigError(
            f"hlo_dir: {config.hlo_dir} cannot be made ({error}); name a folder that can be written"
        ) from error


def event_log(
    config: Config,
    target: str,
    *,
    on_drop: Callable[[str, int], None],
    on_move: Callable[[str, str, str], None],
) -> EventLog:
    """The event log, opened and not yet started.

    Raises:
        ConfigError: The file cannot be written.
    """
    # structlog takes 30 ms to import, which only those pay who want the log.
    from jitwatch.exporters.eventlog import EventLog, resolve_path

    path, is_in_folder = resolve_path(target, run=config.run, rank=global_rank())
    # Absolute: the job may change its working directory, and rotation opens the path again.
    return EventLog(os.path.abspath(path), is_exclusive=is_in_folder, on_drop=on_drop, on_move=on_move)


def endpoint(config: Config, routes: Routes, on_end: Callable[[], None]) -> Server:
    """The HTTP endpoint, checked and not yet opened.

    Raises:
        ConfigError: The token cannot be read.
        ServerError: The files of TLS cannot be used.
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
        kept=routes.kept,
        on_error=lambda: guard.failed("server"),
        on_end=on_end,
    )
    server.check()
    return server


def exposition(store: Store) -> Exposition:
    """What renders `/metrics` from the store."""
    # Importing it takes 10 ms, which neither install() nor a job without a scrape shall wait for.
    from jitwatch.exporters.prometheus import Exposition

    return Exposition(store.tables)


def announcement(config: Config, folder: str, url: str) -> Announcement:
    """The entry that tells Prometheus where this process is, not yet written."""
    # Most jobs have no such folder, and shall not wait for the import.
    from jitwatch.exporters import discovery

    def labels() -> dict[str, str]:
        place = compat.process_place()
        index = place[0] if place is not None else global_rank()
        return discovery.labels_of(url, run=config.run, process_index=index)

    return discovery.Announcement(os.path.abspath(folder), target=discovery.target_of(url, config.host), labels=labels)


def _token(config: Config) -> str | None:
    if config.token_file is None:
        return config.token
    try:
        token = Path(config.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"token_file: {config.token_file} cannot be read ({error}); check the path and its rights"
        ) from error
    if not token:
        raise ConfigError(f"token_file: {config.token_file} is empty; write the token into it")
    return token
