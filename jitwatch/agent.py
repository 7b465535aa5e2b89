"""The public verbs, and the handle that `install()` returns.

One agent a process. This module stays light: what an agent is made of is imported when one starts.
"""

from __future__ import annotations

import atexit
import logging
import operator
import os
import warnings
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jitwatch import config as configuration
from jitwatch import guard
from jitwatch.errors import JitwatchError
from jitwatch.system import inherited, shortages, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitwatch.render.explain import Explanation
    from jitwatch.runtime import Agent

logger = logging.getLogger("jitwatch")

#: Seconds that the end of the process waits for another thread that is installing or uninstalling.
_EXIT_S = 0.5
_lock = threads.RLock()
_agent: Agent | None = None
_watch: Watch | None = None
#: An agent is there, or is being made.
_is_wanted = False
_knows_fork = False


class Watch:
    """Handle of the agent in this process; inert when `JITWATCH_DISABLE` is set or after uninstalling.

    As a context manager it uninstalls at the end of the block.
    """

    _agent: Agent | None = None

    def __init__(self, agent: Agent | None) -> None:
        self._agent = agent

    @property
    def url(self) -> str | None:
        """Address of the endpoint, as `http://127.0.0.1:10431`; None when the agent is off, or has none."""
        if self._agent is not None:
            with guard.guarded("url"):
                return self._agent.url
        return None

    @property
    def is_active(self) -> bool:
        """Whether the agent runs."""
        return self._agent is not None and self._agent.is_running

    def snapshot(self) -> dict[str, Any]:
        """The agent's whole state as JSON-able values, as `GET /api/v1/state`; `{}` when it never ran."""
        return _snapshot(self._agent)

    def events(self, n: int = 100) -> list[dict[str, Any]]:
        """The last `n` events, oldest first; the same objects as in the event log."""
        limit = operator.index(n)
        if self._agent is not None:
            with guard.guarded("events"):
                return self._agent.store.records(limit=limit)[0]
        return []

    def explain(self, function: Callable[..., Any] | str | None = None) -> Explanation:
        """What recompiled and why, as `jitwatch.explain()`; also after uninstalling."""
        return _explain(self._agent, function)

    def uninstall(self) -> None:
        """Stop the agent and put JAX back. The state stays readable."""
        if self._agent is not None and self._agent is _agent:
            uninstall()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()

    def _repr_html_(self) -> str:
        """For notebooks: the address, how the job is, and the functions that cost most."""
        try:
            from jitwatch.render import notebook

            return notebook.html_of(self.snapshot(), self.url if self.is_active else None)
        except Exception:
            guard.failed("notebook")
            return "<p>jitwatch: the state cannot be shown; the log says why</p>"

    def __repr__(self) -> str:
        return f"<jitwatch.Watch {self.url if self.is_active else 'off'}>"


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
            if _agent is not None and _watch is not None:
                _warn_about_differences(_agent.config, options)
                return _watch
            return _install(options)
    except (JitwatchError, Warning):  # a filter of the job makes the warning an error
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        reason = f"the agent could not start ({text}): {shortages.advice(error)}"
        # A job must not fail because jitwatch cannot start.
        if guard.reraise or _is_strict(options):
            raise JitwatchError(reason) from error
        logger.warning("jitwatch: %s; the job runs without jitwatch", reason)
        return Watch(None)


def _install(options: dict[str, Any]) -> Watch:
    global _is_wanted
    _is_wanted = True
    watch = None
    try:
        is_strict = _is_strict(options)
        if is_strict:
            options = {**options, "strict": True}
        watch = _refuse_patched(is_strict) or _start(options)
        return watch
    finally:
        if watch is None or not watch.is_active:
            _is_wanted = False


def _is_strict(options: dict[str, Any]) -> bool:
    try:
        return bool(configuration.OPTIONS["strict"].parse(options["strict"]))
    except Exception:  # not given; or invalid, which is reported with the other options
        return configuration.is_strict()


def _refuse_patched(is_strict: bool) -> Watch | None:
    """A handle without an agent, where one could not work: its threads would run in the job's own."""
    if not threads.is_patched():
        return None
    reason = (
        "Python's threads are patched (gevent, eventlet), and the agent would run in the job's own thread; "
        "call jitwatch.install() before monkey.patch_all()"
    )
    if is_strict:
        raise JitwatchError(reason)
    logger.warning("jitwatch: %s. The job runs without jitwatch.", reason)
    return Watch(None)


def _start(options: dict[str, Any]) -> Watch:
    """Start an agent, or leave nothing of it."""
    global _agent, _watch
    from jitwatch.runtime import Agent

    with ExitStack() as undo:
        agent = Agent(configuration.load(options))
        agent.start()
        undo.callback(agent.stop)
        watch = Watch(agent)
        undo.callback(atexit.unregister, _at_exit)
        atexit.register(_at_exit)
        _learn_about_forks()
        undo.pop_all()
    _agent, _watch = agent, watch
    if inherited.is_handed_on():
        inherited.hand_on(agent.config.run)
    return watch


def is_wanted() -> bool:
    """Whether an agent is there or is just being made, in whatever thread."""
    return _is_wanted


def uninstall() -> None:
    """Put everything back; does nothing when no agent runs. Jitted functions keep working."""
    with _lock:
        _uninstall()
    # Not at exit, where threads of XLA may be reading the environment.
    inherited.forget()


def _uninstall() -> None:
    global _agent, _watch, _is_wanted
    agent, _agent, _watch, _is_wanted = _agent, None, None, False
    try:
        atexit.unregister(_at_exit)
    finally:
        if agent is not None:
            for part in (agent.stop, agent.put_back):
                with guard.guarded("uninstall"):
                    part()


def snapshot() -> dict[str, Any]:
    """The agent's state as JSON-able values, as `GET /api/v1/state`; `{}` when no agent runs."""
    return _snapshot(_agent)


def _snapshot(agent: Agent | None) -> dict[str, Any]:
    if agent is not None:
        with guard.guarded("snapshot"):
            return agent.snapshot()
    return {}


def scalars() -> dict[str, float]:
    """The state as a few numbers by name, `jitwatch/recompiles`, for a tracker of experiments; `{}` without an agent.

    Totals of the functions of the user since `install()`, seconds, bytes and shares from 0 to 1; what is not known
    (device memory on a CPU) is left out. Cheap enough for every step:

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
    """What recompiled and why, the newest first, with what it cost and what to change.

    The result shows its text by itself in a REPL or notebook; in a script, `print(jitwatch.explain())`.

    Args:
        function: Only that function: itself, jitted or not, or its name as the metrics show it
            (`train.train_step`), the last part of that (`train_step`) or a pattern (`train.*`).
    """
    return _explain(_agent, function)


def _explain(agent: Agent | None, function: Callable[..., Any] | str | None) -> Explanation:
    from jitwatch.render import explain as explanation

    try:
        if agent is not None:
            return agent.explain(function)
        if configuration.is_disabled():
            return explanation.absent("JITWATCH_DISABLE is set, so no agent runs in this process; unset it to see.")
        return explanation.absent("No agent runs in this process: call jitwatch.install() first.")
    except Exception:
        guard.failed("explain")
        return explanation.absent("The explanation failed, which is our fault; the log says how.")


def step(n: int = 1) -> None:
    """Tell the agent that `n` training steps were done; about two microseconds, nothing without an agent."""
    agent = _agent
    if agent is not None:
        try:
            agent.step(n)
        except Exception:
            guard.failed("step")


def _warn_about_differences(config: configuration.Config, options: dict[str, Any]) -> None:
    wanted = configuration.load(options)
    differing = [name for name in options if getattr(wanted, name) != getattr(config, name)]
    if differing:
        warnings.warn(
            f"jitwatch is already installed; {', '.join(sorted(differing))} of this call is ignored. "
            "Call jitwatch.uninstall() first to change it.",
            stacklevel=3,
        )


def _at_exit() -> None:
    with guard.guarded("exit"):
        # A daemon thread that hangs in install() or uninstall() must not keep the process from ending.
        if not _lock.acquire(timeout=_EXIT_S):
            return
        try:
            _uninstall()
        finally:
            _lock.release()


def _learn_about_forks() -> None:
    # Python cannot take such a callback back, so there is one for the life of the process.
    global _knows_fork
    if not _knows_fork and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_forked_child)
        _knows_fork = True


def _in_forked_child() -> None:
    """A forked child (a data loader) has a silent agent: no thread, no socket, no file, JAX as it was."""
    global _agent, _watch, _lock
    agent, _agent, _watch = _agent, None, None
    _lock = threads.RLock()
    atexit.unregister(_at_exit)
    if agent is not None:
        with guard.guarded("fork"):
            agent.abandon()
