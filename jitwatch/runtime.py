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

from jitwatch import agent_parts, guard
from jitwatch._version import __version__
from jitwatch.agent_parts import OptionalParts
from jitwatch.config import Config
from jitwatch.diagnosis.diagnosis import Diagnosis
from jitwatch.diagnosis.steady import steady_since
from jitwatch.errors import UnsupportedJaxError
from jitwatch.exporters.scalars import scalars_of
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.profiling import Request
from jitwatch.jaxhooks.importing import ImportWatch, when_imported
from jitwatch.jaxhooks.session import JaxSession
from jitwatch.model.events import Event, Installed, LogMoved, ProbeFailed, SteadyViolated, Stepped, Uninstalled
from jitwatch.model.taxonomy import SCHEMA
from jitwatch.model.thresholds import THRESHOLDS
from jitwatch.probes import Probe, ProbeContext
from jitwatch.probes.compile import CompileProbe
from jitwatch.probes.compile_watch import CompileWatch
from jitwatch.probes.sampler import Sampler
from jitwatch.render import wording
from jitwatch.server.http import Server
from jitwatch.server.live import Live
from jitwatch.server.routes import Answers, MetricsRenderer, Routes
from jitwatch.state.store import Store

if TYPE_CHECKING:
    from jitwatch.exporters.eventlog import EventLog
    from jitwatch.render.explain import Explanation

logger = logging.getLogger("jitwatch")

#: Seconds that stopping may take, in all and for each part; a part that hangs is abandoned.
_STOP_S = 1.9
_PROFILES_S, _LAST_PROFILES_S = 2.0, 0.5
_SAMPLER_S, _DISCOVERY_S, _SERVER_S, _LOG_S = 1.0, 0.2, 0.4, 0.3
_OPEN = (
    "jitwatch: port %s of %s is open to other machines, without a token and unencrypted; set token_file (and tls_cert, "
    "tls_key), or listen on 127.0.0.1"
)


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
        self._is_unprofiled = False
        self._is_first_round = True
        self._diagnosis = Diagnosis(
            storm_threshold=config.storm_threshold,
            storm_window_s=config.storm_window_s,
            ignore=config.ignore,
            is_redacted=config.redact,
        )
        programs = self._optional_parts.start("programs", lambda _: agent_parts.program_files(config), ExitStack())
        self._hlo_dir = str(programs.folder) if programs is not None else ""
        context = ProbeContext(
            self.store,
            self.emit,
            self.session,
            programs,
            marks_donated=config.mark_donated,
            cache_index=lambda: agent_parts.cache_index(config, self._log.path if self._log is not None else None),
            run=config.run,
            is_redacted=config.redact,
            failed=self._probe_failed,
        )
        self._probes = [kind(context) for kind in agent_parts.chosen_probes(config)]
        self._live = Live(self.store, refresh=self._refresh_live, about=self._about)
        self._answers = Answers(
            self.store,
            self._live,
            state=self.snapshot,
            refresh=self._refresh_all,
            make_exposition=self._make_exposition,
        )
        self._compile_watch = CompileWatch(self.session, self.emit, own_time=self.store.own_time)
        self._sampler = Sampler(self._probes, self.store, config.sample_interval_s, each_round=self._sampler_round)

    @cached_property
    def _versions(self) -> dict[str, str | None]:
        return {"python": platform.python_version()} | {name: compat.version_of(name) for name in ("jax", "jaxlib")}

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
                    hlo_dir=self._hlo_dir,
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
        guard.set_sink(lambda component: self.store.add("agent_errors", labels=(component,)))
        cleanup.callback(guard.set_sink, None)
        guard.call("agent", agent_parts.import_eagerly)
        self._optional_parts.start("event_log", self._start_log, cleanup)
        self._optional_parts.start("endpoint", self._start_server, cleanup)
        cleanup.callback(guard.call, "agent", self.session.restore)
        for probe in self._probes:
            cleanup.callback(guard.call, probe.name, probe.stop)
            if not probe.needs_jax:
                self._start_probe(probe)
        cleanup.callback(guard.call, "import", self._stop_import_watch)
        self._import_watch = when_imported("jax", self._attach)
        guard.call("agent", self._describe)
        self._optional_parts.start("sampler", self._start_sampler, cleanup)
        if any(probe.name == CompileProbe.name for probe in self._probes):
            self._optional_parts.start("compile_watch", self._start_compile_watch, cleanup)
        # Registered last so that it is undone first: the next process on this port writes the same file.
        self._optional_parts.start("discovery", self._start_discovery, cleanup)
        self._optional_parts.report()

    def stop(self) -> None:
        """Restore JAX and write the last records within about two seconds, even if parts of it fail."""
        self._stop_by = time.monotonic() + _STOP_S
        with self._cleanup:
            # First, so that a sample in progress comes before the last records.
            guard.call("sampler", self._stop_sampler)
            guard.call("compile_watch", self._stop_compile_watch)
            for probe in self._probes:
                guard.call(probe.name, probe.settle)
            guard.call("agent", self.refresh)
            guard.call("agent", self._summarize)
            guard.call("agent", lambda: self.emit(Uninstalled()))

    def _summarize(self) -> None:
        from jitwatch.render import summary  # lazy: see `agent_parts.import_the_rest`

        self.emit(summary.event(self.store.snapshot()))

    def restore(self) -> None:
        """Restore what `stop` did not; does nothing after a complete `stop`."""
        self._cleanup.close()

    def before_fork(self) -> None:
        """Keep no object of the job that a child would release a second time."""
        for probe in self._probes:
            guard.call(probe.name, probe.before_fork)

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
            *([("server", self._server.abandon)] if self._server is not None else ()),
            *([("eventlog", log.abandon)] if log is not None else ()),
        ):
            guard.call(name, part)

    # Profiles of compiles

    def profile_compiles(self, folder: str | None) -> Callable[[], None]:
        """Profile compiles, and keep the profiles in a folder if there is one.

        Returns:
            Ends this, and waits for the profiles to be read, for at most two seconds.
        """
        request = Request(folder)
        if self._compile_watch.is_running:
            self.session.profile_compiles(request)
            self._report_unprofiled()

        def end() -> None:
            self.session.profiler.withdraw(request)
            self._compile_watch.wait_for_profiles(_PROFILES_S)

        return end

    def _report_unprofiled(self) -> None:
        """Log once that this JAX cannot profile compiles."""
        problem = self.session.profiler.problem
        if problem and not self._is_unprofiled:
            self._is_unprofiled = True
            logger.warning("jitwatch: compiles cannot be profiled: %s", problem)

    # Events and state

    def emit(self, event: Event) -> list[Event]:
        """Diagnose an event, store it and log it; returns the events derived from it, which were emitted as well."""
        following: list[Event] = []
        with self.store.own_time.of("events"):
            try:
                event, following = self._diagnosis.diagnose(event)
            except Exception:
                guard.failed("diagnosis")
            record = self.store.apply(event)
            if record is not None and self._log is not None:
                self._log.write(record, urgent=event.is_urgent)
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
        """Update the cheap values of all probes or the live ones, and what depends on time, as the end of a storm."""
        with guard.guarded("diagnosis"):
            for event in self._diagnosis.tick():
                self.emit(event)
        with guard.guarded("agent"):
            since = steady_since()
            if since or self.store.has("steady_since_timestamp_seconds"):
                self.store.set("steady_since_timestamp_seconds", since)
        for probe in self._probes:
            if probe.is_started and (probe.is_live or not live_only):
                guard.call(probe.name, probe.refresh)

    def snapshot(self, metrics: frozenset[str] | None = None) -> dict[str, Any]:
        """The state, as the page and `jitwatch.snapshot()` show it, with all or these metrics; without what fails."""
        self._refresh_all()
        state: dict[str, Any] = guard.call("snapshot", self._about) or {}
        state |= guard.call("snapshot", lambda: self.store.snapshot(metrics)) or {}
        state["thresholds"] = THRESHOLDS.row()
        return state | (guard.call("snapshot", lambda: self._live.judge(state)) or {})

    def _refresh_all(self) -> None:
        if self.is_running:
            guard.call("agent", self._describe)
            guard.call("agent", self.refresh)

    def _refresh_live(self) -> None:
        """Update what an open page shows live; other values are as of the sampler's last round."""
        if self.is_running:
            guard.call("agent", lambda: self.refresh(live_only=True))

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

    def explain(self, function: Callable[..., Any] | str | None) -> Explanation:
        """Explain all recompiles, or those of the given function or function name."""
        from jitwatch.render import explain  # lazy: see `agent_parts.import_the_rest`

        label: str | None = None
        # Not isinstance(): it reads `__class__` of the object, which may run user code.
        if issubclass(type(function), str):
            label = str.__str__(function)
        elif callable(function):
            label = self.session.identities.label_of(function)
        elif function is not None:
            return explain.absent("explain() expects a function or its name, such as explain('train.train_step').")
        return explain.explain(self.snapshot(), self.store.records()[0], label)

    # Parts

    def _part_failed(self, name: str, reason: str) -> None:
        self._problems[name] = reason
        self.store.set("probe_up", 0.0, (name,))
        self.emit(ProbeFailed(probe=name, reason=reason))

    def _start_log(self, cleanup: ExitStack) -> None:
        if self.config.event_log is None:
            return
        log = agent_parts.event_log(
            self.config.event_log,
            run=self.config.run,
            on_drop=lambda reason, count: self.store.add("agent_events_dropped", count, (reason,)),
            on_move=lambda wanted, path, because: self.emit(LogMoved(wanted=wanted, path=path, because=because)),
        )
        # Stopped last: it may use the rest of the time.
        cleanup.callback(
            guard.call, "eventlog", lambda: log.close(min(_STOP_S, max(_LOG_S, self._stop_by - time.monotonic())))
        )
        # Before it writes: where its file moved to is a record as well.
        self._log = log
        log.start()

    def _start_server(self, cleanup: ExitStack) -> None:
        server = agent_parts.endpoint(
            self.config, Routes(self._answers, own_time=self.store.own_time), self._endpoint_failed
        )
        server.start()
        cleanup.callback(guard.call, "server", lambda: server.close(_SERVER_S))
        self._server = server
        if server.moved_from is not None:
            logger.warning("jitwatch: port %s is in use; serving on %s", server.moved_from, server.url)
        if server.is_open:
            logger.warning(_OPEN, server.port, server.host)

    def _start_sampler(self, cleanup: ExitStack) -> None:
        self._sampler.start()
        cleanup.callback(guard.call, "sampler", self._stop_sampler)

    def _stop_sampler(self) -> None:
        self._sampler.stop(_SAMPLER_S)

    def _start_compile_watch(self, cleanup: ExitStack) -> None:
        self._compile_watch.start()
        cleanup.callback(guard.call, "compile_watch", self._stop_compile_watch)
        if self.config.profile_compiles:
            self.session.profile_compiles(seconds=self.config.profile_compiles)
            self._report_unprofiled()

    def _stop_compile_watch(self) -> None:
        # The profiles of compiles that ended just now.
        guard.call("compile_watch", lambda: self._compile_watch.wait_for_profiles(_LAST_PROFILES_S))
        self._compile_watch.stop()

    def _start_discovery(self, cleanup: ExitStack) -> None:
        folder, url = self.config.sd_dir, self.url
        if folder is not None and url is not None:
            entry = agent_parts.discovery_entry(self.config, folder, url)
            cleanup.callback(guard.call, "discovery", lambda: entry.close(_DISCOVERY_S))
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
        self._report_unprofiled()
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
        if self._problems.get(name) is None:
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

    def _make_exposition(self) -> MetricsRenderer:
        try:
            return agent_parts.exposition(self.store)
        # Names that another version, or another module of that name, does not have.
        except (ImportError, AttributeError, TypeError) as error:
            missing = agent_parts.NoExposition(error)
            self._optional_parts.mark_failed("metrics", missing.reason)
            self._optional_parts.report()
            return missing

    def _sampler_round(self) -> None:
        """Periodic work of the sampler's thread besides sampling."""
        with guard.guarded("agent"):
            # Another thread was importing jax during install(): the import hook has not seen the end of it.
            if not self._is_attached and compat.is_imported():
                self._attach()
            self._describe()
            if self._is_first_round:
                self._is_first_round = False
                agent_parts.import_the_rest()
                # Made here rather than in the first scrape.
                _ = self._answers.exposition
        # Also ends storms of a job that nothing scrapes.
        self.refresh()
        self.store.mark()
