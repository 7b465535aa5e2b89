"""The composition root: joins config, store, JAX session, probes and exporters, all or nothing."""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitwatch import explanation, guard, summary
from jitwatch._version import __version__
from jitwatch.config import ALL_PROBES, Config
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.steady import steady_since
from jitwatch.errors import ConfigError, UnsupportedJaxError
from jitwatch.events import (
    SCHEMA,
    Event,
    Installed,
    LogMoved,
    ProbeFailed,
    SteadyViolated,
    Stepped,
    Uninstalled,
)
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.importing import ImportWatch, when_imported
from jitwatch.jaxhooks.session import JaxSession
from jitwatch.launchers import global_rank, local_rank
from jitwatch.live import Live
from jitwatch.probes import PROBES, Probe, ProbeContext
from jitwatch.programs import ProgramFiles
from jitwatch.sampler import Sampler
from jitwatch.server.http import Server
from jitwatch.server.routes import Routes
from jitwatch.store import Store
from jitwatch.tracker import scalars_of

if TYPE_CHECKING:
    from jitwatch.exporters.eventlog import EventLog
    from jitwatch.exporters.prometheus import Exposition

logger = logging.getLogger("jitwatch")

_STOP_S = 2.0


class Agent:
    """A running agent. `start` and `stop` are called once each, under the lock of `jitwatch.agent`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(run=config.run, is_summary=config.detail == "summary")
        self.session = JaxSession()
        self.is_running = False
        context = ProbeContext(
            self.store, self.emit, self.session, _programs(config), config.mark_donated, self._probe_failed
        )
        self._probes = [kind(context) for kind in _chosen(config)]
        self._up: dict[str, str | None] = {}
        #: Probes that are refreshed; one of them may see less than it should.
        self._started: set[str] = set()
        self._undo = ExitStack()
        self._log: EventLog | None = None
        self._server: Server | None = None
        self._import_watch: ImportWatch | None = None
        self._live = Live(self.store, pulse=self._glance, about=self._about)
        self._sampler = Sampler(self._probes, self.store, config.sample_interval_s, each_round=self._round)
        self._attaching = threading.Lock()
        self._is_attached = False
        self._last_step: float | None = None
        self._diagnosis = Diagnosis(
            storm_threshold=config.storm_threshold,
            storm_window_s=config.storm_window_s,
            ignore=config.ignore,
            is_redacted=config.redact,
        )

    @cached_property
    def _exposition(self) -> Exposition:
        from jitwatch.exporters.prometheus import Exposition

        return Exposition(self.store.tables)

    @cached_property
    def _versions(self) -> dict[str, str | None]:
        python = platform.python_version()
        return {"python": python, "jax": compat.version_of("jax"), "jaxlib": compat.version_of("jaxlib")}

    @property
    def url(self) -> str | None:
        """Address of the endpoint."""
        return self._server.url if self._server is not None else None

    # Life

    def start(self) -> None:
        """Start everything, or nothing: a failure puts back what was done and goes on to the caller."""
        with ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()
        self.is_running = True
        self.emit(
            Installed(
                version=__version__,
                jax=compat.version_of("jax"),
                jaxlib=compat.version_of("jaxlib"),
                python=platform.python_version(),
                pid=os.getpid(),
                url=self.url,
                # Those that wait for the job to import jax count as running; a failure has an event of its own.
                probes=tuple(probe.name for probe in self._probes if self._up.get(probe.name) is None),
            )
        )

    def _start(self, undo: ExitStack) -> None:
        if not compat.is_installed():
            raise UnsupportedJaxError(
                f"jax is not installed for {sys.executable}; install it there with: pip install 'jax>=0.6.2'"
            )
        if self.config.log_level is not None:
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(self.config.log_level.upper())
        guard.set_sink(self._count_failure)
        undo.callback(guard.set_sink, None)
        self._start_log(undo)
        self._start_server(undo)
        undo.callback(self._restore_jax)
        for probe in self._probes:
            if not probe.needs_jax:
                self._start_probe(probe)
        self._import_watch = when_imported("jax", self._attach)
        self._describe()
        self._sampler.start()
        undo.callback(self._sampler.stop)
        # Last, so that at the end it goes first: whoever takes the port next writes the same file.
        self._announce(undo)

    def stop(self) -> None:
        """Put everything back and write the last records, within about two seconds."""
        try:
            with guard.guarded("exit"):
                # A sample that is under way comes before the last records.
                self._sampler.stop()
                self.refresh()
                self.emit(summary.event(self.store.snapshot()))
                self.emit(Uninstalled())
        finally:
            self.is_running = False
            self._undo.close()

    def abandon(self) -> None:
        """In a forked child: let go of what was inherited without touching a lock or the parent's files."""
        self.is_running = False
        self._undo.pop_all()
        self.store.forget_locks()
        self._live.forget_locks()
        self.session.forget_locks()
        guard.set_sink(None)
        self._restore_jax()
        if self._server is not None:
            self._server.abandon()
        if self._log is not None:
            self._log.abandon()
            self._log = None

    # Use

    def emit(self, event: Event) -> list[Event]:
        """Count an event and log it; when it returns both have it, and what the diagnosis made of it."""
        started = time.perf_counter()
        following: list[Event] = []
        with guard.guarded("diagnosis"):
            event, following = self._diagnosis.look(event)
        record = self.store.apply(event)
        if record is not None and self._log is not None:
            self._log.write(record, urgent=event.is_urgent)
        self.store.add("agent_overhead_seconds", time.perf_counter() - started, ("events",))
        for one in following:
            self.emit(one)
            if isinstance(one, SteadyViolated) and one.action == "warn":
                logger.warning("jitwatch: %s", one.sentence)
        return following

    def step(self, n: int) -> None:
        """Count training steps and the time since the last call."""
        if n < 1:
            return
        now = time.perf_counter()
        last, self._last_step = self._last_step, now
        self.store.apply(Stepped(steps=n, duration_s=None if last is None else now - last))

    def refresh(self, *, live_only: bool = False) -> None:
        """Let the probes bring their cheap values up to date, and end what time has ended.

        Args:
            live_only: Only those values that change from one second to the next.
        """
        self._tick()
        since = steady_since()
        if since or self.store.has("steady_since_timestamp_seconds"):
            self.store.set("steady_since_timestamp_seconds", since)
        for probe in self._probes:
            if probe.name in self._started and (probe.is_live or not live_only):
                with guard.guarded(probe.name):
                    probe.refresh()

    def snapshot(self) -> dict[str, Any]:
        """The state, as the page and `jitwatch.snapshot()` show it."""
        if self.is_running:
            self._describe()
            self.refresh()
        return {
            **self._about(),
            **self.store.snapshot(),
            "health": self._live.health(),
        }

    def _glance(self) -> None:
        """What a page wants to know while it is open; the rest is as of the sampler's last round."""
        if self.is_running:
            self.refresh(live_only=True)

    def _about(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "versions": self._versions,
            "pid": os.getpid(),
            "url": self.url,
            "is_running": self.is_running,
            "event_log": self._log.path if self._log is not None else None,
            "probes": {name: {"up": problem is None, "reason": problem} for name, problem in self._up.items()},
        }

    def scalars(self) -> dict[str, float]:
        """The state as a few numbers; the sampler keeps the slow ones, so that a training loop may ask each step."""
        if self.is_running:
            self.refresh(live_only=True)
        return scalars_of(self.store.now(), self.store.memory())

    def explain(self, function: Callable[..., Any] | str | None) -> explanation.Explanation:
        """What recompiled and why: all of it, or that of the functions of this name, or of this function."""
        wanted: str | None = None
        # isinstance() would ask the object for its `__class__`, and so run code of the user.
        if issubclass(type(function), str):
            wanted = str.__str__(function)
        elif callable(function):
            wanted = self.session.identities.label_of(function)
        elif function is not None:
            return explanation.absent("explain() takes a function or its name, as in explain('train.train_step').")
        state = self.snapshot()
        return explanation.explain(state, self.store.records()[0], wanted)

    # Parts

    def _start_log(self, undo: ExitStack) -> None:
        if self.config.event_log is None:
            return
        # structlog takes 30 ms to import, which only those pay who want the log.
        from jitwatch.exporters.eventlog import EventLog, resolve_path

        path, is_in_folder = resolve_path(self.config.event_log, run=self.config.run, rank=global_rank())
        # Absolute: the job may change its working directory, and rotation opens the path again.
        self._log = EventLog(
            os.path.abspath(path), is_exclusive=is_in_folder, on_drop=self._count_dropped, on_move=self._log_moved
        )
        undo.callback(self._log.close, _STOP_S / 2)
        self._log.start()

    def _start_server(self, undo: ExitStack) -> None:
        config = self.config
        routes = Routes(
            metrics=self._metrics,
            state=self.snapshot,
            events=self._events,
            live=self._page,
            version=__version__,
        )
        self._server = Server(
            routes,
            host=config.host,
            port=config.port + (local_rank() or 0) if config.port else 0,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
            tls_client_ca=config.tls_client_ca,
            token=_token(config),
            on_error=lambda: guard.failed("server"),
        )
        self._server.start()
        undo.callback(self._server.close, _STOP_S / 2)
        if self._server.moved_from is not None:
            logger.warning("jitwatch: port %s is taken, serving on %s", self._server.moved_from, self._server.url)

    def _announce(self, undo: ExitStack) -> None:
        if self.config.sd_dir is None or self._server is None:
            return
        # Most jobs have no such folder, and shall not wait for the import.
        from jitwatch.exporters import discovery

        url, run = self._server.url, self.config.run

        def labels() -> dict[str, str]:
            place = compat.process_place()
            index = place[0] if place is not None else global_rank()
            return discovery.labels_of(url, run=run, process_index=index)

        announcement = discovery.Announcement(
            os.path.abspath(self.config.sd_dir), target=discovery.target_of(url, self.config.host), labels=labels
        )
        announcement.start()
        undo.callback(announcement.close)

    def _attach(self) -> None:
        """Hook into JAX; called at once, or when the job has imported it. A second call does nothing."""
        with self._attaching:
            if self._is_attached:
                return
            self._is_attached = True
        self.session.attach()
        for probe in self._probes:
            if probe.needs_jax:
                self._start_probe(probe)
        self._describe()

    def _start_probe(self, probe: Probe) -> None:
        try:
            probe.start()
        except Exception as error:
            if self.config.strict:
                raise
            if not isinstance(error, UnsupportedJaxError):
                guard.failed(probe.name)
            self._probe_failed(probe.name, str(error) or type(error).__name__)
        else:
            self._started.add(probe.name)
            self._up[probe.name] = None
            self.store.set("probe_up", 1.0, (probe.name,))

    def _probe_failed(self, name: str, reason: str) -> None:
        """A probe does not work here, or does not see what it should; said once."""
        if self._up.get(name) is not None:
            return
        self._up[name] = reason
        self.store.set("probe_up", 0.0, (name,))
        logger.warning("jitwatch: the %s probe does not work here: %s", name, reason)
        self.emit(ProbeFailed(probe=name, reason=reason))

    def _restore_jax(self) -> None:
        if self._import_watch is not None:
            self._import_watch.stop()
        for probe in self._probes:
            with guard.guarded(probe.name):
                probe.stop()
        self.session.restore()

    def _describe(self) -> None:
        versions = (compat.version_of("jax") or "", compat.version_of("jaxlib") or "")
        python = platform.python_version()
        self.store.set_info("build", (__version__, str(SCHEMA), *versions, python, platform.system().lower()))
        place = compat.process_place()
        if place is not None:
            self.store.set_process_place(*place)

    def _metrics(self, accept: str) -> tuple[bytes, str]:
        started = time.perf_counter()
        self._describe()
        self.refresh()
        rendered = self._exposition.render(accept)
        self.store.add("agent_overhead_seconds", time.perf_counter() - started, ("scrape",))
        return rendered

    def _events(self, since: int, function: str | None, limit: int | None) -> dict[str, Any]:
        records, last = self.store.records(since, limit, function)
        return {"events": records, "last_seq": last}

    def _page(self, revision: int, seq: int, since: float) -> dict[str, Any]:
        started = time.perf_counter()
        found = self._live.answer(revision, seq, since)
        self.store.add("agent_overhead_seconds", time.perf_counter() - started, ("page",))
        return found

    def _round(self) -> None:
        """What the sampler's thread does besides sampling."""
        with guard.guarded("agent"):
            # Another thread was in the middle of `import jax` when we were installed: nobody told us its end.
            if not self._is_attached and compat.is_imported():
                self._attach()
            self._describe()
            # Imported here, since that takes 10 ms, which neither install() nor the first scrape shall wait for.
            _ = self._exposition
        # Also ends what time has ended, for a job that nobody looks at.
        self.refresh()
        self.store.mark()

    def _tick(self) -> None:
        with guard.guarded("diagnosis"):
            for event in self._diagnosis.tick():
                self.emit(event)

    def _count_failure(self, component: str) -> None:
        self.store.add("agent_errors", labels=(component,))

    def _log_moved(self, wanted: str, path: str, because: str) -> None:
        self.emit(LogMoved(wanted=wanted, path=path, because=because))

    def _count_dropped(self, reason: str, count: int) -> None:
        self.store.add("agent_events_dropped", count, (reason,))


def _chosen(config: Config) -> list[Callable[[ProbeContext], Probe]]:
    known = {kind.name: kind for kind in PROBES}
    unknown = sorted(set(config.probes) - {ALL_PROBES, *known})
    if unknown:
        raise ConfigError(f"probes: there is none named {', '.join(unknown)}; known: all, {', '.join(known)}")
    return [kind for name, kind in known.items() if ALL_PROBES in config.probes or name in config.probes]


def _programs(config: Config) -> ProgramFiles | None:
    if config.hlo_dir is None:
        return None
    rank = global_rank()
    try:
        return ProgramFiles(os.path.abspath(config.hlo_dir), prefix="" if rank is None else f"{rank}-")
    except OSError as error:
        raise ConfigError(
            f"hlo_dir: {config.hlo_dir} cannot be made ({error}); name a folder that can be written"
        ) from None


def _token(config: Config) -> str | None:
    if config.token_file is None:
        return config.token
    try:
        token = Path(config.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"token_file: {config.token_file} cannot be read ({error}); check the path and its rights"
        ) from None
    if not token:
        raise ConfigError(f"token_file: {config.token_file} is empty; write the token into it")
    return token
