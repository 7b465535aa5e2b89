"""The public functions, and the handle that `install()` returns.

There is one agent per process. Importing this module is cheap: the parts of an agent are imported when it starts.
"""

from __future__ import annotations

import atexit
import logging
import operator
import os
import sys
import warnings
from contextlib import ContextDecorator, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jitwatch import config as configuration
from jitwatch import guard
from jitwatch.errors import JitwatchError
from jitwatch.system import launchers, shortages, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitwatch.render.explain import Explanation
    from jitwatch.runtime import Agent

logger = logging.getLogger("jitwatch")

#: Seconds that the exit of the process waits for another thread that installs or uninstalls.
_EXIT_TIMEOUT_S = 0.5
_PATCHED = (
    "Python's threads are patched (gevent, eventlet), so the agent would run in the job's own thread; "
    "call jitwatch.install() before monkey.patch_all()"
)
#: The command line says the same.
_WINDOWS = "Windows is not supported: use Linux, WSL or a container"
_lock = threads.RLock()
_agent: Agent | None = None
#: An agent is installed or being installed.
_is_wanted = False
_has_fork_hook = False


class Watch:
    """Handle of the agent in this process; inert if `JITWATCH_DISABLE` is set.

    As a context manager it uninstalls the agent at the end of the block.
    """

    _agent: Agent | None = None

    def __init__(self, agent: Agent | None) -> None:
        self._agent = agent

    @property
    def url(self) -> str | None:
        """URL of the endpoint, such as `http://127.0.0.1:10431`; None without an endpoint."""
        agent = self._agent
        return guard.call("url", lambda: agent.url) if agent is not None else None

    @property
    def is_active(self) -> bool:
        """Whether the agent is running."""
        return self._agent is not None and self._agent.is_running

    def snapshot(self) -> dict[str, Any]:
        """The state of the agent in JSON types, as in `GET /api/v1/state`; `{}` if it never ran."""
        agent = self._agent
        return (guard.call("snapshot", agent.snapshot) or {}) if agent is not None else {}

    def events(self, n: int = 100) -> list[dict[str, Any]]:
        """The last `n` events, oldest first, as in the event log."""
        limit, agent = operator.index(n), self._agent
        return (guard.call("events", lambda: agent.store.records(limit=limit)[0]) or []) if agent is not None else []

    def explain(self, function: Callable[..., Any] | str | None = None) -> Explanation:
        """Explain the recompiles, as `jitwatch.explain()` does; also after uninstalling."""
        from jitwatch.render import explain as explanation

        try:
            if self._agent is not None:
                return self._agent.explain(function)
            if configuration.is_disabled():
                return explanation.absent("JITWATCH_DISABLE is set, so no agent runs in this process: unset it first.")
            return explanation.absent("No agent runs in this process: call jitwatch.install() first.")
        except Exception:
            guard.failed("explain")
            return explanation.absent("The explanation failed because of a bug in jitwatch: see the log.")

    def uninstall(self) -> None:
        """Stop the agent and restore JAX. The state stays readable."""
        if self._agent is not None and self._agent is _agent:
            uninstall()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()

    def _repr_html_(self) -> str:
        """Notebook output: the endpoint, the health of the job, and the functions that took longest to compile."""
        try:
            from jitwatch.render import notebook

            return notebook.html_of(self.snapshot(), self.url if self.is_active else None)
        except Exception:
            guard.failed("notebook")
            return "<p>jitwatch: the state cannot be shown; see the log</p>"

    def __repr__(self) -> str:
        return f"<jitwatch.Watch {self.url if self.is_active else 'off'}>"


#: The handle while no agent is installed.
_INERT = Watch(None)
_watch = _INERT


def install(
    *,
    host: str | None = None,
    port: int | None = None,
    event_log: str | os.PathLike[str] | None = None,
    run: str | None = None,
    probes: str | list[str] | tuple[str, ...] | None = None,
    detail: str | None = None,
    strict: bool | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    tls_client_ca: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    allowed_hosts: str | list[str] | tuple[str, ...] | None = None,
    sample_interval_s: float | None = None,
    storm_threshold: int | None = None,
    storm_window_s: float | None = None,
    ignore: str | list[str] | tuple[str, ...] | None = None,
    redact: bool | None = None,
    sd_dir: str | os.PathLike[str] | None = None,
    hlo_dir: str | os.PathLike[str] | None = None,
    profile_compiles: float | None = None,
    cache_index: str | os.PathLike[str] | None = None,
    mark_donated: bool | None = None,
    log_level: str | None = None,
) -> Watch:
    """Start the agent in this process.

    It may be called before or after `import jax`, and before or after functions were jitted. It creates no JAX backend.
    A second call returns the same handle, and warns if its options differ. If a resource is missing (a free port, a
    thread, a file descriptor), the agent continues without the part that needs it, or does not start, and logs one
    warning.

    Each option can also be set by a variable `JITWATCH_<NAME>`; an argument takes precedence.

    Args:
        host: Address to listen on (default: 127.0.0.1).
        port: First port to try; 0 selects any free port (default: 10431, plus the local rank under a launcher).
        event_log: File or folder of the event log.
        run: Name of the run, in every event (default: the scheduler's job ID, else time, host and process ID).
        probes: Names of the probes to start (default: all).
        detail: `full`, or `summary` to drop every series by function (default: full).
        strict: Fail if a probe, the endpoint or another part cannot start, instead of continuing without it (default:
            no).
        tls_cert: PEM file with the certificate of the endpoint, which then uses TLS.
        tls_key: PEM file with the private key of `tls_cert`.
        tls_client_ca: PEM file with a CA certificate; clients must present a certificate that it signed.
        token_file: File with the bearer token that clients must send.
        allowed_hosts: Additional host names under which the endpoint may be requested, separated by commas: names or
            patterns such as `*.example.org`, or `*` for any.
        sample_interval_s: Seconds between two samples of memory, caches, the process and the machine (default: 5).
        storm_threshold: Recompiles of a function within `storm_window_s` that are a storm (default: 5, but 20 in the
            minute after its first compile).
        storm_window_s: Length of the storm window in seconds; a storm ends after the same time without a recompile
            (default: 600).
        ignore: Patterns of function names, such as `train.eval_*`, for which no storm, pitfall or violation is
            reported.
        redact: Show no values of static arguments in any event, page or log (default: no).
        sd_dir: Folder for the service discovery entry of this process (`file_sd_configs`), removed when the process
            ends.
        hlo_dir: Folder for the lowered program (StableHLO text) of every compile.
        profile_compiles: Seconds of compiles of the job's functions that are profiled with JAX's profiler; 0 profiles
            none (default: 0).
        cache_index: Folder of the index that shows why JAX's persistent cache did not have a program (default:
            `jitwatch-cache-index` in the folder of the event log; without an event log there is none).
        mark_donated: On JAX ≤ 0.10, raise JAX's own `RuntimeError` whenever a donated array is used again, as newer JAX
            does (default: yes).
        log_level: Level of the logger `jitwatch` (default: unchanged).

    Raises:
        ConfigError: An option has an invalid value; also a ServerError if it is an option of TLS.
        ServerError: With `strict`: no port could be opened.
        UnsupportedJaxError: JAX is not installed; with `strict`, also if a hook is missing.
        JitwatchError: Another part failed; whatever had started was stopped.
    """
    options = {name: value for name, value in locals().items() if value is not None}
    try:
        with _lock:
            if configuration.is_disabled():
                return Watch(None)
            if _agent is not None:
                _warn_about_differences(_agent.config, options)
                return _watch
            return _install(options)
    except (JitwatchError, Warning):  # a warning filter of the job turns the warning into an error
        raise
    except Exception as error:
        failure = shortages.as_jitwatch_error(error, "the agent could not start")
        # The job must not fail because jitwatch cannot start.
        if guard.reraise or _is_strict(options):
            raise failure from error
        logger.warning("jitwatch: %s; the job runs without jitwatch", failure)
        return Watch(None)


def _install(options: dict[str, Any]) -> Watch:
    global _is_wanted
    _is_wanted = True
    watch = Watch(None)
    try:
        if is_strict := _is_strict(options):
            options = {**options, "strict": True}
        reason = _WINDOWS if sys.platform == "win32" else _PATCHED if threads.is_patched() else None
        if reason is None:
            watch = _start(options)
        elif is_strict:
            raise JitwatchError(reason)
        else:
            logger.warning("jitwatch: %s; the job runs without jitwatch", reason)
        return watch
    finally:
        _is_wanted = watch.is_active


def _is_strict(options: dict[str, Any]) -> bool:
    try:
        return bool(configuration.OPTIONS["strict"].parse(options["strict"]))
    except Exception:  # not given; or invalid, which is reported with the other options
        return configuration.is_strict()


def _start(options: dict[str, Any]) -> Watch:
    """Start an agent; if that fails, undo all of it."""
    global _agent, _watch
    from jitwatch.runtime import Agent

    with ExitStack() as cleanup:
        agent = Agent(configuration.load(options))
        agent.start()
        cleanup.callback(agent.stop)
        watch = Watch(agent)
        cleanup.callback(atexit.unregister, _at_exit)
        atexit.register(_at_exit)
        _register_fork_hook()
        cleanup.pop_all()
    _agent, _watch = agent, watch
    if launchers.is_propagated():
        launchers.propagate(agent.config.run)
    return watch


def is_wanted() -> bool:
    """Whether an agent is installed or being installed, in any thread."""
    return _is_wanted


def uninstall() -> None:
    """Stop the agent and restore JAX; does nothing if no agent is installed. Jitted functions keep working."""
    with _lock:
        _uninstall()
    # Not at exit, when threads of XLA may be reading the environment.
    launchers.stop_propagating()


def _uninstall() -> None:
    global _agent, _watch, _is_wanted
    agent, _agent, _watch, _is_wanted = _agent, None, _INERT, False
    try:
        atexit.unregister(_at_exit)
    finally:
        if agent is not None:
            guard.call("uninstall", agent.stop)
            guard.call("uninstall", agent.restore)


def snapshot() -> dict[str, Any]:
    """The state of the agent in JSON types, as in `GET /api/v1/state`; `{}` if no agent is installed."""
    return _watch.snapshot()


def scalars() -> dict[str, float]:
    """The state as a few numbers by name, for an experiment tracker; `{}` if no agent is installed.

    They are totals of the user's functions since `install()`, such as `jitwatch/recompiles`, in seconds, bytes and
    ratios from 0 to 1. A value that is unknown (device memory on a CPU) is left out. Cheap enough for every step:

        wandb.log({"loss": loss, **jitwatch.scalars()})
    """
    agent = _agent
    if agent is not None:
        try:
            return agent.scalars()
        except Exception:
            guard.failed("scalars")
    return {}


def explain(function: Callable[..., Any] | str | None = None) -> Explanation:
    """Explain the recompiles, newest first: the cause, the lost seconds and the advice.

    A REPL or notebook shows the text of the result; in a script, use `print(jitwatch.explain())`.

    Args:
        function: Explain this function only: the function, jitted or not, its name as in the metrics
            (`train.train_step`), the last part of that name (`train_step`) or a pattern (`train.*`).
    """
    return _watch.explain(function)


def step(n: int = 1) -> None:
    """Count `n` completed training steps. Takes about 2 µs; does nothing if no agent is installed."""
    agent = _agent
    if agent is not None:
        try:
            agent.step(n)
        except Exception:
            guard.failed("step")


class ProfileCompiles(ContextDecorator):
    """The context manager and decorator that `jitwatch.profile_compiles()` returns."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        #: Functions that end the open blocks.
        self._begun: list[Callable[[], None] | None] = []

    def __enter__(self) -> None:
        agent = _agent
        end = guard.call("profiling", lambda: agent.profile_compiles(self._folder)) if agent is not None else None
        self._begun.append(end)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._begun.pop() if self._begun else None
        if end is not None:
            guard.call("profiling", end)


def profile_compiles(*, folder: str | os.PathLike[str] | None = None) -> ProfileCompiles:
    """Profile the compiles of the job's functions until the block ends, with JAX's own profiler.

    The seconds of XLA's phases and passes are then in `explain()`, on the page and in the event `jit.compile_profiled`.
    At most the first ten minutes of a compile are profiled. No compile is profiled while the job's own profiler runs,
    or on JAX before 0.8.3. Does nothing if no agent is installed.

        with jitwatch.profile_compiles():
            train_step(state, batch)

    Args:
        folder: Folder in which the profiles are kept, for TensorBoard or XProf; without it they are not kept.

    Raises:
        TypeError: The folder is not a path.
    """
    path = None if folder is None else os.fspath(folder)
    if path is not None and not isinstance(path, str):
        raise TypeError(f"profile_compiles(): the folder must be a path, got {type(folder).__name__}")
    return ProfileCompiles(None if path is None else os.path.abspath(os.path.expanduser(path)))


def _warn_about_differences(config: configuration.Config, options: dict[str, Any]) -> None:
    requested = configuration.load(options)
    differing = sorted(name for name in options if getattr(requested, name) != getattr(config, name))
    if differing:
        text = f"jitwatch is already installed; this call cannot change {', '.join(differing)}."
        warnings.warn(f"{text} Call jitwatch.uninstall() first.", stacklevel=3)


def _at_exit() -> None:
    with guard.guarded("exit"):
        # A daemon thread that hangs in install() or uninstall() must not delay the exit.
        if not _lock.acquire(timeout=_EXIT_TIMEOUT_S):
            return
        try:
            _uninstall()
        finally:
            _lock.release()


def _register_fork_hook() -> None:
    # Python cannot unregister such a callback, so it is registered once per process.
    global _has_fork_hook
    if not _has_fork_hook and hasattr(os, "register_at_fork"):
        from jitwatch import agent_parts  # imports what the agent needs

        after = agent_parts.after_fork
        os.register_at_fork(before=agent_parts.before_fork, after_in_parent=after, after_in_child=after)
        os.register_at_fork(before=_before_fork, after_in_child=_abandon_in_child)
        _has_fork_hook = True


def _before_fork() -> None:
    agent = _agent
    if agent is not None:
        guard.call("fork", agent.before_fork)


def _abandon_in_child() -> None:
    """Make the agent of a forked child (a data loader) silent: no thread, socket or file, and JAX restored."""
    global _agent, _watch, _lock
    agent, _agent, _watch = _agent, None, _INERT
    _lock = threads.RLock()
    atexit.unregister(_at_exit)
    if agent is not None:
        guard.call("fork", agent.abandon)
