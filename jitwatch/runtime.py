"""The composition root: connects config, store, JAX session, probes and exporters into an agent."""

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
from typing import TYPE_CHECKING, Any

from jitwatch import guard, parts
from jitwatch._version import __version__
from jitwatch.config import Config
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.steady import steady_since
from jitwatch.errors import UnsupportedJaxError
from jitwatch.exporters.scalars import scalars_of
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.importing import ImportWatch, when_imported
from jitwatch.jaxhooks.session import JaxSession
from jitwatch.model.events import Event, Installed, LogMoved, ProbeFailed, SteadyViolated, Stepped, Uninstalled
from jitwatch.model.taxonomy import SCHEMA
from jitwatch.model.thresholds import THRESHOLDS
from jitwatch.optional_parts import OptionalParts, add_cleanup
from jitwatch.probes import Probe, ProbeContext
from jitwatch.probes.sampler import Sampler
from jitwatch.render import explain, summary, wording
from jitwatch.server.answers import Answers
from jitwatch.server.http import Server
from jitwatch.server.live import Live
from jitwatch.state.store import Store
from jitwatch.system.programs import ProgramFiles

if TYPE_CHECKING:
    from jitwatch.exporters.eventlog import EventLog

logger = logging.getLogger("jitwatch")

#: Seconds that stopping may take, in all and for each part; a part that hangs is abandoned.
_STOP_S = 1.9
_SAMPLER_S, _DISCOVERY_S, _SERVER_S, _LOG_S = 1.0, 0.2, 0.4, 0.3


class Agent:
    """An agent. `start` and `stop` are called once each, under the lock of `jitwatch.agent`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(run=config.run, is_summary=config.detail == "summary")
        self.session = JaxSession()
        self.is_running = False
        #: Why a probe or another part does not work, by its name; None for one that does.
        self._problems: dict[str, str | None] = {}
        self._cleanup = ExitStack()
        self._stop_by = float("inf")
        self._optional_parts = OptionalParts(is_strict=config.strict, on_failure=self._part_failed)
        self._log: EventLog | None = None
        self._server: Server | None = None
        self._import_watch: ImportWatch | None = None
        self._attaching = threading.Lock()
        self._is_attached = False
        self._last_step: float | None = None
        self._diagnosis = Diagnosis(
            storm_threshold=config.storm_threshold,
            storm_window_s=config.storm_window_s,
            ignore=config.ignore,
            is_redacted=config.redact,
        )
        context = ProbeContext(
            self.store, self.emit, self.session, self._programs(), config.mark_donated, self._probe_failed
        )
        self._probes = [kind(context) for kind in parts.chosen_probes(config)]
        self._live = Live(self.store, refresh=self._refresh_live, about=self._about)
        self._answers = Answers(self.store, self._live, self._refresh_all, lambda: parts.exposition(self.store))
        self._sampler = Sampler(self._probes, self.store, config.sample_interval_s, each_round=self._sampler_round)

    @cached_property
    def _versions(self) -> dict[str, str | None]:
        python = platform.python_version()
        return {"python": python, "jax": compat.version_of("jax"), "jaxlib": compat.version_of("jaxlib")}

    @property
    def url(self) -> str | None:
        """URL of the endpoint; None without one."""
        return self._server.url if self._server is not None and self._problems.get("endpoint") is None else None

    # Lifecycle

    def start(self) -> None:
        """Start all parts; if one fails, stop those that started and raise its exception."""
        with ExitStack() as cleanup:
            self._start(cleanup)
            self.is_running = True
            cleanup.callback(setattr, self, "is_running", False)
            self.emit(
                Installed(
                    version=__version__,
                    jax=compat.version_of("jax"),
                    jaxlib=compat.version_of("jaxlib"),
                    python=platform.python_version(),
                    pid=os.getpid(),
                    url=self.url,
                    # Including those that wait for the job to import jax; a failure is an event of its own.
                    probes=tuple(probe.name for probe in self._probes if self._problems.get(probe.name) is None),
                )
            )
            self._cleanup = cleanup.pop_all()

    def _start(self, cleanup: ExitStack) -> None:
        if not compat.is_installed():
            raise UnsupportedJaxError(
                f"jax is not installed for {sys.executable}; install it there with: pip install 'jax>=0.6.2'"
            )
        if self.config.log_level is not None:
            cleanup.callback(logger.setLevel, logger.level)
            logger.setLevel(self.config.log_level.upper())
        guard.set_sink(self._count_failure)
        cleanup.callback(guard.set_sink, None)
        with guard.guarded("agent"):
            parts.import_eagerly()
        self._optional_parts.start("event_log", self._start_log, cleanup)
        self._optional_parts.start("endpoint", self._start_server, cleanup)
        add_cleanup(cleanup, "agent", self.session.restore)
        for probe in self._probes:
            add_cleanup(cleanup, probe.name, probe.stop)
            if not probe.needs_jax:
                self._start_probe(probe)
        add_cleanup(cleanup, "import", self._stop_import_watch)
        self._import_watch = when_imported("jax", self._attach)
        with guard.guarded("agent"):
            self._describe()
        self._optional_parts.start("sampler", self._start_sampler, cleanup)
        # Registered last so that it is undone first: the next process on this port writes the same file.
        self._optional_parts.start("discovery", self._start_discovery, cleanup)
        self._optional_parts.report()

    def stop(self) -> None:
        """Restore JAX and write the last records within about two seconds, even if parts of it fail."""
        self._stop_by = time.monotonic() + _STOP_S
        with self._cleanup:
            for name, part in (
                # First, so that a sample in progress comes before the last records.
                ("sampler", self._stop_sampler),
                ("agent", self.refresh),
                ("agent", lambda: self.emit(summary.event(self.store.snapshot()))),
                ("agent", lambda: self.emit(Uninstalled())),
            ):
                with guard.guarded(name):
                    part()

    def restore(self) -> None:
        """Restore what `stop` did not; does nothing after a complete `stop`."""
        self._cleanup.close()

    def abandon(self) -> None:
        """In a forked child: drop what was inherited without using the parent's locks or files."""
        self.is_running = False
        self._cleanup.pop_all()
        guard.set_sink(None)
        log, self._log = self._log, None
        for name, part in (
            ("agent", self.store.forget_locks),
            ("agent", self._live.forget_locks),
            ("agent", self.session.forget_locks),
            ("import", self._stop_import_watch),
            *((probe.name, probe.stop) for probe in self._probes),
            ("agent", self.session.restore),
            ("server", self._server.abandon if self._server is not None else None),
            ("eventlog", log.abandon if log is not None else None),
        ):
            if part is not None:
                with guard.guarded(name):
                    part()

    # Events and state

    def emit(self, event: Event) -> list[Event]:
        """Diagnose an event, apply it to the store and write it to the event log.

        Returns:
            The events that the diagnosis derived from it; they were emitted as well.
        """
        started = time.perf_counter()
        following: list[Event] = []
        with guard.guarded("diagnosis"):
            event, following = self._diagnosis.diagnose(event)
        record = self.store.apply(event)
        if record is not None and self._log is not None:
            self._log.write(record, urgent=event.is_urgent)
        self.store.add("agent_overhead_seconds", time.perf_counter() - started, ("events",))
        for one in following:
            self.emit(one)
            if isinstance(one, SteadyViolated) and one.action == "warn":
                logger.warning("jitwatch: %s", wording.of_steady_violation(one))
        return following

    def step(self, n: int) -> None:
        """Count training steps, and the time since the last call."""
        if n < 1:
            return
        now = time.perf_counter()
        last, self._last_step = self._last_step, now
        self.store.apply(Stepped(steps=n, duration_s=None if last is None else now - last))

    def refresh(self, *, live_only: bool = False) -> None:
        """Update the cheap values of the probes, and what depends on time alone, such as the end of a storm.

        Args:
            live_only: Update only the probes whose values change from one second to the next.
        """
        self._tick()
        with guard.guarded("agent"):
            since = steady_since()
            if since or self.store.has("steady_since_timestamp_seconds"):
                self.store.set("steady_since_timestamp_seconds", since)
        for probe in self._probes:
            if probe.is_started and (probe.is_live or not live_only):
                with guard.guarded(probe.name):
                    probe.refresh()

    def snapshot(self, metrics: frozenset[str] | None = None) -> dict[str, Any]:
        """The state, as the page and `jitwatch.snapshot()` show it; a part that fails is left out.

        Args:
            metrics: Exposed names of the metrics to include; None for all.
        """
        self._refresh_all()
        state: dict[str, Any] = {}
        for part in (
            self._about,
            lambda: self.store.snapshot(metrics),
            lambda: {"thresholds": THRESHOLDS.row()},
        ):
            with guard.guarded("snapshot"):
                state |= part()
        with guard.guarded("snapshot"):
            state |= self._live.judge(state)
        return state

    def _refresh_all(self) -> None:
        if self.is_running:
            for part in (self._describe, self.refresh):
                with guard.guarded("agent"):
                    part()

    def _refresh_live(self) -> None:
        """Update what an open page shows live; other values are as of the sampler's last round."""
        if self.is_running:
            with guard.guarded("agent"):
                self.refresh(live_only=True)

    def _about(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "versions": self._versions,
            "pid": os.getpid(),
            "url": self.url,
            "is_running": self.is_running,
            "event_log": self._log.path if self._log is not None else None,
            "probes": {
                name: {"up": problem is None, "reason": problem} for name, problem in dict(self._problems).items()
            },
        }

    def scalars(self) -> dict[str, float]:
        """The state as a few numbers. Slow ones are as of the sampler's last round, so a call per step is cheap."""
        self._refresh_live()
        return scalars_of(self.store.now(), self.store.memory())

    def explain(self, function: Callable[..., Any] | str | None) -> explain.Explanation:
        """Explain all recompiles, or those of the given function or function name."""
        label: str | None = None
        # Not isinstance(): it reads `__class__` of the object, which may run user code.
        if issubclass(type(function), str):
            label = str.__str__(function)
        elif callable(function):
            label = self.session.identities.label_of(function)
        elif function is not None:
            return explain.absent("explain() expects a function or its name, such as explain('train.train_step').")
        state = self.snapshot()
        return explain.explain(state, self.store.records()[0], label)

    # Parts

    def _programs(self) -> ProgramFiles | None:
        found: list[ProgramFiles | None] = []
        self._optional_parts.start("programs", lambda _: found.append(parts.program_files(self.config)), ExitStack())
        return found[0] if found else None

    def _part_failed(self, name: str, reason: str) -> None:
        self._problems[name] = reason
        self.store.set("probe_up", 0.0, (name,))
        self.emit(ProbeFailed(probe=name, reason=reason))

    def _start_log(self, cleanup: ExitStack) -> None:
        if self.config.event_log is None:
            return
        self._log = log = parts.event_log(
            self.config, self.config.event_log, on_drop=self._count_dropped, on_move=self._log_moved
        )
        # Stopped last: it may use the rest of the time.
        add_cleanup(cleanup, "eventlog", lambda: log.close(min(_STOP_S, max(_LOG_S, self._stop_by - time.monotonic()))))
        try:
            log.start()
        except BaseException:
            self._log = None
            raise

    def _start_server(self, cleanup: ExitStack) -> None:
        server = parts.endpoint(self.config, self._answers.routes(self.snapshot), self._endpoint_failed)
        server.start()
        add_cleanup(cleanup, "server", lambda: server.close(_SERVER_S))
        self._server = server
        if server.moved_from is not None:
            logger.warning("jitwatch: port %s is in use; serving on %s", server.moved_from, server.url)
        if server.is_open:
            logger.warning(
                "jitwatch: port %s of %s is open to other machines, without a token and unencrypted; "
                "set token_file (and tls_cert, tls_key), or listen on 127.0.0.1",
                server.port,
                self.config.host,
            )

    def _start_sampler(self, cleanup: ExitStack) -> None:
        self._sampler.start()
        add_cleanup(cleanup, "sampler", self._stop_sampler)

    def _stop_sampler(self) -> None:
        self._sampler.stop(_SAMPLER_S)

    def _start_discovery(self, cleanup: ExitStack) -> None:
        url = self.url
        if self.config.sd_dir is None or url is None:
            return
        entry = parts.discovery_entry(self.config, self.config.sd_dir, url)
        add_cleanup(cleanup, "discovery", lambda: entry.close(_DISCOVERY_S))
        entry.start()

    def _endpoint_failed(self) -> None:
        """Report that the endpoint ended; called in its thread, in the `except` block that handles the reason."""
        self._optional_parts.mark_failed("endpoint", f"it ended ({sys.exc_info()[1]})")
        self._optional_parts.report()

    def _attach(self) -> None:
        """Install the hooks, once JAX is imported. A second call does nothing."""
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
            absent = "; ".join(self.session.take_absent())
            if absent and self.config.strict:
                raise UnsupportedJaxError(absent)
        except Exception as error:
            if self.config.strict:
                raise
            if not isinstance(error, UnsupportedJaxError):
                guard.failed(probe.name)
            self._probe_failed(probe.name, str(error) or type(error).__name__)
        else:
            probe.is_started = True
            self._problems[probe.name] = None
            self.store.set("probe_up", 1.0, (probe.name,))
            if absent:
                self._probe_failed(probe.name, absent)

    def _probe_failed(self, name: str, reason: str) -> None:
        """Report, once, that a probe does not work or misses events."""
        if self._problems.get(name) is not None:
            return
        logger.warning("jitwatch: the %s probe is incomplete: %s", name, reason)
        self._part_failed(name, reason)

    def _stop_import_watch(self) -> None:
        if self._import_watch is not None:
            self._import_watch.stop()

    def _describe(self) -> None:
        versions = (compat.version_of("jax") or "", compat.version_of("jaxlib") or "")
        python = platform.python_version()
        self.store.set_info("build", (__version__, str(SCHEMA), *versions, python, platform.system().lower()))
        place = compat.process_place()
        if place is not None:
            self.store.set_process_place(*place)

    def _sampler_round(self) -> None:
        """Periodic work of the sampler's thread besides sampling."""
        with guard.guarded("agent"):
            # Another thread was importing jax during install(): the import hook has not seen the end of it.
            if not self._is_attached and compat.is_imported():
                self._attach()
            self._describe()
            # Imports the exposition, which takes 10 ms, here rather than in install() or in the first scrape.
            _ = self._answers.exposition
        # Also ends storms of a job that nothing scrapes.
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
