"""Listeners on `jax.monitoring`: start and end of compile phases, and requests to the persistent cache.

JAX calls them in the thread that compiles. A listener that raises would break the job's call, so each is guarded. Other
code may clear all listeners (`jax.monitoring.clear_event_listeners`, as some test suites do), so `repair` is called
periodically.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.phases import CacheResult, Lookup, Module, PhaseClock
from jitwatch.jaxhooks.identity.identities import function_of_program
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.events import CompilerSeen
from jitwatch.model.function import Function
from jitwatch.model.rows import HotLineRow
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Phase

_PREFIX = "/jax/core/compile/"
PHASE_EVENTS: dict[str, Phase] = {
    f"{_PREFIX}jaxpr_trace_duration": "trace",
    f"{_PREFIX}jaxpr_to_mlir_module_duration": "lower",
    f"{_PREFIX}backend_compile_duration": "compile",
}
_CACHE_REQUESTED = "/jax/compilation_cache/compile_requests_use_cache"
_CACHE_RESULTS: dict[str, CacheResult] = {
    "/jax/compilation_cache/cache_hits": "hit",
    # In spite of its name, sent when a program is written, and not for a miss whose program is not written.
    "/jax/compilation_cache/cache_misses": "written",
}
_CACHE_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


class Listeners:
    """The three listeners of one agent, which also report the compiles that no hook encloses, by JAX's name.

    Attributes:
        are_hooks_installed: Whether hooks should enclose all compiles; those that none encloses are unconfirmed.
    """

    def __init__(self, phases: PhaseClock, sink: CompileSink) -> None:
        self._phases = phases
        self._sink = sink
        self.are_hooks_installed = False

    def install(self, patcher: Patcher) -> None:
        """Register them. Raises AttributeError if jax.monitoring lacks a function."""
        for kind, listener in self._listeners():
            _register(kind, listener)
            patcher.on_restore(f"jax.monitoring {kind} listener", partial(_unregister, kind, listener))

    def repair(self) -> bool:
        """Register those that other code has cleared; return False if there were any."""
        cleared = [(kind, listener) for kind, listener in self._listeners() if listener not in _registered(kind)]
        for kind, listener in cleared:
            _register(kind, listener)
        return not cleared

    def _listeners(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        return (("scalar", self._on_scalar), ("event_duration_secs", self._on_duration), ("event", self._on_event))

    def _on_scalar(self, event: str, value: float, **details: Any) -> None:
        try:
            phase = PHASE_EVENTS.get(event)
            if phase is not None:
                self._phases.start(phase, self._phases.function_of(phase))
        except Exception:
            guard.failed("compile")

    def _on_duration(self, event: str, duration: float, **details: Any) -> None:
        try:
            phase = PHASE_EVENTS.get(event)
            if phase is not None:
                self._phase_ended(phase, str(details.get("fun_name", "")), duration)
            elif event == _CACHE_SAVED:
                self._sink.saved(duration)
        except Exception:
            guard.failed("compile")

    def _on_event(self, event: str, **details: Any) -> None:
        try:
            if event in _CACHE_RESULTS:
                self._phases.mark_cache(_CACHE_RESULTS[event])
            elif event == _CACHE_REQUESTED and compat.persistent_cache_is_on():
                self._phases.mark_cache("miss")  # unless a hit follows
        except Exception:
            guard.failed("compile")

    def _phase_ended(self, phase: Phase, name: str, duration_s: float) -> None:
        """Handle that JAX ended a phase in this thread, successfully or not."""
        ended = self._phases.end(phase, duration_s)
        if phase == "trace" or ended.is_credited or ended.is_failed:
            return
        if self.are_hooks_installed:
            self._sink.unconfirmed(name)
        if phase == "compile":
            pop = self._phases.pop_unowned
            pop("compile")  # it is `ended`
            seconds = (pop("trace"), pop("lower"), ended.seconds)
            self._sink.compiled(function_of_program(name), seconds, ended.cache)


def _module() -> Any:
    return sys.modules["jax._src.monitoring"]


def _register(kind: str, listener: Callable[..., None]) -> None:
    getattr(_module(), f"register_{kind}_listener")(listener)


def _unregister(kind: str, listener: Callable[..., None]) -> None:
    # Public since 0.8.1 under shorter names; the lists behind them are the same in all versions.
    listeners = _registered(kind)
    if listener in listeners:
        listeners.remove(listener)


def _registered(kind: str) -> list[Callable[..., None]]:
    found = getattr(_module(), f"_{kind}_listeners")
    if not isinstance(found, list):
        raise AttributeError(f"jax._src.monitoring._{kind}_listeners is not a list")
    return found


class CompileSink(Protocol):
    """Receives what happens to compiles, in the thread that compiles and with no lock held."""

    def compiled(
        self,
        function: Function,
        seconds: tuple[float | None, float | None, float],
        cache: CacheResult,
        signature: Signature | None = None,
        *,
        has_host_callbacks: bool = False,
        program_text: Callable[[], str] | None = None,
        module: Module | None = None,
        hot_lines: tuple[HotLineRow, ...] = (),
    ) -> BaseException | None:
        """Report a successful backend compile; returns an error to raise before the program runs, or None.

        Args:
            function: The compiled function.
            seconds: Those of its trace and its lowering, if they ran, and of the backend compile.
            cache: What the persistent cache did.
            signature: What it was compiled for, if the hooks know it.
            has_host_callbacks: Whether the program calls back into Python.
            program_text: Returns the lowered StableHLO; slow for a large program.
            module: The module that was compiled, of a user's function.
            hot_lines: The lines in which a long trace and lowering spent their time.
        """

    def compiler_seen(self, event: CompilerSeen) -> None:
        """Report the flags and versions that all programs depend on, before the first user's function is compiled."""

    def cache_used(self) -> None:
        """Report that JAX's persistent cache has a folder, before the first program is compiled with it."""

    def cache_wants(self, key: str, *, is_hit: bool) -> bool:
        """Whether the parts of a key of the persistent cache are needed, after a hit or a miss."""

    def cache_read(self, function: Function, lookup: Lookup) -> None:
        """Report that the persistent cache had a program of a user's function, or did not, before XLA compiles it."""

    def unconfirmed(self, name: str) -> None:
        """Report a program of this name that a hook should have seen and did not."""

    def refused(self, function: Function, *, argument: str, type_name: str, call_site: str | None = None) -> None:
        """Report a call that JAX refused because a static argument of this class has no hash.

        `call_site` is None while the call is on the stack.
        """

    def failed(self, function: Function, *, phase: Phase, error: BaseException, spent_s: float) -> None:
        """Report a compile that ended in `error` in this phase."""

    def saved(self, seconds: float) -> None:
        """Report the compile time that the persistent cache saved, by JAX's estimate; it may be negative."""

    def cleared(self) -> None:
        """Report that the job cleared JAX's caches, of one function or all."""
